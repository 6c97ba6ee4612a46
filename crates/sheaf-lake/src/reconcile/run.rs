//! One reconciliation, from counting to what is told of it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use sheaf_model::{ChangePosition, Timestamp};
use sheaf_store::lake::{CorrectionKey, LakeStanding, list_corrections, read_fed};
use sheaf_store::reconcile::{
    Counted as EventsCounted, CountedRange, Counters, Instant, Moment, Span, count_hours,
    list_partitions, list_ranges, read_moment, read_run, settle_tables,
};
use sheaf_store::retention::count_removals;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant as Moments, sleep};

use super::counting::{Counting, HowToRead, how_to_read, join_within_hours};
use super::drilling::instant_of_key;
use super::explosion::Explosion;
use super::lake_files::{
    FilesWork, LakeCount, LakeFacts, LakeFile, count_files, forget_gone, read_again,
};
use super::report::{DifferenceCounts, NotCompared, Outcome, Report, Work};
use super::{ReconcileRequest, Reconciler};
use crate::analytics::covered;
use crate::background::outcome_of;
use crate::digest::Digest;
use crate::error::LakeError;
use crate::files::{Files, Stop};
use crate::names::Names;
use crate::observer::Observed;

/// How long transactions that run are given to end. Those that take longer are counted the next time.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Partitions that are counted side by side.
const SIDE_BY_SIDE: usize = 2;
/// How often it is asked how far the lake is.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Corrections that are read at once, and their bytes.
const CORRECTIONS: i64 = 10_000;
const CORRECTIONS_BYTES: i64 = 16 << 20;
/// How often the lake may be committed while what waits is read, before that is taken as it was.
const TRIES: usize = 5;
/// Hours of which something was taken out that are counted at once.
const REMOVALS: i64 = 10_000;
/// Files that are read again in one step.
const FILES_AGAIN: i64 = 500;

/// The lake as it was counted.
pub(super) struct Counted {
    pub(super) standing: LakeStanding,
    pub(super) count: LakeCount,
    /// Files that could not be counted.
    pub(super) damaged: BTreeSet<String>,
    /// All files; absent where none was counted anew, and nobody asked for them.
    pub(super) present: Option<Vec<LakeFile>>,
    /// The facts of corrections that wait, by instant.
    pub(super) waiting: HashMap<Instant, Digest>,
}

impl Report {
    /// Nothing could be compared.
    pub(super) fn not_compared(reason: NotCompared, cutoff: Timestamp) -> Report {
        Report {
            outcome: Outcome::NotCompared(reason),
            cutoff,
            counts: DifferenceCounts::default(),
            differences: Vec::new(),
            damaged: BTreeSet::new(),
            archived: Vec::new(),
            hours_left: 0,
            periods_unknown: 0,
            letters: 0,
            repaired: None,
            work: Work::default(),
        }
    }
}

impl Reconciler {
    pub(super) async fn compare(&self, request: &ReconcileRequest) -> Result<Report, LakeError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let report = self.compare_once(request, tries > 1).await?;
            // Of what is gone no second look is possible: what differs only once was on its way.
            if report.archived.is_empty() || tries >= TRIES {
                return Ok(report);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn compare_once(
        &self,
        request: &ReconcileRequest,
        reads_late: bool,
    ) -> Result<Report, LakeError> {
        // What the statistics say comes before the snapshot: what is counted by then is seen by it.
        let (partitions, late_added) = list_partitions(&self.cdc).await?;
        let partitions = join_within_hours(partitions);
        let moment = read_moment(&self.cdc, ENDS_WITHIN).await?;
        let micros = i64::try_from(self.options.settled_after.as_micros()).unwrap_or(i64::MAX);
        let cutoff = moment.taken_at.saturating_add_micros(-micros);
        let mut report = Report::not_compared(NotCompared::NoLake, cutoff);
        let Some(standing) = self.standing().await?.0 else {
            return Ok(report);
        };
        let known = list_ranges(&self.cdc).await?;
        let bounds = self.bounds(&known, &partitions).await?;
        self.count_events(
            request,
            &partitions,
            (&bounds.gone, late_added, reads_late),
            &known,
            (&moment, cutoff),
            &mut report.work,
        )
        .await?;
        let mut counted = self
            .count_lake(
                (request.reads_whole, request.files_again),
                standing,
                cutoff,
                &mut report.work,
            )
            .await?;
        let mut suspects = self
            .suspects(request, &counted, &bounds, (&moment, cutoff), &mut report)
            .await?;
        if !suspects.is_empty() || !report.archived.is_empty() {
            // What is equal is so wherever the lake is. What is not may only be on its way.
            let Some(standing) = self.wait_for(moment.position).await? else {
                report.outcome = Outcome::NotCompared(NotCompared::Behind);
                return Ok(report);
            };
            let mut work = Work::default();
            counted = self
                .count_lake((false, 0), standing, cutoff, &mut work)
                .await?;
            report.work.files += work.files;
            report.work.files_gone += work.files_gone;
            report.work.facts += work.facts;
            suspects = self
                .suspects(request, &counted, &bounds, (&moment, cutoff), &mut report)
                .await?;
        }
        report.work.hours = count_hours(&self.cdc).await?.cast_unsigned();
        report.damaged = std::mem::take(&mut counted.damaged);
        let looked = self
            .look_into(request, suspects, counted, cutoff, &mut report)
            .await?;
        if let Err(reason) = looked {
            report.outcome = Outcome::NotCompared(reason);
            return Ok(report);
        }
        let is_clean = report.counts.total() == 0
            && report.archived.is_empty()
            && report.damaged.is_empty()
            && report.hours_left == 0;
        report.outcome = if is_clean {
            Outcome::Clean
        } else {
            Outcome::Different
        };
        Ok(report)
    }

    /// The lake as it was last committed, and how far it has come. Absent while its snapshot goes on, and where there is none.
    pub(super) async fn standing(
        &self,
    ) -> Result<(Option<LakeStanding>, Option<ChangePosition>), LakeError> {
        let fed = read_fed(&self.cdc, &self.options.name, &self.options.feed).await?;
        let (Some(standing), followed) = fed else {
            return Ok((None, None));
        };
        let until = covered(&standing.position, followed, None);
        Ok((until.map(|_| standing), until))
    }

    /// Waits until the lake has come as far. None where it does not in time.
    pub(super) async fn wait_for(
        &self,
        position: ChangePosition,
    ) -> Result<Option<LakeStanding>, LakeError> {
        let deadline = Moments::now() + self.options.wait_max;
        loop {
            let (standing, until) = self.standing().await?;
            let covers = |until: ChangePosition| {
                until.timeline == position.timeline && until.commit_lsn >= position.commit_lsn
            };
            if until.is_some_and(covers) {
                return Ok(standing);
            }
            if Moments::now() >= deadline {
                return Ok(None);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn count_events(
        &self,
        request: &ReconcileRequest,
        partitions: &[(Span, Counters)],
        (gone, late_added, reads_late): (&[Span], i64, bool),
        known: &[CountedRange],
        (moment, cutoff): (&Moment, Timestamp),
        work: &mut Work,
    ) -> Result<(), LakeError> {
        let known: HashMap<Timestamp, &CountedRange> = known
            .iter()
            .map(|range| (range.span.lower, range))
            .collect();
        let again = read_again_whole(request, &known, partitions, moment.taken_at);
        let mut jobs = Vec::new();
        for (span, counters) in partitions {
            let range = known.get(&span.lower).filter(|range| range.span == *span);
            let counted = range.and_then(|range| range.counted.clone());
            let reads_whole = request.reads_whole || Some(span.lower) == again;
            let how = how_to_read(counted.as_ref(), counters, reads_whole);
            if how != HowToRead::Nothing {
                jobs.push((*span, *counters, counted, how));
            }
        }
        // Of those that are gone only late events can be new.
        for span in gone {
            let counted = known
                .get(&span.lower)
                .and_then(|range| range.counted.clone());
            if let Some(counted) = counted
                && (reads_late || late_added > counted.counters.late_added)
            {
                let counters = Counters {
                    late_added,
                    ..counted.counters
                };
                jobs.push((*span, counters, Some(counted), HowToRead::Late));
            }
        }
        let count = |(span, counters, counted, how)| {
            let mut counting = Counting::new(&self.cdc, moment.clone(), cutoff);
            let counted = Ending(tokio::spawn(async move {
                let counted: Option<EventsCounted> = counted;
                counting
                    .count(span, counters, counted.as_ref(), how)
                    .await?;
                Ok(counting.work)
            }));
            async move {
                let mut counted = counted;
                outcome_of((&mut counted.0).await)
            }
        };
        let mut counting = stream::iter(jobs).map(count).buffer_unordered(SIDE_BY_SIDE);
        while let Some(counted) = counting.try_next().await? {
            work.add_counting(counted);
        }
        Ok(())
    }

    pub(super) fn files(&self) -> Files {
        Files {
            warehouse: self.warehouse.clone(),
            observed: Observed::default(),
            runtime: Handle::current(),
            stop: Stop::default(),
        }
    }

    /// Counts the files of a state of the lake that were not counted before, and again all or so many of the others, and reads what
    /// waits to be in them.
    async fn count_lake(
        &self,
        (reads_whole, files_again): (bool, i64),
        mut standing: LakeStanding,
        cutoff: Timestamp,
        work: &mut Work,
    ) -> Result<Counted, LakeError> {
        let mut tries = 0;
        let waiting = loop {
            let waiting = self.waiting(cutoff).await?;
            tries += 1;
            match self.standing().await? {
                (Some(now), _)
                    if now.position.number != standing.position.number && tries < TRIES =>
                {
                    standing = now;
                }
                _ => break waiting,
            }
        };
        // What was taken out since is looked into and found to be that.
        while count_removals(&self.cdc, REMOVALS).await? > 0 {}
        let facts = LakeFacts::load(&self.warehouse, &standing).await?;
        let tables: Vec<&str> = facts
            .tables
            .iter()
            .filter_map(|state| state.location.as_deref())
            .collect();
        let settled = read_run(&self.cdc).await?.settled_tables;
        let is_settled = settled.is_some_and(|settled| settled == tables);
        let mut counted = Counted {
            standing: standing.clone(),
            count: LakeCount::default(),
            damaged: BTreeSet::new(),
            present: None,
            waiting,
        };
        let reads_again = reads_whole || files_again > 0;
        if is_settled && !reads_again {
            return Ok(counted);
        }
        let present = facts.files(&self.warehouse).await?;
        let mut files_work = FilesWork::default();
        let files = self.files();
        let mut known = forget_gone(&self.cdc, &present, &mut files_work).await?;
        if reads_whole {
            let begun = Timestamp::now();
            loop {
                let before = files_work.files;
                read_again(
                    (&self.cdc, &files),
                    &present,
                    &mut known,
                    (begun, FILES_AGAIN),
                    &mut files_work,
                )
                .await?;
                if files_work.files == before {
                    break;
                }
            }
        } else if files_again > 0 {
            let now = Timestamp::now();
            let files_max = files_again.min(FILES_AGAIN);
            read_again(
                (&self.cdc, &files),
                &present,
                &mut known,
                (now, files_max),
                &mut files_work,
            )
            .await?;
        }
        let of = (&self.cdc, &files);
        counted.count = count_files(of, &present, &known, cutoff, &mut files_work).await?;
        let is_settled = !counted.count.has_unsettled;
        settle_tables(&self.cdc, is_settled.then_some(&tables)).await?;
        work.add_files(&files_work);
        counted.damaged = files_work.damaged;
        counted.present = Some(present);
        Ok(counted)
    }

    /// What the corrections that wait come to, of those that were received before the cutoff.
    async fn waiting(&self, cutoff: Timestamp) -> Result<HashMap<Instant, Digest>, LakeError> {
        let mut explosion = Explosion::new(Names::new(self.cdc.clone()));
        let mut waiting: HashMap<Instant, Digest> = HashMap::new();
        let mut after = CorrectionKey::FIRST;
        loop {
            let name = &self.options.name;
            let some = list_corrections(&self.cdc, name, after, CORRECTIONS, CORRECTIONS_BYTES);
            let some = some.await?;
            let Some(last) = some.last() else {
                return Ok(waiting);
            };
            after = last.key;
            let older = some.iter().filter(|waits| waits.ingested_at < cutoff);
            let older: Vec<_> = older.collect();
            for exploded in explosion.explode(&older).await? {
                if let Some(instant) = instant_of_key(&exploded.fact.key) {
                    *waiting.entry(instant).or_default() += exploded.fact.digest;
                }
            }
        }
    }
}

/// A task that ends when nobody waits for it any more: what it counts, somebody else may be counting by then.
#[derive(Debug)]
struct Ending<T>(JoinHandle<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The partition that was not read whole for the longest time, if it is its turn.
fn read_again_whole(
    request: &ReconcileRequest,
    known: &HashMap<Timestamp, &CountedRange>,
    attached: &[(Span, Counters)],
    now: Timestamp,
) -> Option<Timestamp> {
    let after = request.partition_again_after?;
    let counted = attached.iter().filter_map(|(span, _)| {
        let read_at = known.get(&span.lower)?.counted.as_ref()?.read_whole_at;
        Some((read_at, span.lower))
    });
    let (read_at, lower) = counted.min()?;
    (now.since(read_at) >= after).then_some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_whose_outcome_nobody_waits_for_ends() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let task = Ending(tokio::spawn(async move {
            let kept = sender;
            std::future::pending::<()>().await;
            drop(kept);
        }));
        drop(task);
        receiver.await.expect_err("what it had is gone");
    }
}
