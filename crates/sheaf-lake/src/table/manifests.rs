//! A table's manifests, which name its files: those of a state, and the writing of those of the next.

use std::collections::HashSet;

use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, ManifestEntryRef, ManifestFile, ManifestList, ManifestWriter,
    ManifestWriterBuilder,
};
use uuid::Uuid;

use super::{TableState, Written};
use crate::error::LakeError;
use crate::warehouse::Warehouse;

/// Manifests that a table has before they are made fewer: each reader opens all of them.
const MANIFESTS_MAX: usize = 32;
/// Files that a manifest names before it is left as it is.
const MANIFEST_FILES_MAX: u32 = 4_000;

/// The manifests that a list names.
pub(crate) async fn load_manifests(
    warehouse: &Warehouse,
    list: &str,
) -> Result<Vec<ManifestFile>, LakeError> {
    let bytes = warehouse.read(list).await?;
    let parsed = ManifestList::parse_with_version(&bytes, FormatVersion::V2);
    let parsed = parsed.map_err(LakeError::file("reading list of manifests", list))?;
    Ok(parsed.consume_entries().into_iter().collect())
}

/// The writing of one snapshot's manifests.
pub(super) struct Writing<'a> {
    pub(super) state: &'a TableState,
    pub(super) warehouse: &'a Warehouse,
    /// Where the crate writes manifests, on their way into the warehouse.
    pub(super) memory: FileIO,
    pub(super) snapshot_id: i64,
    pub(super) written: &'a mut Written,
}

impl Writing<'_> {
    pub(super) fn manifest(&self) -> Result<ManifestWriter, LakeError> {
        let state = self.state;
        let name = format!("{}-m0.avro", Uuid::new_v4());
        let location = state.metadata_path(&name);
        let output = self.memory.new_output(&location);
        let output = output.map_err(LakeError::file("naming file", &location))?;
        let builder = ManifestWriterBuilder::new(
            output,
            Some(self.snapshot_id),
            state.metadata.current_schema().clone(),
            state.metadata.default_partition_spec().as_ref().clone(),
        );
        Ok(builder.build_v2_data())
    }

    pub(super) async fn finish(
        &mut self,
        manifest: ManifestWriter,
    ) -> Result<ManifestFile, LakeError> {
        let file = manifest.write_manifest_file().await;
        let file = file.map_err(self.state.fault("writing a manifest"))?;
        let location = &file.manifest_path;
        self.warehouse.keep(&self.memory, location).await?;
        self.written.0.push(location.clone());
        Ok(file)
    }

    /// The manifests of what was there before and stays: those that name a removed file are written anew, and so are small
    /// ones, into one, when there are many.
    pub(super) async fn carry_on(
        &mut self,
        removed: &HashSet<String>,
    ) -> Result<Vec<ManifestFile>, LakeError> {
        let before = &self.state.manifests;
        let is_small = |manifest: &ManifestFile| {
            let files = manifest.added_files_count.unwrap_or_default()
                + manifest.existing_files_count.unwrap_or_default();
            files < MANIFEST_FILES_MAX
        };
        let joins = before.iter().filter(|manifest| is_small(manifest)).count() >= MANIFESTS_MAX;
        let mut kept = Vec::new();
        let mut joined = None;
        let mut found = 0;
        let fault = self.state.fault("writing a manifest anew");
        for manifest in before {
            let is_joined = joins && is_small(manifest);
            // Most that are removed are young, and the manifests of the young ones come first.
            if found == removed.len() && !is_joined {
                kept.push(manifest.clone());
                continue;
            }
            let memory = self.warehouse.load(&manifest.manifest_path).await?;
            let loaded = manifest.load_manifest(&memory).await;
            let loaded = loaded.map_err(&fault)?;
            let alive: Vec<_> = loaded.entries().iter().filter(|e| e.is_alive()).collect();
            let is_removed = |entry: &&&ManifestEntryRef| removed.contains(entry.file_path());
            let removed_here = alive.iter().filter(is_removed).count();
            found += removed_here;
            if removed_here == 0 && !is_joined {
                kept.push(manifest.clone());
                continue;
            }
            let writer = match &mut joined {
                Some(writer) => writer,
                none => none.insert(self.manifest()?),
            };
            for entry in alive {
                let file = entry.data_file().clone();
                let sequence = entry.sequence_number().unwrap_or_default();
                let file_sequence = entry.file_sequence_number;
                let carried = if removed.contains(entry.file_path()) {
                    writer.add_delete_file(file, sequence, file_sequence)
                } else {
                    let snapshot = entry.snapshot_id().unwrap_or_default();
                    writer.add_existing_file(file, snapshot, sequence, file_sequence)
                };
                carried.map_err(&fault)?;
            }
        }
        if found < removed.len() {
            // What was made of a file that is gone would bring its rows back.
            return Err(LakeError::Gone {
                table: self.state.table.name(),
                files: removed.len() - found,
            });
        }
        if let Some(writer) = joined {
            kept.insert(0, self.finish(writer).await?);
        }
        Ok(kept)
    }
}
