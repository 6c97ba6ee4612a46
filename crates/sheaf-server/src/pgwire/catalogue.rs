//! The few of PostgreSQL's catalogues that clients ask for lists of tables and columns, answered for the lake's tables.
//!
//! This is no engine: it knows what a row of a table, a column, a schema and a type holds, and gives of it what a question names.
//! What has no value here is null. Conditions are looked at where they say which tables, columns or schemas are meant; a question
//! that names a catalogue that is not known here, counts or joins its rows to anything that would need computing is refused. Which
//! tables there are, the lake's reader says, of the tenant that asks.
//!
//! A question may be as long as any other, and a tenant may have thousands of columns: how much is read of the one and made of
//! the others is bounded here.

use std::collections::HashSet;
use std::mem::size_of;

use sheaf_export::{Cell, Column, ColumnKind};
use sheaf_lake::analytics::{Param, ShownTable};
use sheaf_model::Value;

use super::fault::{FEATURE_NOT_SUPPORTED, Fault, PROGRAM_LIMIT};
use super::lexer::{Token, lex};

mod identifier;
mod item;
mod pattern;
mod row;
mod selection;
mod subject;

use item::Item;
use row::Row;
use selection::{Selection, read_selection};
use subject::{Subject, subject};

/// What the database is called, whatever name was connected to.
pub(super) const DATABASE: &str = "sheaf";

/// Words and signs of a question. Drivers send some hundreds; reading takes the square of them where they are nested.
const TOKENS_MAX: usize = 4_096;
/// Conditions of a question, and bytes of all of its patterns: each is compared with each row.
const PATTERNS_MAX: usize = 64;
const LIKE_BYTES_MAX: usize = 512;
/// Bytes of a list of the lake's tables. It is made in memory, and there are as many at once as questions may run.
const BYTES_MAX: usize = 16 << 20;
/// The same of any other list. Each portal of a connection may have one.
const SMALL_BYTES_MAX: usize = 128 * 1024;

/// What there is to list.
#[derive(Debug, Default)]
pub(super) struct World {
    /// The tenant that asks, by its name.
    pub(super) tenant: String,
    /// The settings of its session.
    pub(super) settings: Vec<(&'static str, String)>,
    /// Its tables.
    pub(super) tables: Vec<ShownTable>,
}

/// A question about catalogues that can be answered.
#[derive(Debug)]
pub(super) struct Inquiry {
    selection: Selection,
    subject: Subject,
    columns: Vec<Column>,
}

/// Reads a question about catalogues.
pub(super) fn read(text: &str, params: &[Param]) -> Result<Inquiry, Fault> {
    let lexemes = lex(text);
    if lexemes.len() > TOKENS_MAX {
        let message =
            format!("a question about catalogues has more than {TOKENS_MAX} words and signs");
        return Err(Fault::error(PROGRAM_LIMIT, message));
    }
    let tokens = lexemes.into_iter().map(|lexeme| match lexeme.token {
        Token::Param(number) => {
            let value = number.checked_sub(1).and_then(|place| params.get(place));
            Token::Text(value.map(text_of).unwrap_or_default())
        }
        token => token,
    });
    let tokens: Vec<Token> = tokens.collect();
    let mut selection = read_selection(&tokens).ok_or_else(unserved)?;
    let bytes = selection
        .patterns
        .iter()
        .map(|(_, pattern)| pattern.bytes());
    if selection.patterns.len() > PATTERNS_MAX || bytes.sum::<usize>() > LIKE_BYTES_MAX {
        let message = "a question about catalogues has too many conditions";
        return Err(Fault::error(PROGRAM_LIMIT, message));
    }
    let subject = subject(&selection.joined).ok_or_else(unserved)?;
    if selection.items == [Item::All] {
        selection.items = all_of(&selection.joined)?;
    }
    if selection.items.iter().any(Item::is_computed) {
        return Err(unserved());
    }
    let columns = selection.items.iter().map(|item| Column {
        name: item.heading(),
        kind: ColumnKind::Of(row::kind_of(item)),
    });
    Ok(Inquiry {
        columns: columns.collect(),
        subject,
        selection,
    })
}

fn text_of(param: &Param) -> String {
    match param {
        Param::Null => String::new(),
        Param::Bool(is_true) => is_true.to_string(),
        Param::Number(text) | Param::Text(text) => text.clone(),
    }
}

impl Inquiry {
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether the tables of the world have to be there.
    pub(super) fn is_of_tables(&self) -> bool {
        match self.subject {
            Subject::Columns | Subject::Tables | Subject::Schemas => true,
            Subject::Nothing
            | Subject::Types
            | Subject::Databases
            | Subject::Users
            | Subject::Settings => false,
        }
    }

    /// Its rows.
    pub(super) fn rows(&self, world: &World) -> Result<Vec<Vec<Cell>>, Fault> {
        let selection = &self.selection;
        let limit = selection.limit.unwrap_or(usize::MAX);
        let bytes_max = match self.is_of_tables() {
            true => BYTES_MAX,
            false => SMALL_BYTES_MAX,
        };
        let (mut rows, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0);
        for row in self.subject.rows(world) {
            if rows.len() >= limit {
                break;
            }
            if !is_meant(&row, selection) {
                continue;
            }
            let mut cells = Vec::new();
            for (item, column) in selection.items.iter().zip(&self.columns) {
                let cell = fitted(row::value(item, &row), column);
                bytes += bytes_of(&cell);
                if bytes > bytes_max {
                    let message = "the list is too long: name a schema or a table";
                    return Err(Fault::error(PROGRAM_LIMIT, message));
                }
                cells.push(cell);
            }
            if !selection.is_distinct || seen.insert(format!("{cells:?}")) {
                rows.push(cells);
            }
        }
        Ok(rows)
    }
}

fn bytes_of(cell: &Cell) -> usize {
    let text = match cell {
        Cell::Value(Value::Text(text)) => text.len(),
        _ => 0,
    };
    size_of::<Cell>() + text
}

fn unserved() -> Fault {
    let message = "of PostgreSQL's catalogues only plain lists of tables, columns, schemas and types are served";
    Fault {
        hint: Some("the tables are listed by information_schema.tables and their columns by information_schema.columns".to_owned()),
        ..Fault::error(FEATURE_NOT_SUPPORTED, message)
    }
}

/// What all columns are, of the two views that people look at themselves.
fn all_of(joined: &[String]) -> Result<Vec<Item>, Fault> {
    let names: &[&str] = match joined {
        [one] if one == "tables" => &["table_catalog", "table_schema", "table_name", "table_type"],
        [one] if one == "columns" => &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "ordinal_position",
            "is_nullable",
            "data_type",
            "udt_name",
        ],
        _ => return Err(unserved()),
    };
    Ok(names.iter().map(|name| Item::named(name)).collect())
}

/// Whether a row is one of those that the conditions mean: of several on one column it has to meet one.
fn is_meant(row: &Row<'_>, selection: &Selection) -> bool {
    let patterns = &selection.patterns;
    patterns.iter().enumerate().all(|(place, (name, _))| {
        // Of each column once.
        if patterns[..place].iter().any(|(other, _)| other == name) {
            return true;
        }
        let found = match row::named_value(name, row) {
            Some(Cell::Value(Value::Text(text))) => text,
            Some(Cell::Value(Value::Int(number))) => number.to_string(),
            // Of what has no value here no condition is looked at.
            _ => return true,
        };
        let mut own = patterns.iter().filter(|(other, _)| other == name);
        own.any(|(_, pattern)| pattern.matches(&found))
    })
}

/// The value in its column's type, where it is of that.
fn fitted(cell: Cell, column: &Column) -> Cell {
    match (&cell, column.kind) {
        (Cell::Value(value), ColumnKind::Of(kind)) if value.kind() != kind => Cell::Absent,
        _ => cell,
    }
}

#[cfg(test)]
mod tests;
