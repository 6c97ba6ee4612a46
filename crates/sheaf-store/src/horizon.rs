//! What the ledger forgets: requests whose retries are not waited for any more. As `sheaf_upkeep`.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::types::Type;

/// Forgets requests that arrived before the horizon, at most so many. Gives back how many.
pub async fn forget_requests(
    upkeep: &Pool,
    horizon: Timestamp,
    requests_max: i64,
) -> Result<i64, PgError> {
    let sql = include_str!("../sql/ledger/forget_requests.sql");
    forget(upkeep, "forgetting requests", sql, horizon, requests_max).await
}

/// Forgets lost batches that arrived before the horizon, at most so many. Gives back how many.
pub async fn forget_lost(
    upkeep: &Pool,
    horizon: Timestamp,
    batches_max: i64,
) -> Result<i64, PgError> {
    let sql = include_str!("../sql/staging/forget_lost.sql");
    forget(upkeep, "forgetting lost batches", sql, horizon, batches_max).await
}

async fn forget(
    upkeep: &Pool,
    step: &'static str,
    sql: &str,
    horizon: Timestamp,
    rows_max: i64,
) -> Result<i64, PgError> {
    let horizon = PgTime(horizon);
    let client = upkeep.get().await?;
    let params: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        vec![(&horizon, Type::TIMESTAMPTZ), (&rows_max, Type::INT8)];
    let statement = Statement::new(step, sql, params);
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    let row = first_row(&rows[0], step)?;
    Ok(row.get("forgotten"))
}
