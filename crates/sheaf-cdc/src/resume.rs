//! Where a sink goes on: a pure decision from what was stored of it and what it says itself.

use sheaf_store::changes::{SnapshotPlace, SnapshotStep, StoredSink};

use crate::change::Progress;
use crate::sink::Held;

/// How a sink goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From here.
    Continue {
        /// What it holds.
        progress: Progress,
        /// Where its snapshot is read on.
        place: SnapshotPlace,
    },
    /// Its snapshot was taken, and it has not been told yet.
    Tell,
    /// It holds less than was stored of it, or something else: another snapshot is taken.
    Anew,
}

/// Decides it.
pub fn decide(stored: &StoredSink, held: Held) -> Resume {
    let known = Progress {
        base: stored.base,
        snapshot: stored.place.ordinal,
        stream: stored.position,
    };
    let has_begun = known.snapshot > 0 || known.stream.is_some();
    let progress = match held {
        Held::Untracked if has_begun => known,
        Held::Untracked | Held::Nothing if !has_begun => return Resume::Tell,
        Held::Until(held) if held.base == stored.base => held,
        Held::Until(_) if !has_begun => return Resume::Tell,
        Held::Untracked | Held::Nothing | Held::Until(_) => return Resume::Anew,
    };
    if progress.snapshot < known.snapshot || progress.stream < known.stream {
        return Resume::Anew;
    }
    let place = match stored.place.step {
        // Rows that change between two readings: a place among them is none after. So they are read again, behind what the
        // sink holds.
        step @ (SnapshotStep::Tenants | SnapshotStep::Attributes) => {
            SnapshotPlace::before(step, 0, progress.snapshot)
        }
        // Always the same rows in the same order, so that each has the place that it had.
        SnapshotStep::Entities
        | SnapshotStep::Events
        | SnapshotStep::Late
        | SnapshotStep::Keyframes
        | SnapshotStep::Done => stored.place.clone(),
    };
    Resume::Continue { progress, place }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_model::{ChangePosition, Lsn, Timestamp};

    fn at(commit_lsn: u64, ordinal: u64) -> ChangePosition {
        ChangePosition {
            timeline: 1,
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        }
    }

    fn stored(step: SnapshotStep, ordinal: u64, position: Option<ChangePosition>) -> StoredSink {
        StoredSink {
            snapshot: "3:3:".to_owned(),
            taken_at: Timestamp::MIN,
            base: at(99, 0),
            until: Lsn(100),
            ranges: Vec::new(),
            place: SnapshotPlace {
                tenant: 5,
                ..SnapshotPlace::before(step, 0, ordinal)
            },
            position,
        }
    }

    fn until(base: u64, snapshot: u64, stream: Option<ChangePosition>) -> Held {
        Held::Until(Progress {
            base: at(base, 0),
            snapshot,
            stream,
        })
    }

    #[test]
    fn a_sink_goes_on_from_what_it_holds_and_begins_anew_where_that_is_less_than_was_stored() {
        use SnapshotStep::{Attributes, Entities, Tenants};
        let new = stored(Tenants, 0, None);
        let middle = stored(Entities, 10, Some(at(200, 3)));
        let go_on = |snapshot, stream| Resume::Continue {
            progress: Progress {
                base: at(99, 0),
                snapshot,
                stream,
            },
            place: middle.place.clone(),
        };
        let table = [
            (&new, Held::Nothing, Resume::Tell),
            (&new, Held::Untracked, Resume::Tell),
            // Of a snapshot before.
            (&new, until(50, 1000, Some(at(90, 1))), Resume::Tell),
            (&middle, Held::Nothing, Resume::Anew),
            (&middle, until(50, 1000, Some(at(300, 1))), Resume::Anew),
            (&middle, until(99, 9, Some(at(200, 3))), Resume::Anew),
            (&middle, until(99, 10, Some(at(200, 2))), Resume::Anew),
            (&middle, until(99, 10, None), Resume::Anew),
            (&middle, Held::Untracked, go_on(10, Some(at(200, 3)))),
            (
                &middle,
                until(99, 10, Some(at(200, 3))),
                go_on(10, Some(at(200, 3))),
            ),
            // It took more than was stored before the crash.
            (
                &middle,
                until(99, 12, Some(at(210, 1))),
                go_on(12, Some(at(210, 1))),
            ),
        ];
        for (place, (stored, held, wanted)) in table.into_iter().enumerate() {
            assert_eq!(decide(stored, held), wanted, "line {place}");
        }
        // Attributes are read again from the first, behind what the sink holds.
        let changing = stored(Attributes, 10, None);
        let found = decide(&changing, until(99, 14, None));
        let Resume::Continue { place, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(place, SnapshotPlace::before(Attributes, 0, 14));
    }
}
