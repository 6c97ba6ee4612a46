//! A database with tenants that have a bit of everything, written the way a server writes it.
#![allow(dead_code, reason = "each test binary uses another part")]

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_ingest::{Ack, BodyFormat, EditRequest, IngestAnswer, IngestRequest, OnError, Writer};
use sheaf_model::{
    AttributeType, Attrs, BatchId, EntityId, Event, Limits, Name, Op, Tags, Timestamp,
};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Pin, Temperature, declare_attribute,
};
use sheaf_store::keys::{ApiKey, KeyScope, insert_key};
use sheaf_store::ledger::LedgerEntry;
use sheaf_store::lineage::fetch_lineage;
use sheaf_store::settings::Settings;
use sheaf_store::staging::{StageOutcome, StagedCopy, stage};
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::TestDatabase;
use tokio_postgres::Client;

/// A migrated database of the test's own.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) app: Pool,
}

impl World {
    pub(crate) async fn create() -> Result<World> {
        Self::of(TestDatabase::create().await?)
    }

    /// The same in a database of the caller's.
    pub(crate) fn of(database: TestDatabase) -> Result<World> {
        let app = Pool::new(&database.config("sheaf_app"), 8, &Tls::none());
        Ok(World { database, app })
    }

    pub(crate) fn pool(&self, role: &str, connections_max: usize) -> Pool {
        Pool::new(&self.database.config(role), connections_max, &Tls::none())
    }

    pub(crate) async fn tenant(&self, name: &str) -> Result<TenantScope> {
        let (name, policy) = (Name::parse(name)?, TenantPolicy::default());
        let tenant = create_tenant(&self.app, &name, &policy, Timestamp::now()).await?;
        Ok(TenantScope::authenticated(tenant.context("a new name")?))
    }

    /// The write path of one server; two of them are two servers.
    pub(crate) async fn writer(&self) -> Result<Writer> {
        let settings = Arc::new(Settings::read(&self.app).await?);
        let catalogues = Arc::new(Catalogues::new(self.app.clone()));
        let app = self.app.clone();
        let writer = self.pool("sheaf_writer", 4);
        let (writer, _lane) = Writer::start(app, writer, settings, catalogues, Limits::DEFAULT);
        Ok(writer)
    }

    /// Entities without events.
    pub(crate) async fn entities(&self, scope: &TenantScope, count: i32) -> Result<Vec<EntityId>> {
        let sql = "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
            SELECT $1, 'thing', gen_random_uuid()::text, now() FROM generate_series(1, $2) RETURNING entity_id";
        let client = self.database.superuser().await?;
        let rows = client.query(sql, &[&scope.tenant().0, &count]).await?;
        Ok(rows.iter().map(|row| EntityId(row.get(0))).collect())
    }

    /// Stages events in a batch of their own, as a server does.
    pub(crate) async fn stage(
        &self,
        scope: &TenantScope,
        request_key: Option<&str>,
        events: &[(EntityId, Event)],
    ) -> Result<(BatchId, StageOutcome)> {
        let settings = Settings::read(&self.app).await?;
        let (batch, now, tenant) = (BatchId::new(), Timestamp::now(), scope.tenant());
        let mut copy = StagedCopy::new(tenant, batch, now);
        let mut buckets = BTreeSet::new();
        for (index, (entity, event)) in events.iter().enumerate() {
            let bucket = settings.bucket(tenant, *entity);
            buckets.insert(bucket);
            copy.push(i32::try_from(index)?, *entity, bucket, event);
        }
        let mut entry = LedgerEntry::new(tenant, batch, "staged", events.len(), now);
        if let Some(key) = request_key {
            entry.request_key = format!("k:{key}");
        }
        entry.request_hash = vec![7; 32];
        entry.buckets = buckets.into_iter().collect();
        let writer = self.pool("sheaf_writer", 1);
        entry.lineage = fetch_lineage(&*writer.get().await?).await?;
        let outcome = stage(&writer, scope, &entry, &[], copy).await?;
        Ok((batch, outcome))
    }

    /// What a superuser counts.
    pub(crate) async fn count(&self, sql: &str) -> Result<i64> {
        let client = self.database.superuser().await?;
        Ok(client.query_one(sql, &[]).await?.get(0))
    }

    /// A tenant with attributes of every type and temperature, entities that were patched, replaced and deleted, late,
    /// repeated, corrected and refused events, and a key. Its texts hold its name.
    pub(crate) async fn furnished_tenant(&self, name: &str) -> Result<TenantScope> {
        let scope = self.tenant(name).await?;
        let writer = self.writer().await?;
        for kind in AttributeType::ALL {
            let temperature = match kind {
                AttributeType::Int | AttributeType::Text => Temperature::Hot,
                AttributeType::Bool => Temperature::Warming,
                AttributeType::Time => Temperature::Cooling,
                AttributeType::Float | AttributeType::Decimal | AttributeType::Json => {
                    Temperature::Cold
                }
            };
            let attribute = NewAttribute {
                name: format!("a_{kind}"),
                kind,
                temperature,
            };
            // Pinned, so that those which have an order have a value index as well.
            let description = Description {
                pin: Some(Pin::Hot),
                ..Description::default()
            };
            declare_attribute(
                &self.app,
                &scope,
                &attribute,
                &description,
                Timestamp::now(),
            )
            .await?;
        }
        let all = |text: &str| {
            format!(
                r#"{{"a_int":-9007199254740993,"a_float":2.5,"a_decimal":"12.50","a_text":"{text} {name}","a_bool":true,"a_time":"2024-02-29T12:00:00Z","a_json":{{"k":[1,null]}}}}"#
            )
        };
        let lines = [
            event("one", "2024-03-01T00:00:00Z", &all("first")),
            event("one", "2024-03-02T00:00:00Z", r#"{"a_int":2,"new":1.5}"#),
            event("one", "2024-01-05T00:00:00Z", &all("late")),
            event("one", "2024-03-02T00:00:00Z", r#"{"a_int":2}"#),
            event(
                "one",
                "2024-03-02T00:00:00Z",
                r#"{"a_int":3,"a_bool":null}"#,
            ),
            event("one", "2024-03-02T00:00:00Z", r#"{"a_text":"merged"}"#),
            event("two", "2024-02-01T00:00:00Z", &all("second")),
            event("three", "2024-02-01T00:00:00Z", "{}"),
            event("four", "2024-02-01T00:00:00Z", &all("fourth")),
            event("five", "2024-02-01T00:00:00Z", r#"{"a_int":"no"}"#),
            format!(r#"{{"type":"thing","id":"{name}"}}"#),
            "nonsense".to_owned(),
        ];
        ingest(&writer, &scope, &lines).await?;
        ingest(&writer, &scope, &lines).await?;
        ingest(&writer, &scope, &["nonsense".to_owned()]).await?;
        let mut refused = request(&lines);
        refused.on_error = OnError::Reject;
        writer.ingest(&scope, refused).await?;
        for (id, op, body) in [
            ("two", Op::Replace, r#"{"attributes":{"a_int":7}}"#),
            (
                "two",
                Op::Patch,
                r#"{"attributes":{"a_int":null,"a_bool":false}}"#,
            ),
            ("three", Op::Delete, ""),
            ("four", Op::Delete, ""),
            ("four", Op::Patch, r#"{"attributes":{"a_text":"back"}}"#),
        ] {
            writer.edit(&scope, edit(id, op, body)).await?;
        }
        let entity = self.entities(&scope, 1).await?[0];
        let event = Event {
            observed_at: None,
            op: Op::Patch,
            attrs: Attrs::default(),
            tags: Tags::None,
        };
        self.stage(&scope, None, &[(entity, event)]).await?;
        let correction = format!(
            "INSERT INTO sheaf.lake_corrections
             SELECT {}, {entity}, now(), 1, 'sheaf', 'c', gen_random_uuid(), now(), '{{}}', now()",
            scope.tenant()
        );
        let archived = format!(
            "INSERT INTO sheaf.entity_events_late
             SELECT {0}, min(entity_id), '2023-12-01Z', 16384, 'p', gen_random_uuid(), now() - interval '1 day', '{{}}'
             FROM sheaf.entities WHERE tenant_id = {0};
             INSERT INTO sheaf.entity_keyframes
             SELECT f.tenant_id, f.entity_id, '2024-02-15Z', f.newest, f.floor_at, f.deleted, f.attrs, f.times
             FROM (SELECT array_agg(tenant_id) AS tenants, array_agg(entity_id) AS entities
                   FROM sheaf.entities WHERE tenant_id = {0}) n
             CROSS JOIN sheaf.fold_history(n.tenants, n.entities, '2024-02-15Z') f",
            scope.tenant()
        );
        let reconciled = format!(
            "INSERT INTO sheaf.reconciled_hours (tenant_id, hour, events_facts) VALUES ({0}, 1, 1);
             INSERT INTO sheaf.lake_retentions VALUES ({0}, 0, now());
             INSERT INTO sheaf.lake_removals (tenant_id, hour, is_late) VALUES ({0}, 1, false);
             INSERT INTO sheaf.lake_repairs
             SELECT {0}, {entity}, now(), 1, 'sheaf', 'c', gen_random_uuid(), now(), '{{}}', 1, '0/1', now()",
            scope.tenant()
        );
        let admin = self.database.superuser().await?;
        admin.batch_execute(&correction).await?;
        admin.batch_execute(&reconciled).await?;
        admin.batch_execute(&archived).await?;
        let key = ApiKey::generate();
        insert_key(
            &self.app,
            &scope,
            &key,
            &[KeyScope::Read],
            Timestamp::now(),
            None,
        )
        .await?;
        Ok(scope)
    }
}

/// One line of a body.
pub(crate) fn event(id: &str, observed_at: &str, attributes: &str) -> String {
    format!(
        r#"{{"type":"thing","id":"{id}","observed_at":"{observed_at}","attributes":{attributes}}}"#
    )
}

pub(crate) fn request(lines: &[String]) -> IngestRequest {
    IngestRequest {
        body: Bytes::from(lines.join("\n")),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key: None,
        received_at: Timestamp::now(),
    }
}

pub(crate) async fn ingest(
    writer: &Writer,
    scope: &TenantScope,
    lines: &[String],
) -> Result<IngestAnswer> {
    Ok(writer.ingest(scope, request(lines)).await?)
}

fn edit(external_id: &str, op: Op, body: &str) -> EditRequest {
    EditRequest {
        entity_type: "thing".into(),
        external_id: external_id.into(),
        op,
        body: Bytes::copy_from_slice(body.as_bytes()),
        observed_at: None,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    }
}

/// Partitions and the staging table have no policy; nobody may read them.
const TENANT_TABLES: &str = "
    SELECT c.relname::text FROM pg_class c
    WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND c.relname <> 'entity_values_ingest'
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
    ORDER BY 1";

pub(crate) async fn names(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(crate) async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Two tenants that both have rows in every table of tenants, and those tables.
pub(crate) async fn two_tenants() -> Result<(World, TenantScope, TenantScope, Vec<String>)> {
    let world = World::create().await?;
    let ours = world.furnished_tenant("acme").await?;
    let theirs = world.furnished_tenant("zenith").await?;
    let client = world.database.superuser().await?;
    let tables = names(&client, TENANT_TABLES).await?;
    assert!(tables.len() >= 9, "{tables:?}");
    for table in &tables {
        let tenants = format!("SELECT count(DISTINCT tenant_id) FROM sheaf.{table}");
        assert_eq!(number(&client, &tenants).await?, 2, "tenants in {table}");
    }
    Ok((world, ours, theirs, tables))
}

pub(crate) async fn begin_as(client: &Client, scope: &TenantScope) -> Result<()> {
    let tenant = scope.tenant();
    let begin = format!("BEGIN; SELECT set_config('sheaf.tenant_id', '{tenant}', true)");
    Ok(client.batch_execute(&begin).await?)
}
