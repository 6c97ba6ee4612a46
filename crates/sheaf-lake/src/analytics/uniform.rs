//! Conditions of rows that are all alike. Facts are in the order of their attributes: most batches are of one, and what is asked about
//! its name is asked of one row.

use std::sync::Arc;

use arrow_array::builder::BooleanBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;

/// Which rows satisfy a condition, which gives the same for the same values.
pub(crate) fn satisfied(
    condition: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> Result<BooleanArray> {
    let rows = batch.num_rows();
    let is_uniform = rows > 1 && batch.columns().iter().all(|column| is_one_text(column));
    let asked = match is_uniform {
        true => &batch.slice(0, 1),
        false => batch,
    };
    let value = condition.evaluate(asked)?.into_array(asked.num_rows())?;
    let satisfied = value.as_boolean_opt().ok_or_else(|| {
        DataFusionError::Internal(format!("a condition that is {}", value.data_type()))
    })?;
    if !is_uniform {
        return Ok(satisfied.clone());
    }
    let mut all = BooleanBuilder::with_capacity(rows);
    match satisfied.is_valid(0) {
        true => all.append_n(rows, satisfied.value(0)),
        false => all.append_nulls(rows),
    }
    Ok(all.finish())
}

/// Whether all rows are one text, as far as can be told without reading it: where it is, or what it is if it is short.
fn is_one_text(column: &dyn Array) -> bool {
    let Some(texts) = column.as_string_view_opt() else {
        return false;
    };
    let views = texts.views();
    texts.null_count() == 0 && views.iter().all(|view| Some(view) == views.first())
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, StringViewArray};
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    fn texts(texts: &[Option<&str>]) -> ArrayRef {
        Arc::new(texts.iter().collect::<StringViewArray>())
    }

    #[test]
    fn rows_that_are_alike_are_decided_as_each_would_be() -> Result<()> {
        let long = Some("a name that is longer than fits into a view");
        for column in [
            texts(&[Some("a"); 3]),
            texts(&[Some("b"); 3]),
            texts(&[Some("a"), Some("b"), Some("a")]),
            texts(&[None; 3]),
            texts(&[Some("a"), None, Some("a")]),
            texts(&[long; 3]),
            texts(&[Some("a")]),
            texts(&[]),
        ] {
            let batch = RecordBatch::try_from_iter_with_nullable([("name", column, true)])?;
            let name = col("name", &batch.schema())?;
            for wanted in [Some("a"), long, None] {
                let wanted = lit(ScalarValue::Utf8View(wanted.map(str::to_owned)));
                let is = binary(Arc::clone(&name), Operator::Eq, wanted, &batch.schema())?;
                let each = is.evaluate(&batch)?.into_array(batch.num_rows())?;
                assert_eq!(&satisfied(&is, &batch)?, each.as_boolean(), "{batch:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn rows_are_alike_where_every_column_is() -> Result<()> {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let columns = [("name", texts(&[Some("a"); 3])), ("number", numbers)];
        let batch = RecordBatch::try_from_iter(columns)?;
        let number = col("number", &batch.schema())?;
        let few = binary(number, Operator::Lt, lit(3_i64), &batch.schema())?;
        assert_eq!(
            satisfied(&few, &batch)?,
            BooleanArray::from(vec![true, true, false])
        );
        Ok(())
    }
}
