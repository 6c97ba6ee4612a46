//! The fold: how events become a document. Every store and every test uses this one rule.
//!
//! Events fold in the order (`observed_at`, `seq`). [`append`] decides which row an event becomes, [`merge`] brings the
//! rows of a group into a document without reading history; the document then equals the fold of all its events,
//! whatever the order in which distinct instants arrived. For equal instants the order of commits decides.

use std::collections::BTreeMap;

use crate::event::{Attrs, Cell, Op};
use crate::id::AttributeId;
use crate::time::Timestamp;
use crate::value::Value;

/// One row of an entity's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The instant that the row is about.
    pub observed_at: Timestamp,
    /// Its place among the rows of that instant, from 0.
    pub seq: i16,
    /// What it does.
    pub op: Op,
    /// What it says; null is [`Cell::Removed`].
    pub attrs: Attrs,
}

/// What the rows of one instant fold to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instant {
    /// A replace or delete was among them: nothing older shows through.
    pub replaced: bool,
    /// The last of them is a delete.
    pub deleted: bool,
    /// What they say, later rows over earlier ones.
    pub cells: BTreeMap<AttributeId, Cell>,
}

/// Folds the rows of one instant, given in order of `seq`.
pub fn fold_instant<'a>(rows: impl IntoIterator<Item = &'a StoredRow>) -> Instant {
    let mut instant = Instant::default();
    for row in rows {
        if matches!(row.op, Op::Replace | Op::Delete) {
            instant.replaced = true;
            instant.cells.clear();
        }
        instant.deleted = row.op == Op::Delete;
        for (id, cell) in row.attrs.iter() {
            instant.cells.insert(*id, cell.clone());
        }
    }
    instant
}

/// What appending an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The first row of its instant.
    New(StoredRow),
    /// A further row that adds attributes to a stored instant.
    Merged(StoredRow),
    /// A further row that changes what was stored for the instant; both stay in history.
    Corrected(StoredRow),
    /// Nothing new: no row.
    Duplicate,
    /// The instant holds as many rows as can be numbered.
    Full,
}

/// Rows of one instant are numbered below this; numbers from here up belong to events that arrive after their
/// period was closed to writes.
pub const LATE_SEQ: i16 = 1 << 14;

/// Decides which row an event becomes beside the rows already there for its instant (in order of `seq`).
pub fn append(there: &[StoredRow], observed_at: Timestamp, op: Op, attrs: Attrs) -> Appended {
    append_between(there, (0, LATE_SEQ), observed_at, op, attrs)
}

/// The same of an event whose period was closed to writes, beside the late rows of its instant alone: what is archived nobody
/// looks up. So a first one is [`Appended::New`] whatever it repeats, and folds after every row that is archived.
pub fn append_late(there: &[StoredRow], observed_at: Timestamp, op: Op, attrs: Attrs) -> Appended {
    append_between(there, (LATE_SEQ, i16::MAX), observed_at, op, attrs)
}

fn append_between(
    there: &[StoredRow],
    (first, end): (i16, i16),
    observed_at: Timestamp,
    op: Op,
    attrs: Attrs,
) -> Appended {
    let Some(last) = there.last() else {
        return Appended::New(StoredRow {
            observed_at,
            seq: first,
            op,
            attrs,
        });
    };
    let seq = last.seq + 1;
    let row = |op, attrs| StoredRow {
        observed_at,
        seq,
        op,
        attrs,
    };
    match op {
        Op::Replace | Op::Delete => {
            if last.op == op && last.attrs == attrs {
                Appended::Duplicate
            } else if seq == end {
                Appended::Full
            } else {
                Appended::Corrected(row(op, attrs))
            }
        }
        Op::Patch | Op::Correct => {
            let stored = fold_instant(there);
            let news = attrs.without(|id, cell| stored.cells.get(&id) == Some(cell));
            if news.is_empty() {
                Appended::Duplicate
            } else if seq == end {
                Appended::Full
            } else if news.iter().any(|(id, _)| stored.cells.contains_key(id)) {
                Appended::Corrected(row(Op::Correct, news))
            } else {
                Appended::Merged(row(Op::Patch, news))
            }
        }
    }
}

/// The current document of an entity: every value and every remembered removal with its time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// One more at each write of the document; 0 before the first.
    pub version: i64,
    /// The time of the newest event; absent before the first. It survives a delete.
    pub newest: Option<Timestamp>,
    /// The time of the last replace or delete: nothing older enters.
    pub floor: Option<Timestamp>,
    /// Whether the newest event is a delete.
    pub deleted: bool,
    /// What each attribute became, and when.
    pub cells: BTreeMap<AttributeId, (Cell, Timestamp)>,
}

impl Document {
    /// The values, without the remembered removals.
    pub fn values(&self) -> impl Iterator<Item = (AttributeId, &Value, Timestamp)> {
        self.cells
            .iter()
            .filter_map(|(id, (cell, time))| match cell {
                Cell::Value(value) => Some((*id, value, *time)),
                Cell::Removed => None,
            })
    }

    /// Whether every cell is a value of the newest event, so that no time has to be remembered.
    pub fn is_of_one_time(&self) -> bool {
        self.cells
            .values()
            .all(|(cell, time)| matches!(cell, Cell::Value(_)) && Some(*time) == self.newest)
    }

    /// Whether the entity is there: it has had an event, and the newest is no delete.
    pub fn exists(&self) -> bool {
        self.newest.is_some() && !self.deleted
    }
}

/// Folds rows given in the order (`observed_at`, `seq`) into a document of their own, of version 0.
pub fn fold_rows<'a>(rows: impl IntoIterator<Item = &'a StoredRow>) -> Document {
    let mut folded = Document::default();
    for row in rows {
        if matches!(row.op, Op::Replace | Op::Delete) {
            folded.floor = Some(row.observed_at);
            folded.cells.clear();
        }
        for (id, cell) in row.attrs.iter() {
            folded.cells.insert(*id, (cell.clone(), row.observed_at));
        }
        folded.newest = Some(row.observed_at);
        folded.deleted = row.op == Op::Delete;
    }
    folded
}

/// What a merge changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentChange {
    /// Anything at all: a value, a time, the floor, the newest event. Then the document is written.
    pub written: bool,
    /// Attributes whose value, as a reader sees it, is another now.
    pub changed: Vec<AttributeId>,
    /// An attribute got its first value, or lost it.
    pub presence_changed: bool,
    /// Attributes that did not enter, because the document holds newer ones.
    pub superseded: Vec<AttributeId>,
}

/// Brings the fold of a group's rows into an entity's document. The version moves if anything does.
pub fn merge(document: &mut Document, group: Document) -> DocumentChange {
    let cells = group.cells.into_iter();
    let head = Document {
        cells: BTreeMap::new(),
        ..group
    };
    merge_cells(
        document,
        &head,
        cells.map(|(id, (cell, time))| (id, cell, time)),
    )
}

/// Brings rows into an entity's document, given in the order (`observed_at`, `seq`): the [`merge`] of their fold. One row,
/// which is most of them, is its own fold.
pub fn merge_rows(document: &mut Document, rows: &[&StoredRow]) -> DocumentChange {
    let [row] = rows else {
        return merge(document, fold_rows(rows.iter().copied()));
    };
    let head = Document {
        floor: matches!(row.op, Op::Replace | Op::Delete).then_some(row.observed_at),
        newest: Some(row.observed_at),
        deleted: row.op == Op::Delete,
        ..Document::default()
    };
    let cells = row.attrs.iter();
    merge_cells(
        document,
        &head,
        cells.map(|(id, cell)| (*id, cell.clone(), row.observed_at)),
    )
}

/// `group` without its cells, and its cells.
fn merge_cells(
    document: &mut Document,
    group: &Document,
    cells: impl Iterator<Item = (AttributeId, Cell, Timestamp)>,
) -> DocumentChange {
    let mut change = DocumentChange::default();
    let floor_before = document.floor;
    // Values below the group's floor go; one that the group sets again to the same has not changed for a reader.
    let mut dropped = BTreeMap::new();
    if let Some(floor) = group.floor {
        let (stays, goes): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut document.cells)
            .into_iter()
            .partition(|(_, (_, time))| *time > floor);
        change.written |= !goes.is_empty();
        document.cells = stays;
        dropped = goes;
    }
    for (id, cell, time) in cells {
        let held = document.cells.get(&id);
        let enters = floor_before.is_none_or(|floor| time >= floor)
            && held.is_none_or(|(_, held_since)| time >= *held_since);
        if !enters {
            change.superseded.push(id);
            continue;
        }
        if held.is_some_and(|(held_cell, held_since)| *held_cell == cell && *held_since == time) {
            continue;
        }
        let before = held
            .cloned()
            .or_else(|| dropped.remove(&id))
            .map(|(before, _)| before);
        let before = before.unwrap_or(Cell::Removed);
        if before != cell {
            change.changed.push(id);
            change.presence_changed |= before == Cell::Removed || cell == Cell::Removed;
        }
        change.written = true;
        document.cells.insert(id, (cell, time));
    }
    for (id, (cell, _)) in dropped {
        if cell != Cell::Removed {
            change.changed.push(id);
            change.presence_changed = true;
        }
    }
    if group.floor > document.floor {
        document.floor = group.floor;
        change.written = true;
    }
    if group.newest >= document.newest {
        change.written |= group.newest > document.newest || group.deleted != document.deleted;
        document.newest = group.newest;
        document.deleted = group.deleted;
    }
    document.version += i64::from(change.written);
    change
}

/// The time that an event without one gets: now, but after the entity's newest event, so that an acknowledged
/// edit is never invisible.
pub fn time_after(now: Timestamp, newest: Option<Timestamp>) -> Timestamp {
    match newest {
        Some(newest) => now.max(newest.saturating_add_micros(1)),
        None => now,
    }
}

#[cfg(test)]
mod tests;
