//! What the engine computed as rows of the interface's values: every digit is kept, and what no type of ours is, is its text.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_model::{AttributeType, JsonText, Timestamp, Value};

use super::columns::JSON_MARK;

/// The columns of a result.
pub(crate) fn columns_of(schema: &Schema) -> Vec<Column> {
    let columns = schema.fields().iter().map(|field| Column {
        name: field.name().clone(),
        kind: kind_of(field),
    });
    columns.collect()
}

/// What the values of a column are.
pub(crate) fn kind_of(field: &Field) -> ColumnKind {
    let kind = match field.data_type() {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => AttributeType::Int,
        DataType::UInt64 | DataType::Decimal128(_, 0) => return ColumnKind::WideInt,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => AttributeType::Float,
        kind if kind.is_decimal() => AttributeType::Decimal,
        DataType::Boolean => AttributeType::Bool,
        DataType::Timestamp(..) => AttributeType::Time,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let mark = field.metadata().get(JSON_MARK.0).map(String::as_str);
            match mark == Some(JSON_MARK.1) {
                true => AttributeType::Json,
                false => AttributeType::Text,
            }
        }
        _ => AttributeType::Text,
    };
    ColumnKind::Of(kind)
}

/// The rows of a batch. None where a value is none of the interface's, such as a time in another millennium than it has.
pub(crate) fn rows_of(batch: &RecordBatch) -> Option<Vec<Vec<Cell>>> {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    rows.resize_with(batch.num_rows(), || Vec::with_capacity(batch.num_columns()));
    let schema = batch.schema();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        fill(&mut rows, field, column)?;
    }
    Some(rows)
}

fn fill(rows: &mut [Vec<Cell>], field: &Field, column: &ArrayRef) -> Option<()> {
    let int = |number: i64| Some(Cell::Value(Value::Int(number)));
    // What is no number has no value.
    let float = |number: f64| Some(Value::float(number).map_or(Cell::Absent, Cell::Value));
    match column.data_type() {
        DataType::Int8 => numbers::<Int8Type>(rows, column, |n| int(n.into())),
        DataType::Int16 => numbers::<Int16Type>(rows, column, |n| int(n.into())),
        DataType::Int32 => numbers::<Int32Type>(rows, column, |n| int(n.into())),
        DataType::Int64 => numbers::<Int64Type>(rows, column, int),
        DataType::UInt8 => numbers::<UInt8Type>(rows, column, |n| int(n.into())),
        DataType::UInt16 => numbers::<UInt16Type>(rows, column, |n| int(n.into())),
        DataType::UInt32 => numbers::<UInt32Type>(rows, column, |n| int(n.into())),
        DataType::UInt64 => numbers::<UInt64Type>(rows, column, |n| Some(wide(n.into()))),
        DataType::Decimal128(_, 0) => numbers::<Decimal128Type>(rows, column, |n| Some(wide(n))),
        DataType::Float32 => numbers::<Float32Type>(rows, column, |n| float(n.into())),
        DataType::Float64 => numbers::<Float64Type>(rows, column, float),
        kind if kind.is_decimal() => shown(rows, column, |text| {
            let text = trimmed(text);
            text.parse()
                .ok()
                .map(|number| Cell::Value(Value::Decimal(number)))
        }),
        DataType::Null => {
            rows.iter_mut().for_each(|row| row.push(Cell::Absent));
            Some(())
        }
        DataType::Boolean => {
            let column = column.as_boolean();
            each(rows, column, |place| {
                Some(Cell::Value(Value::Bool(column.value(place))))
            })
        }
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => numbers::<TimestampSecondType>(rows, column, |n| time(n, 1)),
            TimeUnit::Millisecond => {
                numbers::<TimestampMillisecondType>(rows, column, |n| time(n, 1_000))
            }
            TimeUnit::Microsecond => {
                numbers::<TimestampMicrosecondType>(rows, column, |n| time(n, 1_000_000))
            }
            TimeUnit::Nanosecond => {
                numbers::<TimestampNanosecondType>(rows, column, |n| time(n, 1_000_000_000))
            }
        },
        _ if kind_of(field) == ColumnKind::Of(AttributeType::Json) => shown(rows, column, |text| {
            Some(Cell::Value(Value::Json(JsonText::from_stored(
                text.to_owned(),
            ))))
        }),
        DataType::Utf8View => {
            let column = column.as_string_view();
            each(rows, column, |place| Some(Cell::text(column.value(place))))
        }
        DataType::Utf8 => {
            let column = column.as_string::<i32>();
            each(rows, column, |place| Some(Cell::text(column.value(place))))
        }
        _ => shown(rows, column, |text| Some(Cell::text(text))),
    }
}

fn each(
    rows: &mut [Vec<Cell>],
    column: &dyn Array,
    cell: impl Fn(usize) -> Option<Cell>,
) -> Option<()> {
    for (place, row) in rows.iter_mut().enumerate() {
        row.push(match column.is_null(place) {
            true => Cell::Absent,
            false => cell(place)?,
        });
    }
    Some(())
}

fn numbers<T: ArrowPrimitiveType>(
    rows: &mut [Vec<Cell>],
    column: &ArrayRef,
    cell: impl Fn(T::Native) -> Option<Cell>,
) -> Option<()> {
    let column = column.as_primitive_opt::<T>()?;
    each(rows, column, |place| cell(column.value(place)))
}

/// Of any type its text.
fn shown(
    rows: &mut [Vec<Cell>],
    column: &ArrayRef,
    cell: impl Fn(&str) -> Option<Cell>,
) -> Option<()> {
    let options = FormatOptions::new();
    let text = ArrayFormatter::try_new(column.as_ref(), &options).ok()?;
    each(rows, column, |place| {
        cell(&text.value(place).try_to_string().ok()?)
    })
}

fn wide(number: i128) -> Cell {
    match i64::try_from(number) {
        Ok(number) => Cell::Value(Value::Int(number)),
        Err(_) => Cell::Digits(number.to_string()),
    }
}

fn time(number: i64, a_second: i64) -> Option<Cell> {
    let nanos = i128::from(number) * i128::from(1_000_000_000 / a_second);
    let (time, _) = Timestamp::from_nanos(nanos).ok()?;
    Some(Cell::Value(Value::Time(time)))
}

/// The lake has a number of places for all decimals, and what is after the last digit but zero is not the value's.
fn trimmed(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, NullArray, StringViewArray,
        TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    #[test]
    fn every_digit_is_kept_and_what_no_type_of_ours_is_is_its_text() {
        let decimals = Decimal128Array::from(vec![Some(-12_500_000_000_000), None]);
        let decimals = decimals.with_precision_and_scale(38, 12).expect("it fits");
        let sums = Decimal128Array::from(vec![i128::from(i64::MAX) + 1, -5]);
        let sums = sums.with_precision_and_scale(38, 0).expect("it fits");
        let json = Field::new("json", DataType::Utf8View, true)
            .with_metadata([("sheaf.type".to_owned(), "json".to_owned())].into());
        let columns: Vec<(Field, ArrayRef)> = vec![
            (
                Field::new("int", DataType::Int64, true),
                Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
            ),
            (
                Field::new("float", DataType::Float64, true),
                Arc::new(Float64Array::from(vec![0.1, f64::NAN])),
            ),
            (
                Field::new("decimal", decimals.data_type().clone(), true),
                Arc::new(decimals),
            ),
            (
                Field::new("sum", sums.data_type().clone(), true),
                Arc::new(sums),
            ),
            (
                Field::new("count", DataType::UInt64, true),
                Arc::new(UInt64Array::from(vec![u64::MAX, 1])),
            ),
            (
                Field::new("text", DataType::Utf8View, true),
                Arc::new(StringViewArray::from(vec!["", "é"])),
            ),
            (json, Arc::new(StringViewArray::from(vec!["[1]", "{}"]))),
            (
                Field::new(
                    "time",
                    DataType::Timestamp(TimeUnit::Nanosecond, None),
                    true,
                ),
                Arc::new(TimestampNanosecondArray::from(vec![1_500, -1])),
            ),
            (
                Field::new("date", DataType::Date32, true),
                Arc::new(Date32Array::from(vec![15_706, 0])),
            ),
            (
                Field::new("null", DataType::Null, true),
                Arc::new(NullArray::new(2)),
            ),
        ];
        let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let schema = Arc::new(Schema::new(fields));
        let kinds: Vec<_> = columns_of(&schema)
            .iter()
            .map(|column| column.kind)
            .collect();
        use AttributeType::{Decimal, Float, Int, Json, Text, Time};
        let of = ColumnKind::Of;
        let wide = ColumnKind::WideInt;
        assert_eq!(
            kinds,
            [
                of(Int),
                of(Float),
                of(Decimal),
                wide,
                wide,
                of(Text),
                of(Json),
                of(Time),
                of(Text),
                of(Text)
            ]
        );
        let batch = RecordBatch::try_new(schema, arrays).expect("a batch");
        let rows = rows_of(&batch).expect("rows");
        let time = |text: &str| Cell::Value(Value::Time(Timestamp::parse(text).expect("a time").0));
        let json = |text: &str| Cell::Value(Value::Json(JsonText::from_stored(text.to_owned())));
        assert_eq!(
            rows,
            [
                vec![
                    Cell::Value(Value::Int(i64::MAX)),
                    Cell::Value(Value::Float(0.1)),
                    Cell::Value(Value::Decimal("-12.5".parse().expect("a number"))),
                    Cell::Digits("9223372036854775808".to_owned()),
                    Cell::Digits(u64::MAX.to_string()),
                    Cell::text(""),
                    json("[1]"),
                    time("1970-01-01T00:00:00.000001Z"),
                    Cell::text("2013-01-01"),
                    Cell::Absent,
                ],
                vec![
                    Cell::Absent,
                    Cell::Absent,
                    Cell::Absent,
                    Cell::Value(Value::Int(-5)),
                    Cell::Value(Value::Int(1)),
                    Cell::text("é"),
                    json("{}"),
                    time("1969-12-31T23:59:59.999999Z"),
                    Cell::text("1970-01-01"),
                    Cell::Absent,
                ],
            ]
        );
    }
}
