//! Facts that are older than their attribute's retention, taken out of the files that have them.
//!
//! The last fact of each series before the boundary stays: it may be current still, and is what an entity was at the boundary. So does the
//! last replace or delete of an entity, which says what ended before it. What is replaced goes, however late it was. A step writes files
//! of so many bytes anew and looks at the newest of the days before the boundaries first, so that a later step finds what stays of them
//! and goes on with those before. What is taken out is counted by hour.

mod boundaries;
mod keyframes;
mod lasting;

use std::collections::{BTreeMap, HashMap};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use iceberg::spec::DataFile;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use sheaf_model::LATE_SEQ;
use sheaf_store::retention::Removal;

use crate::corrections::FactOf;
use crate::data_file::FileWriter;
use crate::digest::{Digest, TenantHour, digest_rows};
use crate::error::{Cause, LakeError};
use crate::facts::DAY_MICROS;
use crate::files::{Files, encoding};
use crate::rewrite::{Prepared, facts_of, partition_of, ranges_of, tell_damaged};
use crate::schema::{LakeTable, TENANT_BUCKETS};
use crate::stored_file::StoredFile;
use crate::table::{TableChange, TableState};
pub(crate) use boundaries::Boundaries;
use keyframes::Frames;
use lasting::{Lasting, Share, TooMany};

/// Bytes of the files that are written anew by a step. More makes fewer commits, each of which is in memory.
const STEP_BYTES: u64 = 64 << 20;

/// A file of a day that may have something to go.
#[derive(Debug)]
struct OldFile {
    location: String,
    part: Vec<Option<i32>>,
    bytes: u64,
}

/// Those of a bucket of tenants, by day.
type Days = BTreeMap<i32, Vec<OldFile>>;

/// The tables that facts go from.
pub(crate) struct OldTables {
    pub(crate) facts: TableState,
    pub(crate) corrected: TableState,
    pub(crate) keyframes: TableState,
}

/// Takes out some of what is before the boundaries, from a bucket of tenants on; nothing where nothing is to go.
pub(crate) fn take_out(
    files: &Files,
    tables: &OldTables,
    boundaries: &Boundaries,
    from_bucket: i32,
) -> Result<Prepared, LakeError> {
    let [mut facts, mut corrected, mut keyframes] = [
        old_files(files, &tables.facts, boundaries)?,
        old_files(files, &tables.corrected, boundaries)?,
        old_files(files, &tables.keyframes, boundaries)?,
    ];
    let buckets = i32::try_from(TENANT_BUCKETS).unwrap_or(i32::MAX);
    for bucket in from_bucket..buckets {
        let mut step = Step::new(files, boundaries);
        let old = [&mut facts, &mut corrected, &mut keyframes].map(|old| old.remove(&bucket));
        match step.take(tables, old) {
            // Which of the bucket's facts are the last of their series nobody knows now: they stay, and the others have their turn.
            Err(error @ LakeError::Damaged { .. }) => {
                tell_damaged(&error);
                continue;
            }
            taken => taken?,
        }
        let prepared = step.into_prepared(bucket);
        if !prepared.is_empty() {
            return Ok(prepared);
        }
    }
    Ok(Prepared::default())
}

/// The files of a table that may have something to go, by bucket and day.
fn old_files(
    files: &Files,
    state: &TableState,
    boundaries: &Boundaries,
) -> Result<HashMap<i32, Days>, LakeError> {
    let mut buckets: HashMap<i32, Days> = HashMap::new();
    // What a description says of a file is much more than this: those of one manifest at a time.
    for manifest in &state.manifests {
        files.stop.check()?;
        let in_manifest = state.files_of(&files.warehouse, manifest);
        for file in files.runtime.block_on(in_manifest)? {
            let part = partition_of(&file);
            let [Some(day), Some(bucket)] = part[..] else {
                continue;
            };
            let tenants = ranges_of(state.table, &file).tenants;
            if boundaries.reach(tenants, i64::from(day) * DAY_MICROS) {
                let days = buckets.entry(bucket).or_default();
                days.entry(day).or_default().push(OldFile {
                    location: file.file_path().to_owned(),
                    bytes: file.file_size_in_bytes(),
                    part,
                });
            }
        }
    }
    Ok(buckets)
}

/// One step, of one bucket of tenants.
struct Step<'a> {
    files: &'a Files,
    boundaries: &'a Boundaries,
    /// What may still be written anew.
    bytes_left: u64,
    changes: Vec<(LakeTable, TableChange)>,
    removed: BTreeMap<(TenantHour, bool), (Digest, Digest)>,
}

impl<'a> Step<'a> {
    fn new(files: &'a Files, boundaries: &'a Boundaries) -> Step<'a> {
        Step {
            files,
            boundaries,
            bytes_left: STEP_BYTES,
            changes: Vec::new(),
            removed: BTreeMap::new(),
        }
    }

    fn take(
        &mut self,
        tables: &OldTables,
        [facts, corrected, keyframes]: [Option<Days>; 3],
    ) -> Result<(), LakeError> {
        self.take_corrected(&tables.corrected, corrected)?;
        self.take_shares(&tables.facts, facts, Step::take_facts)?;
        self.take_shares(&tables.keyframes, keyframes, Step::take_keyframes)
    }

    /// Whether a file may still be written anew: one at least.
    fn has_room(&self) -> bool {
        self.bytes_left > 0
    }

    fn into_prepared(self, bucket: i32) -> Prepared {
        let mut changes = self.changes;
        changes.retain(|(_, change)| !change.is_empty());
        let removed = self.removed.into_iter();
        let removed = removed.map(|((hour, is_late), (all, hidden))| Removal {
            tenant: hour.tenant,
            hour: hour.hour,
            is_late,
            all: all.into(),
            hidden: hidden.into(),
        });
        Prepared {
            changes,
            removed: removed.collect(),
            bucket,
            ..Prepared::default()
        }
    }

    /// What was replaced is never current.
    fn take_corrected(&mut self, state: &TableState, days: Option<Days>) -> Result<(), LakeError> {
        let boundaries = self.boundaries;
        let goes = |fact: &FactOf, _: bool| {
            boundaries.is_before(fact.at.tenant, fact.attribute, fact.at.observed_at)
        };
        let mut change = TableChange::default();
        for file in days.iter().flat_map(BTreeMap::values).flatten() {
            if self.has_room() && self.has_any(file, goes)? {
                self.rewrite(state, file, &mut change, goes)?;
            }
        }
        self.changes.push((state.table, change));
        Ok(())
    }

    /// What is not the last of its series or entity. Where there are too many of these to be remembered, a share at a time.
    fn take_shares(
        &mut self,
        state: &TableState,
        days: Option<Days>,
        take: impl Fn(
            &mut Step<'a>,
            &TableState,
            &Days,
            Share,
            &mut TableChange,
        ) -> Result<Result<(), TooMany>, LakeError>,
    ) -> Result<(), LakeError> {
        let days = days.unwrap_or_default();
        let mut change = TableChange::default();
        let (mut share, mut shares) = (0, 1);
        while share < shares && change.is_empty() && self.has_room() {
            match take(self, state, &days, Share::new(share, shares), &mut change)? {
                Ok(()) => share += 1,
                // What was taken until then was rightly: newer days are known whole.
                Err(TooMany) if !change.is_empty() => break,
                Err(TooMany) => (share, shares) = (0, shares * 4),
            }
        }
        self.changes.push((state.table, change));
        Ok(())
    }

    /// Facts but for the last of each series.
    fn take_facts(
        &mut self,
        state: &TableState,
        days: &Days,
        share: Share,
        change: &mut TableChange,
    ) -> Result<Result<(), TooMany>, LakeError> {
        let mut lasting = Lasting::new(self.boundaries, share);
        for of_day in days.values().rev() {
            for file in of_day {
                let mut is_too_many = false;
                self.each_fact(file, |fact, ends_all| {
                    is_too_many |= lasting.meet(fact, ends_all).is_err();
                })?;
                if is_too_many {
                    return Ok(Err(TooMany));
                }
            }
            for file in of_day {
                let goes = |fact: &FactOf, ends_all: bool| lasting.goes(fact, ends_all);
                if self.has_room() && self.has_any(file, goes)? {
                    self.rewrite(state, file, change, goes)?;
                }
            }
            if !self.has_room() {
                break;
            }
            lasting.end_day();
        }
        Ok(Ok(()))
    }

    /// Keyframes but for the last of each entity at its boundary.
    fn take_keyframes(
        &mut self,
        state: &TableState,
        days: &Days,
        share: Share,
        change: &mut TableChange,
    ) -> Result<Result<(), TooMany>, LakeError> {
        let mut frames = Frames::new(self.boundaries, share);
        for of_day in days.values().rev() {
            for file in of_day {
                let mut is_too_many = false;
                self.each_frames(file, |batch| {
                    is_too_many |= frames.meet(batch)?.is_err();
                    Ok(())
                })?;
                if is_too_many {
                    return Ok(Err(TooMany));
                }
            }
            for file in of_day {
                let mut has_any = false;
                if self.has_room() {
                    self.each_frames(file, |batch| {
                        has_any |= frames.stay(batch)?.contains(&false);
                        Ok(())
                    })?;
                }
                if has_any {
                    self.rewrite_rows(state, file, change, |batch| frames.stay(batch))?;
                }
            }
            if !self.has_room() {
                break;
            }
            frames.end_day();
        }
        Ok(Ok(()))
    }

    fn each_fact(
        &self,
        file: &OldFile,
        mut each: impl FnMut(&FactOf, bool),
    ) -> Result<(), LakeError> {
        let rows = |stored: &StoredFile| stored.facts(|_| true);
        self.each_batch(file, rows, |batch| {
            for (fact, ends_all) in facts_of(batch)? {
                each(&fact, ends_all);
            }
            Ok(())
        })
    }

    /// The keys of keyframes.
    fn each_frames(
        &self,
        file: &OldFile,
        each: impl FnMut(&RecordBatch) -> Result<(), Cause>,
    ) -> Result<(), LakeError> {
        let rows = |stored: &StoredFile| stored.keys(LakeTable::Keyframes);
        self.each_batch(file, rows, each)
    }

    fn each_batch(
        &self,
        file: &OldFile,
        rows: impl Fn(&StoredFile) -> Result<ParquetRecordBatchReader, Cause>,
        mut each: impl FnMut(&RecordBatch) -> Result<(), Cause>,
    ) -> Result<(), LakeError> {
        let stored = self.files.open(&file.location)?;
        let decoding = || LakeError::file("decoding file", &file.location);
        for batch in rows(&stored).map_err(decoding())? {
            self.files.stop.check()?;
            let batch = batch.map_err(Cause::from).map_err(decoding())?;
            each(&batch).map_err(decoding())?;
        }
        Ok(())
    }

    fn has_any(
        &self,
        file: &OldFile,
        goes: impl Fn(&FactOf, bool) -> bool,
    ) -> Result<bool, LakeError> {
        let mut has_any = false;
        self.each_fact(file, |fact, ends_all| has_any |= goes(fact, ends_all))?;
        Ok(has_any)
    }

    /// Writes a file of facts without those that go, and counts these.
    fn rewrite(
        &mut self,
        state: &TableState,
        file: &OldFile,
        change: &mut TableChange,
        goes: impl Fn(&FactOf, bool) -> bool,
    ) -> Result<(), LakeError> {
        let is_corrected = state.table == LakeTable::FactsCorrected;
        let mut removed = std::mem::take(&mut self.removed);
        let stay = |batch: &RecordBatch| -> Result<Vec<bool>, Cause> {
            let facts = facts_of(batch)?;
            let stay = facts.iter().map(|(fact, ends_all)| !goes(fact, *ends_all));
            let stay: Vec<bool> = stay.collect();
            digest_rows(batch, |row, fact| {
                if stay[row] {
                    return;
                }
                let is_late = fact.key.seq >= i64::from(LATE_SEQ);
                let sums = removed.entry((fact.key.hour(), is_late)).or_default();
                sums.0 += fact.digest;
                if is_corrected {
                    sums.1 += fact.digest;
                }
            })?;
            Ok(stay)
        };
        let rewritten = self.rewrite_rows(state, file, change, stay);
        self.removed = removed;
        rewritten
    }

    /// Writes a file without rows, if any go.
    fn rewrite_rows(
        &mut self,
        state: &TableState,
        file: &OldFile,
        change: &mut TableChange,
        mut stay: impl FnMut(&RecordBatch) -> Result<Vec<bool>, Cause>,
    ) -> Result<(), LakeError> {
        let stored = self.files.open(&file.location)?;
        let decoding = || LakeError::file("decoding file", &file.location);
        let schema = state.table.arrow_schema()?;
        let mut writer = FileWriter::new(state.table, &schema).map_err(encoding(state))?;
        let mut has_any = false;
        for batch in stored.rows().map_err(decoding())? {
            self.files.stop.check()?;
            let batch = batch.map_err(Cause::from).map_err(decoding())?;
            let stay = BooleanArray::from(stay(&batch).map_err(decoding())?);
            has_any |= stay.has_false();
            let rest = filter_record_batch(&batch, &stay);
            let rest = rest.map_err(Cause::from).map_err(decoding())?;
            writer.write(&rest).map_err(encoding(state))?;
        }
        if !has_any {
            return Ok(());
        }
        self.bytes_left = self.bytes_left.saturating_sub(file.bytes.max(1));
        change.removed.insert(file.location.clone());
        if !writer.is_empty() {
            let encoded = writer.finish().map_err(encoding(state))?;
            let kept: DataFile = self.files.keep(state, &file.part, encoded)?;
            change.added.push(kept);
        }
        Ok(())
    }
}
