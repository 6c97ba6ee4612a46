//! What the tables that are published look like, and their rows as ours.
//!
//! A row is read by the names of its columns, so that a column that is added, dropped or moved changes nothing for those that
//! are needed.

use std::sync::Arc;

use sheaf_model::{BatchId, EntityId, Op, TenantId, Timestamp};

use crate::change::{Catalogue, CatalogueRow, ChangedRow, EVENTS, EventRow, LATE};
use crate::column::{ColumnFault, ColumnValue, read_binary};
use crate::pgoutput::{Relation, Tuple, Value};

/// Why a row is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// The table lacks a column that is needed.
    #[error("table {table} has no column {column}")]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
    },
    /// A value could not be read.
    #[error("column {column} of table {table}")]
    Column {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is wrong with it.
        #[source]
        source: ColumnFault,
    },
    /// A value is not what the column holds.
    #[error("column {column} of table {table} holds something else than it should")]
    Value {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A row is longer than rows may be.
    #[error("a row of table {table} has {bytes} bytes, more than {bytes_max}")]
    Long {
        /// The table.
        table: String,
        /// How many bytes.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
    /// A row has another number of values than its table has columns.
    #[error("a row of table {table} has {values} values for {columns} columns")]
    Length {
        /// The table.
        table: String,
        /// How many values.
        values: usize,
        /// How many columns.
        columns: usize,
    },
}

const EVENT_COLUMNS: [&str; 8] = [
    "tenant_id",
    "entity_id",
    "observed_at",
    "seq",
    "op",
    "batch_id",
    "ingested_at",
    "attrs",
];

/// What is done with the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    /// They are events; the places of their columns.
    Events([usize; 8]),
    /// They are of a catalogue.
    Catalogue(Catalogue),
    /// The heartbeat; the place of its time.
    Heartbeat(usize),
    /// None of ours.
    Nothing,
}

/// One table that is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    name: String,
    columns: Arc<[String]>,
    type_oids: Vec<u32>,
    is_for: Use,
}

/// What a row is to the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A change for sinks.
    Change(ChangedRow),
    /// The primary's clock, at a moment when everything before had been committed. Absent before the first beat.
    Beat(Option<Timestamp>),
    /// A row of a table that is none of ours.
    Other,
}

impl Table {
    /// Reads what a table is like from the stream.
    pub fn from_relation(relation: &Relation<'_>) -> Result<Table, RowFault> {
        let columns = relation.columns.iter();
        let columns = columns.map(|column| (column.name.to_owned(), column.type_oid));
        let name = match relation.namespace {
            "sheaf" => relation.name.to_owned(),
            namespace => format!("{namespace}.{}", relation.name),
        };
        Table::new(name, columns.collect())
    }

    /// A table of schema `sheaf` with these columns and the numbers of their types.
    pub fn new(name: String, columns: Vec<(String, u32)>) -> Result<Table, RowFault> {
        let (columns, type_oids): (Vec<String>, Vec<u32>) = columns.into_iter().unzip();
        let place = |column: &'static str| {
            let place = columns.iter().position(|name| name == column);
            place.ok_or_else(|| RowFault::MissingColumn {
                table: name.clone(),
                column,
            })
        };
        let is_for = match name.as_str() {
            EVENTS | LATE => {
                let mut places = [0; 8];
                for (found, column) in places.iter_mut().zip(EVENT_COLUMNS) {
                    *found = place(column)?;
                }
                Use::Events(places)
            }
            "tenants" => Use::Catalogue(Catalogue::Tenants),
            "attributes" => Use::Catalogue(Catalogue::Attributes),
            "entities" => Use::Catalogue(Catalogue::Entities),
            "entity_keyframes" => Use::Catalogue(Catalogue::Keyframes),
            "replication_heartbeat" => Use::Heartbeat(place("beat_at")?),
            _ => Use::Nothing,
        };
        if let Use::Catalogue(catalogue) = is_for {
            for column in catalogue.key() {
                place(column)?;
            }
        }
        Ok(Table {
            name,
            columns: columns.into(),
            type_oids,
            is_for,
        })
    }

    /// Its name: without its schema where that is `sheaf`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a row of at most so many bytes.
    pub fn read(&self, row: &Tuple<'_>, is_new: bool, bytes_max: usize) -> Result<Row, RowFault> {
        let values = &row.values;
        let bytes: usize = values.iter().map(Value::len).sum();
        if bytes > bytes_max {
            return Err(RowFault::Long {
                table: self.name.clone(),
                bytes,
                bytes_max,
            });
        }
        if values.len() != self.columns.len() {
            return Err(RowFault::Length {
                table: self.name.clone(),
                values: values.len(),
                columns: self.columns.len(),
            });
        }
        Ok(match self.is_for {
            Use::Events(places) => {
                let event = self.event(&places, |place| self.value(place, values));
                Row::Change(ChangedRow::Event(event?))
            }
            Use::Catalogue(catalogue) => {
                let read = (0..values.len()).map(|place| self.value(place, values));
                Row::Change(ChangedRow::Catalogue(CatalogueRow {
                    catalogue,
                    is_new,
                    columns: Arc::clone(&self.columns),
                    values: read.collect::<Result<_, _>>()?,
                }))
            }
            Use::Heartbeat(place) => match self.value(place, values)? {
                ColumnValue::Time(time) => Row::Beat(Some(time)),
                ColumnValue::Null => Row::Beat(None),
                _ => return Err(self.unexpected(place)),
            },
            Use::Nothing => Row::Other,
        })
    }

    /// A row whose values were read before, one a column. None where the table is for no sink.
    pub(crate) fn read_columns(
        &self,
        values: Vec<ColumnValue>,
        is_new: bool,
    ) -> Result<Option<ChangedRow>, RowFault> {
        Ok(match self.is_for {
            Use::Events(places) => {
                let event = self.event(&places, |place| Ok(values[place].clone()));
                Some(ChangedRow::Event(event?))
            }
            Use::Catalogue(catalogue) => Some(ChangedRow::Catalogue(CatalogueRow {
                catalogue,
                is_new,
                columns: Arc::clone(&self.columns),
                values,
            })),
            Use::Heartbeat(_) | Use::Nothing => None,
        })
    }

    /// Whatever of a row can be read, by the names of its columns; of the rest the bytes. Values without a column are left out, and
    /// columns without a value.
    pub(crate) fn read_what_can_be(&self, values: &[Value<'_>]) -> Vec<(String, ColumnValue)> {
        let columns = self.columns.iter().zip(&self.type_oids).zip(values);
        let read = columns.map(|((name, type_oid), value)| {
            let bytes = |bytes: &[u8]| ColumnValue::Other {
                type_oid: *type_oid,
                bytes: bytes.to_vec(),
            };
            let value = match value {
                Value::Null => ColumnValue::Null,
                Value::Unchanged => ColumnValue::Unchanged,
                Value::Binary(binary) => {
                    read_binary(*type_oid, binary).unwrap_or_else(|_| bytes(binary))
                }
                Value::Text(text) => bytes(text),
            };
            (name.clone(), value)
        });
        read.collect()
    }

    /// Its columns with the numbers of their types.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (&str, u32)> {
        let names = self.columns.iter().map(String::as_str);
        names.zip(self.type_oids.iter().copied())
    }

    /// Whether its rows are for sinks.
    pub(crate) fn is_for_sinks(&self) -> bool {
        match self.is_for {
            Use::Events(_) | Use::Catalogue(_) => true,
            Use::Heartbeat(_) | Use::Nothing => false,
        }
    }

    fn event(
        &self,
        places: &[usize; 8],
        value: impl Fn(usize) -> Result<ColumnValue, RowFault>,
    ) -> Result<EventRow, RowFault> {
        let [
            tenant,
            entity,
            observed_at,
            seq,
            op,
            batch,
            ingested_at,
            attrs,
        ] = *places;
        let int = |place| match value(place)? {
            ColumnValue::Int(number) => Ok(number),
            _ => Err(self.unexpected(place)),
        };
        let time = |place| match value(place)? {
            ColumnValue::Time(time) => Ok(time),
            _ => Err(self.unexpected(place)),
        };
        let letter = match value(op)? {
            ColumnValue::Text(letter) => letter.bytes().next(),
            _ => None,
        };
        let known = letter
            .and_then(|letter| i8::try_from(letter).ok())
            .and_then(Op::from_letter);
        Ok(EventRow {
            tenant: TenantId(int(tenant)?),
            entity: EntityId(int(entity)?),
            observed_at: time(observed_at)?,
            seq: i16::try_from(int(seq)?).map_err(|_| self.unexpected(seq))?,
            op: known.ok_or_else(|| self.unexpected(op))?,
            batch: match value(batch)? {
                ColumnValue::Uuid(number) => BatchId(number),
                _ => return Err(self.unexpected(batch)),
            },
            ingested_at: time(ingested_at)?,
            attrs: match value(attrs)? {
                ColumnValue::Json(text) => text.into_boxed_str(),
                _ => return Err(self.unexpected(attrs)),
            },
        })
    }

    fn value(&self, place: usize, values: &[Value<'_>]) -> Result<ColumnValue, RowFault> {
        match values[place] {
            Value::Null => Ok(ColumnValue::Null),
            Value::Unchanged => Ok(ColumnValue::Unchanged),
            Value::Binary(bytes) => {
                read_binary(self.type_oids[place], bytes).map_err(|source| RowFault::Column {
                    table: self.name.clone(),
                    column: self.columns[place].clone(),
                    source,
                })
            }
            // Binary was asked for. A type that cannot be sent so comes as text, and none of ours does.
            Value::Text(_) => Err(self.unexpected(place)),
        }
    }

    fn unexpected(&self, place: usize) -> RowFault {
        RowFault::Value {
            table: self.name.clone(),
            column: self.columns[place].clone(),
        }
    }
}
