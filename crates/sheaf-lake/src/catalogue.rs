//! Rows of catalogues on their way into their table: new names of entities beside those that are there; of all else the files that
//! have a row of the same key are replaced. One file is in memory at a time.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::DataFile;

use crate::data_file::encode;
use crate::error::{Cause, LakeError};
use crate::files::{BATCH_ROWS, Files, encoding};
use crate::rewrite::{partition_of, ranges_of};
use crate::rows::{StoredRow, merge, read_rows, write_rows};
use crate::schema::LakeTable;
use crate::table::{TableChange, TableState};
use crate::tenant_buckets::TenantBuckets;

/// Writes changed rows of a catalogue, one at least.
pub(crate) fn change_rows(
    files: &Files,
    state: &TableState,
    rows: &[StoredRow],
) -> Result<TableChange, LakeError> {
    let mut change = TableChange::default();
    let table = state.table;
    let buckets = TenantBuckets::new(table)?;
    let known = Known::new(table, rows, &buckets)?;
    let mut before = Vec::new();
    for manifest in &state.manifests {
        if known.is_empty() {
            break;
        }
        let in_manifest = state.files_of(&files.warehouse, manifest);
        for file in files.runtime.block_on(in_manifest)? {
            if !known.may_be_in(&file) {
                continue;
            }
            let stored = read_file(files, table, &file)?.into_iter();
            let (found, rest): (Vec<_>, Vec<_>) = stored.partition(|row| known.has(row));
            if found.is_empty() {
                continue;
            }
            before.extend(found);
            change.removed.insert(file.file_path().to_owned());
            if !rest.is_empty() {
                let rest: Vec<_> = rest.iter().collect();
                let part = partition_of(&file);
                change.added.push(write_file(files, state, &part, &rest)?);
            }
        }
    }
    let merged = merge(table, before.into_iter(), rows)
        .map_err(|(position, source)| LakeError::Row { position, source })?;
    let mut divided: HashMap<Vec<Option<i32>>, Vec<&StoredRow>> = HashMap::new();
    for row in merged.values() {
        let part = match table {
            LakeTable::Entities => vec![Some(buckets.of(row.key.0)?)],
            LakeTable::Tenants
            | LakeTable::Attributes
            | LakeTable::Facts
            | LakeTable::FactsCorrected
            | LakeTable::Keyframes => Vec::new(),
        };
        divided.entry(part).or_default().push(row);
    }
    for (part, rows) in divided {
        change.added.push(write_file(files, state, &part, &rows)?);
    }
    Ok(change)
}

/// The keys of rows that may be there already.
enum Known {
    /// Of a table with few rows, which are one file: it is easier to read than many.
    All,
    /// The keys, by the bucket of their tenants.
    Keys(HashMap<i32, BTreeSet<(i64, i64)>>),
}

impl Known {
    fn new(
        table: LakeTable,
        rows: &[StoredRow],
        buckets: &TenantBuckets,
    ) -> Result<Known, LakeError> {
        match table {
            LakeTable::Tenants | LakeTable::Attributes => return Ok(Known::All),
            LakeTable::Entities
            | LakeTable::Facts
            | LakeTable::FactsCorrected
            | LakeTable::Keyframes => {}
        }
        let mut keys: HashMap<i32, BTreeSet<(i64, i64)>> = HashMap::new();
        for row in rows.iter().filter(|row| !row.is_new) {
            let bucket = buckets.of(row.key.0)?;
            keys.entry(bucket).or_default().insert(row.key);
        }
        Ok(Known::Keys(keys))
    }

    fn is_empty(&self) -> bool {
        matches!(self, Known::Keys(keys) if keys.is_empty())
    }

    fn has(&self, row: &StoredRow) -> bool {
        match self {
            Known::All => true,
            Known::Keys(keys) => keys.values().any(|keys| keys.contains(&row.key)),
        }
    }

    /// Whether a file may have one of them, by its part of the table and its bounds.
    fn may_be_in(&self, file: &DataFile) -> bool {
        let Known::Keys(keys) = self else {
            return true;
        };
        let bucket = partition_of(file).first().copied().flatten();
        let Some(keys) = bucket.and_then(|bucket| keys.get(&bucket)) else {
            return false;
        };
        let ranges = ranges_of(LakeTable::Entities, file);
        let within = |(least, greatest): (i64, i64), number| (least..=greatest).contains(&number);
        let mut keys = keys.iter();
        keys.any(|(tenant, entity)| {
            within(ranges.tenants, *tenant) && within(ranges.entities, *entity)
        })
    }
}

fn read_file(
    files: &Files,
    table: LakeTable,
    file: &DataFile,
) -> Result<Vec<StoredRow>, LakeError> {
    let location = file.file_path();
    let stored = files.open(location)?;
    let decoding = || LakeError::file("decoding file", location);
    let mut rows = Vec::new();
    for batch in stored.rows().map_err(decoding())? {
        let batch = batch.map_err(Cause::from).map_err(decoding())?;
        let read = read_rows(table, &batch).ok_or("a column is missing");
        rows.extend(read.map_err(Cause::from).map_err(decoding())?);
    }
    Ok(rows)
}

fn write_file(
    files: &Files,
    state: &TableState,
    part: &[Option<i32>],
    rows: &[&StoredRow],
) -> Result<DataFile, LakeError> {
    let schema = state.table.arrow_schema()?;
    let batches = rows.chunks(BATCH_ROWS);
    let batches = batches.map(|rows| write_rows(state.table, &schema, rows));
    let encoded = encode(state.table, &schema, batches).map_err(encoding(state))?;
    files.keep(state, part, encoded)
}
