//! What a group of events does: which rows they become, and what the documents become. Pure; the lane reads and writes.
//!
//! It takes two steps, because which stored rows matter depends on the documents: [`time_events`] gives every event its
//! instant and names the instants to read; [`plan_group`] decides the rest.

use std::collections::{BTreeMap, HashMap, HashSet};

use sheaf_model::{
    Appended, AttributeId, Attrs, Cell, Document, DocumentChange, EntityId, Event, LATE_SEQ, Op,
    Refusal, RefusalCode, StoredRow, Tags, TenantId, Timestamp, append, append_late, fold_instant,
    merge_rows, time_after,
};
use sheaf_store::documents::StoredDocument;
use sheaf_store::ledger::Counts;
use sheaf_store::partitions::Partition;

/// An event of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupEvent {
    /// Its place in the request.
    pub(crate) index: u32,
    /// The tenant of its request.
    pub(crate) tenant: TenantId,
    /// Whose it is. Numbers of entities are unique over all tenants.
    pub(crate) entity: EntityId,
    /// What it says.
    pub(crate) event: Event,
}

/// An event with its instant.
#[derive(Debug)]
pub(crate) struct TimedEvent<'a> {
    /// The place of its request's part in the group.
    part: usize,
    at: Timestamp,
    inner: &'a GroupEvent,
}

/// Documents of a group, by entity.
pub(crate) type Documents = HashMap<EntityId, StoredDocument>;
/// Rows already there, by entity and instant, in order of seq.
pub(crate) type StoredInstants = HashMap<(EntityId, Timestamp), Vec<StoredRow>>;

/// A request's part in a group: what came when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupPart<'a> {
    pub(crate) events: &'a [GroupEvent],
    /// Attributes of the tenant that lines have had as tags beside an id.
    pub(crate) series_tags: &'a HashSet<AttributeId>,
    pub(crate) now: Timestamp,
}

/// Gives every event its instant, and tells which instants of which entities must be compared with what is stored.
pub(crate) fn time_events<'a>(
    parts: &[GroupPart<'a>],
    documents: &Documents,
) -> (Vec<TimedEvent<'a>>, Vec<(TenantId, EntityId, Timestamp)>) {
    // Events with times do not ask what came before them.
    let some_lack_times = parts
        .iter()
        .flat_map(|part| part.events)
        .any(|event| event.event.observed_at.is_none());
    let mut newest_so_far: HashMap<EntityId, Timestamp> = HashMap::new();
    let mut to_read = Vec::new();
    let mut timed = Vec::with_capacity(parts.iter().map(|part| part.events.len()).sum());
    for (part, GroupPart { events, now, .. }) in parts.iter().enumerate() {
        for inner in *events {
            let stored = documents
                .get(&inner.entity)
                .and_then(|stored| stored.document.newest);
            let at = inner.event.observed_at.unwrap_or_else(|| {
                let newest = stored.max(newest_so_far.get(&inner.entity).copied());
                time_after(*now, newest)
            });
            if some_lack_times {
                let newest = newest_so_far.entry(inner.entity).or_insert(at);
                *newest = at.max(*newest);
            }
            if stored.is_some_and(|stored| at <= stored) {
                to_read.push((inner.tenant, inner.entity, at));
            }
            timed.push(TimedEvent { part, at, inner });
        }
    }
    to_read.sort_unstable();
    to_read.dedup();
    (timed, to_read)
}

/// Whether an instant is of a period that was closed to writes for its archive.
pub(crate) fn is_late(at: Timestamp, closed_before: Option<Timestamp>) -> bool {
    closed_before.is_some_and(|closed| at < closed)
}

/// Takes out the events whose partitions are closed to writes and not to be archived: they are to be refused.
pub(crate) fn take_closed<'a>(
    events: &mut Vec<TimedEvent<'a>>,
    closed: &[Partition],
    closed_before: Option<Timestamp>,
) -> Vec<TimedEvent<'a>> {
    let is_closed = |event: &mut TimedEvent<'_>| {
        !is_late(event.at, closed_before) && closed.iter().any(|one| one.holds(event.at))
    };
    if closed.is_empty() {
        return Vec::new();
    }
    events.extract_if(.., is_closed).collect()
}

/// What an event came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventOutcome {
    Accepted,
    Duplicate,
    Merged,
    Corrected,
}

/// An entity's document after the group.
#[derive(Debug)]
pub(crate) struct PlannedDocument {
    pub(crate) tenant: TenantId,
    pub(crate) stored: StoredDocument,
    /// Whether there was one before; else it is inserted.
    pub(crate) existed: bool,
    /// The part that brought the entity into being, or back, if one did.
    pub(crate) created_by: Option<usize>,
    /// What the group changed of it.
    pub(crate) change: DocumentChange,
    /// Whether times are among it that do not follow from the newest event, before or after.
    pub(crate) has_times: bool,
}

/// A row to append.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedRow {
    /// The place of its request's part in the group.
    pub(crate) part: usize,
    pub(crate) tenant: TenantId,
    pub(crate) entity: EntityId,
    pub(crate) row: StoredRow,
}

impl PlannedRow {
    /// Whether it is of a period that was closed to writes.
    pub(crate) fn is_late(&self) -> bool {
        self.row.seq >= LATE_SEQ
    }
}

/// What one part of the group comes to.
#[derive(Debug, Default)]
pub(crate) struct PlannedPart {
    pub(crate) counts: Counts,
    /// Events that cannot be stored beside what is there, by their place in the request.
    pub(crate) refusals: Vec<(u32, Option<AttributeId>, Refusal)>,
    /// The instant of the part's last event, in the order of entities.
    pub(crate) last_at: Option<Timestamp>,
}

/// Everything that a group does.
#[derive(Debug, Default)]
pub(crate) struct GroupPlan {
    /// Rows to append, sorted by tenant, entity, instant and seq.
    pub(crate) rows: Vec<PlannedRow>,
    /// Documents, in order of tenant and entity.
    pub(crate) documents: Vec<PlannedDocument>,
    /// What each part comes to, in their order.
    pub(crate) parts: Vec<PlannedPart>,
}

/// Decides what a group does. Events of one entity stay in the order of the parts and of their requests, which is their
/// order of commit.
pub(crate) fn plan_group(
    parts: &[GroupPart<'_>],
    mut events: Vec<TimedEvent<'_>>,
    mut documents: Documents,
    mut stored: StoredInstants,
    closed_before: Option<Timestamp>,
) -> GroupPlan {
    events.sort_by_key(|event| (event.inner.tenant, event.inner.entity));
    let mut plan = GroupPlan {
        parts: parts.iter().map(|_| PlannedPart::default()).collect(),
        ..GroupPlan::default()
    };
    let mut events = events.into_iter().peekable();
    while let Some(first) = events.next() {
        let (tenant, entity) = (first.inner.tenant, first.inner.entity);
        let before = documents.remove(&entity);
        let document = before.as_ref().map(|stored| &stored.document);
        let mut history = EntityHistory::new(tenant, entity, document, closed_before);
        let mut now = parts[first.part].now;
        history.take(parts, first, document, &mut stored, &mut plan);
        while let Some(event) = events.next_if(|event| event.inner.entity == entity) {
            now = now.max(parts[event.part].now);
            history.take(parts, event, document, &mut stored, &mut plan);
        }
        history.finish(before, now, &mut plan);
    }
    plan
}

/// The rows of one instant, in order of seq: those that were there, then those of the group.
#[derive(Default)]
struct InstantRows {
    rows: Vec<StoredRow>,
    stored: usize,
    /// The parts that brought the rows after the stored ones.
    brought_by: Vec<usize>,
}

impl InstantRows {
    /// Whether no row of the instant can have named the series.
    fn is_unnamed(&self) -> bool {
        self.rows.is_empty() || fold_instant(&self.rows).replaced
    }
}

/// How large the values of one document may be together. Every update copies the document; PostgreSQL ends at 256 MiB.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How large a document can become while a group's events enter it.
struct DocumentSize {
    /// At first everything added up, however often an attribute comes; then the sum of the largest.
    bytes: usize,
    /// The largest value of each attribute, once adding up does not tell any more.
    largest: Option<HashMap<AttributeId, usize>>,
}

impl DocumentSize {
    fn of(document: Option<&Document>) -> DocumentSize {
        DocumentSize {
            bytes: sizes_in(document).map(|(_, bytes)| bytes).sum(),
            largest: None,
        }
    }

    /// Takes an event's values in, unless the document could then pass its bound. `before` and `rows` are what has been
    /// taken in already.
    fn admits<'a>(
        &mut self,
        attrs: &Attrs,
        before: Option<&Document>,
        rows: impl Iterator<Item = &'a StoredRow>,
    ) -> bool {
        let added: usize = sizes_of(attrs).map(|(_, bytes)| bytes).sum();
        if self.largest.is_none() && self.bytes + added <= DOCUMENT_BYTES_MAX {
            self.bytes += added;
            return true;
        }
        let largest = self.largest.get_or_insert_with(|| {
            let mut largest = HashMap::new();
            for (id, bytes) in sizes_in(before).chain(rows.flat_map(|row| sizes_of(&row.attrs))) {
                let slot: &mut usize = largest.entry(id).or_default();
                *slot = bytes.max(*slot);
            }
            self.bytes = largest.values().sum();
            largest
        });
        let grown: usize = sizes_of(attrs)
            .map(|(id, bytes)| bytes.saturating_sub(largest.get(&id).copied().unwrap_or(0)))
            .sum();
        if grown > 0 && self.bytes + grown > DOCUMENT_BYTES_MAX {
            return false;
        }
        self.bytes += grown;
        for (id, bytes) in sizes_of(attrs) {
            let slot = largest.entry(id).or_default();
            *slot = bytes.max(*slot);
        }
        true
    }
}

fn sizes_in(document: Option<&Document>) -> impl Iterator<Item = (AttributeId, usize)> {
    document
        .into_iter()
        .flat_map(Document::values)
        .map(|(id, value, _)| (id, value.stored_bytes()))
}

fn sizes_of(attrs: &Attrs) -> impl Iterator<Item = (AttributeId, usize)> {
    attrs.iter().map(|(id, cell)| (*id, cell.stored_bytes()))
}

/// One entity's rows while its events are appended.
struct EntityHistory {
    tenant: TenantId,
    entity: EntityId,
    created_by: Option<usize>,
    newest: Option<Timestamp>,
    /// The newest event is a replace or delete, so that the series has to be named again.
    emptied: bool,
    instants: BTreeMap<Timestamp, InstantRows>,
    size: DocumentSize,
    /// Rows of instants before it are late ones, and so are those that are there for them.
    closed_before: Option<Timestamp>,
}

impl EntityHistory {
    fn new(
        tenant: TenantId,
        entity: EntityId,
        document: Option<&Document>,
        closed_before: Option<Timestamp>,
    ) -> EntityHistory {
        let newest = document.and_then(|document| document.newest);
        EntityHistory {
            tenant,
            entity,
            created_by: None,
            newest,
            emptied: document.is_some_and(|document| document.floor == newest && newest.is_some()),
            instants: BTreeMap::new(),
            size: DocumentSize::of(document),
            closed_before,
        }
    }

    fn take(
        &mut self,
        parts: &[GroupPart<'_>],
        timed: TimedEvent<'_>,
        before: Option<&Document>,
        stored: &mut StoredInstants,
        plan: &mut GroupPlan,
    ) {
        let TimedEvent { part, at, inner } = timed;
        let is_newest = self.newest.is_none_or(|newest| at > newest);
        let is_named_time = self.newest.is_none() || !is_newest || self.emptied;
        let there = self.instants.entry(at).or_insert_with(|| {
            // What is newer than the newest event cannot be stored yet.
            let rows = stored.remove(&(self.entity, at)).unwrap_or_default();
            InstantRows {
                stored: rows.len(),
                rows,
                ..InstantRows::default()
            }
        });
        let attrs = match &inner.event.tags {
            // An instant that has rows already has its series named, unless a replace or delete emptied it: a line sent
            // again must find itself, and not be news for its tags.
            Tags::Series(tags) if is_named_time && there.is_unnamed() => {
                inner.event.attrs.clone().with(tags)
            }
            Tags::Series(_) | Tags::None => inner.event.attrs.clone(),
            Tags::Beside(others) => match conflicting_tag(
                &there.rows,
                &inner.event.attrs,
                others,
                parts[part].series_tags,
            ) {
                None => inner.event.attrs.clone(),
                Some(tag) => {
                    let reason = "another series wrote to this entity and instant: a tag beside the id differs";
                    let refusal = Refusal::new(RefusalCode::SeriesConflict, reason);
                    plan.refuse(part, inner.index, Some(tag), refusal);
                    return;
                }
            },
        };
        let taken = self.instants.values().flat_map(|instant| &instant.rows);
        if !self.size.admits(&attrs, before, taken) {
            let reason =
                format!("the document of an entity has at most {DOCUMENT_BYTES_MAX} bytes");
            let refusal = Refusal::new(RefusalCode::QuotaExceeded, reason);
            plan.refuse(part, inner.index, None, refusal);
            return;
        }
        plan.parts[part].last_at = Some(at);
        let values = attrs.len();
        // Looked up again: what was taken in had to be looked at as a whole.
        let there = self.instants.entry(at).or_default();
        let is_late = is_late(at, self.closed_before);
        let append = if is_late { append_late } else { append };
        let (outcome, row) = match append(&there.rows, at, inner.event.op, attrs) {
            Appended::New(row) => (EventOutcome::Accepted, row),
            // What it is beside an archived row nobody looks up: to its request it is new.
            Appended::Merged(row) | Appended::Corrected(row) if is_late => {
                (EventOutcome::Accepted, row)
            }
            Appended::Merged(row) => (EventOutcome::Merged, row),
            Appended::Corrected(row) => (EventOutcome::Corrected, row),
            Appended::Duplicate => {
                plan.count(part, EventOutcome::Duplicate, values);
                return;
            }
            Appended::Full => {
                let reason = "the instant holds as many corrections as are kept";
                let refusal = Refusal::new(RefusalCode::QuotaExceeded, reason);
                plan.refuse(part, inner.index, None, refusal);
                return;
            }
        };
        if is_newest {
            self.newest = Some(at);
        }
        if self.newest == Some(at) {
            self.emptied = matches!(row.op, Op::Replace | Op::Delete);
        }
        plan.count(part, outcome, values);
        if row.op != Op::Delete {
            self.created_by.get_or_insert(part);
        }
        there.rows.push(row);
        there.brought_by.push(part);
    }

    fn finish(self, before: Option<StoredDocument>, now: Timestamp, plan: &mut GroupPlan) {
        // In order of instant and seq, which is the order of the fold.
        let begin = plan.rows.len();
        let (tenant, entity) = (self.tenant, self.entity);
        for instant in self.instants.into_values() {
            let fresh = instant.rows.into_iter().skip(instant.stored);
            let rows = fresh.zip(instant.brought_by).map(|(row, part)| PlannedRow {
                part,
                tenant,
                entity,
                row,
            });
            plan.rows.extend(rows);
        }
        let fresh = &plan.rows[begin..];
        if fresh.is_empty() && before.is_none() {
            return;
        }
        let existed = before.is_some();
        let mut after = before.unwrap_or_else(|| StoredDocument {
            entity,
            document: Document::default(),
            updated_at: now,
        });
        let was_there = after.document.exists();
        let had_times = !after.document.is_of_one_time();
        let rows: Vec<&StoredRow> = fresh.iter().map(|planned| &planned.row).collect();
        let change = merge_rows(&mut after.document, &rows);
        if !change.changed.is_empty() {
            after.updated_at = now;
        }
        let came = !was_there && after.document.exists();
        plan.documents.push(PlannedDocument {
            tenant,
            has_times: had_times || !after.document.is_of_one_time(),
            stored: after,
            existed,
            created_by: self.created_by.filter(|_| came),
            change,
        });
    }
}

impl GroupPlan {
    /// Refuses events of partitions that are closed to writes, as the flush of staged ones does.
    pub(crate) fn refuse_closed(&mut self, events: &[TimedEvent<'_>]) {
        for event in events {
            let reason = "the period of the event is closed to writes";
            let refusal = Refusal::new(RefusalCode::SchemaViolation, reason);
            self.refuse(event.part, event.inner.index, None, refusal);
        }
    }

    fn refuse(&mut self, part: usize, index: u32, field: Option<AttributeId>, refusal: Refusal) {
        let planned = &mut self.parts[part];
        planned.counts.refused += 1;
        planned.refusals.push((index, field, refusal));
    }

    fn count(&mut self, part: usize, outcome: EventOutcome, values: usize) {
        let counts = &mut self.parts[part].counts;
        counts.values += i64::try_from(values).unwrap_or(i64::MAX);
        match outcome {
            EventOutcome::Accepted => counts.accepted += 1,
            EventOutcome::Duplicate => counts.duplicates += 1,
            EventOutcome::Merged => counts.merged += 1,
            EventOutcome::Corrected => counts.corrected += 1,
        }
    }

    /// The document of an entity that the group has touched.
    pub(crate) fn document(&self, tenant: TenantId, entity: EntityId) -> Option<&PlannedDocument> {
        let key = |planned: &PlannedDocument| (planned.tenant, planned.stored.entity);
        let place = self.documents.binary_search_by_key(&(tenant, entity), key);
        place.ok().map(|place| &self.documents[place])
    }
}

/// The attributes of an event that the document does not hold as the event has them, because it holds newer ones.
pub(crate) fn superseded(document: &Document, event: &Event, at: Timestamp) -> Vec<AttributeId> {
    let held_newer = |id: AttributeId| match document.cells.get(&id) {
        Some((_, held_since)) => *held_since > at,
        None => document.floor.is_some_and(|floor| floor > at),
    };
    let ids = event.attrs.iter().map(|(id, _)| *id);
    ids.filter(|id| held_newer(*id)).collect()
}

/// A tag beside the id that another line of the instant has otherwise, or lacks, or alone has.
fn conflicting_tag(
    there: &[StoredRow],
    attrs: &Attrs,
    others: &[AttributeId],
    series_tags: &HashSet<AttributeId>,
) -> Option<AttributeId> {
    if there.is_empty() {
        return None;
    }
    let stored = fold_instant(there);
    let lacking = stored.cells.iter().find(|(tag, cell)| {
        matches!(cell, Cell::Value(_)) && series_tags.contains(tag) && attrs.get(**tag).is_none()
    });
    if let Some((tag, _)) = lacking {
        return Some(*tag);
    }
    others
        .iter()
        .copied()
        .find(|tag| match (stored.cells.get(tag), attrs.get(*tag)) {
            (Some(Cell::Value(one)), Some(Cell::Value(two))) => one != two,
            // A tag that one line has and the other lacks is a different tag set, too.
            (None, Some(_)) => true,
            (Some(_) | None, None)
            | (Some(Cell::Removed), Some(_))
            | (Some(_), Some(Cell::Removed)) => false,
        })
}

#[cfg(test)]
mod tests;
