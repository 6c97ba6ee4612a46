//! What answers each part of a list's filter, for administrators: figures of the planner tell of other tenants as well.

use sheaf_pg::first_row;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::snapshot::plan_page;

use super::estimate::{ESTIMATE_EXACT_MAX, cost_of_plan, estimate};
use super::order::property;
use super::sql::Matching;
use super::{ListQuery, Plan};
use crate::consistency::ReadOptions;
use crate::error::ReadError;
use crate::filter::{AccessPath, Expr, Led, Node, TypedExpr};
use crate::reader::{Reader, STATEMENT_TIME_MAX, page_limit, type_filter};
use crate::source::Source;

/// How a list is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The conditions of the filter, in its order.
    pub parts: Vec<ExplainedPart>,
    /// What the planner takes the page to cost, in its own units.
    pub cost: f64,
}

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPart {
    /// The condition, as the printer writes it.
    pub predicate: String,
    /// What answers it where it stands: in an alternative that leads to nothing, whatever has found the documents.
    pub by: AccessPath,
    /// About how many entities pass it alone.
    pub estimated_rows: i64,
}

impl Reader {
    /// How a list would be answered now. The list itself is not read.
    pub async fn explain(
        &self,
        scope: &TenantScope,
        query: &ListQuery,
        options: &ReadOptions,
    ) -> Result<Explanation, ReadError> {
        let limit = page_limit(query.limit)?;
        let entity_type = type_filter(query.entity_type.as_deref())?;
        let catalogue = self.catalogues.current(scope).await?;
        let plan = Plan::resolve(query, entity_type.as_ref(), limit, &catalogue)?;
        let matching = Matching {
            tenant: scope.tenant(),
            entity_type: plan.entity_type,
            filter: plan.filter.as_ref(),
        };
        let source = Source::primary(&self.sources, false, options).await?;
        let page = matching
            .page(&plan.order, None, i64::from(query.limit) + 1)
            .explained();
        let statements = vec![plan_page(&STATEMENT_TIME_MAX), page.statement()];
        let rows = source.search(statements).await?;
        let mut parts = Vec::new();
        if let (Some(filter), Some(typed)) = (&query.filter, &plan.filter) {
            let mut conditions = Vec::new();
            collect(filter, false, &mut conditions);
            // A condition is one test.
            for (condition, by) in conditions.into_iter().zip(Led::of(typed).paths) {
                parts.push(part(&source, &matching, condition, by, &catalogue).await?);
            }
        }
        Ok(Explanation {
            parts,
            cost: cost_of_plan(&rows[1])?,
        })
    }
}

/// The conditions of a filter, each with whether it is denied.
fn collect<'a>(expr: &'a Expr, denied: bool, conditions: &mut Vec<(&'a Expr, bool)>) {
    match &expr.value {
        Node::And(terms) | Node::Or(terms) => {
            for term in terms {
                collect(term, denied, conditions);
            }
        }
        Node::Not(inner) => collect(inner, !denied, conditions),
        Node::Condition(_) => conditions.push((expr, denied)),
    }
}

async fn part(
    source: &Source,
    matching: &Matching<'_>,
    (condition, denied): (&Expr, bool),
    by: AccessPath,
    catalogue: &Catalogue,
) -> Result<ExplainedPart, ReadError> {
    let typed = TypedExpr::resolve(condition, &|name| property(name, catalogue))?;
    let (typed, predicate) = if denied {
        let text = condition.to_text();
        (TypedExpr::Not(Box::new(typed)), format!("NOT {text}"))
    } else {
        (typed, condition.to_text())
    };
    let alone = Matching {
        filter: Some(&typed),
        ..*matching
    };
    // Alone it may have an index that it has not where it stands.
    let estimated_rows = match Led::of(&typed).paths.first() {
        Some(AccessPath::HotIndex | AccessPath::TypedIndex | AccessPath::Presence(_)) => {
            rows_of(source, &alone).await?
        }
        // Counting could read all of the tenant and find nothing.
        Some(AccessPath::AbsenceOf(_) | AccessPath::Scan) | None => {
            estimate(source, &alone, 0).await?
        }
    };
    Ok(ExplainedPart {
        predicate,
        by,
        estimated_rows,
    })
}

async fn rows_of(source: &Source, alone: &Matching<'_>) -> Result<i64, ReadError> {
    const STEP: &str = "counting entities";
    let count = alone.count_to(ESTIMATE_EXACT_MAX + 1);
    let statements = vec![plan_page(&STATEMENT_TIME_MAX), count.statement()];
    let rows = source.search(statements).await?;
    let row = first_row(&rows[1], STEP)?;
    match row.get("matches") {
        few if few <= ESTIMATE_EXACT_MAX => Ok(few),
        many => estimate(source, alone, many).await,
    }
}
