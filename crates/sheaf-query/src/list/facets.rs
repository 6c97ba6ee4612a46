//! Facets: how the values of an attribute are spread over all entities that pass a filter.
//!
//! All facets of a request are counted in one pass of the database over what matches, in the snapshot of the page
//! beside them. What comes back is bounded, however many entities match and however many values they have.

use std::collections::HashMap;

use sheaf_model::{AttributeType, Decimal, Duration, Name, Timestamp, Value};
use sheaf_pg::PgError;
use sheaf_store::catalogue::Catalogue;
use tokio_postgres::Row;

use super::order::property;
use crate::buckets::{AggregateValue, exact_number};
use crate::error::ReadError;
use crate::filter::Property;

mod sql;

/// Facets of one request. Each is another hash table of the one pass.
const FACETS_MAX: usize = 10;
/// The values of a facet that does not say how many.
const VALUES_DEFAULT: u32 = 10;
/// The most values of a facet.
const VALUES_MAX: u32 = 100;
/// Buckets of a histogram that hold something. More than a chart shows; a width a thousand times too small is refused.
const BUCKETS_MAX: i64 = 1_000;
const PARAMETER: &str = "facets";
const STEP: &str = "reading facets";

/// A facet that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FacetQuery {
    /// An attribute, or a property of the entity itself.
    pub name: String,
    /// What of its values.
    pub kind: FacetKind,
}

/// What is wanted of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FacetKind {
    /// The most frequent ones, 1 to 100; absent for 10.
    Top(Option<u32>),
    /// How many lie in each interval of this width: a number, or for times a duration.
    Histogram(String),
}

/// How the values of one attribute are spread.
#[derive(Debug, Clone, PartialEq)]
pub struct Facet {
    /// The name as it was asked for.
    pub name: String,
    /// The values.
    pub spread: Spread,
    /// Entities without a value.
    pub missing: i64,
}

/// Values with how many entities have them.
#[derive(Debug, Clone, PartialEq)]
pub enum Spread {
    /// The most frequent values; of equally frequent ones the least first.
    Top {
        /// The values.
        values: Vec<(Value, i64)>,
        /// Entities with any other value.
        other: i64,
    },
    /// The intervals that hold something, in order.
    Histogram {
        /// Their width.
        interval: Interval,
        /// The intervals.
        buckets: Vec<HistogramBucket>,
    },
}

/// The width of intervals.
#[derive(Debug, Clone, PartialEq)]
pub enum Interval {
    /// Of numbers, in the form of the attribute's values.
    Width(Value),
    /// Of times.
    Duration(Duration),
}

/// One interval of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramBucket {
    /// Its least value.
    pub from: AggregateValue,
    /// The least value after it.
    pub to: AggregateValue,
    /// Entities with a value in it.
    pub count: i64,
}

/// The facets of a request with their names found.
#[derive(Debug)]
pub(super) struct Facets(Vec<Wanted>);

#[derive(Debug)]
struct Wanted {
    name: String,
    property: Property,
    measure: Measure,
}

#[derive(Debug, Clone, PartialEq)]
enum Measure {
    Top { values_max: u32 },
    Numbers { width: Decimal, shown: Value },
    Times { width: Duration },
}

impl Facets {
    pub(super) fn resolve(
        queries: &[FacetQuery],
        catalogue: &Catalogue,
    ) -> Result<Facets, ReadError> {
        if queries.len() > FACETS_MAX {
            let detail = format!("at most {FACETS_MAX} facets");
            return Err(ReadError::parameter(PARAMETER, detail));
        }
        let mut wanted: Vec<Wanted> = Vec::with_capacity(queries.len());
        for query in queries {
            let name = Name::parse(&query.name)
                .map_err(|fault| ReadError::parameter(PARAMETER, fault.to_string()))?;
            let name = name.as_str().to_owned();
            let property =
                property(&name, catalogue).ok_or_else(|| ReadError::UnknownAttribute {
                    parameter: PARAMETER,
                    name: name.clone(),
                })?;
            if wanted.iter().any(|known| known.property == property) {
                let detail = format!("{name} stands twice");
                return Err(ReadError::parameter(PARAMETER, detail));
            }
            let measure = Measure::resolve(&name, property.kind(), &query.kind)?;
            wanted.push(Wanted {
                name,
                property,
                measure,
            });
        }
        Ok(Facets(wanted))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The facets in the rows of their statement.
    pub(super) fn read(&self, rows: &[Row]) -> Result<Vec<Facet>, ReadError> {
        let mut by_facet: HashMap<i32, Vec<&Row>> = HashMap::new();
        for row in rows {
            by_facet.entry(row.get("facet")).or_default().push(row);
        }
        let facets = self.0.iter().zip(0..).map(|(wanted, place)| {
            let rows = by_facet.remove(&place).unwrap_or_default();
            wanted.read(&rows)
        });
        facets.collect()
    }
}

impl Measure {
    fn resolve(name: &str, kind: AttributeType, query: &FacetKind) -> Result<Measure, ReadError> {
        let refuse = |detail: String| Err(ReadError::parameter(PARAMETER, detail));
        let width = match query {
            FacetKind::Top(values) => {
                let values_max = values.unwrap_or(VALUES_DEFAULT);
                if !(1..=VALUES_MAX).contains(&values_max) {
                    return refuse(format!("{name}: 1 to {VALUES_MAX} values"));
                }
                return Ok(Measure::Top { values_max });
            }
            FacetKind::Histogram(width) => width,
        };
        match kind {
            AttributeType::Time => match width.parse() {
                Ok(width) => Ok(Measure::Times { width }),
                Err(_) => refuse(format!("{name}: a width of times is a duration such as 1d")),
            },
            AttributeType::Int | AttributeType::Float | AttributeType::Decimal => {
                let number: Option<Decimal> = width.parse().ok().filter(is_positive);
                let shown = number.as_ref().and_then(|number| match kind {
                    AttributeType::Int => number.to_i64().map(Value::Int),
                    AttributeType::Float => number.to_string().parse().ok().and_then(Value::float),
                    _ => Some(Value::Decimal(number.clone())),
                });
                match (number, shown) {
                    (Some(width), Some(shown)) => Ok(Measure::Numbers { width, shown }),
                    (Some(_), None) => refuse(format!("{name} is {kind}, and so is a width of it")),
                    (None, _) => refuse(format!("{name}: a width is a number greater than 0")),
                }
            }
            AttributeType::Text | AttributeType::Bool | AttributeType::Json => {
                refuse(format!("{name} is {kind}, which has no histogram"))
            }
        }
    }
}

fn is_positive(number: &Decimal) -> bool {
    !number.is_zero() && !number.to_string().starts_with('-')
}

/// One group of one facet, as the statement gives it.
struct Group<'a> {
    /// Absent for entities without a value.
    value: Option<&'a str>,
    matches: i64,
}

impl Wanted {
    fn read(&self, rows: &[&Row]) -> Result<Facet, ReadError> {
        let (mut groups, mut missing, mut total) = (Vec::new(), 0, 0);
        for row in rows {
            let group = Group {
                value: row.get("value"),
                matches: row.get("matches"),
            };
            total = row.get("total");
            if row.get("is_missing") {
                missing = group.matches;
            } else {
                groups.push(group);
            }
        }
        let spread = match &self.measure {
            Measure::Top { .. } => self.top(&groups, total - missing)?,
            Measure::Numbers { shown, .. } => {
                let interval = Interval::Width(shown.clone());
                self.histogram(interval, rows, &groups)?
            }
            Measure::Times { width } => {
                self.histogram(Interval::Duration(*width), rows, &groups)?
            }
        };
        Ok(Facet {
            name: self.name.clone(),
            spread,
            missing,
        })
    }

    fn top(&self, groups: &[Group<'_>], with_value: i64) -> Result<Spread, ReadError> {
        let mut values = Vec::with_capacity(groups.len());
        let mut other = with_value;
        for group in groups {
            let text = group.value.ok_or(ReadError::QueryLimit {
                detail: "the size of the values of its facets; ask for fewer values or facets",
                source: None,
            })?;
            let value = value_of(self.property, text)
                .ok_or_else(|| PgError::unreadable(STEP, &self.name))?;
            values.push((value, group.matches));
            other -= group.matches;
        }
        Ok(Spread::Top { values, other })
    }

    fn histogram(
        &self,
        interval: Interval,
        rows: &[&Row],
        groups: &[Group<'_>],
    ) -> Result<Spread, ReadError> {
        if i64::try_from(groups.len()).unwrap_or(i64::MAX) > BUCKETS_MAX {
            return Err(ReadError::QueryLimit {
                detail: "1000 intervals of a histogram; ask for wider ones or narrow the filter",
                source: None,
            });
        }
        let mut buckets = Vec::with_capacity(groups.len());
        let with_value = rows.iter().filter(|row| !row.get::<_, bool>("is_missing"));
        for (row, group) in with_value.zip(groups) {
            let end = |column: &str| -> Result<AggregateValue, ReadError> {
                let text: Option<&str> = row.get(column);
                let text = text.ok_or_else(|| PgError::unreadable(STEP, column))?;
                Ok(match &interval {
                    Interval::Width(_) => exact_number(self.property.kind(), text.to_owned())?,
                    Interval::Duration(_) => {
                        let micros = text.parse().map_err(|_| PgError::unreadable(STEP, text))?;
                        AggregateValue::Value(Value::Time(saturated(micros)))
                    }
                })
            };
            buckets.push(HistogramBucket {
                from: end("value")?,
                to: end("value_end")?,
                count: group.matches,
            });
        }
        Ok(Spread::Histogram { interval, buckets })
    }
}

/// A time that may lie beyond the last one: the end of the last interval.
fn saturated(micros: i64) -> Timestamp {
    let end = if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_micros(micros).unwrap_or(end)
}

/// A value as the statement writes it: as `->>` does, and times of entities in microseconds.
fn value_of(property: Property, text: &str) -> Option<Value> {
    let kind = property.kind();
    match (property, kind) {
        (Property::Reserved(_), AttributeType::Time) => {
            let time = Timestamp::from_micros(text.parse().ok()?).ok()?;
            Some(Value::Time(time))
        }
        (_, AttributeType::Text) => Some(Value::Text(text.to_owned())),
        (_, AttributeType::Time) => Timestamp::parse(text)
            .ok()
            .map(|(time, _)| Value::Time(time)),
        (_, kind) => Value::from_stored(kind, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_width_is_of_its_attributes_type_and_greater_than_nothing() {
        use AttributeType::{Bool, Decimal as Exact, Float, Int, Json, Text, Time};
        for (kind, width, is_served) in [
            (Int, "100", true),
            (Int, "1e2", true),
            (Int, "0.5", false),
            (Int, "1d", false),
            (Float, "0.5", true),
            (Float, "1e400", false),
            (Exact, "0.50", true),
            (Exact, "0.00", false),
            (Exact, "-1", false),
            (Time, "1d", true),
            (Time, "60", true),
            (Time, "0.5", false),
            (Text, "1", false),
            (Bool, "1", false),
            (Json, "1", false),
        ] {
            let query = FacetKind::Histogram(width.to_owned());
            let measure = Measure::resolve("a", kind, &query);
            assert_eq!(measure.is_ok(), is_served, "{kind} by {width}: {measure:?}");
        }
        for (values, is_served) in [
            (None, true),
            (Some(1), true),
            (Some(100), true),
            (Some(0), false),
            (Some(101), false),
        ] {
            let measure = Measure::resolve("a", Text, &FacetKind::Top(values));
            assert_eq!(measure.is_ok(), is_served, "{values:?}");
        }
    }
}
