use sheaf_store::partitions::Partition;

use super::*;

const MB: i64 = 1_000_000;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time").0
}

fn measured(rows_per_second: f64) -> Option<Measured> {
    Some(Measured {
        rows_per_second,
        index_bytes_per_row: 40.0,
    })
}

#[test]
fn the_interval_is_the_widest_whose_indexes_fit() {
    use PartitionInterval::{Day, Hour, Month, SixHours, Week};
    // 40 bytes a row: a row a second makes 0.144 MB an hour, 3.5 MB a day, 24 MB a week, 107 MB a month.
    for (rate, memory_mb, current, expected) in [
        (1.0, 107 + 1, Month, Month),
        (1.0, 100, Month, Month),
        (1.0, 80, Month, Week),
        (10.0, 100, Month, Day),
        (100.0, 100, Month, SixHours),
        (1_000.0, 200, Month, Hour),
        // The narrowest there is, though nothing fits.
        (1_000_000.0, 100, Month, Hour),
        (1_000_000.0, 100, Hour, Hour),
        // Above the memory by less than a quarter.
        (10.0, 30, Day, Day),
        (10.0, 20, Day, SixHours),
        // Wider only where half of the memory is enough.
        (1.0, 50, Day, Week),
        (1.0, 48, Day, Day),
        (0.001, 100, Hour, Month),
        (0.0, 100, Hour, Month),
    ] {
        let now = at("2024-05-05T00:00:00Z");
        let decision = decide(measured(rate), memory_mb * MB, current, None, now);
        let to = match &decision {
            Decision::Keep => current,
            Decision::Change { to, .. } => *to,
        };
        assert_eq!(to, expected, "{rate} {memory_mb} {current:?}");
        if let Decision::Change { to, .. } = decision {
            let again = decide(measured(rate), memory_mb * MB, to, None, now);
            assert_eq!(again, Decision::Keep, "{rate} {memory_mb}: it swings");
        }
    }
}

#[test]
fn wider_waits_for_a_whole_interval_and_narrower_does_not() {
    use PartitionInterval::{Day, Hour, Month};
    let decided = at("2024-05-05T00:00:00Z");
    for (rate, current, hours, changes) in [
        (0.001, Day, 23, false),
        (0.001, Day, 24, true),
        (0.001, Hour, 1, true),
        (1_000_000.0, Month, 0, true),
        (1_000_000.0, Day, 0, true),
    ] {
        let now = decided.saturating_add_micros(hours * 3_600_000_000);
        let decision = decide(measured(rate), 100 * MB, current, Some(decided), now);
        assert_eq!(
            decision != Decision::Keep,
            changes,
            "{rate} {current:?} after {hours} h"
        );
    }
}

#[test]
fn a_rate_that_wavers_around_a_bound_changes_the_interval_once() {
    let now = at("2024-05-05T00:00:00Z");
    let (mut current, mut changes) = (PartitionInterval::Week, 0);
    // 4.1 rows a second fill 100 MB in a week.
    let wavering = [4.5, 3.9].repeat(50);
    for (rates, expected) in [
        (&wavering[..], (PartitionInterval::Week, 0)),
        (&[6.0], (PartitionInterval::Day, 1)),
        (&wavering[..], (PartitionInterval::Day, 1)),
        (&[2.0], (PartitionInterval::Week, 2)),
    ] {
        for rate in rates {
            let decision = decide(measured(*rate), 100 * MB, current, None, now);
            if let Decision::Change { to, .. } = decision {
                (current, changes) = (to, changes + 1);
            }
        }
        assert_eq!((current, changes), expected);
    }
}

#[test]
fn a_decision_says_what_it_was_made_from() {
    let now = at("2024-05-05T00:00:00Z");
    let month = PartitionInterval::Month;
    let decision = decide(measured(10.0), 100 * MB, month, None, now);
    let reason = "10.0 rows a second with 40 bytes of index each make 1071 MB a month, 35 MB a day, and 100 MB may be used";
    assert_eq!(
        decision,
        Decision::Change {
            to: PartitionInterval::Day,
            reason: reason.to_owned()
        }
    );
    assert_eq!(decide(None, 0, month, None, now), Decision::Keep);
}

fn partition(from: &str, to: &str, rows: Option<i64>) -> MeasuredPartition {
    let (lower, upper) = (at(from), at(to));
    MeasuredPartition {
        partition: Partition {
            name: String::new(),
            lower,
            upper,
        },
        accepts_writes: true,
        row_estimate: rows,
        heap_bytes: 0,
        index_bytes: rows.unwrap_or(0) * 40,
        invalid_indexes: 0,
        vacuumed_at: None,
    }
}

#[test]
fn the_rate_is_the_higher_one_of_the_two_newest_partitions_that_have_begun() {
    let day = |from: u32, rows| {
        let (from, to) = (
            format!("2024-05-{from:02}T00:00:00Z"),
            format!("2024-05-{:02}T00:00:00Z", from + 1),
        );
        partition(&from, &to, rows)
    };
    let (six, ten_past) = ("2024-05-05T06:00:00Z", "2024-05-05T00:10:00Z");
    for (rows, now, expected) in [
        // A day has 86,400 seconds, six hours a quarter of them.
        (
            [Some(86_400_000), Some(86_400), Some(21_600)],
            six,
            Some(1.0),
        ),
        (
            [Some(86_400_000), Some(86_400), Some(43_200)],
            six,
            Some(2.0),
        ),
        (
            [Some(86_400_000), Some(864_000), Some(21_600)],
            six,
            Some(10.0),
        ),
        // Ten minutes are too short, some thousand rows too few, and unknown is not zero.
        ([Some(0), Some(86_400), Some(600_000)], ten_past, Some(1.0)),
        ([Some(86_400_000), Some(9_999), Some(9_999)], six, None),
        ([Some(0), None, Some(21_600)], six, Some(1.0)),
        ([Some(0), None, None], six, None),
    ] {
        let mut partitions: Vec<_> = (3..)
            .zip(rows)
            .map(|(from, rows)| day(from, rows))
            .collect();
        // Ahead of now, whatever it holds.
        partitions.push(day(6, Some(86_400_000)));
        let found = measure(&partitions, at(now));
        assert_eq!(
            found.map(|found| found.rows_per_second),
            expected,
            "{rows:?} at {now}"
        );
        assert!(found.is_none_or(|found| found.index_bytes_per_row == 40.0));
    }
    assert_eq!(measure(&[], at(six)), None);
}
