//! The heartbeat, and what a server shows of it: which history it has, and how old that is.

use std::time::Duration;

use sheaf_model::{Lsn, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row, run};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// Beats, unless somebody has within this time.
pub async fn beat(upkeep: &Pool, unless_within: Duration) -> Result<(), PgError> {
    let micros = i64::try_from(unless_within.as_micros()).unwrap_or(i64::MAX);
    let statement = Statement::new(
        "writing the heartbeat",
        include_str!("../sql/heartbeat/beat.sql"),
        vec![(&micros, Type::INT8)],
    );
    let client = upkeep.get().await?;
    run(&client, Access::Write, None, &[statement]).await?;
    Ok(())
}

/// A heartbeat, as it is seen somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The primary's clock when it was written. Everything committed before is there where the beat is.
    pub at: Timestamp,
    /// The timeline that the primary was on.
    pub timeline: u32,
}

/// What a server is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Which cluster it is of.
    pub system_id: u64,
    /// Its part, and how far its history has come.
    pub part: Part,
    /// Its version, such as 150004.
    pub server_version: u32,
    /// When it was started: another time is another server, or a restart.
    pub started_at: Timestamp,
    /// Its clock.
    pub clock: Timestamp,
    /// The last heartbeat that it shows; absent before the first.
    pub beat: Option<Beat>,
}

/// What a server takes part as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It takes writes.
    Primary {
        /// The timeline.
        timeline: u32,
        /// How far the history has come.
        written: Lsn,
    },
    /// It follows.
    Standby {
        /// Everything up to here is seen; absent where nothing was replayed since the start.
        replayed: Option<Lsn>,
    },
}

const LOOKING: &str = "looking at a server";

/// Looks at the server that a connection leads to.
pub async fn look(client: &Client) -> Result<Look, PgError> {
    let rows = client
        .query_typed(include_str!("../sql/heartbeat/look.sql"), &[])
        .await
        .map_err(PgError::statement(LOOKING))?;
    let row = first_row(&rows, LOOKING)?;
    let lsn = lsn_of(row, LOOKING)?;
    let part = if row.get("in_recovery") {
        Part::Standby { replayed: lsn }
    } else {
        Part::Primary {
            timeline: timeline_of(row, LOOKING)?,
            written: lsn.ok_or_else(|| PgError::unreadable(LOOKING, "lsn"))?,
        }
    };
    Ok(Look {
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        part,
        server_version: row
            .get::<_, i32>("server_version")
            .try_into()
            .map_err(|_| PgError::unreadable(LOOKING, "server_version"))?,
        started_at: row.get::<_, PgTime>("started_at").0,
        clock: row.get::<_, PgTime>("clock").0,
        beat: beat_of(row, LOOKING)?,
    })
}

/// The heartbeat in the columns `beat_at` and `beat_timeline`.
pub(crate) fn beat_of(row: &Row, step: &'static str) -> Result<Option<Beat>, PgError> {
    let at = row.get::<_, Option<PgTime>>("beat_at");
    let timeline = row.get::<_, Option<i64>>("beat_timeline");
    let (Some(at), Some(timeline)) = (at, timeline) else {
        return Ok(None);
    };
    Ok(Some(Beat {
        at: at.0,
        timeline: u32::try_from(timeline)
            .map_err(|_| PgError::unreadable(step, "beat_timeline"))?,
    }))
}

/// The position in the column `lsn`.
pub(crate) fn lsn_of(row: &Row, step: &'static str) -> Result<Option<Lsn>, PgError> {
    lsn_in(row, "lsn", step)
}

/// The position in a column.
pub(crate) fn lsn_in(row: &Row, column: &str, step: &'static str) -> Result<Option<Lsn>, PgError> {
    let Some(lsn) = row.get::<_, Option<&str>>(column) else {
        return Ok(None);
    };
    let lsn = lsn.parse().map_err(|_| PgError::unreadable(step, lsn))?;
    Ok(Some(lsn))
}

/// The timeline in the column `timeline`, as a log file's name has it.
fn timeline_of(row: &Row, step: &'static str) -> Result<u32, PgError> {
    let timeline: Option<&str> = row.get("timeline");
    timeline
        .and_then(|timeline| u32::from_str_radix(timeline, 16).ok())
        .ok_or_else(|| PgError::unreadable(step, "timeline"))
}
