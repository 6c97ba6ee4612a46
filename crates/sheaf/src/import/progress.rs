//! What is known to be stored, written down after each answer: a run that is killed goes on behind it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::row::{Position, Refused};

/// Sums over all runs, as the server and we counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Rows that were events, or should have been.
    pub(crate) events: u64,
    /// Values in the events that are stored.
    pub(crate) values: u64,
    pub(crate) accepted: u64,
    pub(crate) duplicates: u64,
    pub(crate) merged: u64,
    pub(crate) corrected: u64,
    /// Events that stored nothing.
    pub(crate) refused: u64,
    /// Lines of the list of refused rows: a bad value is refused alone, and its event may be stored.
    pub(crate) refusals: u64,
}

/// One import of a file, over all the times that it is interrupted and continued. When the same file is imported after
/// that, it is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunId(String);

impl RunId {
    pub(crate) fn random() -> RunId {
        RunId(format!("{:032x}", rand::random::<u128>()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The state of one import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Part of the key of every batch.
    pub(crate) run_id: RunId,
    /// Rows a batch. A later run keeps to it, so that its batches are those of the first.
    pub(crate) batch_rows: usize,
    /// The columns of a text table. Kept, because the import itself changes the catalogue that they were taken from.
    pub(crate) plan: Option<Plan>,
    /// Batches that are done.
    pub(crate) batches: u64,
    /// The server's name of the last one that it answered, by which we find out whether the server still has it.
    pub(crate) last_batch_id: Option<String>,
    /// Where the next batch begins.
    pub(crate) position: Position,
    /// How long the list of refused rows is; what is behind that belongs to a batch that will be sent again.
    pub(crate) rejected_bytes: u64,
    pub(crate) totals: Totals,
}

/// The file that holds it.
pub(crate) struct ProgressFile {
    path: PathBuf,
    _lock: File,
}

impl ProgressFile {
    /// Takes the file of this import for itself. Errors if another process has it.
    pub(crate) fn open(dir: &Path, import_id: &str) -> Result<ProgressFile> {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let lock_path = dir.join(format!("{import_id}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("opening {}", lock_path.display()))?;
        lock.try_lock()
            .context("the same import is running already")?;
        Ok(ProgressFile {
            path: dir.join(format!("{import_id}.json")),
            _lock: lock,
        })
    }

    /// What an earlier run left; absent if there was none or it was completed.
    pub(crate) fn read(&self) -> Result<Option<Progress>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", self.path.display()));
            }
        };
        let progress = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not ours; remove it to start anew",
                self.path.display()
            )
        })?;
        Ok(Some(progress))
    }

    /// Replaces the file as a whole, also across a loss of power.
    pub(crate) fn write(&self, progress: &Progress) -> Result<()> {
        let written = self.replace(progress);
        written.with_context(|| format!("writing {}", self.path.display()))
    }

    fn replace(&self, progress: &Progress) -> Result<()> {
        let new_path = self.path.with_extension("new");
        let mut file = File::create(&new_path)?;
        file.write_all(&serde_json::to_vec(progress)?)?;
        file.sync_all()?;
        std::fs::rename(&new_path, &self.path)?;
        let dir = self.path.parent().expect("the file is in a directory");
        Ok(File::open(dir)?.sync_all()?)
    }

    /// The import is complete: the next one of the same file is a new one.
    pub(crate) fn remove(self) -> Result<()> {
        for path in [&self.path, &self.path.with_extension("lock")] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The list of refused rows: NDJSON, made when the first row is refused.
pub(crate) struct RejectedList {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl RejectedList {
    /// Opens the list at the length that was written down. `None` if it has been shortened or removed since.
    pub(crate) fn open(path: PathBuf, bytes: u64) -> Result<Option<RejectedList>> {
        let mut list = RejectedList {
            path,
            file: None,
            bytes,
        };
        if bytes == 0 {
            // Of an earlier import, or of a batch that will be sent again.
            match std::fs::remove_file(&list.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", list.path.display()));
                }
                Ok(()) | Err(_) => {}
            }
            return Ok(Some(list));
        }
        let length = std::fs::metadata(&list.path).map_or(0, |metadata| metadata.len());
        if length < bytes {
            return Ok(None);
        }
        list.file()?.set_len(bytes)?;
        Ok(Some(list))
    }

    /// Adds lines and makes sure that they stay. Gives back the list's length.
    pub(crate) fn append(&mut self, refusals: &[Refused]) -> Result<u64> {
        if refusals.is_empty() {
            return Ok(self.bytes);
        }
        let mut text = Vec::new();
        for refusal in refusals {
            serde_json::to_writer(&mut text, refusal)?;
            text.push(b'\n');
        }
        let at = self.bytes;
        let file = self.file()?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&text)?;
        file.sync_all()?;
        self.bytes += text.len() as u64;
        Ok(self.bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&self.path)
                .with_context(|| format!("opening {}", self.path.display()))?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("opened above"))
    }
}

/// SHA-256 of the file: what an import is about, wherever the file lies.
pub(crate) fn fingerprint(path: &Path) -> Result<[u8; 32]> {
    use sha2::Digest;
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            return Ok(digest.finalize().into());
        }
        digest.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests;
