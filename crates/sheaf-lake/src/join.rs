//! Many sorted files as one: their rows in order, a few of each in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_select::interleave::interleave_record_batch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use crate::error::Cause;
use crate::schema::LakeTable;
use crate::stored_file::{Key, keys_of};

/// Rows that are given on at once, at most.
const CHUNK_ROWS: usize = 1 << 13;
/// Bytes of long texts that are given on at once; one more may be among them.
const CHUNK_BYTES: usize = 4 << 20;
/// The texts that may be long.
const LONG: [&str; 2] = ["value_text", "value_json"];

/// Where one of the files is.
struct Cursor {
    rows: ParquetRecordBatchReader,
    /// The place of its batch among those that are held.
    batch: usize,
    row: usize,
    keys: Vec<Key>,
    /// How long the long texts of each row are.
    long_bytes: Vec<usize>,
}

/// Gives on the rows of all these in the order of the table.
pub(crate) fn join(
    table: LakeTable,
    inputs: Vec<ParquetRecordBatchReader>,
    mut each: impl FnMut(&RecordBatch) -> Result<(), Cause>,
) -> Result<(), Cause> {
    let mut held: Vec<RecordBatch> = Vec::new();
    let mut cursors: Vec<Cursor> = Vec::new();
    let mut order: BinaryHeap<Reverse<(Key, usize)>> = BinaryHeap::new();
    for rows in inputs {
        let mut cursor = Cursor {
            rows,
            batch: 0,
            row: 0,
            keys: Vec::new(),
            long_bytes: Vec::new(),
        };
        if let Some(key) = cursor.load(table, &mut held)? {
            order.push(Reverse((key, cursors.len())));
            cursors.push(cursor);
        }
    }
    let mut chunk: Vec<(usize, usize)> = Vec::new();
    let mut chunk_bytes = 0;
    while let Some(Reverse((_, place))) = order.pop() {
        let cursor = &mut cursors[place];
        chunk.push((cursor.batch, cursor.row));
        chunk_bytes += cursor.long_bytes[cursor.row];
        cursor.row += 1;
        let next = match cursor.keys.get(cursor.row) {
            Some(key) => Some(*key),
            None => cursor.load(table, &mut held)?,
        };
        if let Some(key) = next {
            order.push(Reverse((key, place)));
        }
        if chunk.len() >= CHUNK_ROWS || chunk_bytes >= CHUNK_BYTES || order.is_empty() {
            let batches: Vec<&RecordBatch> = held.iter().collect();
            each(&interleave_record_batch(&batches, &chunk)?)?;
            chunk.clear();
            chunk_bytes = 0;
            forget(&mut held, &mut cursors);
        }
    }
    Ok(())
}

impl Cursor {
    /// The key of the first row of the next batch, if there is one.
    fn load(
        &mut self,
        table: LakeTable,
        held: &mut Vec<RecordBatch>,
    ) -> Result<Option<Key>, Cause> {
        self.row = 0;
        self.keys.clear();
        for batch in self.rows.by_ref() {
            let batch = batch?;
            self.keys = keys_of(table, &batch).ok_or("a column of the order is missing")?;
            if let Some(key) = self.keys.first() {
                self.batch = held.len();
                self.long_bytes = long_bytes(&batch);
                held.push(batch);
                return Ok(Some(*key));
            }
        }
        Ok(None)
    }
}

/// Lets go of the batches that nobody is in any more.
fn forget(held: &mut Vec<RecordBatch>, cursors: &mut [Cursor]) {
    let mut kept = Vec::with_capacity(cursors.len());
    for cursor in cursors {
        if !cursor.keys.is_empty() {
            kept.push(held[cursor.batch].clone());
            cursor.batch = kept.len() - 1;
        }
    }
    *held = kept;
}

/// How long the long texts of each row are.
fn long_bytes(batch: &RecordBatch) -> Vec<usize> {
    let mut bytes = vec![0; batch.num_rows()];
    let columns = LONG.iter().filter_map(|name| batch.column_by_name(name));
    for texts in columns.filter_map(|column| column.as_string_view_opt()) {
        for (bytes, length) in bytes.iter_mut().zip(texts.lengths()) {
            *bytes += usize::try_from(length).unwrap_or_default();
        }
    }
    bytes
}
