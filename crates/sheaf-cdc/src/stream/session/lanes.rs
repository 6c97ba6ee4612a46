//! The lanes of a session: which of them are fed, tried again or given up.

use std::sync::Arc;
use std::time::Duration;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::chain;
use sheaf_store::changes::{Publication, SnapshotStep, ensure_publication, forget_sink};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Session;
use crate::change::Part;
use crate::feed::Feed;
use crate::lane::{LaneEnd, LaneReport};
use crate::letter::LetterCounts;
use crate::retention::{Excess, Pressure};
use crate::status::{Counted, SinkState, SinkStatus};
use crate::stream::unconfirmed::Unconfirmed;
use crate::stream::{StreamError, measure};

/// A sink that works is given up where it holds back too much log, so many looks long, and the log does not become less.
const LOOKS_MAX: u32 = 12;

/// One sink from here.
pub(super) struct LaneHandle {
    pub(super) name: String,
    pub(super) batches: Option<mpsc::Sender<Arc<Counted<Part>>>>,
    pub(super) report: watch::Receiver<LaneReport>,
    /// When it failed or was let end; absent while it works.
    pub(super) ended_at: Option<Instant>,
    /// Since when it is given nothing although more has come.
    pub(super) parked_at: Option<Instant>,
    /// What it needs is not held for it any more.
    pub(super) is_given_up: bool,
    /// Its clock, and what it counted, in sessions before.
    pub(super) changes_before: u64,
    pub(super) letters_before: LetterCounts,
    pub(super) failures: u64,
    pub(super) failures_in_row: u32,
}

impl LaneHandle {
    /// How long after its end it is tried again: twice as long after each further failure.
    pub(super) fn pause(&self, retry_after: Duration) -> Duration {
        retry_after * 2u32.pow(self.failures_in_row.clamp(1, 7) - 1)
    }

    /// Whether it is given what comes.
    pub(super) fn is_fed(&self) -> bool {
        self.batches.is_some() && self.parked_at.is_none()
    }

    /// Since when it could be fed again; absent while it is, and while it has not taken what it was given or does not know yet what
    /// the numbers in events mean.
    pub(super) fn asks_since(&self) -> Option<Instant> {
        if self.ended_at.is_some() {
            return self.ended_at;
        }
        let has_taken = match &self.batches {
            Some(batches) => batches.capacity() == batches.max_capacity(),
            None => false,
        };
        let knows_names = self.report.borrow().knows_names();
        self.parked_at.filter(|_| has_taken && knows_names)
    }

    /// Tells how far its sink is.
    pub(super) fn tell(&self, sink: &mut SinkStatus, unconfirmed: &Unconfirmed) {
        let report = *self.report.borrow();
        sink.state = match self.ended_at {
            Some(_) if self.is_given_up => SinkState::GivenUp,
            Some(_) => SinkState::Failed,
            None if report.step == SnapshotStep::Done => SinkState::Streaming,
            None => SinkState::Snapshot(report.step),
        };
        sink.position = report.position;
        sink.changes = self.changes_before + report.changes;
        sink.failures = self.failures;
        sink.failures_in_row = self.failures_in_row;
        sink.letters = self.letters_before.plus(report.letters);
        sink.holes = report.holes;
        // What it holds of the snapshot is no state of any moment before all of it is there.
        sink.applied_at = (report.step == SnapshotStep::Done)
            .then(|| unconfirmed.clock_of(report.done))
            .flatten();
    }
}

impl<F: Feed> Session<F> {
    /// Gives a lane nothing more: it has missed a batch.
    pub(super) fn park(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        lane.parked_at = Some(Instant::now());
        let sink = &lane.name;
        tracing::warn!(
            sink,
            "a sink of the change stream is behind, and the others go on without it until it has taken what it has"
        );
    }

    pub(super) fn lane_ended(&mut self, joined: Result<(usize, LaneEnd), JoinError>) {
        // A task that panicked has taken its sink with it, which the end of the session finds.
        let Ok((place, end)) = joined else {
            return;
        };
        let lane = &mut self.lanes[place];
        self.sinks[place] = Some(end.sink);
        lane.batches = None;
        if let Err(error) = end.outcome {
            lane.failures += 1;
            lane.failures_in_row = lane.failures_in_row.saturating_add(1);
            let (sink, cause) = (&lane.name, chain(&error));
            tracing::warn!(
                sink,
                cause,
                "a sink of the change stream has failed, and is tried again"
            );
        }
        if !self.is_ending {
            lane.ended_at = Some(Instant::now());
            // Before it is tried again.
            self.measured_at = None;
        }
    }

    /// Finds out whether the sinks that work have what had been received before, and which of them are well again.
    pub(super) fn look_at_lanes(&mut self) {
        let (before, lasted) = (self.received_before, self.started_at.elapsed());
        let retry_after = self.options.retry_after;
        let mut is_caught_up = true;
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_fed()) {
            let report = *lane.report.borrow();
            let done = report.done;
            // One that reads names yet takes nothing, for as long as that may last.
            let is_reading_names = report.has_resumed && !report.knows_names();
            is_caught_up &= is_reading_names || done >= before;
            if done.is_some() && done >= before && lasted >= lane.pause(retry_after) {
                lane.failures_in_row = 0;
            }
        }
        if is_caught_up && self.caught_up_in.is_none() {
            self.caught_up_in = Some(lasted);
        }
    }

    /// Whether a sink that ended or was parked is to be fed again.
    pub(super) fn is_to_be_tried(&self) -> bool {
        if !is_worth_it(self.started_at.elapsed(), self.caught_up_in) {
            return false;
        }
        self.lanes.iter().any(|lane| {
            let pause = lane.pause(self.options.retry_after);
            lane.asks_since().is_some_and(|at| at.elapsed() >= pause)
        })
    }

    /// How much log the slot holds, what follows from it, and whether the publication still is what it has to be.
    pub(super) async fn measure(&mut self) -> Result<(), StreamError> {
        self.measured_at = Some(Instant::now());
        // Somebody has changed it under us: the slot is forgotten with that, and so made anew.
        if ensure_publication(&self.cdc).await? != Publication::Unchanged {
            return Err(StreamError::Fenced);
        }
        let pressure = measure(&self.cdc, &self.options, &self.status).await?;
        match pressure {
            Pressure::GiveUp => self.give_up().await,
            Pressure::None | Pressure::Unknown | Pressure::Alarm => {
                self.excess = Excess::default();
                Ok(())
            }
        }
    }

    /// Gives up the sink that holds back the most log. One that works is let end first, and only where time does not help.
    async fn give_up(&mut self) -> Result<(), StreamError> {
        let retained_bytes = self.status.borrow().retention.retained_bytes;
        let now = Instant::now();
        let lasts = self.excess.look(retained_bytes.unwrap_or(i64::MAX), now);
        let lanes = self.lanes.iter().map(|lane| {
            let done = lane.report.borrow().done;
            (!lane.is_given_up).then_some(done)
        });
        let Some(place) = furthest_behind(lanes, self.unconfirmed.last_change()) else {
            return Ok(());
        };
        let patience = self.options.measure_every * LOOKS_MAX;
        let clock = self
            .unconfirmed
            .clock_of(self.lanes[place].report.borrow().done);
        let is_late = clock.is_none_or(|clock| is_before(clock, patience));
        let lane = &mut self.lanes[place];
        let sink = &lane.name;
        if lane.ended_at.is_some() {
            forget_sink(&self.cdc, &self.reader, &lane.name).await?;
            lane.is_given_up = true;
            self.excess = Excess::default();
            tracing::warn!(
                sink,
                "a sink holds back too much log: it is given up, and begins anew with a snapshot"
            );
        } else if lane.parked_at.is_some() || (lasts >= patience && is_late) {
            // Nobody but its lane may write how far it is, so that this has to end.
            if lane.batches.take().is_some() {
                tracing::warn!(sink, "a sink holds back too much log: it is fed no more");
            }
        }
        Ok(())
    }
}

/// Whether a session that has lasted so long may end for one sink. The next one costs the others what they have caught up in, as all of it
/// is received again: so they have caught up, and had twice as long for what is new.
fn is_worth_it(lasted: Duration, caught_up_in: Option<Duration>) -> bool {
    caught_up_in.is_some_and(|caught_up_in| lasted >= 3 * caught_up_in)
}

/// Which lane holds back the most of what was received; those without a position of their own hold all of it. None where nobody holds any.
fn furthest_behind(
    lanes: impl Iterator<Item = Option<Option<ChangePosition>>>,
    last: Option<ChangePosition>,
) -> Option<usize> {
    let holding = lanes
        .enumerate()
        .filter_map(|(place, done)| done.filter(|done| *done < last).map(|done| (done, place)));
    holding.min().map(|(_, place)| place)
}

/// Whether a moment was longer ago than this.
fn is_before(moment: Timestamp, age: Duration) -> bool {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    moment.saturating_add_micros(age) < Timestamp::now()
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;

    #[test]
    fn a_sink_is_tried_again_only_where_the_others_get_more_of_the_time_than_that_costs() {
        for (lasted, caught_up_in, wanted) in [
            (0, Some(0), true),
            (10, Some(10), false),
            (29, Some(10), false),
            (30, Some(10), true),
            // They have not caught up yet.
            (1_000, None, false),
        ] {
            let of = Duration::from_secs;
            let found = is_worth_it(of(lasted), caught_up_in.map(of));
            assert_eq!(found, wanted, "{lasted} {caught_up_in:?}");
        }
    }

    #[test]
    fn the_lane_that_holds_back_the_most_is_found_and_none_where_nobody_holds_anything() {
        let at = |ordinal| {
            Some(ChangePosition {
                ordinal,
                ..ChangePosition::before(1, Lsn(9))
            })
        };
        let table: [(&[Option<Option<ChangePosition>>], _, _); 6] = [
            (&[Some(at(9)), Some(at(9))], at(9), None),
            (&[Some(at(9)), Some(at(8))], at(9), Some(1)),
            (&[Some(at(7)), Some(at(8))], at(9), Some(0)),
            (&[Some(at(7)), Some(None)], at(9), Some(1)),
            // Given up already.
            (&[Some(at(9)), None], at(9), None),
            (&[Some(None)], None, None),
        ];
        for (place, (lanes, last, wanted)) in table.into_iter().enumerate() {
            let found = furthest_behind(lanes.iter().copied(), last);
            assert_eq!(found, wanted, "line {place}");
        }
    }
}
