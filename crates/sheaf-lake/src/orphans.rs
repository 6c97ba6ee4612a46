//! Files that no table needs: those of commits that were never made, and those of states that are not kept any more.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use sheaf_pg::{PgError, Pool};
use sheaf_store::lake::{read_lake, read_owner};
use sheaf_store::lineage::fetch_current_lineage;

use crate::error::LakeError;
use crate::lake::Lake;
use crate::rest::Catalog;
use crate::schema::LakeTable;
use crate::sink::LakeOptions;
use crate::table::{TableState, load_manifests};
use crate::warehouse::{FoundFile, Warehouse};

/// A younger file may be one of a commit that is being made. A commit takes seconds, and one that hangs is given up long
/// before this.
const AGE_MIN: Duration = Duration::from_secs(3600);

/// What was found of files that no table needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orphans {
    /// Files that were removed.
    pub removed: u64,
    /// Files that may belong to a commit that is being made, and were left.
    pub young: u64,
}

/// Removes the files of the lake that these options describe that no table needs and that are older than this, by the clock that
/// their times are of; an hour at least.
///
/// # Errors
/// The location is not that of this lake, PostgreSQL, the catalogue or a file cannot be read, or a file cannot be deleted.
pub async fn remove_orphans(
    cdc: &Pool,
    options: &LakeOptions,
    age: Duration,
    now: SystemTime,
) -> Result<Orphans, LakeError> {
    remove_from(&Lake::new(cdc, options)?, age, now).await
}

/// The same for a lake that is open, as of now where the files are: the writer's clock may be another.
pub(crate) async fn sweep(lake: &Lake) -> Result<Orphans, LakeError> {
    remove_from(lake, AGE_MIN, lake.warehouse.now().await?).await
}

async fn remove_from(lake: &Lake, age: Duration, now: SystemTime) -> Result<Orphans, LakeError> {
    let (cdc, name, warehouse) = (&lake.cdc, &lake.name, &lake.warehouse);
    // The files first: what is committed after that is found in use.
    let mut found = Vec::new();
    for table in LakeTable::ALL {
        let folder = table.folder(warehouse.root());
        found.extend(warehouse.list(&folder).await?);
    }
    let Some(standing) = read_lake(cdc, name).await? else {
        // A folder that belongs to nobody here may belong to somebody else.
        return Ok(Orphans::default());
    };
    let owner = read_owner(cdc, name).await?.unwrap_or_default();
    warehouse.require_owner(&owner).await?;
    // Nor are those of a database that this one was left behind by.
    let here = fetch_current_lineage(cdc).await?;
    let here = here.ok_or(PgError::NotPrimary {
        step: "removing files that no table needs",
        why: "a standby",
    })?;
    warehouse.require_timeline(here.timeline).await?;
    let mut used = HashSet::new();
    for table in LakeTable::ALL {
        if let Some(location) = standing.location(table.name()) {
            let state = TableState::load_own(table, warehouse, location).await?;
            add_used(&state, warehouse, &mut used).await?;
        }
    }
    if let Catalog::Rest(rest) = &lake.catalog {
        let Some(tables) = rest.whole(lake, &standing).await? else {
            // What it still needs nobody names.
            return Ok(Orphans::default());
        };
        for state in &tables {
            add_used(state, warehouse, &mut used).await?;
        }
    }
    let mut orphans = Orphans::default();
    for file in found {
        match judge(&file, &used, age.max(AGE_MIN), now) {
            Verdict::Used => {}
            Verdict::Young => orphans.young += 1,
            Verdict::Orphan => {
                warehouse.delete(&file.location).await?;
                orphans.removed += 1;
            }
        }
    }
    Ok(orphans)
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Used,
    Young,
    Orphan,
}

/// A file whose time is ahead of the clock is young.
fn judge(file: &FoundFile, used: &HashSet<String>, age: Duration, now: SystemTime) -> Verdict {
    if used.contains(&file.location) {
        return Verdict::Used;
    }
    match now.duration_since(file.written_at) {
        Ok(since) if since >= age => Verdict::Orphan,
        Ok(_) | Err(_) => Verdict::Young,
    }
}

/// Everything that some state of the table that is kept consists of.
async fn add_used(
    state: &TableState,
    warehouse: &Warehouse,
    used: &mut HashSet<String>,
) -> Result<(), LakeError> {
    used.extend(state.location.clone());
    let before = state.metadata.metadata_log().iter();
    used.extend(before.map(|entry| entry.metadata_file.clone()));
    for snapshot in state.metadata.snapshots() {
        let list = snapshot.manifest_list().to_owned();
        for manifest in load_manifests(warehouse, &list).await? {
            // One that many snapshots have is read once.
            if used.insert(manifest.manifest_path.clone()) {
                let files = state.files_of(warehouse, &manifest).await?;
                used.extend(files.iter().map(|file| file.file_path().to_owned()));
            }
        }
        used.insert(list);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_in_use_and_old_enough_is_an_orphan() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let used = HashSet::from(["used".to_owned()]);
        for (location, written_before, verdict) in [
            ("used", 100_000, Verdict::Used),
            ("used", 0, Verdict::Used),
            ("other", 3600, Verdict::Orphan),
            ("other", 3599, Verdict::Young),
            ("other", -10, Verdict::Young),
        ] {
            let seconds = u64::try_from(1_000_000 - written_before).expect("after 1970");
            let file = FoundFile {
                location: location.to_owned(),
                written_at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            };
            let found = judge(&file, &used, AGE_MIN, now);
            assert_eq!(found, verdict, "{location} {written_before}");
        }
    }
}
