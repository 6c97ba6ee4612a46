//! The current values of the entities of a type: a row each, a column an attribute.
//!
//! What counts is what the fold of `sheaf-model` says: of each attribute the latest value, unless the entity was replaced or
//! deleted after it; and an entity whose last event is a delete is not there.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::{Column as Name, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::functions_aggregate::first_last::last_value;
use datafusion::logical_expr::expr::FieldMetadata;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when};
use sheaf_export::Column;
use sheaf_model::AttributeType;

use super::super::columns::{JSON_MARK, schema_of};
use super::super::excerpts::values_in;
use super::Attribute;
use super::latest::LatestFacts;
use crate::schema::LakeTable;

/// What every row has.
const FIXED: [(&str, AttributeType); 3] = [
    ("external_id", AttributeType::Text),
    ("entity_id", AttributeType::Int),
    ("observed_at", AttributeType::Time),
];

/// Whether a column has this name that is no attribute.
pub(super) fn is_fixed(name: &str) -> bool {
    FIXED.iter().any(|(fixed, _)| *fixed == name)
}

pub(super) fn fixed() -> Vec<Column> {
    let columns = FIXED.into_iter();
    columns.map(|(name, kind)| Column::of(name, kind)).collect()
}

impl Attribute {
    /// The column of the facts that has its values.
    fn values(&self) -> &'static str {
        values_in(self.kind)[0]
    }
}

/// The plan of the view, with these attributes.
pub(super) fn plan(
    facts: Arc<LatestFacts>,
    entity_type: &str,
    attributes: &[Attribute],
) -> Result<LogicalPlan> {
    let mut values: Vec<&'static str> = attributes.iter().map(Attribute::values).collect();
    values.sort_unstable();
    values.dedup();
    let rows = lives(Arc::clone(&facts), entity_type, &values)?;
    let rows = match attributes {
        [] => rows,
        _ => rows.union(latest(facts, entity_type, attributes, &values)?.build()?)?,
    };
    let mut found = vec![
        max(col("observed_at")).alias("observed_at"),
        max(col("reset_at")).alias("reset_at"),
        max(col("deleted_at")).alias("deleted_at"),
        max(col("alive_at")).alias("alive_at"),
    ];
    for (place, attribute) in attributes.iter().enumerate() {
        let of_it = |what| when(col("attribute_id").eq(lit(attribute.id)), what).end();
        found.push(max(of_it(col(attribute.values()))?).alias(format!("value {place}")));
        found.push(max(of_it(col("at"))?).alias(format!("at {place}")));
    }
    let of_entity = rows.aggregate([col("entity_id"), col("external_id")], found)?;
    let is_alive = col("deleted_at")
        .is_null()
        .or(col("alive_at").gt_eq(col("deleted_at")));
    let mut shown: Vec<Expr> = FIXED.iter().map(|(name, _)| col(*name)).collect();
    for (place, attribute) in attributes.iter().enumerate() {
        let column = |what| Expr::Column(Name::from_name(format!("{what} {place}")));
        let counts = col("reset_at")
            .is_null()
            .or(column("at").gt_eq(col("reset_at")));
        let value = when(counts, column("value")).end()?;
        let mark = (attribute.kind == AttributeType::Json).then(json_mark);
        shown.push(value.alias_with_metadata(&attribute.name, mark));
    }
    of_entity.filter(is_alive)?.project(shown)?.build()
}

fn json_mark() -> FieldMetadata {
    let (key, value) = JSON_MARK;
    FieldMetadata::from(std::collections::BTreeMap::from([(
        key.to_owned(),
        value.to_owned(),
    )]))
}

fn null_of(kind: &DataType) -> Result<Expr> {
    Ok(Expr::Literal(ScalarValue::try_from(kind)?, None))
}

/// When each entity was last heard of, replaced and deleted: in the columns of both kinds of rows.
fn lives(
    facts: Arc<LatestFacts>,
    entity_type: &str,
    values: &[&'static str],
) -> Result<LogicalPlanBuilder> {
    let scan = LogicalPlanBuilder::scan("facts", provider_as_source(facts), None)?;
    let is_of_event = || col("attribute_id").is_null();
    let is = |op: &str| col("op").eq(lit(op));
    let is_delete = || is_of_event().and(is("delete"));
    let is_reset = is_of_event().and(is("delete").or(is("replace")));
    let times = [
        col("observed_at"),
        when(is_reset, col("observed_at")).end()?.alias("reset_at"),
        when(is_delete(), col("observed_at"))
            .end()?
            .alias("deleted_at"),
        // What follows a delete in its own instant is after it: what was before it, it hides.
        when(is_delete(), null_of(&time_kind())?)
            .otherwise(col("observed_at"))?
            .alias("alive_at"),
    ];
    let mut columns = vec![col("entity_id"), col("external_id")];
    columns.extend(times);
    let known = scan
        .filter(col("entity_type").eq(lit(entity_type)))?
        .project(columns)?
        .aggregate(
            [col("entity_id"), col("external_id")],
            ["observed_at", "reset_at", "deleted_at", "alive_at"]
                .map(|time| max(col(time)).alias(time)),
        )?;
    let mut columns = vec![
        col("entity_id"),
        col("external_id"),
        col("observed_at"),
        col("reset_at"),
        col("deleted_at"),
        col("alive_at"),
        null_of(&DataType::Int64)?.alias("attribute_id"),
        null_of(&time_kind())?.alias("at"),
    ];
    for name in values {
        // Rows of both kinds have to be marked the same.
        let mark = (*name == "value_json").then(json_mark);
        columns.push(null_of(&kind_of(name))?.alias_with_metadata(*name, mark));
    }
    known.project(columns)
}

/// The latest value of each attribute, in the same columns.
fn latest(
    facts: Arc<LatestFacts>,
    entity_type: &str,
    attributes: &[Attribute],
    values: &[&'static str],
) -> Result<LogicalPlanBuilder> {
    let scan = LogicalPlanBuilder::scan("facts", provider_as_source(facts), None)?;
    let ids = attributes.iter().map(|attribute| lit(attribute.id));
    let is_wanted = col("attribute_id").in_list(ids.collect(), false);
    let in_order = || vec![col("observed_at").sort(true, false)];
    let mut found = vec![max(col("observed_at")).alias("at")];
    found.extend(
        values
            .iter()
            .map(|name| last_value(col(*name), in_order()).alias(*name)),
    );
    let known = scan
        .filter(col("entity_type").eq(lit(entity_type)).and(is_wanted))?
        .aggregate(["entity_id", "external_id", "attribute_id"].map(col), found)?;
    let time = || null_of(&time_kind());
    let mut columns = vec![
        col("entity_id"),
        col("external_id"),
        time()?.alias("observed_at"),
        time()?.alias("reset_at"),
        time()?.alias("deleted_at"),
        time()?.alias("alive_at"),
        cast(col("attribute_id"), DataType::Int64).alias("attribute_id"),
        col("at"),
    ];
    columns.extend(values.iter().map(|name| col(*name)));
    known.project(columns)
}

fn time_kind() -> DataType {
    kind_of("observed_at")
}

fn kind_of(column: &str) -> DataType {
    let schema = schema_of(LakeTable::Facts);
    let field = schema.field_with_name(column);
    field.map_or(DataType::Null, |field| field.data_type().clone())
}
