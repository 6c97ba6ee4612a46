//! What is older than it is kept leaves the lake's files, but for what is current, and nobody takes it for missing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::change::{Batch, ChangedRow, Progress};
use sheaf_cdc::sink::Sink;
use sheaf_lake::reconcile::{
    DifferenceKind, Outcome, ReconcileOptions, ReconcileRequest, Reconciler, Report,
};
use sheaf_lake::{CommitStep, LakeArchive, LakeOptions, LakeSink};
use sheaf_model::{Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::partitions::list_partitions;
use sheaf_store::settings::Settings;
use sheaf_testkit::{Injected, wait_until};

use crate::steps::{Counter, kill_after, sink_to_be_killed};
use crate::streamed::{Source, WITHIN};
use crate::world::{World, event, feed, transaction};

const DAYS: [&str; 4] = [
    "2024-02-27T12:00:00Z",
    "2024-02-28T12:00:00Z",
    "2024-02-29T12:00:00Z",
    "2024-03-01T12:00:00Z",
];

fn micros(time: &str) -> i64 {
    let time = Timestamp::parse(time).expect("a time").0;
    time.as_micros()
}

/// A tenant that keeps all.
const OTHER: &str = "
    INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (2, 'globex', now());
    INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
        VALUES (2, 11, 'an int', 'int', 'declared', 'cold', now())";
/// The first one keeps one attribute for a month.
const POLICY: &str = "
    UPDATE sheaf.attributes SET retention_micros = 30 * 86400000000::bigint WHERE attribute_id = 1";

/// The same event of the other tenant.
fn of_other(row: ChangedRow) -> ChangedRow {
    match row {
        ChangedRow::Event(mut event) => {
            event.tenant = TenantId(2);
            ChangedRow::Event(event)
        }
        row => row,
    }
}

/// Four days of an attribute that is kept for a month and of one that is kept for ever, corrections and deletes among them.
fn life() -> Vec<Batch> {
    let day = |day: usize, entity, seq, op, attrs: &str| event(entity, DAYS[day], seq, op, attrs);
    let mut rows = Vec::new();
    for (place, value) in (0..).zip([1, 2, 3, 4]) {
        let attrs = format!(r#"{{"1":{value},"2":{value}.5}}"#);
        rows.push(day(place, 5, 0, Op::Patch, &attrs));
        let attrs = format!(r#"{{"11":{value}}}"#);
        rows.push(of_other(day(place, 9, 0, Op::Patch, &attrs)));
    }
    // One that is current though it is old, and one that was deleted since.
    rows.push(day(0, 6, 0, Op::Patch, r#"{"1":7}"#));
    rows.push(day(0, 7, 0, Op::Patch, r#"{"1":8,"2":8.5}"#));
    rows.push(day(2, 7, 0, Op::Delete, "{}"));
    let corrected = vec![
        day(1, 5, 1, Op::Correct, r#"{"1":20,"2":20.5}"#),
        day(3, 5, 1, Op::Correct, r#"{"1":40}"#),
    ];
    vec![transaction(20, rows), transaction(30, corrected)]
}

/// What is left of a life: of attribute 1 the last value of each entity that is there.
fn left() -> [Vec<String>; 2] {
    let at = DAYS.map(micros);
    let mut facts = vec![
        format!("1 5 1 {} 1 correct false value_int=40", at[3]),
        format!("1 6 1 {} 0 patch false value_int=7", at[0]),
        format!("1 5 2 {} 0 patch false value_float=1.5", at[0]),
        format!("1 5 2 {} 1 correct false value_float=20.5", at[1]),
        format!("1 5 2 {} 0 patch false value_float=3.5", at[2]),
        format!("1 5 2 {} 0 patch false value_float=4.5", at[3]),
        format!("1 7 2 {} 0 patch false value_float=8.5", at[0]),
        format!("1 7 - {} 0 delete false", at[2]),
    ];
    for (time, value) in at.iter().zip(1..) {
        facts.push(format!("2 9 11 {time} 0 patch false value_int={value}"));
    }
    facts.sort();
    let replaced = vec![format!("1 5 2 {} 0 patch false value_float=2.5", at[1])];
    [facts, replaced]
}

/// Three values, one of which was replaced, of a deleted entity one, and the two that corrections replaced.
const GONE: (i64, i64) = (6, 2);

async fn live(sink: &mut LakeSink) -> Result<Progress> {
    feed(sink, life()).await
}

async fn require_left(world: &World, catalog: &str) -> Result<()> {
    let found = [world.facts(catalog).await?, world.replaced(catalog).await?];
    ensure!(found == left(), "{catalog}: {found:#?}");
    world.require_one_value(catalog).await
}

/// How many facts are counted as taken out, and how many of them were hidden.
async fn counted(world: &World) -> Result<(i64, i64)> {
    let client = world.database.superuser().await?;
    let sql = "SELECT coalesce(sum(facts), 0)::bigint, coalesce(sum(hidden_facts), 0)::bigint FROM sheaf.lake_removals";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_goes_and_what_is_current_and_what_others_keep_stays() -> Result<()> {
    let world = World::create().await?;
    let admin = world.database.superuser().await?;
    admin.batch_execute(OTHER).await?;
    let mut sink = world.sink("sheaf")?;
    live(&mut sink).await?;
    assert_eq!(counted(&world).await?, (0, 0), "all is kept for ever");
    let before = world.facts("sheaf").await?.len() + world.replaced("sheaf").await?.len();
    admin.batch_execute(POLICY).await?;
    sink.tidy().await?;
    require_left(&world, "sheaf").await?;
    assert_eq!(counted(&world).await?, GONE);
    let after = world.facts("sheaf").await?.len() + world.replaced("sheaf").await?.len();
    assert_eq!(i64::try_from(before - after)?, GONE.0);
    // Twice changes nothing.
    let location = world.location("sheaf", "facts").await?;
    sink.tidy().await?;
    assert_eq!(world.location("sheaf", "facts").await?, location);
    // With a young value the old one is no more current.
    let young = Timestamp::now()
        .saturating_add_micros(-3_600_000_000)
        .to_string();
    let rows = vec![event(6, &young, 0, Op::Patch, r#"{"1":9}"#)];
    sink.apply(&transaction(40, rows)).await?;
    sink.flush().await?;
    sink.tidy().await?;
    let of_entity = |facts: Vec<String>| -> Vec<String> {
        let of = facts.into_iter().filter(|fact| fact.starts_with("1 6 "));
        of.collect()
    };
    // At the boundary it was what it had been before.
    assert_eq!(of_entity(world.facts("sheaf").await?).len(), 2);
    // A longer retention brings nothing back, and takes nothing more.
    admin
        .batch_execute("UPDATE sheaf.attributes SET retention_micros = NULL")
        .await?;
    let late = vec![event(6, DAYS[1], 0, Op::Patch, r#"{"1":10}"#)];
    sink.apply(&transaction(50, late)).await?;
    sink.flush().await?;
    sink.tidy().await?;
    assert_eq!(of_entity(world.facts("sheaf").await?).len(), 3);
    // The tenant's own counts for what has none, and rows that name no attribute go as late as any.
    admin
        .batch_execute(
            "UPDATE sheaf.tenants SET retention_micros = 30 * 86400000000::bigint WHERE tenant_id = 1;
             UPDATE sheaf.attributes SET retention_micros = 36500 * 86400000000::bigint WHERE attribute_id = 2",
        )
        .await?;
    sink.tidy().await?;
    let facts = world.facts("sheaf").await?;
    assert_eq!(of_entity(facts.clone()).len(), 2, "{facts:?}");
    let of_second = facts.iter().filter(|fact| fact.contains("value_float"));
    assert_eq!(of_second.count(), 5, "{facts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_what_goes_is_gone_and_counted_once() -> Result<()> {
    let injected = Injected::new("kill while facts are taken out");
    let world = World::create().await?;
    let admin = world.database.superuser().await?;
    admin.batch_execute(OTHER).await?;
    admin.batch_execute(POLICY).await?;
    let counter = Arc::new(Counter::default());
    let mut sink = world.observed("undisturbed", Arc::clone(&counter) as _)?;
    live(&mut sink).await?;
    require_left(&world, "undisturbed").await?;
    let steps = counter.steps();
    // The tables are made before anything is in them.
    let made = steps.iter().position(|step| *step == CommitStep::DataFile);
    let made = made.context("a data file")?;
    for last in made + 1..=steps.len() {
        admin
            .batch_execute("TRUNCATE sheaf.lake_removals, sheaf.lake_retentions")
            .await?;
        let catalog = format!("killed{last}");
        kill_after(&world, &catalog, "retaining::a_process_to_be_killed", last)?;
        injected.count();
        let mut sink = world.sink(&catalog)?;
        live(&mut sink).await?;
        require_left(&world, &catalog).await?;
        let found = counted(&world).await?;
        // One of those that a correction replaced was gone before it came, when nothing had replaced it.
        ensure!(
            found == (GONE.0, GONE.1 - 1),
            "after step {last}: {found:?}"
        );
    }
    injected.require();
    Ok(())
}

/// Does nothing, but for the test above, which starts it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_to_be_killed() -> Result<()> {
    if let Some(mut sink) = sink_to_be_killed()? {
        live(&mut sink).await?;
    }
    Ok(())
}

async fn reconciled(reconciler: &Reconciler, reads_whole: bool) -> Result<Report> {
    let request = ReconcileRequest {
        differences_max: 100,
        reads_whole,
        ..ReconcileRequest::default()
    };
    Ok(reconciler.run(&request).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_out_is_neither_missing_nor_a_difference_of_an_archive() -> Result<()> {
    let injected = Injected::new("fact missing beside those that were taken out");
    let source = Source::create().await?;
    let other = source.tenant("other").await?;
    let line = |number: usize, value: usize| {
        let time = format!("2010-03-{:02}T{:02}:00:00Z", 1 + number % 20, number % 24);
        let entity = number % 7;
        format!(
            r#"{{"type":"thing","id":"t{entity}","observed_at":"{time}","attributes":{{"short":{value},"long":{value}.5}}}}"#
        )
    };
    let lines = |count: usize, more: usize| (0..count).map(|n| line(n, n + more)).collect();
    source.ingest(lines(400, 0)).await?;
    source.ingest_of(&other, lines(100, 0)).await?;
    // Some of them are corrected.
    source.ingest(lines(100, 1_000)).await?;
    let lake = LakeOptions {
        retain_every: Duration::from_millis(300),
        ..source.quick()
    };
    let running = source.stream_into(lake)?;
    source.require_all_once().await?;
    let reconciler = Reconciler::new(
        &source.world.cdc(),
        ReconcileOptions {
            settled_after: Duration::ZERO,
            wait_max: WITHIN,
            ..ReconcileOptions::of(&source.quick(), source.slot())
        },
    )?;
    let report = reconciled(&reconciler, false).await?;
    ensure!(report.outcome == Outcome::Clean, "before: {report:?}");
    let policy = format!(
        "UPDATE sheaf.attributes SET retention_micros = 86400000000
         WHERE name = 'short' AND tenant_id = {}",
        source.scope.tenant()
    );
    source.execute(&policy).await?;
    let shorts = async |tenant: String| -> Result<usize> {
        let mut count = 0;
        for table in ["facts", "facts_corrected"] {
            let rows = source.world.rows("sheaf", table).await?;
            let of_them = rows
                .iter()
                .filter(|row| row["attribute"] == "short" && row["tenant_id"] == tenant);
            count += of_them.count();
        }
        Ok(count)
    };
    let (ours, theirs) = (
        source.scope.tenant().to_string(),
        other.tenant().to_string(),
    );
    let theirs_before = shorts(theirs.clone()).await?;
    wait_until("only current values are left", WITHIN, async || {
        shorts(ours.clone()).await.is_ok_and(|left| left == 7)
    })
    .await;
    assert_eq!(shorts(theirs).await?, theirs_before);
    for (claim, reads_whole) in [("after", false), ("again", false), ("read whole", true)] {
        let report = reconciled(&reconciler, reads_whole).await?;
        ensure!(report.outcome == Outcome::Clean, "{claim}: {report:?}");
    }
    let report = reconciled(&reconciler, false).await?;
    assert_eq!(
        report.work.hours_drilled, 0,
        "it is counted, and not looked for"
    );
    // What an archive compares is the same too.
    let upkeep = Pool::new(
        &source.world.database.config("sheaf_upkeep"),
        2,
        &Tls::none(),
    );
    let settings = Arc::new(Settings::read(&upkeep).await?);
    let archive = LakeArchive::new(&upkeep, settings, &source.quick(), source.slot())?;
    let partition = list_partitions(&upkeep).await?.remove(0);
    let here = archive.digest_partition(&partition.name).await?;
    assert_eq!(here.digest.facts, 2 * (400 + 100 + 100), "{here:?}");
    assert_eq!(here.digest, archive.digest_lake(&partition).await?);
    assert_eq!(counted(&source.world).await?, (500 - 7, 100));
    // Of an event that the stream leaves out, what would have been taken out since is not missed.
    source
        .execute("ALTER PUBLICATION sheaf_events DROP TABLE sheaf.entity_events")
        .await?;
    source
        .execute(
            "INSERT INTO sheaf.entity_events
             SELECT tenant_id, entity_id, observed_at + interval '1 minute', 0, 'p', batch_id, now(), attrs FROM sheaf.entity_events
             WHERE tenant_id = (SELECT min(tenant_id) FROM sheaf.tenants) ORDER BY entity_id, observed_at, seq LIMIT 1",
        )
        .await?;
    source
        .execute("ALTER PUBLICATION sheaf_events ADD TABLE sheaf.entity_events")
        .await?;
    injected.count();
    // Once the statistics tell of it.
    wait_until("it is looked at", WITHIN, async || {
        let report = reconciled(&reconciler, false).await;
        report.is_ok_and(|report| report.outcome == Outcome::Different)
    })
    .await;
    let report = reconciled(&reconciler, false).await?;
    assert_eq!(report.counts.total(), 1, "{report:?}");
    let missing = report.differences.first().context("one")?;
    assert_eq!(missing.kind, DifferenceKind::Missing);
    running.stop.send_replace(true);
    running.task.await?;
    injected.require();
    Ok(())
}
