//! Rows of the catalogues as the lake holds them: one for each key, as of its latest change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use sheaf_cdc::change::CatalogueRow;
use sheaf_cdc::column::ColumnValue;
use sheaf_model::{ChangePosition, Lsn, Timestamp};

use crate::facts::{bools, longs, texts, times};
use crate::pending::numbers_of;
use crate::schema::{Column, Kind, LakeTable};

/// The columns that say where a row was last changed, at the end of each table.
const CHANGED_COLUMNS: usize = 3;

/// What is wrong with a row of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// A column holds something else than the lake's.
    #[error("column {0} holds another kind of value")]
    Kind(&'static str),
    /// The row has no key.
    #[error("column {0} is no number")]
    Key(&'static str),
    /// A long value was left out because it did not change, and there is no earlier row that has it.
    #[error("no earlier row has the unchanged value of column {0}")]
    Unchanged(&'static str),
}

/// A row as of its latest change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRow {
    pub(crate) key: (i64, i64),
    pub(crate) changed: ChangePosition,
    /// Whether no row of this key was there before.
    pub(crate) is_new: bool,
    /// The values of the table's columns but the last three.
    pub(crate) values: Vec<ColumnValue>,
}

/// The columns of a table that come from the row itself.
fn own_columns(table: LakeTable) -> &'static [Column] {
    let columns = table.columns();
    &columns[..columns.len() - CHANGED_COLUMNS]
}

impl StoredRow {
    /// Of the row's columns those that the lake has; one that the row lacks is null.
    pub(crate) fn read(
        table: LakeTable,
        row: &CatalogueRow,
        changed: ChangePosition,
    ) -> Result<StoredRow, RowFault> {
        let mut values = Vec::with_capacity(own_columns(table).len());
        for column in own_columns(table) {
            let value = row.get(column.name).unwrap_or(&ColumnValue::Null);
            values.push(fitted(column, value)?);
        }
        let mut key = [0; 2];
        for (place, name) in row.catalogue.key().iter().enumerate() {
            key[place] = row.number(name).ok_or(RowFault::Key(name))?;
        }
        Ok(StoredRow {
            key: (key[0], key[1]),
            changed,
            is_new: row.is_new,
            values,
        })
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let text = |value: &ColumnValue| match value {
            ColumnValue::Text(text) => text.len(),
            _ => 0,
        };
        size_of::<StoredRow>()
            + self.values.len() * size_of::<ColumnValue>()
            + self.values.iter().map(text).sum::<usize>()
    }
}

fn fitted(column: &Column, value: &ColumnValue) -> Result<ColumnValue, RowFault> {
    Ok(match (column.kind, value) {
        (_, ColumnValue::Null) => ColumnValue::Null,
        (_, ColumnValue::Unchanged) => ColumnValue::Unchanged,
        (Kind::Text, ColumnValue::Text(text) | ColumnValue::Json(text)) => {
            ColumnValue::Text(text.clone())
        }
        (Kind::Long, ColumnValue::Int(number)) => ColumnValue::Int(*number),
        (Kind::Bool, ColumnValue::Bool(is_true)) => ColumnValue::Bool(*is_true),
        (Kind::Time, ColumnValue::Time(time)) => ColumnValue::Time(*time),
        _ => return Err(RowFault::Kind(column.name)),
    })
}

/// The rows that are left of these, one for each key: of two the one with the later change counts. Gives the position of one
/// that cannot be completed.
pub(crate) fn merge(
    table: LakeTable,
    before: impl Iterator<Item = StoredRow>,
    changes: &[StoredRow],
) -> Result<BTreeMap<(i64, i64), StoredRow>, (ChangePosition, RowFault)> {
    let mut rows: BTreeMap<(i64, i64), StoredRow> = BTreeMap::new();
    for row in before {
        rows.insert(row.key, row);
    }
    for change in changes {
        let earlier = rows.get(&change.key);
        if earlier.is_some_and(|earlier| earlier.changed > change.changed) {
            continue;
        }
        let mut row = change.clone();
        for (place, value) in row.values.iter_mut().enumerate() {
            if *value == ColumnValue::Unchanged {
                let kept = earlier.and_then(|earlier| earlier.values.get(place));
                let lacks = RowFault::Unchanged(own_columns(table)[place].name);
                *value = kept.cloned().ok_or((change.changed, lacks))?;
            }
        }
        rows.insert(row.key, row);
    }
    Ok(rows)
}

/// The rows as columns.
pub(crate) fn write_rows(
    table: LakeTable,
    schema: &SchemaRef,
    rows: &[&StoredRow],
) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(table.columns().len());
    for (place, column) in own_columns(table).iter().enumerate() {
        let values = rows.iter().map(|row| &row.values[place]);
        columns.push(write_column(column.kind, values));
    }
    for place in 0..CHANGED_COLUMNS {
        let numbers = rows.iter().map(|row| numbers_of(row.changed)[place]);
        columns.push(longs(numbers.map(Some)));
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn write_column<'a>(
    kind: Kind,
    values: impl ExactSizeIterator<Item = &'a ColumnValue>,
) -> ArrayRef {
    match kind {
        Kind::Bool => bools(values.map(|value| match value {
            ColumnValue::Bool(is_true) => Some(*is_true),
            _ => None,
        })),
        Kind::Time => times(values.map(|value| match value {
            ColumnValue::Time(time) => Some(time.as_micros()),
            _ => None,
        })),
        Kind::Text => texts(values.map(|value| match value {
            ColumnValue::Text(text) => Some(text.as_str()),
            _ => None,
        })),
        // Catalogues have no others.
        Kind::Long | Kind::Int | Kind::Double | Kind::Decimal | Kind::Uuid => {
            longs(values.map(|value| match value {
                ColumnValue::Int(number) => Some(*number),
                _ => None,
            }))
        }
    }
}

/// Rows out of columns. None where a column that has to be there is not.
pub(crate) fn read_rows(table: LakeTable, batch: &RecordBatch) -> Option<Vec<StoredRow>> {
    let numbers = |name: &str| {
        let column = batch.column_by_name(name)?;
        column.as_primitive_opt::<Int64Type>()
    };
    let key: Vec<_> = table
        .order()
        .iter()
        .map(|name| numbers(name))
        .collect::<Option<_>>()?;
    let first = key.first()?;
    let timeline = numbers("changed_timeline")?;
    let lsn = numbers("changed_lsn")?;
    let ordinal = numbers("changed_ordinal")?;
    let columns = own_columns(table).iter();
    // Files that were written before a column was there have none.
    let columns = columns.map(|column| (column.kind, batch.column_by_name(column.name)));
    let columns: Vec<_> = columns.collect();
    let row = |row| {
        let values = columns.iter().map(|(kind, values)| match values {
            Some(values) => read_value(*kind, values, row),
            None => Some(ColumnValue::Null),
        });
        Some(StoredRow {
            key: (
                first.value(row),
                key.get(1).map_or(0, |numbers| numbers.value(row)),
            ),
            changed: ChangePosition {
                timeline: u32::try_from(timeline.value(row)).ok()?,
                commit_lsn: Lsn(lsn.value(row).cast_unsigned()),
                ordinal: ordinal.value(row).cast_unsigned(),
            },
            is_new: false,
            values: values.collect::<Option<_>>()?,
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

fn read_value(kind: Kind, values: &ArrayRef, row: usize) -> Option<ColumnValue> {
    if values.is_null(row) {
        return Some(ColumnValue::Null);
    }
    Some(match kind {
        Kind::Bool => ColumnValue::Bool(values.as_boolean_opt()?.value(row)),
        Kind::Time => {
            let micros = values
                .as_primitive_opt::<TimestampMicrosecondType>()?
                .value(row);
            ColumnValue::Time(Timestamp::from_micros(micros).ok()?)
        }
        Kind::Text => ColumnValue::Text(values.as_string_view_opt()?.value(row).to_owned()),
        Kind::Long | Kind::Int | Kind::Double | Kind::Decimal | Kind::Uuid => {
            ColumnValue::Int(values.as_primitive_opt::<Int64Type>()?.value(row))
        }
    })
}
