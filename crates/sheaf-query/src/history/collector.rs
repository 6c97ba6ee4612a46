//! Items made of rows as a walk meets them.

use sheaf_model::{Attrs, Cell, Op, StoredRow, fold_instant};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::events::HistoryRow;
use sheaf_store::history::Place;

use super::{HistoryItem, HistoryQuery, RowSource};
use crate::error::ReadError;
use crate::retention::Shown;
use crate::selection::{Selection, name_of};

/// The items of one page, and the rows of the instant that the walk is in.
pub(super) struct Collector<'a> {
    catalogue: &'a Catalogue,
    selection: Selection,
    shown: &'a Shown,
    corrections: bool,
    descending: bool,
    pending: Vec<HistoryRow>,
    items: Vec<(HistoryItem, Place)>,
    closed: Option<Place>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        catalogue: &'a Catalogue,
        (selection, shown): (Selection, &'a Shown),
        query: &HistoryQuery,
    ) -> Collector<'a> {
        Collector {
            catalogue,
            selection,
            shown,
            corrections: query.corrections,
            descending: query.descending,
            pending: Vec::new(),
            items: Vec::new(),
            closed: None,
        }
    }

    /// The next row of the walk.
    pub(super) fn push(&mut self, row: HistoryRow) -> Result<(), ReadError> {
        if self.corrections {
            return self.push_row(row);
        }
        let is_next_instant = self
            .pending
            .first()
            .is_some_and(|pending| pending.row.observed_at != row.row.observed_at);
        if is_next_instant {
            self.close_instant()?;
        }
        self.pending.push(row);
        Ok(())
    }

    /// The walk has met every row of the range.
    pub(super) fn finish(&mut self) -> Result<(), ReadError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.close_instant()
    }

    pub(super) fn item_count(&self) -> usize {
        self.items.len()
    }

    /// Up to where everything has become items, or was left out.
    pub(super) fn closed(&self) -> Option<Place> {
        self.closed
    }

    /// The items of the page, and where the next one begins; `is_end` tells that the walk met every row.
    pub(super) fn into_page(
        mut self,
        limit: usize,
        is_end: bool,
    ) -> (Vec<HistoryItem>, Option<Place>) {
        let is_full = self.items.len() > limit;
        self.items.truncate(limit);
        let resume = if is_full {
            self.items.last().map(|(_, place)| *place)
        } else if is_end {
            None
        } else {
            self.closed
        };
        let items = self.items.into_iter().map(|(item, _)| item).collect();
        (items, resume)
    }

    fn push_row(&mut self, mut history: HistoryRow) -> Result<(), ReadError> {
        let is_shown = self.shown.leave(&mut history);
        let HistoryRow {
            row,
            batch,
            ingested_at,
        } = history;
        let place = Place {
            observed_at: row.observed_at,
            seq: row.seq,
        };
        self.closed = Some(place);
        if !is_shown {
            return Ok(());
        }
        let StoredRow {
            seq,
            op,
            attrs,
            observed_at,
        } = row;
        let (replaced, deleted) = (op == Op::Replace, op == Op::Delete);
        let attributes = named(cells_of(&attrs), &self.selection, self.catalogue)?;
        if replaced || deleted || is_wanted(&attributes, &self.selection) {
            let item = HistoryItem {
                observed_at,
                ingested_at,
                replaced,
                deleted,
                attributes,
                row: Some(RowSource { seq, batch }),
            };
            self.items.push((item, place));
        }
        Ok(())
    }

    fn close_instant(&mut self) -> Result<(), ReadError> {
        let mut rows = std::mem::take(&mut self.pending);
        if self.descending {
            rows.reverse();
        }
        let Some(observed_at) = rows.first().map(|history| history.row.observed_at) else {
            return Ok(());
        };
        let place = if self.descending {
            Place::before(observed_at)
        } else {
            Place::after(observed_at)
        };
        self.closed = Some(place);
        let asked = (&self.selection, self.shown);
        let item = item_of_instant(rows, asked, self.catalogue)?;
        self.items.extend(item.map(|item| (item, place)));
        Ok(())
    }
}

/// The item of the rows of one instant, in order of seq; nothing where none of them is about the selection, or is shown.
pub(crate) fn item_of_instant(
    mut rows: Vec<HistoryRow>,
    (selection, shown): (&Selection, &Shown),
    catalogue: &Catalogue,
) -> Result<Option<HistoryItem>, ReadError> {
    rows.retain_mut(|row| shown.leave(row));
    let (Some(first), Some(ingested_at)) = (
        rows.first(),
        rows.iter().map(|history| history.ingested_at).max(),
    ) else {
        return Ok(None);
    };
    let instant = fold_instant(rows.iter().map(|history| &history.row));
    let attributes = named(instant.cells, selection, catalogue)?;
    let is_item = instant.replaced || is_wanted(&attributes, selection);
    let item = HistoryItem {
        observed_at: first.row.observed_at,
        ingested_at,
        replaced: instant.replaced && !instant.deleted,
        deleted: instant.deleted,
        attributes,
        row: None,
    };
    Ok(is_item.then_some(item))
}

type NamedCells = Vec<(String, Option<sheaf_model::Value>)>;

/// An instant at which the entity was seen and no more belongs to the whole history, not to that of an attribute.
fn is_wanted(attributes: &NamedCells, selection: &Selection) -> bool {
    *selection == Selection::All || !attributes.is_empty()
}

/// Cells by name, in order of name.
pub(crate) fn named(
    cells: impl IntoIterator<Item = (sheaf_model::AttributeId, Cell)>,
    selection: &Selection,
    catalogue: &Catalogue,
) -> Result<NamedCells, ReadError> {
    let mut attributes = Vec::new();
    for (id, cell) in cells {
        if !selection.contains(id) {
            continue;
        }
        let value = match cell {
            Cell::Value(value) => Some(value),
            Cell::Removed => None,
        };
        attributes.push((name_of(id, catalogue)?.to_owned(), value));
    }
    attributes.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(attributes)
}

fn cells_of(attrs: &Attrs) -> impl Iterator<Item = (sheaf_model::AttributeId, Cell)> {
    attrs.iter().cloned()
}
