//! One connection's worth of following a slot.
//!
//! A single task reads, so that what a transaction costs in memory is a batch being filled and the few that wait for each sink:
//! while a sink has no room nothing is read, and the server waits. A sink that has none for long, while others have, is parked: it is
//! given nothing more, its position and so the slot stay, and the slot is followed from there again once it has taken what it has.

mod filling;
mod lanes;
mod letters;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

use sheaf_model::{ChangePosition, Lsn};
use sheaf_pg::{Pool, Received};
use sheaf_store::changes::{SlotReader, promise_position};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::unconfirmed::Unconfirmed;
use super::{StreamError, StreamOptions, told_to_stop};
use crate::assembly::{Assembly, Step};
use crate::feed::Feed;
use crate::lane::{Lane, LaneEnd, LaneOptions, LaneReport};
use crate::letter::LetterCounts;
use crate::pgoutput::decode;
use crate::retention::Excess;
use crate::sink::Sink;
use crate::slot::PreparedSlot;
use crate::status::{Buffered, Counted, StreamStatus};
use filling::Filling;
use lanes::LaneHandle;
use outbox::{Outbox, give_next};

/// A server that is asked for a sign of life each tick and gives none for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the end in good order may take.
const END_MAX: Duration = Duration::from_secs(10);

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It was told to.
    Stopped,
    /// A sink that failed or was parked is fed again, for which the slot is followed from where it was confirmed.
    Again,
}

/// A session.
pub(crate) struct Session<F> {
    feed: F,
    cdc: Pool,
    options: StreamOptions,
    reader: SlotReader,
    timeline: u32,
    status: watch::Sender<StreamStatus>,
    assembly: Assembly,
    lanes: Vec<LaneHandle>,
    running: JoinSet<(usize, LaneEnd)>,
    sinks: Vec<Option<Box<dyn Sink>>>,
    buffered: Arc<Buffered>,
    filling: Filling,
    outbox: Option<Outbox>,
    unconfirmed: Unconfirmed,
    promised: Lsn,
    promised_change: Option<ChangePosition>,
    promised_at: Instant,
    measured_at: Option<Instant>,
    /// When it is looked for rows of settled letters that are to be forgotten.
    empty_letters_at: Instant,
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
            timeline: prepared.lineage.timeline,
            assembly: Assembly::new(prepared.lineage.timeline, options.row_bytes_max),
            lanes,
            running,
            sinks: (0..count).map(|_| None).collect(),
            buffered: Arc::default(),
            filling: Filling::default(),
            outbox: None,
            unconfirmed: Unconfirmed::new(prepared.promised),
            promised: prepared.promised,
            promised_change: None,
            promised_at: now,
            measured_at: None,
            empty_letters_at: now,
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
                self.filling.add(change);
            }
            Step::Unreadable(row) => {
                self.came(row.position);
                self.filling.add_unreadable(row);
            }
            Step::Beat(clock) => self.unconfirmed.beat(clock),
            Step::Committed {
                end_lsn,
                committed_at,
            } => {
                self.transactions += 1;
                self.unconfirmed.ended(end_lsn, committed_at);
                if self.filling.is_full(&self.options) {
                    self.cut(true);
                }
            }
        }
        Ok(())
    }

    /// A row came: what waits is made a batch first where that is full.
    fn came(&mut self, position: ChangePosition) {
        if self.filling.is_full(&self.options) {
            let last = self.filling.last();
            self.cut(last.is_none_or(|last| last.commit_lsn != position.commit_lsn));
        }
        self.received += 1;
        self.unconfirmed.came(position);
        self.buffered.add(1);
    }

    /// Makes a batch of what has come.
    fn cut(&mut self, is_end: bool) {
        let count = self.filling.count();
        let Some(part) = self.filling.cut(is_end) else {
            return;
        };
        let counted = Arc::new(Counted::new(part, count, &self.buffered));
        debug_assert!(self.outbox.is_none(), "nothing is read while a batch waits");
        self.outbox = Some(Outbox {
            batch: counted,
            left: (0..self.lanes.len()).collect(),
            since: Instant::now(),
        });
    }

    /// Confirms what every sink holds, and looks after those that fail.
    async fn tick(&mut self) -> Result<Option<SessionEnd>, StreamError> {
        if self.cdc.newest_timeline().get() > Some(self.timeline) {
            return Err(StreamError::LeftBehind);
        }
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
            self.empty_letters().await?;
        }
        self.tell();
        self.look_at_lanes();
        Ok(self.is_to_be_tried().then_some(SessionEnd::Again))
    }

    /// Lets go of what no sink needs any more. One that has failed, is parked or has not begun yet needs everything after what it is known to
    /// hold.
    fn free(&mut self) {
        let lanes = self.lanes.iter().filter(|lane| !lane.is_given_up);
        let held: Vec<Option<ChangePosition>> =
            lanes.map(|lane| lane.report.borrow().done).collect();
        let is_under_way =
            self.filling.last().is_some() || self.outbox.is_some() || self.assembly.is_within();
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
                lane.tell(sink, &self.unconfirmed);
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

#[cfg(test)]
mod tests;
