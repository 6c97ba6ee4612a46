//! Single values of histories, the nearest ones to a range, wherever their rows are.

use std::collections::{BTreeSet, HashMap};

use sheaf_model::{AttributeId, Cell, EntityId, StoredRow, Timestamp, fold_instant};
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::archive::{Boundaries, boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::histories::{ValueBeside, ValuesBeside, values_beside};
use sheaf_store::history::{EventsAsked, HistoryOf, Place};
use sheaf_store::snapshot::limit_time;

use super::divided::{BOUNDARIES_MAX, Range, STEP_BYTES, STEP_ROWS, split_of};
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::selection::Selection;
use crate::source::Source;
use crate::united::{InstantRows, Located, Walk, attributes_of};

/// Events of several entities that are looked at together.
const TOGETHER_MAX: usize = 10_000;

/// An entity of which single values are wanted, those of these keys.
pub(crate) struct WantedBeside {
    pub(crate) entity: EntityId,
    pub(crate) of: HistoryOf,
    pub(crate) keys: Vec<String>,
}

/// The last values before the end of a range, or the first ones after its beginning.
pub(crate) async fn beside(
    asked: (&Source, &TenantScope),
    catalogue: &Catalogue,
    mut wanted: Vec<WantedBeside>,
    (from, to): Range,
    is_last: bool,
) -> Result<Vec<ValueBeside>, ReadError> {
    let (source, _) = asked;
    if source.archive().whole().is_some() {
        return far(asked, catalogue, wanted, ((from, to), Some(to)), is_last).await;
    }
    let mut split = from;
    for _ in 0..BOUNDARIES_MAX {
        let (found, boundaries) = here(asked, &wanted, (split, to), is_last).await?;
        let entities: Vec<EntityId> = wanted.iter().map(|one| one.entity).collect();
        match split_of(asked, &entities, (split, to), &boundaries).await? {
            next if next > split => split = next,
            _ if split == from => return Ok(found),
            _ if is_last => {
                let mut all = found;
                for one in &mut wanted {
                    one.keys.retain(|key| !has(&all, one.entity, key));
                }
                wanted.retain(|one| !one.keys.is_empty());
                let range = ((from, split), boundaries.archived_before);
                all.extend(far(asked, catalogue, wanted, range, true).await?);
                return Ok(all);
            }
            _ => {
                let range = ((from, split), boundaries.archived_before);
                let mut all = far(asked, catalogue, wanted, range, false).await?;
                let mut later = found;
                later.retain(|value| !has(&all, value.entity, &value.key));
                all.append(&mut later);
                return Ok(all);
            }
        }
    }
    Err(ReadError::CatalogueChanged)
}

fn has(found: &[ValueBeside], entity: EntityId, key: &str) -> bool {
    let mut found = found.iter();
    found.any(|value| value.entity == entity && value.key == key)
}

/// Those that PostgreSQL has but for late ones, and where the boundaries are.
async fn here(
    (source, scope): (&Source, &TenantScope),
    wanted: &[WantedBeside],
    range: Range,
    is_last: bool,
) -> Result<(Vec<ValueBeside>, Boundaries), ReadError> {
    let pairs = wanted
        .iter()
        .flat_map(|one| one.keys.iter().map(|key| (one.entity, key.clone())));
    let values = ValuesBeside::new(scope.tenant(), pairs, range);
    let find = match is_last {
        true => values.find_last(),
        false => values.find_first(),
    };
    let statements = vec![limit_time(&STATEMENT_TIME_MAX), read_boundaries(), find];
    let rows = source.run(scope, statements).await?;
    let boundaries = boundaries_of(&rows[1])?;
    Ok((values_beside(&rows[2])?, boundaries))
}

/// Those of the archive, and of what arrived late for it.
async fn far(
    asked: (&Source, &TenantScope),
    catalogue: &Catalogue,
    wanted: Vec<WantedBeside>,
    ((from, to), boundary): (Range, Option<Timestamp>),
    is_last: bool,
) -> Result<Vec<ValueBeside>, ReadError> {
    let (source, scope) = asked;
    let place = match is_last {
        true => Place::before(to),
        false => Place::before(from),
    };
    let end = if is_last { from } else { to };
    let mut walks = Vec::with_capacity(wanted.len());
    for one in &wanted {
        let selection = selection_of(&one.keys)?;
        let of = one.of.clone();
        let mut walk = Walk::new(asked, catalogue, of, &selection, (is_last, end))?;
        walk.is_of(one.entity);
        walks.push(walk);
    }
    let archived = boundary.map(|boundary| boundary.min(to));
    if let Some(archived) = archived.filter(|archived| wanted.len() > 1 && from < *archived) {
        let keys: BTreeSet<&String> = wanted.iter().flat_map(|one| &one.keys).collect();
        let selection = selection_of(&keys.into_iter().cloned().collect::<Vec<_>>())?;
        let state = source.archive().older(archived).await?;
        let read = EventsAsked {
            entities: wanted.iter().map(|one| one.entity).collect(),
            attributes: attributes_of(&selection, catalogue)?,
            from,
            to: archived,
            newest_first: is_last,
            enough: TOGETHER_MAX,
            with_requests: false,
        };
        let read = state.events(scope, read).await?;
        let mut events: HashMap<EntityId, Vec<Located>> = HashMap::new();
        for event in read.events {
            events.entry(event.0).or_default().push(event);
        }
        for (walk, one) in walks.iter_mut().zip(&wanted) {
            let own = events.remove(&one.entity).unwrap_or_default();
            let from = (place.observed_at, one.entity, place.seq);
            walk.older.receive(own, from, read.reached, archived);
        }
    }
    let mut found = Vec::new();
    for (walk, one) in walks.iter_mut().zip(wanted) {
        found.extend(nearest(walk, one, place, is_last).await?);
    }
    Ok(found)
}

/// Walks until a value of each key is met, or to the end.
async fn nearest(
    walk: &mut Walk<'_>,
    wanted: WantedBeside,
    place: Place,
    is_last: bool,
) -> Result<Vec<ValueBeside>, ReadError> {
    let mut found = Vec::new();
    let mut keys: HashMap<AttributeId, String> = HashMap::new();
    for key in wanted.keys {
        keys.insert(id_of(&key)?, key);
    }
    let mut instants = InstantRows::default();
    let mut meet = |mut rows: Vec<Located>, keys: &mut HashMap<AttributeId, String>| {
        if is_last {
            rows.reverse();
        }
        let rows: Vec<&StoredRow> = rows.iter().map(|(_, history)| &history.row).collect();
        let Some(observed_at) = rows.first().map(|row| row.observed_at) else {
            return;
        };
        for (id, cell) in fold_instant(rows).cells {
            let (Cell::Value(value), Some(key)) = (cell, keys.get(&id)) else {
                continue;
            };
            let mut raw = String::new();
            value.write_stored(&mut raw);
            found.push(ValueBeside {
                entity: wanted.entity,
                key: key.clone(),
                observed_at,
                raw,
            });
            keys.remove(&id);
        }
    };
    let mut next = Some(place);
    while let Some(place) = next.filter(|_| !keys.is_empty()) {
        let step = walk.step(place, (STEP_ROWS, STEP_BYTES)).await?;
        for row in step.rows {
            meet(instants.push(row), &mut keys);
        }
        next = step.next;
    }
    if next.is_none() {
        meet(instants.finish(), &mut keys);
    }
    Ok(found)
}

fn selection_of(keys: &[String]) -> Result<Selection, ReadError> {
    let ids = keys.iter().map(|key| id_of(key));
    Ok(Selection::These(ids.collect::<Result<_, _>>()?))
}

fn id_of(key: &str) -> Result<AttributeId, ReadError> {
    let id = key.parse().map(AttributeId);
    Ok(id.map_err(|_| PgError::unreadable("reading the key of a value", key))?)
}
