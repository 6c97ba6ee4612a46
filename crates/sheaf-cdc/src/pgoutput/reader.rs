//! Numbers and texts out of bytes from outside.

use sheaf_model::Lsn;

use super::{FaultKind, Malformed};

/// What is left of a message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.fault(FaultKind::Long(left))),
        }
    }

    /// The byte just read is none that is known.
    pub(super) fn unknown(&self, what: &'static str, found: u8) -> Malformed {
        Malformed {
            at: self.at.saturating_sub(1),
            ..self.fault(FaultKind::Unknown { what, found })
        }
    }

    pub(super) fn bytes(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..length) else {
            return Err(self.fault(FaultKind::Short(what)));
        };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N, what)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let [byte] = self.array(what)?;
        Ok(byte)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn lsn(&mut self, what: &'static str) -> Result<Lsn, Malformed> {
        Ok(Lsn(u64::from_be_bytes(self.array(what)?)))
    }

    /// A count or a length, which PostgreSQL sends with a sign.
    pub(super) fn count(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let found = self.i32(what)?;
        usize::try_from(found).map_err(|_| Malformed {
            at: self.at - 4,
            ..self.fault(FaultKind::Negative { what, found })
        })
    }

    /// A text that ends with a zero.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Err(self.fault(FaultKind::Short(what)));
        };
        let Ok(text) = std::str::from_utf8(&rest[..length]) else {
            return Err(self.fault(FaultKind::NotText(what)));
        };
        self.at += length + 1;
        Ok(text)
    }

    fn fault(&self, kind: FaultKind) -> Malformed {
        Malformed {
            at: self.at,
            length: self.bytes.len(),
            kind,
        }
    }
}
