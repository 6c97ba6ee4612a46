//! How far the lake is, as the database says it.

use std::time::Duration;

use anyhow::Result;
use sheaf_lake::analytics::{Cover, LakeReader, LakeSnapshot};
use sheaf_model::{Lsn, Position};

use crate::world::World;

/// The rows that the change stream keeps of the lake: fed up to a position, its snapshot ended or not.
async fn feed(world: &World, until: &str, step: &str) -> Result<()> {
    let client = world.database.superuser().await?;
    client
        .batch_execute(&format!(
            "DELETE FROM sheaf.change_sinks; DELETE FROM sheaf.change_slots;
             INSERT INTO sheaf.change_slots (slot_name, system_id, timeline, begins_at, promised_lsn, created_at)
             VALUES ('sheaf', 1, 1, '0/1', {until}, now());
             INSERT INTO sheaf.change_sinks (slot_name, sink_name, snapshot, snapshot_taken_at, snapshot_timeline, snapshot_base,
                snapshot_until, range_lowers, range_uppers, step, step_range, after_tenant, after_number, after_seq,
                snapshot_ordinal, stored_at)
             VALUES ('sheaf', 'lake', '1:1:', now(), 1, '0/A', '0/A', '{{}}', '{{}}', '{step}', 0, 0, 0, 0, 0, now())"
        ))
        .await?;
    Ok(())
}

async fn look(reader: &LakeReader, token: Option<Position>) -> Result<LakeSnapshot> {
    Ok(reader.look(token).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_as_old_as_what_is_fed_and_unknown_is_not_fresh() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    // Nobody feeds it.
    let unfed = look(&reader, None).await?;
    assert_eq!((unfed.lag, unfed.complete_until), (None, None));
    // Its snapshot goes on.
    feed(&world, "pg_current_wal_insert_lsn()", "events").await?;
    assert_eq!(look(&reader, None).await?.lag, None);
    // Fed up to before this reader saw anything.
    feed(&world, "'0/2'", "done").await?;
    assert_eq!(look(&reader, None).await?.lag, None);
    // Fed beyond everything: as of now.
    feed(&world, "pg_current_wal_insert_lsn() + 100000000", "done").await?;
    let fresh = look(&reader, None).await?;
    assert_eq!(fresh.lag, Some(Duration::ZERO));
    // Fed up to somewhere between two looks, and then no further.
    let between = look(&reader, None).await?;
    feed(&world, "pg_current_wal_insert_lsn()", "done").await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute("CREATE TABLE filler AS SELECT generate_series(1, 1000)")
        .await?;
    let after = look(&reader, None).await?;
    assert!(after.complete_until >= between.complete_until, "{after:?}");
    let lag = after.lag.expect("it is known");
    assert!(lag > Duration::ZERO);
    assert!(look(&reader, None).await?.lag > Some(lag), "it grows older");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_waited_for_and_no_longer_than_allowed() -> Result<()> {
    let world = World::create().await?;
    world.shared().await?;
    let reader = world.reader("sheaf").await?;
    feed(&world, "'0/100'", "done").await?;
    let here = look(&reader, None).await?.position;
    assert_eq!(here.lsn, Lsn(0x100));
    let token = |lsn| {
        Some(Position {
            lsn: Lsn(lsn),
            ..here
        })
    };
    assert_eq!(look(&reader, token(0x100)).await?.cover, Cover::Covered);
    assert_eq!(look(&reader, token(0x101)).await?.cover, Cover::Behind);
    let foreign = Position {
        system_id: here.system_id ^ 1,
        ..here
    };
    assert_eq!(look(&reader, Some(foreign)).await?.cover, Cover::Foreign);
    let waited = reader
        .wait(token(0x200), Duration::from_millis(300))
        .await?;
    assert_eq!(waited.cover, Cover::Behind);
    let waiting = reader.wait(token(0x200), Duration::from_secs(60));
    let (waited, fed) = tokio::join!(waiting, feed(&world, "'0/200'", "done"));
    fed?;
    assert_eq!(waited?.cover, Cover::Covered);
    Ok(())
}
