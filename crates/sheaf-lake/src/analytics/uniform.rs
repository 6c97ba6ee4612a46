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
    let one = one_for_all(batch);
    let asked = one.as_ref().unwrap_or(batch);
    let value = condition.evaluate(asked)?.into_array(asked.num_rows())?;
    let satisfied = value.as_boolean_opt().ok_or_else(|| {
        DataFusionError::Internal(format!("a condition that is {}", value.data_type()))
    })?;
    if one.is_none() {
        return Ok(satisfied.clone());
    }
    let mut all = BooleanBuilder::with_capacity(batch.num_rows());
    match satisfied.is_valid(0) {
        true => all.append_n(batch.num_rows(), satisfied.value(0)),
        false => all.append_nulls(batch.num_rows()),
    }
    Ok(all.finish())
}

/// The first row, where all are as it is.
fn one_for_all(batch: &RecordBatch) -> Option<RecordBatch> {
    let is_uniform = batch.num_rows() > 1 && batch.columns().iter().all(|one| is_one_text(one));
    is_uniform.then(|| batch.slice(0, 1))
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
    use arrow_array::builder::StringViewBuilder;
    use arrow_array::{ArrayRef, Int64Array, RecordBatchOptions, StringViewArray};
    use arrow_schema::Schema;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    const LONG: &str = "a name that is longer than fits into a view";

    fn texts(texts: &[Option<&str>]) -> ArrayRef {
        Arc::new(texts.iter().collect::<StringViewArray>())
    }

    /// As a dictionary's texts are: each is in memory once.
    fn shared(text: &str) -> ArrayRef {
        let mut texts = StringViewBuilder::new().with_deduplicate_strings();
        texts.extend([Some(text); 3]);
        Arc::new(texts.finish())
    }

    #[test]
    fn rows_that_are_alike_are_decided_as_each_would_be_and_asked_of_one() -> Result<()> {
        for (column, is_one) in [
            (texts(&[Some("a"); 3]), true),
            (texts(&[Some("b"); 3]), true),
            (shared(LONG), true),
            // The same text at three places.
            (texts(&[Some(LONG); 3]), false),
            (texts(&[Some("a"), Some("b"), Some("a")]), false),
            (texts(&[None; 3]), false),
            (texts(&[Some("a"), None, Some("a")]), false),
            (texts(&[Some("a")]), false),
            (texts(&[]), false),
        ] {
            let batch = RecordBatch::try_from_iter_with_nullable([("name", column, true)])?;
            let one = one_for_all(&batch).map(|one| one.num_rows());
            assert_eq!(one, is_one.then_some(1), "{batch:?}");
            let name = col("name", &batch.schema())?;
            for wanted in [Some("a"), Some(LONG), None] {
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
        let rows = RecordBatchOptions::new().with_row_count(Some(3));
        let empty = Arc::new(Schema::empty());
        let no_columns = RecordBatch::try_new_with_options(empty, Vec::new(), &rows)?;
        assert_eq!(
            satisfied(&lit(true), &no_columns)?,
            BooleanArray::from(vec![true; 3])
        );
        Ok(())
    }
}
