//! Files that are written anew beside the stream, for the next commit to put in place of those that they were made of.
//!
//! What is made here is files that nobody knows. Commits in between add files and take none away, so that it stays true.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use iceberg::spec::{DataFile, Datum, Literal, PrimitiveLiteral};
use sheaf_store::lake::{CorrectionKey, LakeCorrection};
use sheaf_store::retention::Removal;

use crate::compaction::{FileSize, JoinLimits, choose};
use crate::corrections::{At, Corrections, FactOf, Ranges, fact_of};
use crate::data_file::FileWriter;
use crate::error::{Cause, LakeError};
use crate::facts::{NamedFacts, day_of};
use crate::files::{Files, encoding};
use crate::join::join;
use crate::schema::LakeTable;
use crate::stored_file::keys_of;
use crate::table::{TableChange, TableState};

/// What reading the files that become one may take beside them.
const READING_BYTES_MAX: u64 = 64 << 20;

/// What the next commit puts in place.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) changes: Vec<(LakeTable, TableChange)>,
    /// Events that waited and are in the changed tables.
    pub(crate) applied: Vec<CorrectionKey>,
    /// Events that wait from now on.
    pub(crate) noted: Vec<LakeCorrection>,
    /// Events that were asked to be put right, and are in the changed tables as they were asked for.
    pub(crate) repaired: Vec<CorrectionKey>,
    /// What the changed tables do not have any more, since it is older than it is kept.
    pub(crate) removed: Vec<Removal>,
    /// The bucket of tenants that these were of.
    pub(crate) bucket: i32,
}

impl Prepared {
    /// What becomes of the facts that count and of those that are hidden.
    pub(crate) fn of_facts(kept: TableChange, replaced: TableChange) -> Prepared {
        let mut changes = vec![
            (LakeTable::Facts, kept),
            (LakeTable::FactsCorrected, replaced),
        ];
        changes.retain(|(_, change)| !change.is_empty());
        Prepared {
            changes,
            ..Prepared::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.applied.is_empty()
            && self.noted.is_empty()
            && self.repaired.is_empty()
    }
}

/// Brings events of a few days that waited into the tables: what they hide is taken out of the files that have it, and what is hidden
/// of theirs is among the replaced facts at once. An event that is there already adds nothing. Those of days of which a file is
/// damaged wait on.
pub(crate) fn correct(
    files: &Files,
    facts: &TableState,
    corrected: &TableState,
    events: &NamedFacts,
    mut applied: Vec<CorrectionKey>,
) -> Result<Prepared, LakeError> {
    let pending = &events.pending;
    let mut corrections = Corrections::new(pending);
    let days = pending.events.iter();
    let days = days
        .map(|event| day_of(event.observed_at.as_micros()))
        .collect();
    // Everything that is there about the instants, before anything is decided.
    let counts = |_: &FactOf| true;
    let mut damaged = BTreeSet::new();
    let mut pass_over = |day, error: LakeError| match error {
        LakeError::Damaged { .. } => {
            tell_damaged(&error);
            damaged.insert(day);
            Ok(())
        }
        error => Err(error),
    };
    let at = (&days, &mut corrections);
    look(files, corrected, at, counts, &mut pass_over)?;
    let at = (&days, &mut corrections);
    let concerned = look(files, facts, at, counts, &mut pass_over)?;
    let is_whole = |micros: i64| !damaged.contains(&day_of(micros));
    applied.retain(|key| is_whole(key.observed_at.as_micros()));
    let fact = |place| fact_of(pending, pending.fact(place));
    let is_new = |place| {
        let is_new =
            |fact: &FactOf| is_whole(fact.at.observed_at) && !corrections.is_present(*fact);
        Some(fact(place)).filter(is_new)
    };
    let stays = |place| is_new(place).is_some_and(|fact| !corrections.hide(fact));
    let is_hidden = |place| is_new(place).is_some_and(|fact| corrections.hide(fact));
    let mut kept = TableChange {
        added: files.write_facts(facts, events, stays)?,
        ..TableChange::default()
    };
    let mut replaced = TableChange {
        added: files.write_facts(corrected, events, is_hidden)?,
        ..TableChange::default()
    };
    for (file, found) in concerned {
        let hides = |fact: FactOf| is_whole(fact.at.observed_at) && corrections.hide(fact);
        if found.into_iter().any(hides) {
            let fate = |fact: &FactOf| match corrections.hide(*fact) {
                true => Fate::Goes,
                false => Fate::Stays,
            };
            let (rest, hidden) = divide_file(files, facts, corrected, &file, fate)?;
            kept.removed.insert(file.file_path().to_owned());
            kept.added.extend(rest);
            replaced.added.extend(hidden);
        }
    }
    Ok(Prepared {
        applied,
        ..Prepared::of_facts(kept, replaced)
    })
}

/// Takes in what a table has about the instants of some events, all of these days, of those facts that count, and gives back the files
/// that have any about them with that. Of a file that cannot be opened it says the day, and is told what to do.
pub(crate) fn look(
    files: &Files,
    state: &TableState,
    (days, corrections): (&BTreeSet<i32>, &mut Corrections),
    counts: impl Fn(&FactOf) -> bool,
    mut or_else: impl FnMut(i32, LakeError) -> Result<(), LakeError>,
) -> Result<Vec<(DataFile, Vec<FactOf>)>, LakeError> {
    let mut concerned = Vec::new();
    for manifest in &state.manifests {
        let in_manifest = state.files_of(&files.warehouse, manifest);
        for file in files.runtime.block_on(in_manifest)? {
            let day = partition_of(&file).first().copied().flatten();
            let Some(day) = day.filter(|day| days.contains(day)) else {
                continue;
            };
            if !corrections.may_be_in(&ranges_of(state.table, &file)) {
                continue;
            }
            let stored = match files.open(file.file_path()) {
                Ok(stored) => stored,
                Err(error) => {
                    or_else(day, error)?;
                    continue;
                }
            };
            let decoding = || LakeError::file("decoding file", file.file_path());
            let rows = stored.facts(|ranges| corrections.may_be_in(ranges));
            let mut found = Vec::new();
            for batch in rows.map_err(decoding())? {
                let batch = batch.map_err(Cause::from).map_err(decoding())?;
                for (fact, hides_all) in facts_of(&batch).map_err(decoding())? {
                    if corrections.concerns(&fact) {
                        found.push(fact);
                        if counts(&fact) {
                            corrections.see(fact, hides_all);
                        }
                    }
                }
            }
            if !found.is_empty() {
                concerned.push((file, found));
            }
        }
    }
    Ok(concerned)
}

/// What becomes of a fact when its file is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in the same table.
    Stays,
    /// It is in the other table.
    Goes,
    /// It is nowhere.
    Ends,
}

/// A file without the facts that go or end, if any are left, and one of those that go, if any do.
pub(crate) fn divide_file(
    files: &Files,
    from: &TableState,
    to: &TableState,
    file: &DataFile,
    fate: impl Fn(&FactOf) -> Fate,
) -> Result<(Option<DataFile>, Option<DataFile>), LakeError> {
    let location = file.file_path();
    let stored = files.open(location)?;
    let decoding = || LakeError::file("decoding file", location);
    let schema = from.table.arrow_schema()?;
    let mut rest = FileWriter::new(from.table, &schema).map_err(encoding(from))?;
    let mut taken = FileWriter::new(to.table, &schema).map_err(encoding(to))?;
    let mut divide = |batch: &RecordBatch| -> Result<(), Cause> {
        let fates: Vec<Fate> = facts_of(batch)?
            .iter()
            .map(|(fact, _)| fate(fact))
            .collect();
        for (wanted, writer) in [(Fate::Stays, &mut rest), (Fate::Goes, &mut taken)] {
            if fates.contains(&wanted) {
                let is_wanted: BooleanArray =
                    fates.iter().map(|fate| Some(*fate == wanted)).collect();
                writer.write(&filter_record_batch(batch, &is_wanted)?)?;
            }
        }
        Ok(())
    };
    for batch in stored.rows().map_err(decoding())? {
        files.stop.check()?;
        let batch = batch.map_err(Cause::from).map_err(decoding())?;
        divide(&batch).map_err(decoding())?;
    }
    let partition = partition_of(file);
    let keep = |state: &TableState, writer: FileWriter| {
        if writer.is_empty() {
            return Ok(None);
        }
        let encoded = writer.finish().map_err(encoding(state))?;
        files.keep(state, &partition, encoded).map(Some)
    };
    Ok((keep(from, rest)?, keep(to, taken)?))
}

/// The facts of rows, each with whether its event hides everything before it.
pub(crate) fn facts_of(batch: &RecordBatch) -> Result<Vec<(FactOf, bool)>, Cause> {
    let keys = keys_of(LakeTable::Facts, batch).ok_or("a column of the order is missing")?;
    let ops = batch.column_by_name("op");
    let ops = ops.and_then(|column| column.as_string_view_opt());
    let ops = ops.ok_or("the column of the op is missing")?;
    let fact = |([tenant, attribute, entity, observed_at, seq], op): (&[i64; 5], Option<&str>)| {
        let fact = FactOf {
            at: At {
                tenant: *tenant,
                entity: *entity,
                observed_at: *observed_at,
            },
            seq: *seq,
            attribute: Some(*attribute).filter(|number| *number != i64::MIN),
        };
        (fact, matches!(op, Some("replace" | "delete")))
    };
    Ok(keys.iter().zip(ops).map(fact).collect())
}

/// Joins small files, in those parts that have many of them. What the commits in between do to the tables of facts leaves these
/// files alone; of the names of entities they may take one away, and then it was in vain.
pub(crate) fn join_files(
    files: &Files,
    tables: &[TableState],
    limits: &JoinLimits,
) -> Result<Prepared, LakeError> {
    let mut prepared = Prepared::default();
    let mut limits = *limits;
    for state in tables {
        match state.table {
            LakeTable::Facts
            | LakeTable::FactsCorrected
            | LakeTable::Entities
            | LakeTable::Keyframes => {}
            // One file, as a rule.
            LakeTable::Tenants | LakeTable::Attributes => continue,
        }
        let small = small_files(files, state, limits.full_bytes)?;
        let mut change = TableChange::default();
        for group in choose(&small, &limits) {
            let group: Vec<&FileSize> = group.iter().map(|place| &small[*place]).collect();
            let bytes: u64 = group.iter().map(|file| file.bytes).sum();
            limits.step_bytes = limits.step_bytes.saturating_sub(bytes);
            join_group(files, state, &group, &mut change)?;
        }
        if !change.is_empty() {
            prepared.changes.push((state.table, change));
        }
    }
    Ok(prepared)
}

/// The files of a table that are not full.
fn small_files(
    files: &Files,
    state: &TableState,
    full_bytes: u64,
) -> Result<Vec<FileSize>, LakeError> {
    let mut small = Vec::new();
    // What a description says of a file is much more than this: those of one manifest at a time.
    for manifest in &state.manifests {
        let in_manifest = state.files_of(&files.warehouse, manifest);
        for file in files.runtime.block_on(in_manifest)? {
            if file.file_size_in_bytes() < full_bytes {
                small.push(FileSize {
                    part: partition_of(&file),
                    location: file.file_path().to_owned(),
                    bytes: file.file_size_in_bytes(),
                });
            }
        }
    }
    Ok(small)
}

/// Makes one file of as many of these as can be read side by side.
fn join_group(
    files: &Files,
    state: &TableState,
    group: &[&FileSize],
    change: &mut TableChange,
) -> Result<(), LakeError> {
    let mut inputs = Vec::new();
    let mut joined = Vec::new();
    let mut reading_bytes = 0;
    for file in group {
        let stored = match files.open(&file.location) {
            // It stays as it is, and the others are joined.
            Err(error @ LakeError::Damaged { .. }) => {
                tell_damaged(&error);
                continue;
            }
            stored => stored?,
        };
        reading_bytes += stored.reading_bytes();
        if reading_bytes > READING_BYTES_MAX && joined.len() > 1 {
            break;
        }
        let rows = stored.rows();
        inputs.push(rows.map_err(LakeError::file("decoding file", &file.location))?);
        joined.push(file);
    }
    let [first, _, ..] = joined[..] else {
        return Ok(());
    };
    let schema = state.table.arrow_schema()?;
    let mut writer = FileWriter::new(state.table, &schema).map_err(encoding(state))?;
    let each = |batch: &RecordBatch| -> Result<(), Cause> {
        files.stop.check()?;
        Ok(writer.write(batch)?)
    };
    join(state.table, inputs, each).map_err(encoding(state))?;
    let encoded = writer.finish().map_err(encoding(state))?;
    change.added.push(files.keep(state, &first.part, encoded)?);
    let locations = joined.iter().map(|file| file.location.clone());
    change.removed.extend(locations);
    Ok(())
}

/// Somebody has to put back what was there: until then work goes on around it.
pub(crate) fn tell_damaged(error: &LakeError) {
    let error = sheaf_pg::chain(error);
    tracing::error!(error, "a data file of the lake is passed over");
}

/// What the rows of a file have in common.
pub(crate) fn partition_of(file: &DataFile) -> Vec<Option<i32>> {
    let fields = file.partition().fields().iter();
    let number = |field: &Option<Literal>| match field {
        Some(Literal::Primitive(PrimitiveLiteral::Int(number))) => Some(*number),
        _ => None,
    };
    fields.map(number).collect()
}

/// Where nothing is said of a column it may have everything.
pub(crate) fn ranges_of(table: LakeTable, file: &DataFile) -> Ranges {
    let long = |bound: Option<&Datum>| match bound.map(Datum::literal) {
        Some(PrimitiveLiteral::Long(number)) => Some(*number),
        _ => None,
    };
    let range = |name| {
        let number = table.number(name).unwrap_or_default();
        (
            long(file.lower_bounds().get(&number)).unwrap_or(i64::MIN),
            long(file.upper_bounds().get(&number)).unwrap_or(i64::MAX),
        )
    };
    Ranges {
        tenants: range("tenant_id"),
        entities: range("entity_id"),
        instants: range("observed_at"),
    }
}
