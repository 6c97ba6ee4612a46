//! What many facts come to, in a few bytes: their number, and the sum of a hash of each. Pure.
//!
//! Both sides are fed through one encoding: events as PostgreSQL has them, taken apart by the code that the sink takes them apart
//! by, and rows of files by their columns. A sum and no exclusive or: of that, a fact which is there twice would be one that is
//! not there. What a fact is called is left out: names follow from numbers, and a row without them is a fact all the same.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrowPrimitiveType, BooleanArray, FixedSizeBinaryArray, PrimitiveArray, RecordBatch,
    StringArray, StringViewArray,
};
use sheaf_model::{AttributeId, AttributeType, TenantId};
use sheaf_store::reconcile::FactSum;
use twox_hash::XxHash3_128;

use crate::error::Cause;
use crate::fact::Cell;
use crate::facts::op_name;
use crate::pending::{Pending, PendingFact};

pub(crate) const HOUR_MICROS: i64 = 3_600_000_000;

/// How many facts there are, and the sum of their hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest {
    /// Their number.
    pub facts: u64,
    /// The sum of their hashes, without what does not fit.
    pub sum: u128,
}

impl Digest {
    fn of(hash: u128) -> Digest {
        Digest {
            facts: 1,
            sum: hash,
        }
    }

    /// Without the facts of another one, which were part of it.
    #[must_use]
    pub fn without(self, part: Digest) -> Digest {
        Digest {
            facts: self.facts.wrapping_sub(part.facts),
            sum: self.sum.wrapping_sub(part.sum),
        }
    }
}

impl Add for Digest {
    type Output = Digest;

    fn add(self, other: Digest) -> Digest {
        Digest {
            facts: self.facts.wrapping_add(other.facts),
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

impl From<Digest> for FactSum {
    fn from(digest: Digest) -> FactSum {
        FactSum {
            facts: digest.facts.cast_signed(),
            sum: digest.sum,
        }
    }
}

impl From<FactSum> for Digest {
    fn from(sum: FactSum) -> Digest {
        Digest {
            facts: sum.facts.cast_unsigned(),
            sum: sum.sum,
        }
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Digest) {
        *self = *self + other;
    }
}

/// An hour of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantHour {
    /// The tenant.
    pub tenant: i64,
    /// Whole hours since 1970.
    pub hour: i64,
}

/// The whole hours since 1970 at an instant.
pub(crate) fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(HOUR_MICROS)
}

/// What the facts of each hour of each tenant come to.
pub type Hours = BTreeMap<TenantHour, Digest>;

/// What tells a fact from others. A row about an event has no attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactKey {
    /// The tenant.
    pub tenant: i64,
    /// The entity.
    pub entity: i64,
    /// The instant, in microseconds.
    pub observed_at: i64,
    /// The place of its event among those of the instant.
    pub seq: i64,
    /// The attribute.
    pub attribute: Option<i64>,
}

impl FactKey {
    /// The hour that it counts in.
    pub fn hour(&self) -> TenantHour {
        TenantHour {
            tenant: self.tenant,
            hour: hour_of(self.observed_at),
        }
    }
}

/// A fact as either side has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digested {
    pub(crate) key: FactKey,
    /// In microseconds.
    pub(crate) ingested_at: i64,
    pub(crate) digest: Digest,
}

/// A value of a fact. A row of a file that somebody changed may have several.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Int(i64),
    Float(f64),
    Decimal(i128),
    Text(&'a str),
    Bool(bool),
    Time(i64),
    Json(&'a str),
}

/// The one encoding. Each part says how long it is, so that no two facts are written alike.
#[derive(Debug, Default)]
struct Encoding {
    bytes: Vec<u8>,
}

impl Encoding {
    fn begin(
        &mut self,
        key: &FactKey,
        op: &str,
        batch: &[u8; 16],
        ingested_at: i64,
        kind: Option<&str>,
        is_removed: bool,
    ) {
        self.bytes.clear();
        for number in [
            key.tenant,
            key.entity,
            key.observed_at,
            key.seq,
            key.attribute.unwrap_or_default(),
            ingested_at,
        ] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.bytes.extend_from_slice(batch);
        let flags = u8::from(key.attribute.is_some())
            | u8::from(kind.is_some()) << 1
            | u8::from(is_removed) << 2;
        self.bytes.push(flags);
        self.text(op);
        self.text(kind.unwrap_or_default());
    }

    fn value(&mut self, part: Part<'_>) {
        match part {
            Part::Int(number) => self.fixed(1, &number.to_le_bytes()),
            // By its bits: nothing is equal but the same.
            Part::Float(number) => self.fixed(2, &number.to_bits().to_le_bytes()),
            Part::Decimal(units) => self.fixed(3, &units.to_le_bytes()),
            Part::Text(text) => {
                self.bytes.push(4);
                self.text(text);
            }
            Part::Bool(is_true) => self.fixed(5, &[u8::from(is_true)]),
            Part::Time(micros) => self.fixed(6, &micros.to_le_bytes()),
            Part::Json(json) => {
                self.bytes.push(7);
                self.text(json);
            }
        }
    }

    fn fixed(&mut self, tag: u8, bytes: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn digest(&self) -> Digest {
        Digest::of(XxHash3_128::oneshot(&self.bytes))
    }
}

/// Tells of every fact of some events, which are as the sink takes them from PostgreSQL.
pub(crate) fn digest_pending(
    pending: &Pending,
    kind_of: impl Fn(TenantId, AttributeId) -> Option<AttributeType>,
    mut each: impl FnMut(&PendingFact, Digested),
) {
    let mut encoding = Encoding::default();
    for fact in &pending.facts {
        let event = pending.event_of(fact);
        let key = FactKey {
            tenant: event.tenant.0,
            entity: event.entity.0,
            observed_at: event.observed_at.as_micros(),
            seq: event.seq.into(),
            attribute: fact.attribute.map(|number| number.get()),
        };
        let attribute = key.attribute.map(AttributeId);
        let kind = attribute.and_then(|attribute| kind_of(event.tenant, attribute));
        let ingested_at = event.ingested_at.as_micros();
        encoding.begin(
            &key,
            op_name(event.op),
            event.batch.as_bytes(),
            ingested_at,
            kind.map(AttributeType::as_str),
            fact.cell == Cell::Removed,
        );
        match &fact.cell {
            Cell::Event | Cell::Removed => {}
            Cell::Int(number) => encoding.value(Part::Int(*number)),
            Cell::Float(number) => encoding.value(Part::Float(*number)),
            Cell::Decimal(units) => encoding.value(Part::Decimal(**units)),
            Cell::WrittenDecimal(written) => {
                encoding.value(Part::Decimal(written.0));
                encoding.value(Part::Text(&written.1));
            }
            Cell::Text(text) | Cell::LongDecimal(text) => encoding.value(Part::Text(text)),
            Cell::Bool(is_true) => encoding.value(Part::Bool(*is_true)),
            Cell::Time(micros) => encoding.value(Part::Time(*micros)),
            Cell::Json(json) => encoding.value(Part::Json(json)),
        }
        let digest = encoding.digest();
        each(
            fact,
            Digested {
                key,
                ingested_at,
                digest,
            },
        );
    }
}

/// Tells of every row of a part of a file of facts, with its place in the part.
pub(crate) fn digest_rows(
    batch: &RecordBatch,
    mut each: impl FnMut(usize, Digested),
) -> Result<(), Cause> {
    let columns = Columns::of(batch)?;
    let mut encoding = Encoding::default();
    for row in 0..batch.num_rows() {
        let key = FactKey {
            tenant: columns.tenant.value(row),
            entity: columns.entity.value(row),
            observed_at: columns.observed_at.value(row),
            seq: columns.seq.value(row).into(),
            attribute: given(columns.attribute, row).then(|| columns.attribute.value(row)),
        };
        let batch_id = columns.batch.value(row).first_chunk();
        let ingested_at = columns.ingested_at.value(row);
        encoding.begin(
            &key,
            columns.op.value(row).unwrap_or_default(),
            batch_id.ok_or("a batch id is too short")?,
            ingested_at,
            columns.kind.value(row),
            columns.removed.value(row),
        );
        columns.values(row, |part| encoding.value(part));
        let digest = encoding.digest();
        each(
            row,
            Digested {
                key,
                ingested_at,
                digest,
            },
        );
    }
    Ok(())
}

/// The columns of facts that are digested: all but names.
pub(crate) const COLUMNS: [&str; 17] = [
    "tenant_id",
    "entity_id",
    "attribute_id",
    "type",
    "observed_at",
    "seq",
    "op",
    "batch_id",
    "ingested_at",
    "value_int",
    "value_float",
    "value_decimal",
    "value_text",
    "value_bool",
    "value_time",
    "value_json",
    "removed",
];

/// The columns of facts, as what they are.
struct Columns<'a> {
    tenant: &'a PrimitiveArray<Int64Type>,
    entity: &'a PrimitiveArray<Int64Type>,
    attribute: &'a PrimitiveArray<Int64Type>,
    kind: Texts<'a>,
    observed_at: &'a PrimitiveArray<TimestampMicrosecondType>,
    seq: &'a PrimitiveArray<Int32Type>,
    op: Texts<'a>,
    batch: &'a FixedSizeBinaryArray,
    ingested_at: &'a PrimitiveArray<TimestampMicrosecondType>,
    int: &'a PrimitiveArray<Int64Type>,
    float: &'a PrimitiveArray<Float64Type>,
    decimal: &'a PrimitiveArray<Decimal128Type>,
    text: Texts<'a>,
    bool: &'a BooleanArray,
    time: &'a PrimitiveArray<TimestampMicrosecondType>,
    json: Texts<'a>,
    removed: &'a BooleanArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Columns<'a>, Cause> {
        Ok(Columns {
            tenant: numbers(batch, "tenant_id")?,
            entity: numbers(batch, "entity_id")?,
            attribute: numbers(batch, "attribute_id")?,
            kind: texts(batch, "type")?,
            observed_at: numbers(batch, "observed_at")?,
            seq: numbers(batch, "seq")?,
            op: texts(batch, "op")?,
            batch: column(batch, "batch_id", |array| array.as_fixed_size_binary_opt())?,
            ingested_at: numbers(batch, "ingested_at")?,
            int: numbers(batch, "value_int")?,
            float: numbers(batch, "value_float")?,
            decimal: numbers(batch, "value_decimal")?,
            text: texts(batch, "value_text")?,
            bool: column(batch, "value_bool", |array| array.as_boolean_opt())?,
            time: numbers(batch, "value_time")?,
            json: texts(batch, "value_json")?,
            removed: column(batch, "removed", |array| array.as_boolean_opt())?,
        })
    }

    fn values(&self, row: usize, mut each: impl FnMut(Part<'a>)) {
        if given(self.int, row) {
            each(Part::Int(self.int.value(row)));
        }
        if given(self.float, row) {
            each(Part::Float(self.float.value(row)));
        }
        if given(self.decimal, row) {
            each(Part::Decimal(self.decimal.value(row)));
        }
        if let Some(text) = self.text.value(row) {
            each(Part::Text(text));
        }
        if given(self.bool, row) {
            each(Part::Bool(self.bool.value(row)));
        }
        if given(self.time, row) {
            each(Part::Time(self.time.value(row)));
        }
        if let Some(json) = self.json.value(row) {
            each(Part::Json(json));
        }
    }
}

fn column<'a, T>(
    batch: &'a RecordBatch,
    name: &str,
    read: impl FnOnce(&'a dyn Array) -> Option<T>,
) -> Result<T, Cause> {
    let column = batch.column_by_name(name).map(AsRef::as_ref);
    let column = column.ok_or_else(|| format!("column {name} is missing"))?;
    let read = read(column);
    Ok(read.ok_or_else(|| format!("column {name} is of another kind"))?)
}

fn numbers<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<T>, Cause> {
    column(batch, name, |array| array.as_primitive_opt::<T>())
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<Texts<'a>, Cause> {
    column(batch, name, Texts::of)
}

fn given(column: &dyn Array, row: usize) -> bool {
    !column.is_null(row)
}

/// Texts as they are read from a file on its way into another one, or as others read them.
enum Texts<'a> {
    View(&'a StringViewArray),
    Plain(&'a StringArray),
}

impl<'a> Texts<'a> {
    fn of(column: &'a dyn Array) -> Option<Texts<'a>> {
        let view = column.as_string_view_opt().map(Texts::View);
        view.or_else(|| column.as_string_opt::<i32>().map(Texts::Plain))
    }

    fn value(&self, row: usize) -> Option<&'a str> {
        match self {
            Texts::View(column) => given(*column, row).then(|| column.value(row)),
            Texts::Plain(column) => given(*column, row).then(|| column.value(row)),
        }
    }
}

#[cfg(test)]
mod tests;
