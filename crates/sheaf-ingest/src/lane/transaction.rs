//! One transaction of a lane: locks, ledger, documents, plan, documents and events written, commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, join, try_join};
use sheaf_model::{AttributeId, EntityId, Position, Refusal, TenantId, Timestamp};
use sheaf_pg::PgError;
use sheaf_store::catalogue::{Catalogue, Catalogues, catalogue_of, read_catalogue, read_versions};
use sheaf_store::documents::{DocumentColumns, StoredDocument, document_of, read_documents};
use sheaf_store::events::{EventCopy, Instants};
use sheaf_store::ledger::{
    LedgerEntry, LedgerPart, find_bucket_writers, find_parts, insert_parts, lock_buckets,
    open_requests, set_bucket_writers,
};
use sheaf_store::rejections::{NewRejection, insert_rejections};
use sheaf_store::settings::read_position;
use sheaf_store::stored::{PartsToWrite, StoredFault, write_document};
use tokio_postgres::{Client, Row, RowStream};

use super::{EditedDocument, Lane, Part, PartKind, PartOutcome, PartResult, Request, StoredPart};
use crate::instruments::{DOCUMENTS_TOTAL, GROUP_EVENTS, STEP_SECONDS};
use crate::plan::{
    Documents, GroupPart, GroupPlan, PlannedDocument, StoredInstants, plan_group, superseded,
    time_events,
};
use crate::request::{Precondition, WriteError};

/// Why a transaction was not made.
pub(super) enum Abort {
    /// It failed.
    Error(WriteError),
    /// It needs partitions for these instants; made outside, it can run again.
    Partitions(BTreeSet<Timestamp>),
    /// A remembered document is not the one that is there.
    Stale,
    /// Its commit was not answered: what the parts come to if it came through, by their place in the group.
    Unanswered {
        error: PgError,
        prepared: Vec<(usize, StoredPart)>,
    },
}

impl From<PgError> for Abort {
    fn from(error: PgError) -> Abort {
        Abort::Error(error.into())
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
/// statistics that a new tenant is not in. Every join is between the group and a key, and is a probe of the key's index;
/// any other join would compare everything with everything as soon as an estimate is wrong.
/// The commit waits for this server's disk and for no other: waiting for a standby is a matter of each request.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s'; \
                     SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_hashjoin = off; \
                     SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
                     SET LOCAL synchronous_commit = local";

impl Lane {
    /// Commits a group. The outcomes are in the order of its parts.
    pub(super) async fn transact(
        &mut self,
        client: &Client,
        group: &[Part],
    ) -> Result<Vec<PartResult>, Abort> {
        let mut steps = Steps::begin();
        let read = self.read(client, group).await?;
        steps.ended("read");
        let mut outcomes: Vec<Option<PartResult>> = Vec::new();
        outcomes.resize_with(group.len(), || None);
        let mut running = Vec::new();
        for (place, part) in group.iter().enumerate() {
            if read.was_there.contains(&place) {
                // With a key, another server may have written it, under another batch.
                let prepared = part.prepared.clone().filter(|_| !part.request.has_key());
                outcomes[place] = Some(Ok(PartOutcome::AlreadyThere(prepared)));
            } else if let Err(error) = check_condition(part, &read.documents) {
                outcomes[place] = Some(Err(error));
            } else {
                running.push((place, part));
            }
        }
        let Read {
            documents,
            catalogues,
            foreign_buckets,
            ..
        } = read;
        let parts: Vec<GroupPart<'_>> = running
            .iter()
            .map(|(_, part)| GroupPart {
                events: &part.events,
                series_tags: catalogues
                    .of_tenant(part.request.entry.tenant)
                    .series_tags(),
                now: part.request.now,
            })
            .collect();
        let plan = self.plan(client, &parts, documents, &catalogues).await?;
        let mut rejections: Vec<Vec<NewRejection>> = running
            .iter()
            .zip(&plan.parts)
            .map(|((_, part), planned)| rejections_of(part, &planned.refusals, &catalogues))
            .collect();
        let mut storing = Vec::new();
        for (active, (place, part)) in running.iter().enumerate() {
            if part.kind != PartKind::Bulk && !plan.parts[active].refusals.is_empty() {
                // Nothing of it is in the plan: an edit is one event, and who wants all or nothing is alone.
                let refused = std::mem::take(&mut rejections[active]);
                outcomes[*place] = Some(Ok(PartOutcome::RefusedByPlan(refused)));
            } else {
                storing.push((active, *place, *part));
            }
        }
        if storing.is_empty() {
            let ended = client.batch_execute("ROLLBACK").await;
            ended.map_err(PgError::statement("ending a write that changes nothing"))?;
            return Ok(outcomes.into_iter().flatten().collect());
        }
        let (inserts, updates) = columns(&plan, &catalogues);
        let ledger_parts: Vec<LedgerPart<'_>> = storing
            .iter()
            .map(|(active, _, part)| LedgerPart {
                entry: &part.request.entry,
                buckets: &part.buckets,
                counts: plan.parts[*active].counts,
            })
            .collect();
        let to_open: Vec<&LedgerEntry> = storing
            .iter()
            .filter(|(_, _, part)| part.opens && !opens_at_first(part))
            .map(|(_, _, part)| &part.request.entry)
            .collect();
        steps.ended("plan");
        // The events are encoded while PostgreSQL writes the documents.
        let encode = async { self.copies(&running, &plan) };
        let rejected = async {
            for (active, _, part) in &storing {
                let Request { scope, entry, .. } = &*part.request;
                let refused = &rejections[*active];
                insert_rejections(client, scope, entry.batch, entry.received_at, refused).await?;
            }
            Ok(())
        };
        let written = async {
            try_join!(
                inserts.insert(client),
                updates.update(client),
                insert_parts(client, &ledger_parts),
                open_requests(client, &to_open),
                set_bucket_writers(client, &foreign_buckets, self.identity),
                rejected,
            )
        };
        let (written, copies) = join!(written, encode);
        let (inserted, updated, ..) = written?;
        let copies = copies?;
        if (inserted, updated) != (inserts.len(), updates.len()) {
            return Err(Abort::Stale);
        }
        steps.ended("write_documents");
        for (partition, copy) in copies {
            copy.send(client, &partition).await?;
        }
        steps.ended("copy_events");
        let prepared = storing.iter().map(|(active, place, part)| {
            let stored = StoredPart {
                counts: plan.parts[*active].counts,
                rejections: std::mem::take(&mut rejections[*active]),
                document: edited_document(*active, part, &plan, &catalogues),
            };
            (*place, stored)
        });
        let prepared: Vec<(usize, StoredPart)> = prepared.collect();
        let position = match self.end(client).await {
            Ok(position) => position,
            Err(error) => return Err(Abort::Unanswered { error, prepared }),
        };
        steps.ended("commit");
        let events: usize = parts.iter().map(|part| part.events.len()).sum();
        metrics::histogram!(GROUP_EVENTS).record(events as f64);
        for (place, stored) in prepared {
            outcomes[place] = Some(Ok(PartOutcome::Stored(Box::new(stored), position)));
        }
        for planned in plan.documents {
            let bucket = self.settings.bucket(planned.tenant, planned.stored.entity);
            self.documents.put(bucket, planned.stored);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Commits, and reads the position of the write history that has all of it.
    async fn end(&self, client: &Client) -> Result<Position, PgError> {
        const STEP: &str = "reading the position of a write";
        let position = read_position();
        let (committed, rows) = join!(
            client.batch_execute("COMMIT"),
            client.query_typed(position.sql, &position.params)
        );
        committed.map_err(PgError::statement("committing a write"))?;
        let rows = rows.map_err(PgError::statement(STEP))?;
        let row = rows
            .first()
            .ok_or_else(|| PgError::unreadable(STEP, "no row"))?;
        Ok(self.settings.position(row)?.0)
    }

    /// Locks the buckets and reads what the plan needs. Everything leaves in one go, and each statement sees what was
    /// committed before the locks were granted.
    async fn read(&mut self, client: &Client, group: &[Part]) -> Result<Read, Abort> {
        let buckets: BTreeSet<i32> = group
            .iter()
            .flat_map(|part| &part.buckets)
            .copied()
            .collect();
        let buckets: Vec<i32> = buckets.into_iter().collect();
        let tenants: BTreeSet<i64> = group
            .iter()
            .map(|part| part.request.entry.tenant.0)
            .collect();
        let tenants: Vec<i64> = tenants.into_iter().collect();
        // Each entity with its oldest event; one without a time comes after all that is there.
        let mut keys: Vec<(TenantId, EntityId, Timestamp)> = group
            .iter()
            .flat_map(|part| part.events.iter())
            .map(|event| {
                let time = event.event.observed_at.unwrap_or(Timestamp::MAX);
                (event.tenant, event.entity, time)
            })
            .collect();
        keys.sort_unstable();
        keys.dedup_by_key(|(tenant, entity, _)| (*tenant, *entity));
        let edited: HashSet<EntityId> = group
            .iter()
            .filter(|part| matches!(part.kind, PartKind::Edit { .. }))
            .flat_map(|part| part.events.iter().map(|event| event.entity))
            .collect();
        let mut documents = Documents::with_capacity(keys.len());
        // An edit is answered with its document, and its condition may end it without a write that would notice a
        // document that is not the one that is there.
        let (mut held, mut wanted) = (Vec::new(), Vec::new());
        for (tenant, entity, oldest) in keys {
            if !edited.contains(&entity) && self.documents.holds_for(entity, oldest) {
                held.push((tenant, entity));
            } else {
                wanted.push((tenant, entity));
            }
        }
        let (wanted_tenants, wanted_entities) = numbers(&wanted);
        let opening: Vec<&LedgerEntry> = group
            .iter()
            .filter(|part| opens_at_first(part))
            .map(|part| &part.request.entry)
            .collect();
        let doubtful: Vec<&LedgerEntry> = group
            .iter()
            .filter(|part| part.is_doubtful)
            .map(|part| &part.request.entry)
            .collect();
        let statement = read_documents(&wanted_tenants, &wanted_entities);
        let (begun, locked, writers, opened, parts, versions, rows) = join!(
            client.batch_execute(BEGIN),
            lock_buckets(client, &buckets),
            find_bucket_writers(client, &buckets),
            open_requests(client, &opening),
            find_parts(client, &doubtful),
            read_versions(client, &tenants),
            client.query_typed_raw(statement.sql, statement.params),
        );
        begun.map_err(PgError::statement("beginning a write"))?;
        locked?;
        let (writers, opened, parts, versions) = (writers?, opened?, parts?, versions?);
        let rows = rows.map_err(PgError::statement(statement.step))?;
        let catalogues = self
            .read_rows(client, group, &versions, rows, &mut documents)
            .await?;
        let foreign_buckets: Vec<i32> = buckets
            .into_iter()
            .filter(|bucket| writers.get(bucket) != Some(&self.identity))
            .collect();
        for bucket in &foreign_buckets {
            self.documents.forget_bucket(*bucket);
        }
        let mut overtaken = Vec::new();
        let (held_count, wanted_count) = (held.len(), wanted.len());
        for (tenant, entity) in held {
            match self.documents.take(entity) {
                Some(stored) => {
                    documents.insert(entity, stored);
                }
                None => overtaken.push((tenant, entity)),
            }
        }
        count_documents("remembered", held_count - overtaken.len());
        count_documents("read", wanted_count + overtaken.len());
        if !overtaken.is_empty() {
            let (tenants, entities) = numbers(&overtaken);
            let statement = read_documents(&tenants, &entities);
            let rows = client
                .query_typed(statement.sql, &statement.params)
                .await
                .map_err(PgError::statement(statement.step))?;
            for row in &rows {
                keep(row, &catalogues, &mut documents)?;
            }
        }
        let was_there = |part: &Part| {
            let entry = &part.request.entry;
            let key = (entry.tenant, entry.request_key.clone());
            let is_written = parts
                .get(&key)
                .is_some_and(|written| part.buckets.iter().any(|bucket| written.contains(bucket)));
            is_written || (opens_at_first(part) && !opened.contains(&key))
        };
        let asked = |part: &&Part| part.is_doubtful || opens_at_first(part);
        Ok(Read {
            was_there: group
                .iter()
                .enumerate()
                .filter(|(_, part)| asked(part) && was_there(part))
                .map(|(place, _)| place)
                .collect(),
            documents,
            catalogues,
            foreign_buckets,
        })
    }

    /// The documents in `rows`, and the catalogues of these versions: the ones at hand, or some read in this transaction.
    async fn read_rows(
        &self,
        client: &Client,
        group: &[Part],
        versions: &HashMap<TenantId, i64>,
        rows: RowStream,
        documents: &mut Documents,
    ) -> Result<GroupCatalogues, Abort> {
        let failed = || PgError::statement("reading documents to merge into");
        let mut catalogues = GroupCatalogues::of(group, versions);
        catalogues.recall(&self.catalogues, versions);
        let mut rows = std::pin::pin!(rows);
        if catalogues.missing.is_empty() {
            // Decoded while PostgreSQL is still sending.
            while let Some(row) = rows.next().await {
                keep(&row.map_err(failed())?, &catalogues, documents)?;
            }
            return Ok(catalogues);
        }
        // To the last row first: nothing else is answered on a connection whose rows nobody takes.
        let rows: Vec<Row> = rows.try_collect().await.map_err(failed())?;
        for tenant in std::mem::take(&mut catalogues.missing) {
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
            catalogues.by_tenant.insert(tenant, catalogue);
        }
        for row in &rows {
            keep(row, &catalogues, documents)?;
        }
        Ok(catalogues)
    }

    async fn plan(
        &self,
        client: &Client,
        parts: &[GroupPart<'_>],
        documents: Documents,
        catalogues: &GroupCatalogues,
    ) -> Result<GroupPlan, Abort> {
        let (timed, to_read) = time_events(parts, &documents);
        let mut instants = Instants::default();
        for (tenant, entity, time) in to_read {
            instants.push(tenant, entity, time);
        }
        let mut stored = StoredInstants::new();
        let rows = instants
            .read(client, |entity| catalogues.of_entity(entity))
            .await?;
        for (entity, row) in rows {
            stored
                .entry((entity, row.observed_at))
                .or_default()
                .push(row);
        }
        Ok(plan_group(parts, timed, documents, stored))
    }

    /// The rows of the plan, encoded for their partitions.
    fn copies(
        &self,
        running: &[(usize, &Part)],
        plan: &GroupPlan,
    ) -> Result<Vec<(String, EventCopy)>, Abort> {
        let mut copies: BTreeMap<usize, EventCopy> = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut at = None;
        for planned in &plan.rows {
            let time = planned.row.observed_at;
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
            let entry = &running[planned.part].1.request.entry;
            copies.entry(place).or_default().push(
                planned.tenant,
                planned.entity,
                &planned.row,
                entry.batch,
                entry.received_at,
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
}

/// What was read under the locks.
struct Read {
    /// Parts that the ledger has already, or has some of.
    was_there: HashSet<usize>,
    documents: Documents,
    catalogues: GroupCatalogues,
    /// Buckets that this lane was not the last to write.
    foreign_buckets: Vec<i32>,
}

/// A request that is all in this part takes its place in the ledger before anything is planned, so that a retry that runs
/// on another server meets it there. Only a client's key can meet anything.
fn opens_at_first(part: &Part) -> bool {
    part.opens && part.request.has_key()
}

fn numbers(keys: &[(TenantId, EntityId)]) -> (Vec<i64>, Vec<i64>) {
    keys.iter()
        .map(|(tenant, entity)| (tenant.0, entity.0))
        .unzip()
}

fn keep(row: &Row, catalogues: &GroupCatalogues, documents: &mut Documents) -> Result<(), Abort> {
    let entity = EntityId(row.get("entity_id"));
    let stored: StoredDocument = document_of(row, catalogues.of_entity(entity))?;
    documents.insert(entity, stored);
    Ok(())
}

/// The catalogues of a group's tenants.
struct GroupCatalogues {
    by_tenant: HashMap<TenantId, Arc<Catalogue>>,
    /// Tenants whose catalogue has another version in the database than any at hand.
    missing: Vec<TenantId>,
    /// Whose each entity is, where the group is of several tenants.
    tenants: HashMap<EntityId, TenantId>,
    first: TenantId,
}

impl GroupCatalogues {
    fn of(group: &[Part], versions: &HashMap<TenantId, i64>) -> GroupCatalogues {
        let mut by_tenant = HashMap::new();
        for Part { request, .. } in group {
            let tenant = request.entry.tenant;
            if versions.get(&tenant) == Some(&request.catalogue.version()) {
                by_tenant.insert(tenant, Arc::clone(&request.catalogue));
            }
        }
        let mut all: Vec<TenantId> = group.iter().map(|part| part.request.entry.tenant).collect();
        all.sort_unstable();
        all.dedup();
        let events = group.iter().flat_map(|part| part.events.iter());
        let tenants = if all.len() > 1 {
            events.map(|event| (event.entity, event.tenant)).collect()
        } else {
            HashMap::new()
        };
        GroupCatalogues {
            first: all[0],
            missing: all
                .into_iter()
                .filter(|tenant| !by_tenant.contains_key(tenant))
                .collect(),
            by_tenant,
            tenants,
        }
    }

    /// Takes versions that this server remembers: where a catalogue grows, requests come with the one before.
    fn recall(&mut self, remembered: &Catalogues, versions: &HashMap<TenantId, i64>) {
        for tenant in std::mem::take(&mut self.missing) {
            let version = versions.get(&tenant);
            match version.and_then(|version| remembered.recall(tenant, *version)) {
                Some(catalogue) => drop(self.by_tenant.insert(tenant, catalogue)),
                None => self.missing.push(tenant),
            }
        }
    }

    fn of_tenant(&self, tenant: TenantId) -> &Catalogue {
        let found = self.by_tenant.get(&tenant);
        found.expect("every tenant of the group has a catalogue, at hand or read")
    }

    fn of_entity(&self, entity: EntityId) -> &Catalogue {
        self.of_tenant(self.tenants.get(&entity).copied().unwrap_or(self.first))
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
        metrics::histogram!(STEP_SECONDS, "step" => step).record(seconds);
        self.begun = Instant::now();
    }
}

fn count_documents(from: &'static str, documents: usize) {
    let documents = u64::try_from(documents).unwrap_or(u64::MAX);
    metrics::counter!(DOCUMENTS_TOTAL, "from" => from).increment(documents);
}

fn check_condition(part: &Part, documents: &Documents) -> Result<(), WriteError> {
    let PartKind::Edit {
        precondition,
        must_exist,
    } = part.kind
    else {
        return Ok(());
    };
    let document = part
        .events
        .first()
        .and_then(|event| documents.get(&event.entity))
        .map(|stored| &stored.document)
        .filter(|document| document.exists());
    if must_exist && document.is_none() {
        return Err(WriteError::NotFound);
    }
    let holds = match precondition {
        None => true,
        Some(Precondition::Version(version)) => {
            document.is_some_and(|document| document.version == version)
        }
        Some(Precondition::Absent) => document.is_none(),
    };
    if holds {
        Ok(())
    } else {
        Err(WriteError::Precondition)
    }
}

/// All refusals of a part, those of the plan among them. One order for all: refusals of one event are numbered by their
/// place.
fn rejections_of(
    part: &Part,
    refusals: &[(u32, Option<AttributeId>, Refusal)],
    catalogues: &GroupCatalogues,
) -> Vec<NewRejection> {
    let catalogue = catalogues.of_tenant(part.request.entry.tenant);
    let mut rejections = part.rejections.clone();
    let late = refusals
        .iter()
        .map(|refusal| late_rejection(&part.request, refusal, catalogue));
    rejections.extend(late);
    rejections.sort_by_key(|rejection| rejection.event_index);
    rejections
}

fn late_rejection(
    request: &Request,
    (index, field, refusal): &(u32, Option<AttributeId>, Refusal),
    catalogue: &Catalogue,
) -> NewRejection {
    let source = request
        .sources
        .binary_search_by_key(index, |source| source.index)
        .map(|place| &request.sources[place]);
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
        reading: request.reading.clone(),
        rest: None,
    }
}

fn columns(plan: &GroupPlan, catalogues: &GroupCatalogues) -> (DocumentColumns, DocumentColumns) {
    let (mut inserts, mut updates) = (DocumentColumns::default(), DocumentColumns::default());
    for planned in plan
        .documents
        .iter()
        .filter(|planned| planned.change.written)
    {
        let catalogue = catalogues.of_tenant(planned.tenant);
        // While values move between the parts, a part that stays as it is could keep what the other part gets.
        let parts = if catalogue.is_moving() || !planned.existed {
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
            planned.tenant,
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

/// What an edit is answered with.
fn edited_document(
    active: usize,
    part: &Part,
    plan: &GroupPlan,
    catalogues: &GroupCatalogues,
) -> Option<EditedDocument> {
    let (PartKind::Edit { .. }, [edit]) = (part.kind, part.events.as_slice()) else {
        return None;
    };
    let planned = plan.document(edit.tenant, edit.entity)?;
    let observed_at = plan.parts[active].last_at?;
    let catalogue = catalogues.of_tenant(edit.tenant);
    let name = |id: &AttributeId| {
        catalogue
            .by_id(*id)
            .map_or_else(|| id.to_string(), |attribute| attribute.name.clone())
    };
    let document = &planned.stored.document;
    let mut superseded: Vec<String> = superseded(document, &edit.event, observed_at)
        .iter()
        .map(name)
        .collect();
    superseded.sort_unstable();
    Some(EditedDocument {
        created: planned.created_by == Some(active),
        version: document.version,
        observed_at,
        superseded,
    })
}
