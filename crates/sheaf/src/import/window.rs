//! A text file seen through a window that begins at the current record, so that a record that turns out to be bad
//! can be given up and reading goes on right behind its first line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::row::Position;

const READ_BYTES: usize = 64 << 10;
/// Four times the longest event that a server takes by default: a row that is too long for the server is refused by
/// the server, with its code, and a row that never ends costs no more memory than this.
pub(crate) const RECORD_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Window {
    file: File,
    file_bytes: u64,
    bytes: Vec<u8>,
    start: usize,
    position: Position,
    /// The last byte before the window, as `\r\n` is one line end.
    before: u8,
}

impl Window {
    pub(crate) fn open(path: &Path, position: Position) -> io::Result<Window> {
        let mut file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let mut before = [b'\n'];
        if position.offset > 0 {
            file.seek(SeekFrom::Start(position.offset - 1))?;
            file.read_exact(&mut before)?;
        }
        Ok(Window {
            file,
            file_bytes,
            bytes: Vec::new(),
            start: 0,
            position,
            before: before[0],
        })
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.position.offset, self.file_bytes)
    }

    /// What is in the window.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Reads on. False at the end of the file.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let limit = u64::try_from(READ_BYTES).expect("64 KiB fit in 64 bits");
        let read = (&mut self.file).take(limit).read_to_end(&mut self.bytes)?;
        Ok(read > 0)
    }

    /// Moves the window's start forward over bytes that are in it.
    pub(crate) fn consume(&mut self, count: usize) {
        for byte in &self.bytes[self.start..self.start + count] {
            let ends_line = match byte {
                b'\n' => self.before != b'\r',
                b'\r' => true,
                _ => false,
            };
            self.position.line += u64::from(ends_line);
            self.before = *byte;
        }
        self.start += count;
        self.position.offset += count as u64;
    }

    /// Moves to behind the next line end, however far that is.
    pub(crate) fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
            if let Some(end) = self.pending().iter().position(ends) {
                self.consume(end + 1);
                return Ok(());
            }
            self.consume(self.pending().len());
            if !self.fill()? {
                return Ok(());
            }
        }
    }
}
