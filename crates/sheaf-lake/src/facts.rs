//! Facts as columns: divided by day and tenant, in the order in which a file has them.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroI64;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, FixedSizeBinaryBuilder, Float64Builder, Int32Builder,
    Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use sheaf_model::{AttributeId, AttributeType, Op, TenantId};

use crate::error::LakeError;
use crate::fact::Cell;
use crate::names::{AttributeName, EntityName, Names};
use crate::pending::{Pending, PendingEvent, PendingFact};
use crate::schema::{DECIMAL_DIGITS, DECIMAL_PLACES};

/// The zone of every instant.
pub(crate) const UTC: &str = "+00:00";
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

/// What the facts of one file have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    /// Days since 1970.
    pub(crate) day: i32,
    /// The bucket of the tenant.
    pub(crate) bucket: i32,
}

/// The days since 1970 at an instant.
pub(crate) fn day_of(micros: i64) -> i32 {
    i32::try_from(micros.div_euclid(DAY_MICROS)).expect("instants are in the years 1 to 9999")
}

/// The places of those facts that are wanted, by part, in the order of a file: by tenant, attribute, entity, instant, seq.
pub(crate) fn divide(
    pending: &Pending,
    bucket_of: impl Fn(i64) -> Result<i32, LakeError>,
    is_wanted: impl Fn(u32) -> bool,
) -> Result<BTreeMap<Part, Vec<u32>>, LakeError> {
    let mut buckets: HashMap<i64, i32> = HashMap::new();
    let mut places: BTreeMap<(Part, i64), Vec<u32>> = BTreeMap::new();
    for (place, event) in (0u32..).zip(&pending.events) {
        let tenant = event.tenant.0;
        let bucket = match buckets.get(&tenant) {
            Some(bucket) => *bucket,
            None => {
                let bucket = bucket_of(tenant)?;
                buckets.insert(tenant, bucket);
                bucket
            }
        };
        let part = Part {
            day: day_of(event.observed_at.as_micros()),
            bucket,
        };
        places.entry((part, tenant)).or_default().push(place);
    }
    let mut divided: BTreeMap<Part, Vec<u32>> = BTreeMap::new();
    for ((part, _), mut events) in places {
        // Few events and then their facts, rather than all the facts.
        events.sort_unstable_by_key(|place| {
            let event = pending.event(*place);
            (event.entity, event.observed_at, event.seq)
        });
        let mut by_attribute: BTreeMap<Option<NonZeroI64>, Vec<u32>> = BTreeMap::new();
        for event in events {
            for fact in pending.facts_of(event) {
                let attribute = pending.facts[fact].attribute;
                let place = u32::try_from(fact).expect("what waits is bounded");
                if is_wanted(place) {
                    by_attribute.entry(attribute).or_default().push(place);
                }
            }
        }
        for (_, mut places) in by_attribute {
            divided.entry(part).or_default().append(&mut places);
        }
    }
    Ok(divided)
}

/// The facts of a commit, with what they are called.
#[derive(Debug)]
pub(crate) struct NamedFacts {
    pub(crate) pending: Pending,
    /// The entity of each event.
    pub(crate) entities: Vec<Option<Arc<EntityName>>>,
    attributes: HashMap<(TenantId, NonZeroI64), Arc<AttributeName>>,
}

impl NamedFacts {
    pub(crate) fn new(
        pending: Pending,
        entities: Vec<Option<Arc<EntityName>>>,
        names: &Names,
    ) -> NamedFacts {
        let mut attributes = HashMap::new();
        for fact in &pending.facts {
            let tenant = pending.event_of(fact).tenant;
            if let Some(number) = fact.attribute
                && !attributes.contains_key(&(tenant, number))
            {
                let name = names.attribute(tenant, AttributeId(number.get()));
                let name = name.expect("an attribute was known when its fact was read");
                attributes.insert((tenant, number), Arc::clone(name));
            }
        }
        NamedFacts {
            pending,
            entities,
            attributes,
        }
    }

    /// Some facts as columns.
    pub(crate) fn columns(
        &self,
        schema: &SchemaRef,
        places: &[u32],
    ) -> Result<RecordBatch, ArrowError> {
        let facts: Vec<&PendingFact> = places
            .iter()
            .map(|place| self.pending.fact(*place))
            .collect();
        let events: Vec<&PendingEvent> = facts
            .iter()
            .map(|fact| self.pending.event_of(fact))
            .collect();
        let entities = || {
            facts.iter().map(|fact| {
                let place = usize::try_from(fact.event).unwrap_or(usize::MAX);
                self.entities.get(place).and_then(Option::as_ref)
            })
        };
        let attributes: Vec<Option<&AttributeName>> = facts
            .iter()
            .zip(&events)
            .map(|(fact, event)| {
                let name = self.attributes.get(&(event.tenant, fact.attribute?));
                name.map(Arc::as_ref)
            })
            .collect();
        let mut columns: Vec<ArrayRef> = vec![
            longs(events.iter().map(|event| Some(event.tenant.0))),
            longs(events.iter().map(|event| Some(event.entity.0))),
            texts(entities().map(|name| Some(&*name?.entity_type))),
            texts(entities().map(|name| Some(&*name?.external_id))),
            longs(facts.iter().map(|fact| fact.attribute.map(NonZeroI64::get))),
            texts(attributes.iter().map(|name| Some(&*(*name)?.name))),
            texts(attributes.iter().map(|name| Some((*name)?.kind.as_str()))),
            times(
                events
                    .iter()
                    .map(|event| Some(event.observed_at.as_micros())),
            ),
            ints(events.iter().map(|event| i32::from(event.seq))),
            texts(events.iter().map(|event| Some(op_name(event.op)))),
            uuids(events.iter().map(|event| event.batch.as_bytes()))?,
            times(
                events
                    .iter()
                    .map(|event| Some(event.ingested_at.as_micros())),
            ),
        ];
        columns.extend(value_columns(&facts));
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// The columns of the values of facts, and whether each is a removal: the last ones of every table that has such.
pub(crate) fn value_columns(facts: &[&PendingFact]) -> Vec<ArrayRef> {
    vec![
        some_of(facts, AttributeType::Int, |facts| {
            longs(facts.iter().map(|fact| match fact.cell {
                Cell::Int(number) => Some(number),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Float, |facts| {
            floats(facts.iter().map(|fact| match fact.cell {
                Cell::Float(number) => Some(number),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Decimal, |facts| {
            decimals(facts.iter().map(|fact| match &fact.cell {
                Cell::Decimal(units) => Some(**units),
                Cell::WrittenDecimal(written) => Some(written.0),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Text, |facts| {
            texts(facts.iter().map(|fact| match &fact.cell {
                Cell::Text(text) | Cell::LongDecimal(text) => Some(&**text),
                Cell::WrittenDecimal(written) => Some(&*written.1),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Bool, |facts| {
            bools(facts.iter().map(|fact| match fact.cell {
                Cell::Bool(is_true) => Some(is_true),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Time, |facts| {
            times(facts.iter().map(|fact| match fact.cell {
                Cell::Time(micros) => Some(micros),
                _ => None,
            }))
        }),
        some_of(facts, AttributeType::Json, |facts| {
            texts(facts.iter().map(|fact| match &fact.cell {
                Cell::Json(json) => Some(&**json),
                _ => None,
            }))
        }),
        bools(facts.iter().map(|fact| Some(fact.cell == Cell::Removed))),
    ]
}

/// The column of one type's values. Facts are in the order of their attributes, so that most columns of most batches are
/// empty, which costs nothing.
fn some_of(
    facts: &[&PendingFact],
    kind: AttributeType,
    column: impl Fn(&[&PendingFact]) -> ArrayRef,
) -> ArrayRef {
    let is_of_kind = |cell: &Cell| match cell {
        Cell::Int(_) => kind == AttributeType::Int,
        Cell::Float(_) => kind == AttributeType::Float,
        Cell::Text(_) | Cell::LongDecimal(_) => kind == AttributeType::Text,
        Cell::Bool(_) => kind == AttributeType::Bool,
        Cell::Time(_) => kind == AttributeType::Time,
        Cell::Json(_) => kind == AttributeType::Json,
        Cell::Decimal(_) => kind == AttributeType::Decimal,
        Cell::WrittenDecimal(_) => kind == AttributeType::Decimal || kind == AttributeType::Text,
        Cell::Event | Cell::Removed => false,
    };
    if facts.iter().any(|fact| is_of_kind(&fact.cell)) {
        return column(facts);
    }
    let empty = match kind {
        AttributeType::Int => DataType::Int64,
        AttributeType::Float => DataType::Float64,
        AttributeType::Decimal => decimal_type(),
        AttributeType::Text | AttributeType::Json => DataType::Utf8,
        AttributeType::Bool => DataType::Boolean,
        AttributeType::Time => {
            DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some(UTC.into()))
        }
    };
    new_null_array(&empty, facts.len())
}

/// What an op is called in every interface.
pub(crate) fn op_name(op: Op) -> &'static str {
    match op {
        Op::Patch => "patch",
        Op::Replace => "replace",
        Op::Delete => "delete",
        Op::Correct => "correct",
    }
}

/// The op that is called so.
pub(crate) fn op_of(name: &str) -> Option<Op> {
    [Op::Patch, Op::Replace, Op::Delete, Op::Correct]
        .into_iter()
        .find(|op| op_name(*op) == name)
}

pub(crate) fn longs(values: impl ExactSizeIterator<Item = Option<i64>>) -> ArrayRef {
    let mut column = Int64Builder::with_capacity(values.len());
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

fn ints(values: impl ExactSizeIterator<Item = i32>) -> ArrayRef {
    let mut column = Int32Builder::with_capacity(values.len());
    values.for_each(|value| column.append_value(value));
    Arc::new(column.finish())
}

fn floats(values: impl ExactSizeIterator<Item = Option<f64>>) -> ArrayRef {
    let mut column = Float64Builder::with_capacity(values.len());
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

pub(crate) fn bools(values: impl ExactSizeIterator<Item = Option<bool>>) -> ArrayRef {
    let mut column = BooleanBuilder::with_capacity(values.len());
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

pub(crate) fn times(values: impl ExactSizeIterator<Item = Option<i64>>) -> ArrayRef {
    let mut column = TimestampMicrosecondBuilder::with_capacity(values.len()).with_timezone(UTC);
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

pub(crate) fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    let mut column = StringBuilder::new();
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish())
}

fn uuids<'a>(values: impl ExactSizeIterator<Item = &'a [u8; 16]>) -> Result<ArrayRef, ArrowError> {
    let mut column = FixedSizeBinaryBuilder::with_capacity(values.len(), 16);
    for value in values {
        column.append_value(value)?;
    }
    Ok(Arc::new(column.finish()))
}

fn decimal_type() -> DataType {
    let digits = u8::try_from(DECIMAL_DIGITS).expect("38 fits");
    let places = i8::try_from(DECIMAL_PLACES).expect("12 fits");
    DataType::Decimal128(digits, places)
}

fn decimals(values: impl ExactSizeIterator<Item = Option<i128>>) -> ArrayRef {
    let mut column = Decimal128Builder::with_capacity(values.len());
    values.for_each(|value| column.append_option(value));
    Arc::new(column.finish().with_data_type(decimal_type()))
}

#[cfg(test)]
mod tests;
