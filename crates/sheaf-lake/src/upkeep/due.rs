//! What of the work beside the stream is due. A pure function of what there is to do.

use std::time::Duration;

/// After a failure nothing is tried for so long.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// So many corrections are few: what they take is little, and who reads what he wrote waits for them.
const FEW: u64 = 100;
/// A few are applied in so much of the time that many may wait.
const SOONER: u32 = 12;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Apply corrections that wait.
    Correct,
    /// Put right what is asked.
    Repair,
    /// Take out facts that are older than they are kept.
    Retain,
    /// Make fewer files of many small ones.
    Join,
    /// Remove files that no table needs.
    Sweep,
}

/// When things are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkLimits {
    /// How long a correction may wait.
    pub(crate) corrections_age_max: Duration,
    /// How many may. From a tenth of it on they are applied early.
    pub(crate) corrections_max: u64,
    /// Between two looks for what is asked to be put right.
    pub(crate) repairs_every: Duration,
    /// Between two looks for facts that are older than they are kept.
    pub(crate) retain_every: Duration,
    /// After so many commits there may be many small files.
    pub(crate) join_commits: u32,
    /// Between two looks for files that no table needs.
    pub(crate) sweep_every: Duration,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Whether what corrections replace is all there. While the snapshot goes on it may be yet to come.
    pub(super) is_following: bool,
    /// Corrections that wait, and how long the first of them has.
    pub(super) waiting: u64,
    pub(super) waited: Duration,
    /// Whether some that waited as long were applied, and these come next.
    pub(super) is_in_round: bool,
    pub(super) since_repairs: Duration,
    /// Since it was looked for facts that are older than they are kept and there were no more; absent where it never was.
    pub(super) since_retention: Option<Duration>,
    /// Commits since it was looked for small files and there were no more.
    pub(super) commits: u32,
    /// Whether there were some the last time.
    pub(super) has_joined: bool,
    pub(super) since_sweep: Duration,
    /// Since the last failure, if there was one.
    pub(super) since_failure: Option<Duration>,
    /// What was done last.
    pub(super) last: Option<Work>,
}

/// What is to be done now. Of those that are due, the one that comes after what was done last.
pub(super) fn due(needs: &Needs, limits: &WorkLimits) -> Option<Work> {
    if needs.since_failure.is_some_and(|since| since < RETRY_AFTER) {
        return None;
    }
    let age_max = if needs.waiting <= FEW {
        limits.corrections_age_max / SOONER
    } else {
        limits.corrections_age_max
    };
    let waits_too_long = needs.is_in_round
        || needs.waited >= age_max
        || needs.waiting >= limits.corrections_max / 10;
    let is_due = |work: &Work| match work {
        Work::Correct => needs.is_following && needs.waiting > 0 && waits_too_long,
        Work::Repair => needs.is_following && needs.since_repairs >= limits.repairs_every,
        Work::Retain => {
            let is_due = |since| since >= limits.retain_every;
            needs.is_following && needs.since_retention.is_none_or(is_due)
        }
        Work::Join => needs.commits >= limits.join_commits || needs.has_joined,
        Work::Sweep => needs.since_sweep >= limits.sweep_every,
    };
    const ALL: [Work; 5] = [
        Work::Correct,
        Work::Repair,
        Work::Retain,
        Work::Join,
        Work::Sweep,
    ];
    let last = ALL.iter().position(|work| Some(*work) == needs.last);
    let first = last.map_or(0, |last| last + 1);
    let in_turn = ALL.iter().cycle().skip(first).take(ALL.len());
    in_turn.copied().find(is_due)
}

#[cfg(test)]
pub(super) mod tests;
