//! Background work that keeps the database as it should be. It takes no input, can run twice and on several servers,
//! wakes on a signal and on a timer, and reports what it did. It serves no request.

mod partitions;
mod temperature;

use std::sync::Arc;
use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use tokio::sync::{Notify, watch};

pub use partitions::{AHEAD_DAYS, create_ahead};
pub use temperature::move_values;

/// How often everything is looked at without a signal. A changed pin signals; partitions are made weeks ahead, so that
/// a missed round does no harm.
const ROUND_EVERY: Duration = Duration::from_secs(30);

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Partitions made.
    pub partitions: usize,
    /// Attributes whose values have all arrived.
    pub settled: usize,
}

/// One round of everything.
pub async fn round(upkeep: &Pool, bucket_count: i32, now: Timestamp) -> Result<Round, PgError> {
    Ok(Round {
        partitions: create_ahead(upkeep, now).await?,
        settled: move_values(upkeep, bucket_count).await?,
    })
}

/// Rounds until told to stop. A round that fails is told, and tried again at the next.
pub async fn run(
    upkeep: Pool,
    bucket_count: i32,
    wake: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        match round(&upkeep, bucket_count, Timestamp::now()).await {
            Ok(done) if done == Round::default() => {}
            Ok(done) => tracing::info!(
                partitions = done.partitions,
                settled = done.settled,
                "upkeep did its round"
            ),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(%error, cause, "an upkeep round failed; the next tries again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND_EVERY) => {}
            () = wake.notified() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
    }
}
