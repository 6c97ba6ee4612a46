//! What the values of an attribute come to in a bucket: counted in PostgreSQL, or here where rows come from the archive. Pure.
//!
//! Both are exact, and so both together come to what either would of all the values.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sheaf_model::{
    AttributeId, AttributeType, Cell, EntityId, ExactSum, StoredRow, Timestamp, Value, fold_instant,
};
use sheaf_pg::{PgError, PgTime};
use tokio_postgres::Row;

use super::series::{STEP, number};
use super::width::Width;
use super::{Aggregate, AggregateValue};

/// A value and when it was observed.
type Timed = (Timestamp, Value);

/// What some values of one attribute come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    count: i64,
    sum: ExactSum,
    least: Option<Timed>,
    greatest: Option<Timed>,
    first: Option<Timed>,
    last: Option<Timed>,
}

impl Tally {
    /// What PostgreSQL says that values from an instant on come to.
    fn of_row(kind: AttributeType, from: Timestamp, row: &Row) -> Result<Tally, PgError> {
        let text = |column: &str| row.get::<_, Option<&str>>(column);
        let value = |column: &str| match text(column) {
            None => Ok(None),
            Some(raw) => match Value::from_stored(kind, raw) {
                Some(value) => Ok(Some((from, value))),
                None => Err(PgError::unreadable(STEP, column)),
            },
        };
        let sum = match text("sum") {
            None => ExactSum::default(),
            Some(text) => text.parse().map_err(|_| PgError::unreadable(STEP, text))?,
        };
        Ok(Tally {
            count: row.get("count"),
            sum,
            least: value("min")?,
            greatest: value("max")?,
            first: value("first")?,
            last: value("last")?,
        })
    }

    /// Adds a value. Values may come in any order.
    fn add(&mut self, at: Timestamp, value: &Value) {
        self.count += 1;
        self.sum.add(value);
        let timed = || (at, value.clone());
        if Aggregate::Sum.applies_to(value.kind()) {
            keep(&mut self.least, timed(), |new, held| {
                compared(&new.1, &held.1).then(held.0.cmp(&new.0)).is_lt()
            });
            keep(&mut self.greatest, timed(), |new, held| {
                compared(&new.1, &held.1).then(new.0.cmp(&held.0)).is_gt()
            });
        }
        // Values of one instant, of different entities, are in the order of their texts.
        keep(&mut self.first, timed(), |new, held| {
            in_time(new, held).is_lt()
        });
        keep(&mut self.last, timed(), |new, held| {
            in_time(new, held).is_gt()
        });
    }

    /// Adds values that are all later.
    fn add_later(&mut self, later: Tally) {
        self.count += later.count;
        self.sum.add_sum(&later.sum);
        let either = |held: &mut Option<Timed>, new: Option<Timed>, wins: Ordering| {
            let Some(new) = new else {
                return;
            };
            let ordering = held.as_ref().map(|held| compared(&new.1, &held.1));
            if ordering.is_none_or(|ordering| ordering == wins || ordering.is_eq()) {
                *held = Some(new);
            }
        };
        either(&mut self.least, later.least, Ordering::Less);
        either(&mut self.greatest, later.greatest, Ordering::Greater);
        self.first = self.first.take().or(later.first);
        self.last = later.last.or(self.last.take());
    }

    /// What an aggregate comes to.
    pub(crate) fn value(
        &self,
        aggregate: Aggregate,
        kind: AttributeType,
    ) -> Result<AggregateValue, PgError> {
        let known = |timed: &Option<Timed>| {
            let value = timed.as_ref().map(|(_, value)| value.clone());
            let value = value.ok_or_else(|| PgError::unreadable(STEP, aggregate.as_str()));
            value.map(AggregateValue::Value)
        };
        match aggregate {
            Aggregate::Count => Ok(AggregateValue::Value(Value::Int(self.count))),
            Aggregate::First => known(&self.first),
            Aggregate::Last => known(&self.last),
            Aggregate::Min => known(&self.least),
            Aggregate::Max => known(&self.greatest),
            Aggregate::Sum => number(kind, self.sum.to_string()),
            Aggregate::Avg => {
                let kind = match kind {
                    AttributeType::Decimal => AttributeType::Decimal,
                    _ => AttributeType::Float,
                };
                number(kind, self.sum.mean(self.count))
            }
        }
    }
}

fn keep(held: &mut Option<Timed>, new: Timed, is_better: impl Fn(&Timed, &Timed) -> bool) {
    if held.as_ref().is_none_or(|held| is_better(&new, held)) {
        *held = Some(new);
    }
}

/// Numbers of one type, by what they are.
fn compared(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => one.cmp(other),
        (Value::Float(one), Value::Float(other)) => one.total_cmp(other),
        (Value::Decimal(one), Value::Decimal(other)) => one.cmp(other),
        _ => Ordering::Equal,
    }
}

fn in_time(one: &Timed, other: &Timed) -> Ordering {
    one.0
        .cmp(&other.0)
        .then_with(|| stored_text(&one.1).cmp(&stored_text(&other.1)))
}

/// The value as PostgreSQL writes it.
fn stored_text(value: &Value) -> String {
    let mut text = String::new();
    match value {
        // Without an exponent.
        Value::Float(number) => text = number.to_string(),
        value => value.write_stored(&mut text),
    }
    text
}

/// The tallies of some attributes, by entity and bucket.
#[derive(Debug)]
pub(crate) struct Tallies {
    width: Width,
    /// Their types, and from when on they are shown.
    attributes: BTreeMap<AttributeId, (AttributeType, Timestamp)>,
    /// All entities are one, of number 0.
    is_one_series: bool,
    buckets: BTreeMap<(EntityId, Timestamp), BTreeMap<AttributeId, Tally>>,
    count: usize,
}

impl Tallies {
    pub(crate) fn new(
        width: Width,
        attributes: impl IntoIterator<Item = (AttributeId, (AttributeType, Timestamp))>,
        is_one_series: bool,
    ) -> Tallies {
        Tallies {
            width,
            attributes: attributes.into_iter().collect(),
            is_one_series,
            buckets: BTreeMap::new(),
            count: 0,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds what the rows of one instant of one entity say together, in order of seq.
    pub(crate) fn add_instant<'r>(
        &mut self,
        entity: EntityId,
        at: Timestamp,
        rows: impl IntoIterator<Item = &'r StoredRow>,
    ) {
        let start = self.width.start(at);
        for (id, cell) in fold_instant(rows).cells {
            let known = self.attributes.get(&id);
            let is_shown = known.is_some_and(|(_, shown_from)| at >= *shown_from);
            if let (Cell::Value(value), true) = (cell, is_shown) {
                self.tally(entity, start, id).add(at, &value);
            }
        }
    }

    fn tally(&mut self, entity: EntityId, start: Timestamp, id: AttributeId) -> &mut Tally {
        let entity = match self.is_one_series {
            true => EntityId(0),
            false => entity,
        };
        let bucket = self.buckets.entry((entity, start)).or_default();
        let before = bucket.len();
        bucket.entry(id).or_default();
        self.count += bucket.len() - before;
        bucket.entry(id).or_default()
    }

    /// Adds what PostgreSQL says of values that are later than all others, from an instant on.
    pub(crate) fn add_rows(
        &mut self,
        entity_of: impl Fn(&Row) -> EntityId,
        from: Timestamp,
        rows: &[Row],
    ) -> Result<(), PgError> {
        for row in rows {
            let key: &str = row.get("key");
            let id = key.parse().map(AttributeId);
            let id = id.map_err(|_| PgError::unreadable(STEP, key))?;
            let known = self.attributes.get(&id);
            let (kind, _) = *known.ok_or_else(|| PgError::unreadable(STEP, key))?;
            let start = self.width.start(row.get::<_, PgTime>("starts_at").0);
            let later = Tally::of_row(kind, from, row)?;
            self.tally(entity_of(row), start, id).add_later(later);
        }
        Ok(())
    }

    /// The buckets of an entity: when each begins, and the tallies of the attributes in it.
    pub(crate) fn of_entity(
        &self,
        entity: EntityId,
    ) -> impl Iterator<Item = (Timestamp, &BTreeMap<AttributeId, Tally>)> {
        let all = (entity, Timestamp::MIN)..=(entity, Timestamp::MAX);
        let buckets = self.buckets.range(all);
        buckets.map(|((_, start), tallies)| (*start, tallies))
    }
}

#[cfg(test)]
mod tests;
