//! Events of single entities, made again of the facts that the lake has of them: those that count and those that were corrected
//! are all that was ever said.
//!
//! Files are read in the order of their days, a few at a time, until there are enough events; so what is in memory is bounded
//! whatever an entity has reported.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, OnceLock};

use datafusion::common::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use futures::{StreamExt, TryStreamExt, stream};
use sheaf_model::{Attrs, EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::events::HistoryRow;
use sheaf_store::history::{EventsAsked, EventsRead};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::error::{Bound, QueryError};
use super::excerpts::{Excerpt, Part, Sought, Span, Subject, are_many, middle};
use super::files::{ColumnBounds, Edge, KnownFile, of_tenant};
use super::scan::{Source, Tally};
use super::{LakeReader, LakeSnapshot, Shared};
use crate::error::LakeError;
use crate::schema::LakeTable;

/// The tables that events are in.
const FACTS: [LakeTable; 2] = [LakeTable::Facts, LakeTable::FactsCorrected];

impl LakeReader {
    /// Events of some entities of a tenant, as of a state of the lake.
    ///
    /// # Errors
    /// The lake cannot be read, or it takes more than it may.
    pub async fn events(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
        asked: EventsAsked,
    ) -> Result<EventsRead, QueryError> {
        let standing = snapshot.standing.as_ref().ok_or(QueryError::Empty)?;
        let bounds = self.shared.options.bounds;
        let tenant = scope.tenant();
        let budget = self.shared.budgets.open(tenant) as Arc<dyn MemoryPool>;
        let subject = Subject::of(tenant.0, &asked);
        let reading = Reading {
            shared: Arc::clone(&self.shared),
            tables: standing.tables.clone(),
            subject: Arc::new(subject),
            sought: Default::default(),
            context: context(budget).map_err(QueryError::of_planning)?,
            tally: Arc::new(Tally::default()),
        };
        let reading = reading.events(asked);
        let read = timeout(bounds.time_after(snapshot.waited), reading).await;
        read.map_err(|_| QueryError::limit(Bound::Time))?
    }
}

impl KnownFile {
    fn column(&self, table: LakeTable, name: &str) -> Option<&ColumnBounds> {
        let mut columns = table.columns().iter();
        self.columns
            .get(columns.position(|column| column.name == name)?)
    }

    /// The least and the greatest number of a column, where that is said.
    fn longs(&self, table: LakeTable, name: &str) -> (Option<i64>, Option<i64>) {
        let long = |edge: &Option<Edge>| match edge {
            Some(Edge::Long(number)) => Some(*number),
            _ => None,
        };
        match self.column(table, name) {
            Some(bounds) => (long(&bounds.least), long(&bounds.greatest)),
            None => (None, None),
        }
    }

    /// The first and the last instant of a column.
    pub(crate) fn instants(&self, table: LakeTable, name: &str) -> (Timestamp, Timestamp) {
        let (first, last) = self.longs(table, name);
        let instant = |micros: Option<i64>, open| {
            let known = micros.and_then(|micros| Timestamp::from_micros(micros).ok());
            known.unwrap_or(open)
        };
        (
            instant(first, Timestamp::MIN),
            instant(last, Timestamp::MAX),
        )
    }

    /// Whether it has room for a number.
    pub(crate) fn may_hold(&self, table: LakeTable, name: &str, number: i64) -> bool {
        has_within(&[number], self.longs(table, name))
    }
}

impl Subject {
    fn of(tenant: i64, asked: &EventsAsked) -> Subject {
        let mut entities: Vec<i64> = asked.entities.iter().map(|entity| entity.0).collect();
        entities.sort_unstable();
        entities.dedup();
        let attributes = asked.attributes.as_ref().map(|attributes| {
            let mut attributes: Vec<_> =
                attributes.iter().map(|(id, kind)| (id.0, *kind)).collect();
            attributes.sort_unstable_by_key(|(id, _)| *id);
            attributes.dedup();
            attributes
        });
        Subject {
            tenant,
            entities,
            attributes,
            with_requests: asked.with_requests,
        }
    }

    /// Whether a file may say something that matters.
    fn may_be_in(&self, table: LakeTable, file: &KnownFile) -> bool {
        let entities = file.longs(table, "entity_id");
        if !has_within(&self.entities, entities) {
            return false;
        }
        let Some(attributes) = &self.attributes else {
            return true;
        };
        let bounds = file.column(table, "attribute_id");
        let has_of_event = bounds.is_none_or(|bounds| bounds.nulls != Some(0));
        let has_later = match file.column(table, "seq").map(|bounds| &bounds.greatest) {
            Some(Some(Edge::Int(greatest))) => *greatest > 0,
            _ => true,
        };
        let named = file.longs(table, "attribute_id");
        let ids: Vec<i64> = attributes.iter().map(|(id, _)| *id).collect();
        has_of_event || has_later || has_within(&ids, named)
    }
}

/// Whether one of these numbers, which are in order, is between two others.
fn has_within(numbers: &[i64], (least, greatest): (Option<i64>, Option<i64>)) -> bool {
    let first = least.map_or(0, |least| numbers.partition_point(|number| *number < least));
    let found = numbers.get(first);
    found.is_some_and(|number| greatest.is_none_or(|greatest| *number <= greatest))
}

/// A file that may matter, and between which instants.
struct Candidate {
    /// Which of [`FACTS`] it is of.
    of: usize,
    file: Arc<KnownFile>,
    first: Timestamp,
    last: Timestamp,
}

/// Nothing but memory is bounded in it: rows come from the tenant's scan alone.
pub(crate) fn context(budget: Arc<dyn MemoryPool>) -> Result<Arc<TaskContext>, DataFusionError> {
    let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(budget)
        .with_disk_manager_builder(no_disk)
        .build_arc()?;
    Ok(Arc::new(TaskContext::default().with_runtime(runtime)))
}

/// Events that are being read.
struct Reading {
    shared: Arc<Shared>,
    /// The lake's tables, and where the description of each is.
    tables: Vec<(String, String)>,
    subject: Arc<Subject>,
    /// What is sought in each of [`FACTS`], once a file is read.
    sought: [OnceLock<Arc<Sought>>; 2],
    context: Arc<TaskContext>,
    tally: Arc<Tally>,
}

impl Reading {
    async fn events(self, asked: EventsAsked) -> Result<EventsRead, QueryError> {
        let span = Span {
            from: asked.from,
            to: asked.to,
            newest_first: asked.newest_first,
        };
        let mut gathering = Gathering::new(span, asked.enough);
        if span.from >= span.to || self.subject.entities.is_empty() {
            return Ok(gathering.read);
        }
        let files = self.candidates(span).await?;
        // Files that overlap in time say it together.
        let mut ends = ends(&files, span.newest_first).into_iter();
        let mut excerpts = stream::iter(files)
            .map(|file| self.excerpt(file, span))
            .buffered(self.shared.threads.count())
            .boxed();
        while let Some(excerpt) = excerpts.try_next().await? {
            if gathering.take(&excerpt, ends.next().flatten()) {
                break;
            }
        }
        Ok(gathering.read)
    }

    /// The files that may say something, in the order of their instants.
    async fn candidates(&self, span: Span) -> Result<Vec<Candidate>, QueryError> {
        let mut candidates = Vec::new();
        for (of, table) in FACTS.into_iter().enumerate() {
            let known = self.tables.iter().find(|(name, _)| name == table.name());
            let Some((_, description)) = known else {
                continue;
            };
            let files = files_of(&self.shared, table, description, self.subject.tenant);
            for file in files.await? {
                let (first, last) = file.instants(table, "observed_at");
                let overlaps = first < span.to && last >= span.from;
                if overlaps && self.subject.may_be_in(table, &file) {
                    candidates.push(Candidate {
                        of,
                        file,
                        first,
                        last,
                    });
                }
            }
        }
        match span.newest_first {
            true => candidates.sort_by_key(|file| Reverse(file.last)),
            false => candidates.sort_by_key(|file| file.first),
        }
        Ok(candidates)
    }

    fn sought(&self, of: usize) -> Result<Arc<Sought>, DataFusionError> {
        let known = &self.sought[of];
        if let Some(known) = known.get() {
            return Ok(Arc::clone(known));
        }
        let sought = Arc::new(Sought::of(&self.subject, FACTS[of])?);
        Ok(Arc::clone(known.get_or_init(|| sought)))
    }

    async fn excerpt(&self, candidate: Candidate, span: Span) -> Result<Arc<Excerpt>, QueryError> {
        let Candidate { of, file, .. } = candidate;
        let book = &self.shared.excerpts;
        if let Some(known) = book.find(&file.location, &self.subject) {
            return Ok(known);
        }
        let sought = self.sought(of).map_err(QueryError::of_planning)?;
        let source = Source {
            table: FACTS[of],
            tenant: self.subject.tenant,
            warehouse: self.shared.warehouse.clone(),
            ends: Arc::clone(&self.shared.ends),
            tally: Arc::clone(&self.tally),
            rows_max: self.shared.options.bounds.rows_max,
        };
        let (told, excerpt) = tokio::sync::oneshot::channel();
        let (shared, subject) = (Arc::clone(&self.shared), Arc::clone(&self.subject));
        let context = Arc::clone(&self.context);
        let task = Task(self.shared.threads.spawn(async move {
            let book = &shared.excerpts;
            let read = book.read(&sought, (source, file), &subject, span, context);
            let read = read.await;
            let _ = told.send(read);
        }));
        let read = excerpt.await.map_err(|_| QueryError::Internal {
            step: "reading events of entities",
            source: "its computation ended".into(),
        })?;
        drop(task);
        read.map_err(QueryError::of_running)
    }
}

/// The files of a table that may hold rows of a tenant.
pub(crate) async fn files_of(
    shared: &Shared,
    table: LakeTable,
    description: &str,
    tenant: i64,
) -> Result<Vec<Arc<KnownFile>>, QueryError> {
    let files = shared.book.files(table, description).await;
    of_tenant(table, &files.map_err(of_lake)?, tenant).map_err(of_lake)
}

fn of_lake(error: LakeError) -> QueryError {
    QueryError::of_running(DataFusionError::External(Box::new(error)))
}

/// A task that ends with whoever waits for it.
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// After each of the files, which are in order: up to where everything has been read then. None where the next one overlaps.
fn ends(files: &[Candidate], newest_first: bool) -> Vec<Option<Timestamp>> {
    let mut ends = Vec::with_capacity(files.len());
    let mut reached: Option<Timestamp> = None;
    for (place, file) in files.iter().enumerate() {
        let next = files.get(place + 1);
        let end = match newest_first {
            true => {
                let first = reached.map_or(file.first, |reached| reached.min(file.first));
                reached = Some(first);
                next.is_none_or(|next| next.last < first).then_some(first)
            }
            false => {
                let last = reached.map_or(file.last, |reached| reached.max(file.last));
                reached = Some(last);
                let after = last.saturating_add_micros(1);
                next.is_none_or(|next| next.first > last).then_some(after)
            }
        };
        ends.push(end);
    }
    ends
}

/// Events in the making, of what file after file says.
struct Gathering {
    /// What is wanted, as far as nothing of it was cut off.
    span: Span,
    is_cut: bool,
    enough: usize,
    /// What was said since everything up to some instant was there.
    parts: Vec<Part>,
    read: EventsRead,
}

impl Gathering {
    fn new(span: Span, enough: usize) -> Gathering {
        Gathering {
            span,
            is_cut: false,
            enough,
            parts: Vec::new(),
            read: EventsRead {
                events: Vec::new(),
                reached: None,
            },
        }
    }

    /// Takes what the next file says, and up to where everything is there with it, if that is so. Tells whether it is enough.
    fn take(&mut self, excerpt: &Excerpt, end: Option<Timestamp>) -> bool {
        if let Some(cut) = excerpt.cut {
            self.cut_at(cut);
        }
        let within = excerpt.parts.iter();
        let within = within.filter(|(_, event)| self.span.holds(event.row.observed_at));
        self.parts.extend(within.cloned());
        while are_many(&self.parts)
            && let Some(cut) = middle(&self.parts, self.span.newest_first)
        {
            self.cut_at(cut);
        }
        let Some(end) = end else {
            return false;
        };
        let (span, parts) = (self.span, std::mem::take(&mut self.parts));
        let mut events = whole_events(parts, span.newest_first);
        self.read.events.append(&mut events);
        if self.is_cut {
            // The nearest of all cuts, in whichever file it was.
            self.read.reached = Some(match span.newest_first {
                true => span.from,
                false => span.to,
            });
            return true;
        }
        if self.read.events.len() < self.enough {
            return false;
        }
        self.read.reached = Some(end).filter(|end| match span.newest_first {
            true => span.from < *end,
            false => *end < span.to,
        });
        true
    }

    fn cut_at(&mut self, cut: Timestamp) {
        self.is_cut = true;
        self.span = self.span.until(cut);
        let span = self.span;
        self.parts
            .retain(|(_, event)| span.holds(event.row.observed_at));
    }
}

/// Events of their parts, in order.
fn whole_events(parts: Vec<Part>, newest_first: bool) -> Vec<(EntityId, HistoryRow)> {
    let mut events: BTreeMap<(Timestamp, EntityId, i16), HistoryRow> = BTreeMap::new();
    let mut cells = Vec::new();
    for (entity, part) in parts {
        let key = (part.row.observed_at, entity, part.row.seq);
        match events.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(part);
            }
            Entry::Occupied(_) if part.row.attrs.is_empty() => {}
            Entry::Occupied(_) => cells.push((key, part.row.attrs)),
        }
    }
    let mut others: BTreeMap<_, Vec<Attrs>> = BTreeMap::new();
    for (key, attrs) in cells {
        others.entry(key).or_default().push(attrs);
    }
    for (key, attrs) in others {
        if let Some(event) = events.get_mut(&key) {
            let own = std::mem::take(&mut event.row.attrs);
            let all = std::iter::once(&own).chain(&attrs);
            let all: BTreeMap<_, _> = all.flat_map(Attrs::iter).cloned().collect();
            event.row.attrs = Attrs::from_distinct(all.into_iter().collect());
        }
    }
    let events = events
        .into_iter()
        .map(|((_, entity, _), event)| (entity, event));
    match newest_first {
        true => events.rev().collect(),
        false => events.collect(),
    }
}

#[cfg(test)]
mod tests;
