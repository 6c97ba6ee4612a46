//! Work beside the stream: corrections that wait, facts that are older than they are kept, small files, files that no table needs. One thing at a time, so that what it
//! takes is bounded, and none that two would change.
//!
//! What is due is decided here and what was made is handed to the next commit; a failure is told and tried again later, and
//! does not stop the stream.

use std::time::Duration;

use sheaf_store::lake::CorrectionKey;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::background::outcome_of;
use crate::error::LakeError;
use crate::files::Stop;
use crate::retention::Boundaries;
use crate::rewrite::Prepared;

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
pub(crate) struct Needs {
    /// Whether what corrections replace is all there. While the snapshot goes on it may be yet to come.
    pub(crate) is_following: bool,
    /// Corrections that wait, and how long the first of them has.
    pub(crate) waiting: u64,
    pub(crate) waited: Duration,
    /// Whether some that waited as long were applied, and these come next.
    pub(crate) is_in_round: bool,
    pub(crate) since_repairs: Duration,
    /// Since it was looked for facts that are older than they are kept and there were no more; absent where it never was.
    pub(crate) since_retention: Option<Duration>,
    /// Commits since it was looked for small files and there were no more.
    pub(crate) commits: u32,
    /// Whether there were some the last time.
    pub(crate) has_joined: bool,
    pub(crate) since_sweep: Duration,
    /// Since the last failure, if there was one.
    pub(crate) since_failure: Option<Duration>,
    /// What was done last.
    pub(crate) last: Option<Work>,
}

/// What is to be done now. Of those that are due, the one that comes after what was done last.
pub(crate) fn due(needs: &Needs, limits: &WorkLimits) -> Option<Work> {
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

/// Corrections that wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) count: u64,
    /// Since when the first of them has.
    pub(crate) since: Instant,
}

/// What work comes to.
pub(crate) type Outcome = Result<Prepared, LakeError>;

/// Work that goes on, or whose outcome nobody has taken yet.
#[derive(Debug)]
struct Going {
    work: Work,
    /// Where the corrections end that it applies.
    until: CorrectionKey,
    handle: JoinHandle<Outcome>,
    /// What the handle gave, once somebody waited for it.
    outcome: Option<Result<Outcome, JoinError>>,
    stop: Stop,
    /// What it was made of is not known to be there any more.
    is_stale: bool,
}

/// The work of one sink.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) limits: WorkLimits,
    going: Option<Going>,
    last: Option<Work>,
    /// The last correction that was applied in this round; absent outside of one.
    round: Option<CorrectionKey>,
    commits: u32,
    has_joined: bool,
    swept_at: Instant,
    repairs_at: Instant,
    /// When there was nothing more to take out, and up to where that was looked for.
    retained_at: Option<Instant>,
    retained: Boundaries,
    /// The bucket of tenants at which it goes on.
    retain_from: i32,
    /// Whether anything came since it was begun with that is before them.
    has_older: bool,
    failed_at: Option<Instant>,
}

impl Upkeep {
    pub(crate) fn new(limits: WorkLimits) -> Upkeep {
        Upkeep {
            limits,
            going: None,
            last: None,
            round: None,
            commits: 0,
            has_joined: false,
            swept_at: Instant::now(),
            repairs_at: Instant::now(),
            retained_at: None,
            retained: Boundaries::default(),
            retain_from: 0,
            has_older: false,
            failed_at: None,
        }
    }

    /// What is to be done now, if nothing is going on.
    pub(crate) fn due(&self, is_following: bool, waiting: Option<Waiting>) -> Option<Work> {
        if self.going.is_some() {
            return None;
        }
        let needs = Needs {
            is_following,
            waiting: waiting.map_or(0, |waiting| waiting.count),
            waited: waiting.map_or(Duration::ZERO, |waiting| waiting.since.elapsed()),
            is_in_round: self.round.is_some(),
            since_repairs: self.repairs_at.elapsed(),
            since_retention: self.retained_at.map(|at| at.elapsed()),
            commits: self.commits,
            has_joined: self.has_joined,
            since_sweep: self.swept_at.elapsed(),
            since_failure: self.failed_at.map(|at| at.elapsed()),
            last: self.last,
        };
        due(&needs, &self.limits)
    }

    /// The correction after which to go on.
    pub(crate) fn corrected_until(&self) -> CorrectionKey {
        self.round.unwrap_or(CorrectionKey::FIRST)
    }

    /// There are no more corrections in this round.
    pub(crate) fn end_round(&mut self) {
        self.round = None;
        self.last = Some(Work::Correct);
    }

    /// It was looked for what is asked to be put right, and there is nothing.
    pub(crate) fn found_no_repairs(&mut self) {
        self.repairs_at = Instant::now();
        self.last = Some(Work::Repair);
    }

    /// From which bucket on facts that are before these boundaries are to be taken out. Nothing where that was done.
    pub(crate) fn begin_retaining(&mut self, boundaries: &Boundaries) -> Option<i32> {
        let is_same = *boundaries == self.retained;
        let was_done = self.retained_at.is_some();
        if boundaries.is_empty() || (is_same && was_done && !self.has_older) {
            self.retained = boundaries.clone();
            self.end_retaining();
            return None;
        }
        if !is_same || was_done {
            self.retained = boundaries.clone();
            self.retain_from = 0;
            self.has_older = false;
        }
        // Due again at once, until there is nothing more.
        self.retained_at = None;
        Some(self.retain_from)
    }

    /// Facts came of which the first is about this instant.
    pub(crate) fn came(&mut self, first: i64) {
        self.has_older |= self.retained.latest().is_some_and(|latest| first < latest);
    }

    fn end_retaining(&mut self) {
        self.retained_at = Some(Instant::now());
        self.retain_from = 0;
        self.last = Some(Work::Retain);
    }

    /// Those until there could not be applied: they are tried again in the next round, and the others have their turn before.
    pub(crate) fn pass_over(&mut self, until: CorrectionKey) {
        self.round = Some(until);
    }

    pub(crate) fn begin(
        &mut self,
        work: Work,
        until: CorrectionKey,
        stop: Stop,
        handle: JoinHandle<Outcome>,
    ) {
        self.last = Some(work);
        match work {
            // There may be more of these.
            Work::Correct | Work::Repair | Work::Retain => {}
            Work::Join => self.commits = 0,
            Work::Sweep => self.swept_at = Instant::now(),
        }
        self.going = Some(Going {
            work,
            until,
            handle,
            outcome: None,
            stop,
            is_stale: false,
        });
    }

    /// Waits until nothing is going on. What was made stays.
    pub(crate) async fn wait(&mut self) {
        if let Some(going) = &mut self.going
            && going.outcome.is_none()
        {
            going.outcome = Some((&mut going.handle).await);
        }
    }

    /// What was made since it was last asked.
    pub(crate) async fn take(&mut self) -> Option<Prepared> {
        let has_ended = |going: &Going| going.outcome.is_some() || going.handle.is_finished();
        if !self.going.as_ref().is_some_and(has_ended) {
            return None;
        }
        self.wait().await;
        let going = self.going.take()?;
        let outcome = outcome_of(going.outcome?);
        if going.is_stale {
            return None;
        }
        match outcome {
            Ok(prepared) => {
                self.failed_at = None;
                match going.work {
                    Work::Correct => self.round = Some(going.until),
                    Work::Join => self.has_joined = !prepared.is_empty(),
                    Work::Retain if prepared.is_empty() => self.end_retaining(),
                    Work::Retain => self.retain_from = prepared.bucket,
                    Work::Repair | Work::Sweep => {}
                }
                Some(prepared).filter(|prepared| !prepared.is_empty())
            }
            Err(error) => {
                if going.work == Work::Correct {
                    self.pass_over(going.until);
                }
                self.fail(going.work, &error);
                None
            }
        }
    }

    pub(crate) fn fail(&mut self, work: Work, error: &LakeError) {
        let error = sheaf_pg::chain(error);
        tracing::warn!(?work, error, "work on the lake failed and is tried again");
        self.failed_at = Some(Instant::now());
    }

    /// A commit was made.
    pub(crate) fn count_commit(&mut self) {
        self.commits = self.commits.saturating_add(1);
    }

    /// Files that are being joined may be gone.
    pub(crate) fn abandon_joining(&mut self) {
        if let Some(going) = &mut self.going
            && going.work == Work::Join
        {
            going.is_stale = true;
            going.stop.say();
        }
    }

    /// What the lake is has to be read again: whatever goes on is in vain.
    pub(crate) fn abandon(&mut self) {
        self.round = None;
        self.retained_at = None;
        self.retain_from = 0;
        if let Some(going) = &mut self.going {
            going.is_stale = true;
            going.stop.say();
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(test)]
mod tests {
    use sheaf_store::retention::RetentionBoundary;

    use super::*;

    const LIMITS: WorkLimits = WorkLimits {
        corrections_age_max: Duration::from_secs(60),
        corrections_max: 2000,
        repairs_every: Duration::from_secs(5),
        retain_every: Duration::from_secs(3600),
        join_commits: 8,
        sweep_every: Duration::from_secs(3600),
    };

    const NOTHING: Needs = Needs {
        is_following: true,
        waiting: 0,
        waited: Duration::ZERO,
        is_in_round: false,
        since_repairs: Duration::ZERO,
        since_retention: Some(Duration::ZERO),
        commits: 0,
        has_joined: false,
        since_sweep: Duration::ZERO,
        since_failure: None,
        last: None,
    };

    #[test]
    fn what_waited_long_enough_is_due_and_one_thing_does_not_keep_another_from_its_turn() {
        let old = Duration::from_secs(60);
        let young = Duration::from_secs(59);
        let waits = Needs {
            waiting: 101,
            waited: old,
            ..NOTHING
        };
        let all = Needs {
            since_repairs: Duration::from_secs(5),
            since_retention: None,
            commits: 8,
            since_sweep: Duration::from_secs(3600),
            ..waits
        };
        for (claim, needs, wanted) in [
            ("nothing", NOTHING, None),
            ("waits long enough", waits, Some(Work::Correct)),
            (
                "not yet",
                Needs {
                    waited: young,
                    ..waits
                },
                None,
            ),
            (
                "few wait",
                Needs {
                    waited: Duration::from_secs(5),
                    waiting: 100,
                    ..waits
                },
                Some(Work::Correct),
            ),
            (
                "few wait, and not yet",
                Needs {
                    waited: Duration::from_secs(4),
                    waiting: 100,
                    ..waits
                },
                None,
            ),
            (
                "many wait",
                Needs {
                    waited: young,
                    waiting: 200,
                    ..waits
                },
                Some(Work::Correct),
            ),
            (
                "the rest of a round",
                Needs {
                    waited: young,
                    is_in_round: true,
                    ..waits
                },
                Some(Work::Correct),
            ),
            (
                "the round has ended",
                Needs {
                    is_in_round: true,
                    ..NOTHING
                },
                None,
            ),
            (
                "the snapshot goes on",
                Needs {
                    is_following: false,
                    ..waits
                },
                None,
            ),
            (
                "few commits",
                Needs {
                    commits: 7,
                    ..NOTHING
                },
                None,
            ),
            (
                "many commits",
                Needs {
                    commits: 8,
                    ..NOTHING
                },
                Some(Work::Join),
            ),
            (
                "there may be more",
                Needs {
                    has_joined: true,
                    ..NOTHING
                },
                Some(Work::Join),
            ),
            (
                "an hour",
                Needs {
                    since_sweep: Duration::from_secs(3600),
                    ..NOTHING
                },
                Some(Work::Sweep),
            ),
            ("everything", all, Some(Work::Correct)),
            (
                "everything, after one",
                Needs {
                    last: Some(Work::Correct),
                    ..all
                },
                Some(Work::Repair),
            ),
            (
                "everything, after that",
                Needs {
                    last: Some(Work::Repair),
                    ..all
                },
                Some(Work::Retain),
            ),
            (
                "everything, after that too",
                Needs {
                    last: Some(Work::Retain),
                    ..all
                },
                Some(Work::Join),
            ),
            (
                "an hour since facts were taken out",
                Needs {
                    since_retention: Some(Duration::from_secs(3600)),
                    ..NOTHING
                },
                Some(Work::Retain),
            ),
            (
                "the same while the snapshot goes on",
                Needs {
                    is_following: false,
                    since_retention: None,
                    ..NOTHING
                },
                None,
            ),
            (
                "repairs while the snapshot goes on",
                Needs {
                    is_following: false,
                    since_repairs: Duration::from_secs(5),
                    ..NOTHING
                },
                None,
            ),
            (
                "everything, after another",
                Needs {
                    last: Some(Work::Join),
                    ..all
                },
                Some(Work::Sweep),
            ),
            (
                "everything, after the third",
                Needs {
                    last: Some(Work::Sweep),
                    ..all
                },
                Some(Work::Correct),
            ),
            (
                "the same again",
                Needs {
                    last: Some(Work::Correct),
                    ..waits
                },
                Some(Work::Correct),
            ),
            (
                "just failed",
                Needs {
                    since_failure: Some(Duration::from_secs(29)),
                    ..all
                },
                None,
            ),
            (
                "failed a while ago",
                Needs {
                    since_failure: Some(Duration::from_secs(30)),
                    ..all
                },
                Some(Work::Correct),
            ),
        ] {
            assert_eq!(due(&needs, &LIMITS), wanted, "{claim}");
        }
    }

    #[test]
    fn what_is_older_is_looked_for_until_there_is_no_more_and_again_when_more_comes() {
        let boundaries = |before| {
            Boundaries::new(&[RetentionBoundary {
                tenant: 1,
                attribute: None,
                before,
            }])
        };
        let mut upkeep = Upkeep::new(LIMITS);
        assert_eq!(upkeep.begin_retaining(&Boundaries::default()), None);
        assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(0));
        upkeep.retain_from = 7;
        assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(7));
        upkeep.end_retaining();
        assert_eq!(upkeep.begin_retaining(&boundaries(10)), None);
        upkeep.came(10);
        assert_eq!(upkeep.begin_retaining(&boundaries(10)), None);
        upkeep.came(9);
        assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(0));
        upkeep.end_retaining();
        assert_eq!(upkeep.begin_retaining(&boundaries(11)), Some(0));
        upkeep.end_retaining();
        upkeep.abandon();
        assert_eq!(upkeep.begin_retaining(&boundaries(11)), Some(0));
    }

    #[tokio::test]
    async fn after_a_failure_it_goes_on_after_what_failed() {
        let mut upkeep = Upkeep::new(LIMITS);
        let until = CorrectionKey {
            seq: 3,
            ..CorrectionKey::FIRST
        };
        let failing = tokio::spawn(async { Err(LakeError::NotAsked) });
        upkeep.begin(Work::Correct, until, Stop::default(), failing);
        upkeep.wait().await;
        assert!(upkeep.take().await.is_none());
        assert_eq!(upkeep.corrected_until(), until);
        assert_eq!(upkeep.due(true, None), None, "not at once");
        upkeep.end_round();
        assert_eq!(upkeep.corrected_until(), CorrectionKey::FIRST);
    }
}
