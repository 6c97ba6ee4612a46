//! Staged requests: acknowledged before they are durable, in a table that no recovery of PostgreSQL keeps; the flush that
//! makes them durable; and what is true of each at any time.
//!
//! A request is registered in a logged table in the transaction that stages its events, and its commit waits for nothing.
//! What a recovery takes back is therefore always the end of it: the staged events of all batches, and the registrations
//! of the last moments.

mod copy;
mod status;

use futures::join;
use sheaf_model::{BatchId, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, Unfinished, first_row};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::ledger::{LedgerEntry, lock_key};
use crate::lineage::fetch_lineage;
use crate::rejections::{NewRejection, insert_rejections};
use crate::scope::TenantScope;

pub use copy::StagedCopy;
pub use status::{StagedRequest, StagedState, StagedStatus, fetch_staged_status};

/// What a loss, if one was found, left of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingEpoch {
    /// The number of the epoch: one more than there have been losses.
    pub epoch: i64,
    /// How many batches the loss that was just found took; 0 if there was none.
    pub batches_lost: i64,
}

/// A batch as the server that staged it remembers it until its registration is known to be on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedBatch {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its number.
    pub batch: BatchId,
    /// The epoch in which it was staged.
    pub epoch: i64,
    /// How many events the request held.
    pub events: i32,
    /// How many of them were refused before anything was staged.
    pub refused: i32,
    /// How many were staged.
    pub staged_events: i32,
    /// How many values they name.
    pub values: i64,
    /// When the request arrived.
    pub received_at: Timestamp,
}

/// How staging a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageOutcome {
    /// It is staged.
    Staged(StagedBatch),
    /// Its key was taken before: a retry.
    AlreadyThere,
    /// Its entities were numbered on another lineage.
    OtherLineage,
    /// What was staged before is lost and nobody has said so yet: [`detect_loss`], and then again.
    LossUnnoticed,
}

/// Stages a request: its registration, its refusals and its events, in one transaction whose commit waits for no disk.
/// `entry.buckets` are the buckets of the events, ascending.
pub async fn stage(
    writer: &Pool,
    scope: &TenantScope,
    entry: &LedgerEntry,
    rejections: &[NewRejection],
    events: StagedCopy,
) -> Result<StageOutcome, PgError> {
    // Who asks for this may be gone before it ends; and where nothing is staged, the transaction is open.
    let client = Unfinished::new(writer.get().await?);
    let outcome = stage_on(&client, scope, entry, rejections, events).await?;
    if matches!(outcome, StageOutcome::Staged(_)) {
        client.rest();
    }
    Ok(outcome)
}

const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '5s'; \
                     SET LOCAL statement_timeout = '60s'";

async fn stage_on(
    client: &Client,
    scope: &TenantScope,
    entry: &LedgerEntry,
    rejections: &[NewRejection],
    events: StagedCopy,
) -> Result<StageOutcome, PgError> {
    const REGISTERING: &str = "registering a staged batch";
    let staged = StagedBatch {
        tenant: scope.tenant(),
        batch: entry.batch,
        epoch: 0,
        events: entry.events,
        refused: entry.refused,
        staged_events: i32::try_from(events.rows()).unwrap_or(i32::MAX),
        values: events.values(),
        received_at: entry.received_at,
    };
    let buckets = array(&entry.buckets);
    let received_at = PgTime(entry.received_at);
    let hash = entry.request_hash.as_slice();
    let register: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 10] = [
        (&staged.tenant.0, Type::INT8),
        (&staged.batch.0, Type::UUID),
        (&entry.request_key, Type::TEXT),
        (&hash, Type::BYTEA),
        (&staged.events, Type::INT4),
        (&staged.refused, Type::INT4),
        (&staged.staged_events, Type::INT4),
        (&staged.values, Type::INT8),
        (&buckets, Type::TEXT),
        (&received_at, Type::TIMESTAMPTZ),
    ];
    let key = [
        (
            &staged.tenant.0 as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::INT8,
        ),
        (&entry.request_key, Type::TEXT),
    ];
    // All of it leaves in one go.
    let (begun, lineage, locked, registered, in_ledger) = join!(
        client.batch_execute(BEGIN),
        fetch_lineage(client),
        async {
            if entry.has_key() {
                lock_key(client, entry).await?;
            }
            Ok::<(), PgError>(())
        },
        client.query_typed(include_str!("../sql/staging/register_batch.sql"), &register),
        client.query_typed(include_str!("../sql/staging/is_in_ledger.sql"), &key),
    );
    begun.map_err(PgError::statement("beginning to stage a batch"))?;
    if entry.is_of_other(lineage?) {
        return Ok(StageOutcome::OtherLineage);
    }
    locked?;
    let registered = registered.map_err(PgError::statement(REGISTERING))?;
    let in_ledger = in_ledger.map_err(PgError::statement("looking for a key in the ledger"))?;
    let row = first_row(&registered, REGISTERING)?;
    let Some(epoch) = row.get::<_, Option<i64>>("epoch") else {
        return Ok(StageOutcome::LossUnnoticed);
    };
    let is_taken = row.get::<_, Option<Uuid>>("batch_id").is_none()
        || first_row(&in_ledger, REGISTERING)?.get::<_, bool>("is_taken");
    if is_taken {
        return Ok(StageOutcome::AlreadyThere);
    }
    insert_rejections(client, scope, entry.batch, entry.received_at, rejections).await?;
    events.send(client).await?;
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(PgError::statement("committing a staged batch"))?;
    Ok(StageOutcome::Staged(StagedBatch { epoch, ..staged }))
}

/// An array literal.
fn array(numbers: &[i32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Batches that are staged no more.
    pub batches: i64,
    /// Their events.
    pub events: i64,
    /// Those of them that brought nothing new.
    pub duplicates: i64,
    /// Those that added attributes to a stored instant.
    pub merged: i64,
    /// Those that changed a stored value.
    pub corrected: i64,
}

/// Moves staged batches into history and documents, the oldest first: whole batches until there are `events_max` events.
/// Its commit waits for no disk; [`confirm`] tells when it is there.
pub async fn flush(writer: &Pool, events_max: i32) -> Result<Flushed, PgError> {
    const STEP: &str = "flushing staged batches";
    let client = writer.get().await?;
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] =
        [(&events_max, Type::INT4)];
    // It waits for a bucket with others in its hands, which lanes want; it is tried again soon.
    let (begun, rows, committed) = join!(
        client.batch_execute(
            "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '2s'; \
             SET LOCAL statement_timeout = '120s'"
        ),
        client.query_typed(include_str!("../sql/staging/flush_staged.sql"), &params),
        client.batch_execute("COMMIT"),
    );
    let rows = begun.and(rows).map_err(PgError::statement(STEP))?;
    committed.map_err(PgError::statement("committing a flush"))?;
    let row = first_row(&rows, STEP)?;
    Ok(Flushed {
        batches: row.get("batches"),
        events: row.get("events"),
        duplicates: row.get("duplicates"),
        merged: row.get("merged"),
        corrected: row.get("corrected"),
    })
}

/// What waits for a flush.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Backlog {
    /// How many batches.
    pub batches: i64,
    /// How many events.
    pub events: i64,
    /// How many of the batches are flushed by themselves, because flushes with them have failed.
    pub put_aside: i64,
    /// For how long the oldest of the others has waited, or of all, if many are put aside; 0 if there is none.
    pub oldest_seconds: f64,
}

/// Reads the backlog of all servers.
pub async fn read_backlog(writer: &Pool) -> Result<Backlog, PgError> {
    const STEP: &str = "measuring what is staged";
    let sql = include_str!("../sql/staging/measure_backlog.sql");
    let rows = run_one(writer, Access::Read, Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    Ok(Backlog {
        batches: row.get("batches"),
        events: row.get("events"),
        put_aside: row.get("put_aside"),
        oldest_seconds: row.get("oldest_seconds"),
    })
}

/// The epoch of what is staged. Where a recovery has emptied the staging table, or a dump was restored into another cluster,
/// a new one: the batches of the one before are lost from here on.
pub async fn detect_loss(writer: &Pool) -> Result<StagingEpoch, PgError> {
    const STEP: &str = "looking for a loss of what was staged";
    let sql = include_str!("../sql/staging/detect_loss.sql");
    let rows = run_one(writer, Access::Write, Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    Ok(StagingEpoch {
        epoch: row.get("epoch"),
        batches_lost: row.get("batches_lost"),
    })
}

/// How far commits that did not wait for the disk are known to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// When somebody looked last at what had committed; absent before a loss is noticed.
    pub seen_at: Option<Timestamp>,
    /// What had committed by then is on disk.
    pub confirmed_at: Timestamp,
}

/// Confirms what had committed at the last call, if it is on disk by now, and looks again.
pub async fn confirm(writer: &Pool) -> Result<Confirmation, PgError> {
    const STEP: &str = "confirming flushes";
    let client = writer.get().await?;
    let sql = include_str!("../sql/staging/confirm_staging.sql");
    let (begun, rows, committed) = join!(
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = off"),
        client.query_typed(sql, &[]),
        client.batch_execute("COMMIT"),
    );
    let rows = begun.and(rows).map_err(PgError::statement(STEP))?;
    committed.map_err(PgError::statement(STEP))?;
    let row = first_row(&rows, STEP)?;
    Ok(Confirmation {
        seen_at: row.get::<_, Option<PgTime>>("seen_at").map(|time| time.0),
        confirmed_at: row.get::<_, PgTime>("confirmed_at").0,
    })
}

/// Remembers as lost those of these batches that a loss took together with their registration. Others stay as they are.
pub async fn mark_lost(writer: &Pool, batches: &[StagedBatch]) -> Result<(), PgError> {
    if batches.is_empty() {
        return Ok(());
    }
    let tenants: Vec<i64> = batches.iter().map(|batch| batch.tenant.0).collect();
    let ids: Vec<Uuid> = batches.iter().map(|batch| batch.batch.0).collect();
    let epochs: Vec<i64> = batches.iter().map(|batch| batch.epoch).collect();
    let events: Vec<i32> = batches.iter().map(|batch| batch.events).collect();
    let refused: Vec<i32> = batches.iter().map(|batch| batch.refused).collect();
    let staged: Vec<i32> = batches.iter().map(|batch| batch.staged_events).collect();
    let values: Vec<i64> = batches.iter().map(|batch| batch.values).collect();
    let received: Vec<PgTime> = batches
        .iter()
        .map(|batch| PgTime(batch.received_at))
        .collect();
    let statement = Statement::new(
        "remembering lost batches",
        include_str!("../sql/staging/mark_lost.sql"),
        vec![
            (&tenants, Type::INT8_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&epochs, Type::INT8_ARRAY),
            (&events, Type::INT4_ARRAY),
            (&refused, Type::INT4_ARRAY),
            (&staged, Type::INT4_ARRAY),
            (&values, Type::INT8_ARRAY),
            (&received, Type::TIMESTAMPTZ_ARRAY),
        ],
    );
    run_one(writer, Access::Write, statement).await.map(drop)
}

async fn run_one(
    pool: &Pool,
    access: Access,
    statement: Statement<'_>,
) -> Result<Vec<Row>, PgError> {
    let client = pool.get().await?;
    let mut rows = sheaf_pg::run(&client, access, None, &[statement]).await?;
    Ok(rows.pop().unwrap_or_default())
}
