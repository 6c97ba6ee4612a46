//! Partitions of the history for instants that are about to be written, made where they are missing and outside of the
//! transaction that needs them.

use std::collections::BTreeSet;

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};

/// All partitions, those for these instants among them.
pub(crate) async fn partitions_with(
    writer: &Pool,
    times: &BTreeSet<Timestamp>,
) -> Result<Vec<Partition>, PgError> {
    let mut partitions = list_partitions(writer).await?;
    for time in times {
        if partitions.iter().any(|partition| partition.holds(*time)) {
            continue;
        }
        let partition = ensure_partition(writer, *time).await?;
        tracing::info!(
            partition = partition.name,
            "the history has a partition for an instant that lacked one"
        );
        partitions.push(partition);
    }
    Ok(partitions)
}
