//! What the snapshot of a reader's transaction is, and how long its statements may run.

use sheaf_model::{Lsn, Position, Timestamp};
use sheaf_pg::{PgError, PgTime, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::heartbeat::{Beat, beat_of, lsn_in, lsn_of};
use crate::settings::Settings;

/// A snapshot of the primary that an answer was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// A position that covers everything in it.
    pub position: Position,
    /// Everything committed before this instant of the database's clock is in it.
    pub complete_until: Timestamp,
}

/// Reads the snapshot of a transaction on the primary, anywhere in it.
pub fn read_snapshot<'a>() -> Statement<'a> {
    Statement::new(
        "reading the snapshot of a transaction",
        include_str!("../sql/snapshot/read_snapshot.sql"),
        vec![],
    )
}

/// The snapshot in the rows of [`read_snapshot`].
///
/// # Errors
/// [`PgError::NotPrimary`] where the server is a standby.
pub fn snapshot_of(rows: &[Row], settings: &Settings) -> Result<Snapshot, PgError> {
    const STEP: &str = "reading the snapshot of a transaction";
    let row = first_row(rows, STEP)?;
    if row.get::<_, Option<&str>>("timeline").is_none() {
        return Err(PgError::NotPrimary {
            step: STEP,
            why: "a standby",
        });
    }
    let (position, complete_until) = settings.position(row)?;
    Ok(Snapshot {
        position,
        complete_until,
    })
}

/// How far a standby had come before a transaction began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Everything up to here is in the snapshot of a transaction that begins afterwards; absent where nothing was
    /// replayed.
    pub lsn: Option<Lsn>,
    /// When the server was started.
    pub started_at: Timestamp,
}

/// Reads how far a standby has come, in front of the transaction that relies on it.
pub fn read_replayed<'a>() -> Statement<'a> {
    Statement::new(
        REPLAYED,
        include_str!("../sql/snapshot/read_replayed.sql"),
        vec![],
    )
}

const REPLAYED: &str = "reading how far a standby has replayed";

/// What is in the rows of [`read_replayed`].
pub fn replayed_of(rows: &[Row]) -> Result<Replayed, PgError> {
    let row = first_row(rows, REPLAYED)?;
    Ok(Replayed {
        lsn: lsn_of(row, REPLAYED)?,
        started_at: row.get::<_, PgTime>("started_at").0,
    })
}

/// The snapshot of a transaction on a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether the server still follows: one that was promoted before the snapshot does not.
    pub in_recovery: bool,
    /// Which cluster it is of.
    pub system_id: u64,
    /// When it was started.
    pub started_at: Timestamp,
    /// The snapshot is of nothing beyond this position; absent where nothing was replayed.
    pub covered: Option<Lsn>,
    /// The last heartbeat in the snapshot.
    pub beat: Option<Beat>,
}

/// Reads the snapshot of a transaction on a standby, after its snapshot was taken.
pub fn read_standing<'a>() -> Statement<'a> {
    Statement::new(
        STANDING,
        include_str!("../sql/snapshot/read_standing.sql"),
        vec![],
    )
}

const STANDING: &str = "reading the snapshot of a standby";

/// What is in the rows of [`read_standing`].
pub fn standing_of(rows: &[Row]) -> Result<Standing, PgError> {
    let row = first_row(rows, STANDING)?;
    let is_behind = row.get::<_, Option<bool>>("is_behind").unwrap_or(false);
    let replayed = lsn_of(row, STANDING)?;
    Ok(Standing {
        in_recovery: row.get("in_recovery"),
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        started_at: row.get::<_, PgTime>("started_at").0,
        covered: replayed.map(|Lsn(replayed)| Lsn(replayed + u64::from(is_behind))),
        beat: beat_of(row, STANDING)?,
    })
}

/// How far a server had come before it looked for the entity of [`read_entity_alone`](crate::documents::read_entity_alone):
/// everything up to here is in what it found.
pub fn covered_by(row: &Row) -> Result<Option<Lsn>, PgError> {
    lsn_in(row, "covers", "reading an entity")
}

/// Limits each further statement of the transaction to this time, such as `10s`.
pub fn limit_time<'a>(time_max: &'a &'a str) -> Statement<'a> {
    Statement::new(
        "limiting the time of statements",
        include_str!("../sql/snapshot/limit_time.sql"),
        vec![(time_max, Type::TEXT)],
    )
}

/// The same, and keeps them to one process, and to plans that are run as they are.
pub fn plan_page<'a>(time_max: &'a &'a str) -> Statement<'a> {
    Statement::new(
        "keeping a page to one process",
        include_str!("../sql/snapshot/plan_page.sql"),
        vec![(time_max, Type::TEXT)],
    )
}

/// Lets further statements of the transaction take as many processes as the session is configured for, and memory for what
/// they gather.
pub fn plan_whole<'a>() -> Statement<'a> {
    Statement::new(
        "letting statements go through everything",
        include_str!("../sql/snapshot/plan_whole.sql"),
        vec![],
    )
}
