//! What a transaction on a replica proves about its answer: judged after it ended, by what it says of itself.
//!
//! Whether a replica may be asked was decided by what was known of it before. Meanwhile it may have been promoted, replaced
//! or restarted, so that its answer counts only for what its own transaction shows.

use std::time::{Duration, Instant};

use sheaf_model::{Lsn, Position, Timestamp};
use sheaf_store::snapshot::{Replayed, Standing};

use super::view::Heart;
use crate::consistency::Lag;

/// Why an answer of what is no replica any more does not count.
pub(crate) const PROMOTED: &str = "it was promoted";

/// What an answer is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) system_id: u64,
    /// The newest timeline of the cluster.
    pub(crate) timeline: Option<u32>,
    pub(crate) token: Option<Position>,
    pub(crate) lag_max: Option<Duration>,
}

/// What an answer has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) lag: Lag,
    /// Everything committed before is in it.
    pub(crate) complete_until: Timestamp,
    /// Nothing beyond is in it.
    pub(crate) position: Position,
}

/// Judges the answer of a replica; or says why it does not count.
pub(crate) fn judge(
    demand: &Demand,
    before: &Replayed,
    standing: &Standing,
    heart: Heart,
    now: Instant,
) -> Result<Proof, &'static str> {
    if !standing.in_recovery {
        return Err(PROMOTED);
    }
    if standing.system_id != demand.system_id {
        return Err("it is of another cluster");
    }
    if standing.started_at != before.started_at {
        return Err("two servers answered");
    }
    let Some(beat) = standing.beat else {
        return Err("it shows no heartbeat");
    };
    if Some(beat.timeline) != demand.timeline {
        return Err("it is on another timeline");
    }
    let (Some(Lsn(replayed)), Some(covered)) = (before.lsn, standing.covered) else {
        return Err("it has replayed nothing");
    };
    if let Some(token) = demand.token
        && (token.system_id != standing.system_id
            || token.timeline != beat.timeline
            || token.lsn.0 > replayed)
    {
        return Err("it has not reached the token");
    }
    let lag = heart.lag(Some(beat), now);
    match (demand.lag_max, lag) {
        (None, _) => {}
        (Some(max), Lag::Measured(lag)) if lag <= max => {}
        (Some(_), Lag::Measured(_) | Lag::Unknown) => return Err("it is too far behind"),
    }
    Ok(Proof {
        lag,
        complete_until: beat.at,
        position: Position {
            system_id: standing.system_id,
            timeline: beat.timeline,
            lsn: covered,
        },
    })
}

#[cfg(test)]
mod tests {
    use sheaf_store::heartbeat::Part;

    use super::*;
    use crate::source::view::tests::{SYSTEM, beat, clock, look, seen};

    fn heart(now: Instant) -> Heart {
        let part = Part::Primary {
            timeline: 2,
            written: Lsn(120),
        };
        Heart::of(Some(&seen(look(part, Some(beat(0, 2))), now)))
    }

    fn demand() -> Demand {
        Demand {
            system_id: SYSTEM,
            timeline: Some(2),
            token: None,
            lag_max: Some(Duration::from_secs(3)),
        }
    }

    fn before() -> Replayed {
        Replayed {
            lsn: Some(Lsn(100)),
            started_at: clock(),
        }
    }

    fn standing() -> Standing {
        Standing {
            in_recovery: true,
            system_id: SYSTEM,
            started_at: clock(),
            covered: Some(Lsn(104)),
            beat: Some(beat(500, 2)),
        }
    }

    fn token(timeline: u32, lsn: u64) -> Option<Position> {
        Some(Position {
            system_id: SYSTEM,
            timeline,
            lsn: Lsn(lsn),
        })
    }

    #[test]
    fn an_answer_proves_what_was_replayed_before_it_and_covers_what_was_after() {
        let now = Instant::now();
        for token in [None, token(2, 100)] {
            let demand = Demand { token, ..demand() };
            let proof = judge(&demand, &before(), &standing(), heart(now), now);
            let expected = Proof {
                lag: Lag::Measured(Duration::from_millis(500)),
                complete_until: clock().saturating_add_micros(-500_000),
                position: Position {
                    system_id: SYSTEM,
                    timeline: 2,
                    lsn: Lsn(104),
                },
            };
            assert_eq!(proof, Ok(expected));
        }
        // What it covers may hold less than the whole record that is being replayed.
        let demand = Demand {
            token: token(2, 101),
            ..demand()
        };
        let judged = judge(&demand, &before(), &standing(), heart(now), now);
        assert_eq!(judged, Err("it has not reached the token"));
    }

    #[test]
    fn whatever_changed_meanwhile_makes_the_answer_count_for_nothing() {
        let now = Instant::now();
        let changed = |change: fn(&mut Standing)| {
            let mut changed = standing();
            change(&mut changed);
            changed
        };
        for (standing, why) in [
            (changed(|it| it.in_recovery = false), "it was promoted"),
            (changed(|it| it.system_id = 8), "it is of another cluster"),
            (
                changed(|it| it.started_at = Timestamp::MIN),
                "two servers answered",
            ),
            (changed(|it| it.beat = None), "it shows no heartbeat"),
            (
                changed(|it| it.beat = Some(beat(0, 1))),
                "it is on another timeline",
            ),
            (
                changed(|it| it.beat = Some(beat(0, 3))),
                "it is on another timeline",
            ),
            (changed(|it| it.covered = None), "it has replayed nothing"),
            (
                changed(|it| it.beat = Some(beat(3_001, 2))),
                "it is too far behind",
            ),
        ] {
            let judged = judge(&demand(), &before(), &standing, heart(now), now);
            assert_eq!(judged, Err(why), "{standing:?}");
        }
        let nothing = Replayed {
            lsn: None,
            ..before()
        };
        let judged = judge(&demand(), &nothing, &standing(), heart(now), now);
        assert_eq!(judged, Err("it has replayed nothing"));
        for old in [token(1, 1), token(3, 1)] {
            let demand = Demand {
                token: old,
                ..demand()
            };
            let judged = judge(&demand, &before(), &standing(), heart(now), now);
            assert_eq!(judged, Err("it has not reached the token"), "{old:?}");
        }
    }

    #[test]
    fn an_unknown_lag_fits_no_bound() {
        let now = Instant::now();
        for heart in [Heart::Stopped, Heart::Unknown] {
            let judged = judge(&demand(), &before(), &standing(), heart, now);
            assert_eq!(judged, Err("it is too far behind"));
            let unbound = Demand {
                lag_max: None,
                ..demand()
            };
            let proof = judge(&unbound, &before(), &standing(), heart, now);
            assert_eq!(proof.map(|proof| proof.lag), Ok(Lag::Unknown));
        }
    }
}
