//! Columns of which the bounds of groups of rows say that all their rows have the same value: these need not be read. Most events are
//! patches, the only ones of their instants, and remove nothing.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Int32Array, RecordBatch, RecordBatchOptions, StringViewArray,
};
use arrow_schema::{ArrowError, Field, Schema};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

/// Bytes of a text that is made again for each row: longer ones are read, and shared.
const TEXT_BYTES_MAX: usize = 12;

/// What every row has in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Int(i32),
    Bool(bool),
    Text(String),
}

/// Columns of some groups of rows that need not be read, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Constants(Vec<(String, Value)>);

impl Constants {
    /// Those of these groups.
    pub(crate) fn of(end: &ParquetMetaData, groups: &[usize]) -> Constants {
        let Some((first, others)) = groups.split_first() else {
            return Constants::default();
        };
        let mut found = Vec::new();
        for (place, column) in end.row_group(*first).columns().iter().enumerate() {
            let Some(value) = value_of(column) else {
                continue;
            };
            let mut others = others
                .iter()
                .map(|group| end.row_group(*group).column(place));
            if others.all(|other| value_of(other).as_ref() == Some(&value)) {
                found.push((column.column_path().string(), value));
            }
        }
        Constants(found)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// A batch with those of these columns that it lacks.
    pub(crate) fn add(
        &self,
        batch: RecordBatch,
        wanted: &Schema,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = batch.num_rows();
        let lacks = |name: &String| {
            batch.column_by_name(name).is_none() && wanted.field_with_name(name).is_ok()
        };
        let lacking: Vec<_> = self.0.iter().filter(|(name, _)| lacks(name)).collect();
        if lacking.is_empty() {
            return Ok(batch);
        }
        let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        for (name, value) in lacking {
            let column = value.repeated(rows);
            fields.push(Arc::new(Field::new(
                name,
                column.data_type().clone(),
                false,
            )));
            columns.push(column);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &rows)
    }
}

impl Value {
    fn repeated(&self, rows: usize) -> ArrayRef {
        match self {
            Value::Int(number) => Arc::new(Int32Array::from_value(*number, rows)),
            Value::Bool(is_true) => Arc::new(BooleanArray::from(vec![*is_true; rows])),
            Value::Text(text) => Arc::new(StringViewArray::from_iter_values(repeat_n(text, rows))),
        }
    }
}

/// What all rows of a column have, where its bounds are certain and no row has none.
fn value_of(column: &ColumnChunkMetaData) -> Option<Value> {
    let statistics = column.statistics()?;
    if statistics.null_count_opt() != Some(0)
        || !statistics.min_is_exact()
        || !statistics.max_is_exact()
    {
        return None;
    }
    match statistics {
        Statistics::Int32(bounds) => {
            let least = bounds.min_opt()?;
            (bounds.max_opt()? == least).then_some(Value::Int(*least))
        }
        Statistics::Boolean(bounds) => {
            let least = bounds.min_opt()?;
            (bounds.max_opt()? == least).then_some(Value::Bool(*least))
        }
        Statistics::ByteArray(bounds) => {
            let least = bounds.min_opt()?;
            let is_same = bounds.max_opt()? == least && least.len() <= TEXT_BYTES_MAX;
            let text = least.as_utf8().ok().filter(|_| is_same)?;
            Some(Value::Text(text.to_owned()))
        }
        Statistics::Int64(_)
        | Statistics::Int96(_)
        | Statistics::Float(_)
        | Statistics::Double(_)
        | Statistics::FixedLenByteArray(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int32Type;
    use arrow_schema::DataType;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// Groups of two rows.
    fn written(columns: Vec<(&str, ArrayRef)>) -> (ParquetMetaData, RecordBatch) {
        let batch = RecordBatch::try_from_iter(columns).expect("columns");
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(2))
            .set_statistics_truncate_length(None)
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("it writes");
        (writer.close().expect("it ends"), batch)
    }

    #[test]
    fn a_column_that_has_one_value_in_all_groups_is_known_without_reading_it() {
        let ints =
            |values: [Option<i32>; 4]| Arc::new(Int32Array::from(values.to_vec())) as ArrayRef;
        let texts =
            |values: [&str; 4]| Arc::new(StringViewArray::from_iter_values(values)) as ArrayRef;
        let (end, batch) = written(vec![
            ("seq", ints([Some(0); 4])),
            (
                "other in the second group",
                ints([Some(0), Some(0), Some(0), Some(1)]),
            ),
            ("null once", ints([Some(0), Some(0), Some(0), None])),
            ("removed", Arc::new(BooleanArray::from(vec![false; 4]))),
            ("op", texts(["patch"; 4])),
            ("ops", texts(["patch", "patch", "correct", "patch"])),
            ("long", texts(["as long as none that is made again"; 4])),
        ]);
        let names = |groups: &[usize]| {
            let columns = batch.schema();
            let names = columns.fields().iter().map(|field| field.name().clone());
            let constants = Constants::of(&end, groups);
            names.filter(|name| constants.has(name)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[0, 1]), ["seq", "removed", "op"]);
        let of_first = [
            "seq",
            "other in the second group",
            "null once",
            "removed",
            "op",
            "ops",
        ];
        assert_eq!(names(&[0]), of_first);
        assert!(names(&[]).is_empty());
        let read = batch.project(&[5]).expect("a column");
        let wanted = Schema::new(vec![
            Field::new("op", DataType::Utf8View, false),
            Field::new("ops", DataType::Utf8View, false),
            Field::new("seq", DataType::Int32, false),
        ]);
        let found = Constants::of(&end, &[0, 1])
            .add(read, &wanted)
            .expect("columns");
        let column = |name| found.column_by_name(name).expect("a column");
        assert_eq!(found.num_columns(), 3, "and no other");
        assert_eq!(column("op"), batch.column(4));
        assert_eq!(column("ops"), batch.column(5));
        assert!(
            column("seq")
                .as_primitive::<Int32Type>()
                .values()
                .iter()
                .all(|seq| *seq == 0)
        );
    }
}
