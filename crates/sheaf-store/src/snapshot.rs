//! What the snapshot of a reader's transaction is, and how long its statements may run.

use sheaf_model::{Position, Timestamp};
use sheaf_pg::{PgError, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::settings::Settings;

/// A snapshot that an answer was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// A position that covers everything in it.
    pub position: Position,
    /// Everything committed before this instant of the database's clock is in it.
    pub complete_until: Timestamp,
}

/// Reads the snapshot of a transaction, anywhere in it.
pub fn read_snapshot<'a>() -> Statement<'a> {
    Statement::new(
        "reading the snapshot of a transaction",
        include_str!("../sql/snapshot/read_snapshot.sql"),
        vec![],
    )
}

/// The snapshot in the rows of [`read_snapshot`].
pub fn snapshot_of(rows: &[Row], settings: &Settings) -> Result<Snapshot, PgError> {
    let row = rows
        .first()
        .ok_or_else(|| PgError::unreadable("reading the snapshot of a transaction", "no row"))?;
    let (position, complete_until) = settings.position(row)?;
    Ok(Snapshot {
        position,
        complete_until,
    })
}

/// Limits each further statement of the transaction to this time, such as `10s`.
pub fn limit_time<'a>(time_max: &'a &'a str) -> Statement<'a> {
    Statement::new(
        "limiting the time of statements",
        include_str!("../sql/snapshot/limit_time.sql"),
        vec![(time_max, Type::TEXT)],
    )
}
