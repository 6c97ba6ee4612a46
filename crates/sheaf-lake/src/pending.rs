//! What was given and is not committed yet: bounded in bytes by whoever fills it.

use std::num::NonZeroI64;

use sheaf_cdc::change::{Catalogue, EventRow};
use sheaf_model::{AttributeId, BatchId, ChangePosition, EntityId, Op, TenantId, Timestamp};
use sheaf_store::lake::{CorrectionKey, LakeCorrection};
use uuid::Uuid;

use crate::error::LakeError;
use crate::fact::{Cell, EventFault, attributes_of, read_cells};
use crate::keyframes::Keyframes;
use crate::names::Names;
use crate::rows::StoredRow;
use crate::schema::LakeTable;

/// What an event says of itself, once for all its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingEvent {
    pub(crate) tenant: TenantId,
    pub(crate) entity: EntityId,
    pub(crate) observed_at: Timestamp,
    pub(crate) seq: i16,
    pub(crate) op: Op,
    pub(crate) batch: Uuid,
    pub(crate) ingested_at: Timestamp,
    /// The place of its first fact; the next event's is after its last.
    pub(crate) first: usize,
}

/// A fact of an event. Numbers of attributes begin at 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PendingFact {
    pub(crate) event: u32,
    pub(crate) attribute: Option<NonZeroI64>,
    pub(crate) cell: Cell,
}

/// What is not committed yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) events: Vec<PendingEvent>,
    pub(crate) facts: Vec<PendingFact>,
    pub(crate) tenants: Vec<StoredRow>,
    pub(crate) attributes: Vec<StoredRow>,
    pub(crate) entities: Vec<StoredRow>,
    pub(crate) keyframes: Keyframes,
    /// The places of events that are not the first of their instant, in order, with their attributes as they came: these may
    /// have to wait.
    pub(crate) later: Vec<(u32, Box<str>)>,
    heap_bytes: usize,
}

impl Pending {
    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.heap_bytes
            + self.keyframes.bytes()
            + self.events.len() * size_of::<PendingEvent>()
            + self.facts.len() * size_of::<PendingFact>()
    }

    /// The rows of a catalogue, which are not here after that.
    pub(crate) fn take_rows(&mut self, table: LakeTable) -> Vec<StoredRow> {
        match table {
            LakeTable::Tenants => std::mem::take(&mut self.tenants),
            LakeTable::Attributes => std::mem::take(&mut self.attributes),
            LakeTable::Entities => std::mem::take(&mut self.entities),
            LakeTable::Facts | LakeTable::FactsCorrected | LakeTable::Keyframes => Vec::new(),
        }
    }

    pub(crate) fn push_row(&mut self, catalogue: Catalogue, row: StoredRow) {
        self.heap_bytes += row.bytes();
        match catalogue {
            Catalogue::Tenants => self.tenants.push(row),
            Catalogue::Attributes => self.attributes.push(row),
            Catalogue::Entities => self.entities.push(row),
            // They are no rows of a catalogue: nothing replaces one.
            Catalogue::Keyframes => {}
        }
    }

    /// Takes an event, or says what is wrong with it. Attributes that were named before this process began are looked for.
    pub(crate) async fn take_event(
        &mut self,
        row: &EventRow,
        names: &mut Names,
    ) -> Result<Result<(), EventFault>, LakeError> {
        match self.push_event(row, names) {
            Err(EventFault::UnknownAttribute(_)) => {
                let ids = match attributes_of(&row.attrs) {
                    Ok(ids) => ids,
                    Err(fault) => return Ok(Err(fault)),
                };
                names.find_attributes(row.tenant, &ids).await?;
                Ok(self.push_event(row, names))
            }
            pushed => Ok(pushed),
        }
    }

    /// Takes an event, or nothing of it.
    pub(crate) fn push_event(&mut self, row: &EventRow, names: &Names) -> Result<(), EventFault> {
        let first = self.facts.len();
        let event = u32::try_from(self.events.len()).map_err(|_| EventFault::Attributes)?;
        let mut heap_bytes = 0;
        let facts = &mut self.facts;
        // A replace and a delete are a row of their own. So is an event that says nothing but that the entity was seen,
        // which would be lost else.
        if matches!(row.op, Op::Replace | Op::Delete) || &*row.attrs == "{}" {
            facts.push(PendingFact {
                event,
                attribute: None,
                cell: Cell::Event,
            });
        }
        let read = read_cells(
            &row.attrs,
            |id| names.kind(row.tenant, id),
            |AttributeId(id), cell| {
                heap_bytes += cell.heap_bytes();
                facts.push(PendingFact {
                    event,
                    attribute: NonZeroI64::new(id),
                    cell,
                });
            },
        );
        if let Err(fault) = read {
            self.facts.truncate(first);
            return Err(fault);
        }
        if row.seq > 0 {
            heap_bytes += row.attrs.len() + size_of::<(u32, Box<str>)>();
            self.later.push((event, row.attrs.clone()));
        }
        self.heap_bytes += heap_bytes;
        self.events.push(PendingEvent {
            tenant: row.tenant,
            entity: row.entity,
            observed_at: row.observed_at,
            seq: row.seq,
            op: row.op,
            batch: row.batch.0,
            ingested_at: row.ingested_at,
            first,
        });
        Ok(())
    }

    /// The places of an event's facts.
    pub(crate) fn facts_of(&self, event: u32) -> std::ops::Range<usize> {
        let place = usize::try_from(event).unwrap_or(usize::MAX);
        let first = self.events.get(place).map_or(0, |event| event.first);
        let next = self.events.get(place + 1);
        first..next.map_or(self.facts.len(), |next| next.first)
    }

    /// The fact at a place.
    pub(crate) fn fact(&self, place: u32) -> &PendingFact {
        &self.facts[usize::try_from(place).unwrap_or(usize::MAX)]
    }

    pub(crate) fn event_of(&self, fact: &PendingFact) -> &PendingEvent {
        self.event(fact.event)
    }

    /// The event at a place.
    pub(crate) fn event(&self, place: u32) -> &PendingEvent {
        &self.events[usize::try_from(place).unwrap_or(usize::MAX)]
    }

    /// An event that has to wait, as it waits. None for the first of an instant, which never does.
    pub(crate) fn correction(&self, place: u32) -> Option<LakeCorrection> {
        let found = self.later.binary_search_by_key(&place, |(place, _)| *place);
        let (_, attrs) = self.later.get(found.ok()?)?;
        let event = self.event(place);
        Some(LakeCorrection {
            key: CorrectionKey {
                observed_at: event.observed_at,
                tenant: event.tenant,
                entity: event.entity,
                seq: event.seq,
            },
            op: event.op,
            batch: BatchId(event.batch),
            ingested_at: event.ingested_at,
            attrs: attrs.clone(),
        })
    }
}

/// A position as three numbers, as rows of catalogues bear it.
pub(crate) fn numbers_of(position: ChangePosition) -> [i64; 3] {
    [
        i64::from(position.timeline),
        position.commit_lsn.0.cast_signed(),
        position.ordinal.cast_signed(),
    ]
}
