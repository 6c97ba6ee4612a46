//! The lane: one task with one connection, that commits one request after the other.
//!
//! A request is one transaction: the locks of its buckets, its place in the ledger, the documents read, the plan, the
//! documents written, the events copied, the commit. Whatever fails, nothing of it is there; if the commit's answer is
//! lost, the ledger tells a retry what became of it.

mod transaction;

use std::collections::BTreeSet;
use std::sync::Arc;

use sheaf_model::{Position, Timestamp};
use sheaf_pg::{Connection, Disposition, PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, Catalogues};
use sheaf_store::ledger::{Counts, LedgerEntry};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_store::rejections::NewRejection;
use sheaf_store::settings::Settings;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::error::SqlState;

use crate::plan::GroupEvent;
use crate::request::{Precondition, WriteError};
use transaction::Abort;

/// One request on its way through the lane.
pub(crate) struct Job {
    pub(crate) scope: TenantScope,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) entry: LedgerEntry,
    pub(crate) events: Vec<GroupEvent>,
    pub(crate) rejections: Vec<NewRejection>,
    /// Where each event came from, in order of index, for refusals that only the plan can decide.
    pub(crate) sources: Vec<EventSource>,
    /// What must hold of the one entity of an edit.
    pub(crate) precondition: Option<Precondition>,
    /// The one event is a delete, which needs something to delete.
    pub(crate) must_exist: bool,
    /// One refusal by the plan, and nothing is stored.
    pub(crate) all_or_nothing: bool,
    pub(crate) now: Timestamp,
}

/// Where an event came from.
#[derive(Debug, Clone)]
pub(crate) struct EventSource {
    /// Its place in the request.
    pub(crate) index: u32,
    /// Its bytes.
    pub(crate) raw: bytes::Bytes,
    /// The type of its entity.
    pub(crate) entity_type: String,
}

/// What a committed request came to.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) counts: Counts,
    pub(crate) rejections: Vec<NewRejection>,
    pub(crate) documents: Vec<CommittedDocument>,
    pub(crate) position: Position,
}

/// What an edit needs to know of its entity's document.
#[derive(Debug)]
pub(crate) struct CommittedDocument {
    pub(crate) created: bool,
    pub(crate) version: i64,
    pub(crate) observed_at: Timestamp,
    pub(crate) superseded: Vec<String>,
}

/// How a request ended in the lane.
#[derive(Debug)]
pub(crate) enum LaneOutcome {
    /// It is stored.
    Committed(Box<Committed>),
    /// The ledger had it already.
    AlreadyThere,
    /// The plan refused something and the request wants all or nothing.
    RefusedByPlan(Vec<NewRejection>),
}

type Reply = oneshot::Sender<Result<LaneOutcome, WriteError>>;

/// The way into the lane.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    queue: mpsc::Sender<(Box<Job>, Reply)>,
}

/// Requests that wait for the lane. Each holds its whole body, so that more would cost memory without being faster.
const QUEUE_MAX: usize = 64;

impl LaneHandle {
    /// Queues a request and waits for its end. A full queue is told at once.
    pub(crate) async fn commit(&self, job: Job) -> Result<LaneOutcome, WriteError> {
        let (reply, answer) = oneshot::channel();
        let events = count_of(&job);
        self.queue
            .try_send((Box::new(job), reply))
            .map_err(|fault| match fault {
                mpsc::error::TrySendError::Full(_) => WriteError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => WriteError::Stopped,
            })?;
        queued_events().increment(events);
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

/// Events of requests that wait for the lane.
fn queued_events() -> metrics::Gauge {
    metrics::gauge!("sheaf_ingest_queue_events")
}

fn count_of(job: &Job) -> f64 {
    f64::from(u32::try_from(job.events.len()).unwrap_or(u32::MAX))
}

/// What a lane works with.
pub(crate) struct Lane {
    writer: Pool,
    settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
    partitions: Vec<Partition>,
}

/// Starts a lane. It ends when every handle is dropped and the queue is empty.
pub(crate) fn start(
    writer: Pool,
    settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
) -> (LaneHandle, tokio::task::JoinHandle<()>) {
    let (queue, mut jobs) = mpsc::channel::<(Box<Job>, Reply)>(QUEUE_MAX);
    let mut lane = Lane {
        writer,
        settings,
        catalogues,
        partitions: Vec::new(),
    };
    let task = tokio::spawn(async move {
        while let Some((job, reply)) = jobs.recv().await {
            queued_events().decrement(count_of(&job));
            let outcome = lane.commit(&job).await;
            // A client that has gone away does not undo the commit.
            let _ = reply.send(outcome);
        }
    });
    (LaneHandle { queue }, task)
}

/// How often one request may run again: for partitions that it lacks, or after a conflict with maintenance. More than
/// ever needed; a bound, so that nothing spins.
const RUNS_MAX: u32 = 8;
impl Lane {
    async fn commit(&mut self, job: &Job) -> Result<LaneOutcome, WriteError> {
        for _ in 0..RUNS_MAX {
            let client = self.writer.get().await?;
            let abort = match self.transact(&client, job).await {
                Ok(committed) => return Ok(LaneOutcome::Committed(Box::new(committed))),
                Err(abort) => abort,
            };
            // On a broken connection there is nothing to roll back, and the pool does not take it in again.
            if let Err(error) = client.batch_execute("ROLLBACK").await {
                tracing::debug!(%error, "rolling back a request");
                drop(Connection::take(client));
            }
            let error = match abort {
                Abort::Ended(outcome) => return Ok(outcome),
                Abort::Partitions(times) => match self.make_partitions(&times).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Abort::Error(WriteError::Postgres(error)) => error,
                Abort::Error(error) => return Err(error),
            };
            // What is remembered of partitions may be what is wrong.
            self.partitions.clear();
            let partition_is_gone = error.sqlstate() == Some(&SqlState::UNDEFINED_TABLE);
            if error.disposition() != Disposition::Retry && !partition_is_gone {
                return Err(error.into());
            }
            tracing::info!(%error, "a request runs again after a conflict");
        }
        Err(WriteError::Overloaded)
    }

    async fn make_partitions(&mut self, times: &BTreeSet<Timestamp>) -> Result<(), PgError> {
        self.partitions = list_partitions(&self.writer).await?;
        for time in times {
            if self
                .partitions
                .iter()
                .any(|partition| partition.holds(*time))
            {
                continue;
            }
            let partition = ensure_partition(&self.writer, *time).await?;
            tracing::info!(
                partition = partition.name,
                "the history has a partition for an instant that lacked one"
            );
            self.partitions.push(partition);
        }
        Ok(())
    }
}
