//! Where a lane begins: from what its sink holds, or with a snapshot.

use std::collections::VecDeque;

use sheaf_model::Timestamp;
use sheaf_pg::{Disposition, PgError};
use sheaf_store::changes::{
    begin_snapshot, begin_without_snapshot, find_sink, forget_sink, read_running,
};
use tokio::time::{Instant, sleep};

use super::{LOOK_EVERY, Lane, LaneError, Next, Track, within};
use crate::change::Progress;
use crate::letter::LetterCounts;
use crate::resume::{Resume, decide};
use crate::sink::Held;
use crate::snapshot::{Seen, SnapshotReader};

impl Lane {
    /// Finds out where the sink goes on, which may be the beginning. None where it is to end before.
    pub(super) async fn resume(&mut self) -> Result<Option<Track>, LaneError> {
        loop {
            let slot = &self.reader.slot;
            let Some(stored) = find_sink(&self.cdc, slot, self.sink.name()).await? else {
                if let Next::End = self.begin().await? {
                    return Ok(None);
                }
                continue;
            };
            let sink_max = self.options.sink_max;
            let held: Held = within(sink_max, self.sink.held()).await?;
            let (progress, place) = match decide(&stored, held) {
                Resume::Continue { progress, place } => {
                    self.sink.resume(progress);
                    (progress, place)
                }
                Resume::Tell => {
                    self.begin_letters(stored.base).await?;
                    within(sink_max, self.sink.begin(stored.base)).await?;
                    (Progress::begun(stored.base), stored.place.clone())
                }
                Resume::Anew => {
                    let sink = self.sink.name();
                    tracing::warn!(
                        sink,
                        ?held,
                        "a sink holds less than was stored of it, and begins anew with a snapshot"
                    );
                    forget_sink(&self.cdc, &self.reader, sink).await?;
                    continue;
                }
            };
            let seen = Seen::read(&stored.snapshot, stored.until)
                .map_err(|fault| PgError::unreadable("reading how far a sink is", fault))?;
            let rows_max = self.options.snapshot_rows;
            let row_bytes_max = self.options.row_bytes_max;
            let cdc = self.cdc.clone();
            let snapshot = SnapshotReader::new(cdc, stored.clone(), place, rows_max, row_bytes_max);
            let lettered = self.list_letters(progress.stream).await?;
            return Ok(Some(Track {
                seen,
                snapshot,
                progress,
                places: VecDeque::new(),
                given: progress.stream,
                passed: progress.stream,
                store_at: Instant::now() + self.options.store_every,
                changes: 0,
                lettered,
                letters: LetterCounts::NONE,
                holes: None,
                stored,
            }));
        }
    }

    /// Begins a snapshot, where the sink needs one. Everything that the stream has shown before this lane has to be seen by it:
    /// who is in the middle of something may have written its commit already, and is waited for.
    async fn begin(&mut self) -> Result<Next, LaneError> {
        if !self.sink.needs_snapshot() {
            let (sink, now) = (self.sink.name(), Timestamp::now());
            let begun =
                begin_without_snapshot(&self.cdc, &self.reader, sink, self.timeline, now).await?;
            return if begun {
                Ok(Next::Go)
            } else {
                Err(LaneError::Fenced)
            };
        }
        let (next_number, _) = read_running(&self.cdc).await?;
        while read_running(&self.cdc).await?.1 < next_number {
            if self.batches.is_closed() {
                return Ok(Next::End);
            }
            sleep(LOOK_EVERY).await;
        }
        let sink = self.sink.name();
        loop {
            let now = Timestamp::now();
            match begin_snapshot(&self.cdc, &self.reader, sink, self.timeline, now).await {
                Ok(true) => return Ok(Next::Go),
                Ok(false) => return Err(LaneError::Fenced),
                // Writers are let pass in between.
                Err(error) if error.disposition() == Disposition::Retry => {
                    if self.batches.is_closed() {
                        return Ok(Next::End);
                    }
                    sleep(LOOK_EVERY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
