//! Partitions of the history for instants that are about to be written, made where they are missing and outside of the
//! transaction that needs them.

use std::collections::BTreeSet;

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::archive::fetch_boundaries;
use sheaf_store::partitions::{
    Partition, ensure_partition, list_closed_partitions, list_partitions,
};

use crate::plan::is_late;

/// The partitions of the history.
pub(crate) struct Partitions {
    /// Those that can be written to.
    pub(crate) open: Vec<Partition>,
    /// Those that were asked about and cannot, because they are being taken out.
    pub(crate) closed: Vec<Partition>,
    /// What was observed before this is late, and needs none; absent where it was not asked.
    pub(crate) closed_before: Option<Timestamp>,
}

impl Partitions {
    /// Whether nothing can be written for an instant.
    pub(crate) fn refuse(&self, time: Timestamp) -> bool {
        !is_late(time, self.closed_before) && self.closed.iter().any(|one| one.holds(time))
    }
}

/// All partitions, those for these instants among them.
pub(crate) async fn partitions_with(
    writer: &Pool,
    times: &BTreeSet<Timestamp>,
) -> Result<Partitions, PgError> {
    let mut open = list_partitions(writer).await?;
    let is_missing = |time: &&Timestamp| !open.iter().any(|known| known.holds(**time));
    let missing: Vec<Timestamp> = times.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return Ok(Partitions {
            open,
            closed: Vec::new(),
            closed_before: None,
        });
    }
    let closed = list_closed_partitions(writer).await?;
    // After the partitions: one that was closed for its archive before they were listed is known to be.
    let closed_before = fetch_boundaries(writer).await?.closed_before;
    let missing = missing
        .into_iter()
        .filter(|time| !is_late(*time, closed_before));
    for time in missing {
        let mut known = open.iter().chain(&closed);
        if known.any(|partition| partition.holds(time)) {
            continue;
        }
        let partition = ensure_partition(writer, time).await?;
        tracing::info!(
            partition = partition.name,
            "the history has a partition for an instant that lacked one"
        );
        open.push(partition);
    }
    Ok(Partitions {
        open,
        closed,
        closed_before,
    })
}
