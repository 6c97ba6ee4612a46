//! What a fence that was answered proves: pure.

use std::time::Duration;

use sheaf_model::Position;

/// How old the settings must be before a fence is believed. A commit waits if the checkpointer says so, which reads the
/// settings by itself, a little later than the sessions do: within a write delay of a checkpoint, at most 100 ms.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// What one fence came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// As the fence's session knew them, empty if commits wait for nobody.
    pub(super) standby_names: String,
    /// Where the write history stood before the fence.
    pub(super) position: Position,
    /// The server's clock before the fence, and when its session had last read the settings, in microseconds.
    pub(super) began_at_us: i64,
    pub(super) settings_of_us: i64,
    /// When the settings had last been read once the commit was answered.
    pub(super) settings_after_us: i64,
    /// What the server said meanwhile.
    pub(super) warning: Option<String>,
}

/// What a fence proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Replicated,
    NoStandby,
    Cancelled(String),
    /// Nothing, as the settings were changing: once more, after a while.
    Again(Duration),
}

/// A commit that was answered has waited if there were names of standbys all the time and nobody ended the wait. That is
/// always said with a warning, but for one way: emptying the names ends all waits in silence. Settings that were read
/// anew since the fence began may have done so.
pub(super) fn judge(seen: &Seen) -> Verdict {
    if let Some(warning) = &seen.warning {
        return Verdict::Cancelled(warning.clone());
    }
    if seen.standby_names.is_empty() {
        return Verdict::NoStandby;
    }
    if seen.settings_after_us >= seen.began_at_us {
        return Verdict::Again(SETTLED_AFTER);
    }
    let age_us = u64::try_from(seen.began_at_us - seen.settings_of_us).unwrap_or(0);
    match SETTLED_AFTER.checked_sub(Duration::from_micros(age_us)) {
        Some(left) if !left.is_zero() => Verdict::Again(left),
        Some(_) | None => Verdict::Replicated,
    }
}

/// Whether a server at `passed` had what was committed up to `committed`. After a failover it may lack it.
pub(super) fn covers(passed: Position, committed: Position) -> bool {
    passed.system_id == committed.system_id
        && passed.timeline == committed.timeline
        && passed.lsn >= committed.lsn
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;

    fn position(timeline: u32, lsn: u64) -> Position {
        Position {
            system_id: 7,
            timeline,
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn a_fence_proves_something_only_if_nothing_ended_its_wait() {
        let sound = Seen {
            standby_names: "s1".into(),
            position: position(1, 10),
            began_at_us: 100_000_000,
            settings_of_us: 1_000_000,
            settings_after_us: 1_000_000,
            warning: None,
        };
        let with = |change: fn(&mut Seen)| {
            let mut seen = sound.clone();
            change(&mut seen);
            judge(&seen)
        };
        assert_eq!(judge(&sound), Verdict::Replicated);
        assert_eq!(with(|seen| seen.standby_names.clear()), Verdict::NoStandby);
        let cancelled = Verdict::Cancelled("canceling wait".into());
        assert_eq!(
            with(|seen| seen.warning = Some("canceling wait".into())),
            cancelled
        );
        assert_eq!(
            with(|seen| seen.settings_after_us = 100_000_000),
            Verdict::Again(SETTLED_AFTER)
        );
        // Read a second before: the checkpointer may not have.
        assert_eq!(
            with(|seen| (seen.settings_of_us, seen.settings_after_us) = (99_000_000, 99_000_000)),
            Verdict::Again(Duration::from_secs(1))
        );
        assert_eq!(
            with(|seen| (seen.settings_of_us, seen.settings_after_us) = (98_000_000, 98_000_000)),
            Verdict::Replicated
        );
        // A clock that was set back tells nothing.
        assert_eq!(
            with(|seen| seen.settings_of_us = 200_000_000),
            Verdict::Again(SETTLED_AFTER)
        );
    }

    #[test]
    fn a_fence_covers_what_the_same_primary_committed_before_it() {
        assert!(covers(position(1, 10), position(1, 10)));
        assert!(!covers(position(1, 10), position(1, 11)));
        // After a failover a higher position may lack it.
        assert!(!covers(position(2, 99), position(1, 10)));
        let elsewhere = Position {
            system_id: 8,
            ..position(1, 10)
        };
        assert!(!covers(elsewhere, position(1, 10)));
    }
}
