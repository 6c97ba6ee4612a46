//! One series of all entities: their instants by time, or buckets over all of them.
//!
//! Instants are read in steps of so many rows, each of which looks at a window of time and asks every entity once for its
//! next row in it: what a step costs does not depend on how much is left of the range.

use sheaf_model::{EntityId, Timestamp};
use sheaf_store::events::HistoryRow;

use super::upcoming::OfSeries;
use super::{Attempted, Filling, SeriesEntry, SeriesItem};
use crate::buckets::Series;
use crate::cursor::Keyset;
use crate::error::ReadError;
use crate::history::{PAGE_BYTES_MAX, STEP_BYTES_MAX, item_of_instant};
use crate::selection::Selection;
use crate::united::{InstantRows, Located, SeveralWalk, attributes_of, key_before, key_of};

/// Rows of one step of a walk: as many as items of a page. Each step costs a probe an entity, so that fewer cost more of
/// them a row.
const STEP_ROWS: usize = 1_000;
/// What the first step looks at, and the least that any does, in microseconds: a minute, and a second. All rows of a window may
/// be read to find the first of them; a narrower one makes more steps where rows are rare.
const WINDOW_MICROS: i64 = 60_000_000;
const WINDOW_MICROS_MIN: i64 = 1_000_000;

impl Attempted<'_> {
    pub(super) async fn fill_shared(
        &self,
        series: Option<&Series<'_>>,
        all: &mut OfSeries,
        place: Option<(Timestamp, EntityId, i16)>,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        match series {
            Some(series) => {
                let after = place.map(|(time, _, _)| time);
                let items = self.shared_buckets(series, &all.entities, after).await?;
                let mut items = items
                    .into_iter()
                    .filter(|item| after.is_none_or(|after| item.from > after));
                for item in items.by_ref().take(self.limit) {
                    filling.items.push(SeriesItem {
                        entity: None,
                        entry: SeriesEntry::Bucket(item),
                    });
                }
                if items.next().is_some() {
                    let last = filling.items.last().and_then(SeriesItem::bucket_start);
                    filling.next = last.map(|start| keyset(start, EntityId(0), 0));
                }
                Ok(())
            }
            None => self.fill_instants(all, place, filling).await,
        }
    }

    async fn fill_instants(
        &self,
        all: &mut OfSeries,
        place: Option<(Timestamp, EntityId, i16)>,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let names = Some(self.query.attributes.as_slice());
        let selection = Selection::resolve_attributes(names, self.catalogue)?;
        let attributes = attributes_of(&selection, self.catalogue)?.unwrap_or_default();
        let to = self.query.to.unwrap_or(Timestamp::MAX);
        let range = (self.query.from, to);
        let asked = (self.source, self.scope);
        let mut walk = SeveralWalk::new(asked, self.catalogue, &all.entities, attributes, range);
        let begin = key_before(self.query.from);
        let mut next = Some(place.map_or(begin, |place| place.max(begin)));
        let (mut instants, mut bytes) = (InstantRows::default(), 0);
        while let Some(place) = next {
            let until = all.window.end(place.0, to);
            let step = walk.step(place, until, (STEP_ROWS, STEP_BYTES_MAX)).await?;
            bytes += step.bytes;
            for row in step.stretch.rows {
                let ended = instants.push(row);
                // Full only now: whether there is more is known by its first row.
                let Some(end) = ended.last().map(key_of) else {
                    continue;
                };
                self.close(ended, &selection, filling)?;
                if filling.items.len() == self.limit || bytes > PAGE_BYTES_MAX {
                    filling.next = Some(keyset(end.0, end.1, i16::MAX));
                    return Ok(());
                }
            }
            all.window = all.window.next(step.is_full);
            next = step.stretch.reach;
        }
        self.close(instants.finish(), &selection, filling)
    }

    /// Makes an item of the rows of one instant of one entity.
    fn close(
        &self,
        rows: Vec<Located>,
        selection: &Selection,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let rows: Vec<HistoryRow> = rows.into_iter().map(|(_, row)| row).collect();
        let asked = (selection, &self.shown);
        if let Some(item) = item_of_instant(rows, asked, self.catalogue)? {
            filling.items.push(SeriesItem {
                entity: None,
                entry: SeriesEntry::Instant(item),
            });
        }
        Ok(())
    }
}

/// How long a time a step looks at, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window(i64);

impl Default for Window {
    fn default() -> Window {
        Window(WINDOW_MICROS)
    }
}

impl Window {
    fn end(self, from: Timestamp, to: Timestamp) -> Timestamp {
        from.saturating_add_micros(self.0).min(to)
    }

    /// Wider after one that had too few rows, so that a gap of years takes a few steps; narrower after one that had enough:
    /// so it comes to hold a few steps' rows.
    fn next(self, is_full: bool) -> Window {
        let micros = match is_full {
            true => self.0 / 2,
            false => self.0.saturating_mul(8),
        };
        Window(micros.max(WINDOW_MICROS_MIN))
    }
}

fn keyset(time: Timestamp, entity: EntityId, seq: i16) -> Keyset {
    vec![
        Some(time.as_micros().to_string()),
        Some(entity.to_string()),
        Some(seq.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_passes_a_gap_in_a_few_steps_and_is_narrow_again_where_rows_are_many() {
        let (mut at, mut window) = (Timestamp::MIN, Window::default());
        let mut steps = 0;
        while at < Timestamp::MAX {
            at = window.end(at, Timestamp::MAX);
            window = window.next(false);
            steps += 1;
        }
        assert!(steps < 16, "{steps} steps through all of time");
        for _ in 0..64 {
            window = window.next(true);
        }
        assert_eq!(window, Window(WINDOW_MICROS_MIN));
    }
}
