//! The history always has a partition for what is accepted, and never one for what is not.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sheaf_model::Timestamp;
use sheaf_store::maintenance::{self, PartitionState};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_testkit::Injected;

use world::{World, event, ingest};

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time").0
}

/// The partitions that lie in one year, as their bounds.
fn bounds(partitions: &[Partition], year: &str) -> Vec<(String, String)> {
    partitions
        .iter()
        .map(|partition| (partition.lower.to_sortable(), partition.upper.to_sortable()))
        .filter(|(lower, _)| lower.starts_with(year))
        .map(|(lower, upper)| (lower[..10].to_owned(), upper[..10].to_owned()))
        .collect()
}

fn pairs<T: AsRef<str>>(expected: &[(T, T)]) -> Vec<(String, String)> {
    let owned = expected
        .iter()
        .map(|(lower, upper)| (lower.as_ref().to_owned(), upper.as_ref().to_owned()));
    owned.collect()
}

/// All of it is less than two years ago, so that its partitions are months.
fn last_year() -> String {
    let this_year: i32 = Timestamp::now().to_sortable()[..4].parse().expect("a year");
    (this_year - 1).to_string()
}

/// A partition made by hand, as an operator would make a narrower one.
async fn make_by_hand(world: &World, name: &str, from: &str, to: &str) -> Result<()> {
    let client = world.database.client("sheaf_upkeep").await?;
    client
        .batch_execute(&format!(
            "SET ROLE sheaf_owner;
             CREATE TABLE sheaf.{name} PARTITION OF sheaf.entity_events FOR VALUES FROM ('{from}') TO ('{to}');
             COMMENT ON TABLE sheaf.{name} IS 'Made by hand.';
             GRANT INSERT ON sheaf.{name} TO sheaf_writer"
        ))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_write_makes_the_partition_that_it_lacks() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let missing = Injected::new("missing partition");
    let pool = world.pool("sheaf_writer", 1);
    for name in ["one", "two"] {
        // A server that starts when the partition is gone, as one does that has run past the last one.
        let writer = world.writer().await?;
        let now = Timestamp::now().to_sortable();
        assert!(list_partitions(&pool).await?.is_empty());
        missing.count();
        let answer = ingest(&writer, &scope, &[event(name, &now, r#"{"a":1}"#)]).await?;
        assert_eq!(answer.counts.accepted, 1);
        let made = list_partitions(&pool).await?;
        assert_eq!(made.len(), 1);
        assert!(made[0].holds(at(&now)));
        world
            .database
            .superuser()
            .await?
            .batch_execute(&format!("DROP TABLE sheaf.{}", made[0].name))
            .await?;
    }
    missing.require();
    Ok(())
}

#[tokio::test]
async fn a_partition_dropped_under_a_running_server_is_made_again() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let pool = world.pool("sheaf_writer", 1);
    let line = |name: &str| [event(name, "2024-05-05T00:00:00Z", r#"{"a":1}"#)];
    ingest(&writer, &scope, &line("one")).await?;
    let made = list_partitions(&pool).await?;
    let drop_it = format!("DROP TABLE sheaf.{}", made[0].name);
    world
        .database
        .superuser()
        .await?
        .batch_execute(&drop_it)
        .await?;
    // The lane learns of it by a write that fails whole; the client's next attempt stores it.
    let first = ingest(&writer, &scope, &line("two")).await;
    let answer = ingest(&writer, &scope, &line("two")).await?;
    let stored = answer.counts.accepted + first.map_or(0, |answer| answer.counts.accepted);
    assert_eq!(stored, 1);
    assert_eq!(list_partitions(&pool).await?, made);
    Ok(())
}

#[tokio::test]
async fn a_partition_detached_under_a_running_server_takes_no_row_that_history_would_not_read()
-> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let upkeep = world.pool("sheaf_upkeep", 2);
    let detached = Injected::new("remembered partition detached");
    let line = |name: &str| [event(name, "2024-05-05T00:00:00Z", r#"{"a":1}"#)];
    ingest(&writer, &scope, &line("one")).await?;
    let made = list_partitions(&upkeep).await?;
    let name = &made[0].name;
    maintenance::detach(&upkeep, name, PartitionState::Attached, Timestamp::now()).await?;
    detached.count();
    let answer = ingest(&writer, &scope, &line("two")).await?;
    assert_eq!(answer.counts.accepted, 1);
    let kept = format!("SELECT count(*) FROM sheaf.{name}");
    assert_eq!(world.count(&kept).await?, 1);
    let history = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(world.count(history).await?, 1, "the second event");
    detached.require();
    Ok(())
}

#[tokio::test]
async fn what_was_detached_and_is_reported_again_is_stored_again_and_leaves_the_document_as_it_was()
-> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let upkeep = world.pool("sheaf_upkeep", 2);
    let lines = [
        event("one", "2020-05-05T00:00:00Z", r#"{"a":1,"b":1}"#),
        event("one", "2024-05-05T00:00:00Z", r#"{"a":2}"#),
    ];
    let keyed = || {
        let mut request = world::request(&lines);
        request.idempotency_key = Some("first".to_owned());
        request
    };
    let writer = world.writer().await?;
    assert_eq!(writer.ingest(&scope, keyed()).await?.counts.accepted, 2);
    let document = "SELECT hashtextextended(format('%s %s %s', hot_attrs, cold_attrs, times), 0) FROM sheaf.entity_jsonb";
    let before = world.count(document).await?;
    let made = list_partitions(&upkeep).await?;
    let name = &made[0].name;
    maintenance::detach(&upkeep, name, PartitionState::Attached, Timestamp::now()).await?;

    // The ledger remembers the request whatever became of its events.
    let replayed = writer.ingest(&scope, keyed()).await?;
    assert!(replayed.replayed);
    // Another request with the same facts: the one in the history is a duplicate, the other is not there any more. A
    // server that has run on and one that starts afterwards answer alike.
    for (writer, expected) in [(writer, (1, 1)), (world.writer().await?, (0, 2))] {
        let counts = ingest(&writer, &scope, &lines).await?.counts;
        assert_eq!((counts.accepted, counts.duplicates), expected);
        assert_eq!(world.count(document).await?, before, "the document");
    }
    let history = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(world.count(history).await?, 2);
    let kept = format!("SELECT count(*) FROM sheaf.{name}");
    assert_eq!(world.count(&kept).await?, 1);
    // Its time has another partition by now, which was written to.
    let refused = maintenance::attach(&upkeep, name, PartitionState::Detached).await;
    assert!(refused.is_err(), "two partitions of one time");
    assert_eq!(world.count(&kept).await?, 1, "nothing was changed");
    Ok(())
}

#[tokio::test]
async fn midnight_belongs_to_the_partition_that_it_begins() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let year = last_year();
    let times = ["02-28T23:59:59.999999Z", "03-01T00:00:00Z"];
    let lines = times.map(|time| event("one", &format!("{year}-{time}"), r#"{"a":1}"#));
    ingest(&writer, &scope, &lines).await?;
    for name in ["20260201_20260301", "20260301_20260401"] {
        let table = name.replace("2026", &year);
        let rows = world
            .count(&format!("SELECT count(*) FROM sheaf.entity_events_{table}"))
            .await?;
        assert_eq!(rows, 1, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_is_clipped_by_neighbours_that_were_made_by_hand() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let year = last_year();
    let day = |day: &str| format!("{year}-{day}");
    make_by_hand(&world, "a_week", &day("06-08Z"), &day("06-15Z")).await?;
    make_by_hand(&world, "some_days", "2020-02-03Z", "2020-02-05Z").await?;
    let pool = world.pool("sheaf_writer", 1);
    let week = list_partitions(&pool).await?;
    assert_eq!(bounds(&week, &year), pairs(&[(day("06-08"), day("06-15"))]));
    let writer = world.writer().await?;
    let days = [
        day("06-03"),
        day("06-10"),
        day("06-15"),
        "2020-01-01".to_owned(),
        "2020-12-31".to_owned(),
    ];
    let lines = days.map(|day| event("one", &format!("{day}T00:00:00Z"), r#"{"a":1}"#));
    assert_eq!(ingest(&writer, &scope, &lines).await?.counts.accepted, 5);
    let made = list_partitions(&pool).await?;
    assert_eq!(
        bounds(&made, &year),
        pairs(&[
            (day("06-01"), day("06-08")),
            (day("06-08"), day("06-15")),
            (day("06-15"), day("07-01"))
        ])
    );
    assert_eq!(
        bounds(&made, "2020"),
        pairs(&[
            ("2020-01-01", "2020-02-03"),
            ("2020-02-03", "2020-02-05"),
            ("2020-02-05", "2021-01-01")
        ])
    );
    Ok(())
}

#[tokio::test]
async fn bounds_read_the_same_whatever_the_database_shows_times_as() -> Result<()> {
    let world = World::create().await?;
    let pool = world.pool("sheaf_writer", 1);
    let made = ensure_partition(&pool, at("2024-05-05T00:00:00Z")).await?;
    let name = world.database.name();
    for (style, zone, older) in [
        ("SQL, DMY", "Asia/Kolkata", 2010),
        ("German", "America/New_York", 2000),
    ] {
        world
            .database
            .superuser()
            .await?
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET datestyle = '{style}'; ALTER DATABASE {name} SET timezone = '{zone}'"
            ))
            .await?;
        let pool = world.pool("sheaf_writer", 1);
        let listed = list_partitions(&pool).await?;
        assert!(listed.contains(&made), "{style} {zone}: {listed:?}");
        let older = ensure_partition(&pool, at(&format!("{older}-05-05T00:00:00Z"))).await?;
        assert!(
            older
                .lower
                .to_sortable()
                .ends_with("-01-01T00:00:00.000000Z"),
            "{older:?}"
        );
        let again = ensure_partition(&pool, at("2024-05-06T00:00:00Z")).await?;
        assert_eq!(again, made, "{style} {zone}");
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_without_bounds_is_an_error_and_no_panic() -> Result<()> {
    let world = World::create().await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "CREATE TABLE sheaf.oldest PARTITION OF sheaf.entity_events FOR VALUES FROM (MINVALUE) TO ('1900-01-01Z');
             GRANT INSERT ON sheaf.oldest TO sheaf_writer",
        )
        .await?;
    let pool = world.pool("sheaf_writer", 1);
    let error = list_partitions(&pool)
        .await
        .expect_err("no instant is its bound");
    assert!(error.to_string().contains("oldest"), "{error}");
    Ok(())
}

#[tokio::test]
async fn times_out_of_range_are_refused_and_make_no_partition() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let pool = world.pool("sheaf_writer", 1);
    ingest(
        &writer,
        &scope,
        &[event("one", "2024-05-05T00:00:00Z", r#"{"a":1}"#)],
    )
    .await?;
    let before = list_partitions(&pool).await?;
    let in_two_days = Timestamp::now().saturating_add_micros(2 * 86_400_000_000);
    let mut times = vec![
        "1970-01-01T00:00:00Z".to_owned(),
        "2300-01-01T00:00:00Z".to_owned(),
        "1989-12-31T23:59:59.999999Z".to_owned(),
        in_two_days.to_sortable(),
    ];
    times.extend(
        (1..=9999)
            .step_by(7)
            .filter(|year| !(1990..=2100).contains(year))
            .map(|year| format!("{year:04}-06-15T12:00:00Z")),
    );
    let lines: Vec<String> = times
        .iter()
        .map(|time| event("one", time, r#"{"a":1}"#))
        .collect();
    let answer = ingest(&writer, &scope, &lines).await?;
    assert_eq!(
        (answer.counts.accepted, answer.counts.refused),
        (0, i64::try_from(lines.len())?)
    );
    for rejected in &answer.rejected {
        assert_eq!(rejected.code, "time_out_of_range", "{}", rejected.reason);
    }
    assert_eq!(list_partitions(&pool).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_time_of_every_week_accepted_makes_a_bounded_number_of_partitions() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let mut time = at("1990-01-01T00:00:00Z");
    let mut lines = Vec::new();
    while time < Timestamp::now() {
        lines.push(event("one", &time.to_sortable(), r#"{"a":1}"#));
        time = time.saturating_add_micros(7 * 86_400_000_000);
    }
    let answer = ingest(&writer, &scope, &lines).await?;
    assert_eq!(answer.counts.accepted, i64::try_from(lines.len())?);
    let partitions = list_partitions(&world.pool("sheaf_writer", 1)).await?;
    // A year each since 1990, and a month each in the last two years and what is left of the year before.
    let years = usize::try_from(
        (Timestamp::now().as_micros() - at("1990-01-01T00:00:00Z").as_micros())
            / (365 * 86_400_000_000),
    )?;
    assert!(partitions.len() <= years + 1 + 36, "{}", partitions.len());
    for pair in partitions.windows(2) {
        assert_eq!(pair[0].upper, pair[1].lower, "no gap and no overlap");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_are_made_once_while_others_write_and_nobody_waits() -> Result<()> {
    const WAIT_MAX: Duration = Duration::from_secs(1);
    const WRITERS: i64 = 8;
    let world = Arc::new(World::create().await?);
    let pool = world.pool("sheaf_writer", 2);
    ensure_partition(&pool, at("2024-05-05T00:00:00Z")).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for entity in 1..=WRITERS {
        let client = world.database.client("sheaf_writer").await?;
        let stop = Arc::clone(&stop);
        let table = list_partitions(&pool).await?[0].name.clone();
        writers.push(tokio::spawn(async move {
            let insert = format!(
                "INSERT INTO sheaf.{table} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
                 VALUES (1, {entity}, timestamptz '2024-05-05Z' + $1 * interval '1 second', 0, 'p', gen_random_uuid(), now(), '{{}}')"
            );
            let insert = client.prepare(&insert).await?;
            let (mut longest, mut count) = (Duration::ZERO, 0_i32);
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let begun = Instant::now();
                client.execute(&insert, &[&f64::from(count)]).await?;
                longest = longest.max(begun.elapsed());
            }
            anyhow::Ok((longest, count))
        }));
    }
    let instants: Vec<Timestamp> = (1990..2022)
        .map(|year| at(&format!("{year}-01-01T00:00:00Z")))
        .collect();
    let create = async || {
        let mut made = Vec::new();
        for instant in &instants {
            made.push(ensure_partition(&pool, *instant).await?);
        }
        anyhow::Ok(made)
    };
    let (one, other) = tokio::try_join!(create(), create())?;
    stop.store(true, Ordering::Relaxed);
    assert_eq!(one, other);
    assert_eq!(list_partitions(&pool).await?.len(), instants.len() + 1);
    for writer in writers {
        let (longest, count) = writer.await??;
        assert!(count > 1, "{count} inserts are too few");
        assert!(longest < WAIT_MAX, "an insert waited {longest:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_that_lack_the_same_partitions_both_write() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let (one, other) = (world.writer().await?, world.writer().await?);
    let lines = |name: &str| -> Vec<String> {
        (2000..2020)
            .map(|year| event(name, &format!("{year}-01-01T00:00:00Z"), r#"{"a":1}"#))
            .collect()
    };
    let (ours, theirs) = (lines("one"), lines("two"));
    let (one, other) =
        tokio::try_join!(ingest(&one, &scope, &ours), ingest(&other, &scope, &theirs))?;
    assert_eq!((one.counts.accepted, other.counts.accepted), (20, 20));
    let made = list_partitions(&world.pool("sheaf_writer", 1)).await?;
    assert_eq!(made.len(), 20);
    Ok(())
}

#[tokio::test]
async fn a_creator_held_up_by_another_gives_up_and_its_next_attempt_succeeds() -> Result<()> {
    let world = World::create().await?;
    let pool = world.pool("sheaf_writer", 1);
    let holder = world.database.superuser().await?;
    holder
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(24239, -1)")
        .await?;
    let error = ensure_partition(&pool, at("2024-05-05T00:00:00Z"))
        .await
        .expect_err("the other creator is not done");
    assert_eq!(error.disposition(), sheaf_pg::Disposition::Retry);
    holder.batch_execute("COMMIT").await?;
    ensure_partition(&pool, at("2024-05-05T00:00:00Z"))
        .await
        .context("the next attempt")?;
    Ok(())
}
