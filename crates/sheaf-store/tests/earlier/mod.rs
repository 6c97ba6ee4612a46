//! The write path of a server of the release before: its statements, which are a fixture, in its order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use sheaf_ingest::IngestRequest;
use sheaf_model::{
    Appended, AttributeId, AttributeType, Attrs, BatchId, Cell, Document, EntityId, Op, StoredRow,
    Timestamp, Value, append, fold_rows, merge,
};
use sheaf_pg::{JsonbRead, JsonbWrite, PgTime};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogue, Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::documents::{StoredDocument, document_of};
use sheaf_store::events::{EventCopy, EventRows};
use sheaf_store::ledger::Counts;
use sheaf_store::partitions::{Partition, ensure_partition};
use sheaf_store::settings::Settings;
use sheaf_store::stored::{PartsToWrite, read_attrs, write_document};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::world::{self, World};

/// Every event of these tests has both; one lies in each part of a document.
const ATTRIBUTES: [(&str, Temperature); 2] = [("a", Temperature::Hot), ("b", Temperature::Cold)];
pub(crate) const ENTITIES: usize = 40;

/// A tenant with two attributes and entities d0, d1, .. that have no events yet.
pub(crate) async fn tenant(world: &World) -> Result<(TenantScope, Vec<EntityId>)> {
    let scope = world.tenant("acme").await?;
    for (name, temperature) in ATTRIBUTES {
        let attribute = NewAttribute {
            name: name.to_owned(),
            kind: AttributeType::Int,
            temperature,
        };
        let (description, now) = (Description::default(), Timestamp::now());
        declare_attribute(&world.app, &scope, &attribute, &description, now).await?;
    }
    let client = world.database.superuser().await?;
    let sql = "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
        SELECT $1, 'thing', 'd' || n, now() FROM generate_series(0, $2::integer - 1) n RETURNING entity_id";
    let rows = client
        .query(sql, &[&scope.tenant().0, &i32::try_from(ENTITIES)?])
        .await?;
    Ok((scope, rows.iter().map(|row| EntityId(row.get(0))).collect()))
}

/// What a body says: at one instant, of each of these entities, that both attributes have this value.
#[derive(Clone)]
pub(crate) struct Said {
    pub(crate) entities: std::ops::Range<usize>,
    pub(crate) second: i64,
    pub(crate) value: i64,
}

impl Said {
    fn observed_at(&self) -> Result<Timestamp> {
        let micros = 1_704_067_200_000_000 + self.second * 1_000_000;
        Timestamp::from_micros(micros).context("an instant of 2024")
    }

    fn body(&self) -> Result<Vec<String>> {
        let (time, value) = (self.observed_at()?.to_string(), self.value);
        let attributes = format!(r#"{{"a":{value},"b":{value}}}"#);
        let line = |entity: usize| world::event(&format!("d{entity}"), &time, &attributes);
        Ok(self.entities.clone().map(line).collect())
    }

    pub(crate) fn request(&self, key: Option<&str>) -> Result<IngestRequest> {
        let mut request = world::request(&self.body()?);
        request.idempotency_key = key.map(str::to_owned);
        Ok(request)
    }

    /// What the release keeps of a request, to know it again.
    pub(crate) fn hash(&self) -> Result<Vec<u8>> {
        let mut hash = Sha256::new();
        hash.update("Ndjson|Durable|Partial|");
        hash.update(self.body()?.join("\n"));
        Ok(hash.finalize().to_vec())
    }
}

/// What the release finds of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) batch: BatchId,
    pub(crate) hash: Vec<u8>,
    pub(crate) outcome: String,
    pub(crate) events: i32,
    pub(crate) counts: Counts,
}

/// The write path of a server of the release: its statements, in its order.
pub(crate) struct Released {
    writer: Client,
    app: Client,
    scope: TenantScope,
    settings: Settings,
    catalogue: Arc<Catalogue>,
    partition: Partition,
    entities: Vec<EntityId>,
    attributes: Vec<AttributeId>,
}

impl Released {
    pub(crate) async fn of(
        world: &World,
        scope: &TenantScope,
        entities: &[EntityId],
    ) -> Result<Released> {
        let catalogue = Catalogues::new(world.app.clone()).current(scope).await?;
        let attribute = |(name, _)| Some(catalogue.by_name(name)?.id);
        let attributes = ATTRIBUTES.into_iter().map(attribute).collect::<Option<_>>();
        let time = Timestamp::parse_date("2024-01-01")?;
        Ok(Released {
            writer: world.database.client("sheaf_writer").await?,
            app: world.database.client("sheaf_app").await?,
            scope: scope.clone(),
            settings: Settings::read(&world.app).await?,
            attributes: attributes.context("both attributes")?,
            catalogue,
            partition: ensure_partition(&world.pool("sheaf_writer", 1), time).await?,
            entities: entities.to_vec(),
        })
    }

    /// Stores a request. Nothing where its key was taken before.
    pub(crate) async fn write(&self, said: &Said, key: Option<&str>) -> Result<Option<Counts>> {
        let stored = self.transact(said, key).await;
        if !matches!(stored, Ok(Some(_))) {
            self.writer.batch_execute("ROLLBACK").await?;
        }
        stored
    }

    async fn transact(&self, said: &Said, key: Option<&str>) -> Result<Option<Counts>> {
        let client = &self.writer;
        let (tenant, time) = (self.scope.tenant(), said.observed_at()?);
        let ids: Vec<i64> = said
            .entities
            .clone()
            .map(|entity| self.entities[entity].0)
            .collect();
        let bucket = |id: i64| self.settings.bucket(tenant, EntityId(id));
        let mut buckets: Vec<i32> = ids.iter().map(|id| bucket(*id)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        client
            .batch_execute(
                "BEGIN; SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '120s';
                 SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_nestloop = off; SET LOCAL jit = off",
            )
            .await?;
        client
            .query_typed(
                include_str!("../fixtures/released/ledger/lock_buckets.sql"),
                &[(&buckets, Type::INT4_ARRAY)],
            )
            .await?;
        let (batch, now) = (BatchId::new(), Timestamp::now());
        let request_key = key.map_or_else(|| batch.to_string(), |key| format!("k:{key}"));
        let hash = if key.is_some() {
            said.hash()?
        } else {
            Vec::new()
        };
        let claimed = client
            .query_typed(
                include_str!("../fixtures/released/ledger/claim_request.sql"),
                &[
                    (&tenant.0, Type::INT8),
                    (&request_key, Type::TEXT),
                    (&batch.0, Type::UUID),
                    (&hash, Type::BYTEA),
                    (&"stored", Type::TEXT),
                    (&"durable", Type::TEXT),
                    (&i32::try_from(ids.len())?, Type::INT4),
                    (&0_i32, Type::INT4),
                    (&PgTime(now), Type::TIMESTAMPTZ),
                    (&PgTime(now), Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        if claimed.is_empty() {
            return Ok(None);
        }
        let version = client
            .query_typed(
                include_str!("../fixtures/released/tenants/read_catalogue_version.sql"),
                &[(&tenant.0, Type::INT8)],
            )
            .await?;
        assert_eq!(version[0].get::<_, i64>(0), self.catalogue.version());
        let rows = client
            .query_typed(
                include_str!("../fixtures/released/documents/read_documents.sql"),
                &[(&tenant.0, Type::INT8), (&ids, Type::INT8_ARRAY)],
            )
            .await?;
        let mut documents: HashMap<EntityId, StoredDocument> = HashMap::new();
        for row in &rows {
            let stored = document_of(row, &self.catalogue)?;
            documents.insert(stored.entity, stored);
        }
        let mut there = self.instants(&ids, time).await?;
        let (mut inserts, mut updates) = (Columns::default(), Columns::default());
        let mut parts: BTreeMap<i32, Counts> = BTreeMap::new();
        let mut copy = EventCopy::default();
        for id in ids {
            let entity = EntityId(id);
            let value = || Cell::Value(Value::Int(said.value));
            let attrs = self.attributes.iter().map(|id| (*id, value())).collect();
            let attrs = Attrs::from_distinct(attrs);
            let counts = parts.entry(bucket(id)).or_default();
            counts.values += 2;
            let there = there.remove(&entity).unwrap_or_default();
            let row = match append(&there, time, Op::Patch, attrs) {
                Appended::New(row) => {
                    counts.accepted += 1;
                    row
                }
                Appended::Merged(row) => {
                    counts.merged += 1;
                    row
                }
                Appended::Corrected(row) => {
                    counts.corrected += 1;
                    row
                }
                Appended::Duplicate => {
                    counts.duplicates += 1;
                    continue;
                }
                Appended::Full => bail!("an instant is full"),
            };
            copy.push(tenant, entity, &row, batch, now);
            let existing = documents.remove(&entity);
            let columns = if existing.is_some() {
                &mut updates
            } else {
                &mut inserts
            };
            let mut document = existing.map(|stored| stored.document).unwrap_or_default();
            if merge(&mut document, fold_rows([&row])).written {
                columns.push(id, &document, &self.catalogue);
            }
        }
        inserts.write(client, tenant.0, INSERT_DOCUMENTS).await?;
        updates.write(client, tenant.0, UPDATE_DOCUMENTS).await?;
        self.insert_parts(&request_key, &parts).await?;
        copy.send(client, &self.partition.name).await?;
        client.batch_execute("COMMIT").await?;
        let mut sum = Counts::default();
        for counts in parts.into_values() {
            sum += counts;
        }
        Ok(Some(sum))
    }

    /// The rows that are there for an instant of these entities.
    async fn instants(
        &self,
        ids: &Vec<i64>,
        time: Timestamp,
    ) -> Result<HashMap<EntityId, Vec<StoredRow>>> {
        let times = vec![PgTime(time); ids.len()];
        let rows = self
            .writer
            .query_typed(
                include_str!("../fixtures/released/events/read_instants.sql"),
                &[
                    (&self.scope.tenant().0, Type::INT8),
                    (ids, Type::INT8_ARRAY),
                    (&times, Type::TIMESTAMPTZ_ARRAY),
                ],
            )
            .await?;
        let mut there: HashMap<EntityId, Vec<StoredRow>> = HashMap::new();
        for row in &rows {
            let stored = StoredRow {
                observed_at: row.get::<_, PgTime>("observed_at").0,
                seq: row.get("seq"),
                op: Op::from_letter(row.get("op")).context("a known operation")?,
                attrs: read_attrs(row.get::<_, JsonbRead<'_>>("attrs").0, &self.catalogue)?,
            };
            let entity = EntityId(row.get("entity_id"));
            there.entry(entity).or_default().push(stored);
        }
        Ok(there)
    }

    async fn insert_parts(&self, request_key: &str, parts: &BTreeMap<i32, Counts>) -> Result<()> {
        let counted = |of: fn(&Counts) -> i64| -> Vec<i32> {
            let counts = parts.values().map(of);
            counts
                .map(|count| i32::try_from(count).expect("a few events"))
                .collect()
        };
        let buckets: Vec<i32> = parts.keys().copied().collect();
        let values: Vec<i64> = parts.values().map(|counts| counts.values).collect();
        self.writer
            .execute_typed(
                include_str!("../fixtures/released/ledger/insert_parts.sql"),
                &[
                    (&self.scope.tenant().0, Type::INT8),
                    (&request_key, Type::TEXT),
                    (&buckets, Type::INT4_ARRAY),
                    (&values, Type::INT8_ARRAY),
                    (&counted(|counts| counts.accepted), Type::INT4_ARRAY),
                    (&counted(|counts| counts.duplicates), Type::INT4_ARRAY),
                    (&counted(|counts| counts.merged), Type::INT4_ARRAY),
                    (&counted(|counts| counts.corrected), Type::INT4_ARRAY),
                    (&counted(|counts| counts.refused), Type::INT4_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }

    /// What a retry of this key is answered from.
    pub(crate) async fn find(&self, key: &str) -> Result<Found> {
        world::begin_as(&self.app, &self.scope).await?;
        let rows = self
            .app
            .query_typed(
                include_str!("../fixtures/released/ledger/find_request.sql"),
                &[
                    (&self.scope.tenant().0, Type::INT8),
                    (&format!("k:{key}"), Type::TEXT),
                ],
            )
            .await?;
        self.app.batch_execute("COMMIT").await?;
        let row = rows.first().context("the request of a key")?;
        Ok(Found {
            batch: BatchId(row.get("batch_id")),
            hash: row.get("request_hash"),
            outcome: row.get("outcome"),
            events: row.get("events"),
            counts: Counts {
                values: row.get("value_count"),
                accepted: row.get("accepted"),
                duplicates: row.get("duplicates"),
                merged: row.get("merged"),
                corrected: row.get("corrected"),
                refused: i64::from(row.get::<_, i32>("refused"))
                    + row.get::<_, i64>("refused_late"),
            },
        })
    }
}

const INSERT_DOCUMENTS: &str = include_str!("../fixtures/released/documents/insert_documents.sql");
const UPDATE_DOCUMENTS: &str = include_str!("../fixtures/released/documents/update_documents.sql");

/// Documents as the release sends them.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    versions: Vec<i64>,
    newest: Vec<Option<PgTime>>,
    floors: Vec<Option<PgTime>>,
    deleted: Vec<bool>,
    updated: Vec<PgTime>,
    hot: Vec<Option<JsonbWrite<String>>>,
    cold: Vec<Option<JsonbWrite<String>>>,
    present: Vec<Option<String>>,
    times: Vec<Option<JsonbWrite<String>>>,
}

impl Columns {
    fn push(&mut self, id: i64, document: &Document, catalogue: &Catalogue) {
        let parts = write_document(document, catalogue, PartsToWrite::ALL);
        self.ids.push(id);
        self.versions.push(document.version);
        self.newest.push(document.newest.map(PgTime));
        self.floors.push(document.floor.map(PgTime));
        self.deleted.push(document.deleted);
        self.updated.push(PgTime(Timestamp::now()));
        self.hot.push(parts.hot_attrs.map(JsonbWrite));
        self.cold.push(parts.cold_attrs.map(JsonbWrite));
        self.present.push(parts.present);
        self.times.push(parts.times.map(JsonbWrite));
    }

    async fn write(&self, client: &Client, tenant: i64, sql: &str) -> Result<()> {
        let written = client
            .execute_typed(
                sql,
                &[
                    (&tenant, Type::INT8),
                    (&self.ids, Type::INT8_ARRAY),
                    (&self.versions, Type::INT8_ARRAY),
                    (&self.newest, Type::TIMESTAMPTZ_ARRAY),
                    (&self.floors, Type::TIMESTAMPTZ_ARRAY),
                    (&self.deleted, Type::BOOL_ARRAY),
                    (&self.updated, Type::TIMESTAMPTZ_ARRAY),
                    (&self.hot, Type::JSONB_ARRAY),
                    (&self.cold, Type::JSONB_ARRAY),
                    (&self.present, Type::TEXT_ARRAY),
                    (&self.times, Type::JSONB_ARRAY),
                ],
            )
            .await?;
        assert_eq!(usize::try_from(written)?, self.ids.len());
        Ok(())
    }
}
