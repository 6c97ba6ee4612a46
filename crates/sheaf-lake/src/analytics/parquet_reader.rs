//! Data files as the Parquet crate reads them: parts of them, and what is at their end once for all questions.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::files::KnownFile;
use super::scan::Tally;
use crate::warehouse::Warehouse;

/// Ends of files that are remembered, in bytes of memory.
const ENDS_BYTES_MAX: u64 = 64 << 20;
/// What is read of the end of a file at first: most ends are no longer.
const END_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone)]
struct ByBytes;

/// What the columns take as the engine knows them, beside what the end says.
const COLUMNS_BYTES: usize = 8 * 1024;

impl Weighter<String, ArrowReaderMetadata> for ByBytes {
    fn weight(&self, _: &String, end: &ArrowReaderMetadata) -> u64 {
        let bytes = end.metadata().memory_size() + COLUMNS_BYTES;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The ends of files, which say where in a file what is.
#[derive(Debug)]
pub(crate) struct FileEnds(Cache<String, ArrowReaderMetadata, ByBytes>);

impl FileEnds {
    pub(crate) fn new() -> FileEnds {
        FileEnds(Cache::with_weighter(4_096, ENDS_BYTES_MAX, ByBytes))
    }
}

/// A data file that is being read.
#[derive(Clone)]
pub(crate) struct FileReader {
    pub(crate) warehouse: Warehouse,
    pub(crate) ends: Arc<FileEnds>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) file: Arc<KnownFile>,
}

impl FileReader {
    /// What its end says, and its columns: texts as views of the pages that they are in.
    pub(crate) async fn open(&mut self) -> Result<ArrowReaderMetadata> {
        if let Some(end) = self.ends.0.get(&self.file.location) {
            return Ok(end);
        }
        let end = self.end().await?;
        let plain = ArrowReaderMetadata::try_new(Arc::clone(&end), ArrowReaderOptions::new())?;
        let viewed = super::columns::viewed(plain.schema());
        let end = ArrowReaderMetadata::try_new(end, ArrowReaderOptions::new().with_schema(viewed))?;
        let location = self.file.location.clone();
        self.ends.0.insert(location, end.clone());
        Ok(end)
    }

    async fn end(&mut self) -> Result<Arc<ParquetMetaData>> {
        // Where the pages are, so that of a column those alone are read that hold a row which is wanted.
        let mut reader =
            ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let bytes = self.file.bytes;
        let mut first = bytes.saturating_sub(END_BYTES);
        loop {
            let part = self.get_bytes(first..bytes).await?;
            match reader.try_parse_sized(&part, bytes) {
                Ok(()) => break,
                Err(ParquetError::NeedMoreData(needed)) => {
                    let needed = u64::try_from(needed).unwrap_or(u64::MAX);
                    let earlier = bytes.saturating_sub(needed);
                    if earlier >= first {
                        return Err(ParquetError::General("the file's end is broken".to_owned()));
                    }
                    first = earlier;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(reader.finish()?))
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let ranges = self.get_byte_ranges(vec![range]);
        let gone = || ParquetError::General("nothing was read".to_owned());
        ranges.map(move |read| read?.pop().ok_or_else(gone)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let bytes = ranges.iter().map(|range| range.end - range.start);
            self.tally.read(bytes.sum());
            let read = self
                .warehouse
                .read_ranges(&self.file.location, ranges)
                .await;
            read.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move { Ok(Arc::clone(self.open().await?.metadata())) }.boxed()
    }
}
