//! The partitions that this server has seen, for as long as it may trust its eyes: others close, detach and attach them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sheaf_model::Timestamp;
use sheaf_store::partitions::Partition;

use crate::plan::is_late;

/// How long what was read is taken to be true. What is staged into a partition that was closed meanwhile, its flush refuses
/// and keeps; into one that was detached, its flush makes another. Less would be a statement more for many requests.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The partitions that can be written to, and when they were read.
#[derive(Debug, Default)]
pub(super) struct KnownPartitions {
    partitions: Vec<Partition>,
    /// What was observed before this is late, and needs none.
    closed_before: Option<Timestamp>,
    read_at: Option<Instant>,
}

impl KnownPartitions {
    /// As they were at `read_at`, or after it.
    pub(super) fn read(
        partitions: Vec<Partition>,
        closed_before: Option<Timestamp>,
        read_at: Instant,
    ) -> KnownPartitions {
        KnownPartitions {
            partitions,
            closed_before,
            read_at: Some(read_at),
        }
    }

    /// Whether all these instants have one now.
    pub(super) fn hold(&self, times: &BTreeSet<Timestamp>, now: Instant) -> bool {
        let is_fresh = self
            .read_at
            .is_some_and(|read_at| now.saturating_duration_since(read_at) < TRUSTED_FOR);
        let holds = |time: &Timestamp| {
            is_late(*time, self.closed_before)
                || self.partitions.iter().any(|known| known.holds(*time))
        };
        times.is_empty() || is_fresh && times.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_known_for_a_second() {
        let time = |micros| Timestamp::from_micros(micros).expect("a small time");
        let there = Partition {
            name: "entity_events_x".into(),
            lower: time(0),
            upper: time(10),
        };
        let (begin, ms) = (Instant::now(), Duration::from_millis);
        let known = KnownPartitions::read(vec![there], Some(time(-5)), begin);
        for (times, after_ms, hold) in [
            (vec![], 0, true),
            (vec![0, 9], 0, true),
            (vec![9], 999, true),
            (vec![-6, 9], 0, true),
            (vec![-5, 9], 0, false),
            (vec![9], 1_000, false),
            (vec![], 1_000, true),
            (vec![9, 10], 0, false),
        ] {
            let times: BTreeSet<Timestamp> = times.into_iter().map(time).collect();
            let held = known.hold(&times, begin + ms(after_ms));
            assert_eq!(held, hold, "{times:?} after {after_ms} ms");
        }
        let never_read = KnownPartitions::default();
        assert!(!never_read.hold(&BTreeSet::from([time(0)]), begin));
    }
}
