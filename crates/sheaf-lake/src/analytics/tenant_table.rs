//! A table as one tenant's question sees it. It is made with the tenant, and holds no other's rows: there is nothing in a
//! question that could say whose rows are meant.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::columns::{is_as_stored, schema_of, shown};
use super::files::{FileBook, divide, of_tenant};
use super::pruning::files_to_read;
use super::scan::{Source, TenantScan};

/// A table of the lake, of one tenant.
pub(crate) struct TenantTable {
    source: Source,
    /// Where its description is; absent for one that has none yet, which holds nothing.
    description: Option<String>,
    book: Arc<FileBook>,
    schema: SchemaRef,
}

impl fmt::Debug for TenantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantTable({})", self.source.table.name())
    }
}

impl TenantTable {
    pub(crate) fn new(
        source: Source,
        description: Option<String>,
        book: Arc<FileBook>,
    ) -> TenantTable {
        TenantTable {
            schema: schema_of(source.table),
            source,
            description,
            book,
        }
    }

    /// Whether it decides on the condition itself.
    fn decides(&self, condition: &Expr) -> bool {
        let columns = condition.column_refs();
        let is_own = |name: &str| {
            let mut columns = shown(self.source.table);
            columns.any(|column| column.name == name && is_as_stored(column))
        };
        !columns.is_empty()
            && columns.iter().all(|column| is_own(column.name()))
            && !condition.is_volatile()
    }
}

#[async_trait]
impl TableProvider for TenantTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let filters = filters.iter().map(|filter| match self.decides(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        });
        Ok(filters.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = match projection {
            Some(places) => Arc::new(self.schema.project(places)?),
            None => Arc::clone(&self.schema),
        };
        let of_table = DFSchema::try_from(Arc::clone(&self.schema))?;
        let conditions = filters.iter().cloned();
        let conditions = conditions.map(|filter| state.create_physical_expr(filter, &of_table));
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        let table = self.source.table;
        let files = match &self.description {
            Some(description) => self.book.files(table, description).await,
            None => Ok(Vec::new()),
        };
        let external = |error| DataFusionError::External(Box::new(error));
        let files = of_tenant(table, &files.map_err(external)?, self.source.tenant);
        let files = files.map_err(external)?;
        let files = files_to_read(table, files, &conditions, &self.schema)?;
        let shares = divide(&files, state.config().target_partitions());
        let schemas = (Arc::clone(&self.schema), wanted);
        let scan = TenantScan::new(self.source.clone(), shares, schemas, conditions, limit);
        Ok(Arc::new(scan))
    }
}
