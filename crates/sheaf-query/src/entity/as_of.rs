//! An entity as it was at an instant: the fold of the events observed at or before it.
//!
//! Rows are walked backwards, to the last replace or delete at most, and each attribute is settled by the first row that
//! names it. After the first rows the database is told which attributes are settled and gives only rows that name
//! others, so that telemetry of a million rows costs one scan of an index range and not a million rows sent. Before the boundary of the
//! history the walk goes on in the archive, to the last keyframe at most.

use std::collections::BTreeSet;

use sheaf_model::{AttributeId, EntityId, Op, StoredRow, Timestamp, fold_rows, merge_rows};
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::archive::{Boundaries, boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::documents::{StoredDocument, entity_of, read_entity};
use sheaf_store::events::{HistoryRow, history_of};
use sheaf_store::history::{Direction, HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;
use tokio_postgres::Row;

use super::{EntityQuery, Wanted};
use crate::answer::{EntityAnswer, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::{Reader, STATEMENT_TIME_MAX};
use crate::retention::Shown;
use crate::selection::Selection;
use crate::source::Source;
use crate::united::{self, Late, key_before, last_late};

/// Rows of the first step. Most entities report the same attributes each time, so that a few rows settle all.
const FIRST_ROWS_MAX: i64 = 50;
/// Rows of each further step, each of which names an attribute that the step before had not settled.
const ROWS_MAX: i64 = 500;
/// Steps of one read. Each settles at least one attribute; entities of which this many do not settle all have
/// attributes named once in thousands of events.
const STEPS_MAX: usize = 200;
/// Rows and bytes of a step where rows come from the archive, which settles nothing itself: between two keyframes there may be
/// many.
const ARCHIVED_STEP: (usize, usize) = (4_096, 4 * 1024 * 1024);

impl Reader {
    /// An entity as it was at an instant, whose version is absent. Nothing where it had no event by then, or was
    /// deleted.
    pub async fn entity_as_of(
        &self,
        scope: &TenantScope,
        entity_type: &str,
        external_id: &str,
        at: Timestamp,
        query: &EntityQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<EntityAnswer>>, ReadError> {
        let name = EntityName::canonical(entity_type, external_id);
        let mut attempt = Attempt::of_history(self, scope, options, None).await?;
        loop {
            let source = attempt.source().await?;
            let result = match Wanted::resolve(query, attempt.catalogue()) {
                Ok(wanted) => {
                    let shown = Shown::new(attempt.catalogue(), options.now);
                    as_of_under((&wanted, &shown), &source, scope, &name, at).await
                }
                Err(error) => Err(error),
            };
            if let Some(answer) = attempt.judge(source, result).await? {
                return Ok(answer);
            }
        }
    }
}

async fn as_of_under(
    (wanted, shown): (&Wanted<'_>, &Shown),
    source: &Source,
    scope: &TenantScope,
    name: &EntityName,
    at: Timestamp,
) -> Result<Option<EntityAnswer>, ReadError> {
    let tenant = scope.tenant();
    let (entity_type, external_id) = (name.entity_type.as_str(), name.external_id.as_str());
    let of = HistoryOf::new(tenant, entity_type, external_id);
    let place = Place::after(at);
    let first = to_floor(&of, (place, Timestamp::MIN), None, FIRST_ROWS_MAX);
    let is_elsewhere = source.archive().whole().is_some();
    let mut statements = vec![read_entity(&tenant, &entity_type, &external_id)];
    if !is_elsewhere {
        statements.extend([read_boundaries(), first.statement()]);
    }
    let rows = source.run(scope, statements).await?;
    let Some(row) = rows[0].first() else {
        return Ok(None);
    };
    let Some((_, Some(current))) = entity_of(row, wanted.catalogue)? else {
        return Ok(None);
    };
    let mut walk = Walk::new(current.entity, &wanted.selection);
    let asked = (source, scope);
    let now = current.document.clone();
    let mut stored = match rows.get(1..) {
        Some([boundaries, rows]) => {
            if current.document.newest.is_some_and(|newest| newest <= at) {
                // Nothing was observed since: the document is the fold.
                current
            } else {
                let boundaries = boundaries_of(boundaries)?;
                let split = split(asked, walk.entity, at, &boundaries).await?;
                let is_done = walk.take(rows, FIRST_ROWS_MAX, split, wanted.catalogue)?
                    || walk_on(&mut walk, wanted.catalogue, asked, &of, (at, split)).await?;
                match split.filter(|_| !is_done) {
                    Some(split) => {
                        let until = (split, boundaries.archived_before);
                        further_back(walk, wanted.catalogue, asked, of, (at, until)).await?
                    }
                    None => walk.into_document(),
                }
            }
        }
        _ => {
            let until = (Timestamp::MAX, Some(Timestamp::MAX));
            further_back(walk, wanted.catalogue, asked, of, (at, until)).await?
        }
    };
    if !stored.document.exists() {
        return Ok(None);
    }
    shown.leave_at(at, &mut stored.document, &now);
    Ok(Some(wanted.answer(name, stored, None)?))
}

fn to_floor<'a>(
    of: &'a HistoryOf,
    (place, end): (Place, Timestamp),
    keys: Option<&'a Vec<String>>,
    rows_max: i64,
) -> HistoryStep<'a> {
    HistoryStep::new(of, Direction::ToFloor, place, end, keys, rows_max)
}

/// Before which instant rows are to be found elsewhere as well: in the archive, or where late ones are.
async fn split(
    (source, scope): (&Source, &TenantScope),
    entity: EntityId,
    at: Timestamp,
    boundaries: &Boundaries,
) -> Result<Option<Timestamp>, ReadError> {
    let Some(closed_before) = boundaries.closed_before else {
        return Ok(boundaries.archived_before);
    };
    let to = at.saturating_add_micros(1).min(closed_before);
    let last = last_late((source, scope), &[entity], (Timestamp::MIN, to)).await?;
    let after = last.map(|last| last.saturating_add_micros(1));
    Ok(after.max(boundaries.archived_before))
}

/// Walks from the first step on, until all that is wanted is settled, or to where rows are elsewhere as well. Tells whether
/// nothing older matters.
async fn walk_on(
    walk: &mut Walk<'_>,
    catalogue: &Catalogue,
    (source, scope): (&Source, &TenantScope),
    of: &HistoryOf,
    (at, split): (Timestamp, Option<Timestamp>),
) -> Result<bool, ReadError> {
    let mut steps = 1;
    let end = split.unwrap_or(Timestamp::MIN);
    while !walk.is_at_end {
        if steps == STEPS_MAX {
            return Err(ReadError::QueryLimit {
                detail: "rows of history; select fewer attributes",
                source: None,
            });
        }
        steps += 1;
        let (keys, place) = (walk.settled_keys(), walk.place(at));
        let step = to_floor(of, (place, end), Some(&keys), ROWS_MAX);
        let statements = vec![
            limit_time(&STATEMENT_TIME_MAX),
            read_boundaries(),
            step.statement(),
        ];
        let rows = source.run(scope, statements).await?;
        if boundaries_of(&rows[1])?.archived_before > split {
            // What follows may be here no more: begun again, the walk knows where to look.
            return Err(ReadError::CatalogueChanged);
        }
        if walk.take(&rows[2], ROWS_MAX, split, catalogue)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is before an instant, rows of the archive and late ones with them: the events since the last keyframe, and that.
async fn further_back(
    mut walk: Walk<'_>,
    catalogue: &Catalogue,
    (source, scope): (&Source, &TenantScope),
    of: HistoryOf,
    (at, (split, boundary)): (Timestamp, (Timestamp, Option<Timestamp>)),
) -> Result<StoredDocument, ReadError> {
    let after = at.saturating_add_micros(1);
    let until = after.min(split);
    let keyframe = match boundary {
        None => None,
        Some(boundary) => {
            let state = source.archive().older(boundary).await?;
            state
                .keyframe(scope, walk.entity, after.min(boundary))
                .await?
        }
    };
    let end = keyframe.as_ref().map_or(Timestamp::MIN, |frame| frame.at);
    let asked = (source, scope);
    let mut rows = united::Walk::new(asked, catalogue, of, &Selection::All, (true, end))?;
    rows.is_of(walk.entity);
    let mut next = Some(Place::before(until));
    while let Some(place) = next {
        let step = rows.step(place, ARCHIVED_STEP).await?;
        for (_, row) in step.rows {
            if walk.meet(row) {
                return Ok(walk.into_document());
            }
        }
        next = step.next;
    }
    let Some(keyframe) = keyframe else {
        return Ok(walk.into_document());
    };
    let mut document = keyframe.document;
    let mut arrived = walk.newest_arrival.max(document.newest);
    // It may have been written before they arrived. Those that it knows change nothing.
    let late = Late::new(scope.tenant(), &[walk.entity], false, keyframe.at);
    let mut next = Some(key_before(Timestamp::MIN));
    while let Some(place) = next {
        let read = late.step(asked, catalogue, place).await?;
        for (_, row) in &read.rows {
            merge_rows(&mut document, &[&row.row]);
            arrived = arrived.max(Some(row.ingested_at));
        }
        next = read.reach;
    }
    let rows: Vec<&StoredRow> = walk.rows.iter().rev().collect();
    if !rows.is_empty() {
        merge_rows(&mut document, &rows);
    }
    Ok(StoredDocument {
        entity: walk.entity,
        updated_at: arrived.unwrap_or(Timestamp::MIN),
        document,
    })
}

/// The rows met so far that say something, newest first.
struct Walk<'a> {
    entity: EntityId,
    selection: &'a Selection,
    rows: Vec<StoredRow>,
    settled: BTreeSet<AttributeId>,
    last: Option<Place>,
    newest_arrival: Option<Timestamp>,
    /// Every row was met that is to be.
    is_at_end: bool,
}

impl<'a> Walk<'a> {
    fn new(entity: EntityId, selection: &'a Selection) -> Walk<'a> {
        Walk {
            entity,
            selection,
            rows: Vec::new(),
            settled: BTreeSet::new(),
            last: None,
            newest_arrival: None,
            is_at_end: false,
        }
    }

    /// Takes the rows of a step, as far as they are not before an instant; tells whether nothing older matters.
    fn take(
        &mut self,
        rows: &[Row],
        rows_max: i64,
        split: Option<Timestamp>,
        catalogue: &Catalogue,
    ) -> Result<bool, ReadError> {
        for row in rows {
            let history = history_of(row, catalogue)?;
            if split.is_some_and(|split| history.row.observed_at < split) {
                self.is_at_end = true;
                return Ok(false);
            }
            if self.meet(history) {
                return Ok(true);
            }
        }
        let count = i64::try_from(rows.len())
            .map_err(|_| PgError::unreadable("walking an entity's history", "rows"))?;
        self.is_at_end = count < rows_max;
        Ok(false)
    }

    /// Takes a row; tells whether nothing older matters.
    fn meet(&mut self, history: HistoryRow) -> bool {
        let HistoryRow {
            row, ingested_at, ..
        } = history;
        let is_floor = match row.op {
            Op::Replace | Op::Delete => true,
            Op::Patch | Op::Correct => false,
        };
        self.last = Some(Place {
            observed_at: row.observed_at,
            seq: row.seq,
        });
        let mut says_something = is_floor || self.rows.is_empty();
        for (id, _) in row.attrs.iter() {
            says_something |= self.settled.insert(*id);
        }
        if says_something {
            self.newest_arrival = self.newest_arrival.max(Some(ingested_at));
            self.rows.push(row);
        }
        is_floor || self.is_settled()
    }

    fn is_settled(&self) -> bool {
        match self.selection {
            Selection::All => false,
            Selection::These(ids) => ids.iter().all(|id| self.settled.contains(id)),
        }
    }

    fn settled_keys(&self) -> Vec<String> {
        self.settled.iter().map(ToString::to_string).collect()
    }

    fn place(&self, at: Timestamp) -> Place {
        self.last.unwrap_or(Place::after(at))
    }

    fn into_document(self) -> StoredDocument {
        let document = fold_rows(self.rows.iter().rev());
        StoredDocument {
            entity: self.entity,
            updated_at: self.newest_arrival.unwrap_or(Timestamp::MIN),
            document,
        }
    }
}
