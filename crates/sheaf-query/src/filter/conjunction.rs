//! Terms that all have to hold: what belongs to one question of an index is asked as one.

use std::collections::BTreeMap;

use sheaf_model::AttributeId;
use sheaf_store::catalogue::Temperature;

use super::alternatives::Alternatives;
use super::parameter::Parameters;
use super::sql::{Attribute, condition, contained, json};
use super::typed::{Predicate, Property, Test, TypedExpr};
use super::value_index::IndexRange;

/// Conditions that ranges may become by standing in alternatives. Each is one more relation of a join to plan, so that their
/// product would be what planning costs: in each of a few alternatives they narrow what is found, and in many they take
/// longer to plan than to answer.
const REPEATED_MAX: usize = 32;

/// Ranges of one attribute, each with its test.
pub(super) struct Ranges<'a> {
    attribute: Attribute,
    all: Vec<(IndexRange, &'a Test)>,
}

impl Ranges<'_> {
    pub(super) fn condition(&self, tenant: &str, parameters: &mut Parameters) -> String {
        self.attribute.in_ranges(&self.all, tenant, parameters)
    }
}

/// Equalities of several hot attributes are one document that has to be contained: the index intersects what it finds for
/// each, where conditions by themselves would each be looked up whole. And both ends of a range are one range of the value
/// index, where each by itself could be half of it. Ranges stand in the alternatives beside them, where there are few.
pub(super) fn conjunction(
    terms: &[TypedExpr],
    tenant: &str,
    parameters: &mut Parameters,
) -> String {
    let mut equal: BTreeMap<AttributeId, String> = BTreeMap::new();
    let mut ranges: BTreeMap<AttributeId, Ranges<'_>> = BTreeMap::new();
    let (mut alternatives, mut others) = (Vec::new(), Vec::new());
    for term in terms {
        if let Some((id, value)) = equality(term)
            && !equal.contains_key(&id)
        {
            equal.insert(id, value);
        } else if let Some((attribute, range, test)) = indexed(term) {
            let of_attribute = ranges.entry(attribute.id).or_insert_with(|| Ranges {
                attribute,
                all: Vec::new(),
            });
            of_attribute.all.push((range, test));
        } else if let Some(found) = Alternatives::by_index(term, false) {
            alternatives.push(found);
        } else {
            others.push(term);
        }
    }
    let mut conditions = Vec::new();
    if !equal.is_empty() {
        let members: Vec<String> = equal
            .iter()
            .map(|(id, value)| format!("\"{id}\":{value}"))
            .collect();
        let document = format!("{{{}}}", members.join(","));
        conditions.push(contained(std::iter::once(document), parameters));
    }
    let ranges: Vec<&Ranges<'_>> = ranges.values().collect();
    let branches: usize = alternatives.iter().map(|found| found.branches()).sum();
    let in_all: usize = ranges.iter().map(|ranges| ranges.all.len()).sum();
    let (beside, alone) = match branches * in_all {
        1..=REPEATED_MAX => (ranges.as_slice(), &[][..]),
        _ => (&[][..], ranges.as_slice()),
    };
    conditions.extend(
        alone
            .iter()
            .map(|ranges| ranges.condition(tenant, parameters)),
    );
    conditions.extend(
        alternatives
            .into_iter()
            .map(|found| found.condition(beside, tenant, parameters)),
    );
    conditions.extend(
        others
            .into_iter()
            .map(|term| condition(term, false, tenant, parameters)),
    );
    format!("({})", conditions.join(" AND "))
}

/// The range of a value index that a term is.
pub(super) fn indexed(term: &TypedExpr) -> Option<(Attribute, IndexRange, &Test)> {
    let TypedExpr::Predicate(Predicate {
        property:
            Property::Attribute {
                id,
                kind,
                temperature,
                is_indexed: true,
            },
        test,
    }) = term
    else {
        return None;
    };
    let attribute = Attribute {
        id: *id,
        kind: *kind,
        temperature: *temperature,
        is_indexed: true,
    };
    Some((attribute, IndexRange::of(*kind, test)?, test))
}

/// The hot attribute and the value in stored form, where a term says that they are equal.
fn equality(term: &TypedExpr) -> Option<(AttributeId, String)> {
    let TypedExpr::Predicate(Predicate {
        property:
            Property::Attribute {
                id,
                temperature: Temperature::Hot,
                ..
            },
        test: Test::AnyOf(values),
    }) = term
    else {
        return None;
    };
    match values.as_slice() {
        [value] => Some((*id, json(value))),
        _ => None,
    }
}
