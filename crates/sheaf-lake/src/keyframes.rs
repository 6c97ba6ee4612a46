//! Keyframes on their way into their table: what the events of an entity before the end of an archived period come to, a row for each
//! value of it. They are written once, and so only ever added.

use std::collections::HashMap;
use std::num::NonZeroI64;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use sheaf_cdc::change::CatalogueRow;
use sheaf_cdc::column::ColumnValue;
use sheaf_model::{AttributeId, EntityId, TenantId, object_members};

use crate::fact::{Cell, EventFault, read_cells};
use crate::facts::{bools, longs, texts, times, value_columns};
use crate::names::{AttributeName, EntityName, Names};
use crate::pending::PendingFact;

/// What a keyframe says of its entity, once for all its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keyframe {
    tenant: TenantId,
    entity: EntityId,
    /// Times in microseconds.
    at: i64,
    newest: i64,
    floor_at: Option<i64>,
    deleted: bool,
}

/// A row of a keyframe: the value of an attribute with its time, or that there is a keyframe.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    observed_at: Option<i64>,
    /// Its event is the place of the keyframe.
    fact: PendingFact,
}

/// Keyframes that are not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Keyframes {
    keyframes: Vec<Keyframe>,
    rows: Vec<Row>,
    heap_bytes: usize,
}

impl Keyframes {
    pub(crate) fn is_empty(&self) -> bool {
        self.keyframes.is_empty()
    }

    /// About how many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.heap_bytes
            + self.keyframes.len() * size_of::<Keyframe>()
            + self.rows.len() * size_of::<Row>()
    }

    /// Takes a keyframe, or nothing of it.
    pub(crate) fn push(&mut self, row: &CatalogueRow, names: &Names) -> Result<(), EventFault> {
        let number = |column| row.number(column).ok_or(EventFault::Attributes);
        let time = |column| match row.get(column) {
            Some(ColumnValue::Time(time)) => Some(time.as_micros()),
            _ => None,
        };
        let deleted = match row.get("deleted") {
            Some(ColumnValue::Bool(deleted)) => *deleted,
            _ => return Err(EventFault::Attributes),
        };
        let keyframe = Keyframe {
            tenant: TenantId(number("tenant_id")?),
            entity: EntityId(number("entity_id")?),
            at: time("at").ok_or(EventFault::Attributes)?,
            newest: time("newest").ok_or(EventFault::Attributes)?,
            floor_at: time("floor_at"),
            deleted,
        };
        let place = u32::try_from(self.keyframes.len()).map_err(|_| EventFault::Attributes)?;
        let times = times_of(json(row, "times")?)?;
        let first = self.rows.len();
        self.rows.push(Row {
            observed_at: None,
            fact: PendingFact {
                event: place,
                attribute: None,
                cell: Cell::Event,
            },
        });
        let mut heap_bytes = 0;
        let mut lacks_time = false;
        let rows = &mut self.rows;
        let read = read_cells(
            json(row, "attrs")?,
            |id| names.kind(keyframe.tenant, id),
            |AttributeId(id), cell| {
                heap_bytes += cell.heap_bytes();
                let observed_at = times.get(&id).copied();
                lacks_time |= observed_at.is_none();
                rows.push(Row {
                    observed_at,
                    fact: PendingFact {
                        event: place,
                        attribute: NonZeroI64::new(id),
                        cell,
                    },
                });
            },
        );
        if lacks_time || read.is_err() {
            self.rows.truncate(first);
            return read.and(Err(EventFault::Attributes));
        }
        self.heap_bytes += heap_bytes;
        self.keyframes.push(keyframe);
        Ok(())
    }

    /// Whose keyframes they are, in their order.
    pub(crate) fn entities(&self) -> Vec<(TenantId, EntityId)> {
        let keyframes = self.keyframes.iter();
        keyframes.map(|one| (one.tenant, one.entity)).collect()
    }

    fn of(&self, row: &Row) -> &Keyframe {
        &self.keyframes[usize::try_from(row.fact.event).unwrap_or(usize::MAX)]
    }
}

/// The attributes of a keyframe, to ask what they are called.
pub(crate) fn attrs_of(row: &CatalogueRow) -> Option<(TenantId, &str)> {
    Some((TenantId(row.number("tenant_id")?), json(row, "attrs").ok()?))
}

fn json<'a>(row: &'a CatalogueRow, column: &str) -> Result<&'a str, EventFault> {
    match row.get(column) {
        Some(ColumnValue::Json(text)) => Ok(text),
        _ => Err(EventFault::Attributes),
    }
}

fn times_of(text: &str) -> Result<HashMap<i64, i64>, EventFault> {
    let members = object_members(text).map_err(|_| EventFault::Attributes)?;
    let times = members.iter().map(|(key, micros)| {
        let time = key.parse().ok().zip(micros.get().parse().ok());
        time.ok_or(EventFault::Attributes)
    });
    times.collect()
}

/// The keyframes of a commit, with what is in them called by name.
#[derive(Debug)]
pub(crate) struct NamedKeyframes {
    keyframes: Keyframes,
    entities: Vec<Option<Arc<EntityName>>>,
    attributes: HashMap<(TenantId, NonZeroI64), Arc<AttributeName>>,
}

impl NamedKeyframes {
    /// `entities` in the order of [`Keyframes::entities`].
    pub(crate) fn new(
        keyframes: Keyframes,
        entities: Vec<Option<Arc<EntityName>>>,
        names: &Names,
    ) -> NamedKeyframes {
        let mut attributes = HashMap::new();
        for row in &keyframes.rows {
            let tenant = keyframes.of(row).tenant;
            if let Some(number) = row.fact.attribute
                && let Some(name) = names.attribute(tenant, AttributeId(number.get()))
            {
                attributes
                    .entry((tenant, number))
                    .or_insert_with(|| Arc::clone(name));
            }
        }
        NamedKeyframes {
            keyframes,
            entities,
            attributes,
        }
    }

    /// The places of the rows in the order of a file, by the tenant and the time that they are of.
    pub(crate) fn sorted(&self) -> Vec<(TenantId, i64, u32)> {
        let mut places: Vec<u32> = (0..).take(self.keyframes.rows.len()).collect();
        let key = |place: &u32| {
            let row = self.row(*place);
            let of = self.keyframes.of(row);
            (of.tenant, of.entity, row.fact.attribute, of.at)
        };
        places.sort_unstable_by_key(key);
        let of = |place: u32| self.keyframes.of(self.row(place));
        let sorted = places.into_iter();
        sorted
            .map(|place| (of(place).tenant, of(place).at, place))
            .collect()
    }

    fn row(&self, place: u32) -> &Row {
        &self.keyframes.rows[usize::try_from(place).unwrap_or(usize::MAX)]
    }

    /// Some rows as columns.
    pub(crate) fn columns(
        &self,
        schema: &SchemaRef,
        places: &[u32],
    ) -> Result<RecordBatch, ArrowError> {
        let rows: Vec<&Row> = places.iter().map(|place| self.row(*place)).collect();
        let of: Vec<&Keyframe> = rows.iter().map(|row| self.keyframes.of(row)).collect();
        let facts: Vec<&PendingFact> = rows.iter().map(|row| &row.fact).collect();
        let names = || {
            facts.iter().map(|fact| {
                let place = usize::try_from(fact.event).unwrap_or(usize::MAX);
                self.entities.get(place).and_then(Option::as_ref)
            })
        };
        let attributes: Vec<Option<&AttributeName>> = facts
            .iter()
            .zip(&of)
            .map(|(fact, of)| {
                let name = self.attributes.get(&(of.tenant, fact.attribute?));
                name.map(Arc::as_ref)
            })
            .collect();
        let mut columns: Vec<ArrayRef> = vec![
            longs(of.iter().map(|of| Some(of.tenant.0))),
            longs(of.iter().map(|of| Some(of.entity.0))),
            texts(names().map(|name| Some(&*name?.entity_type))),
            texts(names().map(|name| Some(&*name?.external_id))),
            times(of.iter().map(|of| Some(of.at))),
            times(of.iter().map(|of| Some(of.newest))),
            times(of.iter().map(|of| of.floor_at)),
            bools(of.iter().map(|of| Some(of.deleted))),
            longs(facts.iter().map(|fact| fact.attribute.map(NonZeroI64::get))),
            texts(attributes.iter().map(|name| Some(&*(*name)?.name))),
            texts(attributes.iter().map(|name| Some((*name)?.kind.as_str()))),
            times(rows.iter().map(|row| row.observed_at)),
        ];
        columns.extend(value_columns(&facts));
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}
