//! Excerpts: what one data file says of some entities, as parts of events. A file never changes, and so neither does an excerpt: short
//! ones are remembered.
//!
//! Rows come from the tenant's scan alone, as those of every question do.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, FixedSizeBinaryArray, PrimitiveArray, RecordBatch, StringViewArray};
use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, col, in_list, is_null, lit};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sheaf_model::{
    AttributeId, AttributeType, Attrs, BatchId, Cell, EntityId, JsonText, StoredRow, Timestamp,
    Value,
};
use sheaf_store::events::HistoryRow;
use uuid::Uuid;

use super::columns::schema_of;
use super::error::{Bound, Exceeded};
use super::files::{KnownFile, Portion};
use super::pruning::Pruning;
use super::scan::{Source, TenantScan};
use crate::fact::decimal_text;
use crate::facts::op_of;
use crate::schema::LakeTable;

/// What an id of a request is in a file.
const BATCH_ID: DataType = DataType::FixedSizeBinary(16);
/// Excerpts that are remembered, in bytes of memory. A year of one attribute of one entity, a value a minute, takes about a
/// tenth of it.
const REMEMBERED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of one excerpt that is remembered.
const EXCERPT_BYTES_MAX: usize = 1 << 20;
/// Parts of events that an excerpt has at most, and bytes of values: the rest of the file is for the next one. An instant is never
/// divided, so that one whose parts are more has all of them.
const PARTS_MAX: usize = 32_768;
const VALUES_BYTES_MAX: usize = 16 << 20;
/// Bytes of values of an instant, beyond which it is not read.
const INSTANT_BYTES_MAX: usize = 256 << 20;

/// Whose events are wanted, and what of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub(crate) tenant: i64,
    /// In ascending order.
    pub(crate) entities: Vec<i64>,
    /// In ascending order; absent for all. Of events that correct, replace or delete it is told in any case that they are there.
    pub(crate) attributes: Option<Vec<(i64, AttributeType)>>,
    /// Whether it matters which request brought them.
    pub(crate) with_requests: bool,
}

/// A part of an event: what one file says of it.
pub(crate) type Part = (EntityId, HistoryRow);

/// What a file says.
#[derive(Debug)]
pub(crate) struct Excerpt {
    /// In no order.
    pub(crate) parts: Vec<Part>,
    /// Where it ends, if that is before the end of what was asked for: of the instants from here on there are none.
    pub(crate) cut: Option<Timestamp>,
    pub(crate) bytes: usize,
}

/// Which instants are wanted, and from which end on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first instant.
    pub(crate) from: Timestamp,
    /// The first instant after it.
    pub(crate) to: Timestamp,
    pub(crate) newest_first: bool,
}

impl Span {
    pub(crate) fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }

    /// What is left of it where it ends at an instant that was cut: that one and those behind it are not wanted any more.
    pub(crate) fn until(&self, cut: Timestamp) -> Span {
        match self.newest_first {
            true => Span {
                from: self.from.max(cut.saturating_add_micros(1)),
                ..*self
            },
            false => Span {
                to: self.to.min(cut),
                ..*self
            },
        }
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

type Key = (String, Arc<Subject>);

impl Weighter<Key, Arc<Excerpt>> for ByBytes {
    fn weight(&self, (location, subject): &Key, excerpt: &Arc<Excerpt>) -> u64 {
        let attributes = subject.attributes.as_ref().map_or(0, Vec::len);
        let key = location.len() + 8 * subject.entities.len() + 16 * attributes;
        // The entry itself, and what it stands in.
        u64::try_from(key + excerpt.bytes + 300).unwrap_or(u64::MAX)
    }
}

/// The excerpts that are remembered.
#[derive(Debug)]
pub(crate) struct ExcerptBook(Cache<Key, Arc<Excerpt>, ByBytes>);

impl ExcerptBook {
    pub(crate) fn new() -> ExcerptBook {
        ExcerptBook(Cache::with_weighter(65_536, REMEMBERED_BYTES_MAX, ByBytes))
    }

    /// What is remembered of a file.
    pub(crate) fn find(&self, location: &str, subject: &Arc<Subject>) -> Option<Arc<Excerpt>> {
        self.0.get(&(location.to_owned(), Arc::clone(subject)))
    }

    /// Reads what a file says of the instants of a span, or of all its instants where that is little: then it is remembered.
    pub(crate) async fn read(
        &self,
        sought: &Sought,
        (source, file): (Source, Arc<KnownFile>),
        subject: &Arc<Subject>,
        span: Span,
        context: Arc<TaskContext>,
    ) -> Result<Arc<Excerpt>> {
        let location = file.location.clone();
        let mut rows = sought.rows(source, file, context)?;
        let mut excerpting = Excerpting::new(subject, span);
        while let Some(batch) = rows.try_next().await? {
            excerpting.take(&batch)?;
        }
        let (excerpt, is_all) = excerpting.finish();
        let excerpt = Arc::new(excerpt);
        if is_all && excerpt.bytes <= EXCERPT_BYTES_MAX {
            let key = (location, Arc::clone(subject));
            self.0.insert(key, Arc::clone(&excerpt));
        }
        Ok(excerpt)
    }
}

/// Which rows of a table's files are sought. It is worked out once for all files: that takes longer than to read a small one.
#[derive(Debug, Clone)]
pub(crate) struct Sought {
    whole: SchemaRef,
    wanted: SchemaRef,
    condition: Arc<dyn PhysicalExpr>,
    pruning: Arc<Pruning>,
}

impl Sought {
    /// Those that satisfy a condition, and of them these columns.
    pub(crate) fn new(
        whole: SchemaRef,
        wanted: SchemaRef,
        condition: Arc<dyn PhysicalExpr>,
    ) -> Result<Sought> {
        let pruning = Arc::new(Pruning::new([Arc::clone(&condition)], &whole)?);
        Ok(Sought {
            whole,
            wanted,
            condition,
            pruning,
        })
    }

    /// Facts that say something of a subject.
    pub(crate) fn of(subject: &Subject, table: LakeTable) -> Result<Sought> {
        let whole = schema_of(table);
        let wanted = columns_of(subject, &whole);
        let condition = condition(subject, &whole)?;
        Sought::new(whole, wanted, condition)
    }

    /// Those of a file.
    pub(crate) fn rows(
        &self,
        source: Source,
        file: Arc<KnownFile>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let shares = vec![vec![Portion { file, groups: None }]];
        let schemas = (Arc::clone(&self.whole), Arc::clone(&self.wanted));
        let conditions = vec![Arc::clone(&self.condition)];
        let asked = (conditions, Arc::clone(&self.pruning));
        TenantScan::new(source, shares, schemas, asked, None).execute(0, context)
    }
}

/// The columns that are read.
fn columns_of(subject: &Subject, whole: &SchemaRef) -> SchemaRef {
    let is_wanted = |name: &str| match (name, &subject.attributes) {
        ("tenant_id" | "entity_type" | "external_id" | "attribute", _) => false,
        ("type", attributes) => attributes.is_none(),
        ("batch_id", _) => subject.with_requests,
        (name, Some(attributes)) if name.starts_with("value_") => {
            let mut kinds = attributes.iter().map(|(_, kind)| *kind);
            kinds.any(|kind| values_in(kind).contains(&name))
        }
        (_, _) => true,
    };
    let fields = whole
        .fields()
        .iter()
        .filter(|field| is_wanted(field.name()));
    let fields = fields.map(|field| match field.name().as_str() {
        // As it is in the file, and not the text that questions see.
        "batch_id" => Arc::new(field.as_ref().clone().with_data_type(BATCH_ID)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns that values of a type are in.
pub(crate) fn values_in(kind: AttributeType) -> &'static [&'static str] {
    match kind {
        AttributeType::Int => &["value_int"],
        AttributeType::Float => &["value_float"],
        AttributeType::Decimal => &["value_decimal", "value_text"],
        AttributeType::Text => &["value_text"],
        AttributeType::Bool => &["value_bool"],
        AttributeType::Time => &["value_time"],
        AttributeType::Json => &["value_json"],
    }
}

/// One condition, so that its columns are read at once.
fn condition(subject: &Subject, whole: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let one_of = |name: &str, numbers: &mut dyn Iterator<Item = i64>| {
        let column = col(name, whole)?;
        let numbers: Vec<_> = numbers.map(lit).collect();
        match <[_; 1]>::try_from(numbers) {
            Ok([number]) => binary(column, Operator::Eq, number, whole),
            Err(numbers) => in_list(column, numbers, &false, whole),
        }
    };
    let entities = one_of("entity_id", &mut subject.entities.iter().copied())?;
    let Some(attributes) = &subject.attributes else {
        return Ok(entities);
    };
    let named = one_of("attribute_id", &mut attributes.iter().map(|(id, _)| *id))?;
    let of_event = is_null(col("attribute_id", whole)?)?;
    let later = binary(col("seq", whole)?, Operator::Gt, lit(0i32), whole)?;
    let matters = binary(named, Operator::Or, of_event, whole)?;
    let matters = binary(matters, Operator::Or, later, whole)?;
    binary(entities, Operator::And, matters, whole)
}

/// An excerpt in the making.
struct Excerpting<'a> {
    subject: &'a Subject,
    span: Span,
    parts: Vec<Part>,
    /// Whether nothing of the file was left out.
    is_all: bool,
    cut: Option<Timestamp>,
    value_bytes: usize,
    /// How many parts and bytes are many.
    many: (usize, usize),
}

impl<'a> Excerpting<'a> {
    fn new(subject: &'a Subject, span: Span) -> Excerpting<'a> {
        Excerpting {
            subject,
            span,
            parts: Vec::new(),
            is_all: true,
            cut: None,
            value_bytes: 0,
            many: (PARTS_MAX, VALUES_BYTES_MAX),
        }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = Rows::of(batch)?;
        for place in 0..batch.num_rows() {
            let at = rows.observed_at(place)?;
            if !self.is_all && !self.span.holds(at) {
                continue;
            }
            let part = rows.part(place, at, self.subject)?;
            self.value_bytes += part.1.row.attrs.iter().map(bytes_of).sum::<usize>();
            self.parts.push(part);
            if self.is_long() {
                self.shorten()?;
            }
        }
        Ok(())
    }

    fn is_long(&self) -> bool {
        let (parts, bytes) = self.many;
        self.parts.len() > parts || self.value_bytes > bytes
    }

    /// Leaves out what is not wanted, and then the later half of the instants.
    fn shorten(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_all) {
            self.keep(self.span);
        }
        if !self.is_long() {
            return Ok(());
        }
        let Some(cut) = middle(&self.parts, self.span.newest_first) else {
            if self.value_bytes > INSTANT_BYTES_MAX {
                return Err(Exceeded(Bound::Memory).into());
            }
            self.many = (2 * self.many.0, 2 * self.many.1);
            return Ok(());
        };
        self.cut = Some(cut);
        self.span = self.span.until(cut);
        self.keep(self.span);
        Ok(())
    }

    fn keep(&mut self, span: Span) {
        self.parts
            .retain(|(_, event)| span.holds(event.row.observed_at));
        self.value_bytes = value_bytes(&self.parts);
    }

    /// The excerpt, and whether it has all that the file says.
    fn finish(mut self) -> (Excerpt, bool) {
        self.parts.shrink_to_fit();
        let bytes = self.value_bytes + self.parts.len() * size_of::<Part>();
        let excerpt = Excerpt {
            parts: self.parts,
            cut: self.cut,
            bytes,
        };
        (excerpt, self.is_all)
    }
}

/// The instant in the middle of parts, of which what comes second is cut off: never the instant that comes first. None where there is no
/// other.
pub(crate) fn middle(parts: &[Part], newest_first: bool) -> Option<Timestamp> {
    let times = parts.iter().map(|(_, event)| event.row.observed_at);
    let mut times: Vec<Timestamp> = times.collect();
    times.sort_unstable();
    let (first, last) = (*times.first()?, *times.last()?);
    let middle = times[times.len() / 2];
    match newest_first {
        _ if first == last => None,
        true if middle == last => {
            let before = times.partition_point(|time| *time < last);
            Some(times[before - 1])
        }
        false if middle == first => Some(times[times.partition_point(|time| *time <= first)]),
        _ => Some(middle),
    }
}

/// Whether parts of several files are more than are held together: twice as many as are of one.
pub(crate) fn are_many(parts: &[Part]) -> bool {
    parts.len() > 2 * PARTS_MAX || value_bytes(parts) > 2 * VALUES_BYTES_MAX
}

fn value_bytes(parts: &[Part]) -> usize {
    let cells = parts.iter().flat_map(|(_, event)| event.row.attrs.iter());
    cells.map(bytes_of).sum()
}

/// About what a cell takes in memory.
fn bytes_of((_, cell): &(AttributeId, Cell)) -> usize {
    size_of::<(AttributeId, Cell)>() + cell.stored_bytes()
}

/// A batch of facts, column by column.
struct Rows<'a> {
    entity: &'a PrimitiveArray<Int64Type>,
    attribute: &'a PrimitiveArray<Int64Type>,
    kind: Option<&'a StringViewArray>,
    observed_at: &'a PrimitiveArray<TimestampMicrosecondType>,
    seq: &'a PrimitiveArray<Int32Type>,
    op: &'a StringViewArray,
    batch: Option<&'a FixedSizeBinaryArray>,
    ingested_at: &'a PrimitiveArray<TimestampMicrosecondType>,
    values: &'a RecordBatch,
}

pub(crate) fn unreadable(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("{what} of a fact cannot be read"))
}

pub(crate) fn column<'a, T: ?Sized>(
    batch: &'a RecordBatch,
    name: &str,
    read: impl FnOnce(&'a dyn Array) -> Option<&'a T>,
) -> Result<&'a T> {
    let column = batch.column_by_name(name).map(AsRef::as_ref);
    column.and_then(read).ok_or_else(|| unreadable(name))
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Rows<'a>> {
        let (kind, id) = (
            batch.column_by_name("type"),
            batch.column_by_name("batch_id"),
        );
        Ok(Rows {
            entity: column(batch, "entity_id", |array| array.as_primitive_opt())?,
            attribute: column(batch, "attribute_id", |array| array.as_primitive_opt())?,
            kind: kind.and_then(|column| column.as_string_view_opt()),
            observed_at: column(batch, "observed_at", |array| array.as_primitive_opt())?,
            seq: column(batch, "seq", |array| array.as_primitive_opt())?,
            op: column(batch, "op", |array| array.as_string_view_opt())?,
            batch: id.and_then(|column| column.as_fixed_size_binary_opt()),
            ingested_at: column(batch, "ingested_at", |array| array.as_primitive_opt())?,
            values: batch,
        })
    }

    fn observed_at(&self, place: usize) -> Result<Timestamp> {
        let at = Timestamp::from_micros(self.observed_at.value(place));
        at.map_err(|_| unreadable("the instant"))
    }

    fn part(&self, place: usize, observed_at: Timestamp, subject: &Subject) -> Result<Part> {
        let attribute = (!self.attribute.is_null(place)).then(|| self.attribute.value(place));
        let kind = match (attribute, &subject.attributes) {
            (None, _) => None,
            (Some(id), Some(wanted)) => {
                let found = wanted.binary_search_by_key(&id, |(id, _)| *id);
                found.ok().map(|found| wanted[found].1)
            }
            (Some(_), None) => {
                let kind = self.kind.map(|column| column.value(place));
                let kind = kind.and_then(AttributeType::parse);
                Some(kind.ok_or_else(|| unreadable("the type"))?)
            }
        };
        let cell = match (attribute, kind) {
            (Some(id), Some(kind)) => Some((AttributeId(id), cell(self.values, place, kind)?)),
            _ => None,
        };
        let ingested_at = Timestamp::from_micros(self.ingested_at.value(place));
        let seq = i16::try_from(self.seq.value(place));
        let batch = match self.batch {
            Some(ids) => Uuid::from_slice(ids.value(place)).ok(),
            None if subject.with_requests => None,
            None => Some(Uuid::nil()),
        };
        let event = HistoryRow {
            row: StoredRow {
                observed_at,
                seq: seq.map_err(|_| unreadable("seq"))?,
                op: op_of(self.op.value(place)).ok_or_else(|| unreadable("op"))?,
                attrs: Attrs::from_distinct(cell.into_iter().collect()),
            },
            batch: BatchId(batch.ok_or_else(|| unreadable("batch_id"))?),
            ingested_at: ingested_at.map_err(|_| unreadable("ingested_at"))?,
        };
        Ok((EntityId(self.entity.value(place)), event))
    }
}

/// What a row of facts or of keyframes says of its attribute.
pub(crate) fn cell(batch: &RecordBatch, place: usize, kind: AttributeType) -> Result<Cell> {
    let removed = column(batch, "removed", |array| array.as_boolean_opt())?;
    if removed.value(place) {
        return Ok(Cell::Removed);
    }
    let value = value(batch, place, kind)?;
    value
        .map(Cell::Value)
        .ok_or_else(|| unreadable("the value"))
}

fn value(batch: &RecordBatch, place: usize, kind: AttributeType) -> Result<Option<Value>> {
    let text = |name| -> Result<Option<&str>> {
        let texts = column(batch, name, |array| array.as_string_view_opt())?;
        Ok((!texts.is_null(place)).then(|| texts.value(place)))
    };
    Ok(match kind {
        AttributeType::Int => number::<Int64Type>(batch, "value_int", place)?.map(Value::Int),
        AttributeType::Float => {
            number::<Float64Type>(batch, "value_float", place)?.and_then(Value::float)
        }
        AttributeType::Decimal => match text("value_text")? {
            Some(written) => written.parse().ok().map(Value::Decimal),
            None => {
                let units = number::<Decimal128Type>(batch, "value_decimal", place)?;
                let number = units.and_then(|units| decimal_text(units).parse().ok());
                number.map(Value::Decimal)
            }
        },
        AttributeType::Text => text("value_text")?.map(|text| Value::Text(text.to_owned())),
        AttributeType::Bool => {
            let truths = column(batch, "value_bool", |array| array.as_boolean_opt())?;
            (!truths.is_null(place)).then(|| Value::Bool(truths.value(place)))
        }
        AttributeType::Time => number::<TimestampMicrosecondType>(batch, "value_time", place)?
            .and_then(|micros| Timestamp::from_micros(micros).ok())
            .map(Value::Time),
        AttributeType::Json => {
            text("value_json")?.map(|text| Value::Json(JsonText::from_stored(text.to_owned())))
        }
    })
}

fn number<T: arrow_array::types::ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
    place: usize,
) -> Result<Option<T::Native>> {
    let numbers: &PrimitiveArray<T> = column(batch, name, |array| array.as_primitive_opt())?;
    Ok((!numbers.is_null(place)).then(|| numbers.value(place)))
}

#[cfg(test)]
mod tests;
