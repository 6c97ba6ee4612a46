//! How far back history is shown: a policy counts from the moment that it is set, whatever is still stored.
//!
//! An attribute's own retention counts where it has one, and else its tenant's. What is current is shown however old it is: entities
//! as they are, are no history; of what they were before the boundary of an attribute, that is known which is current still.

use std::collections::BTreeMap;

use sheaf_model::{AttributeId, Attrs, Document, Op, Timestamp};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::events::HistoryRow;

use crate::selection::Selection;

/// From when on the history of a tenant's attributes is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    of_tenant: Timestamp,
    own: BTreeMap<AttributeId, Timestamp>,
}

impl Shown {
    /// As the policies say at a moment.
    pub fn new(catalogue: &Catalogue, now: Timestamp) -> Shown {
        let own = catalogue.attributes().filter_map(|attribute| {
            let own = attribute.description.retention_micros?;
            Some((attribute.id, since(Some(own), now)))
        });
        Shown {
            of_tenant: since(catalogue.tenant.policy.retention_micros, now),
            own: own.collect(),
        }
    }

    /// The first instant that is shown of attributes without a retention of their own.
    pub fn of_tenant(&self) -> Timestamp {
        self.of_tenant
    }

    /// The first instant that is shown of those that have one.
    pub fn own(&self) -> &BTreeMap<AttributeId, Timestamp> {
        &self.own
    }

    /// The first instant of an attribute that is shown.
    pub(crate) fn from(&self, id: AttributeId) -> Timestamp {
        self.own.get(&id).copied().unwrap_or(self.of_tenant)
    }

    /// The first instant at which anything of a selection is shown.
    pub(crate) fn first(&self, selection: &Selection) -> Timestamp {
        match selection {
            Selection::All => {
                let own = self.own.values().copied().min();
                own.unwrap_or(self.of_tenant).min(self.of_tenant)
            }
            Selection::These(ids) => {
                let first = ids.iter().map(|id| self.from(*id)).min();
                first.unwrap_or(self.of_tenant)
            }
        }
    }

    /// Takes out of a row what is not shown of it. False where nothing is. What a replace or a delete ends it ends of every attribute,
    /// so that it is shown with any.
    pub(crate) fn leave(&self, history: &mut HistoryRow) -> bool {
        let row = &mut history.row;
        let at = row.observed_at;
        let is_shown = |id: AttributeId| at >= self.from(id);
        let is_empty = row.attrs.iter().next().is_none();
        if !row.attrs.iter().all(|(id, _)| is_shown(*id)) {
            let cells = row.attrs.iter().filter(|(id, _)| is_shown(*id));
            row.attrs = Attrs::from_distinct(cells.cloned().collect());
        }
        match row.op {
            Op::Replace | Op::Delete => true,
            Op::Patch | Op::Correct if is_empty => at >= self.of_tenant,
            Op::Patch | Op::Correct => row.attrs.iter().next().is_some(),
        }
    }

    /// Of what an entity was at an instant, leaves what is shown: of attributes whose boundary is later, what is current still.
    pub(crate) fn leave_at(&self, at: Timestamp, then: &mut Document, current: &Document) {
        then.cells.retain(|id, _| at >= self.from(*id));
        if !current.exists() {
            return;
        }
        for (id, (cell, time)) in &current.cells {
            if at < self.from(*id) && *time <= at {
                then.cells.insert(*id, (cell.clone(), *time));
            }
        }
    }
}

fn since(retention_micros: Option<i64>, now: Timestamp) -> Timestamp {
    match retention_micros {
        Some(micros) => now.saturating_add_micros(micros.saturating_neg()),
        None => Timestamp::MIN,
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::{BatchId, Cell, StoredRow, Value};

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).expect("an instant")
    }

    /// The tenant's from 500 on, attribute 1 from 900 on, attribute 2 from 100 on; 3 has none of its own.
    fn shown() -> Shown {
        let own = [(AttributeId(1), at(900)), (AttributeId(2), at(100))];
        Shown {
            of_tenant: at(500),
            own: BTreeMap::from(own),
        }
    }

    fn cells(ids: &[i64]) -> Vec<(AttributeId, Cell)> {
        let cell = |id: &i64| (AttributeId(*id), Cell::Value(Value::Int(*id)));
        ids.iter().map(cell).collect()
    }

    #[test]
    fn history_is_shown_for_as_long_as_the_policy_says_and_else_for_ever() {
        let now = at(1_000);
        for (retention, from) in [(Some(400), 600), (Some(0), 1_000), (Some(2_000), -1_000)] {
            assert_eq!(since(retention, now), at(from), "{retention:?}");
        }
        assert_eq!(since(Some(i64::MAX), now), Timestamp::MIN);
        assert_eq!(since(None, now), Timestamp::MIN);
    }

    #[test]
    fn a_history_begins_with_the_longest_retention_of_what_is_selected() {
        for (ids, first) in [
            (None, 100),
            (Some(&[1][..]), 900),
            (Some(&[1, 3]), 500),
            (Some(&[1, 2, 3]), 100),
        ] {
            let selection = match ids {
                None => Selection::All,
                Some(ids) => Selection::These(ids.iter().map(|id| AttributeId(*id)).collect()),
            };
            assert_eq!(shown().first(&selection), at(first), "{ids:?}");
        }
    }

    #[test]
    fn of_a_row_is_left_what_its_attributes_show_and_of_a_replace_or_delete_that_it_was() {
        for (claim, time, op, said, left) in [
            ("all", 900, Op::Patch, &[1, 2, 3][..], Some(&[1, 2, 3][..])),
            (
                "but the shortest",
                899,
                Op::Patch,
                &[1, 2, 3],
                Some(&[2, 3]),
            ),
            ("the longest", 499, Op::Correct, &[1, 2, 3], Some(&[2])),
            ("the last instant", 100, Op::Patch, &[2], Some(&[2])),
            ("the one before it", 99, Op::Patch, &[2], None),
            ("nothing", 499, Op::Patch, &[1, 3], None),
            ("a replace", 499, Op::Replace, &[1, 3], Some(&[])),
            ("a delete", 499, Op::Delete, &[], Some(&[])),
            ("an event that says nothing", 500, Op::Patch, &[], Some(&[])),
            ("the same, older", 499, Op::Patch, &[], None),
        ] {
            let mut row = HistoryRow {
                row: StoredRow {
                    observed_at: at(time),
                    seq: 0,
                    op,
                    attrs: Attrs::from_distinct(cells(said)),
                },
                batch: BatchId(Default::default()),
                ingested_at: at(time),
            };
            let is_left = shown().leave(&mut row);
            let expected = left.map(|ids| Attrs::from_distinct(cells(ids)));
            assert_eq!(is_left.then_some(row.row.attrs), expected, "{claim}");
        }
    }

    #[test]
    fn before_a_boundary_an_entity_was_what_it_is_still() {
        let document = |cells: &[(i64, i64)]| Document {
            version: 1,
            newest: Some(at(950)),
            cells: cells
                .iter()
                .map(|(id, time)| {
                    let cell = Cell::Value(Value::Int(*time));
                    (AttributeId(*id), (cell, at(*time)))
                })
                .collect(),
            ..Document::default()
        };
        for (claim, time, then, current, left) in [
            (
                "all of it",
                900,
                &[(1, 10), (3, 20)][..],
                &[(1, 950), (3, 20)][..],
                &[(1, 10), (3, 20)][..],
            ),
            ("what is no more", 899, &[(1, 10)], &[(1, 950)], &[]),
            ("what is still", 899, &[(1, 10)], &[(1, 10)], &[(1, 10)]),
            ("what came later", 899, &[], &[(1, 899)], &[(1, 899)]),
            ("what came after", 899, &[], &[(1, 900)], &[]),
        ] {
            let mut then = document(then);
            shown().leave_at(at(time), &mut then, &document(current));
            assert_eq!(then, document(left), "{claim}");
        }
        let mut then = document(&[(1, 10)]);
        let deleted = Document {
            deleted: true,
            ..document(&[(1, 10)])
        };
        shown().leave_at(at(899), &mut then, &deleted);
        assert_eq!(then, document(&[]), "a deleted entity has nothing current");
    }
}
