//! Rows of the catalogues as the lake holds them: one for each key, as of its latest change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use sheaf_cdc::change::CatalogueRow;
use sheaf_cdc::column::ColumnValue;
use sheaf_model::{ChangePosition, Lsn, Timestamp};

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
            match row.get(name) {
                Some(ColumnValue::Int(number)) => key[place] = *number,
                _ => return Err(RowFault::Key(name)),
            }
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
        let mut column = Int64Builder::with_capacity(rows.len());
        for row in rows {
            column.append_value(numbers_of(row.changed)[place]);
        }
        columns.push(Arc::new(column.finish()));
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn write_column<'a>(kind: Kind, values: impl Iterator<Item = &'a ColumnValue>) -> ArrayRef {
    match kind {
        Kind::Bool => {
            let mut column = BooleanBuilder::new();
            for value in values {
                match value {
                    ColumnValue::Bool(is_true) => column.append_value(*is_true),
                    _ => column.append_null(),
                }
            }
            Arc::new(column.finish())
        }
        Kind::Time => {
            let mut column = TimestampMicrosecondBuilder::new().with_timezone(crate::facts::UTC);
            for value in values {
                match value {
                    ColumnValue::Time(time) => column.append_value(time.as_micros()),
                    _ => column.append_null(),
                }
            }
            Arc::new(column.finish())
        }
        Kind::Text => {
            let mut column = StringBuilder::new();
            for value in values {
                match value {
                    ColumnValue::Text(text) => column.append_value(text),
                    _ => column.append_null(),
                }
            }
            Arc::new(column.finish())
        }
        // Catalogues have no others.
        Kind::Long | Kind::Int | Kind::Double | Kind::Decimal | Kind::Uuid => {
            let mut column = Int64Builder::new();
            for value in values {
                match value {
                    ColumnValue::Int(number) => column.append_value(*number),
                    _ => column.append_null(),
                }
            }
            Arc::new(column.finish())
        }
    }
}

/// Rows out of columns. None where a column that has to be there is not.
pub(crate) fn read_rows(table: LakeTable, batch: &RecordBatch) -> Option<Vec<StoredRow>> {
    let number = |name: &str, row: usize| {
        let column = batch.column_by_name(name)?;
        Some(column.as_primitive_opt::<Int64Type>()?.value(row))
    };
    let key: &[&str] = table.order();
    (0..batch.num_rows())
        .map(|row| {
            let values =
                own_columns(table)
                    .iter()
                    .map(|column| match batch.column_by_name(column.name) {
                        // Files that were written before the column was there have none.
                        None => Some(ColumnValue::Null),
                        Some(values) => read_value(column.kind, values, row),
                    });
            Some(StoredRow {
                key: (
                    number(key.first()?, row)?,
                    key.get(1).map_or(Some(0), |name| number(name, row))?,
                ),
                changed: ChangePosition {
                    timeline: u32::try_from(number("changed_timeline", row)?).ok()?,
                    commit_lsn: Lsn(number("changed_lsn", row)?.cast_unsigned()),
                    ordinal: number("changed_ordinal", row)?.cast_unsigned(),
                },
                is_new: false,
                values: values.collect::<Option<_>>()?,
            })
        })
        .collect()
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
        Kind::Text => ColumnValue::Text(values.as_string_opt::<i32>()?.value(row).to_owned()),
        Kind::Long | Kind::Int | Kind::Double | Kind::Decimal | Kind::Uuid => {
            ColumnValue::Int(values.as_primitive_opt::<Int64Type>()?.value(row))
        }
    })
}
