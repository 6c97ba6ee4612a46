//! What stands for buckets without values, where that depends on the buckets around them.
//!
//! Pure. What lies beside the buckets of a page is passed in, so that a bucket has the same values whatever page it is on.

use std::collections::{BTreeMap, HashMap};

use sheaf_model::{AttributeType, Timestamp, Value};

use super::series::{Aggregates, Wanted, nothing, of_no_values};
use super::{Aggregate, AggregateValue, Fill};

/// What attributes came to in the nearest bucket with values, by name.
pub(crate) type Nearest = HashMap<String, (Timestamp, Aggregates)>;

/// The nearest buckets with values on either side of a page.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub(crate) before: Nearest,
    pub(crate) after: Nearest,
}

/// The buckets that hold something, each with its attributes by name.
pub(crate) type Buckets<'a> = BTreeMap<Timestamp, BTreeMap<&'a str, Aggregates>>;

/// Gives every attribute something in every bucket that begins at one of `starts`, which are in ascending order.
pub(super) fn fill<'a>(
    fill: Fill,
    starts: &[Timestamp],
    wanted: &'a [Wanted<'a>],
    beside: &Beside,
    buckets: &mut Buckets<'a>,
) {
    for Wanted {
        attribute,
        aggregates,
    } in wanted
    {
        let name = attribute.name.as_str();
        let mut points: Vec<(Timestamp, Aggregates)> = Vec::new();
        points.extend(beside.before.get(name).cloned());
        let known = starts.iter().filter_map(|start| {
            let values = buckets.get(start)?.get(name)?;
            Some((*start, values.clone()))
        });
        points.extend(known);
        points.extend(beside.after.get(name).cloned());
        let mut next = 0;
        for start in starts {
            // The first point that lies after the bucket: what is before it is on its left.
            while points.get(next).is_some_and(|(at, _)| at <= start) {
                next += 1;
            }
            let bucket = buckets.entry(*start).or_default();
            if bucket.contains_key(name) {
                continue;
            }
            let left = next.checked_sub(1).and_then(|place| points.get(place));
            let values = match (fill, left, points.get(next)) {
                (Fill::Previous, Some((_, values)), _) => carried(values),
                (Fill::Linear, Some(left), Some(right)) => between(left, right, *start),
                (Fill::None | Fill::Null | Fill::Previous | Fill::Linear, _, _) => {
                    nothing(aggregates)
                }
            };
            bucket.insert(name, values);
        }
    }
}

/// An empty bucket counts nothing, whatever it takes over.
fn carried(values: &Aggregates) -> Aggregates {
    let values = values
        .iter()
        .map(|(aggregate, value)| (*aggregate, of_no_values(*aggregate, || value.clone())));
    values.collect()
}

fn between(
    left: &(Timestamp, Aggregates),
    right: &(Timestamp, Aggregates),
    at: Timestamp,
) -> Aggregates {
    let part = at.as_micros() - left.0.as_micros();
    let whole = right.0.as_micros() - left.0.as_micros();
    let ends = left.1.iter().zip(&right.1);
    let values = ends.map(|((aggregate, left), (_, right))| {
        let number = || number_between(left, right, part, whole);
        (*aggregate, of_no_values(*aggregate, number))
    });
    values.collect()
}

/// Decimals exactly, everything else as a float: between two ints there need be none.
fn number_between(
    left: &AggregateValue,
    right: &AggregateValue,
    part: i64,
    whole: i64,
) -> AggregateValue {
    use AggregateValue::Value as Known;
    if let (Known(Value::Decimal(left)), Known(Value::Decimal(right))) = (left, right) {
        return Known(Value::Decimal(left.toward(right, part, whole)));
    }
    let (Some(left), Some(right)) = (float_of(left), float_of(right)) else {
        return AggregateValue::Null;
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of a span; a double holds sixteen digits of it"
    )]
    let share = part as f64 / whole as f64;
    // Not left + (right - left) * share: the difference of two doubles can be beyond a double.
    let number = left * (1.0 - share) + right * share;
    Value::float(number).map_or(AggregateValue::Null, Known)
}

fn float_of(value: &AggregateValue) -> Option<f64> {
    let digits = match value {
        AggregateValue::Null => return None,
        AggregateValue::Value(Value::Float(number)) => return Some(*number),
        AggregateValue::Value(Value::Int(number)) => number.to_string(),
        AggregateValue::Value(Value::Decimal(number)) => number.to_string(),
        AggregateValue::Digits(digits) => digits.clone(),
        AggregateValue::Value(
            Value::Text(_) | Value::Bool(_) | Value::Time(_) | Value::Json(_),
        ) => {
            return None;
        }
    };
    digits.parse().ok()
}

/// Whether values of this type lie on lines.
pub(super) fn is_numeric(kind: AttributeType) -> bool {
    Aggregate::Avg.applies_to(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_between_two_is_of_the_decimals_and_else_a_float() {
        let int = |number| AggregateValue::Value(Value::Int(number));
        let float = |number| AggregateValue::Value(Value::Float(number));
        let decimal =
            |text: &str| AggregateValue::Value(Value::Decimal(text.parse().expect("a number")));
        let digits = AggregateValue::Digits("20000000000000000000".to_owned());
        for (left, right, part, between) in [
            (int(1), int(2), 1, float(1.25)),
            (float(-1e308), float(1e308), 2, float(0.0)),
            (decimal("1.0"), decimal("2"), 1, decimal("1.25")),
            (digits.clone(), digits, 3, float(2e19)),
            (AggregateValue::Null, int(1), 1, AggregateValue::Null),
        ] {
            let found = number_between(&left, &right, part, 4);
            assert_eq!(found, between, "{left:?} to {right:?}");
        }
    }
}
