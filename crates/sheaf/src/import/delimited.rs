//! CSV as it is found: quoted fields over several lines, any mix of line ends, rows that are too short or too long,
//! and quotes that never end. A bad record costs its first line and no more: reading goes on at the next.

use std::io;
use std::path::Path;

use csv_core::{ReadRecordResult, Reader};

use super::row::Position;
use super::window::{RECORD_BYTES_MAX, Window};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One record of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The line it begins at, from 1.
    pub(crate) line: u64,
    /// Its fields, or why it has none.
    pub(crate) fields: Result<Vec<Vec<u8>>, BadRecord>,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    /// The rest of the file would be one field.
    #[error("a quoted field does not end")]
    OpenQuote,
    /// Longer than anything that could be sent.
    #[error("the row is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
}

pub(crate) struct Delimited {
    window: Window,
    reader: Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
}

impl Delimited {
    pub(crate) fn open(path: &Path, position: Position) -> io::Result<Delimited> {
        let mut window = Window::open(path, position)?;
        window.fill()?;
        if position.offset == 0 && window.pending().starts_with(BYTE_ORDER_MARK) {
            window.consume(BYTE_ORDER_MARK.len());
        }
        Ok(Delimited {
            window,
            reader: Reader::new(),
            output: vec![0; 4 << 10],
            ends: vec![0; 64],
        })
    }

    pub(crate) fn position(&self) -> Position {
        self.window.position()
    }

    pub(crate) fn progress(&self) -> (u64, u64) {
        self.window.progress()
    }

    /// The next record; absent at the end. Empty lines are no records.
    pub(crate) fn next_record(&mut self) -> io::Result<Option<Record>> {
        self.skip_empty_lines()?;
        if self.window.pending().is_empty() {
            return Ok(None);
        }
        let line = self.window.position().line;
        let (mut read, mut written, mut fields) = (0, 0, 0);
        let bad = loop {
            let at_end = read == self.window.pending().len() && !self.window.fill()?;
            if read > RECORD_BYTES_MAX {
                break BadRecord::TooLong;
            }
            // The end of the file is read as one more line end: a field that takes it in has an open quote.
            let input: &[u8] = match at_end {
                true => b"\n",
                false => &self.window.pending()[read..],
            };
            let output = &mut self.output[written..];
            let ends = &mut self.ends[fields..];
            let (result, input_read, output_written, ends_written) =
                self.reader.read_record(input, output, ends);
            read += if at_end { 0 } else { input_read };
            written += output_written;
            fields += ends_written;
            match result {
                ReadRecordResult::InputEmpty if at_end => break BadRecord::OpenQuote,
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::End | ReadRecordResult::Record => {
                    self.window.consume(read);
                    let fields = Ok(self.fields(fields));
                    return Ok(Some(Record { line, fields }));
                }
            }
        };
        self.window.skip_line()?;
        self.reader.reset();
        let fields = Err(bad);
        Ok(Some(Record { line, fields }))
    }

    fn skip_empty_lines(&mut self) -> io::Result<()> {
        loop {
            let pending = self.window.pending();
            let text = |byte: &u8| !matches!(byte, b'\n' | b'\r');
            match pending.iter().position(text) {
                Some(empty) => {
                    self.window.consume(empty);
                    return Ok(());
                }
                None => self.window.consume(pending.len()),
            }
            if !self.window.fill()? {
                return Ok(());
            }
        }
    }

    fn fields(&self, count: usize) -> Vec<Vec<u8>> {
        let mut start = 0;
        let field = |end: &usize| {
            let field = self.output[start..*end].to_vec();
            start = *end;
            field
        };
        self.ends[..count].iter().map(field).collect()
    }
}

#[cfg(test)]
mod tests;
