//! Lanes: tasks that each own some buckets and one connection, and commit groups of requests' parts.
//!
//! A part is what one request has for one lane. Parts that wait together become one group, and a group is one transaction:
//! the locks of its buckets, their documents read, the plan, the documents written, the events copied, the commit. There
//! is no timer: an idle lane commits at once, and what arrives during a commit is the next group. Whatever fails, nothing
//! of a part is there; if the commit's answer is lost, the lane asks the ledger what became of it.

mod queue;
mod remembered;
mod transaction;

use std::collections::VecDeque;
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

use crate::observer::Observed;
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
    /// Whether this lane may have committed it without hearing so: nobody was told what it wrote.
    pub(crate) may_be_stored: bool,
    pub(crate) kind: PartKind,
    /// What it comes to if a commit that was not answered came through.
    pub(crate) prepared: Option<StoredPart>,
}

impl Part {
    /// The outcome of a part that the ledger has.
    fn already_there(&self, position: Position) -> PartOutcome {
        PartOutcome::AlreadyThere(self.prepared.clone(), position)
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
    /// this lane was not answered. With a key, another server may have written it instead, under another batch.
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
        observed: &Observed,
    ) -> (Lanes, Vec<JoinHandle<()>>) {
        let mut tasks = Vec::new();
        let queues: Vec<Arc<Queue>> = (0..lanes).map(|_| Arc::default()).collect();
        for queue in &queues {
            let lane = Lane {
                writer: writer.clone(),
                settings: Arc::clone(settings),
                catalogues: Arc::clone(catalogues),
                observed: Arc::clone(observed),
                partitions: Vec::new(),
                closed: Vec::new(),
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
/// How long a part begins again, and how long those of a group that failed do, each alone: two that wait for a lock in vain.
/// Longer keeps what is behind them waiting; shorter lets one part fail others.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long a group of several begins again together: no more than one of them waits for a lock in vain.
const AGAIN_TOGETHER_MAX: Duration = Duration::from_secs(10);
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
    /// Who is told what was committed.
    observed: Observed,
    /// What the last transaction was of; what is remembered was learned on it.
    lineage: Option<Lineage>,
    partitions: Vec<Partition>,
    /// Those that this group's events lack because they are closed to writes: they may be open for the next group.
    closed: Vec<Partition>,
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

impl Failure {
    /// Whether it may be one part's doing that a group of them ended so, and the others succeed without it.
    fn may_be_of_one_part(&self) -> bool {
        match self {
            Failure::Again { reached, .. } => *reached,
            Failure::Final(error) => error.may_be_of_one_part(),
        }
    }

    fn cause(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Failure::Again { error, .. } => error.as_ref(),
            Failure::Final(error) => error,
        }
    }

    /// Tells the parts of a group that it failed.
    fn tell(&self, group: Vec<Queued>) {
        for queued in group {
            let error = match self {
                // It was tried as often as it may be.
                Failure::Again { .. } => WriteError::Overloaded,
                Failure::Final(error) => error.for_another(),
            };
            let _ = queued.reply.send(Err(error));
        }
    }
}

impl Lane {
    async fn run(mut self, queue: Arc<Queue>) {
        let _end = End(Arc::clone(&queue));
        while let Some(group) = queue.next_group().await {
            self.closed.clear();
            if let Err((failure, group)) = self.answer(group, RUNS_MAX).await {
                if group.len() > 1 && failure.may_be_of_one_part() {
                    self.answer_divided(&failure, group).await;
                } else {
                    failure.tell(group);
                }
            }
        }
    }

    /// Commits what is left of a group that failed in smaller ones, so that no request fails its neighbours. One that may
    /// succeed if it is tried again goes last: the others do not wait for what it waits for.
    async fn answer_divided(&mut self, failure: &Failure, group: Vec<Queued>) {
        tracing::info!(
            error = failure.cause(),
            parts = group.len(),
            "a group runs again divided"
        );
        let begun = Instant::now();
        let divided = self.divided(failure, group).into_iter();
        // Each with how often it ran.
        let mut waiting: VecDeque<(u32, Vec<Queued>)> = divided.map(|group| (0, group)).collect();
        while let Some((runs, group)) = waiting.pop_front() {
            if begun.elapsed() >= AGAIN_MAX {
                failure.tell(group);
                continue;
            }
            let Err((failure, group)) = self.answer(group, 1).await else {
                continue;
            };
            if group.len() > 1 && failure.may_be_of_one_part() {
                for smaller in self.divided(&failure, group) {
                    waiting.push_back((0, smaller));
                }
            } else if matches!(failure, Failure::Again { .. }) && runs + 1 < RUNS_MAX {
                waiting.push_back((runs + 1, group));
            } else {
                failure.tell(group);
            }
        }
    }

    /// The parts of a group that failed: those of another lineage than the one that is written from the others, else each
    /// alone.
    fn divided(&self, failure: &Failure, group: Vec<Queued>) -> Vec<Vec<Queued>> {
        if !matches!(failure, Failure::Final(WriteError::OtherLineage)) {
            return group.into_iter().map(|queued| vec![queued]).collect();
        }
        let is_of_this = |queued: &Queued| queued.part.request.catalogue.lineage() == self.lineage;
        let (these, others): (Vec<Queued>, Vec<Queued>) = group.into_iter().partition(is_of_this);
        let divided = [these, others].into_iter();
        divided.filter(|group| !group.is_empty()).collect()
    }

    /// Commits a group and tells each of its parts; or gives it back with what it failed with.
    async fn answer(
        &mut self,
        group: Vec<Queued>,
        runs_max: u32,
    ) -> Result<(), (Failure, Vec<Queued>)> {
        let queued = group.into_iter().map(|queued| (queued.part, queued.reply));
        let (mut parts, replies): (Vec<Part>, Vec<_>) = queued.unzip();
        match self.commit(&mut parts, runs_max).await {
            Ok(outcomes) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // A client that has gone away does not undo the commit.
                    let _ = reply.send(outcome);
                }
                Ok(())
            }
            Err(failure) => {
                let queued = parts.into_iter().zip(replies);
                let queued = queued.map(|(part, reply)| Queued { part, reply });
                Err((failure, queued.collect()))
            }
        }
    }

    /// Commits a group, trying again what may succeed. The failure is one for all of it.
    async fn commit(
        &mut self,
        group: &mut [Part],
        runs_max: u32,
    ) -> Result<Vec<PartResult>, Failure> {
        let first_begun = Instant::now();
        let again_max = if group.len() > 1 {
            AGAIN_TOGETHER_MAX
        } else {
            AGAIN_MAX
        };
        let mut unavailable_since = None;
        let mut runs = 0;
        loop {
            runs += 1;
            let begun = Instant::now();
            let (error, reached) = match self.run_once(group).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure @ Failure::Final(_)) => return Err(failure),
                Err(Failure::Again { error, reached }) => (error, reached),
            };
            if reached && (runs >= runs_max || first_begun.elapsed() >= again_max) {
                return Err(Failure::Again { error, reached });
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
                    return Err(Failure::Final(match error.disposition() {
                        Disposition::Unavailable => WriteError::Postgres(error),
                        // It did not answer in time.
                        _ => WriteError::Overloaded,
                    }));
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
                    group[place].may_be_stored = true;
                }
                return Err(self.failure(Arc::new(error)));
            }
            Abort::Partitions(times) => match partitions_with(&self.writer, &times).await {
                Ok(partitions) => {
                    self.partitions = partitions.open;
                    self.closed = partitions.closed;
                    PgError::unreadable("copying events", "a partition for their instants")
                }
                Err(error) => return Err(self.failure(Arc::new(error))),
            },
            Abort::OtherLineage { was_there } => {
                let lineage = self.lineage;
                let is_of_this = |part: &Part| part.request.catalogue.lineage() == lineage;
                if group.iter().any(is_of_this) {
                    return Err(Failure::Final(WriteError::OtherLineage));
                }
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

    /// The group's commit may have come through: the ledger, read under the buckets' locks, tells. Told at once, because
    /// nobody may ever look there; and once more when it was found there.
    fn doubt(&mut self, group: &mut [Part]) {
        self.identity = Uuid::now_v7();
        self.documents.clear();
        for part in group {
            part.is_doubtful = true;
            part.may_be_stored = true;
        }
        self.tell_unseen();
    }

    fn failure(&mut self, error: Arc<PgError>) -> Failure {
        // What is remembered of partitions may be what is wrong: one that is gone, or that is being detached. Not where two
        // transactions met: a part that did so again and again would make its neighbours begin again, too.
        if error.disposition() != Disposition::Retry {
            self.partitions.clear();
        }
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
