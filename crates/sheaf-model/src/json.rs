//! JSON as it arrives: exact digits, no duplicate keys, bounded depth.
//!
//! Text is cut with `serde_json`'s raw values, so that a number is never read through a double on its way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::decimal::Decimal;

/// Why a text is not JSON that sheaf keeps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Not JSON at all.
    #[error("not valid JSON")]
    Malformed,
    /// A string with `\u0000` or half a surrogate pair, which PostgreSQL cannot hold.
    #[error("a string holds \\u0000 or a lone surrogate")]
    InvalidText,
    /// The same key twice in one object: which value counts is not for us to guess.
    #[error("the key {0:?} stands twice in one object")]
    DuplicateKey(String),
    /// Nested deeper than the bound.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// A number of more than 1,000 digits when written out.
    #[error("a number has more than 1000 digits when written out")]
    NumberTooLong,
}

/// The members of a JSON object in their order, values untouched. Duplicate keys are the caller's to judge.
pub fn object_members(raw: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, JsonFault> {
    let members: Members<'_> = serde_json::from_str(raw).map_err(|_| fault_of(raw))?;
    Ok(members.0)
}

/// The text of a JSON string token.
pub fn string_text(raw: &str) -> Result<Cow<'_, str>, JsonFault> {
    let Key(text) = serde_json::from_str(raw).map_err(|_| fault_of(raw))?;
    if text.contains('\0') {
        return Err(JsonFault::InvalidText);
    }
    Ok(text)
}

/// What is cut as one JSON value and still cannot be read holds half a surrogate pair: the cutting checks the rest.
fn fault_of(raw: &str) -> JsonFault {
    match serde_json::from_str::<&RawValue>(raw) {
        Ok(_) => JsonFault::InvalidText,
        Err(_) => JsonFault::Malformed,
    }
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Objects;
        impl<'de> Visitor<'de> for Objects {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Objects)
    }
}

/// A string that borrows where it holds no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Strings)
    }
}

/// A JSON value as it was sent, known to be one that PostgreSQL and every reader can hold.
///
/// Two are equal when they are the same value: order of keys, white space and trailing zeros do not count.
#[derive(Debug, Clone)]
pub struct JsonText(String);

impl JsonText {
    /// Checks a JSON text.
    pub fn parse(raw: &str, depth_max: usize) -> Result<JsonText, JsonFault> {
        canonical(raw, depth_max)?;
        Ok(JsonText(raw.to_owned()))
    }

    /// A text that the database gave back, which was checked on its way in.
    pub fn from_stored(raw: String) -> JsonText {
        JsonText(raw)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &JsonText) -> bool {
        // What was stored has passed the check, so that both canonical forms exist.
        self.0 == other.0
            || matches!(
                (canonical(&self.0, usize::MAX), canonical(&other.0, usize::MAX)),
                (Ok(one), Ok(two)) if one == two
            )
    }
}

impl Eq for JsonText {}

/// One text for all spellings of one value: keys sorted, numbers normalised, no white space.
fn canonical(raw: &str, depth_max: usize) -> Result<String, JsonFault> {
    let mut out = String::with_capacity(raw.len());
    write_canonical(raw, depth_max, depth_max, &mut out)?;
    Ok(out)
}

fn write_canonical(
    raw: &str,
    depth: usize,
    depth_max: usize,
    out: &mut String,
) -> Result<(), JsonFault> {
    let raw = raw.trim_matches([' ', '\t', '\n', '\r']);
    match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth == 0 => Err(JsonFault::TooDeep(depth_max)),
        Some(b'{') => {
            let mut members = object_members(raw)?;
            members.sort_by(|one, two| one.0.cmp(&two.0));
            if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(JsonFault::DuplicateKey(pair[0].0.to_string()));
            }
            out.push('{');
            for (place, (key, value)) in members.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_string(key, out)?;
                out.push(':');
                write_canonical(value.get(), depth - 1, depth_max, out)?;
            }
            out.push('}');
            Ok(())
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| fault_of(raw))?;
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_canonical(item.get(), depth - 1, depth_max, out)?;
            }
            out.push(']');
            Ok(())
        }
        Some(b'"') => write_string(&string_text(raw)?, out),
        Some(b'-' | b'0'..=b'9') => {
            let number: Decimal = raw.parse().map_err(|fault| match fault {
                crate::DecimalFault::Malformed => JsonFault::Malformed,
                crate::DecimalFault::TooManyDigits => JsonFault::NumberTooLong,
            })?;
            out.push_str(&number.normalized_text());
            Ok(())
        }
        Some(_) if matches!(raw, "true" | "false" | "null") => {
            out.push_str(raw);
            Ok(())
        }
        Some(_) | None => Err(JsonFault::Malformed),
    }
}

fn write_string(text: &str, out: &mut String) -> Result<(), JsonFault> {
    if text.contains('\0') {
        return Err(JsonFault::InvalidText);
    }
    out.push_str(&serde_json::to_string(text).expect("a string is JSON"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<JsonText, JsonFault> {
        JsonText::parse(raw, 32)
    }

    #[test]
    fn one_value_in_two_spellings_is_equal_and_a_near_miss_is_not() {
        let one = parse(r#"{"b":[1.50,"x"],"a":9007199254740993}"#).expect("valid");
        assert_eq!(
            one,
            parse(r#"{ "a" : 9007199254740993, "b":[15e-1,"\u0078"] }"#).expect("valid")
        );
        assert_ne!(
            one,
            parse(r#"{"b":[1.50,"x"],"a":9007199254740992}"#).expect("valid")
        );
    }

    #[test]
    fn hostile_json_is_refused_by_name() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let faults = [
            (deep.as_str(), JsonFault::TooDeep(32)),
            (r#"{"a":1,"a":2}"#, JsonFault::DuplicateKey("a".into())),
            (r#"["\u0000"]"#, JsonFault::InvalidText),
            (r#"["\ud800"]"#, JsonFault::InvalidText),
            ("[1e131000]", JsonFault::NumberTooLong),
            ("[1,]", JsonFault::Malformed),
            ("[01]", JsonFault::Malformed),
            ("", JsonFault::Malformed),
            ("nul", JsonFault::Malformed),
        ];
        for (raw, fault) in faults {
            assert_eq!(parse(raw).err(), Some(fault), "{:.40}", raw);
        }
    }
}
