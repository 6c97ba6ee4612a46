//! Up to where history is closed to writes, and up to where it is archived.

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::Row;

/// Up to where history is closed to writes, and up to where the lake answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Boundaries {
    /// What was observed before this is late when it arrives; absent where nothing is closed.
    pub closed_before: Option<Timestamp>,
    /// Events before this are read from the lake, and the late ones from PostgreSQL; absent where nothing is archived.
    pub archived_before: Option<Timestamp>,
}

/// Reads the boundaries, in the transaction and snapshot of whoever asks.
pub fn read_boundaries() -> Statement<'static> {
    let sql = include_str!("../../sql/archive/read_boundaries.sql");
    Statement::new("reading up to where history is archived", sql, vec![])
}

/// The boundaries in the rows of [`read_boundaries`].
pub fn boundaries_of(rows: &[Row]) -> Result<Boundaries, PgError> {
    let row = first_row(rows, "reading up to where history is archived")?;
    let time = |column: &str| row.get::<_, Option<PgTime>>(column).map(|time| time.0);
    Ok(Boundaries {
        closed_before: time("closed_before"),
        archived_before: time("archived_before"),
    })
}

/// The boundaries now, as any role.
pub async fn fetch_boundaries(pool: &Pool) -> Result<Boundaries, PgError> {
    let client = pool.get().await?;
    let rows = sheaf_pg::run_alone(&client, &read_boundaries()).await?;
    boundaries_of(&rows)
}
