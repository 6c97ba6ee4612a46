use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::file::properties::WriterProperties;
use sheaf_testkit::ScratchDir;

use super::*;
use crate::warehouse::Location;

const ROWS: i64 = 20_000;

/// A file with a page for each row, so that its end is longer than what is read of one at first.
fn many_pages() -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1)
        .build();
    let numbers: Int64Array = (0..ROWS).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).expect("a batch");
    let writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties));
    let mut writer = writer.expect("a writer");
    writer.write(&batch).expect("it is written");
    writer.into_inner().expect("a file")
}

async fn sum(reader: FileReader, end: ArrowReaderMetadata) -> i64 {
    let rows = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, end).build();
    let rows = rows.expect("it is read");
    let batches: Vec<RecordBatch> = rows.try_collect().await.expect("it is read");
    let columns = batches
        .iter()
        .map(|batch| batch.column(0).as_primitive::<Int64Type>());
    columns.flat_map(|column| column.values().to_vec()).sum()
}

#[tokio::test]
async fn files_of_other_writers_are_read_however_long_their_end_is_and_none_before_it_is_open() {
    let dir = ScratchDir::new("parquet-reader").expect("a folder");
    let location = Location::Folder(dir.path().join("lake"));
    let warehouse = Warehouse::open(&location).expect("it opens");
    let bytes = many_pages();
    let file = KnownFile {
        location: format!("{}/00000-0-00001.parquet", warehouse.root()),
        bytes: u64::try_from(bytes.len()).expect("a length"),
        rows: ROWS.unsigned_abs(),
        groups: 1,
        bucket: None,
        columns: Box::default(),
    };
    let written = warehouse.write(&file.location, bytes.into()).await;
    written.expect("it is written");
    let (ends, tally) = (Arc::new(FileEnds::new()), Arc::new(Tally::default()));
    let mut reader = FileReader::new(warehouse, ends, tally, Arc::new(file));
    assert!(reader.get_bytes(0..4).await.is_err(), "it is not open");
    let end = reader.open().await.expect("it opens");
    assert!(end.metadata().memory_size() > 64 << 10, "its end is long");
    assert_eq!(sum(reader.clone(), end).await, ROWS * (ROWS - 1) / 2);
    // What was remembered of it is the same.
    let end = reader.open().await.expect("it opens");
    assert_eq!(sum(reader, end).await, ROWS * (ROWS - 1) / 2);
}
