//! How far the lake is, and how old that makes an answer. Pure.
//!
//! Where the lake is, is a position; how old that is, only the database's own clock says: each look at the database is a moment
//! at which everything before had been written that far. What the lake covers is as old as the latest such moment that it covers.

use std::time::Duration;

use sheaf_model::{ChangePosition, Lsn, Position, Timestamp};
use sheaf_store::lake::{Followed, LakePosition};
use sheaf_store::snapshot::Snapshot;

/// Moments that are remembered at most. With one a second, those of the last half an hour are one by one, mostly.
const MOMENTS_MAX: usize = 2_048;
/// Into how many steps an age is divided where moments are left out: it is known to so much. With these the moments of a year are
/// fewer than are remembered.
const STEPS_OF_AGE: i64 = 100;

/// A position below which the lake holds everything. Absent where nobody can say: it is never begun, its snapshot goes on, or
/// what is fed is another lake than the one that was committed. Nothing beyond a correction that waits: its tables have the value
/// that it replaces.
pub(crate) fn covered(
    lake: &LakePosition,
    followed: Option<Followed>,
    held_until: Option<ChangePosition>,
) -> Option<ChangePosition> {
    let followed = followed?;
    if lake.base != Some(followed.base) {
        return None;
    }
    // The commit that its last change was of has others, perhaps, and it covers what is below.
    let is_of_now = |at: &ChangePosition| at.timeline == followed.until.timeline;
    let stream = lake
        .stream
        .filter(is_of_now)
        .map(|at| ChangePosition::before(at.timeline, at.commit_lsn));
    let fed = stream.max(Some(followed.until))?;
    Some(held_until.map_or(fed, |until| until.min(fed)))
}

/// Whether a position covers a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// Everything below the token is there.
    Covered,
    /// Not yet.
    Behind,
    /// The token is of a history that a failover has ended.
    Stale,
    /// The token is of another database.
    Foreign,
}

/// Whether what is covered by the lake covers a token.
pub(crate) fn cover(token: Position, now: Position, covered: Option<ChangePosition>) -> Cover {
    if token.system_id != now.system_id {
        return Cover::Foreign;
    }
    if token.timeline < now.timeline {
        return Cover::Stale;
    }
    match covered {
        Some(at) if at.timeline == token.timeline && at.commit_lsn >= token.lsn => Cover::Covered,
        Some(_) | None => Cover::Behind,
    }
}

/// Moments of the database's clock, each with a position that covers everything that was committed before.
#[derive(Debug, Default)]
pub(crate) struct Moments(Vec<Snapshot>);

impl Moments {
    /// Another look.
    pub(crate) fn saw(&mut self, look: Snapshot) {
        let is_of_now = |last: &Snapshot| last.position.timeline == look.position.timeline;
        if !self.0.last().is_none_or(is_of_now) {
            self.0.clear();
        }
        let follows = |last: &Snapshot| {
            last.complete_until < look.complete_until && last.position.lsn <= look.position.lsn
        };
        if !self.0.last().is_none_or(follows) {
            return;
        }
        self.0.push(look);
        if self.0.len() > MOMENTS_MAX {
            self.thin(look.complete_until);
        }
    }

    /// Leaves moments that are the further from each other the older they are.
    fn thin(&mut self, now: Timestamp) {
        let mut kept: Option<Timestamp> = None;
        let mut thinned = Vec::with_capacity(MOMENTS_MAX);
        for moment in self.0.iter().rev() {
            let at = moment.complete_until.as_micros();
            let step = (now.as_micros() - at) / STEPS_OF_AGE;
            if kept.is_none_or(|kept| kept.as_micros() - at >= step) {
                kept = Some(moment.complete_until);
                thinned.push(*moment);
            }
        }
        thinned.reverse();
        self.0 = thinned;
    }

    /// Until when everything is below a position. Absent where no such moment is remembered.
    pub(crate) fn complete_until(&self, covered: ChangePosition) -> Option<Timestamp> {
        let is_covered = |moment: &&Snapshot| {
            moment.position.timeline == covered.timeline
                && moment.position.lsn <= covered.commit_lsn
        };
        let latest = self.0.iter().rev().find(is_covered);
        latest.map(|moment| moment.complete_until)
    }
}

/// How far the lake is behind the database's clock; absent where nobody can say.
pub(crate) fn lag(complete_until: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    Some(now.since(complete_until?))
}

/// Where the lake is as a position of the database.
pub(crate) fn position_of(covered: Option<ChangePosition>, now: Position) -> Position {
    match covered {
        Some(at) => Position {
            system_id: now.system_id,
            timeline: at.timeline,
            lsn: at.commit_lsn,
        },
        None => Position { lsn: Lsn(0), ..now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> ChangePosition {
        ChangePosition::before(timeline, Lsn(lsn))
    }

    fn lake(base: Option<ChangePosition>, stream: Option<ChangePosition>) -> LakePosition {
        LakePosition {
            number: 1,
            base,
            snapshot: 0,
            stream,
        }
    }

    fn look(timeline: u32, lsn: u64, second: i64) -> Snapshot {
        Snapshot {
            position: Position {
                system_id: 7,
                timeline,
                lsn: Lsn(lsn),
            },
            complete_until: Timestamp::MIN.saturating_add_micros(second * 1_000_000),
        }
    }

    #[test]
    fn the_lake_covers_what_it_holds_and_what_was_never_for_it() {
        let base = at(1, 10);
        let followed = |until| Some(Followed { base, until });
        let stream = |timeline, lsn| {
            Some(ChangePosition {
                ordinal: 3,
                ..at(timeline, lsn)
            })
        };
        for (lake, followed, wanted) in [
            (lake(None, None), None, None),
            (lake(Some(base), stream(1, 50)), None, None),
            // Another lake than the one that is fed.
            (
                lake(Some(at(1, 9)), stream(1, 50)),
                followed(at(1, 60)),
                None,
            ),
            (lake(None, None), followed(at(1, 60)), None),
            (
                lake(Some(base), stream(1, 50)),
                followed(at(1, 40)),
                Some(at(1, 50)),
            ),
            (
                lake(Some(base), stream(1, 50)),
                followed(at(1, 60)),
                Some(at(1, 60)),
            ),
            (lake(Some(base), None), followed(at(1, 60)), Some(at(1, 60))),
            // Positions of another timeline are no greater ones.
            (
                lake(Some(base), stream(2, 50)),
                followed(at(1, 60)),
                Some(at(1, 60)),
            ),
        ] {
            assert_eq!(
                covered(&lake, followed, None),
                wanted,
                "{lake:?} {followed:?}"
            );
        }
    }

    #[test]
    fn the_lake_covers_nothing_beyond_a_correction_that_waits() {
        let base = at(1, 10);
        let stream = |timeline, lsn| lake(Some(base), Some(at(timeline, lsn)));
        let followed = |timeline, lsn| {
            Some(Followed {
                base,
                until: at(timeline, lsn),
            })
        };
        for (lake, followed, held, wanted) in [
            (stream(1, 50), followed(1, 60), at(1, 40), Some(at(1, 40))),
            (stream(1, 50), followed(1, 60), at(1, 55), Some(at(1, 55))),
            (stream(1, 50), followed(1, 60), at(1, 70), Some(at(1, 60))),
            // It waits since before a failover.
            (stream(2, 50), followed(2, 60), at(1, 90), Some(at(1, 90))),
            (stream(1, 50), None, at(1, 40), None),
        ] {
            let found = covered(&lake, followed, Some(held));
            assert_eq!(found, wanted, "{lake:?} {followed:?} {held:?}");
        }
    }

    #[test]
    fn a_token_is_covered_by_a_position_of_its_own_history_alone() {
        let now = look(2, 500, 0).position;
        let token = |system_id, timeline, lsn| Position {
            system_id,
            timeline,
            lsn: Lsn(lsn),
        };
        for (token, there, wanted) in [
            (token(7, 2, 100), Some(at(2, 100)), Cover::Covered),
            (token(7, 2, 101), Some(at(2, 100)), Cover::Behind),
            (token(7, 2, 100), None, Cover::Behind),
            (token(7, 2, 100), Some(at(1, 900)), Cover::Behind),
            (token(7, 3, 100), Some(at(2, 900)), Cover::Behind),
            (token(7, 1, 100), Some(at(2, 900)), Cover::Stale),
            (token(8, 2, 100), Some(at(2, 900)), Cover::Foreign),
        ] {
            assert_eq!(cover(token, now, there), wanted, "{token:?} {there:?}");
        }
    }

    #[test]
    fn what_is_covered_is_as_old_as_the_last_moment_below_it() {
        let mut moments = Moments::default();
        assert_eq!(moments.complete_until(at(1, 1_000)), None);
        for (lsn, second) in [(100, 1), (200, 2), (200, 3), (300, 4)] {
            moments.saw(look(1, lsn, second));
        }
        // One that comes late, and one of a clock that was set back.
        moments.saw(look(1, 250, 3));
        moments.saw(look(1, 400, 2));
        let second = |second| Some(look(1, 0, second).complete_until);
        for (lsn, wanted) in [
            (99, None),
            (100, second(1)),
            (299, second(3)),
            (300, second(4)),
        ] {
            assert_eq!(moments.complete_until(at(1, lsn)), wanted, "{lsn}");
        }
        assert_eq!(moments.complete_until(at(2, 900)), None);
        moments.saw(look(2, 350, 5));
        assert_eq!(
            moments.complete_until(at(1, 900)),
            None,
            "a failover has ended it"
        );
        assert_eq!(moments.complete_until(at(2, 350)), second(5));
    }

    #[test]
    fn old_moments_are_remembered_less_closely_and_none_is_made_up() {
        let mut moments = Moments::default();
        for second in 0..100_000 {
            moments.saw(look(1, u64::try_from(second).expect("positive"), second));
        }
        assert!(moments.0.len() <= MOMENTS_MAX);
        for lsn in [50_000, 90_000, 99_000, 99_999] {
            let found = moments.complete_until(at(1, lsn)).expect("some moment");
            let wanted = look(1, 0, i64::try_from(lsn).expect("small")).complete_until;
            assert!(found <= wanted, "{lsn}");
            let behind = lag(Some(found), wanted).expect("known");
            let allowed = Duration::from_secs((100_000 - lsn) / 25 + 2);
            assert!(behind <= allowed, "{lsn}: {behind:?}");
        }
    }
}
