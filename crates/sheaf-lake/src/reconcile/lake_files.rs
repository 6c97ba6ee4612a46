//! The lake's side: its files, each counted once by hour and tenant. Files never change, so that those which were there before are
//! taken for what they were.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::DataFile;
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::lake::LakeStanding;
use sheaf_store::reconcile::{
    CountedFile, add_files, list_files, list_oldest_files, remove_files, touch_files,
};

use super::counting::lake_side;
use super::explosion::{HourlySums, Sums};
use crate::background::in_background;
use crate::corrections::Ranges;
use crate::digest::{Digested, TenantHour, digest_rows};
use crate::error::{Cause, LakeError};
use crate::files::Files;
use crate::rewrite::{partition_of, ranges_of, tell_damaged};
use crate::schema::LakeTable;
use crate::table::TableState;
use crate::warehouse::Warehouse;

/// Files that are read side by side: one for each core of a small machine.
const SIDE_BY_SIDE: usize = 2;
/// Files that are stored at once, and hours of tenants in them.
const STORED_FILES: usize = 64;
const STORED_HOURS: usize = 50_000;
/// Names of files in one statement.
const NAMES: usize = 500;

/// A file of facts.
#[derive(Debug, Clone)]
pub(crate) struct LakeFile {
    pub(crate) location: String,
    pub(crate) is_corrected: bool,
    /// Days since 1970, and the bucket of tenants.
    pub(crate) part: (i32, i32),
    pub(crate) ranges: Ranges,
    pub(crate) facts: u64,
}

/// The tables of facts as of one commit.
#[derive(Debug, Clone)]
pub(crate) struct LakeFacts {
    pub(crate) tables: Vec<TableState>,
}

impl LakeFacts {
    pub(crate) async fn load(
        warehouse: &Warehouse,
        standing: &LakeStanding,
    ) -> Result<LakeFacts, LakeError> {
        let mut tables = Vec::new();
        for table in [LakeTable::Facts, LakeTable::FactsCorrected] {
            if let Some(location) = standing.location(table.name()) {
                tables.push(TableState::load(table, warehouse, location).await?);
            }
        }
        Ok(LakeFacts { tables })
    }

    /// All files.
    pub(crate) async fn files(&self, warehouse: &Warehouse) -> Result<Vec<LakeFile>, LakeError> {
        let mut files = Vec::new();
        for state in &self.tables {
            for manifest in &state.manifests {
                let in_manifest = state.files_of(warehouse, manifest).await?;
                files.extend(in_manifest.iter().map(|file| lake_file(state.table, file)));
            }
        }
        Ok(files)
    }
}

fn lake_file(table: LakeTable, file: &DataFile) -> LakeFile {
    let part = partition_of(file);
    let number = |place: usize| part.get(place).copied().flatten().unwrap_or(i32::MIN);
    LakeFile {
        location: file.file_path().to_owned(),
        is_corrected: table == LakeTable::FactsCorrected,
        part: (number(0), number(1)),
        ranges: ranges_of(table, file),
        facts: file.record_count(),
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FilesWork {
    pub(crate) files: u64,
    pub(crate) files_gone: u64,
    pub(crate) facts: u64,
    /// Files that were read again, and were not what they had been.
    pub(crate) decayed: u64,
    /// Those that are damaged: nothing of them was counted.
    pub(crate) damaged: BTreeSet<String>,
}

/// What a file was found to have.
struct FileSums {
    file: LakeFile,
    sums: HourlySums,
    /// Whether all of its facts are older than the cutoff: then it is counted for good.
    is_settled: bool,
}

/// What a list of files and what was counted of them come to.
#[derive(Debug, Default)]
pub(crate) struct LakeCount {
    /// Of files that have younger facts: counted this time only.
    pub(crate) unsettled: HourlySums,
    pub(crate) has_unsettled: bool,
}

/// Forgets those of the files that were counted which are gone. Gives back the others.
pub(crate) async fn forget_gone(
    cdc: &Pool,
    present: &[LakeFile],
    work: &mut FilesWork,
) -> Result<HashSet<String>, LakeError> {
    let mut known: HashSet<String> = list_files(cdc).await?.into_iter().collect();
    let now: HashSet<&str> = present.iter().map(|file| file.location.as_str()).collect();
    let gone = known.iter().map(String::as_str);
    let gone: Vec<&str> = gone.filter(|location| !now.contains(location)).collect();
    for some in gone.chunks(NAMES) {
        remove_files(cdc, some).await?;
        work.files_gone += some.len() as u64;
    }
    known.retain(|location| now.contains(location.as_str()));
    Ok(known)
}

/// Counts those of the files that were not counted before.
pub(crate) async fn count_files(
    (cdc, files): (&Pool, &Files),
    present: &[LakeFile],
    known: &HashSet<String>,
    cutoff: Timestamp,
    work: &mut FilesWork,
) -> Result<LakeCount, LakeError> {
    let new = present
        .iter()
        .filter(|file| !known.contains(&file.location));
    let new: Vec<LakeFile> = new.cloned().collect();
    let mut reading = stream::iter(new)
        .map(|file| {
            let files = files.clone();
            in_background(move || whole(read_sums(&files, file, cutoff)))
        })
        .buffer_unordered(SIDE_BY_SIDE);
    let mut count = LakeCount::default();
    let mut waiting = Vec::new();
    let mut hours = HourlySums::new();
    while let Some(read) = reading.try_next().await? {
        work.files += 1;
        let read = match read {
            Ok(read) => read,
            Err(location) => {
                work.damaged.insert(location);
                // So that it is counted once it is put back.
                count.has_unsettled = true;
                continue;
            }
        };
        work.facts += read.file.facts;
        if !read.is_settled {
            count.has_unsettled = true;
            add_sums(&mut count.unsettled, &read.sums);
            continue;
        }
        add_sums(&mut hours, &read.sums);
        waiting.push(counted_file(&read));
        if waiting.len() >= STORED_FILES || hours.len() >= STORED_HOURS {
            add_files(cdc, &waiting, &lake_side(&hours), Timestamp::now()).await?;
            waiting.clear();
            hours.clear();
        }
    }
    if !waiting.is_empty() {
        add_files(cdc, &waiting, &lake_side(&hours), Timestamp::now()).await?;
    }
    Ok(count)
}

/// Reads those files again that were read the longest ago, before an instant: so many at most. All that are known are present. What is
/// not what it was any more is forgotten, so that it is counted as what it is.
pub(crate) async fn read_again(
    (cdc, files): (&Pool, &Files),
    present: &[LakeFile],
    known: &mut HashSet<String>,
    (before, files_max): (Timestamp, i64),
    work: &mut FilesWork,
) -> Result<(), LakeError> {
    let now: HashMap<&str, &LakeFile> = present
        .iter()
        .map(|file| (file.location.as_str(), file))
        .collect();
    let oldest = list_oldest_files(cdc, before, files_max).await?;
    let there = oldest.into_iter().filter_map(|counted| {
        let file = now.get(counted.location.as_str())?;
        Some((counted, (*file).clone()))
    });
    let there: Vec<(CountedFile, LakeFile)> = there.collect();
    let mut reading = stream::iter(there)
        .map(|(counted, file)| {
            let files = files.clone();
            in_background(move || {
                let read = match whole(read_sums(&files, file, Timestamp::MAX))? {
                    Ok(read) => read,
                    // It is forgotten too, and found damaged where it is counted anew.
                    Err(location) => return Ok((false, location, 0)),
                };
                let mut found = counted_file(&read);
                found
                    .hours
                    .sort_unstable_by_key(|(tenant, hour, _)| (*tenant, *hour));
                let mut known = counted;
                known
                    .hours
                    .sort_unstable_by_key(|(tenant, hour, _)| (*tenant, *hour));
                Ok((found == known, found.location, read.file.facts))
            })
        })
        .buffer_unordered(SIDE_BY_SIDE);
    let (mut same, mut other) = (Vec::new(), Vec::new());
    while let Some((is_same, location, facts)) = reading.try_next().await? {
        work.files += 1;
        work.facts += facts;
        if is_same {
            same.push(location);
        } else {
            tracing::error!(location, "a file of the lake is not what it was");
            known.remove(&location);
            other.push(location);
        }
    }
    drop(reading);
    let texts: Vec<&str> = same.iter().map(String::as_str).collect();
    touch_files(cdc, &texts, Timestamp::now()).await?;
    let texts: Vec<&str> = other.iter().map(String::as_str).collect();
    work.decayed += texts.len() as u64;
    remove_files(cdc, &texts).await?;
    Ok(())
}

/// What was read, or which file is damaged: the others are compared all the same.
fn whole<T>(read: Result<T, LakeError>) -> Result<Result<T, String>, LakeError> {
    match read {
        Err(ref error @ LakeError::Damaged { ref location, .. }) => {
            tell_damaged(error);
            Ok(Err(location.clone()))
        }
        read => read.map(Ok),
    }
}

fn counted_file(read: &FileSums) -> CountedFile {
    let hours = read.sums.iter();
    CountedFile {
        location: read.file.location.clone(),
        is_corrected: read.file.is_corrected,
        hours: hours
            .map(|(hour, sums)| (hour.tenant, hour.hour, sums.all.into()))
            .collect(),
    }
}

pub(crate) fn add_sums(to: &mut HourlySums, more: &HourlySums) {
    for (hour, sums) in more {
        add_one(to, *hour, *sums);
    }
}

fn read_sums(files: &Files, file: LakeFile, cutoff: Timestamp) -> Result<FileSums, LakeError> {
    let cutoff = cutoff.as_micros();
    let mut sums = HourlySums::new();
    let mut is_settled = true;
    // Facts of a file are mostly of the hour of those before.
    let mut last: Option<(TenantHour, Sums)> = None;
    for_each_fact(
        files,
        &file,
        |_| true,
        |fact| {
            if fact.ingested_at >= cutoff {
                is_settled = false;
                return;
            }
            let hour = fact.key.hour();
            match &mut last {
                Some((known, sum)) if *known == hour => sum.add(fact.digest, file.is_corrected),
                other => {
                    let mut sum = Sums::default();
                    sum.add(fact.digest, file.is_corrected);
                    if let Some((hour, before)) = other.replace((hour, sum)) {
                        add_one(&mut sums, hour, before);
                    }
                }
            }
        },
    )?;
    if let Some((hour, sum)) = last {
        add_one(&mut sums, hour, sum);
    }
    Ok(FileSums {
        file,
        sums,
        is_settled,
    })
}

fn add_one(to: &mut HourlySums, hour: TenantHour, sums: Sums) {
    let sum = to.entry(hour).or_default();
    sum.all += sums.all;
    sum.hidden += sums.hidden;
}

/// Tells of the facts of a file, of those of its groups that may have what is wanted.
pub(crate) fn for_each_fact(
    files: &Files,
    file: &LakeFile,
    is_wanted: impl Fn(&Ranges) -> bool,
    mut each: impl FnMut(Digested),
) -> Result<(), LakeError> {
    let stored = files.open(&file.location)?;
    let decoding = || LakeError::file("decoding file", &file.location);
    for batch in stored.digested(is_wanted).map_err(decoding())? {
        files.stop.check()?;
        let batch = batch.map_err(Cause::from).map_err(decoding())?;
        digest_rows(&batch, |_, fact| each(fact)).map_err(decoding())?;
    }
    Ok(())
}
