//! A table's next state: its manifests, their list, a snapshot, its description. All of it is files that nobody knows until the
//! description's name is committed.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, MAIN_BRANCH, ManifestFile, ManifestListWriter, Operation, Snapshot, Summary,
    TableMetadata,
};
use uuid::Uuid;

use super::manifests::Writing;
use super::{TableChange, TableState, Written};
use crate::error::LakeError;
use crate::observer::{CommitStep, Observed};
use crate::rest::Mark;
use crate::schema::LakeTable;
use crate::warehouse::Warehouse;

/// A table's next snapshot, all of whose files are written: what a description of it would have that the one before has not.
#[derive(Debug)]
pub(crate) struct Advance {
    pub(crate) table: LakeTable,
    pub(crate) clears: bool,
    pub(crate) snapshot: Snapshot,
    /// Snapshots that nobody reads any more.
    pub(crate) old: Vec<i64>,
    manifests: Vec<ManifestFile>,
}

/// What goes with every commit.
#[derive(Debug, Clone)]
pub(crate) struct CommitContext {
    /// In milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// Snapshots are kept for at least so long.
    pub(crate) snapshots_age_ms: i64,
    /// But at least and at most so many.
    pub(crate) snapshots_kept: RangeInclusive<usize>,
    /// What every snapshot says beside what it changed.
    pub(crate) properties: HashMap<String, String>,
}

impl CommitContext {
    /// Each snapshot says the commit that it is of, beside the position.
    pub(crate) fn marked(&mut self, mark: &Mark) {
        self.properties
            .insert(Mark::NAME.to_owned(), mark.to_string());
    }
}

impl TableState {
    /// Writes the files of the state after a change, but for its description. What it was before is untouched.
    pub(crate) async fn advance(
        &self,
        warehouse: &Warehouse,
        change: TableChange,
        context: &CommitContext,
        observed: &Observed,
        written: &mut Written,
    ) -> Result<Advance, LakeError> {
        let snapshot_id = self.unused_snapshot_id();
        let sequence = self.metadata.next_sequence_number();
        let mut writing = Writing {
            state: self,
            warehouse,
            memory: FileIO::new_with_memory(),
            snapshot_id,
            written,
        };
        let mut manifests = Vec::new();
        if !change.clears {
            manifests = writing.carry_on(&change.removed).await?;
        }
        if !change.added.is_empty() {
            let mut manifest = writing.manifest()?;
            for file in &change.added {
                let added = manifest.add_file(file.clone(), sequence);
                added.map_err(self.fault("adding a file"))?;
            }
            manifests.insert(0, writing.finish(manifest).await?);
        }
        observed.passed(CommitStep::Manifests);
        // The list's writer does this to its own copies.
        for manifest in &mut manifests {
            if manifest.added_snapshot_id == snapshot_id {
                manifest.sequence_number = sequence;
                if manifest.min_sequence_number < 0 {
                    manifest.min_sequence_number = sequence;
                }
            }
        }
        let list = self.metadata_path(&format!("snap-{snapshot_id}-{}.avro", Uuid::new_v4()));
        let parent = self.metadata.current_snapshot_id();
        let memory = FileIO::new_with_memory();
        let output = memory.new_output(&list);
        let output = output.map_err(LakeError::file("naming file", &list))?;
        let writer = output.writer().await;
        let writer = writer.map_err(LakeError::file("making file", &list))?;
        let mut writer = ManifestListWriter::v2(writer, snapshot_id, parent, sequence);
        let listed = writer.add_manifests(manifests.iter().cloned());
        listed.map_err(self.fault("listing the manifests"))?;
        let closed = writer.close().await;
        closed.map_err(self.fault("writing the list of manifests"))?;
        warehouse.keep(&memory, &list).await?;
        written.0.push(list.clone());
        observed.passed(CommitStep::ManifestList);
        let snapshot = Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(sequence)
            .with_timestamp_ms(context.now_ms.max(self.metadata.last_updated_ms()))
            .with_manifest_list(list)
            .with_summary(self.summary(&change, &manifests, context))
            .with_schema_id(self.metadata.current_schema_id())
            .build();
        Ok(Advance {
            table: self.table,
            clears: change.clears,
            snapshot,
            old: self.old_snapshots(context),
            manifests,
        })
    }

    /// Writes the description of what it came to, and gives that back.
    pub(crate) async fn write_next(
        &self,
        warehouse: &Warehouse,
        advance: Advance,
        observed: &Observed,
        written: &mut Written,
    ) -> Result<TableState, LakeError> {
        let metadata = self.describe(advance.snapshot, &advance.old)?;
        self.write_description(warehouse, metadata, advance.manifests, observed, written)
            .await
    }

    /// Writes the description of a table that has none yet.
    pub(crate) async fn write_first(
        &self,
        warehouse: &Warehouse,
        observed: &Observed,
        written: &mut Written,
    ) -> Result<TableState, LakeError> {
        let metadata = self.metadata.clone();
        self.write_description(warehouse, metadata, Vec::new(), observed, written)
            .await
    }

    async fn write_description(
        &self,
        warehouse: &Warehouse,
        metadata: TableMetadata,
        manifests: Vec<ManifestFile>,
        observed: &Observed,
        written: &mut Written,
    ) -> Result<TableState, LakeError> {
        let location = match &self.location {
            Some(location) => {
                let before: MetadataLocation = location
                    .parse()
                    .map_err(self.fault("reading the name of the description"))?;
                before.with_next_version().to_string()
            }
            None => MetadataLocation::new_with_metadata(metadata.location(), &metadata).to_string(),
        };
        let bytes = serde_json::to_vec(&metadata)
            .map_err(LakeError::file("describing the table", &location))?;
        warehouse.write(&location, Bytes::from(bytes)).await?;
        written.0.push(location.clone());
        observed.passed(CommitStep::Description);
        Ok(TableState {
            table: self.table,
            location: Some(location),
            metadata,
            manifests,
        })
    }

    fn unused_snapshot_id(&self) -> i64 {
        loop {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            let id = ((high ^ low) >> 1).cast_signed();
            if self.metadata.snapshot_by_id(id).is_none() && id != 0 {
                return id;
            }
        }
    }

    /// The description with one more snapshot, and without those that nobody reads any more.
    fn describe(&self, snapshot: Snapshot, old: &[i64]) -> Result<TableMetadata, LakeError> {
        let fault = self.fault("describing a snapshot");
        let builder = self.metadata.clone().into_builder(self.location.clone());
        let builder = builder
            .set_branch_snapshot(snapshot, MAIN_BRANCH)
            .map_err(&fault)?;
        let built = builder.remove_snapshots(old).build().map_err(&fault)?;
        Ok(built.metadata)
    }

    /// Snapshots that were replaced long ago, but for the newest ones: questions may read one until then, however old it is.
    fn old_snapshots(&self, context: &CommitContext) -> Vec<i64> {
        let mut snapshots: Vec<_> = self.metadata.snapshots().collect();
        snapshots.sort_unstable_by_key(|snapshot| -snapshot.sequence_number());
        let made_ms: Vec<i64> = snapshots.iter().map(|s| s.timestamp_ms()).collect();
        let oldest_ms = context.now_ms - context.snapshots_age_ms;
        let current = self.metadata.current_snapshot_id();
        let old = old_places(&made_ms, oldest_ms, &context.snapshots_kept).into_iter();
        old.map(|place| snapshots[place].snapshot_id())
            .filter(|id| Some(*id) != current)
            .collect()
    }

    fn summary(
        &self,
        change: &TableChange,
        manifests: &[ManifestFile],
        context: &CommitContext,
    ) -> Summary {
        let operation = if change.clears || !change.removed.is_empty() {
            Operation::Overwrite
        } else {
            Operation::Append
        };
        let rows = |files: &[DataFile]| files.iter().map(DataFile::record_count).sum::<u64>();
        let bytes = change.added.iter().map(DataFile::file_size_in_bytes);
        let count = |some: Option<u32>, more: Option<u32>| {
            u64::from(some.unwrap_or_default()) + u64::from(more.unwrap_or_default())
        };
        let files = manifests.iter();
        let files =
            files.map(|manifest| count(manifest.added_files_count, manifest.existing_files_count));
        let total_rows = manifests.iter().map(|manifest| {
            let added = manifest.added_rows_count.unwrap_or_default();
            added + manifest.existing_rows_count.unwrap_or_default()
        });
        let mut properties = context.properties.clone();
        for (name, number) in [
            ("added-data-files", change.added.len() as u64),
            ("added-records", rows(&change.added)),
            ("added-files-size", bytes.sum()),
            ("total-data-files", files.sum()),
            ("total-records", total_rows.sum()),
        ] {
            properties.insert(name.to_owned(), number.to_string());
        }
        Summary {
            operation,
            additional_properties: properties,
        }
    }
}

/// Of states that were made at these times, the newest first: the places of those that nobody reads any more. Each was replaced
/// when the one before it here was made.
fn old_places(made_ms: &[i64], oldest_ms: i64, kept: &RangeInclusive<usize>) -> Vec<usize> {
    let is_old = |place: usize| {
        let replaced_ms = place.checked_sub(1).and_then(|next| made_ms.get(next));
        replaced_ms.is_some_and(|replaced| *replaced < oldest_ms)
    };
    let is_spare = |place: &usize| *place >= *kept.start() && is_old(*place);
    (0..made_ms.len())
        .filter(|place| is_spare(place) || place >= kept.end())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_old_when_it_was_replaced_long_ago_and_not_when_it_was_made_long_ago() {
        for (made_ms, kept, wanted) in [
            (&[90, 10, 5][..], 0..=9, &[2][..]),
            // The newest of a table that nothing changed for long is not replaced yet.
            (&[10, 5], 0..=9, &[1]),
            (&[99, 49, 48, 47], 0..=9, &[2, 3]),
            (&[99, 49, 48, 47], 3..=9, &[3]),
            (&[99, 98, 97, 96], 0..=2, &[2, 3]),
            (&[99, 98, 97, 96], 0..=9, &[]),
            (&[], 0..=9, &[]),
        ] {
            assert_eq!(old_places(made_ms, 50, &kept), wanted, "{made_ms:?}");
        }
    }
}
