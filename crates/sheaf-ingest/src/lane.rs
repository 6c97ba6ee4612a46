//! The lane: one task with one connection, that commits one request after the other.
//!
//! A request is one transaction: the locks of its buckets, its place in the ledger, the documents read, the plan, the
//! documents written, the events copied, the commit. Whatever fails, nothing of it is there; if the commit's answer is
//! lost, the ledger tells a retry what became of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, join, try_join};
use sheaf_model::{AttributeId, EntityId, Position, TenantId, Timestamp};
use sheaf_pg::{Connection, Disposition, PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Catalogue, Catalogues, catalogue_of, read_catalogue, read_version};
use sheaf_store::documents::{DocumentColumns, document_of, read_documents};
use sheaf_store::events::{EventCopy, Instants};
use sheaf_store::ledger::{Counts, LedgerEntry, claim_request, insert_parts, lock_buckets};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_store::rejections::{NewRejection, insert_rejections};
use sheaf_store::settings::{Settings, read_position};
use sheaf_store::stored::{PartsToWrite, StoredFault, write_document};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row, RowStream};

use crate::plan::{
    Documents, EventOutcome, GroupEvent, GroupPlan, PlannedDocument, StoredInstants, plan_group,
    time_events,
};
use crate::request::{Precondition, WriteError};

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

/// Why a transaction was not made.
enum Abort {
    /// It failed.
    Error(WriteError),
    /// It needs partitions for these instants; made outside, it can run again.
    Partitions(BTreeSet<Timestamp>),
    /// It ends without a commit, and that is its outcome.
    Ended(LaneOutcome),
}

impl From<PgError> for Abort {
    fn from(error: PgError) -> Abort {
        Abort::Error(WriteError::Postgres(error))
    }
}

impl From<StoredFault> for Abort {
    fn from(fault: StoredFault) -> Abort {
        match fault {
            // The catalogue was compared in this transaction, so that it has every attribute that is stored.
            StoredFault::UnknownAttribute(id) => {
                PgError::unreadable("reading documents to merge into", format!("attribute {id}"))
                    .into()
            }
            StoredFault::Broken(error) => error.into(),
        }
    }
}

/// How often one request may run again: for partitions that it lacks, or after a conflict with maintenance. More than
/// ever needed; a bound, so that nothing spins.
const RUNS_MAX: u32 = 8;
/// Waiting is bounded. Plans do not depend on the group: a plan made for its values would copy them, and would depend on
/// statistics that a new tenant is not in. Nested loops are forbidden, because a plan for any group expects ten rows and
/// would compare every document with every row; the price that this puts on the probes of instants must not start the
/// compiler of queries.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s'; \
                     SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_nestloop = off; \
                     SET LOCAL jit = off";

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

    async fn transact(&mut self, client: &Client, job: &Job) -> Result<Committed, Abort> {
        let tenant = job.scope.tenant();
        let buckets: BTreeSet<i32> = job
            .events
            .iter()
            .map(|event| self.settings.bucket(tenant, event.entity))
            .collect();
        let buckets: Vec<i32> = buckets.into_iter().collect();
        let mut entities: Vec<i64> = job.events.iter().map(|event| event.entity.0).collect();
        entities.sort_unstable();
        entities.dedup();
        let documents = read_documents(&tenant, &entities);
        let mut steps = Steps::begin();
        let version = read_version(&tenant);
        // All of it leaves in one go; each statement sees what was committed before the locks were granted.
        let (begun, locked, claimed, version_rows, rows) = join!(
            client.batch_execute(BEGIN),
            lock_buckets(client, &buckets),
            claim_request(client, &job.entry),
            client.query_typed(version.sql, &version.params),
            client.query_typed_raw(documents.sql, documents.params),
        );
        begun.map_err(PgError::statement("beginning a write"))?;
        locked?;
        if !claimed? {
            return Err(Abort::Ended(LaneOutcome::AlreadyThere));
        }
        let version_rows = version_rows.map_err(PgError::statement(version.step))?;
        let rows = rows.map_err(PgError::statement(documents.step))?;
        let version: Option<i64> = version_rows.first().map(|row| row.get(0));
        let (catalogue, documents) = self.read(client, job, version, rows).await?;
        steps.ended("read");
        check_precondition(job, &documents)?;
        let (plan, existed) = self.plan(client, job, documents, &catalogue).await?;
        let mut rejections = job.rejections.clone();
        rejections.extend(
            plan.refusals
                .iter()
                .map(|refusal| late_rejection(job, refusal, &catalogue)),
        );
        if job.all_or_nothing && !plan.refusals.is_empty() {
            return Err(Abort::Ended(LaneOutcome::RefusedByPlan(rejections)));
        }
        // One order for all: refusals of one event are numbered by their place.
        rejections.sort_by_key(|rejection| rejection.event_index);
        let parts = self.parts(tenant, &plan);
        let (inserts, updates) = columns(&plan, &catalogue);
        steps.ended("plan");
        // The events are encoded while PostgreSQL writes the documents.
        let encode = async { self.copies(job, &plan) };
        let written = async {
            try_join!(
                inserts.insert(client, tenant),
                updates.update(client, tenant),
                insert_parts(client, &job.entry, &parts),
                insert_rejections(
                    client,
                    &job.scope,
                    job.entry.batch,
                    job.entry.received_at,
                    &rejections
                ),
            )
        };
        let (written, copies) = join!(written, encode);
        written?;
        let copies = copies?;
        steps.ended("write_documents");
        for (partition, copy) in copies {
            copy.send(client, &partition).await?;
        }
        steps.ended("copy_events");
        let position = read_position();
        let (committed, position) = join!(
            client.batch_execute("COMMIT"),
            client.query_typed(position.sql, &position.params)
        );
        committed.map_err(PgError::statement("committing a write"))?;
        let rows = position.map_err(PgError::statement("reading the position of a write"))?;
        let row = rows
            .first()
            .ok_or_else(|| PgError::unreadable("reading the position of a write", "no row"))?;
        let (position, _) = self.settings.position(row)?;
        steps.ended("commit");
        Ok(Committed {
            counts: sum(&parts),
            rejections,
            documents: committed_documents(&plan, &existed, &catalogue),
            position,
        })
    }

    /// The documents, and the catalogue of this version: the one at hand, or one read in this transaction.
    async fn read(
        &self,
        client: &Client,
        job: &Job,
        version: Option<i64>,
        rows: RowStream,
    ) -> Result<(Arc<Catalogue>, Documents), Abort> {
        let failed = || PgError::statement("reading documents to merge into");
        let mut rows = std::pin::pin!(rows);
        let mut documents = Documents::new();
        if version == Some(job.catalogue.version()) {
            // Decoded while PostgreSQL is still sending.
            while let Some(row) = rows.next().await {
                let stored = document_of(&row.map_err(failed())?, &job.catalogue)?;
                documents.insert(stored.entity, stored);
            }
            return Ok((Arc::clone(&job.catalogue), documents));
        }
        // To the last row first: nothing else is answered on a connection whose rows nobody takes.
        let rows: Vec<Row> = rows.try_collect().await.map_err(failed())?;
        let tenant = job.scope.tenant();
        let mut results = Vec::new();
        for statement in read_catalogue(&tenant) {
            let rows = client
                .query_typed(statement.sql, &statement.params)
                .await
                .map_err(PgError::statement(statement.step))?;
            results.push(rows);
        }
        let catalogue = Arc::new(catalogue_of(&results)?);
        self.catalogues.remember(Arc::clone(&catalogue));
        for row in &rows {
            let stored = document_of(row, &catalogue)?;
            documents.insert(stored.entity, stored);
        }
        Ok((catalogue, documents))
    }

    async fn plan(
        &self,
        client: &Client,
        job: &Job,
        documents: Documents,
        catalogue: &Catalogue,
    ) -> Result<(GroupPlan, HashMap<EntityId, bool>), Abort> {
        let existed = documents
            .iter()
            .map(|(entity, stored)| (*entity, stored.document.exists()))
            .collect();
        let (timed, to_read) = time_events(&job.events, &documents, job.now);
        let mut instants = Instants::default();
        for (entity, time) in to_read {
            instants.push(entity, time);
        }
        let mut stored = StoredInstants::new();
        for (entity, row) in instants.read(client, job.scope.tenant(), catalogue).await? {
            stored
                .entry((entity, row.observed_at))
                .or_default()
                .push(row);
        }
        Ok((plan_group(timed, documents, stored, job.now), existed))
    }

    /// The rows of the plan, encoded for their partitions.
    fn copies(&self, job: &Job, plan: &GroupPlan) -> Result<Vec<(String, EventCopy)>, Abort> {
        let mut copies: BTreeMap<usize, EventCopy> = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut at = None;
        for (entity, row) in &plan.rows {
            let time = row.observed_at;
            let held = at.filter(|place: &usize| self.partitions[*place].holds(time));
            let place = held.or_else(|| {
                self.partitions
                    .iter()
                    .position(|partition| partition.holds(time))
            });
            let Some(place) = place else {
                missing.insert(time);
                continue;
            };
            at = Some(place);
            let copy = copies.entry(place).or_default();
            copy.push(
                job.scope.tenant(),
                *entity,
                row,
                job.entry.batch,
                job.entry.received_at,
            );
        }
        if !missing.is_empty() {
            return Err(Abort::Partitions(missing));
        }
        Ok(copies
            .into_iter()
            .map(|(place, copy)| (self.partitions[place].name.clone(), copy))
            .collect())
    }

    fn parts(&self, tenant: TenantId, plan: &GroupPlan) -> Vec<(i32, Counts)> {
        let mut parts: BTreeMap<i32, Counts> = BTreeMap::new();
        for planned in &plan.outcomes {
            let counts = parts
                .entry(self.settings.bucket(tenant, planned.entity))
                .or_default();
            counts.values += i64::try_from(planned.values).unwrap_or(i64::MAX);
            match planned.outcome {
                EventOutcome::Accepted => counts.accepted += 1,
                EventOutcome::Duplicate => counts.duplicates += 1,
                EventOutcome::Merged => counts.merged += 1,
                EventOutcome::Corrected => counts.corrected += 1,
                EventOutcome::Refused => counts.refused += 1,
            }
        }
        parts.into_iter().collect()
    }
}

/// Seconds of each step of a transaction, so that an operator sees where writes spend their time.
struct Steps {
    begun: Instant,
}

impl Steps {
    fn begin() -> Steps {
        Steps {
            begun: Instant::now(),
        }
    }

    fn ended(&mut self, step: &'static str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        metrics::histogram!("sheaf_ingest_step_seconds", "step" => step).record(seconds);
        self.begun = Instant::now();
    }
}

fn check_precondition(job: &Job, documents: &Documents) -> Result<(), Abort> {
    let document = job
        .events
        .first()
        .and_then(|event| documents.get(&event.entity))
        .map(|stored| &stored.document)
        .filter(|document| document.exists());
    if job.must_exist && document.is_none() {
        return Err(Abort::Error(WriteError::NotFound));
    }
    let holds = match job.precondition {
        None => true,
        Some(Precondition::Version(version)) => {
            document.is_some_and(|document| document.version == version)
        }
        Some(Precondition::Absent) => document.is_none(),
    };
    if holds {
        Ok(())
    } else {
        Err(Abort::Error(WriteError::Precondition))
    }
}

fn late_rejection(
    job: &Job,
    (index, field, refusal): &(u32, Option<AttributeId>, sheaf_model::Refusal),
    catalogue: &Catalogue,
) -> NewRejection {
    let source = job
        .sources
        .binary_search_by_key(index, |source| source.index)
        .map(|place| &job.sources[place]);
    NewRejection {
        event_index: i32::try_from(*index).unwrap_or(i32::MAX),
        entity_type: source
            .as_ref()
            .ok()
            .map(|source| source.entity_type.clone()),
        field: field
            .and_then(|id| catalogue.by_id(id))
            .map(|attribute| attribute.name.clone()),
        code: refusal.code,
        reason: refusal.reason.clone(),
        raw: source.map(|source| source.raw.clone()).unwrap_or_default(),
    }
}

fn columns(plan: &GroupPlan, catalogue: &Catalogue) -> (DocumentColumns, DocumentColumns) {
    let (mut inserts, mut updates) = (DocumentColumns::default(), DocumentColumns::default());
    // While values move between the parts, a part that stays as it is could keep what the other part gets.
    let whole = catalogue.is_moving();
    for planned in plan
        .documents
        .iter()
        .filter(|planned| planned.change.written)
    {
        let parts = if whole || !planned.existed {
            PartsToWrite::ALL
        } else {
            changed_parts(planned, catalogue)
        };
        let columns = if planned.existed {
            &mut updates
        } else {
            &mut inserts
        };
        columns.push(
            &planned.stored,
            write_document(&planned.stored.document, catalogue, parts),
        );
    }
    (inserts, updates)
}

fn changed_parts(planned: &PlannedDocument, catalogue: &Catalogue) -> PartsToWrite {
    let is_hot = |id: &AttributeId| {
        catalogue
            .by_id(*id)
            .is_some_and(|known| known.temperature.writes_hot())
    };
    let change = &planned.change;
    PartsToWrite {
        hot_attrs: change.changed.iter().any(is_hot),
        cold_attrs: change.changed.iter().any(|id| !is_hot(id)),
        present: change.presence_changed,
        times: planned.has_times,
    }
}

fn sum(parts: &[(i32, Counts)]) -> Counts {
    parts
        .iter()
        .fold(Counts::default(), |sum, (_, part)| Counts {
            values: sum.values + part.values,
            accepted: sum.accepted + part.accepted,
            duplicates: sum.duplicates + part.duplicates,
            merged: sum.merged + part.merged,
            corrected: sum.corrected + part.corrected,
            refused: sum.refused + part.refused,
        })
}

/// Only an edit asks for these, and has one entity.
fn committed_documents(
    plan: &GroupPlan,
    existed: &HashMap<EntityId, bool>,
    catalogue: &Catalogue,
) -> Vec<CommittedDocument> {
    let [planned] = plan.documents.as_slice() else {
        return Vec::new();
    };
    let name = |id: &AttributeId| {
        catalogue
            .by_id(*id)
            .map_or_else(|| id.to_string(), |attribute| attribute.name.clone())
    };
    let mut superseded: Vec<String> = planned.change.superseded.iter().map(name).collect();
    superseded.sort_unstable();
    vec![CommittedDocument {
        created: planned.stored.document.exists()
            && !existed
                .get(&planned.stored.entity)
                .copied()
                .unwrap_or(false),
        version: planned.stored.document.version,
        observed_at: planned.last_at,
        superseded,
    }]
}
