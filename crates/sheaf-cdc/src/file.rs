//! A sink that is a file: one line a change, in Debezium's form, each once.
//!
//! The file is its own memory: each line says how far everything up to it is held, so that the last whole line is what the file
//! holds. A line that a crash has cut is taken away before the next is written. One process has it open at a time: another that was taken
//! for dead, and goes on, would write what the next one has written.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sheaf_model::ChangePosition;

use crate::change::{Batch, Progress};
use crate::envelope::{line, progress_of};
use crate::letter::{Letter, Refusal};
use crate::sink::{Held, Sink, SinkError, SinkFuture};
use search::Search;

mod search;

/// What is read at once when the last line is looked for.
const BLOCK_BYTES: u64 = 64 << 10;
/// All tenants' changes are in it: where it is made here, nobody but the owner reads it. One that is there keeps its mode.
const FILE_MODE: u32 = 0o600;

/// The sink. Each batch is on disk before it is said to be held.
///
/// It is written without leaving the thread: a write that went on after its future was dropped would meet the next one.
#[derive(Debug)]
pub struct FileSink {
    name: String,
    path: PathBuf,
    /// Open, with what it holds, once that was asked.
    open: Option<(OwnFile, Progress)>,
    /// What was looked for last, where that did not come to its end.
    search: Search,
}

/// The file, for this process alone until it is closed.
#[derive(Debug)]
struct OwnFile(File);

impl Drop for OwnFile {
    fn drop(&mut self) {
        // A process that is being started beside this has the file too, for a moment: closing it here would not be enough.
        let _ = self.0.unlock();
    }
}

impl FileSink {
    /// Writes to this file, which is made where it is missing.
    pub fn new(name: impl Into<String>, path: &Path) -> FileSink {
        FileSink {
            name: name.into(),
            path: path.to_owned(),
            open: None,
            search: Search::default(),
        }
    }

    fn fault(&self, step: &'static str) -> impl Fn(io::Error) -> SinkError + use<> {
        let sink = self.name.clone();
        move |source| SinkError {
            sink: sink.clone(),
            step,
            source: Box::new(source),
        }
    }

    fn open_file(&self) -> io::Result<OwnFile> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(FILE_MODE).open(&self.path)?;
        file.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has the file open",
            ),
            TryLockError::Error(source) => source,
        })?;
        Ok(OwnFile(file))
    }

    fn look(&mut self) -> io::Result<Held> {
        self.open = None;
        let mut file = self.open_file()?;
        let Some(last) = take_away_rest(&mut file.0)? else {
            return Ok(Held::Nothing);
        };
        let Some(progress) = progress_of(&last) else {
            return Err(io::Error::other(
                "the last line of the file is none of ours",
            ));
        };
        self.open = Some((file, progress));
        Ok(Held::Until(progress))
    }

    fn empty(&mut self, base: ChangePosition) -> io::Result<()> {
        // Closed first: it is opened once.
        (self.open, self.search) = (None, Search::default());
        let file = self.open_file()?;
        file.0.set_len(0)?;
        file.0.sync_all()?;
        self.open = Some((file, Progress::begun(base)));
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> io::Result<Progress> {
        // What a write that failed has left is found out before the next.
        let (mut file, before) = self.take_open()?;
        let mut progress = before;
        let mut text = String::new();
        for change in &batch.changes {
            if progress.holds(batch.origin, change.position) {
                continue;
            }
            progress.advance(batch.origin, change.position);
            text.push_str(&line(change, batch.origin, &progress));
            text.push('\n');
        }
        if !text.is_empty() {
            append(&mut file.0, &text)?;
        }
        self.open = Some((file, progress));
        Ok(progress)
    }

    /// Writes what is missing, as far as the file is: each of these lines says what is held without it.
    fn write_missing(&mut self, letters: &[Letter], missing: &HashSet<String>) -> io::Result<()> {
        let is_missing = |letter: &&Letter| missing.contains(&letter.change.position.to_string());
        let mut letters: Vec<&Letter> = letters.iter().filter(is_missing).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let (mut file, progress) = self.take_open()?;
        letters.sort_unstable_by_key(|letter| letter.change.position);
        let mut text = String::new();
        for letter in letters {
            text.push_str(&line(&letter.change, letter.origin, &progress));
            text.push('\n');
        }
        append(&mut file.0, &text)?;
        self.open = Some((file, progress));
        Ok(())
    }

    fn take_open(&mut self) -> io::Result<(OwnFile, Progress)> {
        let asked = || io::Error::other("the file was not asked what it holds");
        self.open.take().ok_or_else(asked)
    }
}

/// Adds whole lines, which are on disk then.
fn append(file: &mut File, lines: &str) -> io::Result<()> {
    file.seek(SeekFrom::End(0))?;
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

/// Takes away what follows the last whole line, and gives that back.
fn take_away_rest(file: &mut File) -> io::Result<Option<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut tail = Vec::new();
    let mut from = length;
    loop {
        let ends: Vec<usize> = (0..tail.len())
            .filter(|place| tail[*place] == b'\n')
            .collect();
        // Two ends enclose a line; the beginning of the file is one too.
        let enclosed = match ends.as_slice() {
            [.., before, end] => Some((before + 1, *end)),
            [end] if from == 0 => Some((0, *end)),
            [_] | [] => None,
        };
        if let Some((begin, end)) = enclosed {
            let whole = from + u64::try_from(end).map_err(io::Error::other)? + 1;
            if whole < length {
                file.set_len(whole)?;
                file.sync_all()?;
            }
            let line = String::from_utf8(tail[begin..end].to_vec());
            return line.map(Some).map_err(io::Error::other);
        }
        if from == 0 {
            if length > 0 {
                file.set_len(0)?;
                file.sync_all()?;
            }
            return Ok(None);
        }
        let next = from.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(from - next).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(next))?;
        file.read_exact(&mut block)?;
        block.append(&mut tail);
        tail = block;
        from = next;
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        let fault = self.fault("reading what the file holds");
        let held = self.look().map_err(fault);
        Box::pin(async move { held })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        let fault = self.fault("emptying the file");
        let begun = self.empty(base).map_err(fault);
        Box::pin(async move { begun })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        let fault = self.fault("writing to the file");
        let written = self.write(batch).map_err(fault);
        Box::pin(async move { written })
    }

    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        let fault = self.fault("writing to the file again");
        Box::pin(async move {
            let places = letters.iter().map(|letter| letter.change.position);
            let missing = self.search.missing_in(&self.path, places.collect());
            let missing = missing.await.map_err(&fault)?;
            self.write_missing(letters, &missing).map_err(&fault)?;
            Ok(Vec::new())
        })
    }

    /// All of the file is read each time.
    fn letters_max(&self) -> usize {
        1_000
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let fault = self.fault("writing to the file");
        let held = match &self.open {
            Some((_, progress)) => Ok(*progress),
            None => Err(fault(io::Error::other(
                "the file was not asked what it holds",
            ))),
        };
        Box::pin(async move { held })
    }

    fn leave(&mut self) -> SinkFuture<'_, ()> {
        self.open = None;
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use sheaf_testkit::ScratchDir;

    #[test]
    fn only_its_owner_reads_the_file() {
        let dir = ScratchDir::new("lines").expect("a directory");
        let path = dir.path().join("changes.jsonl");
        let made = FileSink::new("file", &path).open_file().expect("it opens");
        let mode = made.0.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn one_has_the_file_open_at_a_time_and_leaves_it_to_the_next() {
        use sheaf_model::Lsn;

        let dir = ScratchDir::new("lines").expect("a directory");
        let path = dir.path().join("lines");
        let (mut one, mut other) = (FileSink::new("file", &path), FileSink::new("file", &path));
        let base = ChangePosition::before(1, Lsn(10));
        one.begin(base).await.expect("nobody has it");
        let refused = other.held().await.expect_err("one has it");
        let refused = sheaf_pg::chain(&refused);
        assert!(
            refused.contains("another process has the file open"),
            "{refused}"
        );
        other.begin(base).await.expect_err("nor does it begin");
        one.leave().await.expect("it is left");
        other.begin(base).await.expect("it was left");
        one.held().await.expect_err("the other has it now");
        drop(other);
        one.held().await.expect("it was closed");
    }

    #[tokio::test]
    async fn a_search_holds_up_nobody_and_can_be_waited_for_again() {
        use crate::change::Origin;
        use crate::conformance::change;
        use sheaf_model::{LetterId, Lsn};
        use std::time::Duration;

        let dir = ScratchDir::new("search").expect("a directory");
        let (path, aside) = (dir.path().join("lines"), dir.path().join("aside"));
        let mut sink = FileSink::new("file", &path);
        let base = ChangePosition::before(1, Lsn(10));
        sink.begin(base).await.expect("it begins");
        let letters = [Letter {
            id: LetterId::new(),
            origin: Origin::Stream,
            change: change(1, 20, 1),
        }];
        // Something that is not read before somebody writes to it.
        std::fs::rename(&path, &aside).expect("it moves");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        let replayed = tokio::time::timeout(Duration::from_millis(50), sink.replay(&letters));
        assert!(replayed.await.is_err(), "the time that it may take counts");
        drop(OpenOptions::new().write(true).open(&path));
        std::fs::rename(&aside, &path).expect("it moves back");
        sink.held().await.expect("it is asked");
        sink.begin(base).await.expect("it begins");
        for _ in 0..2 {
            let refused = sink.replay(&letters).await.expect("it is taken");
            assert_eq!(refused, []);
        }
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.matches("\"position\":\"1:0/14:1\"").count(), 1);
    }

    #[test]
    fn the_last_whole_line_is_found_and_what_follows_it_taken_away() {
        let dir = ScratchDir::new("lines").expect("a directory");
        let long = "x".repeat(200_000);
        for (text, line, left) in [
            ("", None, 0),
            ("cut", None, 0),
            ("one\n", Some("one"), 4),
            ("one\ntwo\n", Some("two"), 8),
            ("one\ntwo\ncut", Some("two"), 8),
            (&format!("one\n{long}\n{long}"), Some(&*long), 200_005),
            (&format!("{long}\n"), Some(&*long), 200_001),
            ("\n", Some(""), 1),
        ] {
            let path = dir.path().join("lines");
            std::fs::write(&path, text).expect("it can be written");
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .expect("it opens");
            let found = take_away_rest(&mut file).expect("it can be read");
            assert_eq!(found.as_deref(), line);
            assert_eq!(file.metadata().expect("it is there").len(), left);
        }
    }
}
