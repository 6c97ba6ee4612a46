//! Arrow's IPC stream: a schema, a batch for each call, and the mark of the end.
//!
//! Ints, floats, truth values and times have Arrow's own types. Decimals are texts, because each value keeps its own
//! scale and a column of Arrow has one for all; JSON is text.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use sheaf_model::{AttributeType, Value};

use super::{Cell, Column, ColumnKind, ExportError, misfit};

/// The digits of the widest whole numbers that Arrow has.
const WIDE_INT_DIGITS: u8 = 38;
const UTC: &str = "UTC";

pub(super) struct ArrowFile {
    schema: Arc<Schema>,
    writer: StreamWriter<Vec<u8>>,
}

impl ArrowFile {
    pub(super) fn begin(columns: &[Column]) -> Result<ArrowFile, ExportError> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new(&column.name, data_type(column.kind), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let writer = StreamWriter::try_new(Vec::new(), &schema)?;
        Ok(ArrowFile { schema, writer })
    }

    pub(super) fn write(
        &mut self,
        columns: &[Column],
        rows: &[Vec<Cell>],
    ) -> Result<(), ExportError> {
        if rows.is_empty() {
            return Ok(());
        }
        let arrays = columns
            .iter()
            .enumerate()
            .map(|(place, column)| array(column, rows.iter().map(|row| &row[place])))
            .collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        self.writer.write(&batch)?;
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), ExportError> {
        Ok(self.writer.finish()?)
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }
}

fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::WideInt => DataType::Decimal128(WIDE_INT_DIGITS, 0),
        ColumnKind::Of(AttributeType::Int) => DataType::Int64,
        ColumnKind::Of(AttributeType::Float) => DataType::Float64,
        ColumnKind::Of(AttributeType::Bool) => DataType::Boolean,
        ColumnKind::Of(AttributeType::Time) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        ColumnKind::Of(AttributeType::Decimal | AttributeType::Text | AttributeType::Json) => {
            DataType::Utf8
        }
    }
}

fn array<'a>(
    column: &Column,
    cells: impl Iterator<Item = &'a Cell>,
) -> Result<ArrayRef, ExportError> {
    Ok(match column.kind {
        ColumnKind::WideInt => {
            let numbers: Decimal128Array = taken(column, cells, wide_int)?.into_iter().collect();
            Arc::new(numbers.with_precision_and_scale(WIDE_INT_DIGITS, 0)?)
        }
        ColumnKind::Of(AttributeType::Int) => {
            Arc::new(Int64Array::from(taken(column, cells, |cell| match cell {
                Cell::Value(Value::Int(number)) => Some(*number),
                _ => None,
            })?))
        }
        ColumnKind::Of(AttributeType::Float) => Arc::new(Float64Array::from(taken(
            column,
            cells,
            |cell| match cell {
                Cell::Value(Value::Float(number)) => Some(*number),
                _ => None,
            },
        )?)),
        ColumnKind::Of(AttributeType::Bool) => Arc::new(BooleanArray::from(taken(
            column,
            cells,
            |cell| match cell {
                Cell::Value(Value::Bool(truth)) => Some(*truth),
                _ => None,
            },
        )?)),
        ColumnKind::Of(AttributeType::Time) => {
            let times = taken(column, cells, |cell| match cell {
                Cell::Value(Value::Time(time)) => Some(time.as_micros()),
                _ => None,
            })?;
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone(UTC))
        }
        ColumnKind::Of(AttributeType::Decimal | AttributeType::Text | AttributeType::Json) => {
            Arc::new(StringArray::from(taken(
                column,
                cells,
                |cell| match cell {
                    Cell::Value(Value::Decimal(number)) => Some(number.to_string()),
                    Cell::Value(Value::Text(text)) => Some(text.clone()),
                    Cell::Value(Value::Json(json)) => Some(json.as_str().to_owned()),
                    Cell::Digits(digits) => Some(digits.clone()),
                    _ => None,
                },
            )?))
        }
    })
}

fn wide_int(cell: &Cell) -> Option<i128> {
    match cell {
        Cell::Value(Value::Int(number)) => Some(i128::from(*number)),
        Cell::Digits(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// What the cells hold, nothing where they hold nothing. A cell of another type is an error and never a null.
fn taken<'a, T>(
    column: &Column,
    cells: impl Iterator<Item = &'a Cell>,
    take: impl Fn(&Cell) -> Option<T>,
) -> Result<Vec<Option<T>>, ExportError> {
    cells
        .map(|cell| match cell {
            Cell::Absent => Ok(None),
            cell => take(cell).map(Some).ok_or_else(|| misfit(&column.name)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
    use arrow_ipc::reader::StreamReader;
    use sheaf_model::{JsonText, Timestamp};

    use super::*;
    use crate::{File, Format};

    #[test]
    fn every_type_reads_back_from_the_stream_with_absent_cells_as_nulls() {
        let mut columns: Vec<Column> = AttributeType::ALL
            .iter()
            .map(|kind| Column::of(kind.as_str(), *kind))
            .collect();
        columns.push(Column {
            name: "sum".to_owned(),
            kind: ColumnKind::WideInt,
        });
        let (time, _) = Timestamp::parse("2013-01-01T00:00:00.000001Z").expect("a time");
        let full = vec![
            Cell::Value(Value::Int(i64::MAX)),
            Cell::Value(Value::Float(0.1)),
            Cell::Value(Value::Decimal("12.50".parse().expect("a number"))),
            Cell::text("=é"),
            Cell::Value(Value::Bool(true)),
            Cell::Value(Value::Time(time)),
            Cell::Value(Value::Json(JsonText::parse("[1]", 32).expect("JSON"))),
            Cell::Digits("99999999999999999999".to_owned()),
        ];
        let empty = vec![Cell::Absent; columns.len()];
        let mut file = File::begin(Format::Arrow, columns).expect("a file");
        let mut bytes = file.take();
        for rows in [&[full, empty.clone()][..], &[], &[empty]] {
            file.write(rows).expect("rows that fit");
            bytes.extend(file.take());
        }
        file.finish().expect("the end");
        bytes.extend(file.take());
        let reader = StreamReader::try_new(bytes.as_slice(), None).expect("a stream");
        let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("a batch")).collect();
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [2, 1]);
        let column = |place: usize| batches[0].column(place);
        assert_eq!(column(0).as_primitive::<Int64Type>().value(0), i64::MAX);
        assert_eq!(column(1).as_primitive::<Float64Type>().value(0), 0.1);
        assert_eq!(column(2).as_string::<i32>().value(0), "12.50");
        assert_eq!(column(3).as_string::<i32>().value(0), "=é");
        assert!(column(4).as_boolean().value(0));
        let times = column(5).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.value(0), time.as_micros());
        assert_eq!(column(6).as_string::<i32>().value(0), "[1]");
        let sums = column(7).as_primitive::<Decimal128Type>();
        assert_eq!(sums.value(0), 99_999_999_999_999_999_999);
        for column in batches[0].columns() {
            assert!(column.is_valid(0) && column.is_null(1), "{column:?}");
        }
    }

    #[test]
    fn a_cell_of_another_type_is_refused_and_not_written_as_nothing() {
        let column = Column::of("seats", AttributeType::Int);
        let mut file = File::begin(Format::Arrow, vec![column]).expect("a file");
        let misfit = file.write(&[vec![Cell::text("1")]]);
        assert!(matches!(misfit, Err(ExportError::Misfit { column }) if column == "seats"));
        let short = file.write(&[vec![]]);
        assert!(matches!(short, Err(ExportError::Misfit { .. })));
    }
}
