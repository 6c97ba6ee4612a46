//! What a lake that begins anew keeps: the history that is in it alone. Everything else it is given again.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use iceberg::spec::{DataFile, PrimitiveLiteral};
use sheaf_model::Timestamp;

use crate::data_file::FileWriter;
use crate::error::{Cause, LakeError};
use crate::files::{Files, encoding};
use crate::rewrite::partition_of;
use crate::schema::LakeTable;
use crate::table::{TableChange, TableState};

/// What a table is without the rows that are given again. Files of which some rows stay are written anew.
pub(crate) fn keep_archived(
    files: &Files,
    state: &TableState,
    archived_before: Timestamp,
) -> Result<TableChange, LakeError> {
    let Some(kept) = Kept::of(state.table, archived_before) else {
        return Ok(TableChange {
            clears: state.metadata.current_snapshot().is_some(),
            ..TableChange::default()
        });
    };
    let mut change = TableChange::default();
    for manifest in &state.manifests {
        let in_manifest = state.files_of(&files.warehouse, manifest);
        for file in files.runtime.block_on(in_manifest)? {
            let (least, greatest) = kept.range(state.table, &file);
            if greatest < kept.until {
                continue;
            }
            change.removed.insert(file.file_path().to_owned());
            if least < kept.until {
                change.added.extend(kept_part(files, state, &file, &kept)?);
            }
        }
    }
    Ok(change)
}

/// Which rows stay: those whose time is before another one.
struct Kept {
    column: &'static str,
    /// In microseconds.
    until: i64,
}

impl Kept {
    /// None where nothing stays.
    fn of(table: LakeTable, archived_before: Timestamp) -> Option<Kept> {
        let before = archived_before.as_micros();
        match table {
            LakeTable::Tenants | LakeTable::Attributes | LakeTable::Entities => None,
            LakeTable::Facts | LakeTable::FactsCorrected => Some(Kept {
                column: "observed_at",
                until: before,
            }),
            // That of the end of the last period is of it.
            LakeTable::Keyframes => Some(Kept {
                column: "at",
                until: before.saturating_add(1),
            }),
        }
    }

    /// Where nothing is said of the column it may have everything.
    fn range(&self, table: LakeTable, file: &DataFile) -> (i64, i64) {
        let number = table.number(self.column).unwrap_or_default();
        let long =
            |bound: Option<&iceberg::spec::Datum>| match bound.map(iceberg::spec::Datum::literal) {
                Some(PrimitiveLiteral::Long(number)) => Some(*number),
                _ => None,
            };
        (
            long(file.lower_bounds().get(&number)).unwrap_or(i64::MIN),
            long(file.upper_bounds().get(&number)).unwrap_or(i64::MAX),
        )
    }

    fn filter(&self, batch: &RecordBatch) -> Result<RecordBatch, Cause> {
        let times = batch.column_by_name(self.column);
        let times = times.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let times = times.ok_or("the column of the time is missing")?;
        let stays: BooleanArray = times
            .iter()
            .map(|time| Some(time.is_some_and(|time| time < self.until)))
            .collect();
        Ok(filter_record_batch(batch, &stays)?)
    }
}

fn kept_part(
    files: &Files,
    state: &TableState,
    file: &DataFile,
    kept: &Kept,
) -> Result<Option<DataFile>, LakeError> {
    let location = file.file_path();
    let stored = files.open(location)?;
    let decoding = || LakeError::file("decoding file", location);
    let schema = state.table.arrow_schema()?;
    let mut writer = FileWriter::new(state.table, &schema).map_err(encoding(state))?;
    for batch in stored.rows().map_err(decoding())? {
        files.stop.check()?;
        let batch = batch.map_err(Cause::from).map_err(decoding())?;
        let rest = kept.filter(&batch).map_err(decoding())?;
        writer.write(&rest).map_err(encoding(state))?;
    }
    if writer.is_empty() {
        return Ok(None);
    }
    let encoded = writer.finish().map_err(encoding(state))?;
    Ok(Some(files.keep(state, &partition_of(file), encoded)?))
}
