//! The rows of a CSV file as events, by the plan of its columns.

use std::path::Path;

use anyhow::{Context, Result};

use super::delimited::{BadRecord, Delimited, Record};
use super::plan::{Column, Plan, Roles, bool_token};
use super::row::{EventText, Position, Refused, Row, Rows, is_json, is_json_number, quoted};

pub(crate) struct Table {
    records: Delimited,
    roles: Roles,
    plan: Plan,
}

impl Table {
    pub(crate) fn open(path: &Path, roles: Roles, plan: Plan, position: Position) -> Result<Table> {
        let records = Delimited::open(path, position).context("opening the file")?;
        Ok(Table {
            records,
            roles,
            plan,
        })
    }
}

impl Rows for Table {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let record = self.records.next_record().context("reading the file")?;
        Ok(record.map(|record| row_of(&self.roles, &self.plan, record)))
    }

    fn position(&self) -> Position {
        self.records.position()
    }

    fn progress(&self) -> (u64, u64) {
        self.records.progress()
    }
}

fn row_of(roles: &Roles, plan: &Plan, record: Record) -> Row {
    let line = record.line;
    let fields = match record.fields {
        Ok(fields) => fields,
        Err(bad @ BadRecord::OpenQuote) => {
            return Row::refused(line, "malformed_line", bad.to_string());
        }
        Err(bad @ BadRecord::TooLong) => {
            return Row::refused(line, "value_too_large", bad.to_string());
        }
    };
    if fields.len() != plan.columns.len() {
        let reason = format!(
            "the row has {} fields, the header {}",
            fields.len(),
            plan.columns.len()
        );
        return Row::refused(line, "malformed_line", reason);
    }
    let Ok(cells) = fields
        .into_iter()
        .map(String::from_utf8)
        .collect::<Result<Vec<_>, _>>()
    else {
        return Row::refused(line, "invalid_text", "the row is not UTF-8".to_owned());
    };
    event_of(roles, plan, line, &cells)
}

fn event_of(roles: &Roles, plan: &Plan, line: u64, cells: &[String]) -> Row {
    let filled = |wanted: Column| {
        let at = plan.columns.iter().position(|column| *column == wanted)?;
        let cell = cells[at].as_str();
        (!roles.is_null(cell)).then_some(cell)
    };
    let observed_at = match roles.observed_at(filled(Column::Time)) {
        Ok(observed_at) => observed_at,
        Err((code, reason)) => return Row::refused(line, code, reason),
    };
    let mut event = EventText::new(&roles.kind, filled(Column::Id), observed_at);
    let mut refusals = Vec::new();
    for ((name, column), cell) in plan.names.iter().zip(&plan.columns).zip(cells) {
        if roles.is_null(cell) {
            continue;
        }
        match column {
            Column::Id | Column::Time | Column::Skipped => {}
            Column::Number if is_json_number(cell) => event.push(name, cell),
            Column::Bool => match bool_token(cell) {
                Some(token) => event.push(name, token),
                None => event.push(name, &quoted(cell)),
            },
            // Within JSON a line end is only ever space between tokens, and it would end the event's line.
            Column::Json if is_json(cell) => event.push(name, &cell.replace(['\n', '\r'], " ")),
            Column::Json => refusals.push(Refused {
                line,
                field: Some(name.clone()),
                code: "malformed_json".to_owned(),
                reason: format!("attribute {name} is json, and the cell is not"),
            }),
            Column::Number | Column::Decimal | Column::Text => event.push(name, &quoted(cell)),
        }
    }
    Row {
        line,
        event: Some(event.finish()),
        refusals,
    }
}

#[cfg(test)]
mod tests;
