//! The breaker of a source: after some failures in a row nothing is asked of it for a while, then one question at a time.

use std::time::{Duration, Instant};

/// Failures in a row that open it. Fewer would leave a source for one lost connection of a pool; more let more requests wait
/// for a source that is gone.
pub(crate) const FAILURES_MAX: u32 = 5;
/// How long it stays open at least. A server that was restarted is not back sooner.
const OPEN_MIN: Duration = Duration::from_secs(1);
/// Each time that a probe fails it stays open for twice as long, up to this: a source that is back is used soon after.
const OPEN_MAX: Duration = Duration::from_secs(8);
/// A probe that tells nothing for so long is not waited for.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Whether a source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaker {
    /// It is, after so many failures in a row.
    Closed { failures: u32 },
    /// It is not, until then; how often it opened without having closed in between.
    Open { until: Instant, openings: u32 },
    /// One request asks, since then.
    Probing { since: Instant, openings: u32 },
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// A request is about to ask. Only where [`Breaker::admits`] says so.
    Asked,
    /// An answer came.
    Answered,
    /// None came. The jitter, from 0 to 1, keeps several servers from probing at the same moment.
    Failed { jitter: f64 },
    /// Whoever asked has left before there was either.
    Left,
}

impl Breaker {
    /// As a source begins.
    pub(crate) const NEW: Breaker = Breaker::Closed { failures: 0 };

    /// Whether a request may ask.
    pub(crate) fn admits(self, now: Instant) -> bool {
        match self {
            Breaker::Closed { .. } => true,
            Breaker::Open { until, .. } => now >= until,
            Breaker::Probing { since, .. } => now.saturating_duration_since(since) >= PROBE_MAX,
        }
    }

    /// What becomes of it.
    pub(crate) fn step(self, event: Event, now: Instant) -> Breaker {
        match (self, event) {
            (Breaker::Closed { .. }, Event::Asked | Event::Left) => self,
            (Breaker::Closed { .. }, Event::Answered) => Breaker::NEW,
            (Breaker::Closed { failures }, Event::Failed { jitter }) => {
                if failures + 1 < FAILURES_MAX {
                    Breaker::Closed {
                        failures: failures + 1,
                    }
                } else {
                    Breaker::opened(1, jitter, now)
                }
            }
            (Breaker::Open { openings, .. } | Breaker::Probing { openings, .. }, Event::Asked) => {
                Breaker::Probing {
                    since: now,
                    openings,
                }
            }
            // Of requests that had asked before it opened.
            (Breaker::Open { .. }, Event::Answered | Event::Failed { .. } | Event::Left) => self,
            (Breaker::Probing { .. }, Event::Answered) => Breaker::NEW,
            (Breaker::Probing { openings, .. }, Event::Failed { jitter }) => {
                Breaker::opened(openings.saturating_add(1), jitter, now)
            }
            // Nothing was learned: the next one may ask at once.
            (Breaker::Probing { openings, .. }, Event::Left) => Breaker::Open {
                until: now,
                openings,
            },
        }
    }

    fn opened(openings: u32, jitter: f64, now: Instant) -> Breaker {
        let doubled = OPEN_MIN.saturating_mul(1 << (openings - 1).min(16));
        let pause = doubled.min(OPEN_MAX);
        Breaker::Open {
            until: now + pause + pause.mul_f64(jitter.clamp(0.0, 1.0) / 2.0),
            openings,
        }
    }

    /// Its name where people and metrics see it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Breaker::Closed { .. } => "closed",
            Breaker::Open { .. } => "open",
            Breaker::Probing { .. } => "half-open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Event = Event::Failed { jitter: 0.0 };

    fn after(mut breaker: Breaker, events: &[Event], now: Instant) -> Breaker {
        for event in events {
            breaker = breaker.step(*event, now);
        }
        breaker
    }

    fn opened(now: Instant) -> Breaker {
        after(Breaker::NEW, &[FAILED; 5], now)
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_an_answer_between_them_counts_from_zero() {
        let now = Instant::now();
        let four = after(Breaker::NEW, &[FAILED; 4], now);
        assert!(four.admits(now));
        let again = after(
            four,
            &[Event::Answered, FAILED, FAILED, FAILED, FAILED],
            now,
        );
        assert!(again.admits(now));
        assert_eq!(again.step(FAILED, now).as_str(), "open");
        assert!(!opened(now).admits(now));
    }

    #[test]
    fn it_stays_open_for_its_least_time_and_jitter_adds_up_to_half_of_it() {
        let now = Instant::now();
        for (jitter, millis) in [(0.0, 1_000), (0.5, 1_250), (1.0, 1_500), (7.0, 1_500)] {
            let four = after(Breaker::NEW, &[FAILED; 4], now);
            let open = four.step(Event::Failed { jitter }, now);
            let until = now + Duration::from_millis(millis);
            assert!(!open.admits(until - Duration::from_millis(1)), "{jitter}");
            assert!(open.admits(until), "{jitter}");
        }
    }

    #[test]
    fn one_request_probes_at_a_time() {
        let now = Instant::now();
        let later = now + OPEN_MIN;
        let probing = opened(now).step(Event::Asked, later);
        assert_eq!(probing.as_str(), "half-open");
        assert!(!probing.admits(later));
        assert!(!probing.admits(later + PROBE_MAX - Duration::from_millis(1)));
        assert!(probing.admits(later + PROBE_MAX), "a probe that is lost");
        assert_eq!(probing.step(Event::Answered, later), Breaker::NEW);
        let left = probing.step(Event::Left, later);
        assert!(left.admits(later), "a probe that tells nothing");
        assert_eq!(left.step(Event::Asked, later), probing);
    }

    #[test]
    fn each_failed_probe_doubles_the_pause_up_to_its_most() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [1, 2, 4, 8, 8, 8] {
            let pause = Duration::from_secs(seconds);
            assert!(!breaker.admits(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(breaker.admits(now), "after {seconds} s");
            breaker = after(breaker, &[Event::Asked, FAILED], now);
        }
    }

    #[test]
    fn what_asked_before_it_opened_neither_closes_it_nor_keeps_it_open() {
        let now = Instant::now();
        let open = opened(now);
        for event in [Event::Answered, FAILED, Event::Left] {
            assert_eq!(open.step(event, now + OPEN_MIN / 2), open, "{event:?}");
        }
    }
}
