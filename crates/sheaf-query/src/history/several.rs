//! The instants of several entities' histories, each from its beginning in a range.
//!
//! The first step of each is asked for together with those of the others: one round trip for many short histories. A
//! history that goes on is walked alone. Nothing beyond a step of each is in memory beside the items.

use std::collections::HashMap;

use sheaf_model::{AttributeId, AttributeType, EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::archive::{boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::{EventsAsked, HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;

use super::{
    Collector, HistoryItem, HistoryQuery, PAGE_BYTES_MAX, Progress, STEP_BYTES_MAX, STEP_ROWS_MAX,
    STEP_ROWS_MIN,
};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::retention::Shown;
use crate::selection::Selection;
use crate::source::Source;
use crate::united::{Walk, attributes_of};

/// Events of several histories that are read from the archive together. Where there are more, it is asked for fewer histories.
const TOGETHER_MAX: usize = 10_000;

/// What is left of a page.
pub(crate) struct Room {
    pub(crate) items: usize,
    /// Bytes of rows that were read for it.
    pub(crate) bytes_read: usize,
}

impl Room {
    pub(crate) fn is_used_up(&self) -> bool {
        self.items == 0 || self.bytes_read > PAGE_BYTES_MAX
    }
}

/// Items of one history.
pub(crate) struct Instants {
    pub(crate) items: Vec<HistoryItem>,
    /// From where the rest of it is to be asked for; absent where there is none.
    pub(crate) resume: Option<Place>,
}

/// A history, and where to go on in it.
pub(crate) struct OneOf {
    pub(crate) name: EntityName,
    pub(crate) entity: EntityId,
    pub(crate) place: Place,
}

/// The items of all these histories together that there is room for, in their order; those that were not come to are not in
/// the answer. Each goes on from its place.
pub(crate) async fn instants_of(
    (source, scope): (&Source, &TenantScope),
    catalogue: &Catalogue,
    histories: &[OneOf],
    (query, shown): (&HistoryQuery, &Shown),
    room: &mut Room,
) -> Result<Vec<Instants>, ReadError> {
    let selection = Selection::resolve_attributes(query.attributes.as_deref(), catalogue)?;
    let rows_max = (room.items + 1).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX);
    // The first steps are in memory together, and together they need not be more than fills the page.
    let first_rows_max = (rows_max / histories.len().max(1)).max(STEP_ROWS_MIN);
    let first_bounds = (first_rows_max, STEP_BYTES_MAX / histories.len().max(1));
    let all_of: Vec<HistoryOf> = histories
        .iter()
        .map(|one| {
            let name = &one.name;
            HistoryOf::new(scope.tenant(), &name.entity_type, &name.external_id)
        })
        .collect();
    let mut walks = Vec::with_capacity(histories.len());
    for (of, one) in all_of.iter().zip(histories) {
        let towards = (query.descending, query.end());
        let of = of.clone();
        let mut walk = Walk::new((source, scope), catalogue, of, &selection, towards)?;
        walk.is_of(one.entity);
        walks.push(walk);
    }
    let (mut ends, mut rows) = (Vec::new(), Vec::new());
    if source.archive().whole().is_none() {
        let steps: Vec<HistoryStep<'_>> = walks
            .iter()
            .zip(&all_of)
            .zip(histories)
            .map(|((walk, of), one)| walk.statement(of, one.place, first_bounds))
            .collect();
        let mut statements = vec![limit_time(&STATEMENT_TIME_MAX), read_boundaries()];
        statements.extend(steps.iter().map(HistoryStep::statement));
        rows = source.run(scope, statements).await?;
        ends.extend(steps.iter().map(HistoryStep::end));
    }
    let boundaries = match rows.get(1) {
        Some(rows) => Some(boundaries_of(rows)?),
        None => None,
    };
    let mut together = Together::new((source, scope), catalogue, &selection, query)?;
    let mut found = Vec::new();
    for place in 0..histories.len() {
        let boundary = match boundaries {
            Some(boundaries) => boundaries.archived_before,
            None => Some(Timestamp::MAX),
        };
        if let Some(boundary) = boundary {
            together
                .read(&mut walks, histories, place, boundary)
                .await?;
        }
        let walk = &mut walks[place];
        let mut progress = Progress::new(
            Collector::new(catalogue, (selection.clone(), shown), query),
            room.items,
        );
        progress.bytes = room.bytes_read;
        let read = boundaries.map(|boundaries| (rows[place + 2].as_slice(), boundaries));
        let end_here = ends.get(place).copied().unwrap_or(query.end());
        let first = walk.complete(histories[place].place, end_here, (first_rows_max, read));
        let mut next = progress.take(first.await?)?;
        while let Some(place) = next {
            let step = walk.step(place, (rows_max, STEP_BYTES_MAX));
            next = progress.take(step.await?)?;
        }
        room.bytes_read = progress.bytes;
        let (items, resume) = progress.collector.into_page(room.items, progress.is_end);
        room.items -= items.len();
        let is_cut = resume.is_some();
        found.push(Instants { items, resume });
        if is_cut || room.is_used_up() {
            break;
        }
    }
    Ok(found)
}

/// What the archive has of several histories, read at once: a file has something of each of them.
struct Together<'a> {
    asked: (&'a Source, &'a TenantScope),
    query: &'a HistoryQuery,
    attributes: Option<Vec<(AttributeId, AttributeType)>>,
    /// The first history that it was not read of.
    next: usize,
    /// How many are read at once.
    at_once: usize,
}

impl<'a> Together<'a> {
    fn new(
        asked: (&'a Source, &'a TenantScope),
        catalogue: &Catalogue,
        selection: &Selection,
        query: &'a HistoryQuery,
    ) -> Result<Together<'a>, ReadError> {
        Ok(Together {
            asked,
            query,
            attributes: attributes_of(selection, catalogue)?,
            next: 0,
            at_once: usize::MAX,
        })
    }

    /// Reads of the history at this place and of some after it, unless it was. Where that is too much, they read for themselves.
    async fn read(
        &mut self,
        walks: &mut [Walk<'_>],
        histories: &[OneOf],
        place: usize,
        boundary: Timestamp,
    ) -> Result<(), ReadError> {
        let (source, scope) = self.asked;
        let (from, to) = (self.query.from, self.query.to.unwrap_or(boundary));
        let to = to.min(boundary);
        if place < self.next || from.is_some_and(|from| from >= to) {
            return Ok(());
        }
        loop {
            let left = &histories[place..];
            let some = &left[..left.len().min(self.at_once)];
            if some.len() < 2 {
                self.next = place + some.len();
                return Ok(());
            }
            let first = some.iter().map(|one| one.place.observed_at).min();
            let state = source.archive().older(boundary).await?;
            let asked = EventsAsked {
                entities: some.iter().map(|one| one.entity).collect(),
                attributes: self.attributes.clone(),
                from: first.unwrap_or(Timestamp::MIN),
                to,
                newest_first: false,
                enough: TOGETHER_MAX,
                with_requests: false,
            };
            let read = state.events(scope, asked).await?;
            if read.reached.is_some() {
                self.at_once = some.len() / 2;
                continue;
            }
            let mut events: HashMap<EntityId, Vec<_>> = HashMap::new();
            for event in read.events {
                events.entry(event.0).or_default().push(event);
            }
            for (walk, one) in walks[place..].iter_mut().zip(some) {
                let own = events.remove(&one.entity).unwrap_or_default();
                let from = (one.place.observed_at, one.entity, one.place.seq);
                walk.older.receive(own, from, None, to);
            }
            self.next = place + some.len();
            return Ok(());
        }
    }
}
