//! The parts of one line as InfluxDB cuts it, still escaped; what makes it no line, in InfluxDB's words.

use std::borrow::Cow;

use super::lines::{skip_space, string_end};

/// Why a line is none. The sentences are InfluxDB's, which its clients and their users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineFault {
    #[error("missing measurement")]
    MissingMeasurement,
    #[error("missing fields")]
    MissingFields,
    #[error("missing tag key")]
    MissingTagKey,
    #[error("missing tag value")]
    MissingTagValue,
    #[error("invalid tag format")]
    InvalidTagFormat,
    #[error("missing field key")]
    MissingFieldKey,
    #[error("missing field value")]
    MissingFieldValue,
    #[error("invalid field format")]
    InvalidFieldFormat,
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    #[error("invalid number")]
    InvalidNumber,
    #[error("invalid boolean")]
    InvalidBoolean,
    #[error("bad timestamp")]
    BadTimestamp,
    #[error("point is invalid")]
    TrailingText,
}

/// A piece of a line and whether it holds a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) has_backslash: bool,
}

/// What a backslash makes ordinary in a measurement.
pub(super) const MEASUREMENT_ESCAPES: &[u8] = b", ";
/// What a backslash makes ordinary in keys of tags and fields and in values of tags.
pub(super) const KEY_ESCAPES: &[u8] = b",= ";
/// What a backslash makes ordinary in a string.
pub(super) const STRING_ESCAPES: &[u8] = b"\"\\";

impl<'a> Token<'a> {
    /// The text that is meant: a backslash before one of `escapes` goes, any other is itself. `None` if it is not UTF-8.
    pub(super) fn text(self, escapes: &[u8]) -> Option<Cow<'a, str>> {
        if !self.has_backslash {
            return std::str::from_utf8(self.bytes).ok().map(Cow::Borrowed);
        }
        let mut meant = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            let escaped = if byte == b'\\' {
                rest.next_if(|next| escapes.contains(next))
            } else {
                None
            };
            meant.push(escaped.unwrap_or(byte));
        }
        String::from_utf8(meant).ok().map(Cow::Owned)
    }
}

/// The parts of a line. Its lists serve one line after the other.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) measurement: Option<Token<'a>>,
    pub(super) tags: Vec<(Token<'a>, Token<'a>)>,
    /// Values of fields keep their quotes and suffixes.
    pub(super) fields: Vec<(Token<'a>, Token<'a>)>,
    pub(super) timestamp: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Cuts a line that neither starts with white space nor ends with a line break.
    pub(super) fn read(&mut self, line: &'a [u8]) -> Result<(), LineFault> {
        self.measurement = None;
        self.tags.clear();
        self.fields.clear();
        self.timestamp = None;
        let mut cursor = Cursor { line, at: 0 };
        self.read_series(&mut cursor)?;
        self.read_rest(cursor)
    }

    /// Cuts a line whose measurement and tags are known to end at `end`; they are not cut again.
    pub(super) fn read_after_series(
        &mut self,
        line: &'a [u8],
        end: usize,
    ) -> Result<(), LineFault> {
        self.measurement = None;
        self.tags.clear();
        self.fields.clear();
        self.timestamp = None;
        self.read_rest(Cursor { line, at: end })
    }

    fn read_rest(&mut self, mut cursor: Cursor<'a>) -> Result<(), LineFault> {
        let line = cursor.line;
        cursor.at = skip_space(line, cursor.at);
        self.read_fields(&mut cursor)?;
        cursor.at = skip_space(line, cursor.at);
        self.read_timestamp(&cursor)
    }

    /// Measurement and tags, up to the space before the fields.
    fn read_series(&mut self, cursor: &mut Cursor<'a>) -> Result<(), LineFault> {
        let measurement = cursor.token(b", ", MEASUREMENT_ESCAPES);
        if measurement.bytes.is_empty() {
            return Err(LineFault::MissingMeasurement);
        }
        self.measurement = Some(measurement);
        while cursor.peek() == Some(b',') {
            cursor.at += 1;
            let key = cursor.token(b",= ", KEY_ESCAPES);
            if key.bytes.is_empty() {
                return Err(LineFault::MissingTagKey);
            }
            if cursor.peek() != Some(b'=') {
                return Err(LineFault::MissingTagValue);
            }
            cursor.at += 1;
            let value = cursor.token(b",= ", KEY_ESCAPES);
            if cursor.peek() == Some(b'=') {
                return Err(LineFault::InvalidTagFormat);
            }
            if value.bytes.is_empty() {
                return Err(LineFault::MissingTagValue);
            }
            self.tags.push((key, value));
        }
        match cursor.peek() {
            Some(_) => Ok(()),
            None => Err(LineFault::MissingFields),
        }
    }

    fn read_fields(&mut self, cursor: &mut Cursor<'a>) -> Result<(), LineFault> {
        if cursor.peek().is_none() {
            return Err(LineFault::MissingFields);
        }
        loop {
            let key = cursor.token(b",= ", KEY_ESCAPES);
            match cursor.peek() {
                Some(b'=') if key.bytes.is_empty() => return Err(LineFault::MissingFieldKey),
                Some(b'=') => cursor.at += 1,
                Some(_) | None => return Err(LineFault::InvalidFieldFormat),
            }
            let value = match cursor.peek() {
                Some(b'"') => cursor.string()?,
                Some(_) | None => cursor.token(b", ", b""),
            };
            if value.bytes.is_empty() {
                return Err(LineFault::MissingFieldValue);
            }
            self.fields.push((key, value));
            match cursor.peek() {
                Some(b',') => cursor.at += 1,
                Some(b' ') | None => return Ok(()),
                Some(_) => return Err(LineFault::InvalidFieldFormat),
            }
        }
    }

    fn read_timestamp(&mut self, cursor: &Cursor<'a>) -> Result<(), LineFault> {
        let rest = &cursor.line[cursor.at..];
        if rest.is_empty() {
            return Ok(());
        }
        let sign = usize::from(rest[0] == b'-');
        let digits = rest[sign..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (timestamp, rest) = rest.split_at(sign + digits);
        match rest.first() {
            None | Some(b' ') if digits > 0 => {}
            _ => return Err(LineFault::BadTimestamp),
        }
        if rest.iter().any(|byte| *byte != b' ') {
            return Err(LineFault::TrailingText);
        }
        self.timestamp = Some(timestamp);
        Ok(())
    }
}

struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    /// Up to the first of `stops` that no backslash makes ordinary, or to the end.
    fn token(&mut self, stops: &[u8], escapes: &[u8]) -> Token<'a> {
        let start = self.at;
        let mut has_backslash = false;
        while let Some(byte) = self.peek() {
            if byte == b'\\' {
                has_backslash = true;
                let is_escape = self
                    .line
                    .get(self.at + 1)
                    .is_some_and(|next| escapes.contains(next));
                self.at += 1 + usize::from(is_escape);
            } else if stops.contains(&byte) {
                break;
            } else {
                self.at += 1;
            }
        }
        Token {
            bytes: &self.line[start..self.at],
            has_backslash,
        }
    }

    /// A quoted string with its quotes.
    fn string(&mut self) -> Result<Token<'a>, LineFault> {
        let start = self.at;
        self.at = string_end(self.line, start).ok_or(LineFault::UnbalancedQuotes)?;
        let bytes = &self.line[start..self.at];
        Ok(Token {
            bytes,
            has_backslash: bytes.contains(&b'\\'),
        })
    }
}
