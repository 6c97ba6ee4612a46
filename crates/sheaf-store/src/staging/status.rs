//! What is true of a request that was staged.

use sheaf_model::{BatchId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::ledger::{Counts, counts_of};
use crate::scope::TenantScope;

/// What is true of a request that was acknowledged as staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagedState {
    /// It waits for its flush, or its flush is not known to be on disk yet.
    Staged,
    /// Its flush is on disk.
    Durable,
    /// A recovery of PostgreSQL took it before its flush was on disk. Nothing of it is stored.
    Lost,
    /// The database does not know the id, which is of a time whose registrations a recovery may have taken. Nothing of it
    /// is stored, unless it is older than the horizon of the ledger: what that has forgotten may have been durable.
    Unknown,
}

impl StagedState {
    const ALL: [StagedState; 4] = [
        StagedState::Staged,
        StagedState::Durable,
        StagedState::Lost,
        StagedState::Unknown,
    ];

    /// The state's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            StagedState::Staged => "staged",
            StagedState::Durable => "durable",
            StagedState::Lost => "lost",
            StagedState::Unknown => "unknown",
        }
    }
}

/// The state of a batch with what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedStatus {
    /// What is true of it.
    pub state: StagedState,
    /// How many events the request held.
    pub events: i64,
    /// What they came to; before the flush, `values` is what was staged and `refused` what was refused before.
    pub counts: Counts,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// When it was flushed, once that is on disk.
    pub durable_at: Option<Timestamp>,
}

/// What is true of a batch; absent if none with this id was staged.
pub async fn fetch_staged_status(
    app: &Pool,
    scope: &TenantScope,
    batch: BatchId,
) -> Result<Option<StagedStatus>, PgError> {
    let tenant = scope.tenant().0;
    let statement = Statement::new(
        "finding a staged batch",
        include_str!("../../sql/staging/find_staged_batch.sql"),
        vec![(&tenant, Type::INT8), (&batch.0, Type::UUID)],
    );
    let rows = scope.run_one(app, Access::Read, statement).await?;
    rows.first().map(status_of).transpose()
}

fn status_of(row: &Row) -> Result<StagedStatus, PgError> {
    let state: &str = row.get("state");
    Ok(StagedStatus {
        state: StagedState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| PgError::unreadable("reading the state of a batch", state))?,
        events: i64::from(row.get::<_, i32>("events")),
        counts: counts_of(row),
        received_at: row.get::<_, PgTime>("received_at").0,
        durable_at: row
            .get::<_, Option<PgTime>>("durable_at")
            .map(|time| time.0),
    })
}

/// A request that was acknowledged as staged, as its retry needs it: the same before and after its flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedRequest {
    /// Its number.
    pub batch: BatchId,
    /// What was asked.
    pub request_hash: Vec<u8>,
    /// How many events it held.
    pub events: i64,
    /// How many of them were refused before anything was staged.
    pub refused: i64,
    /// How many values the staged ones name.
    pub values: i64,
}
