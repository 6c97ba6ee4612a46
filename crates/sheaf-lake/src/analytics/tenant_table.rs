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
use super::files::{FileBook, KnownFile, divide, of_tenant};
use super::implied::implied as implied_by;
use super::pruning::Pruning;
use super::scan::{Source, TenantScan};
use super::shown::ShownFrom;
use crate::error::LakeError;

/// A table of the lake, of one tenant.
#[derive(Clone)]
pub(crate) struct TenantTable {
    source: Source,
    files: Files,
    schema: SchemaRef,
    /// What holds of its rows whatever is asked: decided before any condition of a question is.
    shown: Vec<Expr>,
}

/// What is read.
#[derive(Clone)]
enum Files {
    /// Where the table's description is; absent for one that has none yet, which holds nothing.
    Described(Option<String>, Arc<FileBook>),
    /// Some of them.
    These(Vec<Arc<KnownFile>>),
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
            files: Files::Described(description, book),
            shown: Vec::new(),
        }
    }

    /// The same without rows of history that are older than they are shown.
    pub(crate) fn showing(self, shown: &ShownFrom) -> TenantTable {
        TenantTable {
            shown: shown.of(self.source.table),
            ..self
        }
    }

    /// Whose rows it gives.
    pub(crate) fn tenant(&self) -> i64 {
        self.source.tenant
    }

    /// The same of some of its files alone.
    pub(crate) fn of_files(&self, files: Vec<Arc<KnownFile>>) -> TenantTable {
        TenantTable {
            files: Files::These(files),
            ..self.clone()
        }
    }

    /// The files that may hold rows of the tenant.
    pub(crate) async fn files(&self) -> Result<Vec<Arc<KnownFile>>, LakeError> {
        match &self.files {
            Files::These(files) => Ok(files.clone()),
            Files::Described(None, _) => Ok(Vec::new()),
            Files::Described(Some(description), book) => {
                let table = self.source.table;
                let files = book.files(table, description).await?;
                of_tenant(table, &files, self.source.tenant)
            }
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
        let physical = |filter: Expr| state.create_physical_expr(filter, &of_table);
        let conditions = self.shown.iter().chain(filters).cloned().map(physical);
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        let implied = self.shown.iter().chain(filters);
        let implied = implied.flat_map(implied_by).map(physical);
        let implied = implied.collect::<Result<Vec<_>>>()?;
        let pruning = Pruning::new(conditions.iter().cloned().chain(implied), &self.schema)?;
        let table = self.source.table;
        let files = self.files().await;
        let files = files.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let files = pruning.files(table, files);
        let shares = divide(&files, state.config().target_partitions());
        let schemas = (Arc::clone(&self.schema), wanted);
        let asked = (conditions, Arc::new(pruning));
        let scan = TenantScan::new(self.source.clone(), shares, schemas, asked, limit);
        Ok(Arc::new(scan))
    }
}
