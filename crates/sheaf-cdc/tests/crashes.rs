//! Crashes within what belongs together: the rows of one COPY, and what was confirmed and what of that PostgreSQL remembers.

mod world;

use anyhow::{Context, Result};
use sheaf_cdc::stream::StreamOptions;
use sheaf_model::Lsn;
use sheaf_testkit::{Injected, TestCluster, wait_until};
use world::{Moody, StandAt, WITHIN, World, event, table};

/// Five events by one COPY, in one page of one partition.
async fn copy_five(world: &World, minute: usize) -> Result<()> {
    let tenant = world.scope.tenant();
    let row = format!(
        "{tenant},900001,2024-02-05T00:{minute:02}:0${{second}}Z,0,p,00000000-0000-0000-0000-000000000009,2024-05-01T00:00:00Z,{{}}"
    );
    world
        .execute(&format!(
            "COPY sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             FROM PROGRAM 'for second in 1 2 3 4 5; do echo \"{row}\"; done' WITH (FORMAT csv)"
        ))
        .await
}

fn events_in(world: &World, file: &str) -> Result<usize> {
    let lines = world.lines(file)?;
    let events = lines.iter().filter(|line| table(line) == "entity_events");
    Ok(events.count())
}

/// Rows of a page that COPY wrote share their place in the log, so that only what comes with it tells which of them a sink holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_three_of_five_rows_of_a_copy_skips_and_doubles_none() -> Result<()> {
    let killed = Injected::new("kill after row 3 of 5 of a COPY");
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let options = || StreamOptions {
        batch_changes_max: 3,
        ..world.options()
    };
    let running = world
        .streaming(options(), vec![world.file_sink("file")])
        .await;
    world.wait_confirmed().await?;
    running.stop().await?;
    let shared = format!(
        "SELECT count(*) || ' ' || count(DISTINCT lsn) FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL,
             'proto_version', '1', 'publication_names', 'sheaf_events') WHERE get_byte(data, 0) = ascii('I')",
        world.slot()
    );
    // It holds three and has not said so; it has said so, and the others wait.
    for (round, (at, calls)) in [(StandAt::AfterApply, 1), (StandAt::BeforeApply, 2)]
        .into_iter()
        .enumerate()
    {
        let before = events_in(&world, "file")?;
        copy_five(&world, round).await?;
        assert_eq!(world.text(&shared).await?, "5 1", "rows, and their places");
        let (sink, mood) = Moody::over(&world, "file");
        mood.stand(at, calls);
        let running = world.stream(options(), vec![sink]);
        wait_until("the sink stands still", WITHIN, async || mood.stands()).await;
        running.kill().await;
        killed.count();
        assert_eq!(events_in(&world, "file")?, before + 3);
        let running = world.stream(options(), vec![world.file_sink("file")]);
        world.require_all_events_once("file").await?;
        assert_eq!(events_in(&world, "file")?, before + 5);
        world.wait_confirmed().await?;
        running.stop().await?;
    }
    killed.require();
    Ok(())
}

/// A confirmation is on PostgreSQL's disk only with its next checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slot_forgot_was_confirmed_comes_again_and_is_recognised() -> Result<()> {
    let went_back = Injected::new("slot that a crash has set back");
    let cluster = TestCluster::private_durable().await?;
    let world = World::create_in(&cluster).await?;
    let confirmed = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
        world.slot()
    );
    for round in 0..10 {
        let running = world
            .streaming(world.options(), vec![world.file_sink("file")])
            .await;
        world.wait_confirmed().await?;
        world.execute("CHECKPOINT").await?;
        let lines: Vec<String> = (0..20).map(|n| event(n, 100 * round + n, n)).collect();
        world.ingest(&lines).await?;
        world.require_all_events_once("file").await?;
        world.wait_confirmed().await?;
        running.stop().await?;
        let before: Lsn = world.text(&confirmed).await?.parse()?;
        cluster.cluster().kill9().await?;
        // A process that was being made at that moment can still hold the memory that the next server wants.
        wait_until("the server starts again", WITHIN, async || {
            cluster.cluster().restart().await.is_ok()
        })
        .await;
        let after: Lsn = world.text(&confirmed).await?.parse()?;
        let mut running = world
            .streaming(world.options(), vec![world.file_sink("file")])
            .await;
        let lines = world.lines("file")?;
        let last = lines.last().context("a line")?["source"]["lsn"].as_u64();
        assert!(last.map(Lsn) < Some(before), "it was confirmed");
        if last.map(Lsn) >= Some(after) {
            running
                .wait_for("it comes again", |status| status.changes > 0)
                .await;
            went_back.count();
        }
        world.require_all_events_once("file").await?;
        assert_eq!(running.status.borrow().slots_made, 0, "it is the same slot");
        running.stop().await?;
        if went_back.total() >= 2 {
            break;
        }
    }
    went_back.require();
    Ok(())
}
