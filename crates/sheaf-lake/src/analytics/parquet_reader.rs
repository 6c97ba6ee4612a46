//! Data files as the Parquet crate reads them: parts of them, each as it was written or not at all, and what is at their end once
//! for all questions.

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
use crate::checksums::{Blocks, Damage, End};
use crate::error::LakeError;
use crate::warehouse::Warehouse;

/// Ends of files that are remembered, in bytes of memory.
const ENDS_BYTES_MAX: u64 = 64 << 20;
/// What is read at first of the end of a file whose name does not say how long it is: most are no longer.
const END_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone)]
struct ByBytes;

/// What the columns take as the engine knows them, beside what the end says.
const COLUMNS_BYTES: usize = 8 * 1024;

impl Weighter<String, KnownEnd> for ByBytes {
    fn weight(&self, _: &String, end: &KnownEnd) -> u64 {
        let blocks = end.blocks.as_ref().map_or(0, Blocks::memory_bytes);
        let bytes = end.metadata.metadata().memory_size() + COLUMNS_BYTES + blocks;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The end of a file.
#[derive(Debug, Clone)]
struct KnownEnd {
    metadata: ArrowReaderMetadata,
    /// What the rest of it is checked by. Files of other writers have nothing for it.
    blocks: Option<Blocks>,
}

/// The ends of files, which say where in a file what is.
#[derive(Debug)]
pub(crate) struct FileEnds(Cache<String, KnownEnd, ByBytes>);

impl FileEnds {
    pub(crate) fn new() -> FileEnds {
        FileEnds(Cache::with_weighter(4_096, ENDS_BYTES_MAX, ByBytes))
    }
}

/// What the bytes of a file are checked by.
#[derive(Debug, Clone)]
enum Checked {
    /// That is not known before its end is.
    NotOpen,
    By(Blocks),
    /// Another writer's, or from before there were checksums.
    Foreign,
}

/// A data file that is being read.
#[derive(Clone)]
pub(crate) struct FileReader {
    warehouse: Warehouse,
    ends: Arc<FileEnds>,
    tally: Arc<Tally>,
    pub(crate) file: Arc<KnownFile>,
    checked: Checked,
}

impl FileReader {
    pub(crate) fn new(
        warehouse: Warehouse,
        ends: Arc<FileEnds>,
        tally: Arc<Tally>,
        file: Arc<KnownFile>,
    ) -> FileReader {
        FileReader {
            warehouse,
            ends,
            tally,
            file,
            checked: Checked::NotOpen,
        }
    }

    /// What its end says, and its columns: texts as views of the pages that they are in.
    pub(crate) async fn open(&mut self) -> Result<ArrowReaderMetadata> {
        let known = match self.ends.0.get(&self.file.location) {
            Some(known) => known,
            None => {
                let known = self.know().await?;
                let location = self.file.location.clone();
                self.ends.0.insert(location, known.clone());
                known
            }
        };
        self.checked = match known.blocks {
            Some(blocks) => Checked::By(blocks),
            None => Checked::Foreign,
        };
        Ok(known.metadata)
    }

    async fn know(&self) -> Result<KnownEnd> {
        let (end, blocks) = match End::named(&self.file.location) {
            Some(named) => {
                let (end, at) = self.end_named(named).await?;
                let blocks = Blocks::said(&end, at).map_err(|damage| self.damaged(damage))?;
                (end, Some(blocks))
            }
            None => (self.end_found().await?, None),
        };
        let end = Arc::new(end);
        let plain = ArrowReaderMetadata::try_new(Arc::clone(&end), ArrowReaderOptions::new())?;
        let viewed = super::columns::viewed(plain.schema());
        let options = ArrowReaderOptions::new().with_schema(viewed);
        Ok(KnownEnd {
            metadata: ArrowReaderMetadata::try_new(end, options)?,
            blocks,
        })
    }

    /// The end that the name tells of, and where it begins.
    async fn end_named(&self, named: End) -> Result<(ParquetMetaData, u64)> {
        let range = named.within(self.file.bytes);
        let range = range.map_err(|damage| self.damaged(damage))?;
        let end = self.read(range.clone()).await?;
        let checked = named.check(&range, &end);
        checked.map_err(|damage| self.damaged(damage))?;
        let mut reader = end_reader();
        reader.try_parse_sized(&end, self.file.bytes)?;
        Ok((reader.finish()?, range.start))
    }

    /// The end of a file of which nobody says how long it is.
    async fn end_found(&self) -> Result<ParquetMetaData> {
        let mut reader = end_reader();
        let bytes = self.file.bytes;
        let mut first = bytes.saturating_sub(END_BYTES);
        loop {
            let part = self.read(first..bytes).await?;
            match reader.try_parse_sized(&part, bytes) {
                Ok(()) => return reader.finish(),
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
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut read = self.read_all(vec![range]).await?;
        let gone = || ParquetError::General("nothing was read".to_owned());
        read.pop().ok_or_else(gone)
    }

    async fn read_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        let bytes = ranges.iter().map(|range| range.end - range.start);
        self.tally.read(bytes.sum());
        let read = self.warehouse.read_ranges(&self.file.location, ranges);
        let read = read.await;
        read.map_err(|error| ParquetError::External(Box::new(error)))
    }

    fn damaged(&self, damage: Damage) -> ParquetError {
        let fault = LakeError::damaged(&self.file.location);
        ParquetError::External(Box::new(fault(damage)))
    }
}

/// Where the pages are too, so that of a column those alone are read that hold a row which is wanted.
fn end_reader() -> ParquetMetaDataReader {
    ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Optional)
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let ranges = self.get_byte_ranges(vec![range]);
        let gone = || ParquetError::General("nothing was read".to_owned());
        ranges.map(move |read| read?.pop().ok_or_else(gone)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let blocks = match &self.checked {
                Checked::By(blocks) => blocks,
                Checked::Foreign => return self.read_all(ranges).await,
                Checked::NotOpen => {
                    return Err(ParquetError::General("the file was not opened".to_owned()));
                }
            };
            let runs = blocks
                .runs(&ranges)
                .map_err(|damage| self.damaged(damage))?;
            let read = self.read_all(runs.iter().map(|run| run.blocks.clone()).collect());
            let read = read.await?;
            let taken = runs.iter().zip(&read).map(|(run, read)| {
                let wanted = ranges.get(run.wanted.clone()).unwrap_or_default();
                blocks.take(&run.blocks, read, wanted)
            });
            let taken = taken.collect::<std::result::Result<Vec<_>, Damage>>();
            Ok(taken.map_err(|damage| self.damaged(damage))?.concat())
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

#[cfg(test)]
mod tests;
