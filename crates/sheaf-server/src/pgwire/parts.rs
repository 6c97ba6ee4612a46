//! The parts of a message: texts, numbers, counts. Pure: every length is checked against what is there.

/// Names and parameters that a message may have: more than any client sends.
const PARTS_MAX: usize = 4_096;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageFault {
    /// It ends before what it says it has.
    #[error("a message ends before its parts do")]
    Short,
    /// There is more than it has.
    #[error("a message has more than its parts")]
    Long,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A number that means nothing here.
    #[error("a number in a message means nothing")]
    Number,
    /// A message of this kind is not expected.
    #[error("no message of kind {0:?} is expected")]
    Kind(char),
    /// A protocol that is not spoken.
    #[error("protocol {0}.{1} is not spoken; 3.0 and 3.2 are")]
    Protocol(u16, u16),
}

/// What is left of a message.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl Parts<'_> {
    fn bytes(&mut self, count: usize) -> Result<&[u8], MessageFault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(MessageFault::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn number<const N: usize>(&mut self) -> Result<[u8; N], MessageFault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MessageFault::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageFault> {
        self.number().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageFault> {
        self.number().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, MessageFault> {
        self.number().map(i32::from_be_bytes)
    }

    /// A text up to the zero that ends it.
    pub(super) fn text(&mut self) -> Result<String, MessageFault> {
        let length = self.0.iter().position(|byte| *byte == 0);
        let length = length.ok_or(MessageFault::Short)?;
        let text = self.bytes(length)?.to_vec();
        self.bytes(1)?;
        String::from_utf8(text).map_err(|_| MessageFault::Text)
    }

    /// A count and so many of something. Nothing is set aside for what is only said to come.
    pub(super) fn several<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, MessageFault>,
    ) -> Result<Vec<T>, MessageFault> {
        let count = usize::from(self.u16()?);
        if count > PARTS_MAX {
            return Err(MessageFault::Number);
        }
        let mut several = Vec::new();
        for _ in 0..count {
            several.push(one(self)?);
        }
        Ok(several)
    }

    pub(super) fn value(&mut self) -> Result<Option<Vec<u8>>, MessageFault> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| MessageFault::Number)?;
                Ok(Some(self.bytes(length)?.to_vec()))
            }
        }
    }

    pub(super) fn end(&self) -> Result<(), MessageFault> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(MessageFault::Long),
        }
    }
}
