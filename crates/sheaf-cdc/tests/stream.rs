//! From what writers commit to a file that holds each of it once, through stops of every kind.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use sheaf_cdc::change::{Batch, Origin, Progress};
use sheaf_cdc::sink::{Held, Sink, SinkFuture};
use sheaf_cdc::status::SinkState;
use sheaf_model::ChangePosition;
use sheaf_testkit::{Injected, wait_until};
use world::{Moody, StandAt, WITHIN, World, event, table};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_and_what_comes_is_in_the_file_once() -> Result<()> {
    let world = World::create().await?;
    let before: Vec<String> = (0..130).map(|n| event(n, n, n)).collect();
    world.ingest(&before).await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    let after: Vec<String> = (0..130).map(|n| event(n, 500 + n, n)).collect();
    world.ingest(&after).await?;
    // A correction and a merge are further rows.
    world.ingest(&[event(3, 503, 1000)]).await?;
    world.require_all_events_once("file").await?;
    let origins: Vec<bool> = world
        .lines("file")?
        .iter()
        .filter(|line| table(line) == "entity_events")
        .map(|line| line["op"] == "r")
        .collect();
    assert_eq!(origins.iter().filter(|is_read| **is_read).count(), 130);
    let names = world.catalogue("file", "entities", "entity_id")?;
    assert_eq!(names.len(), 130);
    assert!(names.values().any(|row| row["external_id"] == "d129"));
    let attributes = world.catalogue("file", "attributes", "attribute_id")?;
    assert_eq!(attributes.len(), 2);
    world.wait_confirmed().await?;
    running.stop().await
}

/// Writers at work: single requests, and staged ones that a flush moves in subtransactions.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Writers {
    fn start(world: &Arc<World>) -> Writers {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = Vec::new();
        for lane in 0..2 {
            let (world, stop, written) =
                (Arc::clone(world), Arc::clone(&stop), Arc::clone(&written));
            tasks.push(tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Ordering::SeqCst) {
                    round += 1;
                    let lines: Vec<String> = (0..7)
                        .map(|n| event(lane * 1000 + n + round % 50, round, round))
                        .collect();
                    world.ingest(&lines).await?;
                    written.fetch_add(lines.len(), Ordering::SeqCst);
                }
                Ok(())
            }));
        }
        // Rows whose xmin is that of a subtransaction, under the locks that every writer takes.
        let (world, stop) = (Arc::clone(world), Arc::clone(&stop));
        let stopped = Arc::clone(&stop);
        tasks.push(tokio::spawn(async move {
            let client = world.database.superuser().await?;
            let mut round = 0;
            while !stopped.load(Ordering::SeqCst) {
                round += 1;
                client
                    .batch_execute(&format!(
                        "BEGIN;
                         SELECT pg_advisory_xact_lock(24239, b) FROM generate_series(0, 63) b;
                         SAVEPOINT one;
                         INSERT INTO sheaf.entity_events SELECT t.tenant_id, 900000 + n, '2024-02-05Z'::timestamptz + interval '1 second' * {round},
                             0, 'p', gen_random_uuid(), now(), '{{}}' FROM sheaf.tenants t, generate_series(1, 3) n;
                         RELEASE one; SAVEPOINT two;
                         INSERT INTO sheaf.entity_events SELECT t.tenant_id, 800000, '2024-02-05Z'::timestamptz + interval '1 second' * {round},
                             0, 'p', gen_random_uuid(), now(), '{{}}' FROM sheaf.tenants t;
                         ROLLBACK TO two; RELEASE two;
                         COMMIT"
                    ))
                    .await?;
            }
            Ok(())
        }));
        Writers {
            stop,
            written,
            tasks,
        }
    }

    async fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await??;
        }
        Ok(self.written.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_among_writers_is_whole_however_often_its_reader_is_killed() -> Result<()> {
    let world = Arc::new(World::create().await?);
    for part in 0..4 {
        let lines: Vec<String> = (0..300).map(|n| event(n, part * 300 + n, n)).collect();
        world.ingest(&lines).await?;
    }
    let writers = Writers::start(&world);
    let killed = Injected::new("kill while a sink takes a batch");
    for (round, at) in [
        StandAt::AfterApply,
        StandAt::BeforeApply,
        StandAt::AfterApply,
        StandAt::AtFlush,
        StandAt::AfterApply,
        StandAt::BeforeApply,
        StandAt::AfterApply,
        StandAt::AfterApply,
    ]
    .into_iter()
    .enumerate()
    {
        let (sink, mood) = Moody::over(&world, "file");
        mood.stand(at, 2 + round % 5);
        let running = world.stream(world.options(), vec![sink]);
        wait_until("the sink stands still", WITHIN, async || mood.stands()).await;
        running.kill().await;
        killed.count();
    }
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    let written = writers.end().await?;
    assert!(written > 0, "writers wrote");
    world.require_all_events_once("file").await?;
    let lines = world.lines("file")?;
    let read = lines.iter().filter(|line| line["op"] == "r").count();
    let bases: std::collections::BTreeSet<String> = lines
        .iter()
        .map(|line| line["source"]["base"].to_string())
        .collect();
    assert_eq!(bases.len(), 1, "one snapshot, gone on with: {bases:?}");
    assert!(
        read > 1200 && read < lines.len(),
        "{read} of {} lines",
        lines.len()
    );
    running.stop().await?;
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_killed_anywhere_goes_on_and_loses_and_doubles_nothing() -> Result<()> {
    let world = Arc::new(World::create().await?);
    world.ingest(&[event(1, 2, 1)]).await?;
    let first = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    first.stop().await?;
    let writers = Writers::start(&world);
    let killed = Injected::new("kill of the stream");
    for round in 0..12 {
        let (sink, mood) = Moody::over(&world, "file");
        let mut options = world.options();
        // Sometimes nothing is ever stored, or stored and never confirmed.
        if round % 3 == 1 {
            options.store_every = std::time::Duration::from_secs(3600);
        }
        if round % 3 == 2 {
            options.tick_every = std::time::Duration::from_secs(3600);
        }
        let at = [StandAt::AfterApply, StandAt::BeforeApply][round % 2];
        mood.stand(at, 3 + round % 4);
        let running = world.stream(options, vec![sink]);
        wait_until("the sink stands still", WITHIN, async || mood.stands()).await;
        running.kill().await;
        killed.count();
    }
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    writers.end().await?;
    world.require_all_events_once("file").await?;
    world.wait_confirmed().await?;
    running.stop().await?;
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_stopped_is_sent_nothing_again() -> Result<()> {
    let world = World::create().await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    let lines: Vec<String> = (0..50).map(|n| event(n, n, n)).collect();
    world.ingest(&lines).await?;
    world.require_all_events_once("file").await?;
    running.stop().await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    world.wait_confirmed().await?;
    assert_eq!(
        running.status.borrow().changes,
        0,
        "{:?}",
        running.status.borrow()
    );
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_before_every_sink_holds_it() -> Result<()> {
    let world = World::create().await?;
    let (slow, mood) = Moody::over(&world, "slow");
    let mut running = world.stream(world.options(), vec![world.file_sink("quick"), slow]);
    running
        .wait_for("both stream", |status| {
            let mut sinks = status.sinks.iter();
            sinks.all(|sink| sink.state == SinkState::Streaming)
        })
        .await;
    world.ingest(&[event(1, 2, 1)]).await?;
    world.require_all_events_once("slow").await?;
    world.wait_confirmed().await?;
    mood.stand(StandAt::BeforeApply, 1);
    world.ingest(&[event(2, 2, 2)]).await?;
    world.require_all_events_once("quick").await?;
    wait_until("the slow one stands still", WITHIN, async || mood.stands()).await;
    let held = Injected::new("sink that does not take a batch");
    let last = world.lines("quick")?;
    let last = last.last().expect("a line")["source"]["lsn"].as_u64();
    // The quick one is known to hold it, and a later heartbeat has gone through.
    let of_now = |status: &sheaf_cdc::status::StreamStatus| {
        status.sinks[0]
            .position
            .map(|position| position.commit_lsn.0)
            >= last
    };
    running.wait_for("the quick one holds it", of_now).await;
    held.count();
    let slot = world.slot();
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    for _ in 0..5 {
        let confirmed: u64 = world.text(&confirmed).await?.parse()?;
        assert!(Some(confirmed) <= last, "{confirmed} past {last:?}");
        running.status.changed().await?;
    }
    running.kill().await;
    held.require();
    Ok(())
}

/// A sink that keeps track of nothing: what was stored of it is all that is known.
struct Untracked {
    seen: Arc<std::sync::Mutex<Vec<(Origin, ChangePosition)>>>,
    progress: Option<Progress>,
}

impl Sink for Untracked {
    fn name(&self) -> &str {
        "untracked"
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async { Ok(Held::Untracked) })
    }

    fn resume(&mut self, from: Progress) {
        self.progress = Some(from);
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.progress = Some(Progress::begun(base));
        Box::pin(async { Ok(()) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.extend(
            batch
                .changes
                .iter()
                .map(|change| (batch.origin, change.position)),
        );
        let progress = self
            .progress
            .as_mut()
            .expect("it was told where it goes on");
        progress.advance(batch.origin, batch.last().expect("a batch is never empty"));
        let progress = *progress;
        Box::pin(async move { Ok(progress) })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let progress = self.progress.expect("it was told where it goes on");
        Box::pin(async move { Ok(progress) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_keeps_no_track_goes_on_from_what_was_stored_of_it() -> Result<()> {
    let world = World::create().await?;
    let seen = Arc::<std::sync::Mutex<Vec<(Origin, ChangePosition)>>>::default();
    let killed = Injected::new("kill of the stream");
    let lines: Vec<String> = (0..130).map(|n| event(n, n, n)).collect();
    world.ingest(&lines).await?;
    for round in 0..4 {
        let sink = Untracked {
            seen: Arc::clone(&seen),
            progress: None,
        };
        let mut running = world.stream(world.options(), vec![Box::new(sink)]);
        running
            .wait_for("it streams", |status| {
                status.sinks[0].state == SinkState::Streaming
            })
            .await;
        let lines: Vec<String> = (0..30)
            .map(|n| event(n, 1000 + 30 * round + n, n))
            .collect();
        world.ingest(&lines).await?;
        world.wait_confirmed().await?;
        running.kill().await;
        killed.count();
    }
    let seen = seen.lock().expect("not poisoned").clone();
    let of = |origin: Origin| seen.iter().filter(move |(of, _)| *of == origin);
    // A tenant, two attributes, names and events; then what came, all of it stored before each kill.
    assert_eq!(of(Origin::Snapshot).count(), 1 + 2 + 130 + 130);
    let distinct: std::collections::BTreeSet<_> =
        of(Origin::Stream).map(|(_, position)| position).collect();
    assert!(distinct.len() >= 4 * 30, "{}", distinct.len());
    assert_eq!(of(Origin::Stream).count(), distinct.len());
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_was_not_fed_for_a_while_begins_anew() -> Result<()> {
    let world = World::create().await?;
    let left_out = Injected::new("stream without one of its sinks");
    world.ingest(&[event(1, 2, 1)]).await?;
    let both = || vec![world.file_sink("one"), world.file_sink("other")];
    let running = world.stream(world.options(), both());
    world.require_all_events_once("other").await?;
    running.stop().await?;
    let running = world.stream(world.options(), vec![world.file_sink("one")]);
    world.ingest(&[event(2, 2, 2)]).await?;
    world.require_all_events_once("one").await?;
    world.wait_confirmed().await?;
    running.stop().await?;
    left_out.count();
    let running = world.stream(world.options(), both());
    world.require_all_events_once("other").await?;
    world.require_all_events_once("one").await?;
    running.stop().await?;
    left_out.require();
    Ok(())
}
