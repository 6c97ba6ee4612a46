//! Which lineage a transaction reads and writes: what numbers that are remembered must have been learned on.

use sheaf_model::Lineage;
use sheaf_pg::{PgError, Statement};
use tokio_postgres::{Client, Row};

const STEP: &str = "reading the lineage of a transaction";

/// Reads the lineage of a transaction, anywhere in it.
pub fn read_lineage<'a>() -> Statement<'a> {
    Statement::new(
        STEP,
        include_str!("../sql/settings/read_lineage.sql"),
        vec![],
    )
}

/// The lineage in a row that has its columns; none on a standby.
pub fn lineage_of(row: &Row) -> Result<Option<Lineage>, PgError> {
    let Some(timeline) = row.get::<_, Option<&str>>("timeline") else {
        return Ok(None);
    };
    let timeline = u32::from_str_radix(timeline, 16);
    Ok(Some(Lineage {
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        timeline: timeline.map_err(|_| PgError::unreadable(STEP, "timeline"))?,
    }))
}

/// The lineage of the transaction that is open on this connection; none on a standby.
pub async fn fetch_lineage(client: &Client) -> Result<Option<Lineage>, PgError> {
    let statement = read_lineage();
    let rows = client
        .query_typed(statement.sql, &statement.params)
        .await
        .map_err(PgError::statement(STEP))?;
    let row = rows
        .first()
        .ok_or_else(|| PgError::unreadable(STEP, "no row"))?;
    lineage_of(row)
}
