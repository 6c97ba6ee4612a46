//! Background work that keeps the database as it should be. It takes no input, can run twice and on several servers,
//! wakes on a signal and on a timer, and reports what it did. It serves no request.

mod archive;
mod heartbeat;
mod holds;
mod horizon;
mod interval;
mod partitions;
mod temperature;
mod value_index;

use std::sync::Arc;
use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use tokio::sync::{Notify, watch};

pub use archive::{
    ARCHIVE_FAILURES_TOTAL, ARCHIVE_STEPS_TOTAL, ArchiveError, ArchiveLake, Compared, LakeView,
    Step, advance, archive_what_is_due,
};
pub use heartbeat::{BEAT_EVERY, keep_beating};
pub use holds::{beyond_bound, held_max};
pub use horizon::forget;
pub use interval::{
    Decision, INTERVAL_CHANGES_TOTAL, Measured, decide, measure, reconcile_interval,
};
pub use partitions::{ahead_micros, alarm_micros, create_ahead, reach};
pub use temperature::move_values;
pub use value_index::move_indexes;

/// How often everything is looked at without a signal. A changed pin signals; partitions are made so far
/// ahead that a missed round does no harm.
const ROUND_EVERY: Duration = Duration::from_secs(30);

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Partitions made.
    pub partitions: usize,
    /// Attributes whose values have all arrived.
    pub settled: usize,
    /// Value indexes that are filled now, or empty.
    pub indexes: usize,
    /// Requests that the ledger has forgotten.
    pub forgotten: i64,
}

/// What a server is told about its background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Into how many buckets entities are hashed.
    pub bucket_count: i32,
    /// The share of PostgreSQL's shared memory that the indexes of the newest partition may take, in percent.
    pub partition_memory_percent: u32,
    /// How long the ledger remembers a request.
    pub idempotency_horizon: Duration,
}

/// One round of everything.
pub async fn round(upkeep: &Pool, options: Options, now: Timestamp) -> Result<Round, PgError> {
    let interval = reconcile_interval(upkeep, options.partition_memory_percent, now).await?;
    Ok(Round {
        partitions: create_ahead(upkeep, interval, now).await?,
        settled: move_values(upkeep, options.bucket_count).await?,
        indexes: move_indexes(upkeep, options.bucket_count).await?,
        forgotten: forget(upkeep, options.idempotency_horizon, now).await?,
    })
}

/// Rounds until told to stop, and beside them a watch on what keeps rows from being removed.
pub async fn run(upkeep: Pool, options: Options, wake: Arc<Notify>, stop: watch::Receiver<bool>) {
    // A round may take an hour, and a look must not wait for it.
    tokio::join!(
        run_rounds(&upkeep, options, wake, stop.clone()),
        holds::watch_holds(&upkeep, stop),
    );
}

/// A round that fails is told, and tried again at the next.
async fn run_rounds(
    upkeep: &Pool,
    options: Options,
    wake: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        match round(upkeep, options, Timestamp::now()).await {
            Ok(done) if done == Round::default() => {}
            Ok(done) => tracing::info!(
                partitions = done.partitions,
                settled = done.settled,
                indexes = done.indexes,
                forgotten = done.forgotten,
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
