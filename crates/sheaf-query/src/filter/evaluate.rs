//! What a filter means, said as plainly as it can be: three-valued logic over the values of one entity.

use std::cmp::Ordering;

use serde_json::value::RawValue;
use sheaf_model::{Decimal, JsonText, Value, string_text};

use super::ast::{ArrayRelation, Scalar};
use super::like;
use super::typed::{Bound, Predicate, Property, Test, TypedExpr};

impl TypedExpr {
    /// Whether an entity with these values passes; `None` is unknown, and does not pass.
    pub fn evaluate<'a>(&self, value_of: &dyn Fn(&Property) -> Option<&'a Value>) -> Option<bool> {
        match self {
            TypedExpr::And(terms) => settled(terms, false, value_of),
            TypedExpr::Or(terms) => settled(terms, true, value_of),
            TypedExpr::Not(inner) => inner.evaluate(value_of).map(|truth| !truth),
            TypedExpr::Predicate(predicate) => predicate.evaluate(value_of(&predicate.property)),
        }
    }
}

/// One term with the deciding truth settles it, whatever is unknown; else one unknown term leaves it unknown.
fn settled<'a>(
    terms: &[TypedExpr],
    deciding: bool,
    value_of: &dyn Fn(&Property) -> Option<&'a Value>,
) -> Option<bool> {
    let mut result = Some(!deciding);
    for term in terms {
        match term.evaluate(value_of) {
            Some(truth) if truth == deciding => return Some(deciding),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

impl Predicate {
    fn evaluate(&self, value: Option<&Value>) -> Option<bool> {
        if self.test == Test::Absent {
            return Some(value.is_none());
        }
        let value = value?;
        match &self.test {
            Test::Absent => Some(false),
            Test::AnyOf(scalars) => Some(
                scalars
                    .iter()
                    .any(|scalar| order(value, scalar) == Some(Ordering::Equal)),
            ),
            Test::AnyOfFolded(texts) => {
                let value = text(value)?.to_uppercase();
                Some(texts.iter().any(|text| text.to_uppercase() == value))
            }
            Test::Range { low, high } => {
                let above = match low {
                    Some(bound) => within(bound, order(value, &bound.value)?),
                    None => true,
                };
                let below = match high {
                    Some(bound) => within(bound, order(value, &bound.value)?.reverse()),
                    None => true,
                };
                Some(above && below)
            }
            Test::Like {
                pattern,
                folded: false,
            } => Some(like::matches(pattern, text(value)?)),
            Test::Like {
                pattern,
                folded: true,
            } => Some(like::matches(
                &pattern.to_uppercase(),
                &text(value)?.to_uppercase(),
            )),
            Test::Array { relation, elements } => {
                let Value::Json(json) = value else {
                    return None;
                };
                Some(array_holds(json, *relation, elements))
            }
        }
    }
}

/// Whether a value that stands so to a lower bound lies within it.
fn within(bound: &Bound, order: Ordering) -> bool {
    order == Ordering::Greater || (bound.inclusive && order == Ordering::Equal)
}

/// How a value stands to a literal of its type. Numbers compare as the numbers that they print as, texts by bytes.
fn order(value: &Value, scalar: &Scalar) -> Option<Ordering> {
    match (value, scalar) {
        (Value::Int(number), Scalar::Number(literal)) => Some(Decimal::from(*number).cmp(literal)),
        (Value::Float(_), Scalar::Number(literal)) => {
            let mut stored = String::new();
            value.write_stored(&mut stored);
            let number: Decimal = stored.parse().ok()?;
            Some(number.cmp(literal))
        }
        (Value::Decimal(number), Scalar::Number(literal)) => Some(number.cmp(literal)),
        (Value::Text(text), Scalar::Text(literal)) => Some(text.cmp(literal)),
        (Value::Bool(truth), Scalar::Bool(literal)) => Some(truth.cmp(literal)),
        (Value::Time(time), Scalar::Time(literal)) => Some(time.cmp(literal)),
        (_, _) => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn array_holds(json: &JsonText, relation: ArrayRelation, elements: &[Scalar]) -> bool {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json.as_str()) else {
        return false;
    };
    let holds = |element: &Scalar| items.iter().any(|item| is_scalar(item.get(), element));
    match relation {
        ArrayRelation::Contains => elements.iter().all(holds),
        ArrayRelation::Overlaps => elements.iter().any(holds),
    }
}

fn is_scalar(raw: &str, scalar: &Scalar) -> bool {
    match scalar {
        Scalar::Number(number) => raw.parse::<Decimal>().is_ok_and(|item| item == *number),
        Scalar::Text(text) => {
            raw.starts_with('"') && string_text(raw).is_ok_and(|item| item == *text)
        }
        Scalar::Bool(truth) => raw == if *truth { "true" } else { "false" },
        Scalar::Time(_) => false,
    }
}
