//! When a question has to stop. Not every operator comes back to whoever asked before it has something to give: what such a one
//! calls again and again looks here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

/// Until when a question is computed.
#[derive(Debug)]
pub(crate) struct Stop {
    since: Instant,
    is_stopped: AtomicBool,
    /// Microseconds after the beginning; none of them while a client is waited for.
    until: AtomicU64,
}

impl Stop {
    /// Until it is stopped.
    pub(crate) fn new() -> Stop {
        Stop {
            since: Instant::now(),
            is_stopped: AtomicBool::new(false),
            until: AtomicU64::new(u64::MAX),
        }
    }

    /// Nobody takes the answer any more.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Until this instant from now on; without one for as long as it takes.
    pub(crate) fn set(&self, until: Option<Instant>) {
        let micros = until.map(|until| until.saturating_duration_since(self.since).as_micros());
        let micros = micros.and_then(|micros| u64::try_from(micros).ok());
        self.until
            .store(micros.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        self.is_stopped.load(Ordering::Relaxed)
            || (until != u64::MAX && self.since.elapsed().as_micros() >= u128::from(until))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_over_after_its_time_and_when_it_was_stopped() {
        let stop = Stop::new();
        assert!(!stop.is_over());
        stop.set(Some(Instant::now()));
        assert!(stop.is_over());
        stop.set(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(!stop.is_over());
        stop.set(None);
        assert!(!stop.is_over());
        stop.stop();
        assert!(stop.is_over());
    }
}
