//! Reading a journal while it is written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sheaf_model::{Lsn, TenantId};
use tokio::sync::watch;

use super::View;
use super::files::path_of;
use super::layout::{Found, HEADER_BYTES, JournalEvent, Record, first_record};

/// Bytes that are read at once, but for a single record that is longer: some hundred events, so that a reader has little in
/// memory.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of others that are passed over before whoever waits is asked whether it still does.
const PASSED_BYTES: usize = 1 << 20;

/// Why a journal cannot be read on from where a reader is.
#[derive(Debug, thiserror::Error)]
pub enum JournalFault {
    /// What followed is not kept any more.
    #[error("the journal does not keep what the reader has not read")]
    Left,
    /// It is not written to any more.
    #[error("the journal has been closed")]
    Closed,
    /// It cannot be read.
    #[error("reading segment {segment} of the journal")]
    Io {
        /// The segment.
        segment: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there is not what was written.
    #[error("segment {segment} of the journal is broken at byte {offset}")]
    Broken {
        /// The segment.
        segment: u64,
        /// Where in it.
        offset: u64,
    },
}

/// What was read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The events of the tenant, in order.
    pub events: Vec<JournalEvent>,
    /// Everything that was committed before was read by now.
    pub through: Lsn,
}

/// A reader of one tenant's events from a log position on.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    view: watch::Receiver<Option<View>>,
    generation: u64,
    tenant: TenantId,
    from: Lsn,
    through: Lsn,
    segment: u64,
    offset: u64,
    file: Option<File>,
}

impl JournalReader {
    pub(super) fn new(
        dir: PathBuf,
        receiver: watch::Receiver<Option<View>>,
        view: &View,
        tenant: TenantId,
        from: Lsn,
    ) -> Option<JournalReader> {
        // Whatever was committed from here on is in the last segment that says so of itself, or later.
        let mut segments = view.segments.iter().rev();
        let (segment, _) = segments.find(|(_, starts)| *starts <= from)?;
        Some(JournalReader {
            dir,
            view: receiver,
            generation: view.generation,
            tenant,
            from,
            through: from,
            segment: *segment,
            offset: HEADER_BYTES as u64,
            file: None,
        })
    }

    /// Everything that was committed before was read, or was not asked for.
    pub fn through(&self) -> Lsn {
        self.through
    }

    /// Whether everything was read that there is.
    pub fn is_at_end(&self) -> bool {
        let view = self.view.borrow();
        view.as_ref().is_some_and(|view| {
            view.generation == self.generation && view.end == (self.segment, self.offset)
        })
    }

    /// Waits until there may be more to read.
    ///
    /// # Errors
    /// [`JournalFault::Closed`].
    pub async fn wait(&mut self) -> Result<(), JournalFault> {
        if !self.is_at_end() {
            return Ok(());
        }
        let changed = self.view.changed().await;
        changed.map_err(|_| JournalFault::Closed)
    }

    /// Reads on; nothing at the end. Blocks.
    pub fn read(&mut self) -> Result<Piece, JournalFault> {
        let mut events = Vec::new();
        let mut passed_over = 0;
        loop {
            let bytes = self.next_bytes()?;
            let mut passed = 0;
            while let Found::Framed(framed) = first_record(&bytes[passed..]) {
                // Those of others are passed over as they are: that their length is right, the next one shows.
                if framed.is_of_another(self.tenant) || framed.commit_lsn() < self.from {
                    self.through = self.through.max(framed.commit_lsn());
                } else {
                    let record = framed.read().ok_or_else(|| self.broken(passed))?;
                    self.take(record, &mut events);
                }
                passed += framed.bytes();
            }
            if passed == 0 && !bytes.is_empty() {
                return Err(self.broken(0));
            }
            self.offset += passed as u64;
            passed_over += passed;
            if !events.is_empty() || passed_over >= PASSED_BYTES || self.is_at_end() {
                return Ok(Piece {
                    events,
                    through: self.through,
                });
            }
        }
    }

    fn take(&mut self, record: Record, events: &mut Vec<JournalEvent>) {
        let through = match record {
            Record::Event(event) => {
                let commit_lsn = event.commit_lsn;
                events.push(event);
                commit_lsn
            }
            Record::Mark {
                commit_lsn, is_end, ..
            } => Lsn(commit_lsn.0 + u64::from(is_end)),
        };
        self.through = self.through.max(through);
    }

    fn broken(&self, passed: usize) -> JournalFault {
        JournalFault::Broken {
            segment: self.segment,
            offset: self.offset + passed as u64,
        }
    }

    /// The next bytes, with one whole record at least; none where the next segment has to be looked at, or there is none.
    fn next_bytes(&mut self) -> Result<Vec<u8>, JournalFault> {
        let view = self.view.borrow().clone().ok_or(JournalFault::Left)?;
        let oldest = view
            .segments
            .first()
            .map_or(u64::MAX, |(number, _)| *number);
        if view.generation != self.generation || self.segment < oldest {
            return Err(JournalFault::Left);
        }
        let segment = self.segment;
        let fault = |source: io::Error| match source.kind() {
            // It was removed just now.
            io::ErrorKind::NotFound => JournalFault::Left,
            _ => JournalFault::Io { segment, source },
        };
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(path_of(&self.dir, segment)).map_err(fault)?,
        };
        let (newest, written) = view.end;
        let end = if segment == newest {
            written
        } else {
            file.metadata().map_err(fault)?.len()
        };
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if left == 0 && segment < newest {
            self.segment += 1;
            self.offset = HEADER_BYTES as u64;
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; left.min(PIECE_BYTES)];
        file.read_exact_at(&mut bytes, self.offset).map_err(fault)?;
        if let Found::Cut(wanted) = first_record(&bytes)
            && bytes.len() < wanted
            && wanted <= left
        {
            bytes = vec![0; wanted];
            file.read_exact_at(&mut bytes, self.offset).map_err(fault)?;
        }
        self.file = Some(file);
        Ok(bytes)
    }
}
