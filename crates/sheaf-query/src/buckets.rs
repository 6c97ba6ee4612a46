//! An entity's history in buckets of time: aggregates of each attribute's values, corrections applied.
//!
//! Buckets are aligned to 1970 in UTC, whole weeks to Monday. A bucket that `from` or `to` cuts keeps its aligned
//! bounds and counts what lies within the range. Removals are no values and do not count.

use serde::{Serialize, Serializer};
use sheaf_model::{AttributeType, Duration, Timestamp, Value};

use crate::answer::Page;

mod beside;
mod divided;
mod fill;
mod page;
mod series;
mod starts;
mod tally;
mod width;

pub(crate) use beside::{WantedBeside, beside};
pub(crate) use divided::Divided;
pub(crate) use fill::Beside;
pub use series::aggregates_of;
pub(crate) use series::{Series, number as exact_number};
pub(crate) use tally::Tallies;
pub(crate) use width::Width;

/// A way to make one value of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// The mean, a float; of decimals a decimal.
    Avg,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The sum, exact, of the attribute's type.
    Sum,
    /// How many.
    Count,
    /// The earliest.
    First,
    /// The latest.
    Last,
}

impl Aggregate {
    /// Every aggregate.
    pub const ALL: [Aggregate; 7] = [
        Aggregate::Avg,
        Aggregate::Min,
        Aggregate::Max,
        Aggregate::Sum,
        Aggregate::Count,
        Aggregate::First,
        Aggregate::Last,
    ];

    /// The name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Aggregate::Avg => "avg",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Sum => "sum",
            Aggregate::Count => "count",
            Aggregate::First => "first",
            Aggregate::Last => "last",
        }
    }

    /// The aggregate with this name.
    pub fn parse(text: &str) -> Option<Aggregate> {
        Aggregate::ALL
            .into_iter()
            .find(|aggregate| aggregate.as_str() == text)
    }

    /// Whether values of this type have it.
    pub fn applies_to(self, kind: AttributeType) -> bool {
        match self {
            Aggregate::Count | Aggregate::First | Aggregate::Last => true,
            Aggregate::Avg | Aggregate::Min | Aggregate::Max | Aggregate::Sum => match kind {
                AttributeType::Int | AttributeType::Float | AttributeType::Decimal => true,
                AttributeType::Text
                | AttributeType::Bool
                | AttributeType::Time
                | AttributeType::Json => false,
            },
        }
    }
}

/// What stands for a bucket without values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Nothing: the bucket is left out, and so is an attribute without values in a bucket.
    None,
    /// Null, and a count of 0.
    Null,
    /// What the last bucket with values before it came to, and a count of 0. What precedes the range counts: before its
    /// first bucket with values, the last value stands.
    Previous,
    /// On a straight line between the buckets with values on either side, and a count of 0. Null where the range has none
    /// on one side.
    Linear,
}

impl Fill {
    /// The fill with this name.
    pub fn parse(text: &str) -> Option<Fill> {
        match text {
            "none" => Some(Fill::None),
            "null" => Some(Fill::Null),
            "previous" => Some(Fill::Previous),
            "linear" => Some(Fill::Linear),
            _ => None,
        }
    }

    /// The fill's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Fill::None => "none",
            Fill::Null => "null",
            Fill::Previous => "previous",
            Fill::Linear => "linear",
        }
    }
}

/// What is wanted of a history in buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketQuery {
    /// The attributes; absent for all, and then aggregates that a type lacks are left out and are no error.
    pub attributes: Option<Vec<String>>,
    /// The first instant.
    pub from: Option<Timestamp>,
    /// The first instant after the range.
    pub to: Option<Timestamp>,
    /// Newest first.
    pub descending: bool,
    /// Buckets of a page, 1 to 1,000.
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// The width of a bucket.
    pub bucket: Duration,
    /// The aggregates; absent for the mean of numbers and the count of everything else.
    pub aggregates: Option<Vec<Aggregate>>,
    /// What stands for a bucket without values.
    pub fill: Fill,
}

/// A page of an entity's history in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketsAnswer {
    /// The entity's type, in its canonical spelling.
    pub entity_type: String,
    /// Its id, in its canonical spelling.
    pub external_id: String,
    /// The width of a bucket.
    pub bucket: Duration,
    /// The buckets.
    pub page: Page<BucketItem>,
}

/// The aggregates of one bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketItem {
    /// The first instant of the bucket.
    pub from: Timestamp,
    /// The first instant after it.
    pub to: Timestamp,
    /// The attributes in order of name, each with its aggregates in the order asked for.
    pub attributes: Vec<(String, Vec<(Aggregate, AggregateValue)>)>,
}

/// What an aggregate came to.
#[derive(Debug, Clone, PartialEq)]
pub enum AggregateValue {
    /// There was no value; or the sum or mean of floats is beyond a double.
    Null,
    /// A value.
    Value(Value),
    /// An exact number beyond what the type holds, as its digits.
    Digits(String),
}

/// As users see it: digits are a string.
impl Serialize for AggregateValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            AggregateValue::Null => to.serialize_unit(),
            AggregateValue::Value(value) => value.serialize(to),
            AggregateValue::Digits(digits) => to.serialize_str(digits),
        }
    }
}
