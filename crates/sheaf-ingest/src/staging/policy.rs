//! Whether a request may be staged now. Pure.

use std::time::{Duration, Instant};

/// What becomes of staged requests while the flushes are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StagingPolicy {
    /// They are refused until the flushes have caught up.
    #[default]
    Refuse,
    /// They are stored durably, and their answers say so.
    TurnDurable,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagingDecision {
    /// It is staged.
    Accept,
    /// Its sender is told to come back.
    Refuse,
    /// It takes the durable way.
    TurnDurable,
}

/// Decides by the age of the oldest batch that waits for a flush: it is the time whose events a loss would take.
pub fn admit(oldest: Duration, age_max: Duration, policy: StagingPolicy) -> StagingDecision {
    if oldest <= age_max {
        return StagingDecision::Accept;
    }
    match policy {
        StagingPolicy::Refuse => StagingDecision::Refuse,
        StagingPolicy::TurnDurable => StagingDecision::TurnDurable,
    }
}

/// What this server knows of the backlog of all servers. It ages: what was waiting is taken to wait still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BacklogView {
    /// How long the oldest batch had waited when it was measured; absent if none did.
    oldest: Option<Duration>,
    measured_at: Instant,
    /// When this server first staged something since.
    staged_at: Option<Instant>,
}

impl BacklogView {
    pub(super) fn empty(now: Instant) -> BacklogView {
        BacklogView {
            oldest: None,
            measured_at: now,
            staged_at: None,
        }
    }

    /// A measurement that was begun at `begun_at`. What was staged meanwhile may not be in it.
    pub(super) fn measure(&mut self, oldest: Option<Duration>, begun_at: Instant) {
        self.oldest = oldest;
        self.staged_at = self.staged_at.filter(|staged_at| *staged_at >= begun_at);
        self.measured_at = begun_at;
    }

    pub(super) fn stage(&mut self, now: Instant) {
        self.staged_at.get_or_insert(now);
    }

    /// At most how long the oldest batch has waited.
    pub(super) fn oldest(&self, now: Instant) -> Duration {
        let measured = self
            .oldest
            .map(|oldest| oldest + now.saturating_duration_since(self.measured_at));
        let staged = self
            .staged_at
            .map(|staged_at| now.saturating_duration_since(staged_at));
        measured.max(staged).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_request_is_staged_while_the_oldest_batch_is_young() {
        use StagingDecision::{Accept, Refuse, TurnDurable};
        for (oldest_ms, policy, decision) in [
            (0, StagingPolicy::Refuse, Accept),
            (1_000, StagingPolicy::Refuse, Accept),
            (1_001, StagingPolicy::Refuse, Refuse),
            (0, StagingPolicy::TurnDurable, Accept),
            (1_000, StagingPolicy::TurnDurable, Accept),
            (1_001, StagingPolicy::TurnDurable, TurnDurable),
            (u64::MAX, StagingPolicy::TurnDurable, TurnDurable),
        ] {
            let decided = admit(MS(oldest_ms), MS(1_000), policy);
            assert_eq!(decided, decision, "{oldest_ms} ms, {policy:?}");
        }
    }

    #[test]
    fn a_backlog_that_is_not_measured_any_more_grows_old() {
        let begin = Instant::now();
        let mut view = BacklogView::empty(begin);
        assert_eq!(view.oldest(begin + MS(60_000)), MS(0), "nothing waits");
        view.stage(begin + MS(100));
        view.stage(begin + MS(150));
        assert_eq!(view.oldest(begin + MS(300)), MS(200), "since the first");
        view.measure(Some(MS(250)), begin + MS(400));
        assert_eq!(view.oldest(begin + MS(500)), MS(350));
        view.stage(begin + MS(450));
        view.measure(None, begin + MS(440));
        let claim = "staged while it was measured, and perhaps not seen";
        assert_eq!(view.oldest(begin + MS(500)), MS(50), "{claim}");
        view.measure(None, begin + MS(460));
        assert_eq!(view.oldest(begin + MS(900)), MS(0));
    }
}
