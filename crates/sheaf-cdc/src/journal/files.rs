//! The segments of a journal in their folder: opened, added to, begun, and removed from the oldest on. Blocks.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sheaf_model::{ChangePosition, Lsn};

use super::layout::{Found, HEADER_BYTES, Header, Record, first_record};
use super::{Bounds, View};
use crate::change::Progress;

const EXTENSION: &str = "journal";
/// Locked by whoever has the folder open.
const LOCK: &str = "lock";
/// All tenants' events are in it: nobody but the owner reads it.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The folder of a journal.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    bounds: Bounds,
    system_id: u64,
    /// Counts how often it was opened or emptied: what was asked before that is refused.
    pub(super) opened: u64,
    /// Another one after it was emptied, and where another base is found.
    generation: u64,
    /// The base that was found or begun last.
    of: Option<ChangePosition>,
    open: Option<Open>,
    /// Held from when it was first opened until it is left: two processes would write over each other.
    lock: Option<Lock>,
}

/// The right to the folder.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that is being started beside this has the file too, for a moment: closing it here would not be enough.
        let _ = self.0.unlock();
    }
}

#[derive(Debug)]
struct Open {
    base: ChangePosition,
    /// The last change that was taken.
    last: Option<ChangePosition>,
    segments: VecDeque<Segment>,
    /// The newest segment.
    file: File,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    /// What was committed from here on is in it or in a later one.
    from: Lsn,
    bytes: u64,
}

impl Segment {
    /// A segment with this header.
    fn of(header: &Header, bytes: u64) -> Segment {
        // Everything after what it follows is there.
        let last = header.after.unwrap_or(header.base);
        Segment {
            number: header.number,
            from: Lsn(last.commit_lsn.0 + 1),
            bytes,
        }
    }
}

/// The name of a segment.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{EXTENSION}"))
}

impl Files {
    pub(super) fn new(dir: &Path, bounds: Bounds, system_id: u64) -> Files {
        Files {
            dir: dir.to_owned(),
            bounds,
            system_id,
            opened: 0,
            generation: 0,
            of: None,
            open: None,
            lock: None,
        }
    }

    /// Lets another process open it.
    pub(super) fn leave(&mut self) {
        self.opened += 1;
        self.open = None;
        self.lock = None;
    }

    /// Makes the folder where it is missing, and sees to it that nobody else has it open.
    fn lock(&mut self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(&self.dir)?;
        if self.lock.is_none() {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(FILE_MODE)
                .open(self.dir.join(LOCK))?;
            file.try_lock().map_err(|refused| match refused {
                TryLockError::WouldBlock => io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another process has the journal open",
                ),
                TryLockError::Error(source) => source,
            })?;
            self.lock = Some(Lock(file));
        }
        Ok(())
    }

    /// Opens what is there, without what a crash has cut, and on disk. Nothing where there is nothing that can be gone on with.
    pub(super) fn open(&mut self) -> io::Result<Option<Progress>> {
        self.opened += 1;
        self.open = None;
        self.lock()?;
        let numbers = self.numbers()?;
        let mut headers: Vec<Header> = Vec::new();
        for number in numbers.iter().rev() {
            let Some(header) = self.header(*number)? else {
                break;
            };
            let follows = headers
                .last()
                .is_none_or(|next| next.number == header.number + 1 && next.base == header.base);
            if !follows {
                break;
            }
            headers.push(header);
        }
        let Some(newest) = headers.first().copied() else {
            return Ok(None);
        };
        // What a crash left of a journal before, or what follows a gap.
        for number in &numbers[..numbers.len() - headers.len()] {
            fs::remove_file(path_of(&self.dir, *number))?;
        }
        let mut segments = VecDeque::new();
        for header in headers.iter().rev() {
            let bytes = fs::metadata(path_of(&self.dir, header.number))?.len();
            segments.push_back(Segment::of(header, bytes));
        }
        let path = path_of(&self.dir, newest.number);
        let file = OpenOptions::new().append(true).open(&path)?;
        let (last, whole) = last_of(&fs::read(&path)?, newest);
        let whole = u64::try_from(whole).map_err(io::Error::other)?;
        if let Some(segment) = segments.back_mut()
            && segment.bytes > whole
        {
            let cut_bytes = segment.bytes - whole;
            tracing::info!(
                cut_bytes,
                "the end of the journal was cut, and is taken away"
            );
            file.set_len(whole)?;
            segment.bytes = whole;
        }
        file.sync_all()?;
        if self.of.is_some_and(|of| of != newest.base) {
            self.generation += 1;
        }
        self.of = Some(newest.base);
        self.open = Some(Open {
            base: newest.base,
            last,
            segments,
            file,
        });
        Ok(Some(Progress {
            stream: last,
            ..Progress::begun(newest.base)
        }))
    }

    /// Begins anew, without what was there before.
    pub(super) fn empty(&mut self, base: ChangePosition) -> io::Result<()> {
        self.opened += 1;
        self.open = None;
        self.lock()?;
        let before = self.numbers()?;
        let header = Header {
            system_id: self.system_id,
            base,
            number: before.last().map_or(1, |last| last + 1),
            after: None,
        };
        let (segment, file) = self.create(header)?;
        // The newest one says what the journal is, so that a crash between these leaves nothing of before.
        for number in before {
            fs::remove_file(path_of(&self.dir, number))?;
        }
        self.generation += 1;
        self.of = Some(base);
        self.open = Some(Open {
            base,
            last: None,
            segments: VecDeque::from([segment]),
            file,
        });
        Ok(())
    }

    /// Adds records, of which the last is that of a mark. They can be read now, and are on disk after [`Files::sync`].
    pub(super) fn append(&mut self, bytes: &[u8], last: ChangePosition) -> io::Result<()> {
        // Whatever fails leaves it closed: what is on disk then is found when it is opened.
        let mut open = self.open.take().ok_or_else(closed)?;
        let added = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let newest = open.segments.back().ok_or_else(closed)?;
        let has_records = newest.bytes > HEADER_BYTES as u64;
        if has_records && newest.bytes + added > self.bounds.segment_bytes {
            open.file.sync_all()?;
            let (segment, file) = self.create(Header {
                system_id: self.system_id,
                base: open.base,
                number: newest.number + 1,
                after: open.last,
            })?;
            open.segments.push_back(segment);
            open.file = file;
        }
        open.file.write_all(bytes)?;
        open.segments.back_mut().ok_or_else(closed)?.bytes += added;
        open.last = Some(last);
        while open.segments.len() > 1 && open.bytes() > self.bounds.bytes_max {
            if let Some(oldest) = open.segments.pop_front() {
                fs::remove_file(path_of(&self.dir, oldest.number))?;
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// Puts on disk what was added.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let open = self.open.take().ok_or_else(closed)?;
        open.file.sync_data()?;
        self.open = Some(open);
        Ok(())
    }

    /// What can be read.
    pub(super) fn view(&self) -> Option<View> {
        let open = self.open.as_ref()?;
        let newest = open.segments.back()?;
        let segments = open.segments.iter();
        Some(View {
            generation: self.generation,
            base: open.base,
            segments: segments
                .map(|segment| (segment.number, segment.from))
                .collect::<Arc<[_]>>(),
            end: (newest.number, newest.bytes),
        })
    }

    /// The numbers of the segments that are there, in order.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse::<u64>().ok());
            if let Some(number) = number.filter(|number| path == path_of(&self.dir, *number)) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Absent where it is none of ours.
    fn header(&self, number: u64) -> io::Result<Option<Header>> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let file = File::open(path_of(&self.dir, number))?;
        file.take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(Header::read(&bytes)
            .filter(|header| header.number == number && header.system_id == self.system_id))
    }

    /// A segment with its header, both on disk when its name is.
    fn create(&self, header: Header) -> io::Result<(Segment, File)> {
        let path = path_of(&self.dir, header.number);
        let unnamed = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&unnamed)?;
        file.write_all(&header.to_bytes())?;
        file.sync_all()?;
        fs::rename(&unnamed, &path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok((Segment::of(&header, HEADER_BYTES as u64), file))
    }
}

impl Open {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

fn closed() -> io::Error {
    io::Error::other("the journal was not asked what it holds")
}

/// The last change in the bytes of a segment, and up to where they are whole.
fn last_of(bytes: &[u8], header: Header) -> (Option<ChangePosition>, usize) {
    let (mut last, mut whole) = (header.after, HEADER_BYTES.min(bytes.len()));
    while let Found::Framed(framed) = first_record(&bytes[whole..])
        && let Some(record) = framed.read()
    {
        let (commit_lsn, ordinal) = match record {
            Record::Event(event) => (event.commit_lsn, event.ordinal),
            Record::Mark {
                commit_lsn,
                ordinal,
                ..
            } => (commit_lsn, ordinal),
        };
        last = Some(ChangePosition {
            timeline: header.base.timeline,
            commit_lsn,
            ordinal,
        });
        whole += framed.bytes();
    }
    (last, whole)
}
