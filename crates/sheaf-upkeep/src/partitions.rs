//! Partitions of the history, made before they are needed.

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::interval::PartitionInterval;
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};

const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// How far ahead partitions reach.
///
/// From a day on, a week and a day: enough to notice that nobody makes them, and not further, because a partition that is
/// there keeps its bounds when the interval changes. A week of hours would be 168 partitions, each a cost to every read;
/// half a day of them is noticed by the alarm at a quarter of it. Whatever is missing all the same, the write that needs
/// it makes.
pub fn ahead_micros(interval: PartitionInterval) -> i64 {
    match interval {
        PartitionInterval::Hour => 12 * HOUR_MICROS,
        PartitionInterval::SixHours => 3 * DAY_MICROS,
        PartitionInterval::Day | PartitionInterval::Month => 8 * DAY_MICROS,
        PartitionInterval::Week => 14 * DAY_MICROS,
    }
}

/// From when on a missing partition is an alarm: three days, or a quarter of what should be there below a day.
pub fn alarm_micros(interval: PartitionInterval) -> i64 {
    match interval {
        PartitionInterval::Hour | PartitionInterval::SixHours => ahead_micros(interval) / 4,
        PartitionInterval::Day | PartitionInterval::Week | PartitionInterval::Month => {
            3 * DAY_MICROS
        }
    }
}

/// The first instant from now on that no partition holds.
pub fn reach(partitions: &[Partition], now: Timestamp) -> Timestamp {
    let mut reached = now;
    while let Some(partition) = partitions.iter().find(|partition| partition.holds(reached)) {
        reached = partition.upper;
    }
    reached
}

/// Makes the partitions that are missing from now until [`ahead_micros`] from now. Gives back how many.
pub async fn create_ahead(
    upkeep: &Pool,
    interval: PartitionInterval,
    now: Timestamp,
) -> Result<usize, PgError> {
    let until = now.saturating_add_micros(ahead_micros(interval));
    let mut partitions = list_partitions(upkeep).await?;
    let is_first = partitions.is_empty();
    let mut made = 0;
    loop {
        let needed = reach(&partitions, now);
        if needed > until {
            return Ok(made);
        }
        if !is_first && needed < now.saturating_add_micros(alarm_micros(interval)) {
            tracing::warn!(at = %needed, "a partition was missing that is needed soon");
        }
        partitions.push(ensure_partition(upkeep, needed).await?);
        made += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_is_made_ahead_from_a_day_on_and_never_many_partitions() {
        for interval in PartitionInterval::ALL {
            let ahead = ahead_micros(interval);
            assert!(ahead / interval.micros_max() <= 12, "{interval:?}");
            assert!(alarm_micros(interval) * 2 <= ahead, "{interval:?}");
            if interval >= PartitionInterval::Day {
                assert!(ahead >= 7 * DAY_MICROS, "{interval:?}");
                assert_eq!(alarm_micros(interval), 3 * DAY_MICROS, "{interval:?}");
            }
        }
    }

    #[test]
    fn the_reach_ends_at_the_first_gap() {
        let at = |hour: i64| Timestamp::from_micros(hour * HOUR_MICROS).expect("an instant");
        let partition = |from, to| Partition {
            name: String::new(),
            lower: at(from),
            upper: at(to),
        };
        let partitions = [
            partition(0, 2),
            partition(2, 3),
            partition(4, 9),
            partition(3, 4),
            partition(10, 12),
        ];
        for (now, expected) in [(0, 9), (3, 9), (9, 9), (10, 12), (13, 13)] {
            assert_eq!(reach(&partitions, at(now)), at(expected), "from {now}");
        }
    }
}
