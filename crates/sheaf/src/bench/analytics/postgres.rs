//! PostgreSQL over the table of events, as the superuser asks it.

use anyhow::{Context, Result};

use super::answers::{Answer, Cell};
use crate::bench::world::World;

/// The answer to a question.
pub(super) async fn ask(world: &World, sql: &str) -> Result<Answer> {
    let rows = world.client.query(sql, &[]).await;
    let rows = rows.with_context(|| format!("asking PostgreSQL: {sql}"))?;
    let mut answer = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut cells = Vec::with_capacity(row.len());
        for (place, column) in row.columns().iter().enumerate() {
            cells.push(match *column.type_() {
                tokio_postgres::types::Type::INT8 => {
                    let number: Option<i64> = row.try_get(place)?;
                    number.map_or(Cell::Nothing, |number| Cell::Number(number as f64))
                }
                tokio_postgres::types::Type::FLOAT8 => {
                    let number: Option<f64> = row.try_get(place)?;
                    number.map_or(Cell::Nothing, Cell::Number)
                }
                _ => {
                    let text: Option<String> = row.try_get(place)?;
                    text.map_or(Cell::Nothing, Cell::Text)
                }
            });
        }
        answer.push(cells);
    }
    Ok(Answer(answer))
}
