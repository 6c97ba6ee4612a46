//! Names of attributes, entity types and tenants, and the ids of entities: one canonical spelling, decided at the edge.

use std::borrow::Cow;
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
const ID_BYTES_MAX: usize = 512;

impl Name {
    /// Normalises and checks.
    pub fn parse(text: &str) -> Result<Name, NameFault> {
        if text.is_empty() {
            return Err(NameFault::Empty);
        }
        let name = normal_form(text, BYTES_MAX).ok_or(NameFault::TooLong)?;
        if name.chars().any(char::is_control) {
            return Err(NameFault::Control);
        }
        Ok(Name(name.into_owned()))
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

/// Why a text is no entity's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExternalIdFault {
    /// Nothing there.
    #[error("an id is 1 to 512 bytes, got none")]
    Empty,
    /// More than 512 bytes in normal form C.
    #[error("an id is 1 to 512 bytes, got more")]
    TooLong,
    /// A control character, which logs and terminals would act on.
    #[error("an id holds no control characters")]
    Control,
}

/// An entity's id in Unicode normal form C: 1 to 512 bytes, no control characters; case counts.
pub fn external_id(text: &str) -> Result<Cow<'_, str>, ExternalIdFault> {
    if text.is_empty() {
        return Err(ExternalIdFault::Empty);
    }
    let id = normal_form(text, ID_BYTES_MAX).ok_or(ExternalIdFault::TooLong)?;
    if id.chars().any(char::is_control) {
        return Err(ExternalIdFault::Control);
    }
    Ok(id)
}

/// The text in normal form C; nothing where that has more bytes than this.
fn normal_form(text: &str, bytes_max: usize) -> Option<Cow<'_, str>> {
    // No text shrinks to less than a third in normal form C; a longer one is refused unread.
    if text.len() > 3 * bytes_max {
        return None;
    }
    let normal = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    };
    (normal.len() <= bytes_max).then_some(normal)
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

    #[test]
    fn an_id_has_one_spelling_and_bounds() {
        assert_eq!(external_id("cafe\u{301}/1").as_deref(), Ok("caf\u{e9}/1"));
        // Each of these is three bytes long, and one as the letter K.
        let kelvins = "\u{212a}".repeat(512);
        assert_eq!(external_id(&kelvins).as_deref(), Ok(&*"K".repeat(512)));
        assert_eq!(external_id(""), Err(ExternalIdFault::Empty));
        for too_long in ["x".repeat(513), "x".repeat(1537)] {
            assert_eq!(external_id(&too_long), Err(ExternalIdFault::TooLong));
        }
        for control in ["a\0", "a\u{85}b"] {
            assert_eq!(external_id(control), Err(ExternalIdFault::Control));
        }
    }
}
