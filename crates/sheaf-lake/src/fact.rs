//! Facts: one value of one attribute of one event, typed.

use sheaf_model::{AttributeId, AttributeType, Decimal, Value, object_members};

use crate::schema::{DECIMAL_DIGITS, DECIMAL_PLACES};

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventFault {
    /// Its attributes are not in the form in which they are stored.
    #[error("the attributes are no object of numbers")]
    Attributes,
    /// The catalogue lacks an attribute of it.
    #[error("attribute {0} is not in the catalogue")]
    UnknownAttribute(AttributeId),
    /// A value is none of its attribute's type.
    #[error("the value of attribute {0} is none of its type")]
    Value(AttributeId),
}

/// What a row of `facts` says of its attribute. Small: a commit holds a million of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// There is no attribute: the row is about the event.
    Event,
    /// The attribute has no value from here on.
    Removed,
    Int(i64),
    Float(f64),
    /// In units of the last place.
    Decimal(Box<i128>),
    /// The same of one that was written with zeros at its end, and how: its scale is kept.
    WrittenDecimal(Box<(i128, Box<str>)>),
    /// A decimal that does not fit.
    LongDecimal(Box<str>),
    Text(Box<str>),
    Bool(bool),
    /// In microseconds.
    Time(i64),
    Json(Box<str>),
}

impl Cell {
    /// Bytes that it has beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Cell::Text(text) | Cell::LongDecimal(text) | Cell::Json(text) => text.len(),
            Cell::Decimal(_) => size_of::<i128>(),
            Cell::WrittenDecimal(written) => size_of::<(i128, Box<str>)>() + written.1.len(),
            Cell::Event
            | Cell::Removed
            | Cell::Int(_)
            | Cell::Float(_)
            | Cell::Bool(_)
            | Cell::Time(_) => 0,
        }
    }
}

/// Reads the attributes of an event.
pub(crate) fn read_cells(
    attrs: &str,
    kind_of: impl Fn(AttributeId) -> Option<AttributeType>,
    mut each: impl FnMut(AttributeId, Cell),
) -> Result<(), EventFault> {
    for (key, raw) in object_members(attrs).map_err(|_| EventFault::Attributes)? {
        let id = AttributeId(key.parse().map_err(|_| EventFault::Attributes)?);
        let kind = kind_of(id).ok_or(EventFault::UnknownAttribute(id))?;
        let cell = match raw.get() {
            "null" => Cell::Removed,
            raw => cell(Value::from_stored(kind, raw).ok_or(EventFault::Value(id))?),
        };
        each(id, cell);
    }
    Ok(())
}

/// The numbers of the attributes of an event.
pub(crate) fn attributes_of(attrs: &str) -> Result<Vec<AttributeId>, EventFault> {
    let members = object_members(attrs).map_err(|_| EventFault::Attributes)?;
    let ids = members.iter().map(|(key, _)| key.parse().map(AttributeId));
    ids.collect::<Result<_, _>>()
        .map_err(|_| EventFault::Attributes)
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Int(number) => Cell::Int(number),
        Value::Float(number) => Cell::Float(number),
        Value::Decimal(number) => decimal(&number),
        Value::Text(text) => Cell::Text(text.into()),
        Value::Bool(is_true) => Cell::Bool(is_true),
        Value::Time(time) => Cell::Time(time.as_micros()),
        Value::Json(json) => Cell::Json(json.as_str().into()),
    }
}

/// Nothing is rounded: what does not fit is kept as it is written. Nor is anything else of it lost: a number of units has no
/// zeros at its end, and what has them is kept as it is written too.
fn decimal(number: &Decimal) -> Cell {
    let text = number.to_string();
    match units(&text) {
        Some(units) if decimal_text(units) == text => Cell::Decimal(Box::new(units)),
        Some(units) => Cell::WrittenDecimal(Box::new((units, text.into()))),
        None => Cell::LongDecimal(text.into()),
    }
}

/// How a number of units is written, without zeros at its end.
pub(crate) fn decimal_text(units: i128) -> String {
    let one = 10u128.pow(DECIMAL_PLACES);
    let (whole, fraction) = (units.unsigned_abs() / one, units.unsigned_abs() % one);
    let sign = if units < 0 { "-" } else { "" };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let places = usize::try_from(DECIMAL_PLACES).expect("invariant: 12 fits");
    let fraction = format!("{fraction:0places$}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

/// A number without exponent in units of the last place, if it fits exactly.
fn units(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let places = usize::try_from(DECIMAL_PLACES).ok()?;
    if fraction.len() > places {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let padded = format!("{fraction:0<places$}");
    let units = whole.checked_mul(10i128.pow(DECIMAL_PLACES))?;
    let units = units.checked_add(padded.parse().ok()?)?;
    let fits = units < 10i128.pow(DECIMAL_DIGITS);
    fits.then_some(if is_negative { -units } else { units })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_written_as_what_they_were_read_from_but_for_zeros_at_the_end() {
        for text in ["0", "12.5", "-12.5", "-0.000000000001", "100", "-7"] {
            assert_eq!(decimal_text(units(text).expect(text)), text);
        }
        for (text, written) in [("0.00", "0"), ("12.50", "12.5"), ("-100.0", "-100")] {
            assert_eq!(decimal_text(units(text).expect(text)), written);
        }
    }

    #[test]
    fn values_are_read_by_the_type_of_their_attribute_and_none_is_rounded() {
        let kinds = [
            (1, AttributeType::Int),
            (2, AttributeType::Float),
            (3, AttributeType::Decimal),
            (4, AttributeType::Text),
            (5, AttributeType::Bool),
            (6, AttributeType::Time),
            (7, AttributeType::Json),
        ];
        let kind_of = |id: AttributeId| kinds.iter().find(|(n, _)| *n == id.0).map(|kind| kind.1);
        let long = format!("1{}", "0".repeat(26));
        let exact = format!("0.{}1", "0".repeat(12));
        for (attrs, wanted) in [
            ("{}", vec![]),
            (r#"{"1":9223372036854775807}"#, vec![Cell::Int(i64::MAX)]),
            (r#"{"2":12.25}"#, vec![Cell::Float(12.25)]),
            (
                r#"{"3":12.5}"#,
                vec![Cell::Decimal(Box::new(12_500_000_000_000))],
            ),
            (
                r#"{"3":12.50}"#,
                vec![Cell::WrittenDecimal(Box::new((
                    12_500_000_000_000,
                    "12.50".into(),
                )))],
            ),
            (
                r#"{"3":-0.000000000001}"#,
                vec![Cell::Decimal(Box::new(-1))],
            ),
            (
                &format!(r#"{{"3":{long}}}"#),
                vec![Cell::LongDecimal(long.clone().into())],
            ),
            (
                &format!(r#"{{"3":{exact}}}"#),
                vec![Cell::LongDecimal(exact.clone().into())],
            ),
            (r#"{"4":"a\u0041"}"#, vec![Cell::Text("aA".into())]),
            (
                r#"{"5":true,"1":null}"#,
                vec![Cell::Bool(true), Cell::Removed],
            ),
            (
                r#"{"6":"1970-01-01T00:00:01Z"}"#,
                vec![Cell::Time(1_000_000)],
            ),
            (
                r#"{"7":{"a":[1,null]}}"#,
                vec![Cell::Json(r#"{"a":[1,null]}"#.into())],
            ),
        ] {
            let mut cells = Vec::new();
            read_cells(attrs, kind_of, |_, cell| cells.push(cell)).expect(attrs);
            assert_eq!(cells, wanted, "{attrs}");
        }
        for (attrs, wanted) in [
            ("[]", EventFault::Attributes),
            (r#"{"x":1}"#, EventFault::Attributes),
            (r#"{"8":1}"#, EventFault::UnknownAttribute(AttributeId(8))),
            (r#"{"1":"x"}"#, EventFault::Value(AttributeId(1))),
        ] {
            assert_eq!(
                read_cells(attrs, kind_of, |_, _| ()),
                Err(wanted),
                "{attrs}"
            );
        }
    }
}
