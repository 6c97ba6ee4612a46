//! What a snapshot sees, asked of the database itself.

mod world;

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_cdc::slot::prepare_slot;
use sheaf_model::Timestamp;
use sheaf_pg::Disposition;
use sheaf_store::changes::{
    SnapshotPlace, SnapshotStep, begin_snapshot, claim_slot, find_sink, read_snapshot_rows,
};
use sheaf_testkit::Injected;
use world::{World, event};

#[tokio::test]
async fn the_number_of_a_rows_transaction_is_the_last_that_ends_like_its_xmin() -> Result<()> {
    let world = World::create().await?;
    let client = world.database.superuser().await?;
    let cycle = 1i64 << 32;
    for (xmin, next, snapshot, wanted) in [
        (99, 110, "100:105:100,103".to_owned(), true),
        (100, 110, "100:105:100,103".to_owned(), false),
        (101, 110, "100:105:100,103".to_owned(), true),
        (103, 110, "100:105:100,103".to_owned(), false),
        (105, 110, "100:105:100,103".to_owned(), false),
        (109, 110, "100:105:100,103".to_owned(), false),
        // Frozen by an old release, and of the making of the cluster.
        (2, 110, "100:105:100,103".to_owned(), true),
        (1, 110, "100:105:100,103".to_owned(), true),
        // After the numbers began anew: what is above the next is of the cycle before.
        (
            50,
            cycle + 100,
            format!("{}:{}:", cycle + 60, cycle + 60),
            true,
        ),
        (
            60,
            cycle + 100,
            format!("{}:{}:", cycle + 60, cycle + 60),
            false,
        ),
        (
            99,
            cycle + 100,
            format!("{}:{}:", cycle + 60, cycle + 60),
            false,
        ),
        (
            100,
            cycle + 100,
            format!("{}:{}:", cycle + 60, cycle + 60),
            true,
        ),
        (
            u32::MAX,
            cycle + 100,
            format!("{}:{}:", cycle + 60, cycle + 60),
            true,
        ),
        (
            u32::MAX,
            cycle + 100,
            format!("{}:{}:", cycle - 1, cycle + 60),
            true,
        ),
        (
            u32::MAX,
            cycle + 100,
            format!("{0}:{1}:{0}", cycle - 1, cycle + 60),
            false,
        ),
    ] {
        let row = client
            .query_one(
                "SELECT sheaf.is_in_snapshot($1::text::xid, $2, $3::text::pg_snapshot)",
                &[&xmin.to_string(), &next, &snapshot],
            )
            .await?;
        assert_eq!(
            row.get::<_, bool>(0),
            wanted,
            "{xmin} below {next} in {snapshot}"
        );
    }
    Ok(())
}

/// A flush writes in subtransactions. A snapshot lists whole transactions only, so that one that is taken in between takes a
/// subtransaction for one that has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snapshot_is_taken_while_somebody_is_in_the_middle_of_writing_events() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let cdc = world.cdc();
    let prepared = prepare_slot(&cdc, &world.slot(), Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &world.slot()).await?.context("a slot")?;
    let timeline = prepared.lineage.timeline;
    let begin = async || begin_snapshot(&cdc, &reader, "file", timeline, Timestamp::now()).await;
    let writer = world.database.superuser().await?;
    let between = Injected::new("snapshot within a transaction that writes");
    writer
        .batch_execute(
            "BEGIN;
             SELECT pg_advisory_xact_lock(24239, 17);
             SAVEPOINT one;
             INSERT INTO sheaf.entity_events SELECT tenant_id, 7, '2024-03-01Z', 0, 'p', gen_random_uuid(), now(), '{}' FROM sheaf.tenants;
             RELEASE one",
        )
        .await?;
    // One that began later has ended.
    world.execute("SELECT pg_current_xact_id()").await?;
    // What would be taken without the locks sees the subtransaction, and the stream shows it too.
    let sees = "SELECT bool_or(sheaf.is_in_snapshot(e.xmin, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, s.taken))
        FROM sheaf.entity_events e, (SELECT pg_current_snapshot() AS taken) s WHERE e.entity_id = 7";
    let own: bool = writer.query_one(sees, &[]).await?.get(0);
    assert!(own, "a subtransaction is not listed");
    let refused = begin().await.expect_err("a writer is in the middle");
    assert_eq!(refused.disposition(), Disposition::Retry, "{refused:?}");
    between.count();
    writer.batch_execute("COMMIT").await?;
    assert!(begin().await?);
    // Writers are held up no longer than that.
    let lines = [event(1, 2, 2)];
    tokio::time::timeout(Duration::from_secs(60), world.ingest(&lines)).await??;
    let stored = find_sink(&cdc, &world.slot(), "file")
        .await?
        .context("it has begun")?;
    let mut found = 0;
    for range in 0..stored.ranges.len() {
        let place = SnapshotPlace::before(SnapshotStep::Events, range, 0);
        found += read_snapshot_rows(&cdc, &stored, &place, 1000, 1 << 20)
            .await?
            .len();
    }
    assert_eq!(
        found, 2,
        "the first event and the subtransaction's, and not what came after"
    );
    between.require();
    Ok(())
}

/// What a snapshot reads of a table and what the stream shows of it are the same columns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_reads_every_column_of_what_is_published() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let cdc = world.cdc();
    prepare_slot(&cdc, &world.slot(), Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &world.slot()).await?.context("a slot")?;
    assert!(begin_snapshot(&cdc, &reader, "file", 1, Timestamp::now()).await?);
    let stored = find_sink(&cdc, &world.slot(), "file")
        .await?
        .context("it has begun")?;
    for (step, table) in [
        (SnapshotStep::Tenants, "tenants"),
        (SnapshotStep::Attributes, "attributes"),
        (SnapshotStep::Entities, "entities"),
        (SnapshotStep::Events, "entity_events"),
    ] {
        let range = stored.ranges.len() - 1;
        let place = SnapshotPlace::before(step, range, 0);
        let rows = read_snapshot_rows(&cdc, &stored, &place, 10, 1 << 20).await?;
        let row = rows.first().with_context(|| format!("a row of {table}"))?;
        let read: Vec<&str> = row.columns().iter().map(|column| column.name()).collect();
        let columns = format!(
            "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 'sheaf.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        );
        assert_eq!(read.join(","), world.text(&columns).await?, "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_events_are_read_a_few_at_a_time_and_the_widest_alone() -> Result<()> {
    let world = World::create().await?;
    world.ingest(&[event(1, 2, 1)]).await?;
    let cdc = world.cdc();
    prepare_slot(&cdc, &world.slot(), Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &world.slot()).await?.context("a slot")?;
    world
        .execute(
            "INSERT INTO sheaf.entity_events SELECT t.tenant_id, 1000 + n, '2024-03-01Z', 0, 'p', gen_random_uuid(), now(),
                 jsonb_build_object('2', (SELECT string_agg(md5((n * m)::text), '') FROM generate_series(1, 1000) m))
             FROM sheaf.tenants t, generate_series(1, 8) n",
        )
        .await?;
    assert!(begin_snapshot(&cdc, &reader, "file", 1, Timestamp::now()).await?);
    let stored = find_sink(&cdc, &world.slot(), "file")
        .await?
        .context("it has begun")?;
    let place = SnapshotPlace::before(SnapshotStep::Events, 0, 0);
    for (bytes_max, wanted) in [(1, 1), (70_000, 4), (1 << 30, 9)] {
        let rows = read_snapshot_rows(&cdc, &stored, &place, 1000, bytes_max).await?;
        assert_eq!(rows.len(), wanted, "{bytes_max}");
    }
    Ok(())
}
