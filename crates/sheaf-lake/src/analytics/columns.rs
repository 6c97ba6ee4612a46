//! The columns that a question sees: those of the lake's tables, in the types that the engine computes with.

use std::sync::Arc;

use arrow_array::builder::StringViewBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use sheaf_model::BatchId;
use uuid::Uuid;

use crate::schema::{Column, DECIMAL_DIGITS, DECIMAL_PLACES, Kind, LakeTable};

/// What marks a column of the result whose texts are JSON.
pub(crate) const JSON_MARK: (&str, &str) = ("sheaf.type", "json");

/// Pages that a batch may hold beside its texts.
const PAGES_BYTES_MAX: usize = 16 * 1024;

/// Columns that say where a row was changed: the lake's own business.
fn is_shown(column: &&Column) -> bool {
    !column.name.starts_with("changed_")
}

/// The columns of a table that questions see, in order.
pub(crate) fn shown(table: LakeTable) -> impl Iterator<Item = &'static Column> {
    table.columns().iter().filter(is_shown)
}

/// The columns of a table as a question sees them.
pub(crate) fn schema_of(table: LakeTable) -> SchemaRef {
    let fields = shown(table).map(|column| {
        let field = Field::new(column.name, type_of(column.kind), !column.is_required);
        match column.name {
            "value_json" | "schema" | "line_protocol" => {
                let (key, value) = JSON_MARK;
                field.with_metadata([(key.to_owned(), value.to_owned())].into())
            }
            _ => field,
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn type_of(kind: Kind) -> DataType {
    match kind {
        Kind::Int => DataType::Int32,
        Kind::Long => DataType::Int64,
        Kind::Double => DataType::Float64,
        Kind::Decimal => {
            let digits = u8::try_from(DECIMAL_DIGITS).expect("invariant: 38 fits");
            DataType::Decimal128(
                digits,
                i8::try_from(DECIMAL_PLACES).expect("invariant: 12 fits"),
            )
        }
        Kind::Text | Kind::Uuid => DataType::Utf8View,
        Kind::Bool => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(crate::facts::UTC.into())),
    }
}

/// Whether a condition on the column can be decided on what is in the file, before it is made what questions see.
pub(crate) fn is_as_stored(column: &Column) -> bool {
    column.kind != Kind::Uuid
}

/// The columns of a file with texts as views, which are not copied out of the pages.
pub(crate) fn viewed(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    });
    // Without the keys of the file, which are long.
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What was read of a file as the columns that were asked for. One that the file lacks is null.
pub(crate) fn fitted(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = wanted.fields().iter().map(|field| {
        let Some(column) = batch.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), batch.num_rows()));
        };
        match (column.data_type(), field.data_type()) {
            (DataType::FixedSizeBinary(16), DataType::Utf8View) => Ok(batch_ids(column)),
            (DataType::Utf8View, DataType::Utf8View) => Ok(compact(column)),
            (read, wanted) if read == wanted => Ok(Arc::clone(column)),
            (read, _) => Err(ArrowError::SchemaError(format!(
                "column {} of a data file is {read}",
                field.name()
            ))),
        }
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    let rows = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &rows)
}

/// Texts without the pages that they are in, where these hold much else: each batch would be counted as large as its pages are.
fn compact(column: &ArrayRef) -> ArrayRef {
    let texts = column.as_string_view();
    let held: usize = texts.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if held <= PAGES_BYTES_MAX || held / 2 <= texts.total_buffer_bytes_used() {
        return Arc::clone(column);
    }
    Arc::new(texts.gc())
}

/// Ids of requests as the interface writes them. Facts of a request are beside each other: most are that of the row before.
fn batch_ids(column: &ArrayRef) -> ArrayRef {
    let numbers = column.as_fixed_size_binary();
    let mut texts = StringViewBuilder::with_capacity(numbers.len()).with_deduplicate_strings();
    let mut last: Option<(&[u8], String)> = None;
    for number in numbers {
        let Some(number) = number else {
            texts.append_null();
            continue;
        };
        if last.as_ref().is_none_or(|(known, _)| *known != number) {
            let id = Uuid::from_slice(number).unwrap_or_default();
            last = Some((number, BatchId(id).to_string()));
        }
        match &last {
            Some((_, text)) => texts.append_value(text),
            None => texts.append_null(),
        }
    }
    Arc::new(texts.finish())
}
