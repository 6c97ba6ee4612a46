//! What a transaction reads before anything is planned: the ledger, the lineage, the catalogues and the documents.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, join};
use sheaf_model::{EntityId, Lineage, Position, TenantId, Timestamp};
use sheaf_pg::PgError;
use sheaf_store::catalogue::{WrittenOn, catalogue_of, read_catalogue, read_versions};
use sheaf_store::documents::{StoredDocument, document_of, read_documents};
use sheaf_store::ledger::{
    LedgerEntry, find_bucket_writers, find_parts, lock_buckets, open_requests,
};
use tokio_postgres::{Client, Row, RowStream};
use uuid::Uuid;

use super::super::{Lane, Part, PartKind};
use super::catalogues::GroupCatalogues;
use super::{Abort, BEGIN};
use crate::instruments::DOCUMENTS_TOTAL;
use crate::plan::Documents;

impl Lane {
    /// Locks the buckets and reads what the plan needs. Everything leaves in one go, and each statement sees what was
    /// committed before the locks were granted.
    pub(super) async fn read(&mut self, client: &Client, group: &[Part]) -> Result<Read, Abort> {
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
        let step = statement.step;
        let read = async {
            if wanted.is_empty() {
                return Ok(None);
            }
            let rows = client.query_typed_raw(statement.sql, statement.params);
            rows.await.map(Some)
        };
        let (begun, locked, writers, opened, parts, versions, rows) = join!(
            client.batch_execute(BEGIN),
            lock_buckets(client, &buckets),
            find_bucket_writers(client, &buckets),
            open_requests(client, &opening),
            find_parts(client, &doubtful),
            read_versions(client, &tenants),
            read,
        );
        begun.map_err(PgError::statement("beginning a write"))?;
        locked?;
        let (writers, opened, parts) = (writers?, opened?, parts?);
        let WrittenOn {
            lineage,
            versions,
            closed_before,
        } = versions?;
        let rows = rows.map_err(PgError::statement(step))?;
        let places = was_there(group, &opened, &parts);
        let mut was_there = HashMap::new();
        if !places.is_empty() {
            let position = self.position(client).await?;
            was_there.extend(places.into_iter().map(|place| (place, position)));
        }
        self.enter(lineage);
        let is_other = |part: &Part| part.request.catalogue.lineage() != lineage;
        if group.iter().any(is_other) {
            return Err(Abort::OtherLineage { was_there });
        }
        let mut catalogues = GroupCatalogues::of(group, lineage, &versions);
        catalogues.recall(&self.catalogues, lineage, &versions);
        self.read_rows(client, rows, &mut catalogues, &mut documents)
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
        let overtaken_count = overtaken.len();
        count_documents("remembered", held_count - overtaken_count);
        count_documents("read", wanted_count + overtaken_count);
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
        Ok(Read {
            was_there,
            remembers: held_count > overtaken_count,
            documents,
            catalogues,
            foreign_buckets,
            closed_before,
        })
    }

    /// Goes on with this lineage. What was learned on another one is dropped.
    fn enter(&mut self, lineage: Option<Lineage>) {
        if self.lineage == lineage {
            return;
        }
        if self.lineage.is_some() {
            tracing::warn!(
                before = ?self.lineage,
                now = ?lineage,
                "the database continues another history; what was remembered of the one before is dropped"
            );
        }
        self.lineage = lineage;
        self.identity = Uuid::now_v7();
        self.documents.clear();
        self.partitions.clear();
    }

    /// The documents in `rows`; catalogues that are not at hand are read in this transaction.
    async fn read_rows(
        &self,
        client: &Client,
        rows: Option<RowStream>,
        catalogues: &mut GroupCatalogues,
        documents: &mut Documents,
    ) -> Result<(), Abort> {
        let failed = || PgError::statement("reading documents to merge into");
        let rows = rows.map(|rows| rows.map_err(failed()));
        if catalogues.missing.is_empty() {
            // Decoded while PostgreSQL is still sending.
            if let Some(rows) = rows {
                let mut rows = std::pin::pin!(rows);
                while let Some(row) = rows.next().await {
                    keep(&row?, catalogues, documents)?;
                }
            }
            return Ok(());
        }
        // To the last row first: nothing else is answered on a connection whose rows nobody takes.
        let rows: Vec<Row> = match rows {
            Some(rows) => rows.try_collect().await?,
            None => Vec::new(),
        };
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
            keep(row, catalogues, documents)?;
        }
        Ok(())
    }
}

/// What was read under the locks.
pub(super) struct Read {
    /// Parts that the ledger has already, or has some of, and a position that has them.
    pub(super) was_there: HashMap<usize, Position>,
    /// Whether any of the documents is as this lane remembers it, and not as it is.
    pub(super) remembers: bool,
    pub(super) documents: Documents,
    pub(super) catalogues: GroupCatalogues,
    /// Buckets that this lane was not the last to write.
    pub(super) foreign_buckets: Vec<i32>,
    /// What was observed before this is late. It does not move while the buckets' locks are held.
    pub(super) closed_before: Option<Timestamp>,
}

/// A request that is all in this part takes its place in the ledger before anything is planned, so that a retry that runs
/// on another server meets it there. Only a client's key can meet anything.
pub(super) fn opens_at_first(part: &Part) -> bool {
    part.opens && part.request.has_key()
}

/// The parts that the ledger has already, or has some of, by their place; those that did not ask are none.
fn was_there(
    group: &[Part],
    opened: &HashSet<(TenantId, String)>,
    parts: &HashMap<(TenantId, String), HashSet<i32>>,
) -> HashSet<usize> {
    let is_there = |part: &Part| {
        let entry = &part.request.entry;
        let key = (entry.tenant, entry.request_key.clone());
        let is_written = parts
            .get(&key)
            .is_some_and(|written| part.buckets.iter().any(|bucket| written.contains(bucket)));
        is_written || (opens_at_first(part) && !opened.contains(&key))
    };
    let asked = |part: &Part| part.is_doubtful || opens_at_first(part);
    group
        .iter()
        .enumerate()
        .filter(|(_, part)| asked(part) && is_there(part))
        .map(|(place, _)| place)
        .collect()
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

fn count_documents(from: &'static str, documents: usize) {
    let documents = u64::try_from(documents).unwrap_or(u64::MAX);
    metrics::counter!(DOCUMENTS_TOTAL, "from" => from).increment(documents);
}
