//! Rows on their way to the client: in what types, how many at once, and until when.

use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_model::AttributeType;
use tokio::time::Instant;

use super::super::fault::Fault;
use super::super::message::{Form, Forms};
use super::super::question::{Asked, Trouble, count, watched};
use super::super::reply::Field;
use super::super::value::{name_of, oid_of, write_cell};
use super::{Ran, Session};
use crate::stream::StreamPermit;

/// Columns of an answer: more than their number in a message can say.
const COLUMNS_MAX: usize = i16::MAX as usize;

/// Rows on their way.
pub(super) struct Rows {
    pub(super) columns: Vec<Column>,
    pub(super) source: Source,
    /// The first word of the tag.
    tag: &'static str,
}

pub(super) enum Source {
    /// All of them.
    Listed {
        rows: std::vec::IntoIter<Vec<Cell>>,
        /// Those that were made of the lake's tables are in memory, and count as a question that runs.
        _permit: Option<StreamPermit>,
    },
    /// The lake's.
    Asked(Box<Asked>),
}

impl Session {
    /// Describes columns.
    pub(super) fn columns(&mut self, columns: &[Column], wanted: &Forms) {
        let fields = columns.iter().enumerate().map(|(place, column)| Field {
            name: &column.name,
            oid: oid_of(column.kind),
            length: name_of(column.kind).2,
            is_binary: wanted.of(place) == Form::Binary,
        });
        let fields: Vec<Field<'_>> = fields.collect();
        self.line.out.columns(&fields);
    }

    /// Sends rows: so many at most, all where that is zero. Whether there may be more.
    pub(super) async fn deliver(
        &mut self,
        rows: &mut Rows,
        (kinds, wanted): (&[ColumnKind], &Forms),
        rows_max: u32,
    ) -> Result<bool, Trouble> {
        let outcome = self.deliver_rows(rows, (kinds, wanted), rows_max).await;
        if let Source::Asked(asked) = &rows.source {
            match &outcome {
                Ok(true) => {}
                Ok(false) => {
                    self.last = Some(asked.freshness.clone());
                    count(Ok(()));
                }
                Err(trouble) => count(Err(trouble)),
            }
        }
        outcome
    }

    async fn deliver_rows(
        &mut self,
        rows: &mut Rows,
        (kinds, wanted): (&[ColumnKind], &Forms),
        rows_max: u32,
    ) -> Result<bool, Trouble> {
        let until = self.until();
        let mut sent = 0u64;
        loop {
            if rows_max > 0 && sent == u64::from(rows_max) {
                self.line.out.suspended();
                return Ok(true);
            }
            let row = match &mut rows.source {
                Source::Listed { rows, .. } => rows.next(),
                Source::Asked(asked) => {
                    let cancelled = &mut self.place.cancelled;
                    watched(&mut self.line, cancelled, until, asked.next()).await?
                }
            };
            let Some(row) = row else {
                let tag = match rows.tag {
                    "SHOW" => "SHOW".to_owned(),
                    tag => format!("{tag} {sent}"),
                };
                self.line.out.done(&tag);
                return Ok(false);
            };
            let mut is_misfit = row.len() != kinds.len();
            self.line.out.row(&row, |place, cell, out| {
                let kind = kinds.get(place).copied();
                let kind = kind.unwrap_or(ColumnKind::Of(AttributeType::Text));
                match write_cell(kind, wanted.of(place), cell, out) {
                    Ok(is_there) => is_there,
                    Err(_) => {
                        is_misfit = true;
                        false
                    }
                }
            });
            if is_misfit {
                let message = "a value is not of its column's type";
                return Err(Fault::error("XX000", message).and_ends().into());
            }
            sent += 1;
            self.line.send_some().await?;
        }
    }

    /// Until when the statement that runs now may.
    pub(super) fn until(&self) -> Option<Instant> {
        let timeout = self.asker.variables.statement_timeout();
        timeout.and_then(|span| Instant::now().checked_add(span))
    }
}

/// As many columns as a message can say.
pub(super) fn check_columns(columns: &[Column]) -> Result<(), Fault> {
    match columns.len() <= COLUMNS_MAX {
        true => Ok(()),
        false => {
            let message = format!("an answer has at most {COLUMNS_MAX} columns");
            Err(Fault::error("54011", message))
        }
    }
}

/// The lake's rows.
pub(super) fn asked(asked: Asked) -> Ran {
    Ran::Rows(Box::new(Rows {
        columns: asked.columns.clone(),
        source: Source::Asked(Box::new(asked)),
        tag: "SELECT",
    }))
}

/// Rows that are there.
pub(super) fn listed(
    (columns, rows): (Vec<Column>, Vec<Vec<Cell>>),
    tag: &'static str,
    permit: Option<StreamPermit>,
) -> Ran {
    Ran::Rows(Box::new(Rows {
        columns,
        source: Source::Listed {
            rows: rows.into_iter(),
            _permit: permit,
        },
        tag,
    }))
}

pub(super) fn kinds_of(columns: &[Column]) -> Vec<ColumnKind> {
    columns.iter().map(|column| column.kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_columns_than_a_message_can_say_are_refused() {
        let columns = |count| vec![Column::of("x", AttributeType::Int); count];
        assert!(check_columns(&columns(COLUMNS_MAX)).is_ok());
        let fault = check_columns(&columns(COLUMNS_MAX + 1)).expect_err("too many");
        assert_eq!(fault.sqlstate, "54011");
    }
}
