//! Of the facts of a file the last of each run: of each entity, attribute and op. Whoever looks for latest values needs no other,
//! and in a file they are beside each other, so that most facts go no further than where they were decoded.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use async_trait::async_trait;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use super::super::tenant_table::TenantTable;

/// What a run has in common, and the order in it.
const KEYS: [&str; 4] = ["attribute_id", "entity_id", "op", "observed_at"];
/// What is the same in all of a run: conditions on it can be asked before the last is looked for.
const OF_A_RUN: [&str; 8] = [
    "tenant_id",
    "entity_id",
    "entity_type",
    "external_id",
    "attribute_id",
    "attribute",
    "type",
    "op",
];

/// A tenant's facts, but those that a later one of their run stands beside.
#[derive(Debug)]
pub(crate) struct LatestFacts {
    facts: TenantTable,
}

impl LatestFacts {
    pub(crate) fn new(facts: TenantTable) -> LatestFacts {
        LatestFacts { facts }
    }
}

#[async_trait]
impl TableProvider for LatestFacts {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        self.facts.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let mut decided = self.facts.supports_filters_pushdown(filters)?;
        for (filter, decision) in filters.iter().zip(&mut decided) {
            let columns = filter.column_refs();
            if !columns
                .iter()
                .all(|column| OF_A_RUN.contains(&column.name()))
            {
                *decision = TableProviderFilterPushDown::Unsupported;
            }
        }
        Ok(decided)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = self.schema();
        let mut read = match projection {
            Some(places) => places.clone(),
            None => (0..whole.fields().len()).collect(),
        };
        let width = read.len();
        let mut keys = [0; KEYS.len()];
        for (place, name) in keys.iter_mut().zip(KEYS) {
            let column = whole.index_of(name)?;
            *place = match read.iter().position(|known| *known == column) {
                Some(known) => known,
                None => {
                    read.push(column);
                    read.len() - 1
                }
            };
        }
        let input = self.facts.scan(state, Some(&read), filters, None).await?;
        Ok(Arc::new(LatestOfRuns::new(input, keys, width)?))
    }
}

/// The same of a plan. The columns behind its first ones are for it alone.
#[derive(Debug)]
struct LatestOfRuns {
    input: Arc<dyn ExecutionPlan>,
    /// Where the columns of [`KEYS`] are.
    keys: [usize; KEYS.len()],
    width: usize,
    properties: Arc<PlanProperties>,
}

impl LatestOfRuns {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: [usize; KEYS.len()],
        width: usize,
    ) -> Result<LatestOfRuns> {
        let places: Vec<usize> = (0..width).collect();
        let schema: SchemaRef = Arc::new(input.schema().project(&places)?);
        let of_input = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            of_input.output_partitioning().clone(),
            of_input.emission_type,
            of_input.boundedness,
        );
        Ok(LatestOfRuns {
            input,
            keys,
            width,
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for LatestOfRuns {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LatestOfRuns")
    }
}

impl ExecutionPlan for LatestOfRuns {
    fn name(&self) -> &str {
        "LatestOfRuns"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // What is beside each other has to stay there.
        vec![false]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next();
        let input = input.unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(LatestOfRuns::new(input, self.keys, self.width)?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let keys = self.keys;
        let shown: Vec<usize> = (0..self.width).collect();
        let rows = rows.and_then(move |batch| {
            let kept = is_last(&batch, keys)
                .and_then(|kept| filter_record_batch(&batch.project(&shown)?, &kept));
            futures::future::ready(kept.map_err(DataFusionError::from))
        });
        let schema = Arc::clone(self.properties.equivalence_properties().schema());
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&self.schema()))
    }
}

/// Of each row whether none of its run and not before it comes next. The last row of a batch has nothing beside it.
fn is_last(
    batch: &RecordBatch,
    [attribute, entity, op, at]: [usize; KEYS.len()],
) -> Result<BooleanArray, ArrowError> {
    let rows = batch.num_rows();
    let attributes = batch.column(attribute).as_primitive::<Int64Type>();
    let entities = batch.column(entity).as_primitive::<Int64Type>();
    let times = batch.column(at).as_primitive::<TimestampMicrosecondType>();
    let ops = batch.column(op).as_string_view();
    let is_covered = |row: usize| {
        let next = row + 1;
        next < rows
            && entities.value(row) == entities.value(next)
            && attributes.is_null(row) == attributes.is_null(next)
            && (attributes.is_null(row) || attributes.value(row) == attributes.value(next))
            && times.value(row) <= times.value(next)
            && ops.value(row) == ops.value(next)
    };
    Ok((0..rows).map(|row| Some(!is_covered(row))).collect())
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, StringViewArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn of_each_run_the_last_stays_and_of_rows_in_no_order_everything_that_may_be_it() {
        // Attribute, entity, op, time; and whether it stays.
        let table: [(Option<i64>, i64, &str, i64, bool); 9] = [
            (None, 1, "delete", 5, true),
            (None, 1, "patch", 6, true),
            (Some(1), 1, "patch", 1, false),
            (Some(1), 1, "patch", 2, true),
            (Some(1), 2, "patch", 9, true),
            (Some(1), 2, "patch", 3, true),
            (Some(2), 2, "patch", 4, true),
            (Some(2), 2, "correct", 5, true),
            (Some(2), 2, "patch", 6, true),
        ];
        let columns: [(&str, ArrayRef); 4] = [
            (
                "a",
                Arc::new(table.iter().map(|row| row.0).collect::<Int64Array>()),
            ),
            (
                "e",
                Arc::new(Int64Array::from_iter_values(table.iter().map(|row| row.1))),
            ),
            (
                "o",
                Arc::new(StringViewArray::from_iter_values(
                    table.iter().map(|row| row.2),
                )),
            ),
            (
                "t",
                Arc::new(TimestampMicrosecondArray::from_iter_values(
                    table.iter().map(|row| row.3),
                )),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let kept = is_last(&batch, [0, 1, 2, 3]).expect("kept");
        let wanted: BooleanArray = table.iter().map(|row| Some(row.4)).collect();
        assert_eq!(kept, wanted);
        let none = batch.slice(0, 0);
        assert_eq!(is_last(&none, [0, 1, 2, 3]).expect("kept").len(), 0);
    }
}
