//! Why a value, an event or a line was not stored. The codes are public and stable.

use std::fmt;

use serde::Serialize;

/// The stable code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "each name is its own documentation; docs/errors explains them to users"
)]
pub enum RefusalCode {
    MalformedJson,
    MalformedLine,
    MissingType,
    MissingId,
    InvalidName,
    ReservedName,
    UnknownAttribute,
    TypeMismatch,
    NumberNotExact,
    OutOfRange,
    InvalidText,
    SchemaViolation,
    TimeOutOfRange,
    TooManyAttributes,
    ValueTooLarge,
    DuplicateKey,
    SeriesConflict,
    QuotaExceeded,
}

impl RefusalCode {
    /// Every code, for documentation and for tests that must cover each.
    pub const ALL: [RefusalCode; 18] = [
        RefusalCode::MalformedJson,
        RefusalCode::MalformedLine,
        RefusalCode::MissingType,
        RefusalCode::MissingId,
        RefusalCode::InvalidName,
        RefusalCode::ReservedName,
        RefusalCode::UnknownAttribute,
        RefusalCode::TypeMismatch,
        RefusalCode::NumberNotExact,
        RefusalCode::OutOfRange,
        RefusalCode::InvalidText,
        RefusalCode::SchemaViolation,
        RefusalCode::TimeOutOfRange,
        RefusalCode::TooManyAttributes,
        RefusalCode::ValueTooLarge,
        RefusalCode::DuplicateKey,
        RefusalCode::SeriesConflict,
        RefusalCode::QuotaExceeded,
    ];

    /// The code as it is sent and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::MalformedJson => "malformed_json",
            RefusalCode::MalformedLine => "malformed_line",
            RefusalCode::MissingType => "missing_type",
            RefusalCode::MissingId => "missing_id",
            RefusalCode::InvalidName => "invalid_name",
            RefusalCode::ReservedName => "reserved_name",
            RefusalCode::UnknownAttribute => "unknown_attribute",
            RefusalCode::TypeMismatch => "type_mismatch",
            RefusalCode::NumberNotExact => "number_not_exact",
            RefusalCode::OutOfRange => "out_of_range",
            RefusalCode::InvalidText => "invalid_text",
            RefusalCode::SchemaViolation => "schema_violation",
            RefusalCode::TimeOutOfRange => "time_out_of_range",
            RefusalCode::TooManyAttributes => "too_many_attributes",
            RefusalCode::ValueTooLarge => "value_too_large",
            RefusalCode::DuplicateKey => "duplicate_key",
            RefusalCode::SeriesConflict => "series_conflict",
            RefusalCode::QuotaExceeded => "quota_exceeded",
        }
    }

    /// The code with this name.
    pub fn parse(text: &str) -> Option<RefusalCode> {
        RefusalCode::ALL
            .into_iter()
            .find(|code| code.as_str() == text)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refusal: a code for programs and a sentence for people. The sentence quotes at most 64 bytes of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of fault it was.
    pub code: RefusalCode,
    /// The sentence.
    pub reason: String,
}

impl Refusal {
    /// A refusal with this code and sentence.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Refusal {
        Refusal {
            code,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_name_in_text_and_in_json() {
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::parse(code.as_str()), Some(code));
            let json = serde_json::to_string(&code).expect("a code is a string");
            assert_eq!(json, format!("\"{code}\""));
        }
    }
}
