//! New partitions hold as long a time as was decided, and what is decided follows from what is measured.

use anyhow::{Context, Result};
use sheaf_model::Timestamp;
use sheaf_pg::{Pool, Tls};
use sheaf_store::interval::{
    IntervalDecision, NewInterval, PartitionInterval, decide_interval, read_interval,
};
use sheaf_store::invariants::{self, InvariantKind};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_testkit::{Injected, TestDatabase};
use sheaf_upkeep::{ahead_micros, create_ahead, reach, reconcile_interval};
use tokio_postgres::Client;

const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

fn pool(database: &TestDatabase, role: &str) -> Pool {
    Pool::new(&database.config(role), 2, &Tls::none())
}

async fn set_interval(upkeep: &Pool, interval: PartitionInterval) -> Result<IntervalDecision> {
    let seen = read_interval(upkeep).await?;
    let new = NewInterval {
        interval,
        reason: "the test says so".to_owned(),
        rows_per_second: 1.0,
        index_bytes_per_row: 40.0,
        memory_bytes: 1,
    };
    assert!(decide_interval(upkeep, &seen, &new, Timestamp::now()).await?);
    Ok(read_interval(upkeep).await?)
}

async fn require_sound(client: &Client) -> Result<()> {
    for invariant in invariants::ALL {
        if invariant.kind == InvariantKind::Schema {
            let mut violations = invariant.check(client).await?;
            violations.retain(|violation| violation.counterexample.contains("entity_events"));
            assert_eq!(violations, Vec::new());
        }
    }
    Ok(())
}

/// The name that a partition of these bounds has: both as days where they are midnights, else with the hour.
fn name_of(partition: &Partition) -> String {
    let part = |time: Timestamp| {
        let text = time.to_sortable();
        let (day, hour) = (text[..10].replace('-', ""), &text[11..13]);
        if time.as_micros() % DAY_MICROS == 0 {
            day
        } else {
            format!("{day}t{hour}")
        }
    };
    let (lower, upper) = (part(partition.lower), part(partition.upper));
    format!("entity_events_{lower}_{upper}")
}

#[tokio::test]
async fn a_new_partition_is_one_whole_interval_in_utc_and_its_name_says_which() -> Result<()> {
    for interval in PartitionInterval::ALL {
        let database = TestDatabase::create().await?;
        let admin = database.superuser().await?;
        admin
            .batch_execute(&format!(
                "ALTER DATABASE {} SET timezone = 'Asia/Kolkata'",
                database.name()
            ))
            .await?;
        let upkeep = pool(&database, "sheaf_upkeep");
        let decided = set_interval(&upkeep, interval).await?;
        assert_eq!((decided.decision, decided.interval), (2, interval));
        let now = Timestamp::now();
        let writer = pool(&database, "sheaf_writer");
        let made = ensure_partition(&writer, now).await?;
        assert!(made.holds(now), "{made:?}");
        let micros = made.upper.as_micros() - made.lower.as_micros();
        if interval == PartitionInterval::Month {
            let midnight = |time: Timestamp| time.to_sortable().ends_with("-01T00:00:00.000000Z");
            assert!(midnight(made.lower) && midnight(made.upper), "{made:?}");
        } else {
            assert_eq!(micros, interval.micros_max(), "{made:?}");
            // 1970 began on a Thursday; weeks begin on Mondays.
            let offset = match interval {
                PartitionInterval::Week => 4 * DAY_MICROS,
                _ => 0,
            };
            let begun = made.lower.as_micros() - offset;
            assert_eq!(begun % interval.micros_max(), 0, "{made:?}");
        }
        assert_eq!(made.name, name_of(&made));
        let next = ensure_partition(&writer, made.upper).await?;
        assert_eq!(next.lower, made.upper);
        assert_ne!(next.name, made.name);
        require_sound(&admin).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_further_a_time_is_from_now_the_wider_its_partition() -> Result<()> {
    let database = TestDatabase::create().await?;
    let upkeep = pool(&database, "sheaf_upkeep");
    set_interval(&upkeep, PartitionInterval::Hour).await?;
    let now = Timestamp::now();
    for (hours_ago, hours_most) in [
        (3, 1),
        (48, 6),
        (10 * 24, 24),
        (60 * 24, 7 * 24),
        (500 * 24, 31 * 24),
        (1500 * 24, 366 * 24),
        (-3, 1),
        (-48, 6),
        (-10 * 24, 24),
        (-1500 * 24, 366 * 24),
    ] {
        let time = now.saturating_add_micros(-hours_ago * HOUR_MICROS);
        let made = ensure_partition(&upkeep, time).await?;
        let hours = (made.upper.as_micros() - made.lower.as_micros()) / HOUR_MICROS;
        let least = if hours_most > 24 * 7 {
            hours_most * 28 / 31
        } else {
            hours_most
        };
        assert!(
            (least..=hours_most).contains(&hours),
            "{hours_ago} hours ago: {hours} hours, {made:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_bounded_number_is_attached_however_many_hours_are_written_and_that_it_decides_is_told()
-> Result<()> {
    let database = TestDatabase::create().await?;
    let upkeep = pool(&database, "sheaf_upkeep");
    set_interval(&upkeep, PartitionInterval::Hour).await?;
    let client = database.superuser().await?;
    // As a server that has run for days: hours that ended long ago.
    let begun = Timestamp::parse_date("2024-05-01")?;
    let make = async |from: i64, count: i64| {
        let mut sql = String::new();
        for hour in from..from + count {
            let (from, to) = (
                begun.saturating_add_micros(hour * HOUR_MICROS),
                begun.saturating_add_micros((hour + 1) * HOUR_MICROS),
            );
            sql.push_str(&format!(
                "CREATE TABLE sheaf.entity_events_h{hour} PARTITION OF sheaf.entity_events FOR VALUES FROM ('{from}') TO ('{to}');"
            ));
        }
        client.batch_execute(&sql).await
    };
    let now = Timestamp::now();
    let (mut made, mut hand_made) = (0, 0);
    let mut needed = now;
    let attached_max = read_interval(&upkeep).await?.attached_max;
    assert!((100..=400).contains(&attached_max), "{attached_max}");
    for (percent, hours) in [(0, 1), (64, 6), (76, 24), (88, 7 * 24), (96, 31 * 24)] {
        let attached = (attached_max * percent + 99) / 100;
        let missing = attached - made;
        make(hand_made, missing).await?;
        made += missing;
        hand_made += missing;
        let told = read_interval(&upkeep).await?;
        assert_eq!(told.attached, attached);
        assert_eq!(told.interval, PartitionInterval::Hour);
        assert_eq!(told.bounded.micros_max(), hours * HOUR_MICROS);
        assert_eq!(told.is_bounded(), percent > 0);
        let partition = ensure_partition(&upkeep, needed).await?;
        let span = (partition.upper.as_micros() - partition.lower.as_micros()) / HOUR_MICROS;
        assert!(span <= hours, "{attached} attached: {partition:?}");
        // Clipped by the one before, but never as narrow as that.
        assert!(
            partition.holds(needed),
            "{attached} attached: {partition:?}"
        );
        let until = partition.lower.saturating_add_micros(hours * HOUR_MICROS);
        assert!(partition.upper <= until);
        made += 1;
        needed = partition.upper;
    }
    // A year of hours, one write in each, from here on.
    let mut partitions = list_partitions(&upkeep).await?.len();
    for hour in 0..365 * 24 / 12 {
        let time = now.saturating_add_micros(hour * 12 * HOUR_MICROS);
        let holds = list_partitions(&upkeep).await?;
        if !holds.iter().any(|partition| partition.holds(time)) {
            ensure_partition(&upkeep, time).await?;
            partitions += 1;
        }
    }
    let most = usize::try_from(attached_max)? + 15;
    assert!(partitions <= most, "{partitions}");
    // The rate decides again once there is room.
    for from in (0..hand_made).step_by(50) {
        let last = hand_made.min(from + 50);
        let drops: String = (from..last)
            .map(|hour| format!("DROP TABLE sheaf.entity_events_h{hour};"))
            .collect();
        client.batch_execute(&drops).await?;
    }
    let told = read_interval(&upkeep).await?;
    assert_eq!(told.bounded, PartitionInterval::Hour, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn partitions_reach_ahead_at_every_interval_and_are_made_once() -> Result<()> {
    for interval in PartitionInterval::ALL {
        let database = TestDatabase::create().await?;
        let upkeep = pool(&database, "sheaf_upkeep");
        set_interval(&upkeep, interval).await?;
        let now = Timestamp::now();
        let made = create_ahead(&upkeep, interval, now).await?;
        assert!((1..=16).contains(&made), "{interval:?}: {made}");
        assert_eq!(create_ahead(&upkeep, interval, now).await?, 0);
        let partitions = list_partitions(&upkeep).await?;
        let until = now.saturating_add_micros(ahead_micros(interval));
        assert!(reach(&partitions, now) > until, "{interval:?}");
        if interval >= PartitionInterval::Day {
            let week = now.saturating_add_micros(7 * DAY_MICROS);
            assert!(reach(&partitions, now) > week, "{interval:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_partition_is_there_again_a_second_before_it_is_needed() -> Result<()> {
    let database = TestDatabase::create().await?;
    let upkeep = pool(&database, "sheaf_upkeep");
    let dropped = Injected::new("next partition dropped");
    for interval in [PartitionInterval::Day, PartitionInterval::Hour] {
        set_interval(&upkeep, interval).await?;
        create_ahead(&upkeep, interval, Timestamp::now()).await?;
        let partitions = list_partitions(&upkeep).await?;
        let now = Timestamp::now();
        let current = partitions.iter().find(|partition| partition.holds(now));
        let midnight = current.context("now has a partition")?.upper;
        let next = partitions
            .iter()
            .find(|partition| partition.holds(midnight));
        let name = &next.context("so has what comes next")?.name;
        database
            .superuser()
            .await?
            .batch_execute(&format!("DROP TABLE sheaf.{name}"))
            .await?;
        dropped.count();
        let second_before = midnight.saturating_add_micros(-1_000_000);
        assert!(create_ahead(&upkeep, interval, second_before).await? >= 1);
        let again = list_partitions(&upkeep).await?;
        assert!(again.iter().any(|partition| partition.holds(midnight)));
    }
    dropped.require();
    Ok(())
}

#[tokio::test]
async fn a_rate_that_outgrows_the_memory_narrows_new_partitions_and_says_why() -> Result<()> {
    let database = TestDatabase::create().await?;
    let upkeep = pool(&database, "sheaf_upkeep");
    let admin = database.superuser().await?;
    let now = Timestamp::now();
    assert_eq!(
        reconcile_interval(&upkeep, 25, now).await?,
        PartitionInterval::Month,
        "nothing was measured"
    );
    // The day before yesterday is one partition, and what is ahead is another.
    let before = |days: i64| now.saturating_add_micros(-days * DAY_MICROS);
    set_interval(&upkeep, PartitionInterval::Day).await?;
    let day = ensure_partition(&upkeep, before(2)).await?;
    // 100,000 rows in a day are 1.2 a second; 1 % of 128 MB is 1.3 MB, which is about eight hours of them.
    admin
        .batch_execute(&format!(
            "INSERT INTO sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT 1, n, '{}', 0, 'p', gen_random_uuid(), now(), '{{}}' FROM generate_series(1, 100000) n;
             ANALYZE sheaf.{}",
            day.name, day.lower, day.name
        ))
        .await?;
    let narrower = reconcile_interval(&upkeep, 1, now).await?;
    assert_eq!(narrower, PartitionInterval::SixHours);
    let decided = read_interval(&upkeep).await?;
    assert_eq!((decided.decision, decided.interval), (3, narrower));
    assert_eq!(decided.decided_at, Some(now));
    assert!(
        decided.reason.contains("1.2 rows a second"),
        "{}",
        decided.reason
    );
    // What is there stays as it is; what is made from here on is narrower.
    assert!(list_partitions(&upkeep).await?.contains(&day));
    let made = ensure_partition(&upkeep, now).await?;
    assert_eq!(
        made.upper.as_micros() - made.lower.as_micros(),
        6 * HOUR_MICROS
    );
    assert_eq!(reconcile_interval(&upkeep, 1, now).await?, narrower);
    assert_eq!(read_interval(&upkeep).await?.decision, decided.decision);
    // With all of the memory a month would fit; not before the interval has lasted once.
    assert_eq!(reconcile_interval(&upkeep, 90, now).await?, narrower);
    let later = now.saturating_add_micros(6 * HOUR_MICROS);
    assert!(reconcile_interval(&upkeep, 90, later).await? > narrower);
    Ok(())
}

#[tokio::test]
async fn of_two_servers_that_decide_at_once_one_does_and_the_last_hundred_are_kept() -> Result<()> {
    let database = TestDatabase::create().await?;
    let upkeep = pool(&database, "sheaf_upkeep");
    let seen = read_interval(&upkeep).await?;
    assert_eq!(
        (seen.decision, seen.interval, seen.decided_at),
        (1, PartitionInterval::Month, None)
    );
    assert_eq!(seen.shared_bytes, 128 << 20);
    let new = |interval| NewInterval {
        interval,
        reason: "a test".to_owned(),
        rows_per_second: 1.0,
        index_bytes_per_row: 1.0,
        memory_bytes: 1,
    };
    let (day, week) = (new(PartitionInterval::Day), new(PartitionInterval::Week));
    let now = Timestamp::now();
    let (one, other) = tokio::try_join!(
        decide_interval(&upkeep, &seen, &day, now),
        decide_interval(&upkeep, &seen, &week, now)
    )?;
    assert!(one != other, "both decided");
    for _ in 0..120 {
        let seen = read_interval(&upkeep).await?;
        assert!(decide_interval(&upkeep, &seen, &day, now).await?);
    }
    let rows = database
        .superuser()
        .await?
        .query_one(
            "SELECT count(*), max(decision) FROM sheaf.partition_intervals",
            &[],
        )
        .await?;
    assert_eq!((rows.get::<_, i64>(0), rows.get::<_, i64>(1)), (100, 122));
    Ok(())
}
