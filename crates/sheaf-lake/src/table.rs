//! A table as one description of it says: its manifests, its files, and what a commit changes of them.

mod advance;
mod manifests;

use std::collections::HashSet;

use iceberg::spec::{DataFile, ManifestFile, ManifestStatus, Snapshot, TableMetadata};

pub(crate) use self::advance::{Advance, CommitContext};
pub(crate) use self::manifests::load_manifests;
use crate::error::LakeError;
use crate::schema::LakeTable;
use crate::warehouse::Warehouse;

/// A table as of one description of it.
#[derive(Debug, Clone)]
pub(crate) struct TableState {
    pub(crate) table: LakeTable,
    /// Where the description is; absent where it was never written.
    pub(crate) location: Option<String>,
    pub(crate) metadata: TableMetadata,
    pub(crate) manifests: Vec<ManifestFile>,
}

/// What a commit does to a table.
#[derive(Debug, Default)]
pub(crate) struct TableChange {
    /// Nothing of what was there before stays.
    pub(crate) clears: bool,
    pub(crate) added: Vec<DataFile>,
    /// The locations of files whose rows are in an added one now, or nowhere.
    pub(crate) removed: HashSet<String>,
}

impl TableChange {
    pub(crate) fn is_empty(&self) -> bool {
        !self.clears && self.added.is_empty() && self.removed.is_empty()
    }
}

/// What a step has written.
#[derive(Debug, Default)]
pub(crate) struct Written(pub(crate) Vec<String>);

impl Written {
    pub(crate) fn add(&mut self, change: &TableChange) {
        let added = change.added.iter();
        self.0.extend(added.map(|file| file.file_path().to_owned()));
    }
}

impl TableState {
    /// Before its first description.
    pub(crate) fn new(table: LakeTable, warehouse: &Warehouse) -> Result<TableState, LakeError> {
        let location = table.folder(warehouse.root());
        Ok(TableState {
            table,
            location: None,
            metadata: table.create(location)?,
            manifests: Vec::new(),
        })
    }

    /// As a description says.
    pub(crate) async fn load(
        table: LakeTable,
        warehouse: &Warehouse,
        location: &str,
    ) -> Result<TableState, LakeError> {
        let bytes = warehouse.read(location).await?;
        let metadata: TableMetadata = serde_json::from_slice(&bytes)
            .map_err(LakeError::file("reading table description", location))?;
        TableState::described(table, warehouse, location, metadata).await
    }

    /// The same of a description that was read.
    pub(crate) async fn described(
        table: LakeTable,
        warehouse: &Warehouse,
        location: &str,
        metadata: TableMetadata,
    ) -> Result<TableState, LakeError> {
        let manifests = match metadata.current_snapshot() {
            Some(snapshot) => load_manifests(warehouse, snapshot.manifest_list()).await?,
            None => Vec::new(),
        };
        Ok(TableState {
            table,
            location: Some(location.to_owned()),
            metadata,
            manifests,
        })
    }

    /// The same of a table that is where those of this lake are: of another place's files nothing may be changed.
    pub(crate) async fn load_own(
        table: LakeTable,
        warehouse: &Warehouse,
        location: &str,
    ) -> Result<TableState, LakeError> {
        let own = table.folder(warehouse.root());
        if !location.starts_with(&format!("{own}/")) {
            return Err(elsewhere(warehouse, location));
        }
        let state = TableState::load(table, warehouse, location).await?;
        state.require_own(warehouse)?;
        Ok(state)
    }

    /// Whether it is where those of this lake are.
    pub(crate) fn require_own(&self, warehouse: &Warehouse) -> Result<(), LakeError> {
        let own = self.table.folder(warehouse.root());
        if self.metadata.location() != own {
            return Err(elsewhere(warehouse, self.metadata.location()));
        }
        match &self.location {
            Some(described) if !described.starts_with(&format!("{own}/")) => {
                Err(elsewhere(warehouse, described))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn fault(&self, step: &'static str) -> impl Fn(iceberg::Error) -> LakeError + use<> {
        LakeError::table(step, self.table.name())
    }

    /// The order of rows in a file, as files say it.
    pub(crate) fn order_id(&self) -> i32 {
        i32::try_from(self.metadata.default_sort_order_id()).unwrap_or_default()
    }

    /// Where a new data file goes.
    pub(crate) fn data_location(&self, name: &str) -> String {
        format!("{}/data/{name}.parquet", self.metadata.location())
    }

    fn metadata_path(&self, name: &str) -> String {
        format!("{}/metadata/{name}", self.metadata.location())
    }

    /// The files of a manifest.
    pub(crate) async fn files_of(
        &self,
        warehouse: &Warehouse,
        manifest: &ManifestFile,
    ) -> Result<Vec<DataFile>, LakeError> {
        let memory = warehouse.load(&manifest.manifest_path).await?;
        let loaded = manifest.load_manifest(&memory).await;
        let loaded = loaded.map_err(self.fault("reading a manifest"))?;
        let alive = loaded.entries().iter().filter(|entry| entry.is_alive());
        Ok(alive.map(|entry| entry.data_file().clone()).collect())
    }

    /// What a snapshot that was written from another state changed, to be done to this one.
    pub(crate) async fn change_of(
        &self,
        warehouse: &Warehouse,
        snapshot: &Snapshot,
        clears: bool,
    ) -> Result<TableChange, LakeError> {
        let mut change = TableChange {
            clears,
            ..TableChange::default()
        };
        for manifest in load_manifests(warehouse, snapshot.manifest_list()).await? {
            if manifest.added_snapshot_id != snapshot.snapshot_id() {
                continue;
            }
            let memory = warehouse.load(&manifest.manifest_path).await?;
            let loaded = manifest.load_manifest(&memory).await;
            let loaded = loaded.map_err(self.fault("reading a manifest"))?;
            for entry in loaded.entries() {
                match entry.status() {
                    ManifestStatus::Added => change.added.push(entry.data_file().clone()),
                    ManifestStatus::Deleted => {
                        change.removed.insert(entry.file_path().to_owned());
                    }
                    ManifestStatus::Existing => {}
                }
            }
        }
        Ok(change)
    }
}

/// A table, or a description of it, is at another place than those of this lake.
fn elsewhere(warehouse: &Warehouse, known: &str) -> LakeError {
    LakeError::Elsewhere {
        known: known.to_owned(),
        root: warehouse.root().to_owned(),
    }
}
