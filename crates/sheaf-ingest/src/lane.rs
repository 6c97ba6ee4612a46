//! Lanes: tasks that each own some buckets and one connection, and commit groups of requests' parts.
//!
//! A part is what one request has for one lane. Parts that wait together become one group, and a group is one transaction:
//! the locks of its buckets, their documents read, the plan, the documents written, the events copied, the commit. There
//! is no timer: an idle lane commits at once, and what arrives during a commit is the next group. Whatever fails, nothing
//! of a part is there; if the commit's answer is lost, the lane asks the ledger what became of it.

mod queue;
mod remembered;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_model::{Lineage, Position, Timestamp};
use sheaf_pg::{Connection, Disposition, PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, Catalogues};
use sheaf_store::ledger::{Counts, LedgerEntry};
use sheaf_store::partitions::Partition;
use sheaf_store::rejections::{NewRejection, Reading};
use sheaf_store::settings::Settings;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::partitions::partitions_with;
use crate::plan::GroupEvent;
use crate::request::{Precondition, WriteError};
use queue::{End, Queue, Queued};
use remembered::RememberedDocuments;
use transaction::Abort;

/// What the parts of one request have in common.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) scope: TenantScope,
    /// What its events were typed with. The numbers of its entities were learned on the same lineage.
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) entry: LedgerEntry,
    /// Where each event came from, in order of index, for refusals that only the plan can decide.
    pub(crate) sources: Vec<EventSource>,
    /// How they were read, for the same refusals.
    pub(crate) reading: Reading,
    pub(crate) now: Timestamp,
}

impl Request {
    /// Whether a retry can name it.
    pub(crate) fn has_key(&self) -> bool {
        !self.entry.request_hash.is_empty()
    }
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

/// What one request has for one lane.
pub(crate) struct Part {
    pub(crate) request: Arc<Request>,
    /// In the order of the request.
    pub(crate) events: Arc<Vec<GroupEvent>>,
    /// The buckets of the events, ascending.
    pub(crate) buckets: Vec<i32>,
    /// Refusals of these events, or, where the part opens the request, of none that is stored.
    pub(crate) rejections: Vec<NewRejection>,
    /// Whether the part writes its request's row.
    pub(crate) opens: bool,
    /// Another server, or an earlier try, may have written the part.
    pub(crate) is_doubtful: bool,
    pub(crate) kind: PartKind,
    /// What it comes to if a commit that was not answered came through.
    pub(crate) prepared: Option<StoredPart>,
}

impl Part {
    /// The outcome of a part that the ledger has.
    fn already_there(&self, position: Position) -> PartOutcome {
        // With a key, another server may have written it, under another batch.
        let prepared = self.prepared.clone();
        PartOutcome::AlreadyThere(prepared.filter(|_| !self.request.has_key()), position)
    }
}

/// What a part demands of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Nothing.
    Bulk,
    /// It is the change of one entity, and is answered with its document.
    Edit {
        /// What must hold of the entity.
        precondition: Option<Precondition>,
        /// It is a delete, which needs something to delete.
        must_exist: bool,
    },
    /// One refusal by the plan, and nothing of the request is stored: all of it is in this part, which is a group alone.
    AllOrNothing,
}

impl PartKind {
    /// Whether the state of the entity decides, so that nobody else may touch it in the same group.
    fn is_conditional(self) -> bool {
        matches!(self, PartKind::Edit { precondition, must_exist } if precondition.is_some() || must_exist)
    }
}

/// What a stored part came to.
#[derive(Debug, Clone)]
pub(crate) struct StoredPart {
    pub(crate) counts: Counts,
    /// All refusals of its events, in order of event.
    pub(crate) rejections: Vec<NewRejection>,
    /// For an edit.
    pub(crate) document: Option<EditedDocument>,
}

/// What an edit needs to know of its entity's document.
#[derive(Debug, Clone)]
pub(crate) struct EditedDocument {
    pub(crate) created: bool,
    pub(crate) version: i64,
    pub(crate) observed_at: Timestamp,
    pub(crate) superseded: Vec<String>,
}

/// How a part ended in its lane.
#[derive(Debug)]
pub(crate) enum PartOutcome {
    /// It is stored, and this position of the write history has it.
    Stored(Box<StoredPart>, Position),
    /// The ledger had it already, or some of it, at this position of the write history; and what it came to, if a commit of
    /// this lane was not answered.
    AlreadyThere(Option<StoredPart>, Position),
    /// The plan refused something and the request wants all or nothing.
    RefusedByPlan(Vec<NewRejection>),
}

type PartResult = Result<PartOutcome, WriteError>;

/// The ways into the lanes. When it is dropped, they end with what they have queued.
pub(crate) struct Lanes {
    queues: Vec<Arc<Queue>>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

impl Lanes {
    /// Starts lanes over one pool of connections. Whoever stops the server joins them.
    pub(crate) fn start(
        lanes: usize,
        writer: &Pool,
        settings: &Arc<Settings>,
        catalogues: &Arc<Catalogues>,
    ) -> (Lanes, Vec<JoinHandle<()>>) {
        let mut tasks = Vec::new();
        let queues: Vec<Arc<Queue>> = (0..lanes).map(|_| Arc::default()).collect();
        for queue in &queues {
            let lane = Lane {
                writer: writer.clone(),
                settings: Arc::clone(settings),
                catalogues: Arc::clone(catalogues),
                partitions: Vec::new(),
                lineage: None,
                identity: Uuid::now_v7(),
                documents: RememberedDocuments::new(
                    settings.bucket_count,
                    DOCUMENT_BYTES_MAX / lanes,
                ),
            };
            tasks.push(tokio::spawn(lane.run(Arc::clone(queue))));
        }
        (Lanes { queues }, tasks)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.queues.len()
    }

    /// Which lane owns a bucket.
    pub(crate) fn owner(&self, bucket: i32) -> usize {
        usize::try_from(bucket).unwrap_or(0) % self.queues.len()
    }

    /// Queues a part and waits for its end. A full queue is told at once.
    pub(crate) async fn commit(&self, part: Part) -> PartResult {
        let owner = part.buckets.first().map_or(0, |bucket| self.owner(*bucket));
        let (reply, answer) = oneshot::channel();
        self.queues[owner].push(Queued { part, reply })?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

/// Bytes of documents that all lanes together remember. More saves reads of documents for more entities; less saves memory.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often one group may run again: for partitions that it lacks, or after a conflict. More than ever needed; a bound,
/// so that nothing spins.
const RUNS_MAX: u32 = 8;
/// How long parts of a group that failed begin again, each alone: two that wait for a lock in vain. Longer keeps what is
/// behind them waiting; shorter lets one part fail others.
const APART_MAX: Duration = Duration::from_secs(30);
/// How long a group is tried again while PostgreSQL cannot be reached. A restart takes about a second; longer, and the
/// client's own time runs out.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(4);
const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(100);

/// How long a transaction may take. Every statement has its own bound, which PostgreSQL keeps; this is for one that does
/// not answer at all.
const TRANSACTION_MAX: Duration = Duration::from_secs(150);
const ROLLBACK_MAX: Duration = Duration::from_secs(10);

/// What a lane works with.
struct Lane {
    writer: Pool,
    settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
    /// What the last transaction was of; what is remembered was learned on it.
    lineage: Option<Lineage>,
    partitions: Vec<Partition>,
    /// Under which name it writes buckets; another one after a commit whose end it does not know.
    identity: Uuid,
    documents: RememberedDocuments,
}

/// How a try to commit a group failed.
enum Failure {
    /// It may succeed if it is tried again.
    Again { error: Arc<PgError>, reached: bool },
    /// It will not.
    Final(WriteError),
}

impl Lane {
    async fn run(mut self, queue: Arc<Queue>) {
        let _end = End(Arc::clone(&queue));
        while let Some(group) = queue.next_group().await {
            let (mut parts, mut replies) = (Vec::new(), Vec::new());
            for queued in group {
                parts.push(queued.part);
                replies.push(queued.reply);
            }
            match self.commit(&mut parts).await {
                Ok(outcomes) => {
                    for (reply, outcome) in replies.into_iter().zip(outcomes) {
                        // A client that has gone away does not undo the commit.
                        let _ = reply.send(outcome);
                    }
                }
                // One by one, so that no request fails its neighbours.
                Err(error) if parts.len() > 1 && error.may_be_of_one_part() => {
                    tracing::info!(%error, parts = parts.len(), "a group runs again part by part");
                    let begun = Instant::now();
                    for (part, reply) in parts.into_iter().zip(replies) {
                        let outcome = if begun.elapsed() < APART_MAX {
                            self.commit(&mut [part]).await
                        } else {
                            Err(error.for_another())
                        };
                        let only = |mut outcomes: Vec<PartResult>| outcomes.remove(0);
                        let _ = reply.send(outcome.and_then(only));
                    }
                }
                Err(error) => {
                    for reply in replies {
                        let _ = reply.send(Err(error.for_another()));
                    }
                }
            }
        }
    }

    /// Commits a group, trying again what may succeed. The error is one for all of it.
    async fn commit(&mut self, group: &mut [Part]) -> Result<Vec<PartResult>, WriteError> {
        let mut unavailable_since = None;
        let mut runs = 0;
        loop {
            runs += 1;
            let begun = Instant::now();
            let (error, reached) = match self.run_once(group).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, reached }) => (error, reached),
            };
            if reached && runs >= RUNS_MAX {
                return Err(WriteError::Overloaded);
            }
            if !reached {
                // A transaction that broke late is looked up all the same; waiting for a connection is waiting.
                let is_unconnected = matches!(*error, PgError::Connect { .. });
                let from = if is_unconnected {
                    begun
                } else {
                    Instant::now()
                };
                let since = *unavailable_since.get_or_insert(from);
                if since.elapsed() > UNAVAILABLE_MAX {
                    return Err(match error.disposition() {
                        Disposition::Unavailable => WriteError::Postgres(error),
                        // It did not answer in time.
                        _ => WriteError::Overloaded,
                    });
                }
                tokio::time::sleep(UNAVAILABLE_PAUSE).await;
            }
            tracing::info!(%error, "a group of writes runs again");
        }
    }

    async fn run_once(&mut self, group: &mut [Part]) -> Result<Vec<PartResult>, Failure> {
        let client = match self.writer.get().await {
            Ok(client) => client,
            Err(error) => return Err(self.failure(Arc::new(error))),
        };
        let transaction = self.transact(&client, group);
        let abort = match tokio::time::timeout(TRANSACTION_MAX, transaction).await {
            Ok(Ok(outcomes)) => return Ok(outcomes),
            Ok(Err(abort)) => abort,
            Err(_) => {
                drop(Connection::take(client));
                self.doubt(group);
                let error = PgError::unreadable("writing a group", "an answer in time");
                return Err(Failure::Again {
                    error: Arc::new(error),
                    reached: false,
                });
            }
        };
        // On a broken connection there is nothing to roll back, and the pool does not take it in again.
        let ended = client.batch_execute("ROLLBACK");
        if matches!(tokio::time::timeout(ROLLBACK_MAX, ended).await, Ok(Ok(()))) {
            // What follows may need the connection.
            drop(client);
        } else {
            tracing::debug!("a connection broke under a group of writes");
            drop(Connection::take(client));
            self.doubt(group);
        }
        let error = match abort {
            Abort::Unanswered { error, prepared } => {
                for (place, stored) in prepared {
                    group[place].prepared = Some(stored);
                    group[place].is_doubtful = true;
                }
                return Err(self.failure(Arc::new(error)));
            }
            Abort::Partitions(times) => match partitions_with(&self.writer, &times).await {
                Ok(partitions) => {
                    self.partitions = partitions;
                    PgError::unreadable("copying events", "a partition for their instants")
                }
                Err(error) => return Err(self.failure(Arc::new(error))),
            },
            Abort::OtherLineage { was_there } => {
                let outcome = |(place, part): (usize, &Part)| match was_there.get(&place) {
                    Some(position) => Ok(part.already_there(*position)),
                    None => Err(WriteError::OtherLineage),
                };
                return Ok(group.iter().enumerate().map(outcome).collect());
            }
            Abort::Stale => {
                self.documents.clear();
                PgError::unreadable("writing documents", "the version that was merged into")
            }
            Abort::Error(WriteError::Postgres(error)) => return Err(self.failure(error)),
            Abort::Error(error) => return Err(Failure::Final(error)),
        };
        Err(Failure::Again {
            error: Arc::new(error),
            reached: true,
        })
    }

    /// The group's commit may have come through: the ledger, read under the buckets' locks, tells.
    fn doubt(&mut self, group: &mut [Part]) {
        self.identity = Uuid::now_v7();
        self.documents.clear();
        for part in group {
            part.is_doubtful = true;
        }
    }

    fn failure(&mut self, error: Arc<PgError>) -> Failure {
        // What is remembered of partitions may be what is wrong: one that is gone, or that is being detached.
        self.partitions.clear();
        let partition_is_gone = matches!(
            error.sqlstate(),
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::INSUFFICIENT_PRIVILEGE))
        );
        match error.disposition() {
            Disposition::Retry => Failure::Again {
                error,
                reached: true,
            },
            Disposition::Unavailable => Failure::Again {
                error,
                reached: false,
            },
            _ if partition_is_gone => Failure::Again {
                error,
                reached: true,
            },
            _ => Failure::Final(WriteError::Postgres(error)),
        }
    }
}
