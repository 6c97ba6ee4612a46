//! Checksums of data files: bytes that are not those which were written are an error, and never an answer.
//!
//! What comes before a file's end is taken in blocks, whose CRC-32 the end has under a key. How long the end is, and its own CRC-32,
//! the file's name says, which the table's manifests have. Files of other writers have neither and are read as they are.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::file::metadata::{KeyValue, ParquetMetaData};

/// The key: of each block eight hexadecimal digits.
const KEY: &str = "sheaf.block-crc32";
/// What is read at once at least. Its checksum takes a thousandth of it.
const BLOCK_BYTES: usize = 8 << 10;
const BLOCK: u64 = BLOCK_BYTES as u64;
const DIGITS: usize = 8;

/// Some of these bytes are not those that were written, or not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {} to {} are not those that were written", .0.start, .0.end)]
pub(crate) struct Damage(Range<u64>);

/// A file's end: what follows the values of its rows, and says where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    bytes: u64,
    crc: u32,
}

impl End {
    pub(crate) fn of(end: &[u8]) -> End {
        End {
            bytes: length(end),
            crc: crc32fast::hash(end),
        }
    }

    /// What the name of a file says; nothing where another writer has named it.
    pub(crate) fn named(location: &str) -> Option<End> {
        let (_, end) = location.strip_suffix(".parquet")?.rsplit_once('.')?;
        let (bytes, crc) = end.split_once('-')?;
        if !bytes.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        Some(End {
            bytes: bytes.parse().ok()?,
            crc: read_crc(crc.as_bytes())?,
        })
    }

    /// Where it is in a file of so many bytes.
    pub(crate) fn within(self, file: u64) -> Result<Range<u64>, Damage> {
        let from = file.checked_sub(self.bytes);
        from.map(|from| from..file).ok_or(Damage(0..file))
    }

    /// Whether these are its bytes, which were read from there.
    pub(crate) fn check(self, range: &Range<u64>, end: &[u8]) -> Result<(), Damage> {
        match End::of(end) == self {
            true => Ok(()),
            false => Err(Damage(range.clone())),
        }
    }

    /// What a whole file has before it, which has it as it was written.
    pub(crate) fn data_of(self, file: &[u8]) -> Result<&[u8], Damage> {
        let range = self.within(length(file))?;
        let place = usize::try_from(range.start).ok();
        let (data, end) = place
            .and_then(|place| file.split_at_checked(place))
            .ok_or_else(|| Damage(range.clone()))?;
        self.check(&range, end)?;
        Ok(data)
    }
}

/// As the name of a file has it.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.bytes, self.crc)
    }
}

/// What a file's end is to say of the bytes before it.
pub(crate) fn key_of(data: &[u8]) -> KeyValue {
    let blocks = data.chunks(BLOCK_BYTES);
    let sums = blocks.map(|block| format!("{:08x}", crc32fast::hash(block)));
    KeyValue::new(KEY.to_owned(), sums.collect::<String>())
}

/// Blocks that are read at once, and which of the ranges that were wanted are in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlocksRun {
    pub(crate) blocks: Range<u64>,
    pub(crate) wanted: Range<usize>,
}

/// The checksums of what comes before a file's end.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    crcs: Arc<[u32]>,
    /// Where they end.
    end: u64,
}

impl Blocks {
    /// What an end says of the bytes up to it.
    pub(crate) fn said(metadata: &ParquetMetaData, end: u64) -> Result<Blocks, Damage> {
        let keys = metadata.file_metadata().key_value_metadata();
        let text = keys.and_then(|keys| keys.iter().find(|key| key.key == KEY)?.value.as_ref());
        let digits = text.map(|text| text.as_bytes().chunks(DIGITS));
        let crcs: Option<Arc<[u32]>> = digits.and_then(|digits| digits.map(read_crc).collect());
        let crcs = crcs.filter(|crcs| length(crcs) == end.div_ceil(BLOCK));
        let crcs = crcs.ok_or(Damage(0..end))?;
        Ok(Blocks { crcs, end })
    }

    /// How much they take in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(self.crcs.as_ref())
    }

    /// The whole blocks that have these bytes.
    fn around(&self, bytes: &Range<u64>) -> Result<Range<u64>, Damage> {
        if bytes.start > bytes.end || bytes.end > self.end {
            return Err(Damage(bytes.clone()));
        }
        let from = bytes.start / BLOCK * BLOCK;
        let to = bytes.end.div_ceil(BLOCK).saturating_mul(BLOCK);
        Ok(from..to.min(self.end))
    }

    /// What is to be read for these ranges: blocks that more of them want, or that follow each other, once.
    pub(crate) fn runs(&self, wanted: &[Range<u64>]) -> Result<Vec<BlocksRun>, Damage> {
        let mut runs: Vec<BlocksRun> = Vec::new();
        for (place, range) in wanted.iter().enumerate() {
            let around = self.around(range)?;
            match runs.last_mut() {
                Some(run) if (run.blocks.start..=run.blocks.end).contains(&around.start) => {
                    run.blocks.end = run.blocks.end.max(around.end);
                    run.wanted.end = place + 1;
                }
                Some(_) | None => runs.push(BlocksRun {
                    blocks: around,
                    wanted: place..place + 1,
                }),
            }
        }
        Ok(runs)
    }

    /// The ranges that were wanted, of the blocks that were read for them.
    pub(crate) fn take(
        &self,
        range: &Range<u64>,
        blocks: &Bytes,
        wanted: &[Range<u64>],
    ) -> Result<Vec<Bytes>, Damage> {
        self.check(range, blocks)?;
        let taken = wanted.iter().map(|wanted| {
            let place = |at: u64| usize::try_from(at.checked_sub(range.start)?).ok();
            let places = place(wanted.start).zip(place(wanted.end));
            let places = places.filter(|(from, to)| from <= to && *to <= blocks.len());
            let (from, to) = places.ok_or_else(|| Damage(wanted.clone()))?;
            Ok(blocks.slice(from..to))
        });
        taken.collect()
    }

    /// Whether everything before an end is what was written.
    pub(crate) fn check_all(metadata: &ParquetMetaData, data: &[u8]) -> Result<(), Damage> {
        let end = length(data);
        Blocks::said(metadata, end)?.check(&(0..end), data)
    }

    /// Whether whole blocks are what was written.
    fn check(&self, range: &Range<u64>, bytes: &[u8]) -> Result<(), Damage> {
        if length(bytes) != range.end - range.start {
            return Err(Damage(range.clone()));
        }
        let first = usize::try_from(range.start / BLOCK).unwrap_or(usize::MAX);
        let crcs = self.crcs.get(first..).unwrap_or_default();
        let mut at = range.start;
        for (place, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let to = at + length(block);
            if crcs.get(place) != Some(&crc32fast::hash(block)) {
                return Err(Damage(at..to));
            }
            at = to;
        }
        Ok(())
    }
}

fn read_crc(digits: &[u8]) -> Option<u32> {
    let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != DIGITS || !digits.iter().all(is_digit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
