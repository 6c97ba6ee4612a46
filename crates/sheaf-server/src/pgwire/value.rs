//! Values in PostgreSQL's types, as text and in binary form. Pure.

use sheaf_export::{Cell, ColumnKind};
use sheaf_lake::analytics::Param;
use sheaf_model::{AttributeType, Timestamp, Value};
use uuid::Uuid;

use super::fault::{FEATURE_NOT_SUPPORTED, Fault};
use super::message::Form;
use super::numeric::{read_numeric, write_numeric};

/// A type by the number that PostgreSQL gives it, which clients know.
pub(super) const BOOL: u32 = 16;
pub(super) const INT8: u32 = 20;
pub(super) const TEXT: u32 = 25;
pub(super) const FLOAT8: u32 = 701;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const NUMERIC: u32 = 1700;
pub(super) const JSONB: u32 = 3802;
const NAME: u32 = 19;
const INT2: u32 = 21;
const INT4: u32 = 23;
const JSON: u32 = 114;
const FLOAT4: u32 = 700;
const UNKNOWN: u32 = 705;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const UUID: u32 = 2950;

/// PostgreSQL counts times from 2000-01-01, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// The type of a column.
pub(super) fn oid_of(kind: ColumnKind) -> u32 {
    match kind {
        ColumnKind::WideInt => NUMERIC,
        ColumnKind::Of(kind) => match kind {
            AttributeType::Int => INT8,
            AttributeType::Float => FLOAT8,
            AttributeType::Decimal => NUMERIC,
            AttributeType::Text => TEXT,
            AttributeType::Bool => BOOL,
            AttributeType::Time => TIMESTAMPTZ,
            AttributeType::Json => JSONB,
        },
    }
}

/// What the type is called, and how many bytes a value of it has; below zero where they differ.
pub(super) fn name_of(kind: ColumnKind) -> (&'static str, &'static str, i16) {
    match oid_of(kind) {
        INT8 => ("int8", "bigint", 8),
        FLOAT8 => ("float8", "double precision", 8),
        NUMERIC => ("numeric", "numeric", -1),
        BOOL => ("bool", "boolean", 1),
        TIMESTAMPTZ => ("timestamptz", "timestamp with time zone", 8),
        JSONB => ("jsonb", "jsonb", -1),
        _ => ("text", "text", -1),
    }
}

/// A cell that is not what its column was said to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit;

/// Writes a cell; says whether there is a value.
pub(super) fn write_cell(
    kind: ColumnKind,
    form: Form,
    cell: &Cell,
    out: &mut Vec<u8>,
) -> Result<bool, Misfit> {
    if *cell == Cell::Absent {
        return Ok(false);
    }
    match (form, oid_of(kind), cell) {
        (_, TEXT, cell) | (Form::Text, _, cell) => write_text(cell, out),
        (Form::Binary, INT8, Cell::Value(Value::Int(number))) => out.extend(number.to_be_bytes()),
        (Form::Binary, FLOAT8, Cell::Value(Value::Float(number))) => {
            out.extend(number.to_bits().to_be_bytes());
        }
        (Form::Binary, BOOL, Cell::Value(Value::Bool(is_true))) => out.push(u8::from(*is_true)),
        (Form::Binary, TIMESTAMPTZ, Cell::Value(Value::Time(time))) => {
            out.extend((time.as_micros() - EPOCH_MICROS).to_be_bytes());
        }
        (Form::Binary, JSONB, Cell::Value(Value::Json(json))) => {
            // The version of its form.
            out.push(1);
            out.extend(json.as_str().bytes());
        }
        (Form::Binary, NUMERIC, Cell::Digits(digits)) => {
            write_numeric(digits, out).ok_or(Misfit)?
        }
        (Form::Binary, NUMERIC, Cell::Value(Value::Decimal(number))) => {
            write_numeric(&number.to_string(), out).ok_or(Misfit)?;
        }
        (Form::Binary, NUMERIC, Cell::Value(Value::Int(number))) => {
            write_numeric(&number.to_string(), out).ok_or(Misfit)?;
        }
        (Form::Binary, ..) => return Err(Misfit),
    }
    Ok(true)
}

fn write_text(cell: &Cell, out: &mut Vec<u8>) {
    match cell {
        Cell::Absent => {}
        Cell::Digits(digits) => out.extend(digits.bytes()),
        Cell::Value(value) => match value {
            Value::Int(number) => out.extend(number.to_string().bytes()),
            Value::Float(number) => out.extend(float_text(*number).bytes()),
            Value::Decimal(number) => out.extend(number.to_string().bytes()),
            Value::Text(text) => out.extend(text.bytes()),
            Value::Bool(is_true) => out.push(if *is_true { b't' } else { b'f' }),
            Value::Time(time) => out.extend(time_text(*time).bytes()),
            Value::Json(json) => out.extend(json.as_str().bytes()),
        },
    }
}

/// Every digit that tells it from its neighbours, and no more zeros than a person counts.
fn float_text(number: f64) -> String {
    match number == 0.0 || (1e-5..1e15).contains(&number.abs()) {
        true => number.to_string(),
        false => format!("{number:e}"),
    }
}

/// As PostgreSQL writes it in UTC.
fn time_text(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{}+00", text.trim_end_matches('Z').replacen('T', " ", 1))
}

/// Reads the value of a parameter, of a type that the client or we have said it has.
pub(super) fn read_param(
    number: usize,
    oid: u32,
    form: Form,
    bytes: Option<&[u8]>,
) -> Result<Param, Fault> {
    let Some(bytes) = bytes else {
        return Ok(Param::Null);
    };
    let read = match form {
        Form::Text => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| of_text(oid, text)),
        Form::Binary if is_known(oid) => of_binary(oid, bytes),
        Form::Binary => {
            let message = format!("parameter ${number}: type {oid} is not served in binary form");
            return Err(Fault::error(FEATURE_NOT_SUPPORTED, message));
        }
    };
    read.ok_or_else(|| {
        let message = format!("parameter ${number}: no value of its type that a question can hold");
        Fault::error("22P02", message)
    })
}

fn is_known(oid: u32) -> bool {
    [
        0,
        BOOL,
        NAME,
        INT8,
        INT2,
        INT4,
        TEXT,
        JSON,
        FLOAT4,
        FLOAT8,
        UNKNOWN,
        BPCHAR,
        VARCHAR,
        DATE,
        TIMESTAMP,
        TIMESTAMPTZ,
        NUMERIC,
        UUID,
        JSONB,
    ]
    .contains(&oid)
}

fn of_text(oid: u32, text: &str) -> Option<Param> {
    let is_plain = |text: &str| text.bytes().any(|byte| byte.is_ascii_digit());
    match oid {
        BOOL => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => Some(Param::Bool(true)),
            "f" | "false" | "off" | "no" | "n" | "0" => Some(Param::Bool(false)),
            _ => None,
        },
        // What is no number, such as NaN and infinity, no attribute can hold.
        INT2 | INT4 | INT8 | FLOAT4 | FLOAT8 | NUMERIC => {
            is_plain(text).then(|| Param::Number(text.trim().to_owned()))
        }
        DATE | TIMESTAMP | TIMESTAMPTZ => rfc3339(text.trim()).map(Param::Text),
        _ => Some(Param::Text(text.to_owned())),
    }
}

/// PostgreSQL's form of a time as RFC 3339 has it. Without an offset it is in UTC, as everything here.
fn rfc3339(text: &str) -> Option<String> {
    if let Ok(day) = Timestamp::parse_date(text) {
        return Some(day.to_string());
    }
    let (date, time) = text.split_once([' ', 'T', 't'])?;
    let zone = time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let zone = match (zone.get(1..), zone.len()) {
        (None, _) | (_, 1) => "Z".to_owned(),
        (_, 3) => format!("{zone}:00"),
        (_, 5) => format!("{}:{}", &zone[..3], &zone[3..]),
        _ => zone.to_owned(),
    };
    let (time, _) = Timestamp::parse(&format!("{date}T{}{zone}", time.trim())).ok()?;
    Some(time.to_string())
}

fn of_binary(oid: u32, bytes: &[u8]) -> Option<Param> {
    let int = |number: i64| Some(Param::Number(number.to_string()));
    let float = |number: f64| {
        number
            .is_finite()
            .then(|| Param::Number(format!("{number:?}")))
    };
    let time = |micros: i64| {
        let time = Timestamp::from_micros(micros.checked_add(EPOCH_MICROS)?).ok()?;
        Some(Param::Text(time.to_string()))
    };
    match oid {
        BOOL => match bytes {
            [0] => Some(Param::Bool(false)),
            [1] => Some(Param::Bool(true)),
            _ => None,
        },
        INT2 => int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        INT4 => int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        INT8 => int(i64::from_be_bytes(bytes.try_into().ok()?)),
        // Through its own digits: as a double it would have others.
        FLOAT4 => {
            let number = f32::from_be_bytes(bytes.try_into().ok()?);
            number
                .is_finite()
                .then(|| Param::Number(format!("{number:?}")))
        }
        FLOAT8 => float(f64::from_be_bytes(bytes.try_into().ok()?)),
        NUMERIC => read_numeric(bytes).map(Param::Number),
        TIMESTAMP | TIMESTAMPTZ => time(i64::from_be_bytes(bytes.try_into().ok()?)),
        DATE => {
            let days: i64 = i32::from_be_bytes(bytes.try_into().ok()?).into();
            time(days.checked_mul(DAY_MICROS)?)
        }
        UUID => Some(Param::Text(Uuid::from_slice(bytes).ok()?.to_string())),
        JSONB => {
            let (version, text) = bytes.split_first()?;
            (*version == 1).then_some(())?;
            Some(Param::Text(std::str::from_utf8(text).ok()?.to_owned()))
        }
        _ => Some(Param::Text(std::str::from_utf8(bytes).ok()?.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::JsonText;

    use super::*;

    fn written(kind: ColumnKind, form: Form, cell: &Cell) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let is_there = write_cell(kind, form, cell, &mut out).ok()?;
        is_there.then_some(out)
    }

    #[test]
    fn cells_are_written_as_postgresql_writes_them() {
        let of = ColumnKind::Of;
        let time = Timestamp::parse("2013-01-01T10:00:00.25Z").expect("a time");
        let json = JsonText::from_stored("[1]".to_owned());
        for (kind, value, text, binary) in [
            (
                AttributeType::Int,
                Value::Int(-2),
                "-2",
                (-2i64).to_be_bytes().to_vec(),
            ),
            (
                AttributeType::Float,
                Value::Float(149.0),
                "149",
                149f64.to_be_bytes().to_vec(),
            ),
            (
                AttributeType::Float,
                Value::Float(1e300),
                "1e300",
                1e300f64.to_be_bytes().to_vec(),
            ),
            (AttributeType::Bool, Value::Bool(true), "t", vec![1]),
            (
                AttributeType::Time,
                Value::Time(time.0),
                "2013-01-01 10:00:00.25+00",
                (time.0.as_micros() - EPOCH_MICROS).to_be_bytes().to_vec(),
            ),
            (
                AttributeType::Json,
                Value::Json(json),
                "[1]",
                b"\x01[1]".to_vec(),
            ),
            (
                AttributeType::Text,
                Value::Text("é".to_owned()),
                "é",
                "é".into(),
            ),
        ] {
            let cell = Cell::Value(value);
            assert_eq!(
                written(of(kind), Form::Text, &cell),
                Some(text.into()),
                "{cell:?}"
            );
            assert_eq!(
                written(of(kind), Form::Binary, &cell),
                Some(binary),
                "{cell:?}"
            );
        }
        assert_eq!(
            written(of(AttributeType::Int), Form::Binary, &Cell::Absent),
            None
        );
        let mut out = Vec::new();
        let misfit = write_cell(
            of(AttributeType::Int),
            Form::Binary,
            &Cell::text("x"),
            &mut out,
        );
        assert_eq!(misfit, Err(Misfit));
    }

    #[test]
    fn parameters_are_read_in_both_forms_and_what_no_attribute_holds_is_refused() {
        let text = |oid, text: &str| read_param(1, oid, Form::Text, Some(text.as_bytes())).ok();
        let binary = |oid, bytes: &[u8]| read_param(1, oid, Form::Binary, Some(bytes)).ok();
        let number = |digits: &str| Some(Param::Number(digits.to_owned()));
        let of = |text: &str| Some(Param::Text(text.to_owned()));
        for (read, wanted) in [
            (text(0, " as it is"), of(" as it is")),
            (text(INT8, "9007199254740993"), number("9007199254740993")),
            (text(NUMERIC, "12.50"), number("12.50")),
            (text(BOOL, "t"), Some(Param::Bool(true))),
            (text(BOOL, "maybe"), None),
            (text(FLOAT8, "NaN"), None),
            (
                text(TIMESTAMPTZ, "2013-01-01 10:00:00.5+01"),
                of("2013-01-01T09:00:00.5Z"),
            ),
            (
                text(TIMESTAMPTZ, "2013-01-01 10:00:00+0530"),
                of("2013-01-01T04:30:00Z"),
            ),
            (
                text(TIMESTAMP, "2013-01-01 10:00:00"),
                of("2013-01-01T10:00:00Z"),
            ),
            (text(DATE, "2013-01-01"), of("2013-01-01T00:00:00Z")),
            (text(TIMESTAMPTZ, "infinity"), None),
            (binary(INT4, &7i32.to_be_bytes()), number("7")),
            (binary(INT4, &7i64.to_be_bytes()), None),
            (binary(FLOAT4, &0.1f32.to_be_bytes()), number("0.1")),
            (binary(FLOAT8, &149f64.to_be_bytes()), number("149.0")),
            (binary(FLOAT8, &f64::NAN.to_be_bytes()), None),
            (
                binary(TIMESTAMPTZ, &0i64.to_be_bytes()),
                of("2000-01-01T00:00:00Z"),
            ),
            (binary(TIMESTAMPTZ, &i64::MAX.to_be_bytes()), None),
            (
                binary(DATE, &1i32.to_be_bytes()),
                of("2000-01-02T00:00:00Z"),
            ),
            (binary(JSONB, b"\x01{}"), of("{}")),
            (binary(JSONB, b"\x02{}"), None),
            (
                binary(UUID, &[0; 16]),
                of("00000000-0000-0000-0000-000000000000"),
            ),
            (binary(TEXT, b"\xff"), None),
            (binary(1007, b"an array"), None),
        ] {
            assert_eq!(read, wanted);
        }
        assert_eq!(
            read_param(1, INT8, Form::Binary, None).ok(),
            Some(Param::Null)
        );
    }
}
