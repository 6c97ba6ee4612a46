//! Views: tables of a question that are computed from the lake's tables of its tenant.
//!
//! Each is a plan over the providers that a session has anyway, so that nothing comes out of a view that the tenant could not read
//! without it. `facts_hourly` is the same for everybody; `current.<type>` is made for the question that names it.

mod current;
mod hourly;
mod latest;
mod mentions;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::Schema;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::{DataFusionError, Result as PlanResult};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use sheaf_export::Column;
use sheaf_model::AttributeType;

use super::error::QueryError;
use super::session::{CATALOG, SCHEMA};
use super::tenant_table::TenantTable;
use super::{cells, columns};
use crate::schema::LakeTable;
use latest::LatestFacts;
pub(crate) use mentions::{Mentions, type_of};
pub(crate) use types::KnownTypes;

/// The schema with a table for each type of entities.
pub(crate) const CURRENT: &str = "current";
/// Numbers by the hour.
pub(crate) const HOURLY: &str = "facts_hourly";

/// Attributes of a type that `*` stands for at most. Every one is computed; who wants some of more names them.
const ATTRIBUTES_MAX: usize = 1_000;

/// A table that a question can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownTable {
    /// Its schema: `lake`, whose tables may be named without it only, or `current`.
    pub schema: &'static str,
    /// Its name.
    pub name: String,
    /// Its columns, in the order that `*` gives them.
    pub columns: Vec<Column>,
}

/// What views are made of.
pub(crate) struct Views<'a> {
    /// Has the lake's tables.
    pub(crate) state: &'a SessionState,
    /// The tenant's facts, of which the latest are current however old they are.
    pub(crate) facts: TenantTable,
    /// Those that are not older than they are shown.
    pub(crate) history: TenantTable,
    pub(crate) entities: TenantTable,
    pub(crate) attributes: TenantTable,
    pub(crate) known: &'a KnownTypes,
}

/// An attribute as a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    id: i64,
    name: String,
    kind: AttributeType,
}

impl Views<'_> {
    /// Puts the views that a question names into its session.
    pub(crate) async fn add(&self, mentions: &Mentions) -> Result<(), QueryError> {
        if mentions.is_hourly {
            let plan = hourly::plan(self.history.clone()).map_err(QueryError::of_planning)?;
            self.register(SCHEMA, vec![(HOURLY.to_owned(), plan)])?;
        }
        if mentions.types.is_empty() {
            return Ok(());
        }
        let of_types = match mentions.is_whole {
            true => self.known.attributes(self).await?,
            false => BTreeMap::new(),
        };
        let named = self.attributes(mentions).await?;
        let mut tables = Vec::new();
        for name in &mentions.types {
            let of_type = of_types.get(name.as_str());
            if of_type.is_none() && !self.has_type(name).await? {
                return Err(QueryError::refused(format!(
                    "no table {CURRENT}.{name}: no entity is of this type"
                )));
            }
            let is_column = |attribute: &&Attribute| match mentions.is_whole {
                true => of_type.is_some_and(|ids| ids.contains(&attribute.id)),
                false => true,
            };
            let shown: Vec<Attribute> = named.iter().filter(is_column).cloned().collect();
            if shown.len() > ATTRIBUTES_MAX {
                return Err(QueryError::refused(format!(
                    "{CURRENT}.{name} has {} attributes: name those that are wanted instead of *",
                    shown.len()
                )));
            }
            let facts = Arc::new(LatestFacts::new(self.facts.clone()));
            let plan = current::plan(facts, name, &shown).map_err(QueryError::of_planning)?;
            tables.push((name.clone(), plan));
        }
        self.register(CURRENT, tables)
    }

    /// All tables that the tenant's questions can name.
    pub(crate) async fn shown(&self) -> Result<Vec<ShownTable>, QueryError> {
        let of = |schema, name: &str, arrow: &Schema| ShownTable {
            schema,
            name: name.to_owned(),
            columns: cells::columns_of(arrow),
        };
        let tables = LakeTable::ALL.into_iter();
        let mut shown: Vec<ShownTable> = tables
            .map(|table| of(SCHEMA, table.name(), &columns::schema_of(table)))
            .collect();
        let hourly = hourly::plan(self.facts.clone()).map_err(QueryError::of_planning)?;
        shown.push(of(SCHEMA, HOURLY, hourly.schema().as_arrow()));
        let of_types = self.known.attributes(self).await?;
        let named = self.attributes(&Mentions::whole()).await?;
        for (name, ids) in of_types {
            let of_type = named.iter().filter(|attribute| ids.contains(&attribute.id));
            let of_type = of_type.map(|attribute| Column::of(&attribute.name, attribute.kind));
            let columns = current::fixed()
                .into_iter()
                .chain(of_type.take(ATTRIBUTES_MAX));
            shown.push(ShownTable {
                schema: CURRENT,
                name: name.to_string(),
                columns: columns.collect(),
            });
        }
        Ok(shown)
    }

    fn register(&self, schema: &str, tables: Vec<(String, LogicalPlan)>) -> Result<(), QueryError> {
        let place = || -> PlanResult<()> {
            let catalog = self.state.catalog_list().catalog(CATALOG);
            let catalog = catalog
                .ok_or_else(|| DataFusionError::Internal("a session without tables".to_owned()))?;
            let provider = match catalog.schema(schema) {
                Some(there) => there,
                None => {
                    let made: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                    catalog.register_schema(schema, Arc::clone(&made))?;
                    made
                }
            };
            for (name, plan) in tables {
                let view = ViewTable::new(plan, None);
                provider.register_table(name, Arc::new(view))?;
            }
            Ok(())
        };
        place().map_err(QueryError::of_planning)
    }

    /// The tenant's attributes that are asked for, in the order of their numbers.
    async fn attributes(&self, mentions: &Mentions) -> Result<Vec<Attribute>, QueryError> {
        let columns = ["attribute_id", "name", "type"];
        let table = Arc::new(self.attributes.clone());
        let scan = LogicalPlanBuilder::scan("attributes", provider_as_source(table), None);
        let plan = scan.and_then(|scan| scan.project(columns.map(col))?.build());
        let mut found = Vec::new();
        self.each(plan, |batch| {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let (names, kinds) = (
                batch.column(1).as_string_view(),
                batch.column(2).as_string_view(),
            );
            for place in 0..batch.num_rows() {
                let name = names.value(place);
                let is_wanted = mentions.is_whole || mentions.words.contains(name);
                if is_wanted && names.is_valid(place) && !current::is_fixed(name) {
                    found.push(Attribute {
                        id: ids.value(place),
                        name: name.to_owned(),
                        kind: AttributeType::parse(kinds.value(place))
                            .unwrap_or(AttributeType::Text),
                    });
                }
            }
        })
        .await?;
        found.sort_by_key(|attribute| attribute.id);
        Ok(found)
    }

    /// Whether an entity of the type has a name.
    async fn has_type(&self, name: &str) -> Result<bool, QueryError> {
        let table = Arc::new(self.entities.clone());
        let scan = LogicalPlanBuilder::scan("entities", provider_as_source(table), None);
        let plan = scan.and_then(|scan| {
            scan.filter(col("entity_type").eq(lit(name)))?
                .project([col("entity_id")])?
                .limit(0, Some(1))?
                .build()
        });
        let mut rows = 0;
        self.each(plan, |batch| rows += batch.num_rows()).await?;
        Ok(rows > 0)
    }

    /// Computes a plan of ours, within what the question may take.
    async fn each(
        &self,
        plan: PlanResult<LogicalPlan>,
        mut each: impl FnMut(&RecordBatch),
    ) -> Result<(), QueryError> {
        let run = async {
            let plan = self.state.create_physical_plan(&plan?).await?;
            let mut rows = execute_stream(plan, self.state.task_ctx())?;
            while let Some(batch) = rows.try_next().await? {
                each(&batch);
            }
            Ok(())
        };
        run.await.map_err(QueryError::of_running)
    }
}
