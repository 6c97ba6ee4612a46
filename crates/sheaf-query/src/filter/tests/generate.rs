//! Filters at random, and their JSON form.

use proptest::prelude::*;
use sheaf_model::{Decimal, Timestamp};

use crate::filter::{ArrayRelation, Comparison, Condition, Expr, Located, Node, Scalar};

pub(super) fn at<T>(value: T) -> Located<T> {
    Located { offset: 0, value }
}

/// Any filter that can be written, whether or not it makes sense for a catalogue.
pub(crate) fn exprs() -> impl Strategy<Value = Expr> {
    conditions()
        .prop_map(|condition| at(Node::Condition(condition)))
        .prop_recursive(4, 40, 4, |inner| {
            let terms = proptest::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                terms.clone().prop_map(|terms| at(Node::And(terms))),
                terms.prop_map(|terms| at(Node::Or(terms))),
                inner.prop_map(|inner| at(Node::Not(Box::new(inner)))),
            ]
        })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let lists = |from| proptest::collection::vec(scalars(), from..4);
    let folded_lists = proptest::collection::vec(texts().prop_map(text), 1..4);
    let ends = || proptest::option::of(times().prop_map(at));
    prop_oneof![
        (names(), comparisons(), scalars()).prop_map(|(property, comparison, value)| {
            Condition::Compare {
                property,
                folded: false,
                comparison,
                value,
            }
        }),
        (names(), any::<bool>(), texts()).prop_map(|(property, equal, value)| {
            Condition::Compare {
                property,
                folded: true,
                comparison: if equal {
                    Comparison::Equal
                } else {
                    Comparison::NotEqual
                },
                value: text(value),
            }
        }),
        (names(), scalars(), scalars()).prop_map(|(property, low, high)| Condition::Between {
            property,
            low,
            high
        }),
        (names(), lists(1)).prop_map(|(property, values)| Condition::In {
            property,
            folded: false,
            values
        }),
        (names(), folded_lists).prop_map(|(property, values)| Condition::In {
            property,
            folded: true,
            values
        }),
        (names(), any::<bool>(), patterns()).prop_map(|(property, folded, pattern)| {
            Condition::Like {
                property,
                folded,
                pattern: at(pattern),
            }
        }),
        names().prop_map(|property| Condition::IsNull { property }),
        (names(), ends(), ends()).prop_map(|(property, from, to)| Condition::During {
            property,
            from,
            to
        }),
        (names(), any::<bool>(), lists(0)).prop_map(|(property, all, values)| {
            let relation = if all {
                ArrayRelation::Contains
            } else {
                ArrayRelation::Overlaps
            };
            Condition::Array {
                property,
                relation,
                values,
            }
        }),
    ]
}

fn names() -> impl Strategy<Value = Located<String>> {
    const NAMES: [&str; 14] = [
        "seats",
        "a b",
        "say \"x\"",
        "and",
        "Not",
        "ünï",
        ".x",
        "e\u{301}",
        "a:b.c_1",
        "date",
        "casei",
        "1st",
        "-",
        "",
    ];
    proptest::sample::select(NAMES.as_slice()).prop_map(|name| at(name.to_owned()))
}

fn comparisons() -> impl Strategy<Value = Comparison> {
    proptest::sample::select(Comparison::ALL.as_slice())
}

fn text(text: String) -> Located<Scalar> {
    at(Scalar::Text(text))
}

fn texts() -> impl Strategy<Value = String> {
    "([^\\x00]|'|\"|\\\\|a|B|ß){0,6}"
}

fn patterns() -> impl Strategy<Value = String> {
    "(%|_|\\\\%|\\\\_|\\\\\\\\|'|a|B|ß){0,6}"
}

fn times() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros())
        .prop_map(|micros| Timestamp::from_micros(micros).expect("within the range"))
}

fn scalars() -> impl Strategy<Value = Located<Scalar>> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,10})?([eE][-+]?[0-9]{1,2})?".prop_map(|digits| {
            at(Scalar::Number(
                digits.parse::<Decimal>().expect("JSON's form of a number"),
            ))
        }),
        texts().prop_map(text),
        any::<bool>().prop_map(|truth| at(Scalar::Bool(truth))),
        times().prop_map(|time| at(Scalar::Time(time))),
    ]
}

/// The JSON form.
pub(super) fn json_of(expr: &Expr) -> String {
    let all = |terms: &[Expr]| terms.iter().map(json_of).collect::<Vec<_>>().join(",");
    match &expr.value {
        Node::And(terms) => call("and", &all(terms)),
        Node::Or(terms) => call("or", &all(terms)),
        Node::Not(inner) => call("not", &json_of(inner)),
        Node::Condition(condition) => condition_json(condition),
    }
}

fn call(op: &str, args: &str) -> String {
    format!(r#"{{"op":"{op}","args":[{args}]}}"#)
}

fn fold(folded: bool, json: String) -> String {
    if folded { call("casei", &json) } else { json }
}

fn condition_json(condition: &Condition) -> String {
    let name = format!(r#"{{"property":{}}}"#, string(&condition.property().value));
    let list = |folded: bool, values: &[Located<Scalar>]| {
        let values = values
            .iter()
            .map(|value| fold(folded, scalar_json(&value.value)));
        format!("[{}]", values.collect::<Vec<_>>().join(","))
    };
    match condition {
        Condition::Compare {
            folded,
            comparison,
            value,
            ..
        } => {
            let value = fold(*folded, scalar_json(&value.value));
            call(
                comparison.as_str(),
                &format!("{},{value}", fold(*folded, name)),
            )
        }
        Condition::Between { low, high, .. } => {
            let (low, high) = (scalar_json(&low.value), scalar_json(&high.value));
            call("between", &format!("{name},{low},{high}"))
        }
        Condition::In { folded, values, .. } => {
            let values = list(*folded, values);
            call("in", &format!("{},{values}", fold(*folded, name)))
        }
        Condition::Like {
            folded, pattern, ..
        } => {
            let pattern = fold(*folded, string(&pattern.value));
            call("like", &format!("{},{pattern}", fold(*folded, name)))
        }
        Condition::IsNull { .. } => call("isNull", &name),
        Condition::During { from, to, .. } => {
            let end = |end: &Option<Located<Timestamp>>| match end {
                Some(time) => time.value.to_string(),
                None => "..".to_owned(),
            };
            let interval = format!(r#"{{"interval":["{}","{}"]}}"#, end(from), end(to));
            call("t_during", &format!("{name},{interval}"))
        }
        Condition::Array {
            relation, values, ..
        } => {
            let op = relation.as_str().to_ascii_lowercase();
            call(&op, &format!("{name},{}", list(false, values)))
        }
    }
}

fn string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

fn scalar_json(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => string(text),
        Scalar::Bool(truth) => truth.to_string(),
        Scalar::Time(time) => format!(r#"{{"timestamp":"{time}"}}"#),
    }
}
