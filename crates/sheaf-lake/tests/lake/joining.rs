//! Small files become few, and nothing is lost by it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use sheaf_cdc::change::Batch;
use sheaf_cdc::sink::Sink;
use sheaf_lake::LakeSink;
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::world::{Row, World, entity, event, position, transaction};

/// Two days of two entities, in an order of its own.
fn round(number: u64) -> Batch {
    let value = i64::try_from(number).expect("small");
    let time = |day: &str| format!("2024-{day}T12:{:02}:00Z", number * 37 % 60);
    let attrs = format!(
        r#"{{"1":{value},"2":{value}.5,"3":{value}.25,"4":"text {value}","5":true,"6":"2024-02-29T12:00:00Z","7":[{value}]}}"#
    );
    let rows = vec![
        entity(1000 - value),
        event(1000 - value, &time("02-29"), 0, Op::Patch, &attrs),
        event(
            value % 7,
            &time("03-01"),
            i16::try_from(number).expect("small"),
            Op::Patch,
            &attrs,
        ),
        event(value, &time("03-01"), 0, Op::Replace, "{}"),
    ];
    transaction(100 + 10 * number, rows)
}

fn key(row: &Row) -> [i64; 5] {
    let names = [
        "tenant_id",
        "attribute_id",
        "entity_id",
        "observed_at",
        "seq",
    ];
    names.map(|name| {
        row.get(name)
            .map_or(i64::MIN, |text| text.parse().expect("a number"))
    })
}

fn is_of_first_day(row: &Row) -> bool {
    &*row["observed_at"] < "1709251200000000"
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_become_one_a_part_in_order_with_every_row_as_it_was() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    for number in 1..=20 {
        sink.apply(&round(number)).await?;
        sink.flush().await?;
    }
    let (facts, entities) = (
        world.rows("sheaf", "facts").await?,
        world.rows("sheaf", "entities").await?,
    );
    assert_eq!(world.files("sheaf", "facts").await?, 40);
    let before = world.standing("sheaf").await?.position;
    sink.tidy().await?;
    assert_eq!(world.files("sheaf", "facts").await?, 2);
    assert_eq!(world.files("sheaf", "entities").await?, 1);
    let after = world.standing("sheaf").await?.position;
    assert_eq!(
        (after.stream, after.snapshot),
        (before.stream, before.snapshot)
    );
    for (table, rows) in [("facts", facts), ("entities", entities)] {
        let mut found = world.rows("sheaf", table).await?;
        if table == "facts" {
            let (one, other): (Vec<_>, Vec<_>) = found.iter().partition(|row| is_of_first_day(row));
            for day in [one, other] {
                let keys: Vec<_> = day.into_iter().map(key).collect();
                assert!(keys.len() > 100 && keys.is_sorted(), "{keys:?}");
            }
        }
        let mut rows = rows;
        rows.sort();
        found.sort();
        assert_eq!(rows, found);
    }
    sink.apply(&round(21)).await?;
    sink.flush().await?;
    assert_eq!(world.files("sheaf", "facts").await?, 4);
    Ok(())
}

/// With commits in the middle of it, restarts, and another writer.
#[tokio::test(flavor = "multi_thread")]
async fn joining_beside_commits_loses_and_doubles_nothing() -> Result<()> {
    let world = World::create().await?;
    let beside = Injected::new("commit while files were being joined");
    let stale = Injected::new("files joined in vain");
    let mut options = world.options("sheaf");
    options.pending_age_max = Duration::ZERO;
    options.join_commits = 1;
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let mut wanted = BTreeSet::new();
    for number in 1..=120 {
        // What is due is begun by each call, and is there at a later one.
        sink.apply(&round(number)).await?;
        beside.count();
        if number % 30 == 0 {
            // A writer of another process commits in between: what is being made is of no use.
            let row = event(5000, "2024-02-29T12:00:00Z", 0, Op::Patch, r#"{"1":7777}"#);
            let theirs = transaction(105 + 10 * number, vec![row]);
            let mut other = world.sink("sheaf")?;
            other.held().await?;
            other.apply(&theirs).await?;
            other.flush().await?;
            stale.count();
            assert!(sink.apply(&theirs).await.is_err(), "another was faster");
            sink.held().await?;
            sink.follow();
        }
        wanted.insert(number);
    }
    sink.flush().await?;
    sink.tidy().await?;
    let mut found = world.rows("sheaf", "facts").await?;
    found.retain(|row| is_of_first_day(row) && row.get("attribute_id").is_some_and(|id| id == "1"));
    let mut values: Vec<u64> = Vec::new();
    for row in &found {
        values.push(row["value_int"].parse()?);
    }
    values.sort_unstable();
    values.retain(|value| *value <= 120);
    assert_eq!(values, wanted.into_iter().collect::<Vec<_>>());
    let files = world.files("sheaf", "facts").await?;
    assert!(files < 4 * 16, "{files} files");
    beside.require();
    stale.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_fails_is_told_and_does_not_stop_the_stream() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("loss of a data file");
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    for number in 1..=17 {
        sink.apply(&round(number)).await?;
        sink.flush().await?;
    }
    let lost = world.folder("sheaf").join("facts/data");
    for file in std::fs::read_dir(lost)? {
        std::fs::remove_file(file?.path())?;
        injected.count();
    }
    let before = world.standing("sheaf").await?.position.number;
    sink.tidy().await?;
    sink.apply(&round(18)).await?;
    sink.flush().await?;
    assert_eq!(world.standing("sheaf").await?.position.number, before + 1);
    assert_eq!(world.files("sheaf", "facts").await?, 36);
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_table_needs_are_removed_by_the_sink_itself() -> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    options.sweep_every = Duration::ZERO;
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.apply(&round(1)).await?;
    sink.flush().await?;
    let [old, young] = ["old", "young"].map(|name| {
        let name = format!("facts/data/{name}.parquet");
        world.folder("sheaf").join(name)
    });
    for path in [&old, &young] {
        std::fs::write(path, "half a file")?;
    }
    let before = std::time::SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::options()
        .write(true)
        .open(&old)?
        .set_modified(before)?;
    while old.exists() {
        sink.idle().await?;
        tokio::task::yield_now().await;
    }
    assert!(young.exists());
    assert_eq!(world.files("sheaf", "facts").await?, 2);
    Ok(())
}
