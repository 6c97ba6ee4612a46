//! Values on their way between the two parts of the document, after a pin has changed.
//!
//! Writers place values by the catalogue's version under their buckets' locks. Before anything moves, every lock is
//! taken once: whoever had read the older version has then ended, and nobody writes to the part that is left any more.
//! Until an attribute has settled, filters look into both parts.

use sheaf_pg::{PgError, Pool};
use sheaf_store::documents::{MoveStep, await_writers, list_moving, step_move};

/// Documents moved in one transaction. Larger steps hold row locks longer than a writer would like to wait.
const DOCUMENTS_PER_STEP: i64 = 500;
/// Steps that find only rows locked by writers, before the attribute waits for the next round.
const STEPS_MAX: usize = 100_000;

/// Moves values of every moving attribute until each has settled. Gives back how many have.
pub async fn move_values(upkeep: &Pool, bucket_count: i32) -> Result<usize, PgError> {
    let moving = list_moving(upkeep).await?;
    if moving.is_empty() {
        return Ok(0);
    }
    await_writers(upkeep, bucket_count).await?;
    let mut settled = 0;
    for attribute in &moving {
        for _ in 0..STEPS_MAX {
            match step_move(upkeep, attribute, DOCUMENTS_PER_STEP).await? {
                MoveStep::Unfinished => {}
                MoveStep::Settled => {
                    settled += 1;
                    break;
                }
                // It has changed again; the next round waits for the writers of that change.
                MoveStep::Overtaken => break,
            }
        }
    }
    Ok(settled)
}
