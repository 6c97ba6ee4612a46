//! Reading a tenant's rows of a table: the one place where rows come from, and what no other tenant's row passes.
//!
//! Files hold rows of many tenants. Which files and groups of rows are opened is only a matter of work; what comes out of them is
//! decided row by row, by the tenant's number in the row, before any condition of the question sees the row: a condition can fail,
//! and its failure would tell of what it failed on.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, BooleanArray, PrimitiveArray, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, RowFilter,
};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::file::metadata::ParquetMetaData;

use super::columns::fitted;
use super::constants::Constants;
use super::error::{Bound, Exceeded};
use super::files::Portion;
use super::parquet_reader::{FileEnds, FileReader};
use super::pruning::Pruning;
use super::runs::{Run, runs};
use super::slices::sliced;
use super::uniform::satisfied;
use crate::schema::LakeTable;
use crate::stored_file::range_of;
use crate::warehouse::Warehouse;

/// Rows of a batch.
pub(crate) const BATCH_ROWS: usize = 8_192;
/// Bytes of a batch, on average: rows with long texts come fewer at once.
const BATCH_BYTES: usize = 8 << 20;
/// The column by which rows belong to a tenant.
const TENANT: &str = "tenant_id";

/// What was read for a question.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    files: AtomicU64,
    groups: AtomicU64,
    readers: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
}

/// What was read for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Files that were opened; one that several read counts for each.
    pub files: u64,
    /// Groups of rows that were decoded.
    pub groups: u64,
    /// How many read at the same time, of all tables together.
    pub readers: u64,
    /// Bytes that were read of files.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn scanned(&self) -> Scanned {
        Scanned {
            files: self.files.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            readers: self.readers.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// So many bytes were read.
    pub(crate) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a scan needs of where it is.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) table: LakeTable,
    pub(crate) tenant: i64,
    pub(crate) warehouse: Warehouse,
    pub(crate) ends: Arc<FileEnds>,
    pub(crate) tally: Arc<Tally>,
    /// Rows of the groups that may be read for the question, of all tables together.
    pub(crate) rows_max: u64,
}

/// A tenant's rows of a table.
#[derive(Debug)]
pub(crate) struct TenantScan {
    source: Arc<Source>,
    /// What each reader reads.
    shares: Vec<Vec<Portion>>,
    /// The columns of the table.
    whole: SchemaRef,
    /// Those that come out.
    wanted: SchemaRef,
    /// What rows must satisfy, over the table's columns.
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    /// Groups of rows that need not be read for them.
    pruning: Arc<Pruning>,
    /// Rows that each reader gives at most.
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl TenantScan {
    pub(crate) fn new(
        source: Source,
        shares: Vec<Vec<Portion>>,
        (whole, wanted): (SchemaRef, SchemaRef),
        (conditions, pruning): (Vec<Arc<dyn PhysicalExpr>>, Arc<Pruning>),
        limit: Option<usize>,
    ) -> TenantScan {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&wanted)),
            Partitioning::UnknownPartitioning(shares.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        TenantScan {
            source: Arc::new(source),
            shares,
            whole,
            wanted,
            conditions,
            pruning,
            limit,
            properties: Arc::new(properties),
        }
    }

    fn reading(&self, context: &TaskContext) -> Reading {
        Reading {
            memory: MemoryConsumer::new("a reader").register(context.memory_pool()),
            source: Arc::clone(&self.source),
            whole: Arc::clone(&self.whole),
            wanted: Arc::clone(&self.wanted),
            conditions: self.conditions.clone(),
            pruning: Arc::clone(&self.pruning),
        }
    }
}

impl DisplayAs for TenantScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.shares.iter().flatten().count();
        write!(
            f,
            "TenantScan: table={}, readers={}, portions={files}, conditions={}",
            self.source.table.name(),
            self.shares.len(),
            self.conditions.len()
        )
    }
}

impl ExecutionPlan for TenantScan {
    fn name(&self) -> &str {
        "TenantScan"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(share) = self.shares.get(partition) else {
            return Err(DataFusionError::Internal(format!(
                "there is no reader {partition}"
            )));
        };
        if !share.is_empty() {
            self.source.tally.readers.fetch_add(1, Ordering::Relaxed);
        }
        let reading = Arc::new(self.reading(&context));
        let portions = stream::iter(share.clone());
        let rows = portions
            .then(move |portion| Arc::clone(&reading).open(portion))
            .try_flatten();
        let rows: BoxStream<'static, Result<RecordBatch>> = match self.limit {
            Some(limit) => limited(rows.boxed(), limit).boxed(),
            None => rows.boxed(),
        };
        let schema = Arc::clone(&self.wanted);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Statistics> {
        let shares = match partition {
            Some(partition) => self.shares.get(partition..=partition).unwrap_or_default(),
            None => &self.shares,
        };
        let (table, tenant) = (self.source.table, self.source.tenant);
        let portions = || shares.iter().flatten();
        // Tables are put in an order by it, which is none of the rows that others have.
        let rows: u64 = match portions().all(|portion| portion.file.is_of(table, tenant)) {
            true => portions().map(Portion::rows).sum(),
            false => supposed(table),
        };
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        Ok(Statistics::new_unknown(&self.wanted).with_num_rows(Precision::Inexact(rows)))
    }
}

/// Rows that a tenant may have of a table, where nothing says how many.
fn supposed(table: LakeTable) -> u64 {
    match table {
        LakeTable::Facts | LakeTable::FactsCorrected => 100_000_000,
        LakeTable::Keyframes => 1_000_000,
        LakeTable::Entities => 100_000,
        LakeTable::Attributes => 1_000,
        LakeTable::Tenants => 1,
    }
}

/// At most so many rows.
fn limited(
    rows: BoxStream<'static, Result<RecordBatch>>,
    limit: usize,
) -> impl futures::Stream<Item = Result<RecordBatch>> {
    stream::try_unfold((rows, limit), |(mut rows, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(batch) = rows.try_next().await? else {
            return Ok(None);
        };
        let batch = batch.slice(0, batch.num_rows().min(left));
        let left = left - batch.num_rows();
        Ok(Some((batch, (rows, left))))
    })
}

/// What each reader knows.
struct Reading {
    /// What it has in memory of a file: the columns of a group of rows.
    memory: MemoryReservation,
    source: Arc<Source>,
    whole: SchemaRef,
    wanted: SchemaRef,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    pruning: Arc<Pruning>,
}

impl Reading {
    /// The columns that are read: for rows that come out, and to decide which do.
    fn columns_read(&self, asked: &[usize]) -> BTreeSet<&str> {
        let wanted = self.wanted.fields().iter();
        let mut names: BTreeSet<&str> = wanted.map(|field| field.name().as_str()).collect();
        names.insert(TENANT);
        for place in asked {
            let columns = collect_columns(&self.conditions[*place]);
            let places = columns.iter().map(|column| column.index());
            names.extend(places.map(|place| self.whole.field(place).name().as_str()));
        }
        names
    }

    async fn open(
        self: Arc<Self>,
        portion: Portion,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let source = &self.source;
        source.tally.files.fetch_add(1, Ordering::Relaxed);
        let location = portion.file.location.clone();
        let mut reader = FileReader::new(
            source.warehouse.clone(),
            Arc::clone(&source.ends),
            Arc::clone(&source.tally),
            portion.file,
        );
        let end = reader.open().await.map_err(external)?;
        let count = end.metadata().num_row_groups();
        let groups = match portion.groups {
            None => (0..count).collect(),
            Some(groups) if reader.file.groups == count => groups.collect::<Vec<_>>(),
            Some(_) => {
                return Err(DataFusionError::Internal(format!(
                    "data file {location} has {count} groups of rows and not as many as are described"
                )));
            }
        };
        let groups = of_tenant(end.metadata(), groups, source.tenant);
        let groups = self.pruning.groups(&end, groups);
        if groups.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let read = u64::try_from(groups.len()).unwrap_or(u64::MAX);
        source.tally.groups.fetch_add(read, Ordering::Relaxed);
        let rows = groups
            .iter()
            .map(|place| end.metadata().row_group(*place).num_rows());
        let rows: u64 = rows
            .map(|rows| u64::try_from(rows).unwrap_or_default())
            .sum();
        let before = source.tally.rows.fetch_add(rows, Ordering::Relaxed);
        if before.saturating_add(rows) > source.rows_max {
            return Err(Exceeded(Bound::Rows).into());
        }
        let schema = end.schema();
        if schema.index_of(TENANT).is_err() {
            return Err(DataFusionError::Internal(format!(
                "data file {location} does not say whose its rows are"
            )));
        }
        let asked = self.pruning.asked(&end, &groups, self.conditions.len());
        let is_own = |group: usize| {
            range_of(end.metadata().row_group(group), TENANT) == (source.tenant, source.tenant)
        };
        let runs = runs(&groups, is_own, |place| asked[place].clone());
        let bytes = runs.iter().flat_map(|run| {
            let read = self.columns_read(&run.asked);
            let metadata = end.metadata();
            let groups = run.groups.iter();
            groups.map(move |place| bytes_of(metadata, *place, &read))
        });
        self.memory.try_resize(bytes.max().unwrap_or_default())?;
        let streams = runs.into_iter().map(|run| {
            let (reader, end) = (reader.clone(), end.clone());
            self.read(reader, end, run)
        });
        let streams = streams.collect::<Result<Vec<_>>>()?;
        Ok(stream::iter(streams).flatten().boxed())
    }

    /// The rows of groups of which the same is asked.
    fn read(
        &self,
        reader: FileReader,
        end: ArrowReaderMetadata,
        run: Run,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let tenant = self.source.tenant;
        let rows_at_once = rows_at_once(end.metadata(), &run.groups);
        let file_schema = Arc::clone(end.schema());
        let parquet_schema = end.metadata().file_metadata().schema_descr_ptr();
        let constants = Arc::new(Constants::of(end.metadata(), &run.groups));
        let is_read = |name: &str| name == TENANT || !constants.has(name);
        let mask = |names: &mut dyn Iterator<Item = &str>| {
            let places = names.filter_map(|name| file_schema.index_of(name).ok());
            ProjectionMask::roots(&parquet_schema, places.collect::<Vec<_>>())
        };
        let mut filters: Vec<Box<dyn ArrowPredicate>> = Vec::new();
        if !run.is_own {
            // The first: what follows is asked of the rows that it leaves.
            let mask = mask(&mut std::iter::once(TENANT));
            filters.push(Box::new(whose(mask, tenant)));
        }
        for place in &run.asked {
            let condition = &self.conditions[*place];
            let columns = collect_columns(condition);
            let mut places: Vec<usize> = columns.iter().map(|column| column.index()).collect();
            places.sort_unstable();
            let of_condition = Arc::new(self.whole.project(&places)?);
            let condition = reassign_expr_columns(Arc::clone(condition), &of_condition)?;
            let names = of_condition
                .fields()
                .iter()
                .map(|field| field.name().as_str());
            let names: Vec<&str> = names.collect();
            // A condition on nothing that is read would be none.
            let is_all = !names.iter().any(|name| is_read(name));
            let mut names = names.into_iter().filter(|name| is_all || is_read(name));
            let mask = mask(&mut names);
            let constants = Arc::clone(&constants);
            filters.push(Box::new(ArrowPredicateFn::new(mask, move |batch| {
                let batch = constants.add(batch, &of_condition)?;
                let batch = fitted(&batch, &of_condition)?;
                satisfied(&condition, &batch).map_err(in_arrow)
            })));
        }
        let wanted = self.wanted.fields().iter();
        let wanted = wanted.map(|field| field.name().as_str());
        let wanted = wanted.filter(|name| is_read(name));
        let mask = match run.is_own {
            true => mask(&mut wanted.chain([TENANT])),
            false => mask(&mut wanted.into_iter()),
        };
        let mut rows = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, end)
            .with_row_groups(run.groups)
            .with_projection(mask)
            .with_batch_size(rows_at_once);
        if !filters.is_empty() {
            rows = rows.with_row_filter(RowFilter::new(filters));
        }
        let rows = rows.build().map_err(external)?;
        let wanted = Arc::clone(&self.wanted);
        let rows = rows.map(move |batch| -> Result<_> {
            let mut batch = batch.map_err(out_of_parquet)?;
            if run.is_own {
                batch = only_of(batch, tenant)?;
            }
            let batch = constants.add(batch, &wanted)?;
            Ok(fitted(&batch, &wanted)?)
        });
        // Rows of a group are not all as long as they are on average.
        Ok(sliced(rows).boxed())
    }
}

/// Whether each row is the tenant's.
fn whose(
    mask: ProjectionMask,
    tenant: i64,
) -> ArrowPredicateFn<impl FnMut(RecordBatch) -> Result<BooleanArray, ArrowError> + Send + 'static>
{
    ArrowPredicateFn::new(mask, move |batch: RecordBatch| {
        let tenants = tenants_of(&batch)?;
        Ok(BooleanArray::from_unary(tenants, |row| row == tenant))
    })
}

fn tenants_of(batch: &RecordBatch) -> Result<&PrimitiveArray<Int64Type>, ArrowError> {
    let column = batch.column_by_name(TENANT);
    let tenants = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
    tenants.ok_or_else(|| ArrowError::ComputeError("a row of no tenant".to_owned()))
}

/// The tenant's rows of a batch: all of them, or what said so was wrong.
fn only_of(batch: RecordBatch, tenant: i64) -> Result<RecordBatch, ArrowError> {
    let tenants = tenants_of(&batch)?;
    if tenants.null_count() == 0 && tenants.values().iter().all(|row| *row == tenant) {
        return Ok(batch);
    }
    let is_own = BooleanArray::from_unary(tenants, |row| row == tenant);
    filter_record_batch(&batch, &is_own)
}

/// Of groups of rows those whose bounds have room for the tenant.
fn of_tenant(end: &ParquetMetaData, groups: Vec<usize>, tenant: i64) -> Vec<usize> {
    let may_hold = |place: &usize| {
        let (least, greatest) = range_of(end.row_group(*place), TENANT);
        (least..=greatest).contains(&tenant)
    };
    groups.into_iter().filter(may_hold).collect()
}

/// What these columns of a group of rows take once they are not compressed any more.
fn bytes_of(end: &ParquetMetaData, group: usize, columns: &BTreeSet<&str>) -> usize {
    let chunks = end.row_group(group).columns().iter();
    let read = chunks.filter(|chunk| columns.contains(chunk.column_path().string().as_str()));
    let bytes = read.map(|chunk| usize::try_from(chunk.uncompressed_size()).unwrap_or_default());
    bytes.sum()
}

fn rows_at_once(end: &ParquetMetaData, groups: &[usize]) -> usize {
    let a_row = groups.iter().map(|place| {
        let group = end.row_group(*place);
        // A text is in a dictionary once, and in each of its rows for whoever takes them.
        let chunks = group.columns().iter();
        let texts = chunks.filter_map(|chunk| chunk.unencoded_byte_array_data_bytes());
        let texts = texts.fold(0, i64::saturating_add);
        group.total_byte_size().max(texts) / group.num_rows().max(1)
    });
    let a_row = usize::try_from(a_row.max().unwrap_or_default())
        .unwrap_or(1)
        .max(1);
    (BATCH_BYTES / a_row).clamp(16, BATCH_ROWS)
}

fn external(error: parquet::errors::ParquetError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A condition's failure is the question's; all others are the file's.
fn out_of_parquet(error: parquet::errors::ParquetError) -> DataFusionError {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<ArrowError>() {
            Ok(inner) => match *inner {
                ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                    Ok(inner) => *inner,
                    Err(inner) => DataFusionError::External(inner),
                },
                inner => inner.into(),
            },
            Err(inner) => DataFusionError::External(inner),
        },
        error => DataFusionError::External(Box::new(error)),
    }
}

fn in_arrow(error: DataFusionError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}
