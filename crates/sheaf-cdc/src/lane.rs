//! One sink being fed: its snapshot first as far as the meaning of events needs it, then both side by side; and how far it is,
//! stored.

mod beginning;
mod letters;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::changes::{
    SlotReader, SnapshotPlace, SnapshotStep, StoredSink, forget_sink, store_position,
    store_snapshot_place,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::change::{Batch, Change, Origin, Part, Progress};
use crate::letter::LetterCounts;
use crate::sink::{Sink, SinkError, SinkFuture};
use crate::snapshot::{Seen, SnapshotError, SnapshotReader};
use crate::status::Counted;
use letters::of_refused;

/// Batches of the stream between two readings of the snapshot: more, and a busy stream would starve it; fewer, and it the stream.
const BATCHES_BETWEEN: usize = 8;
/// Between two looks at whether those who were running have ended, or whether a sink has room again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a lane works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneOptions {
    /// Rows of the snapshot that are read at once.
    pub(crate) snapshot_rows: i64,
    /// How often it is stored how far the sink is.
    pub(crate) store_every: Duration,
    /// How long the sink may take for one thing.
    pub(crate) sink_max: Duration,
    /// Rows with more bytes are letters.
    pub(crate) row_bytes_max: usize,
}

/// Why a sink is not fed any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the sink took longer than {0:?}")]
    Slow(Duration),
    #[error("reading the snapshot of a sink")]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error("the slot is not this reader's any more")]
    Fenced,
    #[error("{0} dead letters of the sink wait to be replayed or discarded, and no more are kept")]
    Full(u64),
}

/// What a lane tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneReport {
    /// Whether it has found out where the sink goes on.
    pub(crate) has_resumed: bool,
    /// Whatever of the stream is at or before this it needs no more: the sink holds it, and that is stored.
    pub(crate) done: Option<ChangePosition>,
    /// The last change of the stream that the sink holds.
    pub(crate) position: Option<ChangePosition>,
    /// The table that the snapshot is in.
    pub(crate) step: SnapshotStep,
    /// Changes that the sink was given by this lane.
    pub(crate) changes: u64,
    /// Changes that this lane has kept because the sink could not take them.
    pub(crate) letters: LetterCounts,
    /// Changes that the sink lacks, whoever has kept them; absent before they were counted.
    pub(crate) holes: Option<u64>,
}

impl LaneReport {
    pub(crate) const NONE: LaneReport = LaneReport {
        has_resumed: false,
        done: None,
        position: None,
        step: SnapshotStep::Tenants,
        changes: 0,
        letters: LetterCounts::NONE,
        holes: None,
    };

    /// Whether it knows what the numbers in events mean, and so takes what comes.
    pub(crate) fn knows_names(&self) -> bool {
        has_names(self.step)
    }
}

/// Whether a snapshot that is here has read names and attributes.
fn has_names(step: SnapshotStep) -> bool {
    match step {
        SnapshotStep::Tenants | SnapshotStep::Attributes | SnapshotStep::Entities => false,
        SnapshotStep::Events
        | SnapshotStep::Late
        | SnapshotStep::Keyframes
        | SnapshotStep::Done => true,
    }
}

/// A lane that has ended, and its sink.
pub(crate) struct LaneEnd {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) outcome: Result<(), LaneError>,
}

/// What is needed to feed a sink.
pub(crate) struct Lane {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) cdc: Pool,
    pub(crate) reader: SlotReader,
    pub(crate) timeline: u32,
    pub(crate) batches: mpsc::Receiver<Arc<Counted<Part>>>,
    pub(crate) report: watch::Sender<LaneReport>,
    pub(crate) options: LaneOptions,
}

/// What a sink does within this time.
async fn within<T>(sink_max: Duration, done: SinkFuture<'_, T>) -> Result<T, LaneError> {
    let done = timeout(sink_max, done).await;
    Ok(done.map_err(|_| LaneError::Slow(sink_max))??)
}

/// How far a sink is, and what of that is stored.
struct Track {
    stored: StoredSink,
    seen: Seen,
    snapshot: SnapshotReader,
    progress: Progress,
    /// Where the snapshot was after each part that the sink may not hold yet.
    places: VecDeque<(u64, SnapshotPlace)>,
    /// The last change of the stream that the sink was given, and the last that came.
    given: Option<ChangePosition>,
    passed: Option<ChangePosition>,
    store_at: Instant,
    changes: u64,
    /// What comes there again is a letter already.
    lettered: BTreeSet<ChangePosition>,
    letters: LetterCounts,
    holes: Option<u64>,
}

/// How a lane goes on.
enum Next {
    Go,
    End,
}

impl Lane {
    /// Feeds the sink until no more batches come, then makes durable what it was given.
    pub(crate) async fn run(mut self) -> LaneEnd {
        let outcome = loop {
            match self.feed().await {
                Err(LaneError::Snapshot(SnapshotError::Detached)) => {
                    let sink = self.sink.name();
                    tracing::warn!(
                        sink,
                        "a partition was detached while a snapshot read it; another one is taken"
                    );
                    if let Err(error) = forget_sink(&self.cdc, &self.reader, sink).await {
                        break Err(error.into());
                    }
                }
                outcome => break outcome,
            }
        };
        LaneEnd {
            sink: self.sink,
            outcome,
        }
    }

    async fn feed(&mut self) -> Result<(), LaneError> {
        let Some(mut track) = self.resume().await? else {
            return Ok(());
        };
        self.tell(&track);
        if track.snapshot.place().step == SnapshotStep::Done {
            self.sink.follow();
            // First: a sink with as many letters as are kept goes on only once some have been offered again.
            self.look_at_letters(&mut track).await?;
        }
        while let Next::Go = self.step(&mut track).await? {
            if Instant::now() >= track.store_at {
                self.store(&mut track).await?;
                // Not where a lane ends: what was asked for waits as well as it has.
                self.look_at_letters(&mut track).await?;
                self.tell(&track);
            }
        }
        self.settle(&mut track).await
    }

    async fn step(&mut self, track: &mut Track) -> Result<Next, LaneError> {
        let step = track.snapshot.place().step;
        let has_room = self.sink.has_room();
        if !has_room && self.batches.is_closed() {
            // What waits for it comes again.
            return Ok(Next::End);
        }
        if step == SnapshotStep::Done && !has_room {
            sleep(LOOK_EVERY).await;
            track.progress = within(self.options.sink_max, self.sink.idle()).await?;
            return Ok(Next::Go);
        }
        if step == SnapshotStep::Done {
            let wake_at = track.store_at;
            tokio::select! {
                // What has come goes first: nothing follows only where nothing has.
                biased;
                batch = self.batches.recv() => match batch {
                    Some(batch) => self.take(track, &batch.value).await?,
                    None => return Ok(Next::End),
                },
                () = sleep_until(wake_at) => {
                    let due = self.sink.idle();
                    track.progress = within(self.options.sink_max, due).await?;
                }
            }
            return Ok(Next::Go);
        }
        if has_names(step) {
            for _ in 0..BATCHES_BETWEEN {
                if !self.sink.has_room() {
                    break;
                }
                match self.batches.try_recv() {
                    Ok(batch) => self.take(track, &batch.value).await?,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return Ok(Next::End),
                }
            }
        } else if self.batches.is_closed() {
            // Until it is known what names and attributes mean, batches wait. None that waits now will be applied.
            return Ok(Next::End);
        }
        self.read_on(track, step).await?;
        Ok(Next::Go)
    }

    /// Reads and applies the next part of the snapshot.
    async fn read_on(&mut self, track: &mut Track, step: SnapshotStep) -> Result<(), LaneError> {
        if let Some(part) = track.snapshot.next().await? {
            let held = track.progress;
            let is_new = |position| !held.holds(Origin::Snapshot, position);
            let unreadable = part.unreadable.iter();
            let unreadable = unreadable.filter(|row| is_new(row.position));
            let kept = self.missed(unreadable, Origin::Snapshot);
            self.keep(track, kept).await?;
            let mut batch = part.batch;
            batch.changes.retain(|change| is_new(change.position));
            if !batch.changes.is_empty() {
                self.apply(track, &batch).await?;
            }
        }
        let place = track.snapshot.place();
        let now_in = place.step;
        track.places.push_back((place.ordinal, place.clone()));
        if now_in != step {
            // The places of what follows count from here, whatever is read again.
            self.settle(track).await?;
            if now_in == SnapshotStep::Done {
                self.sink.follow();
            }
        }
        Ok(())
    }

    /// Takes a part of the stream: what the sink holds already, what its snapshot sees and what is a letter already are left out.
    async fn take(&mut self, track: &mut Track, part: &Part) -> Result<(), LaneError> {
        let Some(last) = part.last() else {
            return Ok(());
        };
        let is_new = |track: &Track, position, xid| {
            !track.progress.holds(Origin::Stream, position)
                && !track.seen.sees(position, xid)
                && !track.lettered.contains(&position)
        };
        let unreadable = part.unreadable.iter();
        let unreadable = unreadable.filter(|row| is_new(track, row.position, row.xid));
        let kept = self.missed(unreadable, Origin::Stream);
        // Before the sink holds anything that comes after them.
        self.keep(track, kept).await?;
        let batch = &part.batch;
        let is_new = |change: &Change| is_new(track, change.position, change.xid);
        if batch.changes.iter().all(is_new) {
            if !batch.changes.is_empty() {
                self.apply(track, batch).await?;
            }
        } else {
            let changes = batch.changes.iter().filter(|change| is_new(change));
            let rest = Batch {
                origin: batch.origin,
                changes: changes.cloned().collect(),
                is_end: batch.is_end,
            };
            if !rest.changes.is_empty() {
                self.apply(track, &rest).await?;
            }
        }
        track.passed = track.passed.max(Some(last));
        self.tell(track);
        Ok(())
    }

    async fn apply(&mut self, track: &mut Track, batch: &Batch) -> Result<(), LaneError> {
        track.changes += u64::try_from(batch.changes.len()).unwrap_or(u64::MAX);
        if batch.origin == Origin::Stream {
            track.given = batch.last();
        }
        let progress = within(self.options.sink_max, self.sink.apply(batch)).await?;
        let refusals = self.sink.take_refused();
        if !refusals.is_empty() {
            self.keep(track, of_refused(batch, refusals)).await?;
        }
        track.progress = progress;
        Ok(())
    }

    /// Makes durable what the sink was given, and stores that.
    async fn settle(&mut self, track: &mut Track) -> Result<(), LaneError> {
        track.progress = within(self.options.sink_max, self.sink.flush()).await?;
        self.store(track).await
    }

    /// Stores how far the sink is, where that is further than was stored.
    async fn store(&mut self, track: &mut Track) -> Result<(), LaneError> {
        track.store_at = Instant::now() + self.options.store_every;
        let (sink, now) = (self.sink.name(), Timestamp::now());
        let mut place = None;
        while let Some((_, held)) = track
            .places
            .pop_front_if(|(ordinal, _)| *ordinal <= track.progress.snapshot)
        {
            place = Some(held);
        }
        if let Some(place) = place
            && place != track.stored.place
        {
            if !store_snapshot_place(&self.cdc, &self.reader, sink, &place, now).await? {
                return Err(LaneError::Fenced);
            }
            track.stored.place = place;
        }
        if let Some(position) = track.progress.stream
            && track.progress.stream > track.stored.position
        {
            if !store_position(&self.cdc, &self.reader, sink, position, now).await? {
                return Err(LaneError::Fenced);
            }
            track.stored.position = Some(position);
        }
        self.tell(track);
        Ok(())
    }

    fn tell(&self, track: &Track) {
        let is_all_stored = track.stored.position >= track.given;
        self.report.send_replace(LaneReport {
            has_resumed: true,
            done: if is_all_stored {
                track.passed
            } else {
                track.stored.position
            },
            position: track.progress.stream,
            step: track.snapshot.place().step,
            changes: track.changes,
            letters: track.letters,
            holes: track.holes,
        });
    }
}

#[cfg(test)]
mod tests;
