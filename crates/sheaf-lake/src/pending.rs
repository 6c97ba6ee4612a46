//! What was given and is not committed yet: bounded in bytes by whoever fills it.

use std::num::NonZeroI64;

use sheaf_model::{AttributeId, ChangePosition, EntityId, Op, TenantId};
use uuid::Uuid;

use sheaf_cdc::change::{Catalogue, EventRow};

use crate::fact::{Cell, EventFault, read_cells};
use crate::names::Names;
use crate::rows::StoredRow;
use crate::schema::LakeTable;

/// What an event says of itself, once for all its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingEvent {
    pub(crate) tenant: TenantId,
    pub(crate) entity: EntityId,
    /// In microseconds.
    pub(crate) observed_at: i64,
    pub(crate) seq: i16,
    pub(crate) op: Op,
    pub(crate) batch: Uuid,
    /// In microseconds.
    pub(crate) ingested_at: i64,
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
    heap_bytes: usize,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.tenants.is_empty()
            && self.attributes.is_empty()
            && self.entities.is_empty()
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.heap_bytes
            + self.events.len() * size_of::<PendingEvent>()
            + self.facts.len() * size_of::<PendingFact>()
    }

    /// The rows of a catalogue.
    pub(crate) fn rows(&self, table: LakeTable) -> &[StoredRow] {
        match table {
            LakeTable::Tenants => &self.tenants,
            LakeTable::Attributes => &self.attributes,
            LakeTable::Entities => &self.entities,
            LakeTable::Facts => &[],
        }
    }

    pub(crate) fn push_row(&mut self, catalogue: Catalogue, row: StoredRow) {
        self.heap_bytes += row.bytes();
        match catalogue {
            Catalogue::Tenants => self.tenants.push(row),
            Catalogue::Attributes => self.attributes.push(row),
            Catalogue::Entities => self.entities.push(row),
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
            |id| names.kind(id),
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
        self.heap_bytes += heap_bytes;
        self.events.push(PendingEvent {
            tenant: row.tenant,
            entity: row.entity,
            observed_at: row.observed_at.as_micros(),
            seq: row.seq,
            op: row.op,
            batch: row.batch.0,
            ingested_at: row.ingested_at.as_micros(),
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

    pub(crate) fn event_of(&self, fact: &PendingFact) -> &PendingEvent {
        let place = usize::try_from(fact.event).unwrap_or(usize::MAX);
        &self.events[place]
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
