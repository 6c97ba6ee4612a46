//! Value indexes filled and emptied, after a pin has changed.
//!
//! Writers keep an index, or do not, by the catalogue's version under their buckets' locks. Before anything is filled or
//! emptied every lock is taken once: whoever had read the older version has then ended. A step that fills holds the
//! documents that it takes values from, so that whoever changes one does so before the step or after it. Until an index is
//! filled, nothing is answered from it.

use sheaf_model::EntityId;
use sheaf_pg::{PgError, Pool};
use sheaf_store::documents::await_writers;
use sheaf_store::value_index::{IndexStep, list_moving_indexes, step_index};

/// Rows of one transaction. Larger steps hold documents longer than a writer would like to wait.
const ROWS_PER_STEP: i64 = 1_000;

/// Fills and empties every value index that is on its way, until each has settled. Gives back how many have.
pub async fn move_indexes(upkeep: &Pool, bucket_count: i32) -> Result<usize, PgError> {
    let moving = list_moving_indexes(upkeep).await?;
    if moving.is_empty() {
        return Ok(0);
    }
    await_writers(upkeep, bucket_count).await?;
    let mut settled = 0;
    for index in &moving {
        let mut after = EntityId(i64::MIN);
        // Each step goes on after the one before it, so that there is an end.
        loop {
            match step_index(upkeep, index, after, ROWS_PER_STEP).await? {
                IndexStep::Through(entity) => after = entity,
                IndexStep::Settled => {
                    settled += 1;
                    break;
                }
                // It has changed again; the next round waits for the writers of that change.
                IndexStep::Overtaken => break,
            }
        }
    }
    Ok(settled)
}
