//! Numbers by the hour: `facts_hourly`.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::Result;
use datafusion::datasource::provider_as_source;
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{avg, count, max, min, sum};
use datafusion::functions_aggregate::first_last::{first_value, last_value};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, cast, col};

use super::super::tenant_table::TenantTable;
use super::super::utc_trunc::truncated;

/// The plan of the view.
pub(super) fn plan(facts: TenantTable) -> Result<LogicalPlan> {
    let scan = LogicalPlanBuilder::scan("facts", provider_as_source(Arc::new(facts)), None)?;
    let number = |column| cast(col(column), DataType::Float64);
    let numbers = [
        number("value_int"),
        col("value_float"),
        number("value_decimal"),
    ];
    let is_number = ["value_int", "value_float", "value_decimal"];
    let is_number = is_number.map(|column| col(column).is_not_null());
    let [int, float, decimal] = is_number;
    let of_fact = scan.filter(int.or(float).or(decimal))?.project(vec![
        col("entity_type"),
        col("entity_id"),
        col("external_id"),
        col("attribute"),
        // Conditions on it go down to the files with it.
        truncated("hour", col("observed_at")).alias("hour"),
        coalesce(numbers.into()).alias("number"),
        col("observed_at"),
    ])?;
    let keys = [
        "entity_type",
        "entity_id",
        "external_id",
        "attribute",
        "hour",
    ];
    let in_order = || vec![col("observed_at").sort(true, false)];
    let of_hour = of_fact.aggregate(
        keys.map(col),
        vec![
            count(col("number")).alias("count"),
            min(col("number")).alias("min"),
            max(col("number")).alias("max"),
            sum(col("number")).alias("sum"),
            avg(col("number")).alias("avg"),
            first_value(col("number"), in_order()).alias("first"),
            last_value(col("number"), in_order()).alias("last"),
        ],
    )?;
    of_hour.build()
}
