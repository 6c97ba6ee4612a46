//! From requests through PostgreSQL's own log into the lake: it holds every fact of the database once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_cdc::sink::Sink;
use sheaf_cdc::status::{SinkState, StreamStatus};
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_ingest::{Ack, BodyFormat, IngestRequest, OnError, Writer};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{Limits, Name, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{Injected, ScratchDir, TestCluster, TestDatabase, wait_until};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use crate::world::{Row, World};

pub(crate) const WITHIN: Duration = Duration::from_secs(120);
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

/// The facts of the database, each as one text, and whether something later of its instant hides it.
const STORED: &str = "
    SELECT EXISTS (
            SELECT FROM sheaf.entity_events l
            WHERE l.tenant_id = e.tenant_id AND l.entity_id = e.entity_id AND l.observed_at = e.observed_at AND l.seq > e.seq
                AND (l.op IN ('r', 'd') OR (f.key IS NOT NULL AND l.attrs ? f.key))),
        concat_ws('|', e.tenant_id, e.entity_id, n.entity_type, n.external_id, coalesce(a.attribute_id::text, '-'),
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

pub(crate) struct Running {
    pub(crate) task: JoinHandle<()>,
    pub(crate) status: watch::Receiver<StreamStatus>,
    pub(crate) stop: watch::Sender<bool>,
}

pub(crate) struct Source {
    pub(crate) world: World,
    writer: Writer,
    pub(crate) scope: TenantScope,
}

impl Source {
    pub(crate) async fn create() -> Result<Source> {
        Source::create_in(&TestCluster::shared().await?).await
    }

    pub(crate) async fn create_in(cluster: &Arc<TestCluster>) -> Result<Source> {
        let database = TestDatabase::create_in(cluster).await?;
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

    /// Another tenant.
    pub(crate) async fn tenant(&self, name: &str) -> Result<TenantScope> {
        let app = Pool::new(&self.world.database.config("sheaf_app"), 1, &Tls::none());
        let policy = TenantPolicy::default();
        let tenant = create_tenant(&app, &Name::parse(name)?, &policy, Timestamp::now()).await?;
        Ok(TenantScope::authenticated(tenant.context("a new name")?))
    }

    pub(crate) async fn ingest(&self, lines: Vec<String>) -> Result<()> {
        self.ingest_of(&self.scope, lines).await
    }

    pub(crate) async fn ingest_of(&self, scope: &TenantScope, lines: Vec<String>) -> Result<()> {
        let request = IngestRequest {
            body: Bytes::from(lines.join("\n")),
            format: BodyFormat::Ndjson,
            ack: Ack::Durable,
            on_error: OnError::Partial,
            idempotency_key: None,
            received_at: Timestamp::now(),
        };
        self.writer.ingest(scope, request).await?;
        Ok(())
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.world.database.superuser().await?;
        Ok(client.batch_execute(sql).await?)
    }

    /// A stream into the lake, in small parts.
    pub(crate) fn stream(&self) -> Result<Running> {
        self.stream_into(self.quick())
    }

    /// A lake that is written in small parts.
    pub(crate) fn quick(&self) -> LakeOptions {
        LakeOptions {
            pending_bytes_max: 20_000,
            pending_age_max: Duration::from_millis(200),
            corrections_age_max: Duration::from_millis(300),
            repairs_every: Duration::from_millis(300),
            join_commits: 8,
            ..self.world.options("sheaf")
        }
    }

    pub(crate) fn stream_into(&self, lake: LakeOptions) -> Result<Running> {
        let config = self.world.database.config("sheaf_cdc");
        self.stream_of(&config, &self.world.cdc(), lake)
    }

    /// The same of another server that has the database.
    pub(crate) fn stream_of(
        &self,
        config: &Config,
        cdc: &Pool,
        lake: LakeOptions,
    ) -> Result<Running> {
        let options = StreamOptions {
            tick_every: Duration::from_millis(50),
            store_every: Duration::from_millis(100),
            snapshot_rows: 40,
            batch_changes_max: 30,
            retry_after: Duration::from_millis(100),
            ..StreamOptions::new(self.slot())
        };
        let sink: Box<dyn Sink> = Box::new(LakeSink::new(cdc, lake)?);
        let (cdc, config) = (cdc.clone(), config.clone());
        let (stream, status) = ChangeStream::new(cdc, config, Tls::none(), options, vec![sink]);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            stream.run(stopped).await.expect("nothing stops it but us");
        });
        Ok(Running { task, status, stop })
    }

    pub(crate) fn slot(&self) -> String {
        format!("slot_{}", self.world.database.name())
    }

    /// The facts that count, and those that were replaced.
    async fn stored(&self) -> Result<[Vec<String>; 2]> {
        let client = self.world.database.superuser().await?;
        let mut stored: [Vec<String>; 2] = Default::default();
        for row in client.query(STORED, &[]).await? {
            stored[usize::from(row.get::<_, bool>(0))].push(row.get(1));
        }
        for facts in &mut stored {
            facts.sort();
        }
        Ok(stored)
    }

    async fn in_lake(&self) -> Result<[Vec<String>; 2]> {
        let mut found = [Vec::new(), Vec::new()];
        for (facts, table) in found.iter_mut().zip(["facts", "facts_corrected"]) {
            let rows = self.world.rows("sheaf", table).await?;
            facts.extend(rows.iter().map(text_of));
            facts.sort();
        }
        Ok(found)
    }

    pub(crate) async fn require_all_once(&self) -> Result<()> {
        let stored = self.stored().await?;
        ensure!(!stored[0].is_empty(), "there are facts");
        let count = |facts: &[Vec<String>; 2]| [facts[0].len(), facts[1].len()];
        wait_until(
            "the lake holds as many facts as the database, and has replaced as many",
            WITHIN,
            async || {
                let found = self.in_lake().await;
                found.is_ok_and(|found| count(&found) == count(&stored))
            },
        )
        .await;
        let found = self.in_lake().await?;
        for (stored, found) in stored.iter().flatten().zip(found.iter().flatten()) {
            assert_eq!(stored, found);
        }
        assert_eq!(count(&stored), count(&found));
        Ok(())
    }
}

fn text_of(row: &Row) -> String {
    let columns = COLUMNS.map(|name| row.get(name).map_or("-", String::as_str));
    columns.join("|")
}

pub(crate) fn line(entity: usize, second: usize, attributes: &str) -> String {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_attribute_that_there_is_not_is_put_aside_and_comes_once_when_there_is_one()
-> Result<()> {
    let injected = Injected::new("event with an attribute that there is not");
    let source = Source::create().await?;
    let line = |id: usize| {
        format!(
            r#"{{"type":"thing","id":"t{id}","observed_at":"2024-02-05T00:00:00Z","attributes":{{"n":{id}}}}}"#
        )
    };
    source.ingest((0..50).map(line).collect()).await?;
    let running = source.stream()?;
    source.require_all_once().await?;
    let poison = "INSERT INTO sheaf.entity_events SELECT n.tenant_id, n.entity_id, '2024-02-05T00:01:00Z', 0, 'p', gen_random_uuid(),
            now(), '{\"77777\": 5}' FROM sheaf.entities n ORDER BY n.entity_id LIMIT 3";
    source.execute(poison).await?;
    injected.count();
    source.ingest((50..100).map(line).collect()).await?;
    let client = source.world.database.superuser().await?;
    let letters = async |status: &str| {
        let sql = "SELECT count(*) FROM sheaf.dead_letters WHERE sink_name = 'lake' AND reason = 'unknown_attribute' AND status = $1";
        let row = client.query_one(sql, &[&status]).await?;
        anyhow::Ok(row.get::<_, i64>(0))
    };
    wait_until("the letters are there", WITHIN, async || {
        letters("open").await.is_ok_and(|count| count == 3)
    })
    .await;
    wait_until("what follows is in the lake", WITHIN, async || {
        source
            .in_lake()
            .await
            .is_ok_and(|[facts, _]| facts.len() == 100)
    })
    .await;
    let ask = async || {
        let sql = "SELECT count(*) FROM sheaf.ask_for_dead_letters(ARRAY(SELECT letter_id FROM sheaf.dead_letters), 'k', now())";
        anyhow::Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0))
    };
    assert_eq!(ask().await?, 3);
    wait_until("they have no place yet", WITHIN, async || {
        letters("open").await.is_ok_and(|count| count == 3)
    })
    .await;
    source
        .execute(
            "INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
             SELECT tenant_id, 77777, 'late', 'int', 'declared', 'cold', now() FROM sheaf.tenants",
        )
        .await?;
    assert_eq!(ask().await?, 3);
    wait_until("they are taken", WITHIN, async || {
        letters("replayed").await.is_ok_and(|count| count == 3)
    })
    .await;
    source.require_all_once().await?;
    assert_eq!(ask().await?, 0, "twice changes nothing");
    // As after a crash between the lake's commit and the letters.
    source
        .execute("UPDATE sheaf.dead_letters SET status = 'replay_asked'")
        .await?;
    wait_until("they are taken", WITHIN, async || {
        letters("replayed").await.is_ok_and(|count| count == 3)
    })
    .await;
    source.ingest(vec![line(100)]).await?;
    source.require_all_once().await?;
    running.stop.send_replace(true);
    running.task.await?;
    source.require_all_once().await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_commits_what_was_too_young_before() -> Result<()> {
    let source = Source::create().await?;
    let running = source.stream_into(source.world.options("sheaf"))?;
    let lake = || async { source.in_lake().await.unwrap_or_default() };
    wait_until("the stream has begun", WITHIN, async || {
        let status = running.status.borrow().sinks.clone();
        status.iter().all(|sink| sink.state == SinkState::Streaming)
    })
    .await;
    let before = lake().await;
    let lines = (0..50).map(|number| line(number, number, r#"{"temp":1.5}"#));
    source.ingest(lines.collect()).await?;
    wait_until("the sink was given everything", WITHIN, async || {
        let status = running.status.borrow().sinks.clone();
        status.iter().all(|sink| sink.changes >= 100)
    })
    .await;
    assert_eq!(lake().await, before, "nothing is due");
    running.stop.send_replace(true);
    running.task.await?;
    assert_eq!(lake().await, source.stored().await?);
    Ok(())
}
