//! What leads to the documents that pass a filter, and what is only asked of documents that something else has found.
//!
//! A value index that stands in a conjunction can lead: its rows are joined with the documents. In an alternative it can
//! only where every other alternative is found by an index too, so that what passes is what any of them finds. Where one
//! reads every document of the tenant, or where equality has found few beforehand, the document at hand answers a range
//! itself, which costs less than asking an index about it.

use super::access::{AccessPath, is_led_by_equality, reads_all};
use super::typed::{Predicate, Property, TypedExpr};

/// A filter, and what answers its tests.
#[derive(Debug)]
pub(crate) struct Led {
    /// The filter, in which only those attributes are indexed whose value index is asked.
    pub(crate) filter: TypedExpr,
    /// What answers each test, in their order.
    pub(crate) paths: Vec<AccessPath>,
}

impl Led {
    /// Decides of every test of a filter what answers it.
    pub(crate) fn of(filter: &TypedExpr) -> Led {
        let mut paths = Vec::new();
        let filter = led(filter, false, Place::Leading, &mut paths);
        Led { filter, paths }
    }
}

/// Where a term stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Whatever its index finds can be all that is looked at.
    Leading,
    /// In a conjunction with an equality, whose index leads. A range there is joined all the same: it may be the narrower.
    BesideEquality,
    /// In an alternative that an equality leads to.
    BehindEquality,
    /// In an alternative for which documents are read that something else has found.
    AtHand,
}

/// The same filter about documents that are at hand: no value index is asked.
pub(crate) fn unindexed(filter: &TypedExpr) -> TypedExpr {
    led(filter, false, Place::AtHand, &mut Vec::new())
}

fn led(expr: &TypedExpr, denied: bool, place: Place, paths: &mut Vec<AccessPath>) -> TypedExpr {
    match expr {
        TypedExpr::And(terms) => TypedExpr::And(led_terms(expr, terms, denied, place, paths)),
        TypedExpr::Or(terms) => TypedExpr::Or(led_terms(expr, terms, denied, place, paths)),
        TypedExpr::Not(inner) => TypedExpr::Not(Box::new(led(inner, !denied, place, paths))),
        TypedExpr::Predicate(predicate) => {
            let predicate = match place {
                Place::Leading | Place::BesideEquality => predicate.clone(),
                Place::BehindEquality | Place::AtHand => unindexed_predicate(predicate),
            };
            paths.push(match place {
                Place::Leading | Place::BesideEquality | Place::BehindEquality => {
                    AccessPath::of(&predicate, denied)
                }
                Place::AtHand => AccessPath::Scan,
            });
            TypedExpr::Predicate(predicate)
        }
    }
}

fn led_terms(
    expr: &TypedExpr,
    terms: &[TypedExpr],
    denied: bool,
    place: Place,
    paths: &mut Vec<AccessPath>,
) -> Vec<TypedExpr> {
    let is_conjunction = matches!(expr, TypedExpr::And(_)) != denied;
    let place = match place {
        Place::Leading if is_conjunction && is_led_by_equality(expr, denied) => {
            Place::BesideEquality
        }
        Place::Leading if !is_conjunction && reads_all(expr, denied) => Place::AtHand,
        Place::BesideEquality if !is_conjunction => Place::AtHand,
        Place::Leading | Place::BesideEquality | Place::BehindEquality | Place::AtHand => place,
    };
    let of_term = |term: &TypedExpr| match place {
        Place::Leading if !is_conjunction && is_led_by_equality(term, denied) => {
            Place::BehindEquality
        }
        Place::Leading | Place::BesideEquality | Place::BehindEquality | Place::AtHand => place,
    };
    terms
        .iter()
        .map(|term| led(term, denied, of_term(term), paths))
        .collect()
}

fn unindexed_predicate(predicate: &Predicate) -> Predicate {
    let property = match predicate.property {
        Property::Attribute {
            id,
            kind,
            temperature,
            is_indexed: _,
        } => Property::Attribute {
            id,
            kind,
            temperature,
            is_indexed: false,
        },
        Property::Reserved(reserved) => Property::Reserved(reserved),
    };
    Predicate {
        property,
        test: predicate.test.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::tests::typed;
    use super::*;

    /// What answers each test, as interfaces name it.
    fn paths(filter: &str) -> Vec<&'static str> {
        let led = Led::of(&typed(filter));
        led.paths.iter().map(|path| path.as_str()).collect()
    }

    #[test]
    fn a_range_is_left_to_its_index_where_that_leads_and_to_the_document_where_something_else_does()
    {
        let (hot, typed, presence, scan) = ("hot_index", "typed_index", "presence", "scan");
        for (filter, expected) in [
            ("indexed1 > 1", vec![typed]),
            ("NOT indexed1 > 1", vec![presence]),
            ("indexed1 > 1 AND hot2 = 1", vec![typed, hot]),
            ("indexed1 > 1 OR indexed2 < 1", vec![typed, typed]),
            ("indexed1 > 1 OR hot2 = 1", vec![typed, hot]),
            ("indexed1 > 1 OR cold2 = 1", vec![typed, presence]),
            ("NOT (NOT indexed1 > 1 AND hot2 <> 1)", vec![typed, hot]),
            // One alternative reads everything.
            ("indexed1 > 1 OR external_id = 'a'", vec![scan, scan]),
            ("indexed1 > 1 OR hot2 = 1 OR cold3 IS NULL", vec![scan; 3]),
            ("hot1 = 1 OR external_id = 'a'", vec![scan, scan]),
            (
                "(indexed1 > 1 AND external_id = 'a') OR indexed2 < 1",
                vec![typed, scan, typed],
            ),
            // Equality leads, to all of it or to an alternative.
            (
                "hot1 = 1 AND (indexed2 > 1 OR hot3 = 1)",
                vec![hot, scan, scan],
            ),
            (
                "(hot1 = 1 AND indexed2 > 1) OR indexed3 < 1",
                vec![hot, presence, typed],
            ),
            // A range does not: which of the two is narrower is for the planner to say.
            (
                "indexed1 > 1 AND (indexed2 > 1 OR hot3 = 1)",
                vec![typed, typed, hot],
            ),
        ] {
            assert_eq!(paths(filter), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_asked_of_a_document_at_hand_asks_no_index() {
        let filter = typed("indexed1 > 1 AND (hot2 = 1 OR NOT indexed3 <= 1)");
        assert_eq!(
            unindexed(&filter),
            typed("hot1 > 1 AND (hot2 = 1 OR NOT hot3 <= 1)")
        );
    }
}
