//! The batch that is being filled.

use sheaf_model::ChangePosition;

use crate::change::{Batch, Change, Origin, Part};
use crate::letter::Unreadable;
use crate::stream::StreamOptions;

/// What has come since the last batch.
#[derive(Default)]
pub(super) struct Filling {
    changes: Vec<Change>,
    unreadable: Vec<Unreadable>,
    bytes: usize,
}

impl Filling {
    /// Adds a change.
    pub(super) fn add(&mut self, change: Change) {
        self.bytes += change.size();
        self.changes.push(change);
    }

    /// Adds a row that cannot be read.
    pub(super) fn add_unreadable(&mut self, row: Unreadable) {
        self.bytes += row.payload.text.len();
        self.unreadable.push(row);
    }

    /// The position of the last row that waits.
    pub(super) fn last(&self) -> Option<ChangePosition> {
        let change = self.changes.last().map(|change| change.position);
        change.max(self.unreadable.last().map(|row| row.position))
    }

    /// How many rows wait.
    pub(super) fn count(&self) -> usize {
        self.changes.len() + self.unreadable.len()
    }

    pub(super) fn is_full(&self, options: &StreamOptions) -> bool {
        self.count() >= options.batch_changes_max || self.bytes >= options.batch_bytes_max
    }

    /// Makes a part of what has come. None where nothing has.
    pub(super) fn cut(&mut self, is_end: bool) -> Option<Part> {
        let last = self.last()?;
        let Filling {
            changes,
            unreadable,
            bytes: _,
        } = std::mem::take(self);
        // What cannot be read may be all that follows of another transaction.
        let is_of_last = changes
            .last()
            .is_some_and(|change| change.position.commit_lsn == last.commit_lsn);
        Some(Part {
            batch: Batch {
                origin: Origin::Stream,
                changes,
                is_end: is_end || !is_of_last,
            },
            unreadable,
        })
    }
}
