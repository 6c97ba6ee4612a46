//! Which aggregates of which attributes are wanted, and the answer made of what the database gave.

use std::collections::{BTreeMap, HashMap};

use sheaf_model::{AttributeType, Timestamp, Value};
use sheaf_pg::{PgError, PgTime};
use sheaf_store::buckets::AggregatedAttributes;
use sheaf_store::catalogue::{Attribute, Catalogue};
use tokio_postgres::Row;

use super::width::Width;
use super::{Aggregate, AggregateValue, BucketItem, BucketQuery, Fill};
use crate::error::ReadError;
use crate::selection::find;

const STEP: &str = "reading aggregates";

/// What the aggregates of one attribute in one bucket came to, in the order asked for.
type Aggregates = Vec<(Aggregate, AggregateValue)>;

/// A bucket query with its names found.
pub(super) struct Series<'a> {
    pub(super) query: &'a BucketQuery,
    attributes: Vec<(&'a Attribute, Vec<Aggregate>)>,
}

impl<'a> Series<'a> {
    pub(super) fn resolve(
        query: &'a BucketQuery,
        catalogue: &'a Catalogue,
    ) -> Result<Series<'a>, ReadError> {
        let mut attributes: Vec<(&Attribute, Vec<Aggregate>)> = Vec::new();
        let Some(names) = &query.attributes else {
            for attribute in catalogue.attributes() {
                let mut aggregates = wanted(query, attribute.kind);
                aggregates.retain(|aggregate| aggregate.applies_to(attribute.kind));
                if !aggregates.is_empty() {
                    attributes.push((attribute, aggregates));
                }
            }
            return Ok(Series { query, attributes });
        };
        for attribute in find("attribute", &names.iter().collect::<Vec<_>>(), catalogue)? {
            let aggregates = wanted(query, attribute.kind);
            if let Some(lacking) = aggregates
                .iter()
                .find(|aggregate| !aggregate.applies_to(attribute.kind))
            {
                return Err(ReadError::InvalidAggregate {
                    detail: format!(
                        "{} is {}, which has count, first and last, and no {}",
                        attribute.name,
                        attribute.kind,
                        lacking.as_str()
                    ),
                });
            }
            if !attributes.iter().any(|(known, _)| known.id == attribute.id) {
                attributes.push((attribute, aggregates));
            }
        }
        Ok(Series { query, attributes })
    }

    /// The keys of rows that matter; absent where every row may.
    pub(super) fn keys(&self) -> Option<Vec<String>> {
        self.query.attributes.as_ref()?;
        let keys = self.attributes.iter().map(|(attribute, _)| attribute.id);
        Some(keys.map(|id| id.to_string()).collect())
    }

    pub(super) fn aggregated(&self) -> AggregatedAttributes {
        AggregatedAttributes {
            keys: self
                .attributes
                .iter()
                .map(|(attribute, _)| attribute.id.to_string())
                .collect(),
            types: self
                .attributes
                .iter()
                .map(|(attribute, _)| attribute.kind.as_str())
                .collect(),
            ends: self
                .attributes
                .iter()
                .flat_map(|(_, aggregates)| aggregates)
                .any(|aggregate| matches!(aggregate, Aggregate::First | Aggregate::Last)),
        }
    }

    /// The buckets with these starts, in their order.
    pub(super) fn items(
        &self,
        starts: &[Timestamp],
        width: Width,
        rows: &[Row],
    ) -> Result<Vec<BucketItem>, ReadError> {
        let by_key: HashMap<String, &(&Attribute, Vec<Aggregate>)> = self
            .attributes
            .iter()
            .map(|wanted| (wanted.0.id.to_string(), wanted))
            .collect();
        let mut buckets: HashMap<Timestamp, BTreeMap<&str, Aggregates>> = HashMap::new();
        let mut seen: BTreeMap<&str, &[Aggregate]> = BTreeMap::new();
        for row in rows {
            let key: &str = row.get("key");
            let (attribute, aggregates) = by_key
                .get(key)
                .ok_or_else(|| PgError::unreadable(STEP, key))?;
            let values = aggregates
                .iter()
                .map(|aggregate| Ok((*aggregate, value(*aggregate, attribute.kind, row)?)))
                .collect::<Result<Vec<_>, PgError>>()?;
            let starts_at = width.start(row.get::<_, PgTime>("starts_at").0);
            let bucket = buckets.entry(starts_at).or_default();
            bucket.insert(&attribute.name, values);
            seen.insert(&attribute.name, aggregates);
        }
        if self.query.attributes.is_some() {
            let all = self.attributes.iter();
            seen.extend(all.map(|(attribute, list)| (attribute.name.as_str(), list.as_slice())));
        }
        let mut items = Vec::with_capacity(starts.len());
        for start in starts {
            let mut attributes = buckets.remove(start).unwrap_or_default();
            match self.query.fill {
                Fill::None if attributes.is_empty() => continue,
                Fill::None => {}
                Fill::Null => {
                    for (name, aggregates) in &seen {
                        attributes
                            .entry(name)
                            .or_insert_with(|| nothing(aggregates));
                    }
                }
            }
            items.push(BucketItem {
                from: *start,
                to: width.end(*start),
                attributes: attributes
                    .into_iter()
                    .map(|(name, values)| (name.to_owned(), values))
                    .collect(),
            });
        }
        Ok(items)
    }
}

/// The aggregates asked for; else the mean of numbers and the count of everything else.
fn wanted(query: &BucketQuery, kind: AttributeType) -> Vec<Aggregate> {
    let Some(asked) = &query.aggregates else {
        let usual = if Aggregate::Avg.applies_to(kind) {
            Aggregate::Avg
        } else {
            Aggregate::Count
        };
        return vec![usual];
    };
    let mut wanted = Vec::new();
    for aggregate in asked {
        if !wanted.contains(aggregate) {
            wanted.push(*aggregate);
        }
    }
    wanted
}

/// The aggregates of no values.
fn nothing(aggregates: &[Aggregate]) -> Aggregates {
    let of_nothing = |aggregate: &Aggregate| match aggregate {
        Aggregate::Count => AggregateValue::Value(Value::Int(0)),
        Aggregate::Avg
        | Aggregate::Min
        | Aggregate::Max
        | Aggregate::Sum
        | Aggregate::First
        | Aggregate::Last => AggregateValue::Null,
    };
    let values = aggregates.iter();
    values
        .map(|aggregate| (*aggregate, of_nothing(aggregate)))
        .collect()
}

fn value(aggregate: Aggregate, kind: AttributeType, row: &Row) -> Result<AggregateValue, PgError> {
    let text = |column: &str| -> Result<String, PgError> {
        let text: Option<String> = row.get(column);
        text.ok_or_else(|| PgError::unreadable(STEP, column))
    };
    match aggregate {
        Aggregate::Count => Ok(AggregateValue::Value(Value::Int(row.get("count")))),
        Aggregate::First | Aggregate::Last => {
            let raw = text(aggregate.as_str())?;
            let value = Value::from_stored(kind, &raw);
            let value = value.ok_or_else(|| PgError::unreadable(STEP, aggregate.as_str()))?;
            Ok(AggregateValue::Value(value))
        }
        Aggregate::Min | Aggregate::Max | Aggregate::Sum => number(kind, text(aggregate.as_str())?),
        Aggregate::Avg => {
            let kind = match kind {
                AttributeType::Decimal => AttributeType::Decimal,
                _ => AttributeType::Float,
            };
            number(kind, text("avg")?)
        }
    }
}

/// An exact number as a value of a type: as its digits where an int or a decimal cannot hold it, null where a double
/// cannot.
fn number(kind: AttributeType, digits: String) -> Result<AggregateValue, PgError> {
    let value = match kind {
        AttributeType::Int => digits.parse().ok().map(Value::Int),
        AttributeType::Decimal => digits.parse().ok().map(Value::Decimal),
        AttributeType::Float => {
            let number: f64 = digits
                .parse()
                .map_err(|_| PgError::unreadable(STEP, &digits))?;
            return Ok(Value::float(number).map_or(AggregateValue::Null, AggregateValue::Value));
        }
        AttributeType::Text | AttributeType::Bool | AttributeType::Time | AttributeType::Json => {
            return Err(PgError::unreadable(STEP, digits));
        }
    };
    Ok(value.map_or(AggregateValue::Digits(digits), AggregateValue::Value))
}
