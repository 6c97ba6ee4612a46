//! What need not be read: files and groups of rows whose bounds say that no row of theirs satisfies the conditions.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringViewArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, IsNotNullExpr, IsNullExpr};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;
use parquet::schema::types::SchemaDescriptor;

use super::files::{ColumnBounds, Edge, KnownFile};
use crate::schema::LakeTable;

/// What conditions rule out, and where they hold anyway.
#[derive(Debug)]
pub(crate) struct Pruning {
    /// Absent where nothing is ruled out.
    predicate: Option<PruningPredicate>,
    /// For each condition what rules out that it does not hold; absent where bounds cannot say.
    opposites: Vec<Option<Opposite>>,
    whole: SchemaRef,
}

/// The opposite of a condition.
#[derive(Debug)]
struct Opposite {
    predicate: PruningPredicate,
    columns: Vec<Column>,
}

impl Pruning {
    /// What these conditions on columns of a table rule out.
    pub(crate) fn new(
        conditions: impl IntoIterator<Item = Arc<dyn PhysicalExpr>>,
        whole: &SchemaRef,
    ) -> Result<Pruning> {
        let conditions: Vec<_> = conditions.into_iter().collect();
        let opposites = conditions.iter().map(|condition| {
            let predicate = PruningPredicate::try_new(opposite(condition)?, Arc::clone(whole));
            let predicate = predicate
                .ok()
                .filter(|predicate| !predicate.always_true())?;
            let columns = collect_columns(condition).into_iter();
            let columns = columns
                .map(|column| Column::from_name(column.name()))
                .collect();
            Some(Opposite { predicate, columns })
        });
        let opposites = opposites.collect();
        let all = conjunction(conditions);
        let predicate = PruningPredicate::try_new(all, Arc::clone(whole))?;
        Ok(Pruning {
            predicate: (!predicate.always_true()).then_some(predicate),
            opposites,
            whole: Arc::clone(whole),
        })
    }

    /// Of each group of rows the places of those conditions that not all of its rows satisfy for certain, of the first so many.
    pub(crate) fn asked(
        &self,
        end: &ArrowReaderMetadata,
        groups: &[usize],
        conditions: usize,
    ) -> Vec<Vec<usize>> {
        let bounds = GroupBounds::of(end, groups);
        let mut asked = vec![Vec::new(); groups.len()];
        for place in 0..conditions {
            let opposite = self.opposites.get(place).and_then(Option::as_ref);
            let may_fail = opposite.and_then(|opposite| opposite.may_hold(&bounds));
            for (group, asked) in asked.iter_mut().enumerate() {
                if may_fail.as_ref().is_none_or(|may_fail| may_fail[group]) {
                    asked.push(place);
                }
            }
        }
        asked
    }

    /// Of files those that may hold a row that satisfies the conditions.
    pub(crate) fn files(
        &self,
        table: LakeTable,
        files: Vec<Arc<KnownFile>>,
    ) -> Vec<Arc<KnownFile>> {
        let bounds = FileBounds {
            table,
            whole: &self.whole,
            files: &files,
        };
        let Some(kept) = self.kept(&bounds) else {
            return files;
        };
        let pairs = files.into_iter().zip(kept);
        pairs
            .filter_map(|(file, is_kept)| is_kept.then_some(file))
            .collect()
    }

    /// Of groups of rows those that may hold a row that satisfies the conditions.
    pub(crate) fn groups(&self, end: &ArrowReaderMetadata, groups: Vec<usize>) -> Vec<usize> {
        let bounds = GroupBounds::of(end, &groups);
        let Some(kept) = self.kept(&bounds) else {
            return groups;
        };
        let pairs = groups.into_iter().zip(kept);
        pairs
            .filter_map(|(place, is_kept)| is_kept.then_some(place))
            .collect()
    }

    fn kept(&self, bounds: &dyn PruningStatistics) -> Option<Vec<bool>> {
        kept(self.predicate.as_ref()?, bounds)
    }
}

impl Opposite {
    /// Of each group whether it may hold a row that does not satisfy the condition. Of a row without a value none of both holds.
    fn may_hold(&self, bounds: &GroupBounds<'_>) -> Option<Vec<bool>> {
        let mut may_hold = kept(&self.predicate, bounds)?;
        for column in &self.columns {
            let nulls = bounds.null_counts(column)?;
            let nulls = nulls.as_primitive_opt::<UInt64Type>()?;
            for (may_hold, nulls) in may_hold.iter_mut().zip(nulls) {
                *may_hold |= nulls != Some(0);
            }
        }
        Some(may_hold)
    }
}

/// What holds of a row with a value in every column where the condition does not. None where bounds would not say it.
fn opposite(condition: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let expr = condition.as_any();
    if let Some(test) = expr.downcast_ref::<IsNotNullExpr>() {
        return Some(Arc::new(IsNullExpr::new(Arc::clone(test.arg()))));
    }
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    let joined = |op| -> Option<Arc<dyn PhysicalExpr>> {
        let (left, right) = (opposite(left)?, opposite(right)?);
        Some(Arc::new(BinaryExpr::new(left, op, right)))
    };
    let compared = |op| -> Option<Arc<dyn PhysicalExpr>> {
        let (left, right) = (Arc::clone(left), Arc::clone(right));
        Some(Arc::new(BinaryExpr::new(left, op, right)))
    };
    match binary.op() {
        Operator::And => joined(Operator::Or),
        Operator::Or => joined(Operator::And),
        Operator::Eq => compared(Operator::NotEq),
        Operator::NotEq => compared(Operator::Eq),
        Operator::Lt => compared(Operator::GtEq),
        Operator::LtEq => compared(Operator::Gt),
        Operator::Gt => compared(Operator::LtEq),
        Operator::GtEq => compared(Operator::Lt),
        _ => None,
    }
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

impl<'a> GroupBounds<'a> {
    fn of(end: &'a ArrowReaderMetadata, groups: &[usize]) -> GroupBounds<'a> {
        let metadata = end.metadata();
        let groups = groups.iter().map(|place| metadata.row_group(*place));
        GroupBounds {
            schema: end.schema(),
            parquet_schema: metadata.file_metadata().schema_descr(),
            groups: groups.collect(),
        }
    }

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

#[cfg(test)]
mod tests {
    use datafusion::physical_expr::expressions::{binary, col, is_not_null, is_null, lit};

    use super::*;
    use crate::analytics::columns::schema_of;

    #[test]
    fn the_opposite_of_a_condition_is_known_where_bounds_could_say_it() {
        let schema = schema_of(LakeTable::Facts);
        let column = |name| col(name, &schema).expect("a column");
        let compared = |name, op, number: i64| {
            binary(column(name), op, lit(number), &schema).expect("a condition")
        };
        let joined = |one, op, other| binary(one, op, other, &schema).expect("a condition");
        use Operator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or, Plus};
        let (int, entity) = ("value_int", "entity_id");
        for (condition, wanted) in [
            (compared(int, Eq, 1), Some(compared(int, NotEq, 1))),
            (compared(int, Lt, 1), Some(compared(int, GtEq, 1))),
            (compared(int, LtEq, 1), Some(compared(int, Gt, 1))),
            (compared(int, GtEq, 1), Some(compared(int, Lt, 1))),
            (
                joined(compared(int, Gt, 1), And, compared(entity, NotEq, 2)),
                Some(joined(compared(int, LtEq, 1), Or, compared(entity, Eq, 2))),
            ),
            (
                joined(compared(int, Gt, 1), Or, compared(entity, NotEq, 2)),
                Some(joined(compared(int, LtEq, 1), And, compared(entity, Eq, 2))),
            ),
            (
                is_not_null(column(int)).expect("a condition"),
                Some(is_null(column(int)).expect("a condition")),
            ),
            (is_null(column(int)).expect("a condition"), None),
            (compared(int, Plus, 1), None),
            (column("value_bool"), None),
        ] {
            let found = opposite(&condition);
            assert_eq!(found.is_some(), wanted.is_some(), "{condition}");
            if let (Some(found), Some(wanted)) = (found, wanted) {
                assert!(found.eq(&wanted), "{condition}: {found}");
            }
        }
    }
}
