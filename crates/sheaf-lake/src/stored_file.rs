//! Data files that are there, on their way into others: read a part after the other, in the order that they are in.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use std::sync::Arc;

use crate::checksums::{Blocks, End};
use crate::corrections::Ranges;
use crate::digest;
use crate::error::{Cause, LakeError};
use crate::schema::LakeTable;

/// Rows that are read at once.
const BATCH_ROWS: usize = 1024;
/// A page of a column is in memory whole, and is no longer than this.
const PAGE_BYTES_MAX: i64 = 32 << 20;

/// The values of the columns by which a table is ordered: as they are compared, absent ones first, and 0 where there are fewer.
pub(crate) type Key = [i64; 5];

/// A file in memory, as it is stored.
pub(crate) struct StoredFile {
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
}

impl StoredFile {
    /// Opens what was read of this location, if it is what was written.
    pub(crate) fn open(location: &str, bytes: Bytes) -> Result<StoredFile, LakeError> {
        let data = End::named(location).map(|end| end.data_of(&bytes));
        let data = data.transpose().map_err(LakeError::damaged(location))?;
        let decoding = || LakeError::file("decoding file", location);
        let plain = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new());
        let plain = plain.map_err(decoding())?;
        if let Some(data) = data {
            let checked = Blocks::check_all(plain.metadata(), data);
            checked.map_err(LakeError::damaged(location))?;
        }
        // Texts stay in the pages that they were read from: a value that a thousand rows have is in memory once.
        let fields = plain.schema().fields().iter().map(|field| {
            let field = field.as_ref().clone();
            match field.data_type() {
                DataType::Utf8 => field.with_data_type(DataType::Utf8View),
                _ => field,
            }
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = ArrowReaderOptions::new().with_schema(schema);
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(plain.metadata()), options);
        let metadata = metadata.map_err(decoding())?;
        Ok(StoredFile { bytes, metadata })
    }

    /// About how many bytes reading it takes beside it: a page of each column.
    pub(crate) fn reading_bytes(&self) -> u64 {
        let groups = self.metadata.metadata().row_groups().iter();
        let pages = groups.map(|group| {
            let columns = group.columns().iter();
            let sizes = columns.map(|column| column.uncompressed_size().clamp(0, PAGE_BYTES_MAX));
            sizes.sum::<i64>()
        });
        pages.max().unwrap_or_default().cast_unsigned()
    }

    /// All its rows.
    pub(crate) fn rows(&self) -> Result<ParquetRecordBatchReader, Cause> {
        Ok(self.builder().build()?)
    }

    /// The columns by which its table is ordered.
    pub(crate) fn keys(&self, table: LakeTable) -> Result<ParquetRecordBatchReader, Cause> {
        let columns = table.order().iter().copied();
        let columns = ProjectionMask::columns(self.metadata.parquet_schema(), columns);
        Ok(self.builder().with_projection(columns).build()?)
    }

    /// What facts are about, without their values: of those groups that may have what is looked for.
    pub(crate) fn facts(
        &self,
        is_wanted: impl Fn(&Ranges) -> bool,
    ) -> Result<ParquetRecordBatchReader, Cause> {
        let columns = LakeTable::Facts.order().iter().copied().chain(["op"]);
        let columns = ProjectionMask::columns(self.metadata.parquet_schema(), columns);
        let builder = self.builder().with_row_groups(self.groups(is_wanted));
        Ok(builder.with_projection(columns).build()?)
    }

    /// The facts of those groups that may have what is looked for, without what they are called.
    pub(crate) fn digested(
        &self,
        is_wanted: impl Fn(&Ranges) -> bool,
    ) -> Result<ParquetRecordBatchReader, Cause> {
        let columns = ProjectionMask::columns(self.metadata.parquet_schema(), digest::COLUMNS);
        let builder = self.builder().with_row_groups(self.groups(is_wanted));
        Ok(builder.with_projection(columns).build()?)
    }

    fn groups(&self, is_wanted: impl Fn(&Ranges) -> bool) -> Vec<usize> {
        let groups = self.metadata.metadata().row_groups().iter();
        let groups = groups.enumerate().filter(|(_, group)| {
            let range = |name| range_of(group, name);
            is_wanted(&Ranges {
                tenants: range("tenant_id"),
                entities: range("entity_id"),
                instants: range("observed_at"),
            })
        });
        groups.map(|(place, _)| place).collect()
    }

    fn builder(&self) -> ParquetRecordBatchReaderBuilder<Bytes> {
        let (bytes, metadata) = (self.bytes.clone(), self.metadata.clone());
        ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
            .with_batch_size(BATCH_ROWS)
    }
}

/// Where nothing is said of a column it may have everything.
pub(crate) fn range_of(group: &RowGroupMetaData, name: &str) -> (i64, i64) {
    let columns = group.columns().iter();
    let column = columns
        .into_iter()
        .find(|c| c.column_path().string() == name);
    match column.and_then(|column| column.statistics()) {
        Some(Statistics::Int64(range)) => (
            range.min_opt().copied().unwrap_or(i64::MIN),
            range.max_opt().copied().unwrap_or(i64::MAX),
        ),
        _ => (i64::MIN, i64::MAX),
    }
}

/// The keys of rows. None where a column is missing or of another kind.
pub(crate) fn keys_of(table: LakeTable, batch: &RecordBatch) -> Option<Vec<Key>> {
    let mut keys = vec![Key::default(); batch.num_rows()];
    for (place, name) in table.order().iter().enumerate() {
        let column = batch.column_by_name(name)?;
        let value: &dyn Fn(usize) -> i64 = match column.data_type() {
            DataType::Int64 => {
                let values = column.as_primitive_opt::<Int64Type>()?;
                &|row| values.value(row)
            }
            DataType::Int32 => {
                let values = column.as_primitive_opt::<Int32Type>()?;
                &|row| i64::from(values.value(row))
            }
            DataType::Timestamp(..) => {
                let values = column.as_primitive_opt::<TimestampMicrosecondType>()?;
                &|row| values.value(row)
            }
            _ => return None,
        };
        for (row, key) in keys.iter_mut().enumerate() {
            key[place] = if column.is_null(row) {
                i64::MIN
            } else {
                value(row)
            };
        }
    }
    Some(keys)
}
