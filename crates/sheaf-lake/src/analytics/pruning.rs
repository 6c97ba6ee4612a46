//! What need not be read: files and groups of rows whose bounds say that no row of theirs satisfies the conditions.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringViewArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;
use parquet::schema::types::SchemaDescriptor;

use super::files::{ColumnBounds, Edge, KnownFile};
use crate::schema::LakeTable;

/// Of files those that may hold a row that satisfies the conditions.
pub(crate) fn files_to_read(
    table: LakeTable,
    files: Vec<Arc<KnownFile>>,
    conditions: &[Arc<dyn PhysicalExpr>],
    whole: &SchemaRef,
) -> Result<Vec<Arc<KnownFile>>> {
    let Some(predicate) = predicate(conditions, whole)? else {
        return Ok(files);
    };
    let bounds = FileBounds {
        table,
        whole,
        files: &files,
    };
    let Some(kept) = kept(&predicate, &bounds) else {
        return Ok(files);
    };
    let pairs = files.into_iter().zip(kept);
    Ok(pairs
        .filter_map(|(file, is_kept)| is_kept.then_some(file))
        .collect())
}

/// Of groups of rows those that may hold a row that satisfies the conditions.
pub(crate) fn groups_to_read(
    end: &ArrowReaderMetadata,
    groups: Vec<usize>,
    conditions: &[Arc<dyn PhysicalExpr>],
    whole: &SchemaRef,
) -> Result<Vec<usize>> {
    let Some(predicate) = predicate(conditions, whole)? else {
        return Ok(groups);
    };
    let metadata = end.metadata();
    let bounds = GroupBounds {
        schema: end.schema(),
        parquet_schema: metadata.file_metadata().schema_descr(),
        groups: groups
            .iter()
            .map(|place| metadata.row_group(*place))
            .collect(),
    };
    let Some(kept) = kept(&predicate, &bounds) else {
        return Ok(groups);
    };
    let pairs = groups.into_iter().zip(kept);
    Ok(pairs
        .filter_map(|(place, is_kept)| is_kept.then_some(place))
        .collect())
}

/// None where the conditions rule nothing out.
fn predicate(
    conditions: &[Arc<dyn PhysicalExpr>],
    whole: &SchemaRef,
) -> Result<Option<PruningPredicate>> {
    if conditions.is_empty() {
        return Ok(None);
    }
    let all = conjunction(conditions.iter().cloned());
    let predicate = PruningPredicate::try_new(all, Arc::clone(whole))?;
    Ok((!predicate.always_true()).then_some(predicate))
}

/// None where the bounds cannot be asked: nothing is passed over then. The engine makes some conditions on the beginnings of texts
/// into ones that it then cannot compute.
fn kept(predicate: &PruningPredicate, bounds: &dyn PruningStatistics) -> Option<Vec<bool>> {
    let kept = predicate.prune(bounds);
    if let Err(error) = &kept {
        tracing::debug!(%error, "bounds could not be asked");
    }
    kept.ok()
}

/// What the lake's descriptions say of files.
struct FileBounds<'a> {
    table: LakeTable,
    whole: &'a SchemaRef,
    files: &'a [Arc<KnownFile>],
}

impl FileBounds<'_> {
    fn place(&self, column: &Column) -> Option<usize> {
        let columns = self.table.columns().iter();
        columns
            .map(|column| column.name)
            .position(|name| name == column.name)
    }

    fn edges(
        &self,
        column: &Column,
        edge: impl Fn(&ColumnBounds) -> Option<&Edge>,
    ) -> Option<ArrayRef> {
        let place = self.place(column)?;
        let kind = self.whole.field_with_name(&column.name).ok()?.data_type();
        let edges = self.files.iter();
        edges_of(kind, edges.map(|file| edge(file.columns.get(place)?)))
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.edges(column, |bounds| bounds.least.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.edges(column, |bounds| bounds.greatest.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let place = self.place(column)?;
        let nulls = self.files.iter();
        let nulls = nulls.map(|file| file.columns.get(place)?.nulls);
        Some(Arc::new(nulls.collect::<UInt64Array>()))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        let rows = self.files.iter().map(|file| Some(file.rows));
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn edges_of<'a>(
    kind: &DataType,
    edges: impl Iterator<Item = Option<&'a Edge>>,
) -> Option<ArrayRef> {
    Some(match kind {
        DataType::Int32 => Arc::new(
            edges
                .map(|edge| match edge {
                    Some(Edge::Int(number)) => Some(*number),
                    _ => None,
                })
                .collect::<Int32Array>(),
        ),
        DataType::Int64 => Arc::new(edges.map(long).collect::<Int64Array>()),
        DataType::Timestamp(_, Some(zone)) => {
            let times: TimestampMicrosecondArray = edges.map(long).collect();
            Arc::new(times.with_timezone(Arc::clone(zone)))
        }
        DataType::Float64 => Arc::new(
            edges
                .map(|edge| match edge {
                    Some(Edge::Double(number)) => Some(*number),
                    _ => None,
                })
                .collect::<Float64Array>(),
        ),
        DataType::Boolean => Arc::new(
            edges
                .map(|edge| match edge {
                    Some(Edge::Bool(is_true)) => Some(*is_true),
                    _ => None,
                })
                .collect::<BooleanArray>(),
        ),
        DataType::Utf8View => Arc::new(
            edges
                .map(|edge| match edge {
                    Some(Edge::Text(text)) => Some(&**text),
                    _ => None,
                })
                .collect::<StringViewArray>(),
        ),
        _ => return None,
    })
}

fn long(edge: Option<&Edge>) -> Option<i64> {
    match edge {
        Some(Edge::Long(number)) => Some(*number),
        _ => None,
    }
}

/// What a file says of its groups of rows.
struct GroupBounds<'a> {
    schema: &'a Schema,
    parquet_schema: &'a SchemaDescriptor,
    groups: Vec<&'a RowGroupMetaData>,
}

impl GroupBounds<'_> {
    fn converter<'c>(&'c self, column: &'c Column) -> Option<StatisticsConverter<'c>> {
        StatisticsConverter::try_new(&column.name, self.schema, self.parquet_schema).ok()
    }
}

impl PruningStatistics for GroupBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        let groups = self.groups.iter().copied();
        self.converter(column)?.row_group_mins(groups).ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        let groups = self.groups.iter().copied();
        self.converter(column)?.row_group_maxes(groups).ok()
    }

    fn num_containers(&self) -> usize {
        self.groups.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        // A count that is missing is not a count of none.
        let converter = self
            .converter(column)?
            .with_missing_null_counts_as_zero(false);
        let counts = converter.row_group_null_counts(self.groups.iter().copied());
        Some(Arc::new(counts.ok()?))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        let rows = self
            .groups
            .iter()
            .map(|group| u64::try_from(group.num_rows()).ok());
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
