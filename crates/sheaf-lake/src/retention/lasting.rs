//! Which facts stay that are before their boundary: the last of each series, unless it ended before the boundary too. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Boundaries;
use crate::corrections::FactOf;

/// Series that are remembered at once, about a hundred bytes each. More need less reading of lakes with many entities.
pub(super) const SERIES_MAX: usize = 500_000;

/// The facts of an attribute of an entity. Of the rows that name none, those that end everything before them are one, and the others another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Series {
    tenant: i64,
    entity: i64,
    attribute: Option<i64>,
    ends_all: bool,
}

impl Series {
    fn of(fact: &FactOf, ends_all: bool) -> Series {
        Series {
            tenant: fact.at.tenant,
            entity: fact.at.entity,
            attribute: fact.attribute,
            // A value that a replace says is a value.
            ends_all: ends_all && fact.attribute.is_none(),
        }
    }
}

/// A share of all entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    number: u64,
    of: u64,
}

impl Share {
    pub(super) fn new(number: u64, of: u64) -> Share {
        Share { number, of }
    }

    pub(super) fn has(self, entity: i64) -> bool {
        let mixed = entity.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) % self.of == self.number
    }
}

/// There are more series than can be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

/// The last facts before the boundaries, as far as days were looked at: from the newest on.
#[derive(Debug)]
pub(super) struct Lasting<'a> {
    boundaries: &'a Boundaries,
    share: Share,
    /// The series that have one in a later day.
    later: HashSet<Series>,
    /// The last instants of the others in this day.
    of_day: HashMap<Series, i64>,
    /// When entities were replaced or deleted: the first time of each in later days, and all times in this one.
    later_ends: HashMap<(i64, i64), i64>,
    ends_of_day: HashMap<(i64, i64), BTreeSet<i64>>,
    series_max: usize,
}

impl<'a> Lasting<'a> {
    pub(super) fn new(boundaries: &'a Boundaries, share: Share) -> Lasting<'a> {
        Lasting {
            boundaries,
            share,
            later: HashSet::new(),
            of_day: HashMap::new(),
            later_ends: HashMap::new(),
            ends_of_day: HashMap::new(),
            series_max: SERIES_MAX,
        }
    }

    /// Takes in a fact of the day.
    pub(super) fn meet(&mut self, fact: &FactOf, ends_all: bool) -> Result<(), TooMany> {
        let series = Series::of(fact, ends_all);
        if series.ends_all && self.share.has(series.entity) {
            let ends = self.ends_of_day.entry((series.tenant, series.entity));
            ends.or_default().insert(fact.at.observed_at);
        }
        if !self.is_looked_at(fact, &series) || self.later.contains(&series) {
            return Ok(());
        }
        let known = self.later.len() + self.of_day.len();
        let known = known + self.later_ends.len() + self.ends_of_day.len();
        if known >= self.series_max && !self.of_day.contains_key(&series) {
            return Err(TooMany);
        }
        let last = self.of_day.entry(series).or_insert(i64::MIN);
        *last = (*last).max(fact.at.observed_at);
        Ok(())
    }

    /// Whether a fact of the day goes, once all of them were met.
    pub(super) fn goes(&self, fact: &FactOf, ends_all: bool) -> bool {
        let series = Series::of(fact, ends_all);
        if !self.is_looked_at(fact, &series) {
            return false;
        }
        let is_last_later = |last: &i64| *last > fact.at.observed_at;
        self.later.contains(&series)
            || self.of_day.get(&series).is_some_and(is_last_later)
            || (fact.attribute.is_some() && self.has_ended(fact))
    }

    /// Whether the entity was replaced or deleted after a fact and before the boundary of its attribute.
    fn has_ended(&self, fact: &FactOf) -> bool {
        let at = fact.at;
        let entity = (at.tenant, at.entity);
        let of_day = self.ends_of_day.get(&entity);
        let after = at.observed_at.saturating_add(1)..;
        let end = of_day.and_then(|of_day| of_day.range(after).next());
        let end = end.or_else(|| self.later_ends.get(&entity));
        end.is_some_and(|end| self.boundaries.is_before(at.tenant, fact.attribute, *end))
    }

    /// What follows is of earlier days.
    pub(super) fn end_day(&mut self) {
        self.later
            .extend(self.of_day.drain().map(|(series, _)| series));
        for (entity, ends) in self.ends_of_day.drain() {
            if let Some(first) = ends.first() {
                self.later_ends.insert(entity, *first);
            }
        }
    }

    fn is_looked_at(&self, fact: &FactOf, series: &Series) -> bool {
        let at = fact.at;
        self.share.has(series.entity)
            && self
                .boundaries
                .is_before(at.tenant, fact.attribute, at.observed_at)
    }
}

#[cfg(test)]
mod tests {
    use sheaf_store::retention::RetentionBoundary;

    use super::*;
    use crate::corrections::At;

    fn boundaries() -> Boundaries {
        let one = |attribute, before| RetentionBoundary {
            tenant: 1,
            attribute,
            before,
        };
        Boundaries::new(&[one(Some(7), 300), one(Some(8), 200), one(None, 200)])
    }

    fn fact(entity: i64, attribute: Option<i64>, observed_at: i64) -> FactOf {
        FactOf {
            at: At {
                tenant: 1,
                entity,
                observed_at,
            },
            seq: 0,
            attribute,
        }
    }

    #[test]
    fn of_what_is_before_the_boundary_the_last_of_each_series_stays() {
        let boundaries = boundaries();
        let mut lasting = Lasting::new(&boundaries, Share::new(0, 1));
        // A day that the boundary of attribute 7 is after and that of the others is before, and two earlier ones.
        let days = [
            vec![
                (fact(1, Some(7), 300), false, false),
                (fact(1, Some(7), 299), false, false),
                (fact(1, Some(7), 298), false, true),
                (fact(1, Some(8), 250), false, false),
                (fact(1, None, 240), true, false),
                (fact(4, None, 240), true, false),
                (fact(4, None, 260), true, false),
            ],
            vec![
                (fact(1, Some(7), 150), false, true),
                (fact(2, Some(7), 150), false, false),
                (fact(1, Some(8), 150), false, false),
                (fact(1, Some(8), 140), false, true),
                (fact(5, None, 150), true, false),
                (fact(1, None, 130), false, false),
                (fact(1, None, 120), true, false),
                (fact(1, None, 110), true, true),
            ],
            vec![
                (fact(2, Some(7), 50), false, true),
                (fact(3, Some(7), 50), true, false),
                // Ended by the first delete after it, which is before the boundary of one attribute and not of the other.
                (fact(4, Some(7), 50), false, true),
                (fact(4, Some(8), 50), false, false),
                (fact(5, Some(8), 50), false, true),
                (fact(1, None, 40), false, true),
                (fact(1, None, 30), true, true),
                (fact(3, Some(9), 50), false, false),
            ],
        ];
        for day in &days {
            for (fact, ends_all, _) in day {
                assert_eq!(lasting.meet(fact, *ends_all), Ok(()));
            }
            for (fact, ends_all, goes) in day {
                assert_eq!(lasting.goes(fact, *ends_all), *goes, "{fact:?}");
            }
            lasting.end_day();
        }
    }

    #[test]
    fn shares_are_all_of_them_once_and_too_many_series_are_told() {
        let boundaries = boundaries();
        let mut all = 0;
        for number in 0..4 {
            let mut lasting = Lasting::new(&boundaries, Share::new(number, 4));
            for entity in 0..1_000 {
                for at in [1, 2] {
                    assert_eq!(lasting.meet(&fact(entity, Some(7), at), false), Ok(()));
                }
            }
            let goes = |entity: &i64| lasting.goes(&fact(*entity, Some(7), 1), false);
            let going = (0..1_000).filter(goes).count();
            assert!((100..500).contains(&going), "{going}");
            all += going;
        }
        assert_eq!(all, 1_000);
        let mut lasting = Lasting::new(&boundaries, Share::new(0, 1));
        lasting.series_max = 2;
        for (entity, met) in [(1, Ok(())), (2, Ok(())), (1, Ok(())), (3, Err(TooMany))] {
            assert_eq!(lasting.meet(&fact(entity, Some(7), 1), false), met);
        }
    }
}
