//! Rows of histories as one: those that PostgreSQL holds, and before the boundary those of the archive.
//!
//! Both come in the same order. What arrived late, and what the archive has already while it is here still, is on both sides, and
//! is one row: a row is known by its entity, its instant and its number within that. Each transaction says where the boundary was in
//! its own snapshot, so that it may move between two of them.

use std::collections::VecDeque;

use sheaf_model::{AttributeId, AttributeType, EntityId, Timestamp};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::events::{HistoryRow, history_of};
use sheaf_store::history::is_whole;
use tokio_postgres::Row;

use crate::error::ReadError;
use crate::selection::Selection;

mod late;
mod older;
mod several;
mod walk;

pub(crate) use late::{Late, last_late};
pub(crate) use older::Older;
pub(crate) use several::SeveralWalk;
pub(crate) use walk::{Step, Walk};

/// A row and whose it is.
pub(crate) type Located = (EntityId, HistoryRow);

/// Where a row is among those of all entities.
pub(crate) type Key = (Timestamp, EntityId, i16);

pub(crate) fn key_of((entity, history): &Located) -> Key {
    (history.row.observed_at, *entity, history.row.seq)
}

/// Before every row of an instant.
pub(crate) fn key_before(time: Timestamp) -> Key {
    (time, EntityId(i64::MIN), -1)
}

/// Rows in the order of a walk, and how far they reach: every row up to there, and the one that is there, is among them.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) rows: VecDeque<Located>,
    /// Absent where they reach to the end of what is walked.
    pub(crate) reach: Option<Key>,
}

/// The rows of all of them, at most so many. Those that were not come to stay where they are.
pub(crate) fn unite(newest_first: bool, sides: &mut [&mut Stretch], rows_max: usize) -> Stretch {
    let is_before = |one: Key, two: Key| if newest_first { one > two } else { one < two };
    let nearer = |one: Key, two: Key| if is_before(two, one) { two } else { one };
    let mut reach = sides.iter().filter_map(|side| side.reach).reduce(nearer);
    let mut rows = VecDeque::new();
    loop {
        let firsts = sides
            .iter()
            .filter_map(|side| side.rows.front().map(key_of));
        let Some(next) = firsts.reduce(nearer) else {
            break;
        };
        if reach.is_some_and(|reach| is_before(reach, next)) {
            break;
        }
        if rows.len() == rows_max {
            reach = rows.back().map(key_of);
            break;
        }
        let mut is_new = true;
        for side in sides.iter_mut() {
            if side.rows.front().map(key_of) == Some(next) {
                let row = side.rows.pop_front();
                rows.extend(row.filter(|_| std::mem::take(&mut is_new)));
            }
        }
    }
    Stretch { rows, reach }
}

/// Instants behind a place, in the order of a walk that ends somewhere: those before a boundary.
fn range_behind(
    newest_first: bool,
    place: Key,
    end: Timestamp,
    boundary: Option<Timestamp>,
) -> Option<(Timestamp, Timestamp)> {
    let boundary = boundary?;
    let (from, to) = match newest_first {
        // An instant that the place is before is done with.
        true if place.2 < 0 => (end, place.0.min(boundary)),
        true => (end, place.0.saturating_add_micros(1).min(boundary)),
        false => (place.0, end.min(boundary)),
    };
    (from < to).then_some((from, to))
}

/// The whole rows of a step, what they take, and whether there may be more.
fn located(
    rows: &[Row],
    rows_max: usize,
    of_one: Option<EntityId>,
    catalogue: &Catalogue,
) -> Result<(Stretch, usize, bool), ReadError> {
    let mut stretch = Stretch::default();
    let mut bytes = 0;
    for row in rows.iter().take_while(|row| is_whole(row)) {
        bytes += row.raw_size_bytes();
        let entity = of_one.unwrap_or_else(|| EntityId(row.get("entity_id")));
        stretch
            .rows
            .push_back((entity, history_of(row, catalogue)?));
    }
    let is_cut = rows.len() >= rows_max || stretch.rows.len() < rows.len();
    stretch.reach = stretch.rows.back().filter(|_| is_cut).map(key_of);
    Ok((stretch, bytes, is_cut))
}

/// What the rows of all sides take, where those of one are known already.
fn more_bytes(together: &Stretch, known: usize) -> usize {
    let all: usize = together.rows.iter().map(bytes_of).sum();
    all.saturating_sub(known)
}

/// The attributes of a selection with their types; absent for all.
pub(crate) fn attributes_of(
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<Option<Vec<(AttributeId, AttributeType)>>, ReadError> {
    let Selection::These(ids) = selection else {
        return Ok(None);
    };
    let kinds = ids.iter().map(|id| {
        let attribute = catalogue.by_id(*id);
        let attribute = attribute.ok_or(ReadError::MissingAttribute(*id))?;
        Ok((*id, attribute.kind))
    });
    kinds.collect::<Result<_, _>>().map(Some)
}

/// Rows in order of time, then entity, put together to instants.
#[derive(Debug, Default)]
pub(crate) struct InstantRows(Vec<Located>);

impl InstantRows {
    /// Takes the next row; gives the rows of the instant that has ended before it, in order.
    pub(crate) fn push(&mut self, row: Located) -> Vec<Located> {
        let is_same =
            |last: &Located| last.0 == row.0 && last.1.row.observed_at == row.1.row.observed_at;
        let ended = match self.0.last().is_none_or(is_same) {
            true => Vec::new(),
            false => std::mem::take(&mut self.0),
        };
        self.0.push(row);
        ended
    }

    /// The rows of the last instant.
    pub(crate) fn finish(self) -> Vec<Located> {
        self.0
    }
}

/// About what a row takes.
fn bytes_of((_, history): &Located) -> usize {
    let cells = history.row.attrs.iter();
    cells.map(|(_, cell)| cell.stored_bytes()).sum()
}

#[cfg(test)]
mod tests;
