//! A database with a writer and a change stream into a file.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use sheaf_cdc::change::{Batch, Progress};
use sheaf_cdc::file::FileSink;
use sheaf_cdc::letter::{Letter, Refusal};
use sheaf_cdc::sink::{Held, Sink, SinkError, SinkFuture};
use sheaf_cdc::status::{SinkState, StreamStatus};
use sheaf_cdc::stream::{ChangeStream, StreamError, StreamOptions};
use sheaf_ingest::{Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, Writer};
use sheaf_model::{ChangePosition, Limits, Name, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{ScratchDir, TestCluster, TestDatabase, wait_until};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub(crate) const WITHIN: Duration = Duration::from_secs(120);

/// A database of the test's own, with one tenant and a writer.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) app: Pool,
    pub(crate) writer: Writer,
    pub(crate) scope: TenantScope,
    pub(crate) dir: ScratchDir,
}

impl World {
    pub(crate) async fn create() -> Result<World> {
        World::create_in(&TestCluster::shared().await?).await
    }

    pub(crate) async fn create_in(cluster: &Arc<TestCluster>) -> Result<World> {
        let database = TestDatabase::create_in(cluster).await?;
        let name = database.name();
        // As in a database that was migrated itself: a copy of a template has not its rights.
        database
            .superuser()
            .await?
            .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
            .await?;
        let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
        let policy = TenantPolicy::default();
        let tenant = create_tenant(&app, &Name::parse("acme")?, &policy, Timestamp::now()).await?;
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let of_writer = Pool::new(&database.config("sheaf_writer"), 4, &Tls::none());
        let (writer, _lanes) = Writer::start(
            app.clone(),
            of_writer,
            settings,
            catalogues,
            Limits::DEFAULT,
        );
        Ok(World {
            scope: TenantScope::authenticated(tenant.context("a new name")?),
            dir: ScratchDir::new("changes")?,
            database,
            app,
            writer,
        })
    }

    pub(crate) fn slot(&self) -> String {
        format!("slot_{}", self.database.name())
    }

    /// Quick, and with small parts, so that little data meets every boundary.
    pub(crate) fn options(&self) -> StreamOptions {
        StreamOptions {
            tick_every: Duration::from_millis(50),
            store_every: Duration::from_millis(50),
            idle_confirm_every: Duration::from_millis(200),
            measure_every: Duration::from_millis(200),
            snapshot_rows: 50,
            batch_changes_max: 20,
            retry_after: Duration::from_millis(100),
            ..StreamOptions::new(self.slot())
        }
    }

    pub(crate) fn cdc(&self) -> Pool {
        Pool::new(&self.database.config("sheaf_cdc"), 6, &Tls::none())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file_sink(&self, name: &str) -> Box<dyn Sink> {
        Box::new(FileSink::new(name, &self.path(name)))
    }

    /// Starts a stream into these sinks.
    pub(crate) fn stream(&self, options: StreamOptions, sinks: Vec<Box<dyn Sink>>) -> Running {
        let config = self.database.config("sheaf_cdc");
        let (stream, status) = ChangeStream::new(self.cdc(), config, Tls::none(), options, sinks);
        let (stop, stopped) = watch::channel(false);
        Running {
            task: tokio::spawn(stream.run(stopped)),
            stop,
            status,
        }
    }

    /// Starts a stream, and waits until all of its sinks have their snapshot.
    pub(crate) async fn streaming(
        &self,
        options: StreamOptions,
        sinks: Vec<Box<dyn Sink>>,
    ) -> Running {
        let count = sinks.len();
        let mut running = self.stream(options, sinks);
        running
            .wait_for("it streams", |status| {
                let sinks = status.sinks.iter();
                sinks
                    .filter(|sink| sink.state == SinkState::Streaming)
                    .count()
                    == count
            })
            .await;
        running
    }

    pub(crate) async fn ingest(&self, lines: &[String]) -> Result<IngestAnswer> {
        let request = IngestRequest {
            body: Bytes::from(lines.join("\n")),
            format: BodyFormat::Ndjson,
            ack: Ack::Durable,
            on_error: OnError::Partial,
            idempotency_key: None,
            received_at: Timestamp::now(),
        };
        Ok(self.writer.ingest(&self.scope, request).await?)
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.database.superuser().await?.batch_execute(sql).await?)
    }

    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let client = self.database.superuser().await?;
        let row = client.query_one(sql, &[]).await?;
        Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
    }

    /// Waits until the file holds every event of the database, and requires that it holds each once and nothing else.
    pub(crate) async fn require_all_events_once(&self, file: &str) -> Result<()> {
        let client = self.database.superuser().await?;
        wait_until(
            "the file holds as many events as the database",
            WITHIN,
            async || {
                let stored = events(&client).await.unwrap_or_default().len();
                let lines = self.lines(file).unwrap_or_default();
                lines
                    .iter()
                    .filter(|line| table(line) == "entity_events")
                    .count()
                    >= stored
            },
        )
        .await;
        let stored = events(&client).await?;
        ensure!(!stored.is_empty(), "there are events");
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for line in self.lines(file)? {
            if table(&line) == "entity_events" {
                *found.entry(event_text(&line["after"])).or_default() += 1;
            }
        }
        let twice: Vec<_> = found
            .iter()
            .filter(|(_, times)| **times > 1)
            .take(5)
            .collect();
        assert!(twice.is_empty(), "more than once: {twice:?}");
        let missing: Vec<_> = stored
            .iter()
            .filter(|event| !found.contains_key(*event))
            .take(5)
            .collect();
        assert!(missing.is_empty(), "missing: {missing:?}");
        let others: Vec<_> = found
            .keys()
            .filter(|event| !stored.contains(event))
            .take(5)
            .collect();
        assert!(others.is_empty(), "not in the database: {others:?}");
        self.require_order(file)
    }

    /// Positions rise within each origin, and each line says what is held with it.
    fn require_order(&self, file: &str) -> Result<()> {
        let mut last: BTreeMap<String, ChangePosition> = BTreeMap::new();
        for line in self.lines(file)? {
            let source = &line["source"];
            let position: ChangePosition = source["position"].as_str().context("text")?.parse()?;
            let origin = source["snapshot"].to_string();
            let before = last.insert(origin, position);
            ensure!(before < Some(position), "{position} after {before:?}");
        }
        Ok(())
    }

    /// The whole lines of a file.
    pub(crate) fn lines(&self, file: &str) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.path(file))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// The last state of each row of a catalogue, as a reader of the file has it: by position, the unavailable kept.
    pub(crate) fn catalogue(
        &self,
        file: &str,
        of: &str,
        key: &str,
    ) -> Result<BTreeMap<i64, Value>> {
        let mut rows: BTreeMap<i64, (ChangePosition, Value)> = BTreeMap::new();
        for line in self.lines(file)? {
            if table(&line) != of {
                continue;
            }
            let position = line["source"]["position"]
                .as_str()
                .context("text")?
                .parse()?;
            let mut after = line["after"].clone();
            let key = after[key].as_i64().context("a key")?;
            if let Some((before, row)) = rows.get(&key) {
                if *before > position {
                    continue;
                }
                for (name, value) in after.as_object_mut().context("an object")? {
                    if value == "__debezium_unavailable_value" {
                        *value = row[name].clone();
                    }
                }
            }
            rows.insert(key, (position, after));
        }
        Ok(rows.into_iter().map(|(key, (_, row))| (key, row)).collect())
    }

    /// The database's clock has been reached by the slot: everything before is confirmed.
    pub(crate) async fn wait_confirmed(&self) -> Result<()> {
        let written = self
            .text("SELECT pg_current_wal_insert_lsn()::text")
            .await?;
        let slot = self.slot();
        let reached = format!(
            "SELECT (confirmed_flush_lsn >= '{written}')::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        wait_until("the slot is confirmed up to now", WITHIN, async || {
            self.text(&reached)
                .await
                .is_ok_and(|reached| reached == "true")
        })
        .await;
        Ok(())
    }
}

pub(crate) fn table(line: &Value) -> &str {
    line["source"]["table"].as_str().unwrap_or_default()
}

/// Every event of the database as one text each.
pub(crate) async fn events(client: &Client) -> Result<Vec<String>> {
    let sql = "SELECT format('%s/%s/%s/%s/%s/%s/%s/%s', tenant_id, entity_id,
            (extract(epoch FROM observed_at) * 1000000)::bigint, seq, op, batch_id,
            (extract(epoch FROM ingested_at) * 1000000)::bigint, attrs)
        FROM sheaf.entity_events ORDER BY 1";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// An event of the file as the same text.
fn event_text(after: &Value) -> String {
    let text = |name: &str| match &after[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let time = |name: &str| {
        let (time, _) = Timestamp::parse(&text(name)).expect("a time");
        time.as_micros().to_string()
    };
    [
        text("tenant_id"),
        text("entity_id"),
        time("observed_at"),
        text("seq"),
        text("op"),
        text("batch_id"),
        time("ingested_at"),
        text("attrs"),
    ]
    .join("/")
}

/// One event as a line: in one of three partitions, those of 2022 to 2024.
pub(crate) fn event(id: usize, minute: usize, value: usize) -> String {
    format!(
        r#"{{"type":"device","id":"d{id}","observed_at":"{}-02-05T{:02}:{:02}:00Z","attributes":{{"a":{value},"b":"x{id}"}}}}"#,
        2022 + minute % 3,
        minute / 60 % 24,
        minute % 60
    )
}

/// A stream that runs.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<Result<(), StreamError>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) status: watch::Receiver<StreamStatus>,
}

impl Running {
    /// As after `kill -9`: no further step of it is done.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        Ok(self.task.await??)
    }

    pub(crate) async fn wait_for(&mut self, claim: &str, holds: impl Fn(&StreamStatus) -> bool) {
        let mut status = self.status.clone();
        let found = tokio::time::timeout(WITHIN, status.wait_for(|status| holds(status))).await;
        let is_found = matches!(found, Ok(Ok(_)));
        assert!(
            is_found,
            "{claim}: {:?}, ended {}",
            self.status.borrow(),
            self.task.is_finished()
        );
    }
}

/// Where a sink stands still, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandAt {
    /// It was handed a batch and has not looked at it.
    BeforeApply,
    /// It holds the batch and has not said so.
    AfterApply,
    /// It was asked to make things durable.
    AtFlush,
}

/// A file that stands still, or fails, when it is told to.
pub(crate) struct Moody {
    inner: FileSink,
    pub(crate) mood: Arc<Mood>,
}

/// What a sink does next.
#[derive(Debug, Default)]
pub(crate) struct Mood {
    /// Calls that go well before it stands still; 0 for ever well.
    stand_after: AtomicUsize,
    stand_at: std::sync::Mutex<Option<StandAt>>,
    stands: AtomicBool,
    fails: AtomicBool,
    pub(crate) failed: AtomicUsize,
}

impl Mood {
    pub(crate) fn stand(&self, at: StandAt, after: usize) {
        *self.stand_at.lock().expect("not poisoned") = Some(at);
        self.stand_after.store(after, Ordering::SeqCst);
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    pub(crate) fn stands(&self) -> bool {
        self.stands.load(Ordering::SeqCst)
    }

    async fn maybe_stand(&self, here: StandAt) {
        if *self.stand_at.lock().expect("not poisoned") != Some(here) {
            return;
        }
        if self.stand_after.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.stands.store(true, Ordering::SeqCst);
            pending::<()>().await;
        }
    }

    fn maybe_fail(&self, sink: &str) -> Result<(), SinkError> {
        if !self.fails.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.failed.fetch_add(1, Ordering::SeqCst);
        Err(SinkError {
            sink: sink.to_owned(),
            step: "being sick",
            source: "it is sick".into(),
        })
    }
}

impl Moody {
    pub(crate) fn over(world: &World, name: &str) -> (Box<dyn Sink>, Arc<Mood>) {
        let mood = Arc::new(Mood::default());
        let sink = Moody {
            inner: FileSink::new(name, &world.path(name)),
            mood: Arc::clone(&mood),
        };
        (Box::new(sink), mood)
    }
}

impl Sink for Moody {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async {
            self.mood.maybe_fail(self.inner.name())?;
            self.inner.held().await
        })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.inner.begin(base)
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(async {
            self.mood.maybe_stand(StandAt::BeforeApply).await;
            self.mood.maybe_fail(self.inner.name())?;
            let progress = self.inner.apply(batch).await?;
            self.mood.maybe_stand(StandAt::AfterApply).await;
            Ok(progress)
        })
    }

    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        self.inner.replay(letters)
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(async {
            self.mood.maybe_stand(StandAt::AtFlush).await;
            self.inner.flush().await
        })
    }
}
