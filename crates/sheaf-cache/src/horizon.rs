//! Which history the database continues, and what its clock shows.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::{Lineage, Timestamp};

/// What is known of the database as a whole.
pub(crate) struct Horizon {
    system_id: u64,
    /// Zero before it is known, which no timeline is. Every read looks here, so that nobody waits for a lock.
    timeline: AtomicU32,
    /// What the primary's clock showed, and when it was asked. Changed together with the timeline.
    clock: Mutex<Option<(Timestamp, Instant)>>,
}

impl Horizon {
    pub(crate) fn new(system_id: u64) -> Horizon {
        Horizon {
            system_id,
            timeline: AtomicU32::new(0),
            clock: Mutex::default(),
        }
    }

    /// Something was seen of this history. False where it is not the one that is continued: a failover left it behind, or
    /// it is of another cluster.
    pub(crate) fn follow(&self, lineage: Lineage) -> bool {
        let known = self.lineage();
        if known == Some(lineage) {
            return true;
        }
        if lineage.system_id != self.system_id {
            return false;
        }
        let mut clock = self.clock();
        let known = self.timeline.load(Ordering::Acquire);
        if known < lineage.timeline {
            self.timeline.store(lineage.timeline, Ordering::Release);
            // The clock of the server before.
            *clock = None;
        }
        known <= lineage.timeline
    }

    /// The primary's clock showed this at some time after `asked_at`.
    pub(crate) fn set_clock(&self, shown: Timestamp, asked_at: Instant) {
        let mut clock = self.clock();
        if clock.is_none_or(|(_, earlier)| earlier < asked_at) {
            *clock = Some((shown, asked_at));
        }
    }

    /// How old, at most, what was complete at an instant of the database's clock is now: the clock was read after it was
    /// asked for, so that what has passed since is counted a little long. Unknown before the clock was seen.
    pub(crate) fn lag_of(&self, data_timestamp: Timestamp, now: Instant) -> Option<Duration> {
        let (shown, asked_at) = (*self.clock())?;
        let since = i64::try_from(now.saturating_duration_since(asked_at).as_micros()).ok()?;
        Some(shown.saturating_add_micros(since).since(data_timestamp))
    }

    pub(crate) fn lineage(&self) -> Option<Lineage> {
        let timeline = self.timeline.load(Ordering::Acquire);
        (timeline > 0).then_some(Lineage {
            system_id: self.system_id,
            timeline,
        })
    }

    fn clock(&self) -> MutexGuard<'_, Option<(Timestamp, Instant)>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(system_id: u64, timeline: u32) -> Lineage {
        Lineage {
            system_id,
            timeline,
        }
    }

    #[test]
    fn a_later_history_is_followed_and_what_it_left_behind_is_not() {
        let horizon = Horizon::new(7);
        assert_eq!(horizon.lineage(), None);
        for (seen, is_followed, known) in [
            (lineage(8, 1), false, None),
            (lineage(7, 2), true, Some(2)),
            (lineage(7, 1), false, Some(2)),
            (lineage(7, 2), true, Some(2)),
            (lineage(8, 9), false, Some(2)),
            (lineage(7, 3), true, Some(3)),
        ] {
            assert_eq!(horizon.follow(seen), is_followed, "{seen:?}");
            let timeline = horizon.lineage().map(|known| known.timeline);
            assert_eq!(timeline, known, "after {seen:?}");
        }
    }

    #[test]
    fn an_age_is_measured_by_the_databases_clock_alone_and_unknown_without() {
        let horizon = Horizon::new(7);
        let time = |micros| Timestamp::from_micros(micros).expect("a small time");
        let asked_at = Instant::now();
        let later = asked_at + Duration::from_millis(5);
        assert_eq!(horizon.lag_of(time(0), later), None);
        horizon.set_clock(time(2_000), asked_at);
        let lag = |micros| horizon.lag_of(time(micros), later);
        assert_eq!(lag(500), Some(Duration::from_micros(6_500)));
        assert_eq!(lag(9_000), Some(Duration::ZERO));
        horizon.set_clock(time(90_000), asked_at - Duration::from_millis(1));
        assert_eq!(
            lag(500),
            Some(Duration::from_micros(6_500)),
            "an older look"
        );
        assert!(horizon.follow(lineage(7, 1)));
        assert_eq!(lag(500), None, "the clock of another server");
    }
}
