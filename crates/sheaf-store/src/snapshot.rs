//! What the snapshot of a reader's transaction is, and how long its statements may run.

use sheaf_model::{Position, TenantId, Timestamp};
use sheaf_pg::{PgError, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::settings::Settings;

/// A snapshot that answers were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// A position that covers everything in it.
    pub position: Position,
    /// Everything committed before this instant of the database's clock is in it.
    pub complete_until: Timestamp,
    /// The version of the tenant's catalogue; absent where the role sees no tenants, or there is no such tenant.
    pub catalogue_version: Option<i64>,
}

/// Reads the snapshot of a transaction of `sheaf_app`, anywhere in it.
pub fn read_snapshot(tenant: &TenantId) -> Statement<'_> {
    Statement::new(
        "reading the snapshot of a transaction",
        include_str!("../sql/snapshot/read_snapshot.sql"),
        vec![(&tenant.0, Type::INT8)],
    )
}

/// Reads the snapshot of a transaction of `sheaf_search`, without the catalogue's version.
pub fn read_search_snapshot<'a>() -> Statement<'a> {
    Statement::new(
        "reading the snapshot of a search",
        include_str!("../sql/snapshot/read_search_snapshot.sql"),
        vec![],
    )
}

/// The snapshot in the rows of one of these statements.
pub fn snapshot_of(rows: &[Row], settings: &Settings) -> Result<Snapshot, PgError> {
    let row = rows.first().ok_or_else(|| {
        PgError::unreadable("reading the snapshot of a transaction", "no row")
    })?;
    let (position, complete_until) = settings.position(row)?;
    // A search's row lacks the column.
    let catalogue_version = row.try_get("catalogue_version").ok().flatten();
    Ok(Snapshot {
        position,
        complete_until,
        catalogue_version,
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
