//! How far each partition is on its way out of the history, and the steps of it. They run as `sheaf_upkeep`.
//!
//! It has no opinion on whether a step may be taken; the database refuses those that would lose something.

mod boundaries;
mod held;
mod restore;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{Disposition, PgError, PgTime, Pool, Statement, Unfinished, first_row, run_if};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

pub use self::boundaries::{Boundaries, boundaries_of, fetch_boundaries, read_boundaries};
use self::held::Held;
pub use self::restore::{
    Restoring, archive_again, begin_restore, finish_restore, prepare_restored,
};
use crate::lake::{CorrectionKey, LakeCorrection, position_in};
use crate::maintenance::{Params, change, detach, fetch_state};
use crate::partitions::Partition;

/// The last step of an archive that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArchiveState {
    /// Closed to writes.
    Closed,
    /// Its keyframes are written.
    Keyframed,
    /// Reads of its time ask the lake.
    BehindBoundary,
    /// Taken out of the history.
    Detached,
    /// Compared with the lake after that, and the same.
    Verified,
    /// Only the lake has it.
    Dropped,
    /// Put back; still closed to writes.
    Restored,
}

impl ArchiveState {
    /// All of them.
    pub const ALL: [ArchiveState; 7] = [
        ArchiveState::Closed,
        ArchiveState::Keyframed,
        ArchiveState::BehindBoundary,
        ArchiveState::Detached,
        ArchiveState::Verified,
        ArchiveState::Dropped,
        ArchiveState::Restored,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            ArchiveState::Closed => "closed",
            ArchiveState::Keyframed => "keyframed",
            ArchiveState::BehindBoundary => "behind_boundary",
            ArchiveState::Detached => "detached",
            ArchiveState::Verified => "verified",
            ArchiveState::Dropped => "dropped",
            ArchiveState::Restored => "restored",
        }
    }
}

/// What both sides of an archive come to, as text that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveDigest {
    /// How many events.
    pub events: i64,
    /// How many facts these are in the lake.
    pub facts: i64,
    /// The sum of their hashes.
    pub sum: String,
}

/// Why a step was not taken. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// PostgreSQL failed, or refused it.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// Its rows may be seen by nobody at any moment.
    #[error(
        "{name} is being taken out of the history by hand: sheaf partition detach ends that, and attach undoes it"
    )]
    Leaving {
        /// The partition.
        name: String,
    },
    /// Its boundary is about to move beyond this one.
    #[error(
        "a partition after {name} is being archived, which has to come to its end first, or be put back before this one"
    )]
    Younger {
        /// The partition.
        name: String,
    },
}

impl StepError {
    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            StepError::Postgres(error) => error.disposition(),
            StepError::Leaving { .. } | StepError::Younger { .. } => Disposition::Stop,
        }
    }
}

/// How far a partition is on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its name and bounds.
    pub partition: Partition,
    /// The last step that was done.
    pub state: ArchiveState,
    /// How many keyframes are written.
    pub keyframes: i64,
    /// What both sides came to; absent before they were compared.
    pub digest: Option<ArchiveDigest>,
    /// What the lake has to cover before the next step; absent until it is noted.
    pub awaited: Option<ChangePosition>,
    /// When it was closed to writes.
    pub closed_at: Timestamp,
    /// When both sides were found equal for the last time after it was taken out; absent before.
    pub verified_at: Option<Timestamp>,
    /// When it was dropped.
    pub dropped_at: Option<Timestamp>,
    /// Why the next step was not done when it was tried, and when that was.
    pub failure: Option<(String, Timestamp)>,
}

/// The partitions that were archived or are on their way, oldest first.
pub async fn list_archives(pool: &Pool) -> Result<Vec<Archive>, PgError> {
    const STEP: &str = "listing the archives of partitions";
    let sql = include_str!("../sql/archive/list_archives.sql");
    let client = pool.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, vec![])).await?;
    let archive = |row: &Row| {
        let name: &str = row.get("state");
        let known = ArchiveState::ALL
            .into_iter()
            .find(|state| state.as_str() == name);
        let (failure, failed_at): (Option<String>, Option<PgTime>) =
            (row.get("failure"), row.get("failed_at"));
        let digest = |events| {
            Some(ArchiveDigest {
                events,
                facts: row.get::<_, Option<i64>>("facts")?,
                sum: row.get::<_, Option<String>>("digest")?,
            })
        };
        Ok(Archive {
            partition: Partition::from_row(row)?,
            state: known.ok_or_else(|| PgError::unreadable(STEP, name))?,
            keyframes: row.get("keyframes"),
            digest: row.get::<_, Option<i64>>("events").and_then(digest),
            awaited: position_in(row, "waiting_timeline", "waiting_lsn", STEP)?,
            closed_at: row.get::<_, PgTime>("closed_at").0,
            verified_at: row
                .get::<_, Option<PgTime>>("verified_at")
                .map(|time| time.0),
            dropped_at: row
                .get::<_, Option<PgTime>>("dropped_at")
                .map(|time| time.0),
            failure: failure.zip(failed_at.map(|time| time.0)),
        })
    };
    rows.iter().map(archive).collect()
}

/// Closes the time up to the end of the oldest partition to writes. False where that was done before. Not where somebody takes it
/// out of the history by hand: keyframes are made of what queries see.
pub async fn close_period(upkeep: &Pool, name: &str, now: Timestamp) -> Result<bool, StepError> {
    const STEP: &str = "closing a period to writes";
    let now = PgTime(now);
    let params = || -> Params<'_> { vec![(&name, Type::TEXT), (&now, Type::TIMESTAMPTZ)] };
    let close = include_str!("../sql/archive/close_period.sql");
    let look = include_str!("../sql/archive/find_leaving.sql");
    let statements = [
        Statement::new(STEP, close, params()),
        Statement::new(STEP, look, params()),
    ];
    let leaving = || StepError::Leaving {
        name: name.to_owned(),
    };
    done_unless(upkeep, STEP, &statements, |looked| {
        looked.get::<_, bool>("is_leaving").then(leaving)
    })
    .await
}

/// Writes the keyframes of some further entities of a closed partition. Gives back how many; 0 once all are written.
pub async fn write_keyframes(
    upkeep: &Pool,
    name: &str,
    entities_max: i32,
    now: Timestamp,
) -> Result<i64, PgError> {
    const STEP: &str = "writing keyframes";
    let sql = include_str!("../sql/archive/write_keyframes.sql");
    let now = PgTime(now);
    let params: Params<'_> = vec![
        (&name, Type::TEXT),
        (&entities_max, Type::INT4),
        (&now, Type::TIMESTAMPTZ),
    ];
    let rows = change(upkeep, STEP, sql, params).await?;
    Ok(first_row(&rows, STEP)?.get("written"))
}

/// Notes a position after the step that was done last, where none is noted.
pub async fn await_position(upkeep: &Pool, name: &str) -> Result<(), PgError> {
    let sql = include_str!("../sql/archive/await_position.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    change(upkeep, "noting what the lake has to cover", sql, params).await?;
    Ok(())
}

/// Lets reads of a partition's time ask the lake, which was found to hold all of it: the one of this catalogue that began there.
/// False where that was done before; an error of [`sheaf_pg::Disposition::Retry`] where the lake has begun anew.
pub async fn pass_boundary(
    upkeep: &Pool,
    name: &str,
    (catalog, base): (&str, ChangePosition),
    digest: &ArchiveDigest,
    now: Timestamp,
) -> Result<bool, PgError> {
    let sql = include_str!("../sql/archive/pass_boundary.sql");
    let (timeline, lsn, now) = (
        i64::from(base.timeline),
        base.commit_lsn.to_string(),
        PgTime(now),
    );
    let params: Params<'_> = vec![
        (&name, Type::TEXT),
        (&catalog, Type::TEXT),
        (&timeline, Type::INT8),
        (&lsn, Type::TEXT),
        (&digest.events, Type::INT8),
        (&digest.facts, Type::INT8),
        (&digest.sum, Type::TEXT),
        (&now, Type::TIMESTAMPTZ),
    ];
    is_done(upkeep, "moving the boundary of history", sql, params).await
}

/// Notes that its table and the lake hold the same. False where that is not what they held before it was detached, or where it is
/// noted already.
pub async fn note_verified(
    upkeep: &Pool,
    name: &str,
    digest: &ArchiveDigest,
    now: Timestamp,
) -> Result<bool, PgError> {
    let sql = include_str!("../sql/archive/note_verified.sql");
    let now = PgTime(now);
    let params: Params<'_> = vec![
        (&name, Type::TEXT),
        (&digest.events, Type::INT8),
        (&digest.facts, Type::INT8),
        (&digest.sum, Type::TEXT),
        (&now, Type::TIMESTAMPTZ),
    ];
    let step = "noting that an archive is verified";
    Ok(!change(upkeep, step, sql, params).await?.is_empty())
}

/// Drops a partition that was detached and verified. False where that was done before.
pub async fn drop_archived(upkeep: &Pool, name: &str, now: Timestamp) -> Result<bool, PgError> {
    let sql = include_str!("../sql/archive/drop_archived.sql");
    let now = PgTime(now);
    let params: Params<'_> = vec![(&name, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
    is_done(upkeep, "dropping an archived partition", sql, params).await
}

/// Takes a partition that reads do not ask any more out of the history, and notes it. Nobody restores it meanwhile. Does nothing
/// where it is not to be taken out any more.
pub async fn detach_archived(upkeep: &Pool, name: &str, now: Timestamp) -> Result<(), PgError> {
    const STEP: &str = "detaching an archived partition";
    let sql = include_str!("../sql/archive/hold_archive.sql");
    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let (held, is_wanted) = Held::by(upkeep, STEP, sql, &params, "is_wanted").await?;
    let detached = match is_wanted {
        true => detach_held(upkeep, name, now).await,
        false => Ok(()),
    };
    held.release().await.and(detached)
}

async fn detach_held(upkeep: &Pool, name: &str, now: Timestamp) -> Result<(), PgError> {
    const STEP: &str = "detaching an archived partition";
    if let Some(state) = fetch_state(upkeep, name).await? {
        detach(upkeep, name, state, now).await?;
    }
    let sql = include_str!("../sql/archive/note_detached.sql");
    let now = PgTime(now);
    let params: Params<'_> = vec![(&name, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
    change(upkeep, STEP, sql, params).await?;
    Ok(())
}

/// The events of a partition, attached or not, after one of them in the order of its key: at most so many, by which the next are
/// asked for.
pub async fn read_partition(
    upkeep: &Pool,
    name: &str,
    after: CorrectionKey,
    events_max: i64,
) -> Result<Vec<LakeCorrection>, PgError> {
    const STEP: &str = "reading an archived partition";
    let sql = include_str!("../sql/archive/read_partition.sql");
    let time = PgTime(after.observed_at);
    let params: Params<'_> = vec![
        (&name, Type::TEXT),
        (&after.tenant.0, Type::INT8),
        (&after.entity.0, Type::INT8),
        (&time, Type::TIMESTAMPTZ),
        (&after.seq, Type::INT2),
        (&events_max, Type::INT8),
    ];
    let client = upkeep.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, params)).await?;
    rows.iter()
        .map(|row| LakeCorrection::of_row(row, STEP))
        .collect()
}

/// Notes why the step after this state was not done. Not where it was done meanwhile.
pub async fn note_failure(
    upkeep: &Pool,
    name: &str,
    state: ArchiveState,
    failure: &str,
    now: Timestamp,
) -> Result<(), PgError> {
    let sql = include_str!("../sql/archive/note_failure.sql");
    let now = PgTime(now);
    let state = state.as_str();
    let params: Params<'_> = vec![
        (&name, Type::TEXT),
        (&state, Type::TEXT),
        (&failure, Type::TEXT),
        (&now, Type::TIMESTAMPTZ),
    ];
    change(upkeep, "noting why an archive waits", sql, params).await?;
    Ok(())
}

/// How many events of a partition's time wait to be brought into the files of a lake, late ones aside.
pub async fn count_waiting(
    upkeep: &Pool,
    catalog: &str,
    partition: &Partition,
) -> Result<i64, PgError> {
    const STEP: &str = "counting what waits for the lake";
    let sql = include_str!("../sql/archive/count_waiting.sql");
    let (lower, upper) = (PgTime(partition.lower), PgTime(partition.upper));
    let params: Params<'_> = vec![
        (&catalog, Type::TEXT),
        (&lower, Type::TIMESTAMPTZ),
        (&upper, Type::TIMESTAMPTZ),
    ];
    let client = upkeep.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, params)).await?;
    Ok(first_row(&rows, STEP)?.get("waiting"))
}

/// The events that arrived for closed periods: how many, and when the last one came.
pub async fn count_late(upkeep: &Pool) -> Result<(i64, Option<Timestamp>), PgError> {
    const STEP: &str = "counting late events";
    let sql = include_str!("../sql/archive/count_late.sql");
    let client = upkeep.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    let last_at = row.get::<_, Option<PgTime>>("last_at").map(|time| time.0);
    Ok((row.get("events"), last_at))
}

async fn is_done(
    upkeep: &Pool,
    step: &'static str,
    sql: &str,
    params: Params<'_>,
) -> Result<bool, PgError> {
    let rows = change(upkeep, step, sql, params).await?;
    Ok(first_row(&rows, step)?.get("is_done"))
}

/// Takes a step by the first statement, whether it was done now, and leaves it where what the other one finds after it is against it.
async fn done_unless(
    upkeep: &Pool,
    step: &'static str,
    statements: &[Statement<'_>; 2],
    against: impl FnOnce(&Row) -> Option<StepError>,
) -> Result<bool, StepError> {
    let client = Unfinished::new(upkeep.get().await?);
    let mut refused = None;
    let holds = |rows: &[Vec<Row>]| {
        if !first_row(&rows[0], step)?.get::<_, bool>("is_done") {
            return Ok(());
        }
        refused = against(first_row(&rows[1], step)?);
        match refused {
            Some(_) => Err(PgError::unreadable(step, "state")),
            None => Ok(()),
        }
    };
    let taken = run_if(&client, None, statements, holds).await;
    if taken.is_ok() || refused.is_some() {
        client.rest();
    }
    match (refused, taken) {
        (Some(refused), _) => Err(refused),
        (None, taken) => Ok(first_row(&taken?[0], step)?.get("is_done")),
    }
}
