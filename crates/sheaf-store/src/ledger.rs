//! The ledger of write requests: claimed by the first, found by every retry; and the locks of the buckets.

use sheaf_model::{BatchId, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::scope::TenantScope;

/// What became of a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, at least in part, or nothing new but nothing wrong.
    Stored,
    /// Nothing stored: every event was bad.
    AllRefused,
    /// Nothing stored: one value was bad, and the request asked for all or nothing.
    BatchRefused,
}

impl Outcome {
    const ALL: [Outcome; 3] = [Outcome::Stored, Outcome::AllRefused, Outcome::BatchRefused];

    fn as_str(self) -> &'static str {
        match self {
            Outcome::Stored => "stored",
            Outcome::AllRefused => "all_refused",
            Outcome::BatchRefused => "batch_refused",
        }
    }
}

/// A request as the ledger first sees it.
#[derive(Debug, Clone)]
pub struct LedgerEntry {
    /// Whose it is.
    pub tenant: TenantId,
    /// What finds it again.
    pub request_key: String,
    /// Its number.
    pub batch: BatchId,
    /// The hash of what was asked; empty where no retry can name the request.
    pub request_hash: Vec<u8>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the answer promises.
    pub ack: &'static str,
    /// How many events it held.
    pub events: i32,
    /// How many of them were refused before anything was written.
    pub refused: i32,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When it is written.
    pub durable_at: Timestamp,
}

/// What one bucket's part of a request, or all of them together, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Values in stored events, duplicates included.
    pub values: i64,
    /// Events that were new.
    pub accepted: i64,
    /// Events that brought nothing new.
    pub duplicates: i64,
    /// Events that added attributes to a stored instant.
    pub merged: i64,
    /// Events that changed a stored value.
    pub corrected: i64,
    /// Events that could not be stored beside what was there.
    pub refused: i64,
}

/// A request found in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRecord {
    /// Its number.
    pub batch: BatchId,
    /// What was asked.
    pub request_hash: Vec<u8>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the answer promised.
    pub ack: String,
    /// How many events it held.
    pub events: i64,
    /// The sum of its parts; `refused` counts all refused events.
    pub counts: Counts,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When it was written.
    pub durable_at: Timestamp,
}

/// Takes the locks of these buckets, given in ascending order, until the transaction ends.
pub async fn lock_buckets(client: &Client, buckets: &[i32]) -> Result<(), PgError> {
    client
        .query_typed(
            include_str!("../sql/ledger/lock_buckets.sql"),
            &[(&buckets, Type::INT4_ARRAY)],
        )
        .await
        .map_err(PgError::statement("locking buckets"))
        .map(drop)
}

/// Claims a request's place. False where it was claimed before: a retry.
pub async fn claim_request(client: &Client, entry: &LedgerEntry) -> Result<bool, PgError> {
    let rows = client
        .query_typed(
            include_str!("../sql/ledger/claim_request.sql"),
            &[
                (&entry.tenant.0, Type::INT8),
                (&entry.request_key, Type::TEXT),
                (&entry.batch.0, Type::UUID),
                (&entry.request_hash.as_slice(), Type::BYTEA),
                (&entry.outcome.as_str(), Type::TEXT),
                (&entry.ack, Type::TEXT),
                (&entry.events, Type::INT4),
                (&entry.refused, Type::INT4),
                (&PgTime(entry.received_at), Type::TIMESTAMPTZ),
                (&PgTime(entry.durable_at), Type::TIMESTAMPTZ),
            ],
        )
        .await
        .map_err(PgError::statement("claiming a request in the ledger"))?;
    Ok(!rows.is_empty())
}

/// Writes what each bucket's part came to.
pub async fn insert_parts(
    client: &Client,
    entry: &LedgerEntry,
    parts: &[(i32, Counts)],
) -> Result<(), PgError> {
    if parts.is_empty() {
        return Ok(());
    }
    let buckets: Vec<i32> = parts.iter().map(|(bucket, _)| *bucket).collect();
    let values: Vec<i64> = parts.iter().map(|(_, counts)| counts.values).collect();
    let column = |of: fn(&Counts) -> i64| -> Vec<i32> {
        parts
            .iter()
            .map(|(_, counts)| i32::try_from(of(counts)).unwrap_or(i32::MAX))
            .collect()
    };
    client
        .execute_typed(
            include_str!("../sql/ledger/insert_parts.sql"),
            &[
                (&entry.tenant.0, Type::INT8),
                (&entry.request_key, Type::TEXT),
                (&buckets, Type::INT4_ARRAY),
                (&values, Type::INT8_ARRAY),
                (&column(|counts| counts.accepted), Type::INT4_ARRAY),
                (&column(|counts| counts.duplicates), Type::INT4_ARRAY),
                (&column(|counts| counts.merged), Type::INT4_ARRAY),
                (&column(|counts| counts.corrected), Type::INT4_ARRAY),
                (&column(|counts| counts.refused), Type::INT4_ARRAY),
            ],
        )
        .await
        .map_err(PgError::statement("writing the parts of a request"))
        .map(drop)
}

/// The request with this key.
pub async fn fetch_request(
    app: &Pool,
    scope: &TenantScope,
    request_key: &str,
) -> Result<Option<LedgerRecord>, PgError> {
    let tenant = scope.tenant().0;
    let sql = include_str!("../sql/ledger/find_request.sql");
    let params: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        vec![(&tenant, Type::INT8), (&request_key, Type::TEXT)];
    let rows = scope
        .run_one(
            app,
            Access::Read,
            Statement::new("finding a request", sql, params),
        )
        .await?;
    rows.first().map(record_of).transpose()
}

/// The request with this batch id.
pub async fn fetch_batch(
    app: &Pool,
    scope: &TenantScope,
    batch: BatchId,
) -> Result<Option<LedgerRecord>, PgError> {
    let tenant = scope.tenant().0;
    let sql = include_str!("../sql/ledger/find_batch.sql");
    let params: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        vec![(&tenant, Type::INT8), (&batch.0, Type::UUID)];
    let rows = scope
        .run_one(
            app,
            Access::Read,
            Statement::new("finding a batch", sql, params),
        )
        .await?;
    rows.first().map(record_of).transpose()
}

fn record_of(row: &Row) -> Result<LedgerRecord, PgError> {
    let outcome: &str = row.get("outcome");
    let refused = i64::from(row.get::<_, i32>("refused")) + row.get::<_, i64>("refused_late");
    Ok(LedgerRecord {
        batch: BatchId(row.get("batch_id")),
        request_hash: row.get("request_hash"),
        outcome: Outcome::ALL
            .into_iter()
            .find(|known| known.as_str() == outcome)
            .ok_or_else(|| PgError::unreadable("reading the ledger", outcome))?,
        ack: row.get("ack"),
        events: i64::from(row.get::<_, i32>("events")),
        counts: Counts {
            values: row.get("value_count"),
            accepted: row.get("accepted"),
            duplicates: row.get("duplicates"),
            merged: row.get("merged"),
            corrected: row.get("corrected"),
            refused,
        },
        received_at: row.get::<_, PgTime>("received_at").0,
        durable_at: row.get::<_, PgTime>("durable_at").0,
    })
}
