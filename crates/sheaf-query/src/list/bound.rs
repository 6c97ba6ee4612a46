//! Whether a list is bounded: a filter that reads the documents of most of a large tenant is refused with the way out.
//!
//! How many documents have an attribute is known from the statistics that PostgreSQL keeps of `present`, one element at a
//! time; an attribute is one tenant's, so that its number alone tells. What they do not know yet is taken for few, and
//! ends at the time that a statement may take. The statistics decide on refusing, and never on an answer.

use sheaf_store::catalogue::Catalogue;

use super::estimate::rows_of_plan;
use super::sql::{Composed, Matching};
use crate::error::ReadError;
use crate::filter::{AccessPath, Parameter, Parameters, Reading, TypedExpr};
use crate::source::Source;

/// Documents that a search may read for what no index tells of them. So many take half a second to a second, a tenth of the
/// time that a statement may take; a tenant with fewer entities is never refused anything.
const DOCUMENTS_MAX: i64 = 200_000;

/// Refuses a filter that reads too many documents.
pub(super) async fn require_bounded(
    source: &Source,
    matching: &Matching<'_>,
    catalogue: &Catalogue,
) -> Result<(), ReadError> {
    let Some(filter) = matching.filter else {
        return Ok(());
    };
    if !matches!(Reading::of(filter, &|_| i64::MAX), Reading::Documents(..)) {
        return Ok(());
    }
    let mut paths = Vec::new();
    collect(filter, false, &mut paths);
    let counted = count(source, matching, &paths).await?;
    let documents = |path: AccessPath| {
        let place = paths.iter().position(|known| *known == path);
        place.map_or(i64::MAX, |place| counted.documents[place])
    };
    match Reading::of(filter, &documents) {
        Reading::Documents(documents, id) => {
            let name = catalogue.by_id(id).map(|attribute| attribute.name.as_str());
            // The names of a type are found by an index of their own.
            refuse_beyond(documents.min(counted.of_type), name.unwrap_or_default())
        }
        Reading::Indexed | Reading::Open => Ok(()),
    }
}

fn refuse_beyond(documents: i64, name: &str) -> Result<(), ReadError> {
    if documents <= DOCUMENTS_MAX {
        return Ok(());
    }
    Err(ReadError::Unbounded {
        detail: format!(
            "the filter would read about {documents} documents for the attribute {name:?}, more than {DOCUMENTS_MAX}"
        ),
        hint: format!(
            "pin the attribute {name:?} hot, so that indexes answer equality and ranges of it, or add a condition that few \
             entities pass"
        ),
    })
}

/// About how many documents paths read, and how many entities there are of the type.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) documents: Vec<i64>,
    pub(super) of_type: i64,
}

pub(super) async fn count(
    source: &Source,
    matching: &Matching<'_>,
    paths: &[AccessPath],
) -> Result<Counted, ReadError> {
    let mut composed: Vec<Composed> = paths.iter().map(|path| plan_of(*path, matching)).collect();
    composed.push(plan_of_type(matching));
    let statements: Vec<_> = composed.iter().map(Composed::statement).collect();
    let plans = source.search(statements).await?;
    let mut documents = plans
        .iter()
        .map(|rows| rows_of_plan(rows))
        .collect::<Result<Vec<i64>, _>>()?;
    Ok(Counted {
        of_type: documents.pop().unwrap_or(i64::MAX),
        documents,
    })
}

/// The plan of reading what a path reads, with the planner's estimate. It is not run.
fn plan_of(path: AccessPath, matching: &Matching<'_>) -> Composed {
    let mut parameters = Parameters::default();
    let condition = match path {
        AccessPath::Presence(id) => {
            let id = parameters.push(Parameter::Int8Array(vec![id.0]));
            format!("d.present @> {id}")
        }
        AccessPath::AbsenceOf(_)
        | AccessPath::Scan
        | AccessPath::HotIndex
        | AccessPath::TypedIndex => {
            let tenant = parameters.push(Parameter::Int8(matching.tenant.0));
            format!("d.tenant_id = {tenant}")
        }
    };
    let sql = format!("EXPLAIN SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE {condition}");
    Composed::new("estimating what a filter reads", sql, parameters)
}

/// The same of the names of the type, or of the tenant's.
fn plan_of_type(matching: &Matching<'_>) -> Composed {
    let mut parameters = Parameters::default();
    let tenant = parameters.push(Parameter::Int8(matching.tenant.0));
    let mut sql =
        format!("EXPLAIN SELECT e.entity_id FROM sheaf.entities e WHERE e.tenant_id = {tenant}");
    if let Some(entity_type) = matching.entity_type {
        let entity_type = parameters.push(Parameter::Text(entity_type.to_owned()));
        sql.push_str(&format!(" AND e.entity_type = {entity_type}"));
    }
    Composed::new("estimating the names of a type", sql, parameters)
}

/// The paths of a filter that read documents, each once.
fn collect(expr: &TypedExpr, denied: bool, paths: &mut Vec<AccessPath>) {
    match expr {
        TypedExpr::And(terms) | TypedExpr::Or(terms) => {
            for term in terms {
                collect(term, denied, paths);
            }
        }
        TypedExpr::Not(inner) => collect(inner, !denied, paths),
        TypedExpr::Predicate(predicate) => {
            let path = AccessPath::of(predicate, denied);
            let reads = matches!(path, AccessPath::Presence(_) | AccessPath::AbsenceOf(_));
            if reads && !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_more_than_the_bound_is_refused_with_the_way_out() {
        assert!(refuse_beyond(DOCUMENTS_MAX, "speed").is_ok());
        let error = refuse_beyond(DOCUMENTS_MAX + 1, "speed").expect_err("too many");
        assert_eq!(error.code(), "unbounded_query");
        let ReadError::Unbounded { detail, hint } = error else {
            panic!("another error");
        };
        assert!(detail.contains("200001 documents for the attribute \"speed\""));
        assert!(hint.contains("pin the attribute \"speed\" hot"));
    }
}
