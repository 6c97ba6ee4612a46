//! The change stream's own rows: its publication, its slot and how far its sinks are, and what a snapshot reads. As
//! `sheaf_cdc`.

mod looks;
mod sinks;

use sheaf_model::{Lineage, Lsn, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::heartbeat::lsn_in;

pub use looks::{
    ListedSink, ListedSlot, PublicationLook, list_sinks, list_slots, look_at_publication,
    read_visible,
};
pub(crate) use sinks::stream_position_in;
pub use sinks::{
    SnapshotPlace, SnapshotStep, StoredSink, begin_snapshot, begin_without_snapshot, find_sink,
    forget_other_sinks, forget_sink, list_ranges, read_running, read_snapshot_rows, store_position,
    store_snapshot_place,
};

/// The publication that the change stream follows.
pub const PUBLICATION: &str = "sheaf_events";

/// What the publication was found as, before it was made what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// As it has to be.
    Unchanged,
    /// Absent.
    Created,
    /// Another one: what a slot showed through it may lack rows.
    Mended,
}

/// Makes the publication what it has to be. Where it was not, slots are forgotten in the same transaction.
pub async fn ensure_publication(cdc: &Pool) -> Result<Publication, PgError> {
    const STEP: &str = "making the publication of changes";
    let sql = include_str!("../sql/changes/ensure_publication.sql");
    let rows = write(cdc, &[Statement::new(STEP, sql, vec![])]).await?;
    match rows[0].first().map(|row| row.get::<_, &str>("outcome")) {
        Some("unchanged") => Ok(Publication::Unchanged),
        Some("created") => Ok(Publication::Created),
        Some("mended") => Ok(Publication::Mended),
        other => Err(PgError::unreadable(STEP, format!("outcome {other:?}"))),
    }
}

/// What there is to know of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLook {
    /// Which cluster was asked.
    pub system_id: u64,
    /// The timeline that it writes on; absent on a standby.
    pub timeline: Option<u32>,
    /// How much log the server keeps for slots; absent where it keeps all.
    pub keep_bytes_max: Option<i64>,
    /// What the server says of the slot; absent where it has none of that name.
    pub slot: Option<ServerSlot>,
    /// What we remember of it; absent where we never made one.
    pub remembered: Option<RememberedSlot>,
}

/// A slot as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSlot {
    /// Its plugin; absent for a physical one.
    pub plugin: Option<String>,
    /// Whether it is of the database that was asked.
    pub is_of_this_database: bool,
    /// Whether somebody follows it.
    pub is_active: bool,
    /// Whether its log is there: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Up to where it was confirmed.
    pub confirmed: Option<Lsn>,
    /// How much more may be written before its log may be lost; absent where none will.
    pub safe_bytes: Option<i64>,
    /// How much log it holds back.
    pub retained_bytes: Option<i64>,
}

/// A slot as we made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedSlot {
    /// Where it was made.
    pub lineage: Lineage,
    /// It shows what commits from here on.
    pub begins_at: Lsn,
    /// Up to where it may have been confirmed.
    pub promised: Lsn,
}

/// Asks the server and our own memory about a slot.
pub async fn look_at_slot(cdc: &Pool, slot: &str) -> Result<SlotLook, PgError> {
    const STEP: &str = "looking at the slot of changes";
    let sql = include_str!("../sql/changes/look_at_slot.sql");
    let statement = Statement::new(STEP, sql, vec![(&slot, Type::TEXT)]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let row = first_row(&rows, STEP)?;
    let timeline = match row.get::<_, Option<&str>>("timeline") {
        Some(text) => {
            Some(u32::from_str_radix(text, 16).map_err(|_| PgError::unreadable(STEP, "timeline"))?)
        }
        None => None,
    };
    let slot = row.get::<_, bool>("is_there").then(|| {
        Ok(ServerSlot {
            plugin: row.get("plugin"),
            is_of_this_database: row.get::<_, Option<bool>>("is_of_this_database") == Some(true),
            is_active: row.get("active"),
            wal_status: row.get("wal_status"),
            confirmed: lsn_in(row, "confirmed_flush_lsn", STEP)?,
            safe_bytes: row.get("safe_wal_size"),
            retained_bytes: row.get("retained_bytes"),
        })
    });
    Ok(SlotLook {
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        timeline,
        keep_bytes_max: row.get("keep_bytes_max"),
        slot: slot.transpose()?,
        remembered: remembered(row, STEP)?,
    })
}

fn remembered(row: &Row, step: &'static str) -> Result<Option<RememberedSlot>, PgError> {
    let Some(system_id) = row.get::<_, Option<i64>>("known_system_id") else {
        return Ok(None);
    };
    Ok(Some(RememberedSlot {
        lineage: Lineage {
            system_id: system_id.cast_unsigned(),
            timeline: timeline_in(row, "known_timeline", step)?,
        },
        begins_at: require_lsn(row, "begins_at", step)?,
        promised: require_lsn(row, "promised_lsn", step)?,
    }))
}

/// Makes a slot. Waits for the transactions that are running to end. Gives back where it begins.
pub async fn create_slot(cdc: &Pool, slot: &str) -> Result<Lsn, PgError> {
    const STEP: &str = "making the slot of changes";
    let sql = include_str!("../sql/changes/create_slot.sql");
    let statement = Statement::new(STEP, sql, vec![(&slot, Type::TEXT)]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let row = first_row(&rows, STEP)?;
    require_lsn(row, "lsn", STEP)
}

/// Removes a slot if there is one. One that somebody follows is not removed.
pub async fn drop_slot(cdc: &Pool, slot: &str) -> Result<(), PgError> {
    let sql = include_str!("../sql/changes/drop_slot.sql");
    let statement = Statement::new(
        "removing the slot of changes",
        sql,
        vec![(&slot, Type::TEXT)],
    );
    let client = cdc.get().await?;
    sheaf_pg::run_alone(&client, &statement).await?;
    Ok(())
}

/// Remembers a slot that was just made, and that its sinks begin anew.
pub async fn remember_slot(
    cdc: &Pool,
    slot: &str,
    timeline: u32,
    begins_at: Lsn,
    now: Timestamp,
) -> Result<(), PgError> {
    let (timeline, begins_at, now) = (i64::from(timeline), begins_at.to_string(), PgTime(now));
    let step = "remembering the slot of changes";
    let forget = include_str!("../sql/changes/forget_sinks.sql");
    let remember = include_str!("../sql/changes/remember_slot.sql");
    let statements = [
        Statement::new(step, forget, vec![(&slot, Type::TEXT)]),
        Statement::new(
            step,
            remember,
            vec![
                (&slot, Type::TEXT),
                (&timeline, Type::INT8),
                (&begins_at, Type::TEXT),
                (&now, Type::TIMESTAMPTZ),
            ],
        ),
    ];
    write(cdc, &statements).await?;
    Ok(())
}

/// Who follows a slot: positions are taken from the last one alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReader {
    /// The slot.
    pub slot: String,
    /// The reader's number.
    pub reader: i64,
}

/// Becomes the reader of a slot that we made. None where there is none.
pub async fn claim_slot(cdc: &Pool, slot: &str) -> Result<Option<SlotReader>, PgError> {
    let sql = include_str!("../sql/changes/claim_slot.sql");
    let step = "claiming the slot of changes";
    let statement = Statement::new(step, sql, vec![(&slot, Type::TEXT)]);
    let rows = write(cdc, &[statement]).await?;
    Ok(rows[0].first().map(|row| SlotReader {
        slot: slot.to_owned(),
        reader: row.get("reader"),
    }))
}

/// Writes down how far the slot is about to be confirmed. False where somebody else has become its reader.
pub async fn promise_position(
    cdc: &Pool,
    reader: &SlotReader,
    position: Lsn,
) -> Result<bool, PgError> {
    let position = position.to_string();
    let sql = include_str!("../sql/changes/promise_position.sql");
    let statement = Statement::new(
        "promising what the slot may forget",
        sql,
        vec![
            (&reader.slot, Type::TEXT),
            (&reader.reader, Type::INT8),
            (&position, Type::TEXT),
        ],
    );
    let rows = write(cdc, &[statement]).await?;
    Ok(!rows[0].is_empty())
}

async fn write(cdc: &Pool, statements: &[Statement<'_>]) -> Result<Vec<Vec<Row>>, PgError> {
    let client = cdc.get().await?;
    sheaf_pg::run(&client, Access::Write, None, statements).await
}

fn require_lsn(row: &Row, column: &str, step: &'static str) -> Result<Lsn, PgError> {
    lsn_in(row, column, step)?.ok_or_else(|| PgError::unreadable(step, column))
}

fn timeline_in(row: &Row, column: &str, step: &'static str) -> Result<u32, PgError> {
    let timeline: i64 = row.get(column);
    u32::try_from(timeline).map_err(|_| PgError::unreadable(step, column))
}
