//! What is asked about the change stream without changing anything.

use std::time::Duration;

use sheaf_model::{ChangePosition, Position};
use sheaf_pg::{PgError, Pool, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::sinks::{SnapshotStep, step_in, stream_position_in};
use crate::settings::Settings;

/// The publication as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationLook {
    /// Whether there is one.
    pub is_there: bool,
    /// What of it is not as it has to be, in words.
    pub faults: Vec<String>,
}

/// Looks at the publication. Nothing is mended.
pub async fn look_at_publication(pool: &Pool) -> Result<PublicationLook, PgError> {
    const STEP: &str = "looking at the publication of changes";
    let sql = include_str!("../../sql/changes/look_at_publication.sql");
    let rows = ask(pool, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    Ok(PublicationLook {
        is_there: row.get("is_there"),
        faults: row.get("faults"),
    })
}

/// A slot of the database that something reads as the change stream does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSlot {
    /// Its name.
    pub name: String,
    /// Whether somebody follows it.
    pub is_active: bool,
    /// How much log it holds back.
    pub retained_bytes: Option<i64>,
    /// Whether the change stream made it, as far as it is remembered.
    pub is_ours: bool,
}

/// The first hundred of them.
pub async fn list_slots(pool: &Pool) -> Result<Vec<ListedSlot>, PgError> {
    const STEP: &str = "listing the slots of the database";
    let sql = include_str!("../../sql/changes/list_slots.sql");
    let rows = ask(pool, &Statement::new(STEP, sql, vec![])).await?;
    let listed = rows.iter().map(|row| ListedSlot {
        name: row.get("slot_name"),
        is_active: row.get("active"),
        retained_bytes: row.get("retained_bytes"),
        is_ours: row.get("is_ours"),
    });
    Ok(listed.collect())
}

/// How far a sink is, beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSink {
    /// Its name.
    pub name: String,
    /// The table that its snapshot is in.
    pub step: SnapshotStep,
    /// How many rows of its snapshot it holds.
    pub snapshot_rows: u64,
    /// The last change of the stream that it holds; absent before the first.
    pub position: Option<ChangePosition>,
    /// By how much log it is behind the sink that is furthest.
    pub behind_bytes: i64,
    /// For how long nothing was stored of it, by the server's clock.
    pub still_for: Duration,
}

/// The first hundred sinks of a slot.
pub async fn list_sinks(pool: &Pool, slot: &str) -> Result<Vec<ListedSink>, PgError> {
    const STEP: &str = "listing how far sinks are";
    let sql = include_str!("../../sql/changes/list_sinks.sql");
    let statement = Statement::new(STEP, sql, vec![(&slot, Type::TEXT)]);
    let rows = ask(pool, &statement).await?;
    let listed = rows.iter().map(|row| {
        Ok(ListedSink {
            name: row.get("sink_name"),
            step: step_in(row, STEP)?,
            snapshot_rows: row.get::<_, i64>("snapshot_ordinal").cast_unsigned(),
            position: stream_position_in(row, STEP)?,
            behind_bytes: row.get("behind_bytes"),
            // A clock that was set back makes nothing wait.
            still_for: Duration::from_millis(
                u64::try_from(row.get::<_, i64>("still_ms")).unwrap_or(0),
            ),
        })
    });
    listed.collect()
}

/// Which transactions are visible now, as PostgreSQL writes a snapshot, and a position that whoever is past it sees them at.
pub async fn read_visible(pool: &Pool, settings: &Settings) -> Result<(String, Position), PgError> {
    const STEP: &str = "reading which transactions are visible";
    let sql = include_str!("../../sql/changes/read_visible.sql");
    let rows = ask(pool, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    Ok((row.get("visible"), settings.position(row)?.0))
}

async fn ask(pool: &Pool, statement: &Statement<'_>) -> Result<Vec<Row>, PgError> {
    let client = pool.get().await?;
    sheaf_pg::run_alone(&client, statement).await
}
