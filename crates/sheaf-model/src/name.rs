//! Names of attributes, entity types and tenants: one canonical spelling, decided at the edge.

use std::fmt;

use serde::{Serialize, Serializer};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// A name in Unicode normal form C: 1 to 255 bytes, no control characters; case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing there.
    #[error("a name is 1 to 255 bytes, got none")]
    Empty,
    /// More than 255 bytes in normal form C.
    #[error("a name is 1 to 255 bytes, got more")]
    TooLong,
    /// A control character, which logs and terminals would act on.
    #[error("a name holds no control characters")]
    Control,
}

const BYTES_MAX: usize = 255;

impl Name {
    /// Normalises and checks.
    pub fn parse(text: &str) -> Result<Name, NameFault> {
        if text.is_empty() {
            return Err(NameFault::Empty);
        }
        // Normal form C is at most three times as long as its source; a longer source is refused unread.
        if text.len() > 3 * BYTES_MAX {
            return Err(NameFault::TooLong);
        }
        let name: String = match is_nfc_quick(text.chars()) {
            IsNormalized::Yes => text.to_owned(),
            IsNormalized::No | IsNormalized::Maybe => text.nfc().collect(),
        };
        if name.len() > BYTES_MAX {
            return Err(NameFault::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(NameFault::Control);
        }
        Ok(Name(name))
    }

    /// The name as it is stored and shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text of the name.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Names that mean the entity itself in filters, sorts and selects, and so cannot name an attribute.
pub fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "entity_type" | "external_id" | "observed_at" | "updated_at"
    )
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_and_decomposed_spellings_are_one_name() {
        assert_eq!(Name::parse("e\u{301}"), Name::parse("\u{e9}"));
        // The Kelvin sign is the letter K in normal form C.
        assert_eq!(Name::parse("\u{212a}"), Name::parse("K"));
        assert_ne!(Name::parse("k"), Name::parse("K"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(Name::parse(""), Err(NameFault::Empty));
        assert_eq!(Name::parse(&"x".repeat(256)), Err(NameFault::TooLong));
        assert_eq!(Name::parse("a\nb"), Err(NameFault::Control));
        assert_eq!(Name::parse("a\0b"), Err(NameFault::Control));
        assert!(Name::parse(&"x".repeat(255)).is_ok());
    }
}
