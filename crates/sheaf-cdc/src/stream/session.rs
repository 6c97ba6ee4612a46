//! One connection's worth of following a slot.
//!
//! A single task reads, so that what a transaction costs in memory is a batch being filled and the few that wait for each sink:
//! while a sink has no room nothing is read, and the server waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sheaf_model::{ChangePosition, Lsn};
use sheaf_pg::{Pool, Received, chain};
use sheaf_store::changes::{
    Publication, SlotReader, SnapshotStep, ensure_publication, forget_sink, promise_position,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::unconfirmed::Unconfirmed;
use super::{StreamError, StreamOptions, measure, told_to_stop};
use crate::assembly::{Assembly, Step};
use crate::change::{Batch, Change, Origin};
use crate::feed::Feed;
use crate::lane::{Lane, LaneEnd, LaneOptions, LaneReport};
use crate::pgoutput::decode;
use crate::retention::Pressure;
use crate::sink::Sink;
use crate::slot::PreparedSlot;
use crate::status::{Buffered, Counted, SinkState, StreamStatus};

/// A server that is asked for a sign of life each tick and gives none for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the end in good order may take.
const END_MAX: Duration = Duration::from_secs(10);

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It was told to.
    Stopped,
    /// A sink that failed is tried again, for which the slot is followed from where it was confirmed.
    Again,
}

/// One sink from here.
struct LaneHandle {
    name: String,
    batches: Option<mpsc::Sender<Arc<Counted<Batch>>>>,
    report: watch::Receiver<LaneReport>,
    /// When it failed; absent while it works.
    failed_at: Option<Instant>,
    /// What it needs is not held for it any more.
    is_given_up: bool,
    /// Its clock, and what it counted, in sessions before.
    changes_before: u64,
    failures: u64,
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
    bytes: usize,
    /// A batch that some lanes have not been given yet.
    outbox: Option<(Arc<Counted<Batch>>, VecDeque<usize>)>,
    unconfirmed: Unconfirmed,
    promised: Lsn,
    promised_change: Option<ChangePosition>,
    promised_at: Instant,
    measured_at: Option<Instant>,
    heard_at: Instant,
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
                failed_at: None,
                is_given_up: false,
                changes_before: known.map_or(0, |sink| sink.changes),
                failures: known.map_or(0, |sink| sink.failures),
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
                },
            };
            running.spawn(async move { (place, lane.run().await) });
        }
        let now = Instant::now();
        Session {
            feed,
            cdc,
            reader,
            assembly: Assembly::new(prepared.lineage.timeline),
            lanes,
            running,
            sinks: (0..count).map(|_| None).collect(),
            buffered: Arc::default(),
            changes: Vec::new(),
            bytes: 0,
            outbox: None,
            unconfirmed: Unconfirmed::new(prepared.promised),
            promised: prepared.promised,
            promised_change: None,
            promised_at: now,
            measured_at: None,
            heard_at: now,
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
                () = give_next(&mut self.outbox, &self.lanes), if is_full => {
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
        match self.assembly.take(&decode(&bytes)?)? {
            Step::Nothing => {}
            Step::Ignored => self.ignored += 1,
            Step::Change(change) => {
                if self.is_full() {
                    let is_same = self
                        .changes
                        .last()
                        .is_some_and(|last| last.position.commit_lsn == change.position.commit_lsn);
                    self.cut(!is_same);
                }
                self.received += 1;
                self.unconfirmed.came(change.position);
                self.bytes += change.size();
                self.changes.push(change);
                self.buffered.add(1);
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

    fn is_full(&self) -> bool {
        self.changes.len() >= self.options.batch_changes_max
            || self.bytes >= self.options.batch_bytes_max
    }

    /// Makes a batch of what has come.
    fn cut(&mut self, is_end: bool) {
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        let count = changes.len();
        let batch = Batch {
            origin: Origin::Stream,
            changes,
            is_end,
        };
        let counted = Arc::new(Counted::new(batch, count, &self.buffered));
        debug_assert!(self.outbox.is_none(), "nothing is read while a batch waits");
        self.outbox = Some((counted, (0..self.lanes.len()).collect()));
    }

    fn lane_ended(&mut self, joined: Result<(usize, LaneEnd), tokio::task::JoinError>) {
        // A task that panicked has taken its sink with it, which the end of the session finds.
        let Ok((place, end)) = joined else {
            return;
        };
        let lane = &mut self.lanes[place];
        self.sinks[place] = Some(end.sink);
        let was_told = lane.batches.take().is_none();
        if let Err(error) = end.outcome {
            lane.failures += 1;
            let (sink, cause) = (&lane.name, chain(&error));
            tracing::warn!(
                sink,
                cause,
                "a sink of the change stream has failed, and is tried again"
            );
        }
        if !was_told {
            lane.failed_at = Some(Instant::now());
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
        let is_to_be_tried = self.lanes.iter().any(|lane| {
            let pause = self.options.retry_after * 2u32.pow(lane.pause_step());
            lane.failed_at.is_some_and(|at| at.elapsed() >= pause)
        });
        Ok(is_to_be_tried.then_some(SessionEnd::Again))
    }

    /// Lets go of what no sink needs any more. One that has failed or not begun yet needs everything after what it is known to
    /// hold.
    fn free(&mut self) {
        let lanes = self.lanes.iter().filter(|lane| !lane.is_given_up);
        let held: Vec<Option<ChangePosition>> =
            lanes.map(|lane| lane.report.borrow().done).collect();
        let is_under_way =
            !self.changes.is_empty() || self.outbox.is_some() || self.assembly.is_within();
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
        if pressure == Pressure::GiveUp {
            for lane in &mut self.lanes {
                if lane.failed_at.is_some() && !lane.is_given_up {
                    forget_sink(&self.cdc, &self.reader, &lane.name).await?;
                    lane.is_given_up = true;
                    let sink = &lane.name;
                    tracing::warn!(
                        sink,
                        "a sink that has failed holds back too much log: it is given up, and begins anew with a snapshot"
                    );
                }
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
            status.buffered_changes = self.buffered.now();
            status.buffered_changes_max = status.buffered_changes_max.max(self.buffered.max());
            for (sink, lane) in status.sinks.iter_mut().zip(&self.lanes) {
                let report = *lane.report.borrow();
                sink.state = match lane.failed_at {
                    Some(_) if lane.is_given_up => SinkState::GivenUp,
                    Some(_) => SinkState::Failed,
                    None if report.step == SnapshotStep::Done => SinkState::Streaming,
                    None => SinkState::Snapshot(report.step),
                };
                sink.position = report.position;
                sink.changes = lane.changes_before + report.changes;
                sink.failures = lane.failures;
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
    /// By how many doublings the pause before it is tried again is longer.
    fn pause_step(&self) -> u32 {
        u32::try_from(self.failures.clamp(1, 7) - 1).expect("less than 7")
    }
}

/// Gives the batch that waits to the next lane that lacks it, once that has room.
async fn give_next(
    outbox: &mut Option<(Arc<Counted<Batch>>, VecDeque<usize>)>,
    lanes: &[LaneHandle],
) {
    let Some((batch, left)) = outbox else {
        return;
    };
    if let Some(place) = left.front()
        && let Some(batches) = &lanes[*place].batches
    {
        // A lane that has ended takes no more, which is found where it is joined. Dropped before it is done, nothing was sent.
        let _ = batches.send(Arc::clone(batch)).await;
    }
    left.pop_front();
    if left.is_empty() {
        *outbox = None;
    }
}

#[cfg(test)]
mod tests;
