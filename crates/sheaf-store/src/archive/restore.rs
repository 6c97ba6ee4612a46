//! An archived partition on its way back into the history, the last one first. Whoever does it is alone.

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, PgTime, Pool, Statement};
use tokio_postgres::types::{ToSql, Type};

use super::held::Held;
use super::{StepError, done_unless, is_done};
use crate::events::quoted;
use crate::maintenance::{Params, PartitionState, change, fetch_state, finish_detach};

/// Makes an empty table for what comes back of a dropped partition. False where the partition's own is still there.
pub async fn prepare_restored(upkeep: &Pool, name: &str) -> Result<bool, PgError> {
    let sql = include_str!("../../sql/archive/prepare_restored.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    let step = "making a table for a restored partition";
    is_done(upkeep, step, sql, params).await
}

/// Puts the partition that was archived last back into the history. False where it is there. Not where one after it is on its way: its
/// boundary would move beyond this one, and back again when this one is archived again.
pub async fn finish_restore(upkeep: &Pool, name: &str, now: Timestamp) -> Result<bool, StepError> {
    const STEP: &str = "putting an archived partition back";
    end_interrupted(upkeep, name).await?;
    let now = PgTime(now);
    let finish = include_str!("../../sql/archive/finish_restore.sql");
    let look = include_str!("../../sql/archive/look_at_restored.sql");
    let statements = [
        Statement::new(
            STEP,
            finish,
            vec![(&name, Type::TEXT), (&now, Type::TIMESTAMPTZ)],
        ),
        Statement::new(STEP, look, vec![(&name, Type::TEXT)]),
    ];
    let name = || name.to_owned();
    done_unless(upkeep, STEP, &statements, |looked| {
        if looked.get("is_leaving") {
            return Some(StepError::Leaving { name: name() });
        }
        let is_before = looked.get::<_, bool>("is_before_another");
        is_before.then(|| StepError::Younger { name: name() })
    })
    .await
}

/// A partition whose detachment was interrupted is attached, and no query sees it: it is taken out, so that it can be put back.
async fn end_interrupted(upkeep: &Pool, name: &str) -> Result<(), PgError> {
    if fetch_state(upkeep, name).await? != Some(PartitionState::Pending) {
        return Ok(());
    }
    // Not while somebody is at it.
    let sql = include_str!("../../sql/archive/hold_archive.sql");
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let step = "ending an interrupted detachment";
    let (held, is_going) = Held::by(upkeep, step, sql, &params, "is_wanted").await?;
    if is_going && fetch_state(upkeep, name).await? == Some(PartitionState::Pending) {
        finish_detach(upkeep, &quoted(name)).await?;
    }
    held.release().await
}

/// Whoever puts a partition back, alone: what one has compared another would make anew.
#[derive(Debug)]
pub struct Restoring(Held);

/// Keeps others from putting a partition back. None where somebody does that.
pub async fn begin_restore(upkeep: &Pool) -> Result<Option<Restoring>, PgError> {
    let sql = include_str!("../../sql/archive/hold_restore.sql");
    let (held, is_held) = Held::by(upkeep, HOLD_RESTORE, sql, &[], "is_held").await?;
    Ok(is_held.then_some(Restoring(held)))
}

const HOLD_RESTORE: &str = "keeping others from restoring";

impl Restoring {
    /// Whether others are kept from it still, and were all the time.
    pub async fn require(&self) -> Result<(), PgError> {
        let alive = self.0.client.batch_execute("SELECT").await;
        alive.map_err(PgError::statement(HOLD_RESTORE))
    }

    /// Lets others.
    pub async fn release(self) -> Result<(), PgError> {
        self.0.release().await
    }
}

/// Begins again with a partition that was restored.
pub async fn archive_again(upkeep: &Pool, name: &str) -> Result<(), PgError> {
    let sql = include_str!("../../sql/archive/archive_again.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    change(upkeep, "archiving a restored partition", sql, params).await?;
    Ok(())
}
