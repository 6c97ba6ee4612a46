//! Changes as sinks get them: rows of our tables, each with its position.

use std::sync::Arc;

use sheaf_model::{BatchId, ChangePosition, EntityId, Op, TenantId, Timestamp};

use crate::column::ColumnValue;
use crate::letter::Unreadable;

/// One row that was added or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where it is in the stream; in a snapshot, where it is in that.
    pub position: ChangePosition,
    /// The number of its transaction, without the count of cycles; 0 in a snapshot.
    pub xid: u32,
    /// When its transaction was committed; in a snapshot, when that was taken.
    pub committed_at: Timestamp,
    /// The row.
    pub row: ChangedRow,
}

/// The row of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangedRow {
    /// An event. It is never changed after.
    Event(EventRow),
    /// A row of a catalogue as it is now. Of two for the same row, the one with the later position counts.
    Catalogue(CatalogueRow),
}

impl Change {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let row = match &self.row {
            ChangedRow::Event(event) => event.attrs.len(),
            ChangedRow::Catalogue(row) => row.size(),
        };
        size_of::<Change>() + row
    }
}

/// The table of events.
pub(crate) const EVENTS: &str = "entity_events";
/// The table of events that came after their period was closed to writes. To sinks they are events as the others are, which their
/// `seq` tells.
pub(crate) const LATE: &str = sheaf_store::events::LATE;

/// One row of `entity_events`, or of the late ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// The tenant.
    pub tenant: TenantId,
    /// The entity.
    pub entity: EntityId,
    /// The instant that it is about.
    pub observed_at: Timestamp,
    /// Its place among the rows of its instant.
    pub seq: i16,
    /// What it does.
    pub op: Op,
    /// The request that brought it.
    pub batch: BatchId,
    /// When the server received it.
    pub ingested_at: Timestamp,
    /// Its attributes in their stored form: attribute number to value, null for a removal.
    pub attrs: Box<str>,
}

impl EventRow {
    /// Its columns, in the table's order.
    pub(crate) fn columns(&self) -> Vec<(String, ColumnValue)> {
        let op = u8::try_from(self.op.letter()).map(|letter| char::from(letter).to_string());
        let columns = [
            ("tenant_id", ColumnValue::Int(self.tenant.0)),
            ("entity_id", ColumnValue::Int(self.entity.0)),
            ("observed_at", ColumnValue::Time(self.observed_at)),
            ("seq", ColumnValue::Int(self.seq.into())),
            ("op", ColumnValue::Text(op.unwrap_or_default())),
            ("batch_id", ColumnValue::Uuid(self.batch.0)),
            ("ingested_at", ColumnValue::Time(self.ingested_at)),
            ("attrs", ColumnValue::Json((*self.attrs).to_owned())),
        ];
        let columns = columns.into_iter();
        columns
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// The tables that say what the numbers in events mean, and what those of an archived period come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Catalogue {
    /// `tenants`.
    Tenants,
    /// `attributes`.
    Attributes,
    /// `entities`.
    Entities,
    /// `entity_keyframes`.
    Keyframes,
}

impl Catalogue {
    /// The table's name.
    pub fn table(self) -> &'static str {
        match self {
            Catalogue::Tenants => "tenants",
            Catalogue::Attributes => "attributes",
            Catalogue::Entities => "entities",
            Catalogue::Keyframes => "entity_keyframes",
        }
    }

    /// What names one of its rows.
    pub fn key(self) -> &'static [&'static str] {
        match self {
            Catalogue::Tenants => &["tenant_id"],
            Catalogue::Attributes => &["tenant_id", "attribute_id"],
            Catalogue::Entities => &["tenant_id", "entity_id"],
            Catalogue::Keyframes => &["tenant_id", "entity_id", "at"],
        }
    }
}

/// One row of a catalogue, with the columns that its table has where the row is in the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogueRow {
    /// The table.
    pub catalogue: Catalogue,
    /// Whether it is new; else one that was there was changed. Rows of a snapshot are new.
    pub is_new: bool,
    /// The names of the columns.
    pub columns: Arc<[String]>,
    /// Their values, in the same order.
    pub values: Vec<ColumnValue>,
}

impl CatalogueRow {
    /// The value of a column; absent where the table has none of that name.
    pub fn get(&self, column: &str) -> Option<&ColumnValue> {
        let place = self.columns.iter().position(|name| name == column)?;
        self.values.get(place)
    }

    /// The same of a column of whole numbers; absent too where the value is no number.
    pub fn number(&self, column: &str) -> Option<i64> {
        match self.get(column) {
            Some(ColumnValue::Int(number)) => Some(*number),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        let heap: usize = self.values.iter().map(ColumnValue::heap_bytes).sum();
        heap + self.values.len() * size_of::<ColumnValue>()
    }
}

/// Where changes come from. Each origin has an order of its own; between the two there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// What was there before: read from the tables, once.
    Snapshot,
    /// What was committed since.
    Stream,
}

/// Changes of one origin, in the order of their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Where they come from.
    pub origin: Origin,
    /// The changes; never none.
    pub changes: Vec<Change>,
    /// Whether the last of them is the last of its transaction. A large transaction is several batches; so is a snapshot, whose
    /// end no batch tells.
    pub is_end: bool,
}

impl Batch {
    /// The position of the last change.
    pub fn last(&self) -> Option<ChangePosition> {
        self.changes.last().map(|change| change.position)
    }
}

/// A batch with the rows between its changes that no sink can be given.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What can be given; here it may have no changes.
    pub batch: Batch,
    /// What cannot be read, in order.
    pub unreadable: Vec<Unreadable>,
}

impl Part {
    /// The position of the last row.
    pub fn last(&self) -> Option<ChangePosition> {
        let unreadable = self.unreadable.last().map(|row| row.position);
        self.batch.last().max(unreadable)
    }
}

/// How far a sink durably holds what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The position before the first row of its snapshot, by which it knows which snapshot that is.
    pub base: ChangePosition,
    /// The place of the last row of the snapshot that it holds; 0 for none.
    pub snapshot: u64,
    /// The position of the last change of the stream that it holds; absent for none.
    pub stream: Option<ChangePosition>,
}

impl Progress {
    /// A sink that has begun and holds nothing.
    pub fn begun(base: ChangePosition) -> Progress {
        Progress {
            base,
            snapshot: 0,
            stream: None,
        }
    }

    /// Whether it holds a change.
    pub fn holds(&self, origin: Origin, position: ChangePosition) -> bool {
        match origin {
            Origin::Snapshot => position.ordinal <= self.snapshot,
            Origin::Stream => Some(position) <= self.stream,
        }
    }

    /// It holds everything up to a position now.
    pub fn advance(&mut self, origin: Origin, position: ChangePosition) {
        match origin {
            Origin::Snapshot => self.snapshot = self.snapshot.max(position.ordinal),
            Origin::Stream => self.stream = self.stream.max(Some(position)),
        }
    }
}
