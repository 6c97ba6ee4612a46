//! What becomes of each column: the entity's id, the time, nothing, or an attribute written as a certain kind of JSON
//! token. A declared attribute follows the catalogue; an undeclared one follows all of its cells in the file.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sheaf_model::AttributeType;

use super::delimited::Delimited;
use super::row::{Position, is_json_number};

/// Far more than an event may have attributes; a header beyond it is not a table.
const COLUMNS_MAX: usize = 10_000;

/// What the person said about the file. Part of what makes two imports the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roles {
    /// The entity type of every row.
    pub(crate) kind: String,
    /// The column with the entity's id.
    pub(crate) id: String,
    /// The column with the time.
    pub(crate) time: Option<String>,
    /// The time of every row, where no column has it.
    pub(crate) observed_at: Option<String>,
    /// Texts that stand for no value, besides the empty one.
    pub(crate) null: Vec<String>,
    /// Columns to leave out.
    pub(crate) skip: Vec<String>,
}

impl Roles {
    /// Whether a cell says nothing.
    pub(crate) fn is_null(&self, text: &str) -> bool {
        text.is_empty() || self.null.iter().any(|null| null == text)
    }

    /// The time of a row. A row without the time that its column promises is refused: the server's own time in its
    /// place would be a wrong fact.
    pub(crate) fn observed_at<'a>(
        &'a self,
        cell: Option<&'a str>,
    ) -> Result<Option<&'a str>, (&'static str, String)> {
        match (&self.time, cell) {
            (None, _) => Ok(self.observed_at.as_deref()),
            (Some(_), Some(cell)) => Ok(Some(cell)),
            (Some(column), None) => Err((
                "time_out_of_range",
                format!("the column {column:?} has no time here"),
            )),
        }
    }
}

/// What a column of a text table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Column {
    Id,
    Time,
    Skipped,
    /// A JSON number, digit by digit; what is no number goes as text, for the server to refuse.
    Number,
    /// A number in a JSON string.
    Decimal,
    /// `true` or `false`.
    Bool,
    Text,
    Json,
}

/// A text table's columns, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) names: Vec<String>,
    pub(crate) columns: Vec<Column>,
    /// Where the first row begins.
    pub(crate) first: Position,
}

impl Plan {
    /// Reads the header, and the whole file if a column is not in the catalogue.
    pub(crate) fn make(
        path: &Path,
        roles: &Roles,
        catalogue: &HashMap<String, AttributeType>,
    ) -> Result<Plan> {
        let mut table = Delimited::open(path, Position { offset: 0, line: 1 })?;
        let names = header(&mut table)?;
        let wanted = [Some(&roles.id), roles.time.as_ref()];
        for name in wanted.into_iter().flatten().chain(&roles.skip) {
            if !names.contains(name) {
                bail!("the file has no column {name:?}; its columns are {names:?}");
            }
        }
        let first = table.position();
        let known = |name: &String| {
            if *name == roles.id {
                Some(Column::Id)
            } else if roles.time.as_ref() == Some(name) {
                Some(Column::Time)
            } else if roles.skip.contains(name) {
                Some(Column::Skipped)
            } else {
                catalogue.get(name).map(|kind| column_of(*kind))
            }
        };
        let known: Vec<Option<Column>> = names.iter().map(known).collect();
        let columns = if known.contains(&None) {
            inferred(&mut table, roles, known)?
        } else {
            known.into_iter().flatten().collect()
        };
        Ok(Plan {
            names,
            columns,
            first,
        })
    }
}

fn header(table: &mut Delimited) -> Result<Vec<String>> {
    let record = table.next_record()?.context("the file is empty")?;
    let fields = record.fields.context("reading the header")?;
    if fields.len() > COLUMNS_MAX {
        bail!(
            "the header has {} columns, more than {COLUMNS_MAX}",
            fields.len()
        );
    }
    let mut names = Vec::with_capacity(fields.len());
    for field in fields {
        let name = String::from_utf8(field).context("reading the header")?;
        if names.contains(&name) {
            bail!("the header has the column {name:?} twice");
        }
        names.push(name);
    }
    Ok(names)
}

fn column_of(kind: AttributeType) -> Column {
    match kind {
        AttributeType::Int | AttributeType::Float => Column::Number,
        AttributeType::Decimal => Column::Decimal,
        AttributeType::Bool => Column::Bool,
        AttributeType::Text | AttributeType::Time => Column::Text,
        AttributeType::Json => Column::Json,
    }
}

/// An undeclared column is of numbers or of true and false only if every cell of the file is; one that is always
/// empty will not be sent, so that its kind is no matter.
fn inferred(
    table: &mut Delimited,
    roles: &Roles,
    known: Vec<Option<Column>>,
) -> Result<Vec<Column>> {
    let mut fits = vec![(true, true); known.len()];
    while let Some(record) = table.next_record()? {
        let Ok(fields) = record.fields else { continue };
        if fields.len() != known.len() {
            continue;
        }
        for (field, (number, truth)) in fields.iter().zip(&mut fits) {
            if !*number && !*truth {
                continue;
            }
            let text = String::from_utf8_lossy(field);
            if roles.is_null(&text) {
                continue;
            }
            *number = *number && is_json_number(&text);
            *truth = *truth && bool_token(&text).is_some();
        }
    }
    let decided = known
        .into_iter()
        .zip(fits)
        .map(|(known, fits)| match (known, fits) {
            (Some(column), _) => column,
            (None, (true, _)) => Column::Number,
            (None, (false, true)) => Column::Bool,
            (None, (false, false)) => Column::Text,
        });
    Ok(decided.collect())
}

/// The three ways in which programs write them.
pub(crate) fn bool_token(text: &str) -> Option<&'static str> {
    match text {
        "true" | "True" | "TRUE" => Some("true"),
        "false" | "False" | "FALSE" => Some("false"),
        _ => None,
    }
}
