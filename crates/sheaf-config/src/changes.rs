//! The settings of the change stream: where changes go, and by which slot they come.

use std::path::PathBuf;

use crate::error::{ConfigError, ValueFault};
use crate::reader::Reader;
use crate::settings::filled;

/// A slot's name is unique in its cluster: with two databases that are followed, one has another.
const SLOT: &str = "sheaf_changes";
/// PostgreSQL cuts names that are longer.
const SLOT_BYTES_MAX: usize = 63;

/// The change stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The file that each change is added to.
    pub file: PathBuf,
    /// The replication slot.
    pub slot: String,
}

impl Changes {
    /// To this file.
    pub fn to(file: PathBuf) -> Changes {
        let slot = SLOT.to_owned();
        Changes { file, slot }
    }

    /// Absent where nothing takes changes.
    pub(crate) fn read(reader: &mut Reader) -> Result<Option<Changes>, ConfigError> {
        let file = reader.optional("changes.file", filled)?;
        let slot = reader.value("changes.slot", SLOT.to_owned(), slot)?;
        Ok(file.map(|file| Changes {
            file: PathBuf::from(file),
            slot,
        }))
    }
}

fn slot(text: &str) -> Result<String, ValueFault> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if text.is_empty() || text.len() > SLOT_BYTES_MAX || !text.bytes().all(is_plain) {
        return Err(ValueFault::Slot);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_name_that_postgresql_takes() {
        for (text, is_taken) in [
            ("sheaf_changes", true),
            ("a9_", true),
            ("", false),
            ("Sheaf", false),
            ("a-b", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(slot(text).is_ok(), is_taken, "{text}");
        }
    }
}
