//! Which rows of keyframes stay: those that an instant from the boundary of their attribute on is answered from. Pure.
//!
//! That is the last keyframe of an entity that is not after the boundary, and all later ones.

use std::collections::{BTreeSet, HashMap};

use arrow_array::RecordBatch;

use super::Boundaries;
use super::lasting::{SERIES_MAX, Share, TooMany};
use crate::error::Cause;
use crate::schema::LakeTable;
use crate::stored_file::keys_of;

/// The keyframes of entities, as far as days were looked at: from the newest on.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    boundaries: &'a Boundaries,
    share: Share,
    /// The first of each entity in later days.
    later: HashMap<(i64, i64), i64>,
    of_day: HashMap<(i64, i64), BTreeSet<i64>>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(boundaries: &'a Boundaries, share: Share) -> Frames<'a> {
        Frames {
            boundaries,
            share,
            later: HashMap::new(),
            of_day: HashMap::new(),
        }
    }

    /// Takes in rows of the day.
    pub(super) fn meet(&mut self, batch: &RecordBatch) -> Result<Result<(), TooMany>, Cause> {
        for [tenant, entity, _, at, _] in keys(batch)? {
            self.note(tenant, entity, at);
        }
        let is_too_many = self.later.len() + self.of_day.len() > SERIES_MAX;
        Ok(if is_too_many { Err(TooMany) } else { Ok(()) })
    }

    fn note(&mut self, tenant: i64, entity: i64, at: i64) {
        if self.share.has(entity) && self.boundaries.reach((tenant, tenant), at) {
            self.of_day.entry((tenant, entity)).or_default().insert(at);
        }
    }

    /// Which rows of the day stay, once all of them were met.
    pub(super) fn stay(&self, batch: &RecordBatch) -> Result<Vec<bool>, Cause> {
        let keys = keys(batch)?;
        let stays = keys.iter().map(|[tenant, entity, attribute, at, _]| {
            let attribute = Some(*attribute).filter(|number| *number != i64::MIN);
            !self.goes((*tenant, *entity), attribute, *at)
        });
        Ok(stays.collect())
    }

    fn goes(&self, entity: (i64, i64), attribute: Option<i64>, at: i64) -> bool {
        let boundary = self.boundaries.of(entity.0, attribute);
        let Some(boundary) = boundary.filter(|_| self.share.has(entity.1)) else {
            return false;
        };
        let of_day = self.of_day.get(&entity);
        let next = of_day.and_then(|of_day| of_day.range(at.saturating_add(1)..).next());
        let next = next.or_else(|| self.later.get(&entity));
        next.is_some_and(|next| *next <= boundary)
    }

    /// What follows is of earlier days.
    pub(super) fn end_day(&mut self) {
        for (entity, of_day) in self.of_day.drain() {
            if let Some(first) = of_day.first() {
                self.later.insert(entity, *first);
            }
        }
    }
}

fn keys(batch: &RecordBatch) -> Result<Vec<crate::stored_file::Key>, Cause> {
    let keys = keys_of(LakeTable::Keyframes, batch);
    Ok(keys.ok_or("a column of the order is missing")?)
}

#[cfg(test)]
mod tests {
    use sheaf_store::retention::RetentionBoundary;

    use super::*;

    #[test]
    fn the_last_keyframe_that_is_not_after_the_boundary_stays_and_those_before_it_go() {
        let one = |attribute, before| RetentionBoundary {
            tenant: 1,
            attribute,
            before,
        };
        let boundaries = Boundaries::new(&[one(Some(7), 300), one(Some(8), 250), one(None, 250)]);
        let mut frames = Frames::new(&boundaries, Share::new(0, 1));
        let (entity, other) = ((1, 5), (1, 6));
        for (day, wanted) in [
            (
                vec![(entity, 300)],
                vec![(entity, Some(7), 300, false), (entity, None, 300, false)],
            ),
            (
                vec![(entity, 210), (entity, 200), (other, 200)],
                vec![
                    (entity, Some(7), 210, true),
                    (entity, Some(8), 210, false),
                    (entity, None, 210, false),
                    (entity, Some(8), 200, true),
                    (entity, None, 200, true),
                    (other, Some(7), 200, false),
                    (entity, Some(9), 200, false),
                ],
            ),
            (
                vec![(entity, 100), (other, 100)],
                vec![
                    (entity, None, 100, true),
                    (other, Some(7), 100, true),
                    ((2, 5), Some(7), 100, false),
                ],
            ),
        ] {
            for ((tenant, entity), at) in day {
                frames.note(tenant, entity, at);
            }
            for (entity, attribute, at, goes) in wanted {
                let found = frames.goes(entity, attribute, at);
                assert_eq!(found, goes, "{entity:?} {attribute:?} {at}");
            }
            frames.end_day();
        }
    }
}
