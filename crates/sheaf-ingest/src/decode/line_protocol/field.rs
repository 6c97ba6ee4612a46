//! Values of fields: int `3i`, unsigned `3u`, float, bool, string.

use std::borrow::Cow;

use sheaf_model::{AttributeType, Decimal, Limits, Refusal, RefusalCode, Value};

use super::parts::{LineFault, STRING_ESCAPES, Token};

/// Reads the value of a field. What is no value at all makes the line none; a value that cannot be held is refused alone.
pub(super) fn field_value(
    name: &str,
    token: Token<'_>,
    limits: &Limits,
) -> Result<Result<Value, Refusal>, LineFault> {
    match token.bytes {
        [b'"', .., b'"'] => Ok(text(name, token, limits).map(Value::Text)),
        [b'0'..=b'9' | b'-' | b'.' | b'N' | b'n', ..] => number(name, token.bytes, limits),
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Ok(Ok(Value::Bool(true))),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Ok(Ok(Value::Bool(false))),
        _ => Err(LineFault::InvalidBoolean),
    }
}

fn text(name: &str, token: Token<'_>, limits: &Limits) -> Result<String, Refusal> {
    let inner = Token {
        bytes: &token.bytes[1..token.bytes.len() - 1],
        ..token
    };
    check_size(name, inner.bytes.len(), limits)?;
    match inner.text(STRING_ESCAPES) {
        Some(text) if !text.contains('\0') => Ok(text.into_owned()),
        Some(_) | None => {
            let reason = format!("field {name} holds NUL or is not valid UTF-8");
            Err(Refusal::new(RefusalCode::InvalidText, reason))
        }
    }
}

/// Refuses a value that is longer than any may be.
pub(super) fn check_size(name: &str, bytes: usize, limits: &Limits) -> Result<(), Refusal> {
    if bytes <= limits.value_bytes_max {
        return Ok(());
    }
    let reason = format!(
        "{name}: a value has at most {} bytes",
        limits.value_bytes_max
    );
    Err(Refusal::new(RefusalCode::ValueTooLarge, reason))
}

fn number(name: &str, bytes: &[u8], limits: &Limits) -> Result<Result<Value, Refusal>, LineFault> {
    let text = std::str::from_utf8(bytes).map_err(|_| LineFault::InvalidNumber)?;
    let out_of_range = |suffix: char| {
        let reason =
            format!("field {name} is int, of 64 bits with a sign; its {suffix} value is not");
        Refusal::new(RefusalCode::OutOfRange, reason)
    };
    if let Some(digits) = text.strip_suffix('i') {
        if !is_digits(digits.strip_prefix('-').unwrap_or(digits)) {
            return Err(LineFault::InvalidNumber);
        }
        return Ok(digits
            .parse()
            .map(Value::Int)
            .map_err(|_| out_of_range('i')));
    }
    if let Some(digits) = text.strip_suffix('u') {
        if !is_digits(digits) {
            return Err(LineFault::InvalidNumber);
        }
        return Ok(digits
            .parse()
            .map(Value::Int)
            .map_err(|_| out_of_range('u')));
    }
    // What Rust reads and InfluxDB does not: names of numbers that are none.
    let is_written_out = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'));
    if !is_written_out || text.parse::<f64>().is_err() {
        return Err(LineFault::InvalidNumber);
    }
    Ok(float(name, &json_spelling(text), limits))
}

/// One rule for all floats: refused where a double would be another number than the one sent. Here every float was a
/// double before it was written, so that both spellings of a large one count: its exact digits, and its shortest ones
/// filled up with zeros, `18446744073709552000`.
fn float(name: &str, text: &str, limits: &Limits) -> Result<Value, Refusal> {
    let read = Value::from_json(AttributeType::Float, name, text, limits);
    let is_inexact = matches!(&read, Err(refusal) if refusal.code == RefusalCode::NumberNotExact);
    if !is_inexact {
        return read;
    }
    let (Ok(double), Ok(sent)) = (text.parse::<f64>(), text.parse::<Decimal>()) else {
        return read;
    };
    let is_spelling = |spelling: String| spelling.parse::<Decimal>().is_ok_and(|held| held == sent);
    if is_spelling(format!("{double:e}")) || is_spelling(format!("{double:.0}")) {
        return Ok(Value::Float(double));
    }
    read
}

/// The number as JSON spells it, which InfluxDB does not insist on: `.5`, `1.` and `007` are numbers too.
fn json_spelling(text: &str) -> Cow<'_, str> {
    let digits_end = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (sign, number) = text.split_at(usize::from(text.starts_with('-')));
    let (whole, rest) = number.split_at(digits_end(number));
    let fraction = rest.strip_prefix('.').map(|rest| &rest[..digits_end(rest)]);
    let is_padded = whole.len() > 1 && whole.starts_with('0');
    if !whole.is_empty() && !is_padded && fraction != Some("") {
        return Cow::Borrowed(text);
    }
    let exponent = &rest[fraction.map_or(0, |digits| 1 + digits.len())..];
    let or_zero = |digits: &str| {
        if digits.is_empty() {
            "0".to_owned()
        } else {
            digits.to_owned()
        }
    };
    let whole = or_zero(whole.trim_start_matches('0'));
    let fraction = or_zero(fraction.unwrap_or(""));
    Cow::Owned(format!("{sign}{whole}.{fraction}{exponent}"))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
