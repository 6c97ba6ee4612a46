//! A sink that is a journal: the events of the stream as they came, in files of bounded size altogether, for those who follow
//! changes over HTTP.
//!
//! It keeps no rows of catalogues and needs no snapshot: names are asked for when an event is sent. The oldest files go when
//! there are too many bytes, and everything goes when it begins anew; so what it has is a while, which [`Journal::kept`] tells.
//! What is written can be read at once, and is on disk before it is said to be held. One process has its folder open at a time:
//! for another one the sink fails, and is tried again.

mod files;
mod layout;
mod reader;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sheaf_model::{ChangePosition, Lsn, TenantId};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::change::{Batch, ChangedRow, Origin, Progress};
use crate::letter::Unreadable;
use crate::sink::{Held, Missed, Sink, SinkError, SinkFuture};
use files::Files;
use layout::{write_event, write_mark};

pub use layout::JournalEvent;
pub use reader::{JournalFault, JournalReader, Piece};

/// How often it is put on disk while it is written to. What was written since is sent again after a loss of power.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a file. Smaller ones are many, of larger ones more is lost at once, and more is read to find a position.
const SEGMENT_BYTES: u64 = 16 << 20;
/// The fewest files that a journal is divided into.
const SEGMENTS_MIN: u64 = 4;

/// How much a journal keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files; a batch more while it is written.
    pub bytes_max: u64,
    /// Bytes of a file, but for a batch that is larger.
    pub segment_bytes: u64,
}

impl Bounds {
    /// So many bytes, in files of 16 MiB or a quarter of all.
    pub fn of(bytes_max: u64) -> Bounds {
        Bounds {
            bytes_max,
            segment_bytes: SEGMENT_BYTES.min(bytes_max / SEGMENTS_MIN),
        }
    }
}

/// What can be read at a moment.
#[derive(Debug, Clone)]
struct View {
    /// Another one after it was emptied.
    generation: u64,
    base: ChangePosition,
    /// The number of each file, and the position from which on everything is in it or in a later one.
    segments: Arc<[(u64, Lsn)]>,
    /// The newest file, and up to where it is written.
    end: (u64, u64),
}

/// Which changes a journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The timeline that they were committed on.
    pub timeline: u32,
    /// Everything that was committed there from here on, as far as it has come.
    pub from: Lsn,
}

/// A journal, for those who read it.
#[derive(Debug, Clone)]
pub struct Journal {
    dir: PathBuf,
    view: watch::Receiver<Option<View>>,
}

impl Journal {
    /// A journal in this folder, which is made where it is missing, of the changes of this cluster; and the sink that writes it.
    pub fn new(
        name: impl Into<String>,
        dir: &Path,
        bounds: Bounds,
        system_id: u64,
    ) -> (JournalSink, Journal) {
        let (view, seen) = watch::channel(None);
        let sink = JournalSink {
            name: name.into(),
            files: Arc::new(Mutex::new(Files::new(dir, bounds, system_id))),
            view,
            state: None,
        };
        let journal = Journal {
            dir: dir.to_owned(),
            view: seen,
        };
        (sink, journal)
    }

    /// What it has; nothing before it was opened.
    pub fn kept(&self) -> Option<Kept> {
        let view = self.view.borrow();
        let view = view.as_ref()?;
        let (_, from) = view.segments.first()?;
        Some(Kept {
            timeline: view.base.timeline,
            from: *from,
        })
    }

    /// A reader of what was committed from a position on. None where it does not have all of that.
    pub fn read_from(&self, tenant: TenantId, from: Lsn) -> Option<JournalReader> {
        let mut receiver = self.view.clone();
        let view = receiver.borrow_and_update().clone()?;
        JournalReader::new(self.dir.clone(), receiver, &view, tenant, from)
    }
}

/// The sink. Its files are written to off the runtime's threads.
#[derive(Debug)]
pub struct JournalSink {
    name: String,
    files: Arc<Mutex<Files>>,
    view: watch::Sender<Option<View>>,
    /// Absent before it was asked, and after anything failed.
    state: Option<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// Which opening of the files it is of.
    opened: u64,
    written: Progress,
    durable: Progress,
    synced_at: Instant,
}

impl JournalSink {
    /// Does something with the files. One that is left before it ends goes on, and is over, or refused, before what follows.
    async fn with_files<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce(&mut Files) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SinkError> {
        let files = Arc::clone(&self.files);
        let done = spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut files)
        });
        let done = done.await.map_err(io::Error::other).flatten();
        done.map_err(|source| SinkError {
            sink: self.name.clone(),
            step,
            source: Box::new(source),
        })
    }

    /// Goes on from what was found or begun.
    fn go_on(&mut self, opened: u64, progress: Progress) {
        self.state = Some(State {
            opened,
            written: progress,
            durable: progress,
            synced_at: Instant::now(),
        });
    }

    async fn look(&mut self) -> Result<Held, SinkError> {
        self.state = None;
        let found = self.with_files("opening the journal", |files| {
            let found = files.open()?;
            Ok((files.opened, files.view(), found))
        });
        let (opened, view, found) = found.await?;
        let Some(progress) = found else {
            return Ok(Held::Nothing);
        };
        self.view.send_replace(view);
        self.go_on(opened, progress);
        Ok(Held::Until(progress))
    }

    async fn begin_anew(&mut self, base: ChangePosition) -> Result<(), SinkError> {
        self.state = None;
        let begun = self.with_files("emptying the journal", move |files| {
            files.empty(base)?;
            Ok((files.opened, files.view()))
        });
        let (opened, view) = begun.await?;
        self.view.send_replace(view);
        self.go_on(opened, Progress::begun(base));
        Ok(())
    }

    fn take_state(&mut self) -> Result<State, SinkError> {
        self.state.take().ok_or_else(|| SinkError {
            sink: self.name.clone(),
            step: "writing the journal",
            source: "the journal was not asked what it holds".into(),
        })
    }

    async fn write(&mut self, batch: &Batch) -> Result<Progress, SinkError> {
        // What a write that failed has left is found out before the next.
        let mut state = self.take_state()?;
        let mut bytes = Vec::new();
        let before = state.written.stream;
        for change in &batch.changes {
            if batch.origin == Origin::Snapshot
                || state.written.holds(batch.origin, change.position)
            {
                continue;
            }
            state.written.advance(batch.origin, change.position);
            if let ChangedRow::Event(event) = &change.row {
                write_event(change.position, event, &mut bytes);
            }
        }
        let last = state
            .written
            .stream
            .filter(|_| state.written.stream > before);
        let opened = state.opened;
        let is_due = state.synced_at.elapsed() >= SYNC_EVERY;
        if let Some(last) = last {
            write_mark(last, batch.is_end, &mut bytes);
            let written = self.with_files("writing the journal", move |files| {
                require_opened(files, opened)?;
                files.append(&bytes, last)?;
                Ok(files.view())
            });
            let view = written.await?;
            self.view.send_replace(view);
        }
        if is_due {
            return self.sync(state).await;
        }
        self.state = Some(state);
        Ok(state.durable)
    }

    async fn sync(&mut self, mut state: State) -> Result<Progress, SinkError> {
        if state.durable != state.written {
            let opened = state.opened;
            let synced = self.with_files("putting the journal on disk", move |files| {
                require_opened(files, opened)?;
                files.sync()
            });
            synced.await?;
            state.durable = state.written;
        }
        state.synced_at = Instant::now();
        self.state = Some(state);
        Ok(state.durable)
    }

    async fn let_go(&mut self) -> Result<(), SinkError> {
        self.state = None;
        let left = self.with_files("closing the journal", |files| {
            files.leave();
            Ok(())
        });
        left.await
    }
}

/// What was asked before the files were opened anew would be written twice.
fn require_opened(files: &Files, opened: u64) -> io::Result<()> {
    if files.opened == opened {
        return Ok(());
    }
    Err(io::Error::other("the journal was opened anew meanwhile"))
}

impl Sink for JournalSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_snapshot(&self) -> bool {
        false
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(self.look())
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        Box::pin(self.begin_anew(base))
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(self.write(batch))
    }

    /// It takes changes in their order alone, so that a letter could never be offered to it again.
    fn missed(&mut self, _row: &Unreadable) -> Missed {
        Missed::Nothing
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(async move {
            let state = self.take_state()?;
            self.sync(state).await
        })
    }

    fn leave(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(self.let_go())
    }
}

#[cfg(test)]
mod tests;
