//! By what the parts of a filter are found, and how many documents that reads.
//!
//! Equality of a hot attribute and a range of an indexed one are answered by indexes of values. Every other test of an
//! attribute reads the documents that have it, which the presence index finds: few of a sparse attribute, and each entity
//! of the tenant of one that all have. A property of the entity itself narrows nothing by an index of its own.

use sheaf_model::{AttributeId, AttributeType};
use sheaf_store::catalogue::Temperature;

use super::typed::{Predicate, Property, Reserved, Test, TypedExpr};
use super::value_index::IndexRange;

/// What answers a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessPath {
    /// The index on the values of hot attributes.
    HotIndex,
    /// The value index of the attribute.
    TypedIndex,
    /// The documents that have the attribute.
    Presence(AttributeId),
    /// Every document of the tenant, for what this attribute lacks.
    AbsenceOf(AttributeId),
    /// Whatever else narrows the filter, or every document of the tenant.
    Scan,
}

impl AccessPath {
    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessPath::HotIndex => "hot_index",
            AccessPath::TypedIndex => "typed_index",
            AccessPath::Presence(_) => "presence",
            AccessPath::AbsenceOf(_) | AccessPath::Scan => "scan",
        }
    }

    /// What answers a test, denied or not.
    pub(crate) fn of(predicate: &Predicate, denied: bool) -> AccessPath {
        match predicate.property {
            Property::Attribute {
                id,
                kind,
                temperature,
                is_indexed,
            } => {
                let is_hot = temperature == Temperature::Hot;
                match &predicate.test {
                    Test::Absent if !denied => AccessPath::AbsenceOf(id),
                    _ if denied => AccessPath::Presence(id),
                    Test::AnyOf(_) | Test::Array { .. } if is_hot => AccessPath::HotIndex,
                    test if is_indexed && is_range(kind, test) => AccessPath::TypedIndex,
                    Test::Absent
                    | Test::AnyOf(_)
                    | Test::AnyOfFolded(_)
                    | Test::Range { .. }
                    | Test::Like { .. }
                    | Test::Array { .. } => AccessPath::Presence(id),
                }
            }
            Property::Reserved(
                Reserved::EntityType
                | Reserved::ExternalId
                | Reserved::ObservedAt
                | Reserved::UpdatedAt,
            ) => AccessPath::Scan,
        }
    }
}

fn is_range(kind: AttributeType, test: &Test) -> bool {
    IndexRange::of(kind, test).is_some()
}

/// Whether the index on the values of hot attributes leads to all that passes a filter, or to all that does not.
pub(crate) fn is_led_by_equality(expr: &TypedExpr, denied: bool) -> bool {
    let is_led = |term: &TypedExpr| is_led_by_equality(term, denied);
    match expr {
        TypedExpr::And(terms) if !denied => terms.iter().any(is_led),
        TypedExpr::Or(terms) if denied => terms.iter().any(is_led),
        TypedExpr::And(terms) | TypedExpr::Or(terms) => terms.iter().all(is_led),
        TypedExpr::Not(inner) => is_led_by_equality(inner, !denied),
        TypedExpr::Predicate(predicate) => {
            AccessPath::of(predicate, denied) == AccessPath::HotIndex
        }
    }
}

/// Whether no index leads to all that passes a filter, or to all that does not: every document of the tenant is read.
pub(super) fn reads_all(expr: &TypedExpr, denied: bool) -> bool {
    let reads_all = |term: &TypedExpr| reads_all(term, denied);
    match expr {
        TypedExpr::And(terms) if !denied => terms.iter().all(reads_all),
        TypedExpr::Or(terms) if denied => terms.iter().all(reads_all),
        TypedExpr::And(terms) | TypedExpr::Or(terms) => terms.iter().any(reads_all),
        TypedExpr::Not(inner) => self::reads_all(inner, !denied),
        TypedExpr::Predicate(predicate) => match AccessPath::of(predicate, denied) {
            AccessPath::AbsenceOf(_) | AccessPath::Scan => true,
            AccessPath::HotIndex | AccessPath::TypedIndex | AccessPath::Presence(_) => false,
        },
    }
}

/// What finding all that passes a filter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// An index of values leads to it.
    Indexed,
    /// Nothing is known of it: properties of the entities themselves decide.
    Open,
    /// So many documents, most of them for this attribute.
    Documents(i64, AttributeId),
}

impl Reading {
    /// `documents` tells how many a path reads, where it reads documents.
    pub(crate) fn of(expr: &TypedExpr, documents: &dyn Fn(AccessPath) -> i64) -> Reading {
        reading(expr, false, documents)
    }

    /// Of both, where an entity has to pass both: the lesser.
    fn and(self, other: Reading) -> Reading {
        match (self, other) {
            (Reading::Indexed, _) | (_, Reading::Indexed) => Reading::Indexed,
            (Reading::Open, known) | (known, Reading::Open) => known,
            (Reading::Documents(one, _), Reading::Documents(two, _)) if one <= two => self,
            (Reading::Documents(..), Reading::Documents(..)) => other,
        }
    }

    /// Of both, where an entity has to pass either: all of it.
    fn or(self, other: Reading) -> Reading {
        match (self, other) {
            (Reading::Documents(one, id), Reading::Documents(two, id_of_two)) => {
                let id = if one >= two { id } else { id_of_two };
                Reading::Documents(one.saturating_add(two), id)
            }
            (known @ Reading::Documents(..), _) | (_, known @ Reading::Documents(..)) => known,
            (Reading::Open, _) | (_, Reading::Open) => Reading::Open,
            (Reading::Indexed, Reading::Indexed) => Reading::Indexed,
        }
    }
}

fn reading(expr: &TypedExpr, denied: bool, documents: &dyn Fn(AccessPath) -> i64) -> Reading {
    let both = |terms: &[TypedExpr], join: fn(Reading, Reading) -> Reading| {
        terms
            .iter()
            .map(|term| reading(term, denied, documents))
            .reduce(join)
            .unwrap_or(Reading::Open)
    };
    match expr {
        TypedExpr::And(terms) if denied => both(terms, Reading::or),
        TypedExpr::And(terms) => both(terms, Reading::and),
        TypedExpr::Or(terms) if denied => both(terms, Reading::and),
        TypedExpr::Or(terms) => both(terms, Reading::or),
        TypedExpr::Not(inner) => reading(inner, !denied, documents),
        TypedExpr::Predicate(predicate) => match AccessPath::of(predicate, denied) {
            AccessPath::HotIndex | AccessPath::TypedIndex => Reading::Indexed,
            path @ (AccessPath::Presence(id) | AccessPath::AbsenceOf(id)) => {
                Reading::Documents(documents(path), id)
            }
            AccessPath::Scan => Reading::Open,
        },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::filter::parse_text;

    /// `cold1` is an attribute with the number 1 that 1 entity has, and so on; `hot1` and `indexed1` are hot.
    fn lookup(name: &str) -> Option<Property> {
        if let Some(reserved) = Reserved::named(name) {
            return Some(Property::Reserved(reserved));
        }
        let digits = name.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
        let prefix = &name[..name.len() - digits.len()];
        Some(Property::Attribute {
            id: AttributeId(digits.parse().ok()?),
            kind: AttributeType::Int,
            temperature: match prefix {
                "cold" => Temperature::Cold,
                _ => Temperature::Hot,
            },
            is_indexed: prefix == "indexed",
        })
    }

    /// A filter over attributes with such names.
    pub(crate) fn typed(filter: &str) -> TypedExpr {
        let expr = parse_text(filter).expect(filter);
        TypedExpr::resolve(&expr, &lookup).expect(filter)
    }

    fn read(filter: &str) -> Reading {
        Reading::of(&typed(filter), &|path| match path {
            AccessPath::Presence(id) => id.0,
            AccessPath::AbsenceOf(_) => 1_000,
            AccessPath::HotIndex | AccessPath::TypedIndex | AccessPath::Scan => -1,
        })
    }

    #[test]
    fn a_filter_reads_what_its_most_selective_part_does_and_an_alternative_what_all_do() {
        let documents = |count, id| Reading::Documents(count, AttributeId(id));
        for (filter, expected) in [
            ("hot5 = 1", Reading::Indexed),
            ("hot5 > 1", documents(5, 5)),
            ("hot5 <> 1", documents(5, 5)),
            ("indexed5 > 1", Reading::Indexed),
            ("NOT indexed5 > 1", documents(5, 5)),
            ("indexed5 = 1", Reading::Indexed),
            ("cold5 = 1", documents(5, 5)),
            ("cold5 IS NOT NULL", documents(5, 5)),
            ("cold5 IS NULL", documents(1_000, 5)),
            ("external_id = 'a'", Reading::Open),
            ("cold5 = 1 AND cold7 = 1", documents(5, 5)),
            ("cold5 = 1 AND hot7 = 1", Reading::Indexed),
            (
                "cold5 = 1 AND observed_at > DATE('2013-01-01')",
                documents(5, 5),
            ),
            ("cold5 = 1 OR cold7 = 1", documents(12, 7)),
            ("cold5 = 1 OR hot7 = 1", documents(5, 5)),
            ("cold5 = 1 OR external_id = 'a'", documents(5, 5)),
            ("hot5 = 1 OR external_id = 'a'", Reading::Open),
            ("NOT (cold5 = 1 OR cold7 = 1)", documents(5, 5)),
            ("NOT (cold5 = 1 AND cold7 IS NOT NULL)", documents(1_005, 7)),
        ] {
            assert_eq!(read(filter), expected, "{filter}");
        }
    }
}
