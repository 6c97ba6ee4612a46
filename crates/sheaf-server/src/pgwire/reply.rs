//! What clients are sent, as bytes. Pure.

use super::fault::{Fault, Severity};

/// How a transaction stands when the next statement may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Idle,
    /// One was begun.
    Open,
    /// One was begun, and a statement of it has failed.
    Failed,
}

/// A column as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) oid: u32,
    pub(super) length: i16,
    pub(super) is_binary: bool,
}

/// Bytes that were not sent yet.
#[derive(Debug, Default)]
pub(super) struct Outbox(Vec<u8>);

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is to be sent now.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// A message of a kind, its length before its body.
    fn message(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(kind);
        let start = self.0.len();
        self.0.extend([0; 4]);
        write(&mut self.0);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Whether the connection will be encrypted: one letter, and no message.
    pub(super) fn encryption(&mut self, is_taken: bool) {
        self.0.push(if is_taken { b'S' } else { b'N' });
    }

    /// The password is asked for.
    pub(super) fn password_wanted(&mut self) {
        self.message(b'R', |out| out.extend(3u32.to_be_bytes()));
    }

    /// It was the right one.
    pub(super) fn admitted(&mut self) {
        self.message(b'R', |out| out.extend(0u32.to_be_bytes()));
    }

    /// A setting that clients keep track of.
    pub(super) fn parameter(&mut self, name: &str, value: &str) {
        self.message(b'S', |out| {
            text(out, name);
            text(out, value);
        });
    }

    /// How the session is named where it is to be cancelled.
    pub(super) fn key(&mut self, process: i32, secret: &[u8]) {
        self.message(b'K', |out| {
            out.extend(process.to_be_bytes());
            out.extend(secret);
        });
    }

    /// A version of the protocol is spoken that is not the one that was asked for.
    pub(super) fn version(&mut self, minor: u16, unknown: &[&str]) {
        self.message(b'v', |out| {
            out.extend((3u32 << 16 | u32::from(minor)).to_be_bytes());
            out.extend(count32(unknown.len()));
            for option in unknown {
                text(out, option);
            }
        });
    }

    /// The next statement may come.
    pub(super) fn ready(&mut self, standing: Standing) {
        let letter = match standing {
            Standing::Idle => b'I',
            Standing::Open => b'T',
            Standing::Failed => b'E',
        };
        self.message(b'Z', |out| out.push(letter));
    }

    pub(super) fn parsed(&mut self) {
        self.message(b'1', |_| ());
    }

    pub(super) fn bound(&mut self) {
        self.message(b'2', |_| ());
    }

    pub(super) fn closed(&mut self) {
        self.message(b'3', |_| ());
    }

    /// There are more rows than were asked for.
    pub(super) fn suspended(&mut self) {
        self.message(b's', |_| ());
    }

    /// There are no rows, and never will be.
    pub(super) fn no_rows(&mut self) {
        self.message(b'n', |_| ());
    }

    /// There was no statement.
    pub(super) fn empty(&mut self) {
        self.message(b'I', |_| ());
    }

    /// The types of a statement's parameters.
    pub(super) fn parameters(&mut self, oids: &[u32]) {
        self.message(b't', |out| {
            out.extend(count16(oids.len()));
            for oid in oids {
                out.extend(oid.to_be_bytes());
            }
        });
    }

    /// The columns of what follows.
    pub(super) fn columns(&mut self, fields: &[Field<'_>]) {
        self.message(b'T', |out| {
            out.extend(count16(fields.len()));
            for field in fields {
                text(out, field.name);
                // It is of no table that could be looked up.
                out.extend([0; 6]);
                out.extend(field.oid.to_be_bytes());
                out.extend(field.length.to_be_bytes());
                out.extend((-1i32).to_be_bytes());
                out.extend(u16::from(field.is_binary).to_be_bytes());
            }
        });
    }

    /// A row; each value is written by the function it is given.
    pub(super) fn row<T>(
        &mut self,
        values: &[T],
        mut write: impl FnMut(usize, &T, &mut Vec<u8>) -> bool,
    ) {
        self.message(b'D', |out| {
            out.extend(count16(values.len()));
            for (place, value) in values.iter().enumerate() {
                let start = out.len();
                out.extend([0; 4]);
                let is_there = write(place, value, out);
                let length = match is_there {
                    true => u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX),
                    // No value.
                    false => u32::MAX,
                };
                out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
        });
    }

    /// A statement is done.
    pub(super) fn done(&mut self, tag: &str) {
        self.message(b'C', |out| text(out, tag));
    }

    /// It has failed.
    pub(super) fn fault(&mut self, fault: &Fault) {
        let kind = match fault.severity {
            Severity::Error | Severity::Fatal => b'E',
            Severity::Notice => b'N',
        };
        self.message(kind, |out| {
            let mut field = |letter: u8, value: &str| {
                out.push(letter);
                text(out, value);
            };
            field(b'S', fault.severity.as_str());
            field(b'V', fault.severity.as_str());
            field(b'C', fault.sqlstate);
            field(b'M', &fault.message);
            if let Some(code) = fault.code {
                field(b'D', &format!("code: {code}"));
            }
            if let Some(hint) = &fault.hint {
                field(b'H', hint);
            }
            out.push(0);
        });
    }
}

/// A text up to the zero that ends it; one within would end it too.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

fn count16(count: usize) -> [u8; 2] {
    u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes()
}

fn count32(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_and_a_row_its_values() {
        let mut out = Outbox::default();
        out.ready(Standing::Idle);
        assert_eq!(out.take(), b"Z\0\0\0\x05I");
        out.row(&[Some("ab"), None, Some("")], |_, value, out| {
            out.extend(value.unwrap_or_default().bytes());
            value.is_some()
        });
        assert_eq!(
            out.take(),
            b"D\0\0\0\x14\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0"
        );
        let fault = Fault::error("42000", "no\0 table");
        out.fault(&fault);
        let sent = out.take();
        assert_eq!(&sent[..5], b"E\0\0\0\x24");
        assert_eq!(&sent[5..], b"SERROR\0VERROR\0C42000\0Mno table\0\0");
    }
}
