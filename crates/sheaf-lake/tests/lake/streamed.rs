//! From requests through PostgreSQL's own log into the lake: it holds every fact of the database once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_cdc::sink::Sink;
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_ingest::{Ack, BodyFormat, IngestRequest, OnError, Writer};
use sheaf_lake::LakeSink;
use sheaf_model::{Limits, Name, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{ScratchDir, TestDatabase, wait_until};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::{Row, World};

const WITHIN: Duration = Duration::from_secs(120);
const COLUMNS: [&str; 20] = [
    "tenant_id",
    "entity_id",
    "entity_type",
    "external_id",
    "attribute_id",
    "attribute",
    "type",
    "observed_at",
    "seq",
    "op",
    "batch_id",
    "ingested_at",
    "value_int",
    "value_float",
    "value_decimal",
    "value_text",
    "value_bool",
    "value_time",
    "value_json",
    "removed",
];

/// The facts of the database, each as one text; nothing is left out because something later hides it.
const STORED: &str = "
    SELECT concat_ws('|', e.tenant_id, e.entity_id, n.entity_type, n.external_id, coalesce(a.attribute_id::text, '-'),
        coalesce(a.name, '-'), coalesce(a.type, '-'), (extract(epoch FROM e.observed_at) * 1000000)::bigint, e.seq,
        CASE e.op WHEN 'p' THEN 'patch' WHEN 'r' THEN 'replace' WHEN 'd' THEN 'delete' ELSE 'correct' END,
        e.batch_id, (extract(epoch FROM e.ingested_at) * 1000000)::bigint,
        coalesce(CASE WHEN a.type = 'int' THEN f.value #>> '{}' END, '-'),
        coalesce(CASE WHEN a.type = 'float' THEN (f.value #>> '{}')::double precision::text END, '-'),
        coalesce(CASE WHEN a.type = 'decimal' THEN ((f.value #>> '{}')::numeric * 1000000000000)::numeric(60, 0)::text END, '-'),
        coalesce(CASE WHEN a.type = 'text' THEN f.value #>> '{}' END, '-'),
        coalesce(CASE WHEN a.type = 'bool' THEN f.value #>> '{}' END, '-'),
        coalesce(CASE WHEN a.type = 'time' THEN ((extract(epoch FROM (f.value #>> '{}')::timestamptz) * 1000000)::bigint)::text END, '-'),
        coalesce(CASE WHEN a.type = 'json' AND f.value <> 'null' THEN f.value::text END, '-'),
        CASE WHEN f.value = 'null' THEN 'true' ELSE 'false' END)
    FROM sheaf.entity_events e
    JOIN sheaf.entities n ON n.tenant_id = e.tenant_id AND n.entity_id = e.entity_id
    CROSS JOIN LATERAL (
        SELECT j.key, j.value FROM jsonb_each(e.attrs) j
        UNION ALL
        SELECT NULL, NULL WHERE e.op IN ('r', 'd') OR e.attrs = '{}'
    ) f
    LEFT JOIN sheaf.attributes a ON a.tenant_id = e.tenant_id AND a.attribute_id = f.key::bigint";

struct Running {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

struct Source {
    world: World,
    writer: Writer,
    scope: TenantScope,
}

impl Source {
    async fn create() -> Result<Source> {
        let database = TestDatabase::create().await?;
        let grant = format!(
            "GRANT CREATE ON DATABASE {} TO sheaf_owner",
            database.name()
        );
        database.superuser().await?.batch_execute(&grant).await?;
        let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
        let policy = TenantPolicy::default();
        let tenant = create_tenant(&app, &Name::parse("acme")?, &policy, Timestamp::now()).await?;
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let of_writer = Pool::new(&database.config("sheaf_writer"), 4, &Tls::none());
        let (writer, _lanes) = Writer::start(app, of_writer, settings, catalogues, Limits::DEFAULT);
        Ok(Source {
            world: World {
                database,
                dir: ScratchDir::new("streamed")?,
            },
            writer,
            scope: TenantScope::authenticated(tenant.context("a new name")?),
        })
    }

    async fn ingest(&self, lines: Vec<String>) -> Result<()> {
        let request = IngestRequest {
            body: Bytes::from(lines.join("\n")),
            format: BodyFormat::Ndjson,
            ack: Ack::Durable,
            on_error: OnError::Partial,
            idempotency_key: None,
            received_at: Timestamp::now(),
        };
        self.writer.ingest(&self.scope, request).await?;
        Ok(())
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.world.database.superuser().await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// A stream into the lake, in small parts.
    fn stream(&self) -> Result<Running> {
        let options = StreamOptions {
            tick_every: Duration::from_millis(50),
            store_every: Duration::from_millis(100),
            snapshot_rows: 40,
            batch_changes_max: 30,
            retry_after: Duration::from_millis(100),
            ..StreamOptions::new(format!("slot_{}", self.world.database.name()))
        };
        let mut lake = self.world.options("sheaf");
        lake.pending_bytes_max = 20_000;
        lake.pending_age_max = Duration::from_millis(200);
        let sink: Box<dyn Sink> = Box::new(LakeSink::new(&self.world.cdc(), lake)?);
        let config = self.world.database.config("sheaf_cdc");
        let (stream, _) =
            ChangeStream::new(self.world.cdc(), config, Tls::none(), options, vec![sink]);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            stream.run(stopped).await.expect("nothing stops it but us");
        });
        Ok(Running { task, stop })
    }

    async fn stored(&self) -> Result<Vec<String>> {
        let client = self.world.database.superuser().await?;
        let rows = client.query(STORED, &[]).await?;
        let mut facts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        facts.sort();
        Ok(facts)
    }

    async fn in_lake(&self) -> Result<Vec<String>> {
        let rows = self.world.rows("sheaf", "facts").await?;
        let mut facts: Vec<String> = rows.iter().map(text_of).collect();
        facts.sort();
        Ok(facts)
    }

    async fn require_all_once(&self) -> Result<()> {
        let stored = self.stored().await?;
        ensure!(!stored.is_empty(), "there are facts");
        wait_until(
            "the lake holds as many facts as the database",
            WITHIN,
            async || {
                self.in_lake()
                    .await
                    .is_ok_and(|facts| facts.len() >= stored.len())
            },
        )
        .await;
        let found = self.in_lake().await?;
        for (stored, found) in stored.iter().zip(&found) {
            assert_eq!(stored, found);
        }
        assert_eq!(stored.len(), found.len());
        Ok(())
    }
}

fn text_of(row: &Row) -> String {
    let columns = COLUMNS.map(|name| row.get(name).map_or("-", String::as_str));
    columns.join("|")
}

fn line(entity: usize, second: usize, attributes: &str) -> String {
    let time = format!(
        "2024-02-{:02}T00:{:02}:{:02}Z",
        27 + second % 3,
        second / 60 % 60,
        second % 60
    );
    format!(
        r#"{{"type":"thing","id":"t{entity}","observed_at":"{time}","attributes":{attributes}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_holds_every_fact_of_the_database_once_through_restarts() -> Result<()> {
    let source = Source::create().await?;
    let whole = |number: usize| {
        format!(
            r#"{{"temp":{number}.25,"count":{number},"name":"n {number}","on":true,"doc":{{"a":[{number}]}},"gone":null}}"#
        )
    };
    // Before the stream begins: these come by a snapshot.
    let lines = (0..150).map(|number| line(number % 40, number, &whole(number)));
    source.ingest(lines.collect()).await?;
    let running = source.stream()?;
    // Merges, corrections and late events, while the snapshot is read.
    for round in 0..4 {
        let lines = (0..60).map(|number| {
            let place = number * 2 + round;
            line(
                place % 50,
                place,
                &format!(r#"{{"temp":{place}.75,"more{round}":{place}}}"#),
            )
        });
        source.ingest(lines.collect()).await?;
    }
    source.require_all_once().await?;
    // A process that ends, here in the middle of whatever it does, and another.
    running.task.abort();
    let _ = running.task.await;
    let lines = (0..80).map(|number| line(100 + number, number, &whole(number)));
    source.ingest(lines.collect()).await?;
    let again = source.stream()?;
    source
        .execute(
            "INSERT INTO sheaf.entity_events
             SELECT tenant_id, entity_id, observed_at, seq + 100, 'r', batch_id, ingested_at, attrs FROM sheaf.entity_events
             WHERE entity_id % 7 = 0 AND seq = 0;
             INSERT INTO sheaf.entity_events
             SELECT tenant_id, entity_id, observed_at, seq + 200, 'd', batch_id, ingested_at, '{}' FROM sheaf.entity_events
             WHERE entity_id % 5 = 0 AND seq = 0",
        )
        .await?;
    source.require_all_once().await?;
    again.stop.send_replace(true);
    again.task.await?;
    source.ingest(vec![line(7, 7, r#"{"temp":-1.5}"#)]).await?;
    let third = source.stream()?;
    source.require_all_once().await?;
    third.stop.send_replace(true);
    third.task.await?;
    // The catalogues are what they are in the database.
    for (table, column) in [
        ("entities", "external_id"),
        ("attributes", "name"),
        ("tenants", "name"),
    ] {
        let client = source.world.database.superuser().await?;
        let sql = format!("SELECT {column} FROM sheaf.{table}");
        let rows = client.query(&sql, &[]).await?;
        let mut stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let rows = source.world.rows("sheaf", table).await?;
        let mut found: Vec<String> = rows.iter().map(|row| row[column].clone()).collect();
        stored.sort();
        found.sort();
        assert_eq!(stored, found, "{table}");
    }
    Ok(())
}
