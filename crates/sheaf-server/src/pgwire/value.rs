//! Values of answers in PostgreSQL's types, as text and in binary form. Pure.

use sheaf_export::{Cell, ColumnKind};
use sheaf_model::{AttributeType, Timestamp, Value};

use super::message::Form;
use super::numeric::write_numeric;

/// A type by the number that PostgreSQL gives it, which clients know.
pub(super) const BOOL: u32 = 16;
pub(super) const INT8: u32 = 20;
pub(super) const TEXT: u32 = 25;
pub(super) const FLOAT8: u32 = 701;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const NUMERIC: u32 = 1700;
pub(super) const JSONB: u32 = 3802;

/// PostgreSQL counts times from 2000-01-01, in microseconds.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

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
}
