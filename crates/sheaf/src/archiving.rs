//! The archive of a server: history that is old enough is left to the lake, and what was begun goes on.

use std::time::Duration;

use sheaf_lake::{LakeArchive, LakeError};
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::archive::ArchiveDigest;
use sheaf_store::partitions::Partition;
use sheaf_upkeep::{ArchiveError, ArchiveLake, Compared, LakeView, archive_what_is_due};

use crate::serving::StopSignal;

/// How often it is looked at. A step that waits for the lake is behind by so much at most.
const EVERY: Duration = Duration::from_secs(5);
/// After a failure. It has compared all of a partition, perhaps.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The lake as an archive asks it.
#[derive(Debug, Clone)]
pub(crate) struct ArchivingLake(pub(crate) LakeArchive);

impl ArchiveLake for ArchivingLake {
    type Error = LakeError;

    async fn look(&self) -> Result<LakeView, LakeError> {
        let standing = self.0.standing().await?;
        Ok(LakeView {
            catalog: self.0.catalog().to_owned(),
            base: standing.base,
            covered: standing.covered,
        })
    }

    async fn compare(&self, partition: &Partition) -> Result<Compared, LakeError> {
        if self.0.waiting(partition).await? > 0 {
            return Ok(Compared::NotYet);
        }
        let here = self.0.digest_partition(&partition.name).await?;
        let there = self.0.digest_lake(partition).await?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if here.digest == there {
            return Ok(Compared::Equal(ArchiveDigest {
                events: number(here.events),
                facts: number(there.facts),
                sum: format!("{:032x}", there.sum),
            }));
        }
        Ok(Compared::Different(format!(
            "PostgreSQL has {} facts with hashes that sum up to {:032x}, the lake {} with {:032x}",
            here.digest.facts, here.digest.sum, there.facts, there.sum
        )))
    }
}

/// Whether a partition is to be archived: it ended so long ago.
pub(crate) fn is_due(partition: &Partition, after: Option<Duration>, now: Timestamp) -> bool {
    let after = after.and_then(|after| i64::try_from(after.as_micros()).ok());
    after.is_some_and(|micros| partition.upper <= now.saturating_add_micros(-micros))
}

/// Archives until told to stop.
pub(crate) async fn run(
    upkeep: Pool,
    lake: ArchivingLake,
    after: Option<Duration>,
    mut stop: StopSignal,
) {
    loop {
        let now = Timestamp::now();
        let round = archive_what_is_due(
            &upkeep,
            &lake,
            |partition| is_due(partition, after, now),
            now,
        );
        let round = tokio::select! {
            round = round => round,
            () = stop.requested() => return,
        };
        let pause = match &round {
            Ok(_) => EVERY,
            Err(error) => {
                tell(error);
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return,
        }
    }
}

fn tell(error: &ArchiveError<LakeError>) {
    let cause = sheaf_pg::chain(error);
    match error {
        // Somebody has to look: it does not become right by itself.
        ArchiveError::Different { .. } => {
            tracing::error!(
                cause,
                "an archive is stopped, since the lake is not what it should be"
            );
        }
        ArchiveError::Refused(_) => tracing::error!(cause, "nothing is archived"),
        ArchiveError::Postgres(_) | ArchiveError::Lake(_) => {
            tracing::warn!(cause, "a step of an archive failed; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_due_so_long_after_its_end_and_never_without_a_setting() {
        let at = |text: &str| Timestamp::parse(text).expect("a time").0;
        let partition = Partition {
            name: "p".to_owned(),
            lower: at("2024-01-01T00:00:00Z"),
            upper: at("2024-02-01T00:00:00Z"),
        };
        let month = Some(Duration::from_secs(30 * 86_400));
        for (after, now, expected) in [
            (month, "2024-03-01T23:59:59Z", false),
            (month, "2024-03-02T00:00:00Z", true),
            (None, "2030-01-01T00:00:00Z", false),
        ] {
            assert_eq!(is_due(&partition, after, at(now)), expected, "{now}");
        }
    }
}
