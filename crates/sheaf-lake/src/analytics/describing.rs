//! What a question would give: for protocols that say it before there are values to ask with.

use std::sync::Arc;

use arrow_schema::{DataType, Field};
use datafusion::execution::memory_pool::MemoryPool;
use sheaf_export::{Column, ColumnKind};
use sheaf_store::TenantScope;
use tokio::time::{Instant, timeout_at};

use super::asking::Asking;
use super::error::{Bound, QueryError};
use super::{LakeReader, LakeSnapshot, Param, Task, cells, ended, headings, inlining, params};

/// What a question would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The columns of its answer.
    pub columns: Vec<Column>,
    /// What is expected for `$1` and so on; absent where anything is.
    pub params: Vec<Option<ColumnKind>>,
}

impl LakeReader {
    /// What a question of a tenant would give. Nothing is computed.
    ///
    /// # Errors
    /// It cannot be answered whatever its values are.
    pub async fn describe(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
        query: String,
    ) -> Result<Description, QueryError> {
        let asking = self.asking(scope, snapshot)?;
        let stop = Arc::clone(&asking.stop);
        let (told, described) = tokio::sync::oneshot::channel();
        // Planning goes as deep as the text does, which needs the stack that those threads have.
        let running = self.shared.threads.spawn(async move {
            let until = Instant::now() + asking.time_max;
            asking.stop.set(Some(until));
            let described = timeout_at(until, asking.describe(&query)).await;
            let _ = told.send(described.unwrap_or_else(|_| Err(QueryError::limit(Bound::Time))));
        });
        let _task = Task { running, stop };
        described.await.map_err(|_| ended())?
    }
}

impl Asking {
    async fn describe(&self, query: &str) -> Result<Description, QueryError> {
        let budget = self.shared.budgets.open(self.tenant) as Arc<dyn MemoryPool>;
        let (state, plan, headings) = self.read(query, budget).await?;
        let expected = plan.get_parameter_types();
        let expected = expected.map_err(QueryError::of_planning)?;
        let count = params::count(expected.keys().map(String::as_str))?;
        let params = (1..=count).map(|number| {
            let expected = expected.get(&format!("${number}"));
            expected.and_then(Option::as_ref).map(kind_of)
        });
        let params = params.collect();
        // What has no value yet may be none: the types are those that any value would give.
        let plan = params::bind(plan, &vec![Param::Null; count])?;
        inlining::check(&plan)?;
        let plan = state.optimize(&plan).map_err(QueryError::of_planning)?;
        let mut columns = cells::columns_of(plan.schema().as_arrow());
        headings::name(&mut columns, &headings);
        Ok(Description { columns, params })
    }
}

fn kind_of(kind: &DataType) -> ColumnKind {
    cells::kind_of(&Field::new("", kind.clone(), true))
}
