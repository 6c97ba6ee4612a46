//! Answers of several engines, and whether they are the same. Pure.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::questions::Question;

/// How far sums may be from each other that were added up in another order.
const ROUNDING: f64 = 1e-9;

/// Rows of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer(pub(super) Vec<Vec<Cell>>);

/// A value, whatever an engine writes it as.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Nothing,
    Number(f64),
    Text(String),
}

impl Answer {
    /// From rows as JSON has them.
    pub(super) fn read(rows: &Value) -> Result<Answer> {
        let rows = rows.as_array().context("rows are a list")?;
        let cells = |row: &Value| -> Result<Vec<Cell>> {
            let row = row.as_array().context("a row is a list")?;
            row.iter().map(cell).collect()
        };
        Ok(Answer(rows.iter().map(cells).collect::<Result<_>>()?))
    }

    /// In an order that does not depend on sums: texts and counts come first in every question.
    fn sorted(&self) -> Vec<&Vec<Cell>> {
        let mut rows: Vec<&Vec<Cell>> = self.0.iter().collect();
        rows.sort_by(|one, other| order(one).cmp(&order(other)));
        rows
    }
}

fn order(row: &[Cell]) -> Vec<&str> {
    let texts = row.iter().filter_map(|cell| match cell {
        Cell::Text(text) => Some(text.as_str()),
        Cell::Nothing | Cell::Number(_) => None,
    });
    texts.collect()
}

fn cell(value: &Value) -> Result<Cell> {
    Ok(match value {
        Value::Null => Cell::Nothing,
        Value::Number(number) => Cell::Number(number.as_f64().context("a number")?),
        Value::String(text) => Cell::Text(text.clone()),
        other => anyhow::bail!("{other} is no value of an answer"),
    })
}

/// Fails where two answers differ by more than rounding.
pub(super) fn require_same(question: &Question, ours: &Answer, theirs: &Answer) -> Result<()> {
    ensure!(!ours.0.is_empty(), "{}: there are no rows", question.name);
    let counts = (ours.0.len(), theirs.0.len());
    ensure!(counts.0 == counts.1, "{}: {counts:?} rows", question.name);
    for (own, their) in ours.sorted().into_iter().zip(theirs.sorted()) {
        let is_same = own.len() == their.len() && own.iter().zip(their).all(is_near);
        ensure!(is_same, "{}: {own:?} and {their:?}", question.name);
    }
    Ok(())
}

fn is_near((own, their): (&Cell, &Cell)) -> bool {
    match (own, their) {
        (Cell::Number(own), Cell::Number(their)) => {
            (own - their).abs() <= ROUNDING * own.abs().max(1.0)
        }
        (own, their) => own == their,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::questions::QUESTIONS;
    use super::*;

    #[test]
    fn answers_are_the_same_in_any_order_and_within_rounding_alone() {
        let ours = json!([["a", 1.0, null], ["b", 2, "x"]]);
        for (theirs, is_same) in [
            (json!([["b", 2.0, "x"], ["a", 1.000_000_000_1, null]]), true),
            (json!([["a", 1.0, null], ["b", 2.000_001, "x"]]), false),
            (json!([["a", 1.0, null], ["b", 2, "y"]]), false),
            (json!([["a", 1.0, 0], ["b", 2, "x"]]), false),
            (json!([["a", 1.0, null]]), false),
            (json!([["a", 1.0], ["b", 2]]), false),
        ] {
            let [ours, theirs] = [&ours, &theirs].map(|rows| Answer::read(rows).expect("rows"));
            let found = require_same(&QUESTIONS[0], &ours, &theirs);
            assert_eq!(found.is_ok(), is_same, "{theirs:?}");
        }
        let none = Answer(Vec::new());
        assert!(require_same(&QUESTIONS[0], &none, &none).is_err());
        assert!(Answer::read(&json!([[{}]])).is_err());
    }
}
