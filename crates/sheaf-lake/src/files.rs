//! Data files on their way into a table: read, encoded and written on a thread that may be kept busy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use iceberg::spec::{DataFile, Literal, Struct};
use sheaf_model::Timestamp;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::data_file::{EncodedFile, encode};
use crate::error::{Cause, LakeError};
use crate::facts::{DAY_MICROS, NamedFacts, Part, day_of, divide};
use crate::keyframes::NamedKeyframes;
use crate::observer::{CommitStep, Observed};
use crate::stored_file::StoredFile;
use crate::table::TableState;
use crate::tenant_buckets::TenantBuckets;
use crate::warehouse::Warehouse;

/// Rows that are made into columns at once.
pub(crate) const BATCH_ROWS: usize = 1 << 15;
/// Rows of a data file. A commit rarely has so many of one day and tenant.
const FILE_ROWS_MAX: usize = 1 << 22;

/// Tells work that nobody waits for what it makes any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), LakeError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(LakeError::Ending);
        }
        Ok(())
    }
}

/// The files of a lake, for whoever may block.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) warehouse: Warehouse,
    pub(crate) observed: Observed,
    pub(crate) runtime: Handle,
    pub(crate) stop: Stop,
}

impl Files {
    /// Opens a file that is there.
    pub(crate) fn open(&self, location: &str) -> Result<StoredFile, LakeError> {
        self.stop.check()?;
        let bytes = self.runtime.block_on(self.warehouse.read(location))?;
        StoredFile::open(location, bytes)
    }

    /// Writes a file of a table, and gives back what the table's description says of it.
    pub(crate) fn keep(
        &self,
        state: &TableState,
        partition: &[Option<i32>],
        encoded: EncodedFile,
    ) -> Result<DataFile, LakeError> {
        self.stop.check()?;
        let name = format!("{}.{}", file_name(partition), encoded.end);
        let location = state.data_location(&name);
        let numbers = partition.iter().map(|number| number.map(Literal::int));
        let file = encoded.describe(
            location.clone(),
            Struct::from_iter(numbers),
            state.metadata.default_partition_spec_id(),
            state.order_id(),
        )?;
        let bytes = Bytes::from(encoded.bytes);
        self.runtime
            .block_on(self.warehouse.write(&location, bytes))?;
        self.observed.passed(CommitStep::DataFile);
        Ok(file)
    }

    /// Writes those facts that are wanted, a file for each day and bucket of tenants.
    pub(crate) fn write_facts(
        &self,
        state: &TableState,
        facts: &NamedFacts,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<Vec<DataFile>, LakeError> {
        let schema = state.table.arrow_schema()?;
        let buckets = TenantBuckets::new(state.table)?;
        let divided: BTreeMap<Part, Vec<u32>> =
            divide(&facts.pending, |tenant| buckets.of(tenant), is_wanted)?;
        let mut files = Vec::new();
        for (part, places) in divided {
            for places in places.chunks(FILE_ROWS_MAX) {
                let batches = places.chunks(BATCH_ROWS);
                let batches = batches.map(|places| facts.columns(&schema, places));
                let encoded = encode(state.table, &schema, batches);
                let encoded = encoded.map_err(encoding(state))?;
                files.push(self.keep(state, &[Some(part.day), Some(part.bucket)], encoded)?);
            }
        }
        Ok(files)
    }

    /// Writes keyframes, a file for each day and bucket of tenants.
    pub(crate) fn write_keyframes(
        &self,
        state: &TableState,
        keyframes: &NamedKeyframes,
    ) -> Result<Vec<DataFile>, LakeError> {
        let schema = state.table.arrow_schema()?;
        let buckets = TenantBuckets::new(state.table)?;
        let mut divided: BTreeMap<Part, Vec<u32>> = BTreeMap::new();
        for (tenant, at, place) in keyframes.sorted() {
            let part = Part {
                day: day_of(at),
                bucket: buckets.of(tenant.0)?,
            };
            divided.entry(part).or_default().push(place);
        }
        let mut files = Vec::new();
        for (part, places) in divided {
            let batches = places.chunks(BATCH_ROWS);
            let batches = batches.map(|places| keyframes.columns(&schema, places));
            let encoded = encode(state.table, &schema, batches).map_err(encoding(state))?;
            files.push(self.keep(state, &[Some(part.day), Some(part.bucket)], encoded)?);
        }
        Ok(files)
    }
}

/// A file of a table could not be made.
pub(crate) fn encoding<E: Into<Cause>>(state: &TableState) -> impl FnOnce(E) -> LakeError + use<E> {
    LakeError::file("encoding a file of", state.metadata.location())
}

/// For people who look into the folder: the day, the bucket of tenants, and what nobody else has.
pub(crate) fn file_name(partition: &[Option<i32>]) -> String {
    let unique = Uuid::new_v4();
    match partition {
        [Some(day), Some(bucket)] => {
            let time = Timestamp::from_micros(i64::from(*day) * DAY_MICROS);
            let time = time.map_or_else(|_| day.to_string(), |time| time.to_string());
            format!("{}-b{bucket:02}-{unique}", time.get(..10).unwrap_or("day"))
        }
        [Some(bucket)] => format!("b{bucket:02}-{unique}"),
        _ => unique.to_string(),
    }
}
