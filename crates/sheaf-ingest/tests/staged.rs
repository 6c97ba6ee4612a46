//! Staged requests beside durable ones: everything is there once, and the documents are the fold.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

mod world;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use sheaf_ingest::{
    Ack, BodyFormat, IngestAnswer, IngestRequest, OnError, Staging, StagingOptions, StagingPolicy,
    WriteError, Writer,
};
use sheaf_model::{BatchId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::settings::Settings;
use sheaf_store::staging::StagedState;
use sheaf_testkit::wait_until;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use world::World;

const WITHIN: Duration = Duration::from_secs(60);

/// A writer that stages, until it is stopped.
struct Server {
    writer: Writer,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    async fn start(world: &World, flush_every: Duration) -> Result<Server> {
        let options = StagingOptions {
            flush_every,
            age_max: Duration::from_secs(3600),
            ..StagingOptions::default()
        };
        Server::start_with(world, options).await
    }

    async fn start_with(world: &World, options: StagingOptions) -> Result<Server> {
        let config = world.database.config("sheaf_writer");
        let settings = Arc::new(Settings::read(&world.app).await?);
        let (stop, stopped) = watch::channel(false);
        let pool = Pool::new(&config, options.flushers + 3, &Tls::none());
        let (staging, tasks) = Staging::start(pool, settings, options, &stopped);
        let writer = world.another_writer().await?.staging_through(staging);
        Ok(Server {
            writer,
            stop,
            tasks,
        })
    }

    /// One that flushes at its end and, once it has seen that nothing is there, not before.
    async fn start_lazy(world: &World) -> Result<Server> {
        Server::start(world, WITHIN * 60).await
    }

    /// One that flushes as late, and stores durably whatever is to be staged while anything waits.
    async fn start_impatient(world: &World) -> Result<Server> {
        let options = StagingOptions {
            flush_every: WITHIN * 60,
            age_max: Duration::ZERO,
            policy: StagingPolicy::TurnDurable,
            ..StagingOptions::default()
        };
        Server::start_with(world, options).await
    }

    async fn ingest(
        &self,
        world: &World,
        ack: Ack,
        key: Option<&str>,
        body: String,
    ) -> Result<IngestAnswer, WriteError> {
        let request = IngestRequest {
            body: Bytes::from(body),
            format: BodyFormat::Ndjson,
            ack,
            on_error: OnError::Partial,
            idempotency_key: key.map(str::to_owned),
            received_at: Timestamp::now(),
        };
        self.writer.ingest(&world.scope, request).await
    }

    async fn state(&self, world: &World, batch: BatchId) -> Option<StagedState> {
        let status = self.writer.staged_status(&world.scope, batch).await;
        status.ok().flatten().map(|status| status.state)
    }

    /// Flushes what is left.
    async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await?;
        }
        Ok(())
    }
}

/// One event of each entity, at `second`.
fn lines(entities: std::ops::Range<usize>, second: usize, value: usize) -> String {
    let line = |entity: usize| {
        format!(
            r#"{{"type":"device","id":"d{entity}","observed_at":"2024-01-01T00:00:{second:02}Z","attributes":{{"a":{value},"b":{entity}}}}}"#
        )
    };
    entities.map(line).collect::<Vec<_>>().join("\n")
}

/// An event without a time: each time that it is stored, it is a further one.
fn timeless(id: &str, value: usize) -> String {
    format!(r#"{{"type":"device","id":"{id}","attributes":{{"a":{value}}}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_and_flushes_write_the_same_entities_and_lose_nothing() -> Result<()> {
    let world = World::create(true).await?;
    let every = Duration::from_millis(10);
    let servers = [
        Server::start(&world, every).await?,
        Server::start(&world, every).await?,
    ];
    // Every second is written once durably and once staged, of each server; the values meet, correct and repeat.
    let writes = (0..80).map(|at| {
        let ack = if at % 2 == 0 {
            Ack::Staged
        } else {
            Ack::Durable
        };
        let body = lines(0..100, at / 4, at % 3);
        servers[(at / 2) % 2].ingest(&world, ack, None, body)
    });
    let answers = try_join_all(writes).await?;
    let staged: Vec<BatchId> = answers
        .iter()
        .filter(|answer| answer.position.is_none())
        .map(|answer| answer.batch)
        .collect();
    assert_eq!(staged.len(), 40);
    wait_until("every staged batch is durable", WITHIN, async || {
        for batch in &staged {
            if servers[0].state(&world, *batch).await != Some(StagedState::Durable) {
                return false;
            }
        }
        true
    })
    .await;
    let sql = "SELECT concat_ws(' ', count(*) FILTER (WHERE seq = 0), count(DISTINCT (entity_id, observed_at)))
        FROM sheaf.entity_events";
    assert_eq!(world.text(sql).await?, "2000 2000");
    let sql = "SELECT (sum(accepted) + sum(duplicates) + sum(merged) + sum(corrected))::text FROM sheaf.ingest_parts";
    assert_eq!(world.text(sql).await?, "8000", "each event is counted once");
    for server in servers {
        server.stop().await?;
    }
    world.assert_consistent().await
}

#[tokio::test]
async fn a_flush_after_later_durable_events_stores_the_earlier_ones_behind_them() -> Result<()> {
    let world = World::create(true).await?;
    let server = Server::start_lazy(&world).await?;
    let early = server
        .ingest(&world, Ack::Staged, None, lines(0..3, 1, 1))
        .await?;
    let last = server
        .ingest(&world, Ack::Staged, None, timeless("d0", 4))
        .await?;
    assert_eq!((early.position, early.counts.values), (None, 6));
    server
        .ingest(&world, Ack::Durable, None, lines(0..3, 2, 2))
        .await?;
    server
        .ingest(&world, Ack::Durable, None, timeless("d0", 3))
        .await?;
    assert_eq!(
        server.state(&world, last.batch).await,
        Some(StagedState::Staged)
    );
    let stored = "SELECT string_agg(external_id || '=' || coalesce(hot_attrs ->> k, cold_attrs ->> k), ' ' ORDER BY external_id)
        FROM sheaf.entity_jsonb JOIN sheaf.entities USING (tenant_id, entity_id),
            (SELECT attribute_id::text AS k FROM sheaf.attributes WHERE name = 'a') a";
    assert_eq!(world.text(stored).await?, "d0=3.0 d1=2.0 d2=2.0");
    server.stop().await?;
    let claim = "late ones are behind, and one without a time comes after everything that is there";
    assert_eq!(world.text(stored).await?, "d0=4.0 d1=2.0 d2=2.0", "{claim}");
    let events = "SELECT count(*)::text FROM sheaf.entity_events WHERE seq = 0";
    assert_eq!(world.text(events).await?, "8");
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_staged_on_two_servers_at_once_is_stored_once() -> Result<()> {
    let world = World::create(true).await?;
    let every = Duration::from_millis(1);
    let one = Server::start(&world, every).await?;
    let two = Server::start(&world, every).await?;
    for round in 0..20 {
        let key = format!("k{round}");
        let body = || timeless("d0", round);
        let (first, second) = futures::join!(
            one.ingest(&world, Ack::Staged, Some(&key), body()),
            two.ingest(&world, Ack::Staged, Some(&key), body()),
        );
        let (first, second) = (first?, second?);
        assert_eq!(first.batch, second.batch);
        assert!(first.replayed != second.replayed, "one of them was first");
        let mut again = one.ingest(&world, Ack::Staged, Some(&key), body()).await?;
        assert!(again.replayed);
        (again.replayed, again.written) = (first.replayed, first.written);
        assert_eq!(again, first, "before and after its flush");
        let durable = two.ingest(&world, Ack::Durable, Some(&key), body()).await;
        assert!(matches!(durable, Err(WriteError::KeyReused)), "{durable:?}");
    }
    one.stop().await?;
    two.stop().await?;
    let events = "SELECT count(*)::text FROM sheaf.entity_events";
    assert_eq!(world.text(events).await?, "20");
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_staged_on_one_server_and_turned_durable_on_another_is_stored_once()
-> Result<()> {
    let world = World::create(true).await?;
    let (stages, turns) = (
        Server::start_lazy(&world).await?,
        Server::start_impatient(&world).await?,
    );
    let staged = Ack::Staged;
    stages
        .ingest(&world, staged, None, timeless("old", 0))
        .await?;
    wait_until("a request is turned durable", WITHIN, async || {
        let answer = turns.ingest(&world, staged, None, timeless("old", 1)).await;
        answer.is_ok_and(|answer| answer.position.is_some())
    })
    .await;
    // Each way is stopped just before it takes the key, and the other one finds it on its way.
    for (table, ack) in [("ingest_requests", "durable"), ("staged_batches", "staged")] {
        let client = world.database.superuser().await?;
        let lock = format!("BEGIN; LOCK TABLE sheaf.{table} IN SHARE MODE");
        client.batch_execute(&lock).await?;
        let waiting = async |count: &str| {
            let sql = "SELECT count(*)::text FROM pg_locks WHERE NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            let found = world.text(sql).await;
            found.is_ok_and(|found| found == count)
        };
        let (first, second) = if ack == "durable" {
            (&turns, &stages)
        } else {
            (&stages, &turns)
        };
        let body = || timeless("d0", 1);
        let release = async {
            wait_until("both wait", WITHIN, async || waiting("2").await).await;
            client.batch_execute("COMMIT").await
        };
        let behind = async {
            wait_until("the first waits", WITHIN, async || waiting("1").await).await;
            second.ingest(&world, staged, Some(table), body()).await
        };
        let ahead = first.ingest(&world, staged, Some(table), body());
        let (ahead, behind, released) = futures::join!(ahead, behind, release);
        released?;
        let (ahead, behind) = (ahead?, behind?);
        assert_eq!((ahead.batch, ahead.ack.as_str()), (behind.batch, ack));
        assert_eq!(behind.ack, ahead.ack, "one answer");
        println!("injected same_key_{ack}: 1");
    }
    stages.stop().await?;
    turns.stop().await?;
    let events = "SELECT count(*)::text FROM sheaf.entity_events JOIN sheaf.entities USING (tenant_id, entity_id)
        WHERE external_id = 'd0'";
    assert_eq!(world.text(events).await?, "2", "each key once");
    world.assert_consistent().await
}

#[tokio::test]
async fn a_server_that_does_not_stage_says_so_and_still_answers_for_what_was_staged() -> Result<()>
{
    let world = World::create(true).await?;
    let server = Server::start_lazy(&world).await?;
    let answer = server
        .ingest(&world, Ack::Staged, Some("k"), timeless("d0", 1))
        .await?;
    let request = IngestRequest {
        body: Bytes::from(timeless("d0", 1)),
        format: BodyFormat::Ndjson,
        ack: Ack::Staged,
        on_error: OnError::Partial,
        idempotency_key: Some("k".to_owned()),
        received_at: Timestamp::now(),
    };
    let refused = world.writer.ingest(&world.scope, request).await;
    assert!(matches!(refused, Err(WriteError::NoStaging)), "{refused:?}");
    let status = world.writer.staged_status(&world.scope, answer.batch);
    let status = status.await?.context("it is staged")?;
    assert_eq!(status.state, StagedState::Staged);
    server.stop().await
}
