//! Operators that would take memory or a thread without being asked to stop.
//!
//! A window holds its rows and counts none, one of bounded frames too, as far as they reach: they are counted here as they go
//! in. A join gives batch after batch from memory, and whoever adds them up never looks whether the question has been stopped: it
//! pauses here. A join whose filter leaves nothing gives none, and its filter looks. A projection may make much of texts that
//! stand in memory once: it is given few rows at once.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result, Statistics, plan_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
    PiecewiseMergeJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use super::error::{Bound, Exceeded};
use super::slices::sliced;
use super::stop::Stop;

/// Puts a count in front of every operator that holds its rows uncounted, slices in front of those that make new texts, and pauses
/// into and behind every one that makes many rows of few.
#[derive(Debug)]
pub(crate) struct Tame {
    pub(crate) stop: Arc<Stop>,
}

impl PhysicalOptimizerRule for Tame {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let tamed = plan.transform_up(|plan| {
            let operator = plan.as_any();
            let way = if operator.is::<WindowAggExec>() || operator.is::<BoundedWindowAggExec>() {
                Some(Way::Held)
            } else if operator.is::<ProjectionExec>() {
                Some(Way::Sliced)
            } else {
                None
            };
            if let Some(way) = way {
                let inputs = plan.children().into_iter();
                let inputs = inputs.map(|input| Passed::of(way, input)).collect();
                return Ok(Transformed::yes(plan.with_new_children(inputs)?));
            }
            if let Some(join) = operator.downcast_ref::<HashJoinExec>() {
                let filter = match join.filter() {
                    Some(filter) => Some(self.checked(filter)),
                    // Those give pair after pair, and the others may give nothing before the last.
                    None if *join.join_type() == JoinType::Inner || join.null_aware => None,
                    None => Some(self.always()),
                };
                let join = join.builder().with_filter(filter).build_exec()?;
                return Ok(Transformed::yes(paused(join)));
            }
            if let Some(join) = operator.downcast_ref::<NestedLoopJoinExec>() {
                let filter = join.filter();
                let filter = filter.map_or_else(|| self.always(), |filter| self.checked(filter));
                let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter));
                return Ok(Transformed::yes(paused(Arc::new(join.build()?))));
            }
            if operator.is::<SortMergeJoinExec>() || operator.is::<PiecewiseMergeJoinExec>() {
                return plan_err!("a join of sorted tables is not served");
            }
            if operator.is::<CrossJoinExec>() {
                return Ok(Transformed::yes(paused(plan)));
            }
            Ok(Transformed::no(plan))
        });
        Ok(tamed?.data)
    }

    fn name(&self) -> &str {
        "tame"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn paused(join: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(CooperativeExec::new(join))
}

impl Tame {
    fn checked(&self, filter: &JoinFilter) -> JoinFilter {
        let expression = Arc::new(Checked {
            inner: Arc::clone(filter.expression()),
            stop: Arc::clone(&self.stop),
        });
        let columns = filter.column_indices().to_vec();
        JoinFilter::new(expression, columns, Arc::clone(filter.schema()))
    }

    /// A filter that leaves everything.
    fn always(&self) -> JoinFilter {
        let all = JoinFilter::new(lit(true), Vec::new(), Arc::new(Schema::empty()));
        self.checked(&all)
    }
}

/// An expression that fails once the question is over.
#[derive(Debug)]
struct Checked {
    inner: Arc<dyn PhysicalExpr>,
    stop: Arc<Stop>,
}

impl PartialEq for Checked {
    fn eq(&self, other: &Checked) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Checked {}

impl Hash for Checked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Checked {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.stop.is_over() {
            return Err(Exceeded(Bound::Time).into());
        }
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(match children.into_iter().next() {
            Some(inner) => Arc::new(Checked {
                inner,
                stop: Arc::clone(&self.stop),
            }),
            None => self,
        })
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

/// What becomes of what comes through.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// It is counted until all of it has ended.
    Held,
    /// It comes in pieces.
    Sliced,
}

/// Something that batches come through on their way to an operator.
#[derive(Debug)]
struct Passed {
    way: Way,
    input: Arc<dyn ExecutionPlan>,
}

impl Passed {
    fn of(way: Way, input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Passed {
            way,
            input: Arc::clone(input),
        })
    }
}

impl DisplayAs for Passed {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.way)
    }
}

impl ExecutionPlan for Passed {
    fn name(&self) -> &str {
        "Passed"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.first() {
            Some(input) => Passed::of(self.way, input),
            None => self,
        })
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if let Way::Sliced = self.way {
            let rows = self.input.execute(partition, context)?;
            let schema = rows.schema();
            return Ok(Box::pin(RecordBatchStreamAdapter::new(
                schema,
                sliced(rows),
            )));
        }
        let held = MemoryConsumer::new("a window").register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let counted = rows.and_then(move |batch| {
            let counted = held.try_grow(batch.get_array_memory_size());
            futures::future::ready(counted.map(|()| batch))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Statistics> {
        self.input.partition_statistics(partition)
    }
}
