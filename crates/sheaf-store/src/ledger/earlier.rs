//! Requests that came before, as their retries and those who ask for their batch find them.

use sheaf_model::{BatchId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Counts, Outcome};
use crate::scope::TenantScope;
use crate::staging::StagedRequest;

/// A request found in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRecord {
    /// Its number.
    pub batch: BatchId,
    /// What was asked.
    pub request_hash: Vec<u8>,
    /// What became of it; as of its opening, while parts are missing.
    pub outcome: Outcome,
    /// What the answer promised.
    pub ack: String,
    /// How many events it held.
    pub events: i64,
    /// The sum of its parts; `refused` counts all refused events.
    pub counts: Counts,
    /// When it arrived.
    pub received_at: Timestamp,
    /// When it was written; one of several parts, when it was opened.
    pub durable_at: Timestamp,
    /// How many of its events were refused before anything was written.
    pub refused_at_first: i32,
    /// The buckets of its events; none where its parts came with it.
    pub buckets: Vec<i32>,
    /// The buckets that no part has written yet: empty once it is stored.
    pub missing: Vec<i32>,
}

/// A request that came before, as its retry finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierRequest {
    /// It is in the ledger, at least in part.
    Stored(LedgerRecord),
    /// It was acknowledged as staged, whether or not it is flushed by now.
    Staged(StagedRequest),
}

impl EarlierRequest {
    /// What was asked.
    pub fn request_hash(&self) -> &[u8] {
        match self {
            EarlierRequest::Stored(record) => &record.request_hash,
            EarlierRequest::Staged(staged) => &staged.request_hash,
        }
    }
}

/// The request with this key, in the ledger or staged. One snapshot for both, between which a flush moves it.
pub async fn fetch_request(
    app: &Pool,
    scope: &TenantScope,
    request_key: &str,
) -> Result<Option<EarlierRequest>, PgError> {
    let tenant = scope.tenant().0;
    let params = || -> Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> {
        vec![(&tenant, Type::INT8), (&request_key, Type::TEXT)]
    };
    let statements = [
        Statement::new(
            "finding a request",
            include_str!("../../sql/ledger/find_request.sql"),
            params(),
        ),
        Statement::new(
            "finding a staged request",
            include_str!("../../sql/staging/find_staged_request.sql"),
            params(),
        ),
    ];
    let rows = scope.run(app, Access::Read, &statements).await?;
    let Some(row) = rows[0].first() else {
        let staged = rows[1]
            .first()
            .map(|row| staged_of(row, row.get("value_count")));
        return Ok(staged.map(EarlierRequest::Staged));
    };
    Ok(Some(match row.get::<_, Option<i64>>("staged_values") {
        Some(values) => EarlierRequest::Staged(staged_of(row, values)),
        None => EarlierRequest::Stored(record_of(row)?),
    }))
}

fn staged_of(row: &Row, values: i64) -> StagedRequest {
    StagedRequest {
        batch: BatchId(row.get("batch_id")),
        request_hash: row.get("request_hash"),
        events: i64::from(row.get::<_, i32>("events")),
        refused: i64::from(row.get::<_, i32>("refused")),
        values,
    }
}

/// The request with this batch id.
pub async fn fetch_batch(
    app: &Pool,
    scope: &TenantScope,
    batch: BatchId,
) -> Result<Option<LedgerRecord>, PgError> {
    let tenant = scope.tenant().0;
    let sql = include_str!("../../sql/ledger/find_batch.sql");
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

/// What all parts of a request came to, with what was refused before them.
pub(crate) fn counts_of(row: &Row) -> Counts {
    Counts {
        values: row.get("value_count"),
        accepted: row.get("accepted"),
        duplicates: row.get("duplicates"),
        merged: row.get("merged"),
        corrected: row.get("corrected"),
        refused: i64::from(row.get::<_, i32>("refused")) + row.get::<_, i64>("refused_late"),
    }
}

fn record_of(row: &Row) -> Result<LedgerRecord, PgError> {
    let outcome: &str = row.get("outcome");
    let outcome = Outcome::parse(outcome)
        .ok_or_else(|| PgError::unreadable("reading the ledger", outcome))?;
    let (events, counts) = (i64::from(row.get::<_, i32>("events")), counts_of(row));
    let missing: Vec<i32> = row.get("missing");
    Ok(LedgerRecord {
        batch: BatchId(row.get("batch_id")),
        request_hash: row.get("request_hash"),
        outcome: if missing.is_empty() {
            outcome.settled(events, &counts)
        } else {
            outcome
        },
        ack: row.get("ack"),
        events,
        counts,
        received_at: row.get::<_, PgTime>("received_at").0,
        durable_at: row.get::<_, PgTime>("durable_at").0,
        refused_at_first: row.get("refused"),
        buckets: row
            .get::<_, Option<Vec<i32>>>("buckets")
            .unwrap_or_default(),
        missing,
    })
}
