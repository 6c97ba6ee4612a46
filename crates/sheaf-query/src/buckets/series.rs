//! Which aggregates of which attributes are wanted, and the answer made of what the database gave.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sheaf_model::{AttributeId, AttributeType, EntityId, Timestamp, Value};
use sheaf_pg::{PgError, PgTime};
use sheaf_store::buckets::AggregatedAttributes;
use sheaf_store::catalogue::{Attribute, Catalogue};
use sheaf_store::histories::ValueBeside;

use super::fill::{self, Beside, Buckets};
use super::tally::Tallies;
use super::width::Width;
use super::{Aggregate, AggregateValue, BucketItem, BucketQuery, Fill};
use crate::error::ReadError;
use crate::retention::Shown;
use crate::selection::{Selection, find};

pub(super) const STEP: &str = "reading aggregates";

/// What the aggregates of one attribute in one bucket came to, in the order asked for.
pub(crate) type Aggregates = Vec<(Aggregate, AggregateValue)>;

/// One attribute, and which aggregates of it are wanted.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) attribute: &'a Attribute,
    pub(crate) aggregates: Vec<Aggregate>,
}

/// Attributes of one query whose gaps depend on what is around them: each is looked up beside the range.
const FILLED_MAX: usize = 100;
/// Values of one page, over all its buckets and attributes, where every bucket has one of each.
const FILLED_VALUES_MAX: usize = 100_000;

/// A bucket query with its names found.
pub(crate) struct Series<'a> {
    pub(super) query: &'a BucketQuery,
    pub(super) attributes: Vec<Wanted<'a>>,
    /// From when on each is shown.
    pub(super) shown: &'a Shown,
}

impl<'a> Series<'a> {
    pub(crate) fn resolve(
        query: &'a BucketQuery,
        catalogue: &'a Catalogue,
        shown: &'a Shown,
    ) -> Result<Series<'a>, ReadError> {
        let mut attributes: Vec<Wanted<'_>> = Vec::new();
        let Some(names) = &query.attributes else {
            if matches!(query.fill, Fill::Previous | Fill::Linear) {
                let detail = format!("{} needs attribute", query.fill.as_str());
                return Err(ReadError::parameter("fill", detail));
            }
            for attribute in catalogue.attributes() {
                let mut aggregates = aggregates_of(query.aggregates.as_deref(), attribute.kind);
                aggregates.retain(|aggregate| aggregate.applies_to(attribute.kind));
                if !aggregates.is_empty() {
                    attributes.push(Wanted {
                        attribute,
                        aggregates,
                    });
                }
            }
            return Ok(Series {
                query,
                attributes,
                shown,
            });
        };
        for attribute in find("attribute", &names.iter().collect::<Vec<_>>(), catalogue)? {
            let aggregates = aggregates_of(query.aggregates.as_deref(), attribute.kind);
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
            if query.fill == Fill::Linear && !fill::is_numeric(attribute.kind) {
                let detail = format!(
                    "linear is for numbers, and {} is {}",
                    attribute.name, attribute.kind
                );
                return Err(ReadError::parameter("fill", detail));
            }
            if !attributes
                .iter()
                .any(|known| known.attribute.id == attribute.id)
            {
                attributes.push(Wanted {
                    attribute,
                    aggregates,
                });
            }
        }
        let is_filled = matches!(query.fill, Fill::Previous | Fill::Linear);
        if is_filled && attributes.len() > FILLED_MAX {
            let detail = format!(
                "{} is for at most {FILLED_MAX} attributes",
                query.fill.as_str()
            );
            return Err(ReadError::parameter("fill", detail));
        }
        Ok(Series {
            query,
            attributes,
            shown,
        })
    }

    /// The keys of rows that matter; absent where every row may.
    pub(crate) fn keys(&self) -> Option<Vec<String>> {
        self.query.attributes.as_ref()?;
        let keys = self.attributes.iter().map(|wanted| wanted.attribute.id);
        Some(keys.map(|id| id.to_string()).collect())
    }

    pub(crate) fn aggregated(&self) -> AggregatedAttributes {
        self.aggregated_where(|_| true)
    }

    /// The same of some of the attributes alone.
    pub(super) fn aggregated_where(
        &self,
        is_wanted: impl Fn(&Attribute) -> bool,
    ) -> AggregatedAttributes {
        let wanted = || {
            let all = self.attributes.iter();
            all.filter(|wanted| is_wanted(wanted.attribute))
        };
        AggregatedAttributes {
            keys: wanted()
                .map(|wanted| wanted.attribute.id.to_string())
                .collect(),
            types: wanted()
                .map(|wanted| wanted.attribute.kind.as_str())
                .collect(),
            shown_from: wanted()
                .map(|wanted| PgTime(self.shown.from(wanted.attribute.id)))
                .collect(),
            ends: wanted()
                .flat_map(|wanted| &wanted.aggregates)
                .any(|aggregate| matches!(aggregate, Aggregate::First | Aggregate::Last)),
        }
    }

    /// Of single values those that are shown.
    pub(crate) fn shown_beside(&self, found: Vec<ValueBeside>) -> Vec<ValueBeside> {
        let is_shown = |value: &ValueBeside| {
            let id = value.key.parse().map(AttributeId);
            id.is_ok_and(|id| value.observed_at >= self.shown.from(id))
        };
        found.into_iter().filter(is_shown).collect()
    }

    /// Which rows matter.
    pub(crate) fn selection(&self) -> Selection {
        match self.query.attributes {
            None => Selection::All,
            Some(_) => Selection::These(self.kinds().map(|(id, _)| id).collect()),
        }
    }

    /// The attributes with their types.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (AttributeId, AttributeType)> {
        let attributes = self.attributes.iter().map(|wanted| wanted.attribute);
        attributes.map(|attribute| (attribute.id, attribute.kind))
    }

    /// What the tallies of an entity say, bucket by bucket.
    pub(crate) fn buckets(
        &self,
        tallies: &Tallies,
        entity: EntityId,
    ) -> Result<Buckets<'_>, ReadError> {
        let by_id: HashMap<AttributeId, &Wanted<'_>> = self
            .attributes
            .iter()
            .map(|wanted| (wanted.attribute.id, wanted))
            .collect();
        let mut buckets = Buckets::new();
        for (start, tallies) in tallies.of_entity(entity) {
            let bucket = buckets.entry(start).or_default();
            for (id, tally) in tallies {
                let wanted = by_id.get(id);
                let wanted = wanted.ok_or_else(|| PgError::unreadable(STEP, id.to_string()))?;
                let kind = wanted.attribute.kind;
                let values = wanted.aggregates.iter();
                let values =
                    values.map(|aggregate| Ok((*aggregate, tally.value(*aggregate, kind)?)));
                let values = values.collect::<Result<Vec<_>, PgError>>()?;
                bucket.insert(wanted.attribute.name.as_str(), values);
            }
        }
        Ok(buckets)
    }

    /// The keys of attributes that a bucket has no values of.
    pub(crate) fn lacking(&self, bucket: Option<&BTreeMap<&str, Aggregates>>) -> Vec<String> {
        let lacking = self.attributes.iter().filter(|wanted| {
            let name = wanted.attribute.name.as_str();
            bucket.is_none_or(|bucket| !bucket.contains_key(name))
        });
        lacking
            .map(|wanted| wanted.attribute.id.to_string())
            .collect()
    }

    /// One value as all its aggregates: what stands before the first bucket of a range.
    pub(crate) fn of_one_value(
        &self,
        key: &str,
        raw: &str,
    ) -> Result<(String, Aggregates), ReadError> {
        let unreadable = || PgError::unreadable(STEP, key);
        let wanted = self
            .attributes
            .iter()
            .find(|wanted| wanted.attribute.id.to_string() == key)
            .ok_or_else(unreadable)?;
        let kind = wanted.attribute.kind;
        let value = Value::from_stored(kind, raw).ok_or_else(unreadable)?;
        let mean = match &value {
            Value::Int(number) => {
                let digits = number.to_string();
                Value::from_stored(AttributeType::Float, &digits).ok_or_else(unreadable)?
            }
            other => other.clone(),
        };
        let values = wanted.aggregates.iter().map(|aggregate| {
            let value = match aggregate {
                Aggregate::Avg => mean.clone(),
                Aggregate::Count => Value::Int(1),
                Aggregate::Min
                | Aggregate::Max
                | Aggregate::Sum
                | Aggregate::First
                | Aggregate::Last => value.clone(),
            };
            (*aggregate, AggregateValue::Value(value))
        });
        Ok((wanted.attribute.name.clone(), values.collect()))
    }

    /// The buckets with these starts, in ascending order.
    pub(crate) fn items<'s>(
        &'s self,
        starts: &[Timestamp],
        width: Width,
        mut buckets: Buckets<'s>,
        beside: &Beside,
    ) -> Result<Vec<BucketItem>, ReadError> {
        if self.query.fill != Fill::None && self.query.attributes.is_some() {
            let values = self.attributes.iter().map(|wanted| wanted.aggregates.len());
            if starts.len().saturating_mul(values.sum()) > FILLED_VALUES_MAX {
                return Err(ReadError::QueryLimit {
                    detail: "100000 values of one page; name fewer attributes or ask for a smaller page",
                    source: None,
                });
            }
            fill::fill(
                self.query.fill,
                starts,
                &self.attributes,
                beside,
                &mut buckets,
            );
        } else if self.query.fill == Fill::Null {
            self.fill_seen(starts, &mut buckets);
        }
        let items = starts.iter().filter_map(|start| {
            let attributes = buckets.remove(start)?;
            let attributes = attributes.into_iter();
            Some(BucketItem {
                from: *start,
                to: width.end(*start),
                attributes: attributes
                    .map(|(name, values)| (name.to_owned(), values))
                    .collect(),
            })
        });
        Ok(items.collect())
    }

    /// Where no attributes were named: nothing, for those that the page has somewhere.
    fn fill_seen<'b>(&'b self, starts: &[Timestamp], buckets: &mut Buckets<'b>) {
        let seen: BTreeSet<&str> = buckets.values().flat_map(BTreeMap::keys).copied().collect();
        for start in starts {
            let bucket = buckets.entry(*start).or_default();
            for wanted in &self.attributes {
                let name = wanted.attribute.name.as_str();
                if seen.contains(name) {
                    bucket
                        .entry(name)
                        .or_insert_with(|| nothing(&wanted.aggregates));
                }
            }
        }
    }
}

/// The aggregates asked for; else the mean of numbers and the count of everything else.
pub fn aggregates_of(asked: Option<&[Aggregate]>, kind: AttributeType) -> Vec<Aggregate> {
    let Some(asked) = asked else {
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

/// An aggregate of no values: it counts none, and is else what stands for it.
pub(super) fn of_no_values(
    aggregate: Aggregate,
    stand_in: impl FnOnce() -> AggregateValue,
) -> AggregateValue {
    match aggregate {
        Aggregate::Count => AggregateValue::Value(Value::Int(0)),
        Aggregate::Avg
        | Aggregate::Min
        | Aggregate::Max
        | Aggregate::Sum
        | Aggregate::First
        | Aggregate::Last => stand_in(),
    }
}

/// The aggregates of no values.
pub(super) fn nothing(aggregates: &[Aggregate]) -> Aggregates {
    let values = aggregates.iter();
    values
        .map(|aggregate| {
            (
                *aggregate,
                of_no_values(*aggregate, || AggregateValue::Null),
            )
        })
        .collect()
}

/// An exact number as a value of a type: as its digits where an int or a decimal cannot hold it, null where a double
/// cannot.
pub(crate) fn number(kind: AttributeType, digits: String) -> Result<AggregateValue, PgError> {
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
