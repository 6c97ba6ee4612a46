//! Attribute types and their values: what each can hold exactly, and how it is read from JSON and written to it.

use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::decimal::{Decimal, DecimalFault};
use crate::json::{JsonFault, JsonText, string_text};
use crate::limits::Limits;
use crate::refusal::{Refusal, RefusalCode};
use crate::time::{Timestamp, TimestampFault};

/// The type of an attribute. Decided once, when the attribute is declared or first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeType {
    /// Whole numbers of 64 bits, exact.
    Int,
    /// Finite IEEE 754 doubles.
    Float,
    /// Exact decimal numbers of at most 1,000 digits, scale kept.
    Decimal,
    /// Unicode text without NUL.
    Text,
    /// True or false.
    Bool,
    /// Instants in UTC, whole microseconds.
    Time,
    /// Any JSON value but null.
    Json,
}

impl AttributeType {
    /// Every type.
    pub const ALL: [AttributeType; 7] = [
        AttributeType::Int,
        AttributeType::Float,
        AttributeType::Decimal,
        AttributeType::Text,
        AttributeType::Bool,
        AttributeType::Time,
        AttributeType::Json,
    ];

    /// The name of the type in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            AttributeType::Int => "int",
            AttributeType::Float => "float",
            AttributeType::Decimal => "decimal",
            AttributeType::Text => "text",
            AttributeType::Bool => "bool",
            AttributeType::Time => "time",
            AttributeType::Json => "json",
        }
    }

    /// The type with this name.
    pub fn parse(text: &str) -> Option<AttributeType> {
        AttributeType::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// The type that an undeclared attribute takes from its first JSON value; null says nothing.
    pub fn infer(raw: &str) -> Option<AttributeType> {
        match raw.as_bytes().first()? {
            b'"' => Some(AttributeType::Text),
            b't' | b'f' => Some(AttributeType::Bool),
            b'{' | b'[' => Some(AttributeType::Json),
            b'-' | b'0'..=b'9' => Some(AttributeType::Float),
            _ => None,
        }
    }

    /// Whether its values lie in the indexed part of the document when no pin says otherwise.
    /// Numbers that change at telemetry rates stay out of the index.
    pub fn is_hot_by_default(self) -> bool {
        match self {
            AttributeType::Int
            | AttributeType::Text
            | AttributeType::Bool
            | AttributeType::Time
            | AttributeType::Decimal => true,
            AttributeType::Float | AttributeType::Json => false,
        }
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One value of one attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A finite double; never negative zero.
    Float(f64),
    /// An exact decimal.
    Decimal(Decimal),
    /// A text.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// An instant.
    Time(Timestamp),
    /// A JSON value other than null.
    Json(JsonText),
}

// No variant holds a NaN, so that equality is total.
impl Eq for Value {}

impl Value {
    /// The type of this value.
    pub fn kind(&self) -> AttributeType {
        match self {
            Value::Int(_) => AttributeType::Int,
            Value::Float(_) => AttributeType::Float,
            Value::Decimal(_) => AttributeType::Decimal,
            Value::Text(_) => AttributeType::Text,
            Value::Bool(_) => AttributeType::Bool,
            Value::Time(_) => AttributeType::Time,
            Value::Json(_) => AttributeType::Json,
        }
    }

    /// A double, if it is finite; negative zero becomes zero.
    pub fn float(number: f64) -> Option<Value> {
        number
            .is_finite()
            .then_some(Value::Float(if number == 0.0 { 0.0 } else { number }))
    }

    /// Reads a JSON token as a value of this type. `name` only words the refusal.
    pub fn from_json(
        kind: AttributeType,
        name: &str,
        raw: &str,
        limits: &Limits,
    ) -> Result<Value, Refusal> {
        if raw.len() > limits.value_bytes_max {
            let reason = format!(
                "attribute {name}: a value has at most {} bytes",
                limits.value_bytes_max
            );
            return Err(Refusal::new(RefusalCode::ValueTooLarge, reason));
        }
        let first = raw.as_bytes().first().copied().unwrap_or(b' ');
        let is_number = matches!(first, b'-' | b'0'..=b'9');
        match kind {
            AttributeType::Int if is_number => int_from_number(name, raw).map(Value::Int),
            AttributeType::Float if is_number => float_from_number(name, raw).map(Value::Float),
            AttributeType::Decimal if is_number => decimal(name, raw).map(Value::Decimal),
            AttributeType::Decimal if first == b'"' => {
                decimal(name, &text(name, raw)?).map(Value::Decimal)
            }
            AttributeType::Text if first == b'"' => text(name, raw).map(Value::Text),
            AttributeType::Bool if raw == "true" => Ok(Value::Bool(true)),
            AttributeType::Bool if raw == "false" => Ok(Value::Bool(false)),
            AttributeType::Time if first == b'"' => time(name, &text(name, raw)?).map(Value::Time),
            AttributeType::Json => JsonText::parse(raw, limits.json_depth_max)
                .map(Value::Json)
                .map_err(|fault| json_refusal(name, &fault)),
            AttributeType::Int
            | AttributeType::Float
            | AttributeType::Decimal
            | AttributeType::Text
            | AttributeType::Bool
            | AttributeType::Time => Err(Value::mismatch(name, kind, found(raw))),
        }
    }

    /// The refusal of a value that is of another type than its attribute.
    pub fn mismatch(name: &str, kind: AttributeType, got: &str) -> Refusal {
        Refusal::new(
            RefusalCode::TypeMismatch,
            format!("attribute {name} is {kind}, got {got}"),
        )
    }

    /// Reads back the form that documents and events hold. The value was checked on its way in, so that a
    /// text that does not fit is a fault of the database, told as `None`.
    pub fn from_stored(kind: AttributeType, raw: &str) -> Option<Value> {
        match kind {
            AttributeType::Int => raw.parse().ok().map(Value::Int),
            AttributeType::Float => raw.parse().ok().and_then(Value::float),
            AttributeType::Decimal => raw.parse().ok().map(Value::Decimal),
            AttributeType::Text => string_text(raw)
                .ok()
                .map(|text| Value::Text(text.into_owned())),
            AttributeType::Bool => raw.parse().ok().map(Value::Bool),
            AttributeType::Time => {
                let text = string_text(raw).ok()?;
                Timestamp::parse(&text)
                    .ok()
                    .map(|(time, _)| Value::Time(time))
            }
            AttributeType::Json => Some(Value::Json(JsonText::from_stored(raw.to_owned()))),
        }
    }

    /// About how many bytes the value takes where it is stored.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => 12,
            Value::Time(_) => 28,
            Value::Decimal(number) => 8 + number.to_string().len() / 2,
            Value::Text(text) => text.len(),
            Value::Json(json) => json.as_str().len(),
        }
    }

    /// Appends the JSON that documents and events hold: decimals are numbers, times have one sortable form.
    pub fn write_stored(&self, out: &mut String) {
        let written = match self {
            Value::Int(number) => {
                write_number(*number, out);
                Ok(())
            }
            Value::Float(number) => {
                write_number(*number, out);
                Ok(())
            }
            Value::Decimal(number) => write!(out, "{number}"),
            Value::Text(text) => {
                out.push_str(&serde_json::to_string(text).expect("a string is JSON"));
                Ok(())
            }
            Value::Bool(truth) => write!(out, "{truth}"),
            Value::Time(time) => write!(out, "\"{}\"", time.to_sortable()),
            Value::Json(json) => {
                out.push_str(json.as_str());
                Ok(())
            }
        };
        written.expect("writing to a string does not fail");
    }
}

/// Appends a number of 64 bits as JSON spells it, a float by its shortest digits. On the stack, because there are very many:
/// ten of each event, and as many keys.
pub fn write_number(number: impl Serialize, out: &mut String) {
    let mut spelling = [0; 32];
    let mut rest = &mut spelling[..];
    serde_json::to_writer(&mut rest, &number).expect("a number of 64 bits has at most 24 bytes");
    let unused = rest.len();
    let bytes = &spelling[..spelling.len() - unused];
    out.push_str(std::str::from_utf8(bytes).expect("JSON is UTF-8"));
}

/// As users see it: decimals and times are strings, everything else is itself.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Int(number) => to.serialize_i64(*number),
            Value::Float(number) => to.serialize_f64(*number),
            Value::Decimal(number) => to.collect_str(number),
            Value::Text(text) => to.serialize_str(text),
            Value::Bool(truth) => to.serialize_bool(*truth),
            Value::Time(time) => time.serialize(to),
            Value::Json(json) => {
                let raw: &RawValue =
                    serde_json::from_str(json.as_str()).map_err(serde::ser::Error::custom)?;
                raw.serialize(to)
            }
        }
    }
}

/// What a JSON token is, in the words of a refusal.
fn found(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "text",
        Some(b't' | b'f') => "bool",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) | None => "null",
    }
}

fn int_from_number(name: &str, raw: &str) -> Result<i64, Refusal> {
    if let Ok(number) = raw.parse() {
        return Ok(number);
    }
    let exact = decimal(name, raw)?;
    if !exact.is_integer() {
        let reason = format!("attribute {name} is int, got a number with a fraction");
        return Err(Refusal::new(RefusalCode::NumberNotExact, reason));
    }
    exact.to_i64().ok_or_else(|| {
        Refusal::new(
            RefusalCode::OutOfRange,
            format!("attribute {name} is int, of 64 bits"),
        )
    })
}

fn float_from_number(name: &str, raw: &str) -> Result<f64, Refusal> {
    let out_of_range = || {
        Refusal::new(
            RefusalCode::OutOfRange,
            format!("attribute {name} is float, of 64 bits"),
        )
    };
    let number: f64 = raw
        .parse()
        .map_err(|_| Value::mismatch(name, AttributeType::Float, "no number"))?;
    if !number.is_finite() {
        return Err(out_of_range());
    }
    if number == 0.0 {
        // A number too small for a double would come back as zero, which is not what was sent.
        let mantissa = raw.split(['e', 'E']).next().unwrap_or(raw);
        let is_zero = mantissa.bytes().all(|byte| !matches!(byte, b'1'..=b'9'));
        return if is_zero {
            Ok(0.0)
        } else {
            Err(out_of_range())
        };
    }
    if number.abs() >= 9_007_199_254_740_992.0 && !is_held_exactly(raw, number) {
        let reason = format!(
            "attribute {name} is float, which cannot hold this integer exactly; declare int or decimal"
        );
        return Err(Refusal::new(RefusalCode::NumberNotExact, reason));
    }
    Ok(number)
}

/// From 2^53 up every double is whole. An integer must be that very double; one with a point or an exponent may also
/// be what the double prints as, so that `1e23` passes and reads back as it was sent.
fn is_held_exactly(raw: &str, number: f64) -> bool {
    let Ok(sent) = raw.parse::<Decimal>() else {
        return false;
    };
    let is = |printed: String| printed.parse::<Decimal>().is_ok_and(|held| held == sent);
    !sent.is_integer()
        || is(format!("{number:.0}"))
        || (raw.contains(['.', 'e', 'E']) && is(format!("{number:e}")))
}

fn decimal(name: &str, text: &str) -> Result<Decimal, Refusal> {
    text.parse().map_err(|fault| match fault {
        DecimalFault::Malformed => {
            Value::mismatch(name, AttributeType::Decimal, "a text that is no number")
        }
        DecimalFault::TooManyDigits => Refusal::new(
            RefusalCode::OutOfRange,
            format!("attribute {name}: {fault}"),
        ),
    })
}

fn text(name: &str, raw: &str) -> Result<String, Refusal> {
    string_text(raw)
        .map(|text| text.into_owned())
        .map_err(|fault| json_refusal(name, &fault))
}

fn time(name: &str, text: &str) -> Result<Timestamp, Refusal> {
    match Timestamp::parse(text) {
        Ok((time, _)) => Ok(time),
        Err(TimestampFault::Malformed) => Err(Value::mismatch(
            name,
            AttributeType::Time,
            "a text that is no RFC 3339 time",
        )),
        Err(fault @ TimestampFault::OutOfRange) => Err(Refusal::new(
            RefusalCode::OutOfRange,
            format!("attribute {name}: {fault}"),
        )),
    }
}

fn json_refusal(name: &str, fault: &JsonFault) -> Refusal {
    let code = match fault {
        JsonFault::Malformed => RefusalCode::MalformedJson,
        JsonFault::InvalidText => RefusalCode::InvalidText,
        JsonFault::DuplicateKey(_) => RefusalCode::DuplicateKey,
        JsonFault::TooDeep(_) => RefusalCode::ValueTooLarge,
        JsonFault::NumberTooLong => RefusalCode::OutOfRange,
    };
    Refusal::new(code, format!("attribute {name}: {fault}"))
}

#[cfg(test)]
mod tests;
