//! Whether Redis is asked at all. One that fails or is slow again and again is left alone for a while; then one request
//! tries it.

use std::time::{Duration, Instant};

/// Failures one after another before it is left alone.
const FAILURES_MAX: u32 = 5;
/// For how long, at least. Shorter makes requests wait for a dead Redis more often; longer goes without a healthy one.
const OPEN_MIN: Duration = Duration::from_millis(500);
/// And up to so much more, so that servers do not come back together.
const JITTER_MAX: Duration = Duration::from_millis(500);

/// The breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaker {
    /// It is asked; so many requests have failed since one did not.
    Closed { failures: u32 },
    /// It is not asked before this.
    Open { until: Instant },
    /// One request tries it. Where nobody ever tells how that ended, another may from this time on.
    Probing { until: Instant },
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly,
}

impl Breaker {
    pub(crate) fn new() -> Breaker {
        Breaker::Closed { failures: 0 }
    }

    /// Whether a request may be made now. Who may has to tell how it ended.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match *self {
            Breaker::Closed { .. } => true,
            Breaker::Open { until } | Breaker::Probing { until } if now < until => false,
            Breaker::Open { .. } | Breaker::Probing { .. } => {
                *self = Breaker::Probing {
                    until: now + OPEN_MIN,
                };
                true
            }
        }
    }

    /// A request has ended. `jitter` is between zero and one.
    pub(crate) fn record(&mut self, ended: Ended, now: Instant, jitter: f64) {
        *self = match (*self, ended) {
            (_, Ended::Well) => Breaker::new(),
            (Breaker::Closed { failures }, Ended::Badly) if failures + 1 < FAILURES_MAX => {
                Breaker::Closed {
                    failures: failures + 1,
                }
            }
            // One that began before it was opened says nothing new.
            (Breaker::Open { until }, Ended::Badly) => Breaker::Open { until },
            (Breaker::Closed { .. } | Breaker::Probing { .. }, Ended::Badly) => Breaker::Open {
                until: now + OPEN_MIN + JITTER_MAX.mul_f64(jitter.clamp(0.0, 1.0)),
            },
        };
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Breaker::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_open_it_and_one_probe_at_a_time_closes_it() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            breaker.record(Ended::Badly, start, 0.0);
            assert!(breaker.admits(start));
        }
        breaker.record(Ended::Well, start, 0.0);
        for _ in 0..5 {
            assert!(breaker.admits(start));
            breaker.record(Ended::Badly, start, 0.5);
        }
        assert_eq!(breaker, Breaker::Open { until: ms(750) });
        breaker.record(Ended::Badly, ms(700), 0.5);
        assert!(!breaker.admits(ms(749)));
        assert!(breaker.admits(ms(750)));
        assert!(!breaker.admits(ms(750)), "one probe at a time");
        breaker.record(Ended::Badly, ms(760), 0.0);
        assert!(!breaker.admits(ms(1_259)));
        assert!(breaker.admits(ms(1_260)));
        assert!(breaker.admits(ms(1_760)), "a probe that nobody ended");
        breaker.record(Ended::Well, ms(1_761), 0.0);
        assert!(breaker.is_closed() && breaker.admits(ms(1_761)));
    }
}
