//! What a group of events does: which rows they become, and what the documents become. Pure; the lane reads and writes.
//!
//! It takes two steps, because which stored rows matter depends on the documents: [`time_events`] gives every event its
//! instant and names the instants to read; [`plan_group`] decides the rest.

use std::collections::{BTreeMap, HashMap};

use sheaf_model::{
    Appended, AttributeId, Attrs, Cell, Document, DocumentChange, EntityId, Event, Op, Refusal,
    RefusalCode, StoredRow, Tags, Timestamp, append, fold_instant, fold_rows, merge, time_after,
};
use sheaf_store::documents::StoredDocument;

/// An event of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupEvent {
    /// Its place in the request.
    pub(crate) index: u32,
    /// Whose it is.
    pub(crate) entity: EntityId,
    /// What it says.
    pub(crate) event: Event,
}

/// An event with its instant.
#[derive(Debug)]
pub(crate) struct TimedEvent<'a> {
    at: Timestamp,
    inner: &'a GroupEvent,
}

/// Documents of a group, by entity.
pub(crate) type Documents = HashMap<EntityId, StoredDocument>;
/// Rows already there, by entity and instant, in order of seq.
pub(crate) type StoredInstants = HashMap<(EntityId, Timestamp), Vec<StoredRow>>;

/// Gives every event its instant, and tells which instants of which entities must be compared with what is stored.
pub(crate) fn time_events<'a>(
    events: &'a [GroupEvent],
    documents: &Documents,
    now: Timestamp,
) -> (Vec<TimedEvent<'a>>, Vec<(EntityId, Timestamp)>) {
    let mut newest_so_far: HashMap<EntityId, Timestamp> = HashMap::new();
    let mut to_read = Vec::new();
    let mut timed = Vec::with_capacity(events.len());
    for inner in events {
        let stored = documents
            .get(&inner.entity)
            .and_then(|stored| stored.document.newest);
        let newest = stored.max(newest_so_far.get(&inner.entity).copied());
        let at = inner
            .event
            .observed_at
            .unwrap_or_else(|| time_after(now, newest));
        if newest.is_none_or(|newest| at > newest) {
            newest_so_far.insert(inner.entity, at);
        }
        if stored.is_some_and(|stored| at <= stored) {
            to_read.push((inner.entity, at));
        }
        timed.push(TimedEvent { at, inner });
    }
    to_read.sort_unstable();
    to_read.dedup();
    (timed, to_read)
}

/// What an event came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    Accepted,
    Duplicate,
    Merged,
    Corrected,
    Refused,
}

/// A planned event, for the counts of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) entity: EntityId,
    pub(crate) outcome: EventOutcome,
    pub(crate) values: usize,
}

/// An entity's document after the group.
#[derive(Debug)]
pub(crate) struct PlannedDocument {
    pub(crate) stored: StoredDocument,
    /// Whether there was one before; else it is inserted.
    pub(crate) existed: bool,
    /// What the group changed of it.
    pub(crate) change: DocumentChange,
    /// Whether times are among it that do not follow from the newest event, before or after.
    pub(crate) has_times: bool,
    /// The instant of the entity's last event in the group.
    pub(crate) last_at: Timestamp,
}

/// Everything that a group does.
#[derive(Debug, Default)]
pub(crate) struct GroupPlan {
    /// Rows to append, sorted by entity, instant and seq.
    pub(crate) rows: Vec<(EntityId, StoredRow)>,
    /// Documents, in order of entity.
    pub(crate) documents: Vec<PlannedDocument>,
    /// What each event came to.
    pub(crate) outcomes: Vec<Planned>,
    /// Events that cannot be stored beside what is there, by their place in the request.
    pub(crate) refusals: Vec<(u32, Option<AttributeId>, Refusal)>,
}

/// Decides what a group does. Events of one entity stay in the order of the request, which is their order of commit.
pub(crate) fn plan_group(
    mut events: Vec<TimedEvent<'_>>,
    mut documents: Documents,
    mut stored: StoredInstants,
    now: Timestamp,
) -> GroupPlan {
    events.sort_by_key(|event| event.inner.entity);
    let mut plan = GroupPlan::default();
    let mut events = events.into_iter().peekable();
    while let Some(first) = events.next() {
        let entity = first.inner.entity;
        let before = documents.remove(&entity);
        let mut history =
            EntityHistory::new(entity, before.as_ref().map(|stored| &stored.document));
        let document = before.as_ref().map(|stored| &stored.document);
        history.take(first, document, &mut stored, &mut plan);
        while let Some(event) = events.next_if(|event| event.inner.entity == entity) {
            history.take(event, document, &mut stored, &mut plan);
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
    /// The tags beside the id of the group's lines at this instant.
    beside: Option<Attrs>,
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
    entity: EntityId,
    newest: Option<Timestamp>,
    /// The newest event is a replace or delete, so that the series has to be named again.
    emptied: bool,
    instants: BTreeMap<Timestamp, InstantRows>,
    size: DocumentSize,
    last_at: Timestamp,
}

impl EntityHistory {
    fn new(entity: EntityId, document: Option<&Document>) -> EntityHistory {
        let newest = document.and_then(|document| document.newest);
        EntityHistory {
            entity,
            newest,
            emptied: document.is_some_and(|document| document.floor == newest && newest.is_some()),
            instants: BTreeMap::new(),
            size: DocumentSize::of(document),
            last_at: Timestamp::MIN,
        }
    }

    fn take(
        &mut self,
        timed: TimedEvent<'_>,
        before: Option<&Document>,
        stored: &mut StoredInstants,
        plan: &mut GroupPlan,
    ) {
        let TimedEvent { at, inner } = timed;
        let is_newest = self.newest.is_none_or(|newest| at > newest);
        let is_named_time = self.newest.is_none() || !is_newest || self.emptied;
        let there = self.instants.entry(at).or_insert_with(|| {
            // What is newer than the newest event cannot be stored yet.
            let rows = stored.remove(&(self.entity, at)).unwrap_or_default();
            InstantRows {
                stored: rows.len(),
                rows,
                beside: None,
            }
        });
        let attrs = match &inner.event.tags {
            // An instant that has rows already has its series named, unless a replace or delete emptied it: a line sent
            // again must find itself, and not be news for its tags.
            Tags::Series(tags) if is_named_time && there.is_unnamed() => {
                inner.event.attrs.clone().with(tags)
            }
            Tags::Series(_) | Tags::None => inner.event.attrs.clone(),
            Tags::Beside(others) => match conflicting_tag(there, &inner.event.attrs, others) {
                None => {
                    there.beside = Some(
                        inner
                            .event
                            .attrs
                            .clone()
                            .without(|id, _| !others.contains(&id)),
                    );
                    inner.event.attrs.clone()
                }
                Some(tag) => {
                    let reason = "another series wrote to this entity and instant: a tag beside the id differs";
                    let refusal = Refusal::new(RefusalCode::SeriesConflict, reason);
                    plan.refuse(self.entity, inner.index, Some(tag), refusal);
                    return;
                }
            },
        };
        let taken = self.instants.values().flat_map(|instant| &instant.rows);
        if !self.size.admits(&attrs, before, taken) {
            let reason =
                format!("the document of an entity has at most {DOCUMENT_BYTES_MAX} bytes");
            plan.refuse(
                self.entity,
                inner.index,
                None,
                Refusal::new(RefusalCode::QuotaExceeded, reason),
            );
            return;
        }
        self.last_at = at;
        let values = attrs.len();
        // Looked up again: what was taken in had to be looked at as a whole.
        let there = self.instants.entry(at).or_default();
        let (outcome, row) = match append(&there.rows, at, inner.event.op, attrs) {
            Appended::New(row) => (EventOutcome::Accepted, row),
            Appended::Merged(row) => (EventOutcome::Merged, row),
            Appended::Corrected(row) => (EventOutcome::Corrected, row),
            Appended::Duplicate => {
                plan.outcomes.push(Planned {
                    entity: self.entity,
                    outcome: EventOutcome::Duplicate,
                    values,
                });
                return;
            }
            Appended::Full => {
                let reason = "the instant holds 16384 corrections, the most that are kept";
                plan.refuse(
                    self.entity,
                    inner.index,
                    None,
                    Refusal::new(RefusalCode::QuotaExceeded, reason),
                );
                return;
            }
        };
        if is_newest {
            self.newest = Some(at);
        }
        if self.newest == Some(at) {
            self.emptied = matches!(row.op, Op::Replace | Op::Delete);
        }
        plan.outcomes.push(Planned {
            entity: self.entity,
            outcome,
            values,
        });
        there.rows.push(row);
    }

    fn finish(self, before: Option<StoredDocument>, now: Timestamp, plan: &mut GroupPlan) {
        // In order of instant and seq, which is the order of the fold.
        let fresh: Vec<StoredRow> = self
            .instants
            .into_values()
            .flat_map(|instant| instant.rows.into_iter().skip(instant.stored))
            .collect();
        if fresh.is_empty() && before.is_none() {
            return;
        }
        let existed = before.is_some();
        let mut after = before.unwrap_or_else(|| StoredDocument {
            entity: self.entity,
            document: Document::default(),
            updated_at: now,
        });
        let had_times = !after.document.is_of_one_time();
        let change = merge(&mut after.document, fold_rows(&fresh));
        if !change.changed.is_empty() {
            after.updated_at = now;
        }
        plan.documents.push(PlannedDocument {
            has_times: had_times || !after.document.is_of_one_time(),
            stored: after,
            existed,
            change,
            last_at: self.last_at,
        });
        plan.rows
            .extend(fresh.into_iter().map(|row| (self.entity, row)));
    }
}

impl GroupPlan {
    fn refuse(
        &mut self,
        entity: EntityId,
        index: u32,
        field: Option<AttributeId>,
        refusal: Refusal,
    ) {
        self.outcomes.push(Planned {
            entity,
            outcome: EventOutcome::Refused,
            values: 0,
        });
        self.refusals.push((index, field, refusal));
    }
}

/// A tag beside the id that another line of the instant has otherwise, or lacks, or alone has. Of lines stored before,
/// only the tags that this one names can be told from fields.
fn conflicting_tag(
    there: &InstantRows,
    attrs: &Attrs,
    others: &[AttributeId],
) -> Option<AttributeId> {
    if there.rows.is_empty() {
        return None;
    }
    if let Some(before) = &there.beside
        && let Some((tag, _)) = before.iter().find(|(tag, _)| !others.contains(tag))
    {
        return Some(*tag);
    }
    let stored = fold_instant(&there.rows);
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
