//! The horizon of the ledger: requests that no retry is waited for any more are forgotten.

use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::horizon::{forget_lost, forget_requests};

/// Requests forgotten in one transaction. Larger ones hold more rows that a retry of the same moment waits for.
const REQUESTS_PER_STEP: i64 = 5_000;
/// Steps of one round. With a round every half minute that is some 16,000 requests a second; more would keep the round's
/// other work waiting, and what is left is old enough to wait.
const STEPS_MAX: usize = 100;

/// Forgets what arrived longer ago than the horizon. Gives back how many requests.
pub async fn forget(upkeep: &Pool, horizon: Duration, now: Timestamp) -> Result<i64, PgError> {
    let micros = i64::try_from(horizon.as_micros()).unwrap_or(i64::MAX);
    let before = now.saturating_add_micros(-micros);
    let mut forgotten = 0;
    for _ in 0..STEPS_MAX {
        let requests = forget_requests(upkeep, before, REQUESTS_PER_STEP).await?;
        let lost = forget_lost(upkeep, before, REQUESTS_PER_STEP).await?;
        forgotten += requests + lost;
        if requests < REQUESTS_PER_STEP && lost < REQUESTS_PER_STEP {
            break;
        }
    }
    Ok(forgotten)
}
