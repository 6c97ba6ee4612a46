//! How a list is answered, as administrators see it.

use serde::Serialize;
use sheaf_query::{Explanation, ListQuery, ReadOptions};
use sheaf_store::TenantScope;
use utoipa::ToSchema;

use crate::auth::ByAdmin;
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// How a list is answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(crate) struct ExplainBody {
    /// The conditions of the filter, in its order.
    parts: Vec<ExplainedPartBody>,
    /// What the list was answered from.
    source: String,
    /// What the planner takes the page to cost, in its own units.
    cost: f64,
}

/// One condition of the filter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedPart)]
struct ExplainedPartBody {
    /// The condition.
    predicate: String,
    /// `hot_index`, `typed_index`, `presence` or `scan`.
    by: &'static str,
    /// About how many entities pass it alone.
    estimated_rows: i64,
}

/// What `explain=true` adds to a list, for an administrator's key alone: the planner's figures tell of other tenants too.
pub(crate) async fn explain(
    state: &AppState,
    ByAdmin(by_admin): ByAdmin,
    scope: &TenantScope,
    query: &ListQuery,
    options: &ReadOptions,
) -> Result<Explanation, Problem> {
    if !by_admin {
        let detail = "explain needs an administrator's key";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    Ok(state.reader.explain(scope, query, options).await?)
}

impl ExplainBody {
    pub(crate) fn of(explanation: Explanation, source: String) -> ExplainBody {
        let parts = explanation.parts.into_iter();
        ExplainBody {
            parts: parts
                .map(|part| ExplainedPartBody {
                    predicate: part.predicate,
                    by: part.by.as_str(),
                    estimated_rows: part.estimated_rows,
                })
                .collect(),
            source,
            cost: explanation.cost,
        }
    }
}
