//! The archive: partitions that are old enough are left to the lake, one after the other, each step when the lake provably holds
//! what it needs.
//!
//! Which step is next is decided from what is recorded and what was seen; each step can be run again, by another server too, and
//! records itself in the transaction that it is. What the lake holds it is told through [`ArchiveLake`].

use std::future::Future;
use std::time::Duration;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::archive::{
    Archive, ArchiveDigest, ArchiveState, StepError, await_position, close_period, detach_archived,
    drop_archived, list_archives, note_failure, note_verified, pass_boundary, write_keyframes,
};
use sheaf_store::partitions::{Partition, list_attached_partitions};

/// Steps of archives that were done, by step.
pub const ARCHIVE_STEPS_TOTAL: &str = "sheaf_archive_steps_total";
/// Steps of archives that failed.
pub const ARCHIVE_FAILURES_TOTAL: &str = "sheaf_archive_failures_total";

/// Entities whose keyframes are written in one transaction. More saves statements, and holds what a step that fails does again.
const KEYFRAMES_PER_STEP: i32 = 2_000;
/// What was compared longer ago is compared again before it is dropped: a server that was stopped in between knows nothing of what became
/// of the lake.
const COMPARED_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// How far the lake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeView {
    /// Which one it is, in its catalogue.
    pub catalog: String,
    /// Where it began; absent where it never did.
    pub base: Option<ChangePosition>,
    /// A position below which it holds everything, in its tables and not on its way there; absent where nobody can say.
    pub covered: Option<ChangePosition>,
}

/// What both sides come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// The same.
    Equal(ArchiveDigest),
    /// Something of it is on its way into the lake's files.
    NotYet,
    /// Not the same: how, in words.
    Different(String),
}

/// The lake as an archive needs it.
pub trait ArchiveLake: Sync {
    /// Why it could not say.
    type Error: std::error::Error + Send + Sync + 'static;

    /// How far it is.
    fn look(&self) -> impl Future<Output = Result<LakeView, Self::Error>> + Send;

    /// Compares the table of a partition, attached or not, with what the lake holds of its time, but for late events.
    fn compare(
        &self,
        partition: &Partition,
    ) -> impl Future<Output = Result<Compared, Self::Error>> + Send;
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The oldest partition is closed to writes.
    Close(Partition),
    /// A position is noted, which the lake has to cover.
    Await,
    /// The lake is waited for.
    Wait,
    /// Keyframes are written.
    WriteKeyframes,
    /// Both sides are compared, and if they are the same, reads ask the lake.
    PassBoundary,
    /// It is taken out of the history.
    Detach,
    /// Both sides are compared again.
    Verify,
    /// It is dropped.
    Drop,
}

impl Step {
    /// Its name, for a label and a log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Step::Nothing => "nothing",
            Step::Close(_) => "close",
            Step::Await => "await",
            Step::Wait => "wait",
            Step::WriteKeyframes => "write_keyframes",
            Step::PassBoundary => "pass_boundary",
            Step::Detach => "detach",
            Step::Verify => "verify",
            Step::Drop => "drop",
        }
    }
}

/// The one that is on its way out.
fn going(archives: &[Archive]) -> Option<&Archive> {
    let mut archives = archives.iter();
    archives.find(|archive| archive.state != ArchiveState::Dropped)
}

/// Decides what is done next. One partition at a time, the oldest first. `is_due` tells whether a partition is to be archived that
/// nobody has begun with; one that was begun goes on whatever it says.
fn decide(
    archives: &[Archive],
    attached: &[Partition],
    lake: &LakeView,
    is_due: impl Fn(&Partition) -> bool,
    now: Timestamp,
) -> Step {
    let Some(archive) = going(archives) else {
        let oldest = attached.iter().min_by_key(|partition| partition.lower);
        // Without a lake that holds what was written, a partition that is closed would stay so.
        return match oldest.filter(|oldest| is_due(oldest)) {
            Some(oldest) if lake.covered.is_some() => Step::Close(oldest.clone()),
            Some(_) | None => Step::Nothing,
        };
    };
    let when_covered = |step: Step| match archive.awaited {
        None => Step::Await,
        Some(position) if covers(lake.covered, position) => step,
        Some(_) => Step::Wait,
    };
    match archive.state {
        ArchiveState::Closed => when_covered(Step::WriteKeyframes),
        ArchiveState::Keyframed => when_covered(Step::PassBoundary),
        ArchiveState::BehindBoundary => Step::Detach,
        ArchiveState::Detached => when_covered(Step::Verify),
        ArchiveState::Verified => match archive.verified_at {
            Some(at) if now.since(at) <= COMPARED_AGAIN_AFTER => Step::Drop,
            Some(_) | None => Step::Verify,
        },
        // Whoever has put it back wants it here.
        ArchiveState::Dropped | ArchiveState::Restored => Step::Nothing,
    }
}

/// A failover begins another timeline, whose positions go on: what is recorded there of the one before is below where it began. The
/// slot that came along may be further back.
fn covers(covered: Option<ChangePosition>, position: ChangePosition) -> bool {
    covered.is_some_and(|covered| {
        covered.timeline >= position.timeline && covered.commit_lsn >= position.commit_lsn
    })
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError<E: std::error::Error + 'static> {
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The lake failed.
    #[error("asking the lake about an archive")]
    Lake(#[source] E),
    /// The database refused a step.
    #[error(transparent)]
    Refused(StepError),
    /// Both sides are not the same.
    #[error("partition {name} and the lake differ: {how}")]
    Different {
        /// The partition.
        name: String,
        /// How.
        how: String,
    },
}

impl<E: std::error::Error + 'static> From<StepError> for ArchiveError<E> {
    fn from(error: StepError) -> ArchiveError<E> {
        match error {
            StepError::Postgres(error) => ArchiveError::Postgres(error),
            refused => ArchiveError::Refused(refused),
        }
    }
}

/// Does the next step, and tells which that was. A failure is noted beside the archive, for people.
///
/// # Errors
/// PostgreSQL or the lake failed, or the two differ. The step can be tried again.
pub async fn advance<L: ArchiveLake>(
    upkeep: &Pool,
    lake: &L,
    is_due: impl Fn(&Partition) -> bool,
    now: Timestamp,
) -> Result<Step, ArchiveError<L::Error>> {
    let view = lake.look().await.map_err(ArchiveError::Lake)?;
    let archives = list_archives(upkeep).await?;
    let attached = match going(&archives) {
        None => list_attached_partitions(upkeep).await?,
        // Nothing is begun with while another is on its way.
        Some(_) => Vec::new(),
    };
    let step = decide(&archives, &attached, &view, is_due, now);
    let archive = match &step {
        Step::Nothing | Step::Wait => None,
        _ => going(&archives),
    };
    let done = match (&step, archive) {
        (Step::Close(oldest), _) => close_period(upkeep, &oldest.name, now)
            .await
            .map(|_| true)
            .map_err(ArchiveError::from),
        (_, None) => return Ok(step),
        (step, Some(archive)) => do_step(upkeep, lake, &view, step, &archive.partition, now).await,
    };
    match done {
        Ok(false) => Ok(Step::Wait),
        Ok(true) => {
            metrics::counter!(ARCHIVE_STEPS_TOTAL, "step" => step.as_str()).increment(1);
            Ok(step)
        }
        Err(error) => {
            metrics::counter!(ARCHIVE_FAILURES_TOTAL).increment(1);
            if let Some(archive) = archive {
                let (name, why) = (&archive.partition.name, sheaf_pg::chain(&error));
                note_failure(upkeep, name, archive.state, &why, now).await?;
            }
            Err(error)
        }
    }
}

/// Whether it could be done.
async fn do_step<L: ArchiveLake>(
    upkeep: &Pool,
    lake: &L,
    view: &LakeView,
    step: &Step,
    partition: &Partition,
    now: Timestamp,
) -> Result<bool, ArchiveError<L::Error>> {
    let name = &partition.name;
    match step {
        Step::Nothing | Step::Wait | Step::Close(_) => {}
        Step::Await => await_position(upkeep, name).await?,
        Step::WriteKeyframes => {
            while write_keyframes(upkeep, name, KEYFRAMES_PER_STEP, now).await? > 0 {}
        }
        Step::PassBoundary => {
            let Some(digest) = compare(lake, partition).await? else {
                return Ok(false);
            };
            // It was looked at before: one that has begun anew since is another.
            let Some(base) = view.base else {
                return Ok(false);
            };
            pass_boundary(upkeep, name, (&view.catalog, base), &digest, now).await?;
        }
        Step::Detach => detach_archived(upkeep, name, now).await?,
        Step::Verify => {
            let Some(digest) = compare(lake, partition).await? else {
                return Ok(false);
            };
            // Another server may have dropped it, or somebody may have put it back.
            if !note_verified(upkeep, name, &digest, now).await? && is_out(upkeep, name).await? {
                return Err(ArchiveError::Different {
                    name: name.clone(),
                    how: format!(
                        "both hold {} events in {} facts, which is not what they held before it was detached",
                        digest.events, digest.facts
                    ),
                });
            }
        }
        Step::Drop => {
            drop_archived(upkeep, name, now).await?;
        }
    }
    Ok(true)
}

async fn is_out(upkeep: &Pool, name: &str) -> Result<bool, PgError> {
    let archives = list_archives(upkeep).await?;
    let is_it = |archive: &Archive| {
        let is_out = matches!(
            archive.state,
            ArchiveState::Detached | ArchiveState::Verified
        );
        archive.partition.name == name && is_out
    };
    Ok(archives.iter().any(is_it))
}

async fn compare<L: ArchiveLake>(
    lake: &L,
    partition: &Partition,
) -> Result<Option<ArchiveDigest>, ArchiveError<L::Error>> {
    match lake.compare(partition).await.map_err(ArchiveError::Lake)? {
        Compared::Equal(digest) => Ok(Some(digest)),
        Compared::NotYet => Ok(None),
        Compared::Different(how) => Err(ArchiveError::Different {
            name: partition.name.clone(),
            how,
        }),
    }
}

/// Steps until there is none that can be done now. Gives back whether anything was done.
///
/// # Errors
/// As [`advance`].
pub async fn archive_what_is_due<L: ArchiveLake>(
    upkeep: &Pool,
    lake: &L,
    is_due: impl Fn(&Partition) -> bool,
    now: Timestamp,
) -> Result<bool, ArchiveError<L::Error>> {
    let mut is_anything_done = false;
    loop {
        match advance(upkeep, lake, &is_due, now).await? {
            Step::Nothing | Step::Wait => return Ok(is_anything_done),
            step => {
                tracing::info!(step = step.as_str(), "a step of an archive is done");
                is_anything_done = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
