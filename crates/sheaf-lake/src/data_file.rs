//! Data files: Parquet, written in memory and then whole, with what readers need to pass one over.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Struct};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::checksums::{End, key_of};
use crate::error::LakeError;
use crate::schema::{Kind, LakeTable};

/// Rows of a group: what a reader passes over at once by its bounds. More would be smaller and read more in vain.
const GROUP_ROWS: usize = 1 << 18;
/// A page ends with its group, where nothing else is said: see [`REPEATED`].
const PAGE_BYTES: usize = 32 << 20;
/// Pages of values, which are other ones in each row: whoever reads those of one entity reads few of them. Smaller ones would take more
/// where they are compressed each for itself.
const NUMBERS_PAGE_BYTES: usize = 32 << 10;
/// The same of texts, which are compressed the better the more they are.
const TEXTS_PAGE_BYTES: usize = 256 << 10;
/// The same of the entities' numbers, of which about eight are in a byte.
const ENTITIES_PAGE_BYTES: usize = 2 << 10;
/// Less does not look back as far as the repetition of [`REPEATED`] is; more takes twice the time for a tenth.
const ZSTD_LEVEL: i32 = 3;
/// What a group takes before it ends, where values are long: whoever reads it holds so much of it. Ordinary groups take a third.
const GROUP_BYTES: usize = 48 << 20;
/// Columns of the event. Facts are in the order of their attributes, so that the events of a file come again for each of
/// them: in whole pages and as they are, not as places in a dictionary, which begin at another bit each time, the second time
/// costs next to nothing.
const REPEATED: [&str; 4] = ["external_id", "observed_at", "batch_id", "ingested_at"];

/// A file in memory.
pub(crate) struct EncodedFile {
    table: LakeTable,
    pub(crate) bytes: Vec<u8>,
    /// What its name is to say.
    pub(crate) end: End,
    metadata: ParquetMetaData,
}

/// How columns are written. Measured: docs/figures.md, "Bytes of a fact".
fn properties(table: LakeTable) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_data_page_row_count_limit(GROUP_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        // Bounds that are cut short are left out of the table's description, where a missing one of one group would make
        // that of the others a lie.
        .set_statistics_truncate_length(None);
    for column in table.columns() {
        let path = ColumnPath::from(column.name);
        if !column.has_bounds {
            let none = EnabledStatistics::None;
            properties = properties.set_column_statistics_enabled(path.clone(), none);
        }
        if !table.has_facts() {
            continue;
        }
        if REPEATED.contains(&column.name) {
            properties = properties.set_column_dictionary_enabled(path, false);
        } else if column.name == "entity_id" {
            // It only rises, but for each attribute anew.
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_data_page_size_limit(path, ENTITIES_PAGE_BYTES);
        } else if column.name.starts_with("value_") {
            let bytes = match column.kind {
                Kind::Text => TEXTS_PAGE_BYTES,
                _ => NUMBERS_PAGE_BYTES,
            };
            properties = properties.set_column_data_page_size_limit(path, bytes);
        }
    }
    Ok(properties.build())
}

/// A file that is being written, in memory. Takes processor time: at home where that may block.
pub(crate) struct FileWriter {
    table: LakeTable,
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
}

impl FileWriter {
    pub(crate) fn new(table: LakeTable, schema: &SchemaRef) -> Result<FileWriter, ParquetError> {
        let properties = Some(properties(table)?);
        Ok(FileWriter {
            table,
            writer: ArrowWriter::try_new(Vec::new(), schema.clone(), properties)?,
            rows: 0,
        })
    }

    /// Takes rows, which follow those before them in the order of the table.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.rows += u64::try_from(batch.num_rows()).unwrap_or_default();
        self.writer.write(batch)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(crate) fn finish(mut self) -> Result<EncodedFile, ParquetError> {
        // What follows from here on is its end.
        self.writer.flush()?;
        self.writer.sync()?;
        let data = self.writer.inner();
        let (key, data) = (key_of(data), data.len());
        self.writer.append_key_value_metadata(key);
        let metadata = self.writer.finish()?;
        let bytes = std::mem::take(self.writer.inner_mut());
        Ok(EncodedFile {
            table: self.table,
            end: End::of(bytes.get(data..).expect("invariant: a file only grows")),
            bytes,
            metadata,
        })
    }
}

/// Writes rows into a file in memory.
pub(crate) fn encode(
    table: LakeTable,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, arrow_schema::ArrowError>>,
) -> Result<EncodedFile, ParquetError> {
    let mut writer = FileWriter::new(table, schema)?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.finish()
}

impl EncodedFile {
    /// What the table's description says of the file.
    pub(crate) fn describe(
        &self,
        location: String,
        partition: Struct,
        spec_id: i32,
        order_id: i32,
    ) -> Result<DataFile, LakeError> {
        let table = self.table;
        let mut sizes: HashMap<i32, u64> = HashMap::new();
        let mut values: HashMap<i32, u64> = HashMap::new();
        let mut nulls: HashMap<i32, u64> = HashMap::new();
        let mut bounds = Bounds::default();
        for group in self.metadata.row_groups() {
            for (column, chunk) in table.columns().iter().zip(group.columns()) {
                let number = table.number(column.name).unwrap_or_default();
                let size = u64::try_from(chunk.compressed_size()).unwrap_or_default();
                *sizes.entry(number).or_default() += size;
                *values.entry(number).or_default() +=
                    u64::try_from(chunk.num_values()).unwrap_or_default();
                let Some(statistics) = chunk.statistics() else {
                    continue;
                };
                if let Some(count) = statistics.null_count_opt() {
                    *nulls.entry(number).or_default() += count;
                }
                if column.has_bounds {
                    bounds.widen(number, column.kind, statistics);
                }
            }
        }
        let groups = self.metadata.row_groups().iter();
        let offsets = groups.filter_map(|group| group.file_offset()).collect();
        let rows = self.metadata.file_metadata().num_rows();
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(location)
            .file_format(DataFileFormat::Parquet)
            .partition(partition)
            .partition_spec_id(spec_id)
            .sort_order_id(order_id)
            .record_count(u64::try_from(rows).unwrap_or_default())
            .file_size_in_bytes(u64::try_from(self.bytes.len()).unwrap_or_default())
            .column_sizes(sizes)
            .value_counts(values)
            .null_value_counts(nulls)
            .lower_bounds(bounds.lower)
            .upper_bounds(bounds.upper)
            .split_offsets(Some(offsets));
        let built = builder.build();
        built.map_err(|source| LakeError::Table {
            step: "describing a file",
            table: table.name(),
            source: Box::new(source),
        })
    }
}

/// The least and the greatest value of each column.
#[derive(Default)]
struct Bounds {
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
}

impl Bounds {
    fn widen(&mut self, number: i32, kind: Kind, statistics: &Statistics) {
        let Some((least, greatest)) = bounds_of(kind, statistics) else {
            return;
        };
        let lower = self.lower.entry(number).or_insert_with(|| least.clone());
        if least < *lower {
            *lower = least;
        }
        let upper = self.upper.entry(number).or_insert_with(|| greatest.clone());
        if greatest > *upper {
            *upper = greatest;
        }
    }
}

/// None where all values of the group are null.
fn bounds_of(kind: Kind, statistics: &Statistics) -> Option<(Datum, Datum)> {
    let utf8 = |text: &parquet::data_type::ByteArray| text.as_utf8().ok().map(Datum::string);
    Some(match (kind, statistics) {
        (Kind::Int, Statistics::Int32(s)) => (Datum::int(*s.min_opt()?), Datum::int(*s.max_opt()?)),
        (Kind::Long, Statistics::Int64(s)) => {
            (Datum::long(*s.min_opt()?), Datum::long(*s.max_opt()?))
        }
        (Kind::Time, Statistics::Int64(s)) => (
            Datum::timestamptz_micros(*s.min_opt()?),
            Datum::timestamptz_micros(*s.max_opt()?),
        ),
        (Kind::Double, Statistics::Double(s)) => {
            (Datum::double(*s.min_opt()?), Datum::double(*s.max_opt()?))
        }
        (Kind::Bool, Statistics::Boolean(s)) => {
            (Datum::bool(*s.min_opt()?), Datum::bool(*s.max_opt()?))
        }
        (Kind::Text, Statistics::ByteArray(s)) => (utf8(s.min_opt()?)?, utf8(s.max_opt()?)?),
        _ => return None,
    })
}
