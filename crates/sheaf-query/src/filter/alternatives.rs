//! Alternatives of which some are answered by value indexes: one semi-join with all that any of them finds.
//!
//! A semi-join with an index cannot stand under an OR. PostgreSQL would ask the index about each document of the tenant, or
//! keep its rows of every tenant in memory at once, without a bound. As the rows of one relation, alternatives are found each
//! by its own index, and joined with the documents within the memory of a join. The planner expects 200 distinct rows of a
//! UNION ALL, however many there are, and looks their documents up one by one: what few need, and up to twice as dear as
//! reading all of them where all pass. Of a UNION it expects as many as of all alternatives together, which for equality is
//! one document in a hundred, and would read all for a handful.

use super::access::AccessPath;
use super::conjunction::{Ranges, indexed};
use super::parameter::Parameters;
use super::sql::{all, condition};
use super::typed::{TypedExpr, mentions_names};
use super::value_index::table_of;

/// Alternatives, as terms of which any has to hold, denied or not.
#[derive(Clone, Copy)]
pub(super) struct Alternatives<'a> {
    pub(super) terms: &'a [TypedExpr],
    pub(super) denied: bool,
}

impl<'a> Alternatives<'a> {
    /// Those that an expression consists of, if a value index is asked for one of them.
    pub(super) fn by_index(expr: &'a TypedExpr, denied: bool) -> Option<Alternatives<'a>> {
        let alternatives = match expr {
            TypedExpr::Or(terms) if !denied => Alternatives { terms, denied },
            TypedExpr::And(terms) if denied => Alternatives { terms, denied },
            TypedExpr::Not(inner) => return Alternatives::by_index(inner, !denied),
            TypedExpr::And(_) | TypedExpr::Or(_) | TypedExpr::Predicate(_) => return None,
        };
        asks_value_index(expr, denied).then_some(alternatives)
    }

    /// What is found each by itself: every term that asks a value index, and the others as one condition on documents.
    fn groups(self) -> Vec<Vec<&'a TypedExpr>> {
        let (by_index, others): (Vec<&TypedExpr>, Vec<&TypedExpr>) = self
            .terms
            .iter()
            .partition(|term| asks_value_index(term, self.denied));
        let mut groups: Vec<Vec<&TypedExpr>> =
            by_index.into_iter().map(|term| vec![term]).collect();
        if !others.is_empty() {
            groups.push(others);
        }
        groups
    }

    /// How often a condition is asked that stands in all of them.
    pub(super) fn branches(self) -> usize {
        self.groups().len()
    }

    /// Holds where any of them does, and all ranges that are given to stand in each: it is found together with these, by
    /// whichever is narrower.
    pub(super) fn condition(
        self,
        beside: &[&Ranges<'_>],
        tenant: &str,
        parameters: &mut Parameters,
    ) -> String {
        let denied = self.denied;
        let groups = self.groups();
        let found: Vec<String> = groups
            .iter()
            .map(|group| {
                if let ([term], [], false) = (group.as_slice(), beside, denied)
                    && let Some(rows) = by_rows(term, tenant, parameters)
                {
                    return rows;
                }
                by_documents(group, denied, beside, tenant, parameters)
            })
            .collect();
        format!("d.entity_id IN ({})", found.join(" UNION ALL "))
    }
}

fn asks_value_index(term: &TypedExpr, denied: bool) -> bool {
    match term {
        TypedExpr::And(terms) | TypedExpr::Or(terms) => {
            terms.iter().any(|term| asks_value_index(term, denied))
        }
        TypedExpr::Not(inner) => asks_value_index(inner, !denied),
        TypedExpr::Predicate(predicate) => {
            AccessPath::of(predicate, denied) == AccessPath::TypedIndex
        }
    }
}

/// The entities of a range that the rows of its index tell exactly.
fn by_rows(term: &TypedExpr, tenant: &str, parameters: &mut Parameters) -> Option<String> {
    let (attribute, range, _) = indexed(term)?;
    if !range.is_exact {
        return None;
    }
    let rows = attribute.index_rows(tenant, parameters);
    let within = range.conditions(parameters);
    let table = table_of(attribute.kind.as_str());
    Some(format!(
        "SELECT i.entity_id FROM sheaf.{table} i WHERE {rows} AND {within}"
    ))
}

/// The entities whose documents pass any of the terms, however those are found.
fn by_documents(
    terms: &[&TypedExpr],
    denied: bool,
    beside: &[&Ranges<'_>],
    tenant: &str,
    parameters: &mut Parameters,
) -> String {
    let mut passes = match terms {
        [term] => condition(term, denied, tenant, parameters),
        terms => all(terms, denied, " OR ", tenant, parameters),
    };
    for ranges in beside {
        passes.push_str(" AND ");
        passes.push_str(&ranges.condition(tenant, parameters));
    }
    if !terms.iter().any(|term| mentions_names(term)) {
        return format!(
            "SELECT d.entity_id FROM sheaf.entity_jsonb d WHERE d.tenant_id = {tenant} AND {passes}"
        );
    }
    format!(
        "SELECT d.entity_id FROM sheaf.entity_jsonb d \
         JOIN sheaf.entities e ON e.tenant_id = d.tenant_id AND e.entity_id = d.entity_id \
         WHERE d.tenant_id = {tenant} AND e.tenant_id = {tenant} AND {passes}"
    )
}
