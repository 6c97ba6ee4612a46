//! Batches in pieces by what they would take if they were copied: a text that stands in thousands of rows is in memory once.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use datafusion::common::Result;
use futures::{Stream, TryStreamExt, stream};
use sheaf_export::Cell;

/// What a piece would take at most, where it is more than a row.
pub(crate) const SLICE_BYTES: usize = 8 << 20;

/// What the rows of a batch take as cells.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let texts = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View => {
                let lengths = column.as_string_view().lengths();
                lengths
                    .map(|length| usize::try_from(length).unwrap_or(usize::MAX))
                    .sum()
            }
            DataType::Utf8 => {
                let offsets = column.as_string::<i32>().offsets().lengths();
                offsets.sum()
            }
            DataType::LargeUtf8 => column.as_string::<i64>().offsets().lengths().sum(),
            _ => 0usize,
        });
    let cells = batch.num_rows() * batch.num_columns() * size_of::<Cell>();
    texts.fold(cells, usize::saturating_add)
}

/// A batch in pieces, in its order.
pub(crate) fn slices(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let mut left = vec![batch];
    std::iter::from_fn(move || {
        loop {
            let batch = left.pop()?;
            let rows = batch.num_rows();
            if rows <= 1 || bytes_of(&batch) <= SLICE_BYTES {
                return Some(batch);
            }
            let half = rows / 2;
            left.push(batch.slice(half, rows - half));
            left.push(batch.slice(0, half));
        }
    })
}

/// The batches of a stream in pieces, in its order.
pub(crate) fn sliced(
    rows: impl Stream<Item = Result<RecordBatch>>,
) -> impl Stream<Item = Result<RecordBatch>> {
    rows.map_ok(|batch| stream::iter(slices(batch).map(Ok)))
        .try_flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::StringViewBuilder;
    use arrow_array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn a_text_that_stands_in_many_rows_counts_for_each_and_no_row_is_lost() {
        let long = "x".repeat(256 << 10);
        let mut texts = StringViewBuilder::new().with_deduplicate_strings();
        for _ in 0..1_000 {
            texts.append_value(&long);
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let texts: ArrayRef = Arc::new(texts.finish());
        let batch = RecordBatch::try_from_iter([("n", Arc::clone(&numbers)), ("t", texts)])
            .expect("a batch");
        assert!(bytes_of(&batch) > 250 << 20);
        let pieces: Vec<_> = slices(batch.clone()).collect();
        assert!(pieces.iter().all(|piece| bytes_of(piece) <= SLICE_BYTES));
        let whole = datafusion::arrow::compute::concat_batches(&batch.schema(), &pieces);
        assert_eq!(whole.expect("a batch").column(0), &numbers);
        let huge: ArrayRef = Arc::new(StringArray::from(vec!["y".repeat(SLICE_BYTES); 2]));
        let huge = RecordBatch::try_from_iter([("t", huge)]).expect("a batch");
        assert_eq!(slices(huge).count(), 2, "a row is not divided");
    }
}
