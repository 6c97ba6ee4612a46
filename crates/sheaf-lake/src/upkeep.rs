//! Work beside the stream: corrections that wait, facts that are older than they are kept, small files, files that no table needs.
//! One thing at a time, so that what it takes is bounded, and none that two would change.
//!
//! What is due (`due.rs`) is done, and what was made is handed to the next commit; a failure is told and tried again later, and
//! does not stop the stream.

mod due;

use std::time::Duration;

use sheaf_store::lake::CorrectionKey;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use self::due::{Needs, due};
pub(crate) use self::due::{Work, WorkLimits};
use crate::background::outcome_of;
use crate::error::LakeError;
use crate::files::Stop;
use crate::retention::Boundaries;
use crate::rewrite::Prepared;

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
                match going.work {
                    Work::Correct => self.pass_over(going.until),
                    Work::Join => self.has_joined = false,
                    Work::Repair | Work::Retain | Work::Sweep => {}
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
mod tests;
