//! Partitions of the history, made before they are needed.

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::partitions::{ensure_partition, list_partitions};

/// How far ahead partitions reach. A week would be enough to notice that nobody makes them; a month and a half always
/// covers the whole next month.
pub const AHEAD_DAYS: i64 = 45;
const ALARM_DAYS: i64 = 3;
const DAY_MICROS: i64 = 86_400_000_000;

/// Makes the partitions from now until [`AHEAD_DAYS`] from now that are missing. Gives back how many.
pub async fn create_ahead(upkeep: &Pool, now: Timestamp) -> Result<usize, PgError> {
    let until = now.saturating_add_micros(AHEAD_DAYS * DAY_MICROS);
    let known = list_partitions(upkeep).await?;
    let mut made = 0;
    let mut needed = now;
    while needed <= until {
        let partition = match known.iter().find(|partition| partition.holds(needed)) {
            Some(partition) => partition.clone(),
            None => {
                if needed < now.saturating_add_micros(ALARM_DAYS * DAY_MICROS) && !known.is_empty()
                {
                    tracing::warn!(at = %needed, "a partition was missing that is needed within three days");
                }
                made += 1;
                ensure_partition(upkeep, needed).await?
            }
        };
        needed = partition.upper;
    }
    Ok(made)
}
