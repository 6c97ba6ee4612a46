//! A rate that may be exceeded once and is then waited for. Pure: the time is handed in.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How much may come at once after a quiet time, in seconds of the rate. Larger lets a tenant that was quiet crowd out
/// others for longer; smaller refuses the ordinary unevenness of agents that all send at the full second.
const BURST: Duration = Duration::from_secs(2);
/// The most that one charge can cost. A guard of the arithmetic: the largest body at the smallest useful rate is less.
const COST_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What has been used of a rate, kept as the instant up to which it is paid for: a token bucket without a clock of its
/// own. It may go into debt, so that what is already there is not thrown away; the next one waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    paid_until: Instant,
}

impl Spent {
    /// Nothing was used lately.
    pub(super) fn nothing(now: Instant) -> Spent {
        Spent { paid_until: now }
    }

    /// How long to wait until anything may come again; absent where that is now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let ahead = self.paid_until.saturating_duration_since(now);
        ahead.checked_sub(BURST).filter(|wait| !wait.is_zero())
    }

    /// Uses so many units of a rate.
    pub(super) fn charge(&mut self, units: u64, per_second: NonZeroU64, now: Instant) {
        self.paid_until = self.paid_until.max(now) + cost(units, per_second);
    }

    /// Gives back what was charged and then not used.
    pub(super) fn refund(&mut self, units: u64, per_second: NonZeroU64) {
        self.paid_until = self
            .paid_until
            .checked_sub(cost(units, per_second))
            .unwrap_or(self.paid_until);
    }

    /// Whether it is as if nothing had been used.
    pub(super) fn is_nothing(&self, now: Instant) -> bool {
        self.paid_until <= now
    }
}

fn cost(units: u64, per_second: NonZeroU64) -> Duration {
    let nanos = u128::from(units) * 1_000_000_000 / u128::from(per_second.get());
    let cost = u64::try_from(nanos).map_or(COST_MAX, Duration::from_nanos);
    cost.min(COST_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64) -> NonZeroU64 {
        NonZeroU64::new(per_second).expect("a positive rate")
    }

    #[test]
    fn a_debt_is_waited_for_to_the_end_and_no_longer() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // (charges as (seconds, units) at 100 a second, asked at, wait in seconds)
        for (charges, asked_at, wait) in [
            (vec![], 0.0, None),
            (vec![(0.0, 200)], 0.0, None),
            (vec![(0.0, 201)], 0.0, Some(0.01)),
            (vec![(0.0, 1_000)], 0.0, Some(8.0)),
            (vec![(0.0, 1_000)], 5.0, Some(3.0)),
            (vec![(0.0, 1_000)], 8.0, None),
            (vec![(0.0, 1_000), (8.0, 100)], 8.0, Some(1.0)),
            // What was not used long ago is not saved up.
            (vec![(100.0, 1_000)], 100.0, Some(8.0)),
        ] {
            let mut spent = Spent::nothing(start);
            for (seconds, units) in &charges {
                spent.charge(*units, rate(100), at(*seconds));
            }
            assert_eq!(
                spent.wait(at(asked_at)),
                wait.map(Duration::from_secs_f64),
                "{charges:?} asked at {asked_at}"
            );
        }
    }

    #[test]
    fn what_is_given_back_is_as_if_it_had_not_been_charged() {
        let start = Instant::now();
        let mut spent = Spent::nothing(start);
        spent.charge(1_000, rate(100), start);
        spent.charge(500, rate(100), start);
        spent.refund(1_000, rate(100));
        assert_eq!(spent.wait(start), Some(Duration::from_secs(3)));
        spent.refund(500, rate(100));
        assert!(spent.is_nothing(start));
    }

    #[test]
    fn the_largest_charges_do_not_overflow() {
        let now = Instant::now();
        let mut spent = Spent::nothing(now);
        for _ in 0..1_000 {
            spent.charge(u64::MAX, rate(1), now);
        }
        assert!(spent.wait(now).is_some());
    }

    proptest! {
        #[test]
        fn whoever_waits_as_told_never_exceeds_the_rate_by_more_than_a_burst_and_one_charge(
            per_second in 1_u64..1_000_000,
            charges in proptest::collection::vec((1_u64..100_000, 0_u64..5_000), 1..50),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut spent = Spent::nothing(start);
            let (mut sum, mut largest) = (0, 0);
            for (units, pause_ms) in charges {
                now += Duration::from_millis(pause_ms);
                now += spent.wait(now).unwrap_or_default();
                prop_assert!(spent.wait(now).is_none(), "the wait that was told is enough");
                spent.charge(units, rate(per_second), now);
                (sum, largest) = (sum + units, largest.max(units));
                let elapsed = now.duration_since(start) + BURST;
                let allowed = elapsed.as_secs_f64() * per_second as f64 + largest as f64 + 1.0;
                prop_assert!(sum as f64 <= allowed, "{sum} of {allowed}");
            }
        }
    }
}
