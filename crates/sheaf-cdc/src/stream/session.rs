//! One connection's worth of following a slot.
//!
//! A single task reads, so that what a transaction costs in memory is a batch being filled and the few that wait for each sink:
//! while a sink has no room nothing is read, and the server waits. A sink that has none for long, while others have, is parked: it is
//! given nothing more, its position and so the slot stay, and the slot is followed from there again once it has taken what it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sheaf_model::{ChangePosition, Lsn, Timestamp};
use sheaf_pg::{Pool, Received, chain};
use sheaf_store::changes::{
    Publication, SlotReader, SnapshotStep, ensure_publication, forget_sink, promise_position,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};

use super::unconfirmed::Unconfirmed;
use super::{StreamError, StreamOptions, measure, told_to_stop};
use crate::assembly::{Assembly, Step};
use crate::change::{Batch, Change, Origin, Part};
use crate::feed::Feed;
use crate::lane::{Lane, LaneEnd, LaneOptions, LaneReport};
use crate::letter::{LetterCounts, Unreadable};
use crate::pgoutput::decode;
use crate::retention::{Excess, Pressure};
use crate::sink::Sink;
use crate::slot::PreparedSlot;
use crate::status::{Buffered, Counted, SinkState, StreamStatus};

/// A server that is asked for a sign of life each tick and gives none for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the end in good order may take.
const END_MAX: Duration = Duration::from_secs(10);
/// A sink that works is given up where it holds back too much log, so many looks long, and the log does not become less.
const LOOKS_MAX: u32 = 12;

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It was told to.
    Stopped,
    /// A sink that failed or was parked is fed again, for which the slot is followed from where it was confirmed.
    Again,
}

/// One sink from here.
struct LaneHandle {
    name: String,
    batches: Option<mpsc::Sender<Arc<Counted<Part>>>>,
    report: watch::Receiver<LaneReport>,
    /// When it failed or was let end; absent while it works.
    ended_at: Option<Instant>,
    /// Since when it is given nothing although more has come.
    parked_at: Option<Instant>,
    /// What it needs is not held for it any more.
    is_given_up: bool,
    /// Its clock, and what it counted, in sessions before.
    changes_before: u64,
    letters_before: LetterCounts,
    failures: u64,
    failures_in_row: u32,
}

/// A batch that some lanes have not been given yet.
struct Outbox {
    batch: Arc<Counted<Part>>,
    left: VecDeque<usize>,
    /// Since when the first of them has been waited for.
    since: Instant,
}

/// A session.
pub(crate) struct Session<F> {
    feed: F,
    cdc: Pool,
    options: StreamOptions,
    reader: SlotReader,
    status: watch::Sender<StreamStatus>,
    assembly: Assembly,
    lanes: Vec<LaneHandle>,
    running: JoinSet<(usize, LaneEnd)>,
    sinks: Vec<Option<Box<dyn Sink>>>,
    buffered: Arc<Buffered>,
    /// The batch being filled.
    changes: Vec<Change>,
    unreadable: Vec<Unreadable>,
    bytes: usize,
    outbox: Option<Outbox>,
    unconfirmed: Unconfirmed,
    promised: Lsn,
    promised_change: Option<ChangePosition>,
    promised_at: Instant,
    measured_at: Option<Instant>,
    heard_at: Instant,
    started_at: Instant,
    /// The last change that had been received before: up to here everything is received again.
    received_before: Option<ChangePosition>,
    /// How long it took until the sinks that work had all of that.
    caught_up_in: Option<Duration>,
    excess: Excess,
    /// Whether no lane is to go on.
    is_ending: bool,
    transactions: u64,
    received: u64,
    ignored: u64,
}

impl<F: Feed> Session<F> {
    /// Starts the lanes. Nothing has been read yet, so that whatever is, is theirs.
    pub(crate) fn new(
        feed: F,
        cdc: Pool,
        options: StreamOptions,
        reader: SlotReader,
        prepared: &PreparedSlot,
        sinks: Vec<Box<dyn Sink>>,
        status: watch::Sender<StreamStatus>,
    ) -> Session<F> {
        let before = status.borrow().clone();
        let mut running = JoinSet::new();
        let mut lanes = Vec::new();
        let count = sinks.len();
        for (place, sink) in sinks.into_iter().enumerate() {
            let (batches, to_take) = mpsc::channel(options.queue_batches);
            let (report, seen) = watch::channel(LaneReport::NONE);
            let known = before.sinks.get(place);
            lanes.push(LaneHandle {
                name: sink.name().to_owned(),
                batches: Some(batches),
                report: seen,
                ended_at: None,
                parked_at: None,
                is_given_up: false,
                changes_before: known.map_or(0, |sink| sink.changes),
                letters_before: known.map_or(LetterCounts::NONE, |sink| sink.letters),
                failures: known.map_or(0, |sink| sink.failures),
                failures_in_row: known.map_or(0, |sink| sink.failures_in_row),
            });
            let lane = Lane {
                sink,
                cdc: cdc.clone(),
                reader: reader.clone(),
                timeline: prepared.lineage.timeline,
                batches: to_take,
                report,
                options: LaneOptions {
                    snapshot_rows: options.snapshot_rows,
                    store_every: options.store_every,
                    sink_max: options.sink_max,
                    row_bytes_max: options.row_bytes_max,
                },
            };
            running.spawn(async move { (place, lane.run().await) });
        }
        let now = Instant::now();
        Session {
            feed,
            cdc,
            reader,
            assembly: Assembly::new(prepared.lineage.timeline, options.row_bytes_max),
            lanes,
            running,
            sinks: (0..count).map(|_| None).collect(),
            buffered: Arc::default(),
            changes: Vec::new(),
            unreadable: Vec::new(),
            bytes: 0,
            outbox: None,
            unconfirmed: Unconfirmed::new(prepared.promised),
            promised: prepared.promised,
            promised_change: None,
            promised_at: now,
            measured_at: None,
            heard_at: now,
            started_at: now,
            received_before: before.received,
            caught_up_in: None,
            excess: Excess::default(),
            is_ending: false,
            transactions: before.transactions,
            received: before.changes,
            ignored: before.ignored,
            options,
            status,
        }
    }

    /// Follows the slot until told to stop, until a sink is to be tried again, or until something breaks. Gives the sinks back.
    pub(crate) async fn run(
        mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> (Vec<Box<dyn Sink>>, Result<SessionEnd, StreamError>) {
        let outcome = self.follow(stop).await;
        // What was not given to every lane is read again; what was, each makes durable.
        self.outbox = None;
        self.is_ending = true;
        for lane in &mut self.lanes {
            lane.batches = None;
        }
        while let Some(joined) = self.running.join_next().await {
            self.lane_ended(joined);
        }
        let outcome = match outcome {
            Ok(end) => self.end_well().await.map(|()| end),
            Err(error) => Err(error),
        };
        let count = self.sinks.len();
        let sinks: Vec<_> = self.sinks.into_iter().flatten().collect();
        if sinks.len() < count {
            return (sinks, Err(StreamError::SinkLost));
        }
        if outcome.is_ok() {
            // Else the last confirmation may be lost, and what it was for is sent again.
            let ended = timeout(END_MAX, self.feed.end()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::debug!(?ended, "the change stream did not end in good order");
            }
        }
        (sinks, outcome)
    }

    async fn follow(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<SessionEnd, StreamError> {
        let mut ticks = interval_at(Instant::now(), self.options.tick_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_full = self.outbox.is_some();
            tokio::select! {
                biased;
                () = told_to_stop(stop) => return Ok(SessionEnd::Stopped),
                _ = ticks.tick() => {
                    if let Some(end) = self.tick().await? {
                        return Ok(end);
                    }
                }
                Some(joined) = self.running.join_next() => self.lane_ended(joined),
                without_room = give_next(&mut self.outbox, &self.lanes, self.options.room_max), if is_full => {
                    if let Some(place) = without_room {
                        self.park(place);
                    }
                    if self.outbox.is_none() {
                        self.heard_at = Instant::now();
                    }
                }
                received = self.feed.receive(), if !is_full => {
                    self.heard_at = Instant::now();
                    self.take(received?).await?;
                    while self.outbox.is_none() {
                        match self.feed.receive_now()? {
                            Some(received) => self.take(received).await?,
                            None => break,
                        }
                    }
                    // Within a transaction more is on its way: the end of a batch is to say where its end is.
                    if self.outbox.is_none() && !self.assembly.is_within() {
                        self.cut(true);
                    }
                }
            }
        }
    }

    async fn take(&mut self, received: Received) -> Result<(), StreamError> {
        let bytes = match received {
            Received::Message(bytes) => bytes,
            Received::Alive {
                read_to,
                must_answer,
                ..
            } => {
                if !self.assembly.is_within() {
                    self.unconfirmed.read_to(read_to);
                }
                if must_answer {
                    self.feed.confirm(self.promised).await?;
                }
                return Ok(());
            }
            Received::End => {
                let ended = std::io::ErrorKind::UnexpectedEof.into();
                return Err(sheaf_pg::ReplicationError::Broken(ended).into());
            }
        };
        let step = match decode(&bytes) {
            Ok(message) => self.assembly.take(&message)?,
            Err(fault) => self.assembly.take_malformed(&bytes, fault)?,
        };
        match step {
            Step::Nothing => {}
            Step::Ignored => self.ignored += 1,
            Step::Change(change) => {
                self.came(change.position);
                self.bytes += change.size();
                self.changes.push(change);
            }
            Step::Unreadable(row) => {
                self.came(row.position);
                self.bytes += row.payload.text.len();
                self.unreadable.push(row);
            }
            Step::Beat(clock) => self.unconfirmed.beat(clock),
            Step::Committed {
                end_lsn,
                committed_at,
            } => {
                self.transactions += 1;
                self.unconfirmed.ended(end_lsn, committed_at);
                if self.is_full() {
                    self.cut(true);
                }
            }
        }
        Ok(())
    }

    /// A row came: what waits is made a batch first where that is full.
    fn came(&mut self, position: ChangePosition) {
        if self.is_full() {
            let last = self.last();
            self.cut(last.is_none_or(|last| last.commit_lsn != position.commit_lsn));
        }
        self.received += 1;
        self.unconfirmed.came(position);
        self.buffered.add(1);
    }

    /// The position of the last row that waits.
    fn last(&self) -> Option<ChangePosition> {
        let change = self.changes.last().map(|change| change.position);
        change.max(self.unreadable.last().map(|row| row.position))
    }

    fn is_full(&self) -> bool {
        self.changes.len() + self.unreadable.len() >= self.options.batch_changes_max
            || self.bytes >= self.options.batch_bytes_max
    }

    /// Makes a batch of what has come.
    fn cut(&mut self, is_end: bool) {
        let Some(last) = self.last() else {
            return;
        };
        let changes = std::mem::take(&mut self.changes);
        let unreadable = std::mem::take(&mut self.unreadable);
        self.bytes = 0;
        let count = changes.len() + unreadable.len();
        // What cannot be read may be all that follows of another transaction.
        let is_of_last = changes
            .last()
            .is_some_and(|change| change.position.commit_lsn == last.commit_lsn);
        let part = Part {
            batch: Batch {
                origin: Origin::Stream,
                changes,
                is_end: is_end || !is_of_last,
            },
            unreadable,
        };
        let counted = Arc::new(Counted::new(part, count, &self.buffered));
        debug_assert!(self.outbox.is_none(), "nothing is read while a batch waits");
        self.outbox = Some(Outbox {
            batch: counted,
            left: (0..self.lanes.len()).collect(),
            since: Instant::now(),
        });
    }

    /// Gives a lane nothing more: it has missed a batch.
    fn park(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        lane.parked_at = Some(Instant::now());
        let sink = &lane.name;
        tracing::warn!(
            sink,
            "a sink of the change stream is behind, and the others go on without it until it has taken what it has"
        );
    }

    fn lane_ended(&mut self, joined: Result<(usize, LaneEnd), tokio::task::JoinError>) {
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

    /// Confirms what every sink holds, and looks after those that fail.
    async fn tick(&mut self) -> Result<Option<SessionEnd>, StreamError> {
        if self.outbox.is_none() && self.heard_at.elapsed() > SILENCE_MAX {
            return Err(StreamError::Silent(SILENCE_MAX));
        }
        self.free();
        let is_due = self.unconfirmed.free_change() > self.promised_change
            || self.promised_at.elapsed() >= self.options.idle_confirm_every;
        if is_due {
            self.promise().await?;
        }
        self.feed.confirm(self.promised).await?;
        let is_due = self
            .measured_at
            .is_none_or(|at| at.elapsed() >= self.options.measure_every);
        if is_due {
            self.measure().await?;
        }
        self.tell();
        self.look_at_lanes();
        Ok(self.is_to_be_tried().then_some(SessionEnd::Again))
    }

    /// Finds out whether the sinks that work have what had been received before, and which of them are well again.
    fn look_at_lanes(&mut self) {
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
    fn is_to_be_tried(&self) -> bool {
        if !is_worth_it(self.started_at.elapsed(), self.caught_up_in) {
            return false;
        }
        self.lanes.iter().any(|lane| {
            let pause = lane.pause(self.options.retry_after);
            lane.asks_since().is_some_and(|at| at.elapsed() >= pause)
        })
    }

    /// Lets go of what no sink needs any more. One that has failed, is parked or has not begun yet needs everything after what it is known to
    /// hold.
    fn free(&mut self) {
        let lanes = self.lanes.iter().filter(|lane| !lane.is_given_up);
        let held: Vec<Option<ChangePosition>> =
            lanes.map(|lane| lane.report.borrow().done).collect();
        let is_under_way =
            self.last().is_some() || self.outbox.is_some() || self.assembly.is_within();
        self.unconfirmed.free(&held, is_under_way);
    }

    /// Writes down what may be confirmed, before it is.
    async fn promise(&mut self) -> Result<(), StreamError> {
        self.promised_at = Instant::now();
        let free_to = self.unconfirmed.free_to();
        if free_to <= self.promised {
            return Ok(());
        }
        if !promise_position(&self.cdc, &self.reader, free_to).await? {
            return Err(StreamError::Fenced);
        }
        self.promised = free_to;
        self.promised_change = self.unconfirmed.free_change();
        Ok(())
    }

    /// How much log the slot holds, what follows from it, and whether the publication still is what it has to be.
    async fn measure(&mut self) -> Result<(), StreamError> {
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

    fn tell(&self) {
        self.status.send_modify(|status| {
            status.is_following = true;
            status.promised = Some(self.promised);
            status.transactions = self.transactions;
            status.changes = self.received;
            status.ignored = self.ignored;
            status.received = self.received_before.max(self.unconfirmed.last_change());
            status.buffered_changes = self.buffered.now();
            status.buffered_changes_max = status.buffered_changes_max.max(self.buffered.max());
            for (sink, lane) in status.sinks.iter_mut().zip(&self.lanes) {
                let report = *lane.report.borrow();
                sink.state = match lane.ended_at {
                    Some(_) if lane.is_given_up => SinkState::GivenUp,
                    Some(_) => SinkState::Failed,
                    None if report.step == SnapshotStep::Done => SinkState::Streaming,
                    None => SinkState::Snapshot(report.step),
                };
                sink.position = report.position;
                sink.changes = lane.changes_before + report.changes;
                sink.failures = lane.failures;
                sink.failures_in_row = lane.failures_in_row;
                sink.letters = lane.letters_before.plus(report.letters);
                sink.holes = report.holes;
                // What it holds of the snapshot is no state of any moment before all of it is there.
                sink.applied_at = (report.step == SnapshotStep::Done)
                    .then(|| self.unconfirmed.clock_of(report.done))
                    .flatten();
            }
        });
    }

    /// Confirms what the lanes have made durable at their end.
    async fn end_well(&mut self) -> Result<(), StreamError> {
        self.free();
        self.promise().await?;
        self.tell();
        Ok(self.feed.confirm(self.promised).await?)
    }
}

impl LaneHandle {
    /// How long after its end it is tried again: twice as long after each further failure.
    fn pause(&self, retry_after: Duration) -> Duration {
        retry_after * 2u32.pow(self.failures_in_row.clamp(1, 7) - 1)
    }

    /// Whether it is given what comes.
    fn is_fed(&self) -> bool {
        self.batches.is_some() && self.parked_at.is_none()
    }

    /// Since when it could be fed again; absent while it is, and while it has not taken what it was given or does not know yet what
    /// the numbers in events mean.
    fn asks_since(&self) -> Option<Instant> {
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

/// Gives the batch that waits to the next lane that lacks it, once that has room. Gives back the lane that has had none for so long
/// that it goes without, as others have some.
async fn give_next(
    outbox: &mut Option<Outbox>,
    lanes: &[LaneHandle],
    room_max: Duration,
) -> Option<usize> {
    let waiting = outbox.as_mut()?;
    let mut without_room = None;
    if let Some(place) = waiting.left.front().copied()
        && lanes[place].is_fed()
        && let Some(batches) = &lanes[place].batches
    {
        // A lane that has ended takes no more, which is found where it is joined. Dropped before it is done, nothing was sent.
        let sent = batches.send(Arc::clone(&waiting.batch));
        if timeout_at(waiting.since + room_max, sent).await.is_err() {
            waiting.since = Instant::now();
            let has_room = |lane: &LaneHandle| {
                let batches = lane.batches.as_ref();
                lane.is_fed() && batches.is_some_and(|batches| batches.capacity() > 0)
            };
            if !lanes.iter().any(has_room) {
                return None;
            }
            without_room = Some(place);
        }
    }
    waiting.left.pop_front();
    waiting.since = Instant::now();
    if waiting.left.is_empty() {
        *outbox = None;
    }
    without_room
}

#[cfg(test)]
mod tests;
