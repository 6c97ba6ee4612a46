//! The cells of one event while they are judged, so that a name that stands twice is found also where one of the two is
//! bad for another reason.

use std::borrow::Cow;

use sheaf_model::{Refusal, RefusalCode};

use super::naming::attribute_name;
use super::{BadValue, FIELD_BYTES_MAX, RawCell, RawTags, RawValue, cut};

/// Cells in the order they were sent, and which of them are bad. Its buffers serve one event after the other.
#[derive(Default)]
pub(super) struct Draft<'a> {
    cells: Vec<RawCell<'a>>,
    bad: Vec<(usize, Refusal)>,
    order: Vec<usize>,
    /// Names of the last event, in its order, of which none stands twice: the next has mostly the same.
    distinct: Vec<Cow<'a, str>>,
    /// Names of its tags, of which no cell has the name.
    apart: Vec<Cow<'a, str>>,
}

enum Fate {
    Kept,
    Refused(Refusal),
    /// Refused with another cell of the same name.
    Dropped,
}

impl<'a> Draft<'a> {
    /// Begins the next event.
    pub(super) fn begin(&mut self, capacity: usize) {
        self.cells = Vec::with_capacity(capacity);
        self.bad.clear();
    }

    /// Adds a cell, or what is wrong with its value.
    pub(super) fn add(&mut self, name: Cow<'a, str>, value: Result<RawValue<'a>, Refusal>) {
        let (name, fault) = match attribute_name(name) {
            Ok(name) => (name, None),
            Err((name, fault)) => (name, Some(fault)),
        };
        let (value, fault) = match (value, fault) {
            (Ok(value), fault) => (value, fault),
            (Err(of_value), fault) => (RawValue::Json("null"), Some(fault.unwrap_or(of_value))),
        };
        if let Some(fault) = fault {
            self.bad.push((self.cells.len(), fault));
        }
        self.cells.push(RawCell { name, value });
    }

    /// Whether cells and tags have the names that those of the event before had.
    fn are_known(&self, cells: &[RawCell<'a>], tags: &RawTags<'a>) -> bool {
        let cells = cells.iter().map(|cell| &cell.name);
        cells.eq(&self.distinct) && tags.iter().map(|tag| &tag.name).eq(&self.apart)
    }

    /// The good cells and the refusals of the bad ones.
    ///
    /// Of a name that stands twice every value is refused, in one refusal: which one counts is not for us to guess. A
    /// field that has the name of a tag is refused and the tag stays, which is part of what names the entity.
    pub(super) fn finish(&mut self, tags: &RawTags<'a>) -> (Vec<RawCell<'a>>, Vec<BadValue>) {
        let cells = std::mem::take(&mut self.cells);
        if self.bad.is_empty() && self.are_known(&cells, tags) {
            return (cells, Vec::new());
        }
        let order = &mut self.order;
        order.clear();
        order.extend(0..cells.len());
        // Equal names keep the order they were sent in, so that the refusal speaks of the first.
        order.sort_unstable_by(|one, two| {
            cells[*one].name.cmp(&cells[*two].name).then(one.cmp(two))
        });
        let is_repeated = order
            .windows(2)
            .any(|pair| cells[pair[0]].name == cells[pair[1]].name);
        for tag in tags.iter() {
            let place = order.partition_point(|at| cells[*at].name < tag.name);
            if let Some(at) = order.get(place).filter(|at| cells[**at].name == tag.name) {
                let reason = format!("{} is a tag and a field of one line", tag.name);
                self.bad
                    .push((*at, Refusal::new(RefusalCode::DuplicateKey, reason)));
            }
        }
        if self.bad.is_empty() && !is_repeated {
            self.distinct.clear();
            self.distinct
                .extend(cells.iter().map(|cell| cell.name.clone()));
            self.apart.clear();
            self.apart.extend(tags.iter().map(|tag| tag.name.clone()));
            return (cells, Vec::new());
        }

        let mut fates: Vec<Fate> = cells.iter().map(|_| Fate::Kept).collect();
        for (at, refusal) in self.bad.drain(..) {
            fates[at] = Fate::Refused(refusal);
        }
        for run in order.chunk_by(|one, two| cells[*one].name == cells[*two].name) {
            if let [first, others @ ..] = run
                && !others.is_empty()
            {
                let reason = "the attribute stands twice in one event";
                fates[*first] = Fate::Refused(Refusal::new(RefusalCode::DuplicateKey, reason));
                others.iter().for_each(|at| fates[*at] = Fate::Dropped);
            }
        }
        let mut kept = Vec::with_capacity(cells.len());
        let mut refused = Vec::new();
        for (cell, fate) in cells.into_iter().zip(fates) {
            match fate {
                Fate::Kept => kept.push(cell),
                Fate::Refused(refusal) => {
                    refused.push((cut(&cell.name, FIELD_BYTES_MAX).to_owned(), refusal));
                }
                Fate::Dropped => {}
            }
        }
        (kept, refused)
    }
}
