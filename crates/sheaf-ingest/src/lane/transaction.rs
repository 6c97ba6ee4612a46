//! One transaction of a lane: locks, ledger, documents, plan, documents and events written, commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, join, try_join};
use sheaf_model::{AttributeId, EntityId, TenantId, Timestamp};
use sheaf_pg::PgError;
use sheaf_store::catalogue::{Catalogue, catalogue_of, read_catalogue, read_version};
use sheaf_store::documents::{DocumentColumns, document_of, read_documents};
use sheaf_store::events::{EventCopy, Instants};
use sheaf_store::ledger::{Counts, claim_request, insert_parts, lock_buckets};
use sheaf_store::rejections::{NewRejection, insert_rejections};
use sheaf_store::settings::read_position;
use sheaf_store::stored::{PartsToWrite, StoredFault, write_document};
use tokio_postgres::{Client, Row, RowStream};

use super::{Committed, CommittedDocument, Job, Lane, LaneOutcome};
use crate::plan::{
    Documents, EventOutcome, GroupPlan, PlannedDocument, StoredInstants, plan_group, time_events,
};
use crate::request::{Precondition, WriteError};

/// Why a transaction was not made.
pub(super) enum Abort {
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

/// Waiting is bounded. Plans do not depend on the group: a plan made for its values would copy them, and would depend on
/// statistics that a new tenant is not in. Nested loops are forbidden, because a plan for any group expects ten rows and
/// would compare every document with every row; the price that this puts on the probes of instants must not start the
/// compiler of queries.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s'; \
                     SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_nestloop = off; \
                     SET LOCAL jit = off";

impl Lane {
    pub(super) async fn transact(
        &mut self,
        client: &Client,
        job: &Job,
    ) -> Result<Committed, Abort> {
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
