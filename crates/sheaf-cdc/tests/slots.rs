//! What happens to slots: dropped, made anew, moved, lost, forgotten by a crash or a failover, followed by two, idle.

mod world;

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_cdc::change::Progress;
use sheaf_cdc::retention::Pressure;
use sheaf_cdc::slot::{SlotDecision, SlotError, decide, prepare_slot};
use sheaf_cdc::status::SinkState;
use sheaf_cdc::stream::{ChangeStream, StreamOptions};
use sheaf_model::{ChangePosition, Lsn, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::changes::{
    Publication, SlotReader, claim_slot, ensure_publication, find_sink, look_at_slot,
    promise_position, store_position,
};
use sheaf_testkit::{Injected, TestCluster, TestStandby, wait_until};
use tokio::sync::watch;
use world::{Moody, StandAt, WITHIN, World, event};

/// A world whose file holds what was written, and whose stream was stopped.
async fn stopped_world(cluster: &std::sync::Arc<TestCluster>) -> Result<World> {
    let world = World::create_in(cluster).await?;
    let lines: Vec<String> = (0..60).map(|n| event(n, n, n)).collect();
    world.ingest(&lines).await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    running.stop().await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_lacks_something_is_made_anew_and_every_sink_begins_with_a_snapshot()
-> Result<()> {
    let cluster = TestCluster::shared().await?;
    let harmed = Injected::new("slot harmed while nobody follows it");
    let drop_slot = "SELECT pg_drop_replication_slot('SLOT')";
    for harm in [
        drop_slot.to_owned(),
        // The same name, by somebody else, later.
        format!("{drop_slot}; SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')"),
        "SELECT pg_replication_slot_advance('SLOT', pg_current_wal_lsn())".to_owned(),
        "ALTER PUBLICATION sheaf_events DROP TABLE sheaf.entity_events".to_owned(),
        "DROP PUBLICATION sheaf_events".to_owned(),
        "DELETE FROM sheaf.change_sinks; DELETE FROM sheaf.change_slots".to_owned(),
        "UPDATE sheaf.change_slots SET timeline = timeline + 1".to_owned(),
    ] {
        let world = stopped_world(&cluster).await?;
        // Statement by statement: a slot is made in a transaction that has written nothing.
        for statement in harm.split("; ") {
            world
                .execute(&statement.replace("SLOT", &world.slot()))
                .await?;
        }
        harmed.count();
        let lines: Vec<String> = (0..60).map(|n| event(n, 100 + n, n)).collect();
        world.ingest(&lines).await?;
        if harm.contains("advance") {
            // What was passed over is passed over for good.
            world.execute(&harm.replace("SLOT", &world.slot())).await?;
        }
        let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
        running
            .wait_for(&harm, |status| {
                status.slots_made == 1 && status.sinks[0].state == SinkState::Streaming
            })
            .await;
        world.ingest(&[event(1, 400, 1)]).await?;
        world.require_all_events_once("file").await?;
        running.stop().await?;
    }
    harmed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_log_was_removed_is_made_anew() -> Result<()> {
    let cluster = TestCluster::private().await?;
    let world = stopped_world(&cluster).await?;
    let lost = Injected::new("slot lost");
    cluster.set("max_slot_wal_keep_size", "1MB").await?;
    world.ingest(&[event(1, 300, 1)]).await?;
    wait_until("the slot is lost", WITHIN, async || {
        let write = "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000)); SELECT pg_switch_wal(); CHECKPOINT";
        for statement in write.split("; ") {
            world.execute(statement).await.expect("it can be written");
        }
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'SLOT'";
        let status = world.text(&status.replace("SLOT", &world.slot())).await;
        status.is_ok_and(|status| status == "lost")
    })
    .await;
    lost.count();
    cluster.set("max_slot_wal_keep_size", "-1").await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it was made anew", |status| status.slots_made == 1)
        .await;
    world.require_all_events_once("file").await?;
    running.stop().await?;
    lost.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_makes_the_slot_go_back_and_the_file_does_not() -> Result<()> {
    let cluster = TestCluster::private_durable().await?;
    let world = World::create_in(&cluster).await?;
    let crashed = Injected::new("crash of the server");
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    for round in 0..3 {
        let lines: Vec<String> = (0..60).map(|n| event(n, 100 * round + n, n)).collect();
        world.ingest(&lines).await?;
        world.require_all_events_once("file").await?;
        world.wait_confirmed().await?;
        let confirmed =
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'SLOT'";
        let confirmed = confirmed.replace("SLOT", &world.slot());
        let before: Lsn = world.text(&confirmed).await?.parse()?;
        cluster.cluster().kill9().await?;
        // A process that was being made at that moment can still hold the memory that the next server wants.
        wait_until("the server starts again", WITHIN, async || {
            cluster.cluster().restart().await.is_ok()
        })
        .await;
        crashed.count();
        let after: Lsn = world.text(&confirmed).await?.parse()?;
        assert!(after <= before, "{after} after {before}");
        running
            .wait_for("it follows again", |status| status.is_following)
            .await;
    }
    world.ingest(&[event(1, 900, 1)]).await?;
    world.require_all_events_once("file").await?;
    assert_eq!(running.status.borrow().slots_made, 1, "the first time");
    running.stop().await?;
    crashed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_that_lost_commits_the_file_has_none_of_them() -> Result<()> {
    let cluster = TestCluster::private().await?;
    let world = World::create_in(&cluster).await?;
    world.ingest(&[event(1, 1, 1), event(2, 2, 2)]).await?;
    let standby = TestStandby::follow(&cluster, "standby").await?;
    standby.wait_caught_up(&cluster).await?;
    standby.cut_link().await?;
    let lost: Vec<String> = (0..10).map(|n| event(n, 200 + n, n)).collect();
    world.ingest(&lost).await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    running.stop().await?;
    let failed_over = Injected::new("failover to a standby that lacked commits");
    standby.promote().await?;
    failed_over.count();
    let (name, of) = (world.database.name(), standby.cluster());
    let cdc = Pool::new(&of.connect_config(name, "sheaf_cdc"), 6, &Tls::none());
    let (stream, mut status) = ChangeStream::new(
        cdc,
        of.connect_config(name, "sheaf_cdc"),
        Tls::none(),
        world.options(),
        vec![world.file_sink("file")],
    );
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(stream.run(stopped));
    let is_streaming = status.wait_for(|status| status.sinks[0].state == SinkState::Streaming);
    tokio::time::timeout(WITHIN, is_streaming).await??;
    let there = world::events(&standby.superuser(name).await?).await?;
    let lines = world.lines("file")?;
    let found = lines
        .iter()
        .filter(|line| world::table(line) == "entity_events");
    assert_eq!((found.count(), there.len()), (2, 2));
    stop.send_replace(true);
    task.await??;
    failed_over.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_follows_a_slot_and_only_its_positions_are_taken() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 1, 1)]).await?;
    let first = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    let second = world.stream(world.options(), vec![world.file_sink("other")]);
    let cdc = world.cdc();
    let refused = prepare_slot(&cdc, &world.slot(), Timestamp::now()).await;
    assert!(
        matches!(refused, Err(SlotError::Busy { .. })),
        "{refused:?}"
    );
    world.ingest(&[event(2, 2, 2)]).await?;
    world.require_all_events_once("file").await?;
    assert!(!second.status.borrow().is_following);
    assert!(!second.task.is_finished(), "it waits for its turn");
    // Whoever was overtaken stores nothing any more.
    let before = claim_slot(&cdc, &world.slot()).await?.context("a slot")?;
    let last = claim_slot(&cdc, &world.slot()).await?.context("a slot")?;
    let far = ChangePosition {
        timeline: 1,
        commit_lsn: Lsn(u64::MAX >> 1),
        ordinal: 1,
    };
    let store = async |reader: &SlotReader, position| {
        store_position(&cdc, reader, "file", position, Timestamp::now()).await
    };
    assert!(!store(&before, far).await?);
    assert!(!promise_position(&cdc, &before, far.commit_lsn).await?);
    assert!(store(&last, far).await?);
    let back = ChangePosition { ordinal: 0, ..far };
    assert!(!store(&last, back).await?, "positions only advance");
    first.kill().await;
    let mut second = second;
    second
        .wait_for("it follows once the first has gone", |status| {
            status.is_following
        })
        .await;
    second.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_an_idle_database_moves_on_while_others_write() -> Result<()> {
    let world = World::create().await?;
    let busy = World::create().await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    running
        .wait_for("it streams", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    for round in 0..3 {
        let lines: Vec<String> = (0..100).map(|n| event(n, 100 * round + n, n)).collect();
        busy.ingest(&lines).await?;
        world.wait_confirmed().await?;
    }
    // The heartbeat tells how old what was followed is; before the first that is unknown.
    assert_eq!(running.status.borrow().sinks[0].applied_at, None);
    let beat = Timestamp::now();
    world
        .execute("UPDATE sheaf.replication_heartbeat SET beat_at = clock_timestamp(), timeline = 1")
        .await?;
    running
        .wait_for("a heartbeat arrives", |status| {
            status.sinks[0].applied_at.is_some_and(|at| at >= beat)
        })
        .await;
    assert_eq!(running.status.borrow().changes, 0);
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_sink_does_not_stop_another_and_catches_up_when_it_is_well() -> Result<()> {
    let world = World::create().await?;
    let sick = Injected::new("failure of a sink");
    let (sink, mood) = Moody::over(&world, "sick");
    let mut running = world.stream(world.options(), vec![world.file_sink("well"), sink]);
    world.ingest(&[event(1, 1, 1)]).await?;
    world.require_all_events_once("sick").await?;
    mood.fail(true);
    for round in 0..5 {
        let lines: Vec<String> = (0..50).map(|n| event(n, 50 * round + n, n)).collect();
        world.ingest(&lines).await?;
        world.require_all_events_once("well").await?;
    }
    running
        .wait_for("it is known to fail", |status| status.sinks[1].failures > 0)
        .await;
    sick.count();
    // Held for it meanwhile.
    let held: Progress = sheaf_cdc::envelope::progress_of(
        &world.lines("sick")?.last().context("a line")?.to_string(),
    )
    .context("a position")?;
    let stored = find_sink(&world.cdc(), &world.slot(), "sick").await?;
    assert!(stored.context("it is kept")?.position <= held.stream);
    mood.fail(false);
    world.require_all_events_once("sick").await?;
    world.require_all_events_once("well").await?;
    running
        .wait_for("it is well again", |status| {
            status.sinks[1].failures_in_row == 0
        })
        .await;
    assert!(running.status.borrow().sinks[1].failures > 0);
    running.stop().await?;
    sick.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_sink_that_holds_too_much_log_is_given_up_and_begins_anew() -> Result<()> {
    let world = World::create().await?;
    let given_up = Injected::new("sink given up");
    let (sink, mood) = Moody::over(&world, "sick");
    let options = StreamOptions {
        retained_bytes_max: 100_000,
        retry_after: Duration::from_millis(500),
        ..world.options()
    };
    let mut running = world.stream(options, vec![world.file_sink("well"), sink]);
    world.ingest(&[event(1, 1, 1)]).await?;
    world.require_all_events_once("sick").await?;
    mood.fail(true);
    let slot = world.slot();
    for round in 0.. {
        let lines: Vec<String> = (0..300).map(|n| event(n, 300 * round + n, n)).collect();
        world.ingest(&lines).await?;
        let is_gone = find_sink(&world.cdc(), &slot, "sick").await?.is_none();
        if is_gone {
            break;
        }
        assert!(round < 100, "{:?}", running.status.borrow());
    }
    given_up.count();
    running
        .wait_for("the pressure was told", |status| {
            status.pressure >= Pressure::Alarm
        })
        .await;
    // The log is let go although the sink is still sick.
    world.wait_confirmed().await?;
    mood.fail(false);
    world.require_all_events_once("sick").await?;
    world.require_all_events_once("well").await?;
    running.stop().await?;
    given_up.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_stands_still_is_given_up_as_one_that_fails() -> Result<()> {
    let given_up = Injected::new("sink that stands still given up");
    let world = World::create().await?;
    let (sink, mood) = Moody::over(&world, "still");
    let options = StreamOptions {
        retained_bytes_max: 100_000,
        retry_after: Duration::from_millis(500),
        room_max: Duration::from_millis(200),
        sink_max: Duration::from_secs(6),
        ..world.options()
    };
    let mut running = world.stream(options, vec![sink, world.file_sink("well")]);
    world.ingest(&[event(1, 1, 1)]).await?;
    world.require_all_events_once("still").await?;
    mood.stand(StandAt::BeforeApply, 1);
    for round in 0..30 {
        let lines: Vec<String> = (0..300).map(|n| event(n, 300 * round + n, n)).collect();
        world.ingest(&lines).await?;
    }
    let (cdc, slot) = (world.cdc(), world.slot());
    wait_until("it is given up", Duration::from_secs(120), async || {
        let found = find_sink(&cdc, &slot, "still").await;
        found.is_ok_and(|found| found.is_none())
    })
    .await;
    given_up.count();
    running
        .wait_for("it is well again", |status| {
            status.sinks[0].state == SinkState::Streaming
        })
        .await;
    world.require_all_events_once("still").await?;
    world.require_all_events_once("well").await?;
    world.wait_confirmed().await?;
    running.stop().await?;
    given_up.require();
    Ok(())
}

#[tokio::test]
async fn the_publication_is_what_it_has_to_be_whatever_it_was() -> Result<()> {
    let world = World::create().await?;
    let cdc = world.cdc();
    assert_eq!(ensure_publication(&cdc).await?, Publication::Created);
    assert_eq!(ensure_publication(&cdc).await?, Publication::Unchanged);
    let described = "SELECT string_agg(format('%s.%s', schemaname, tablename), ' ' ORDER BY tablename) || ' ' ||
        (SELECT concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot) FROM pg_publication WHERE pubname = 'sheaf_events')
        FROM pg_publication_tables WHERE pubname = 'sheaf_events'";
    let wanted = "sheaf.attributes sheaf.entities sheaf.entity_events sheaf.entity_events_late sheaf.entity_keyframes \
        sheaf.replication_heartbeat sheaf.tenants t t f f t";
    assert_eq!(world.text(described).await?, wanted);
    let drifted = Injected::new("publication changed by hand");
    for drift in [
        "ALTER PUBLICATION sheaf_events DROP TABLE sheaf.tenants",
        "ALTER PUBLICATION sheaf_events ADD TABLE sheaf.entity_jsonb",
        "ALTER PUBLICATION sheaf_events SET (publish = 'insert')",
        "ALTER PUBLICATION sheaf_events SET (publish = 'insert, update, delete')",
        "ALTER PUBLICATION sheaf_events SET (publish_via_partition_root = false)",
        "ALTER PUBLICATION sheaf_events SET TABLE sheaf.attributes, sheaf.entities, sheaf.entity_events WHERE (seq = 0),
            sheaf.entity_events_late, sheaf.entity_keyframes, sheaf.replication_heartbeat, sheaf.tenants",
        "ALTER PUBLICATION sheaf_events SET TABLE sheaf.attributes, sheaf.entities (tenant_id, entity_id), sheaf.entity_events,
            sheaf.entity_events_late, sheaf.entity_keyframes, sheaf.replication_heartbeat, sheaf.tenants",
        "ALTER PUBLICATION sheaf_events ADD TABLES IN SCHEMA public",
        "DROP PUBLICATION sheaf_events; CREATE PUBLICATION sheaf_events FOR ALL TABLES",
    ] {
        world.execute(drift).await.with_context(|| drift.to_owned())?;
        drifted.count();
        let mended = ensure_publication(&cdc).await;
        if drift.contains("FOR ALL TABLES") {
            // It belongs to whoever made it.
            let error = mended.expect_err("not ours");
            assert!(format!("{error:?}").contains("must be owner"), "{error:?}");
            continue;
        }
        assert_eq!(mended?, Publication::Mended, "{drift}");
        assert_eq!(world.text(described).await?, wanted, "{drift}");
    }
    drifted.require();
    let look = look_at_slot(&cdc, &world.slot()).await?;
    assert!(look.slot.is_none() && look.remembered.is_none());
    assert!(matches!(
        decide(&look, Publication::Unchanged),
        SlotDecision::Make(_)
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_the_right_to_replicate_ends_the_stream_with_the_reason() -> Result<()> {
    let cluster = TestCluster::private().await?;
    let world = World::create_in(&cluster).await?;
    world.execute("ALTER ROLE sheaf_cdc NOREPLICATION").await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    let ended = tokio::time::timeout(WITHIN, running.task).await??;
    let error = ended.expect_err("nobody changes that by waiting");
    let causes = format!("{error:?}");
    assert!(causes.contains("42501"), "{causes}");
    // Whoever migrates as a superuser gives it back.
    let mut migrator = world.database.superuser().await?;
    sheaf_store::migrate::up(&mut migrator).await?;
    world.ingest(&[event(1, 1, 1)]).await?;
    let running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_changed_under_the_stream_is_mended_and_nothing_is_missing()
-> Result<()> {
    let world = World::create().await?;
    let changed = Injected::new("publication changed under the stream");
    world.ingest(&[event(1, 1, 1)]).await?;
    let mut running = world.stream(world.options(), vec![world.file_sink("file")]);
    world.require_all_events_once("file").await?;
    for round in 1..=2 {
        world
            .execute("ALTER PUBLICATION sheaf_events DROP TABLE sheaf.entity_events")
            .await?;
        // Never shown by the slot.
        world.ingest(&[event(10 + round, 1, 1)]).await?;
        changed.count();
        // Another server may mend it first, and is stopped before it does anything else.
        if round == 2 {
            let _ = ensure_publication(&world.cdc()).await;
        }
        let made = 1 + u64::try_from(round)?;
        running
            .wait_for("the slot was made anew", |status| status.slots_made >= made)
            .await;
        world.ingest(&[event(20 + round, 2, 2)]).await?;
        world.require_all_events_once("file").await?;
    }
    running.stop().await?;
    changed.require();
    Ok(())
}
