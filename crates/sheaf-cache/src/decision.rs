//! The decision: may a remembered value answer this read? Pure; a table of tests covers every branch.

use std::time::{Duration, Instant};

use sheaf_model::{Lineage, Position};

use crate::fences::Fence;
use crate::value::Held;

/// What a read asks of the freshness of its answer. One that must not be answered from a cache has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// How old it may be.
    pub lag_max: Duration,
    /// What the client has seen already.
    pub token: Option<Position>,
}

/// What this server knows while it decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Which history the database continues.
    pub(crate) lineage: Option<Lineage>,
    /// Where the fence of the value's entity stands.
    pub(crate) fence: Fence,
    /// How old any value may be.
    pub(crate) age_max: Duration,
    /// When the read came.
    pub(crate) arrival: Arrival,
    pub(crate) now: Instant,
}

/// When a read came: what was asked of the primary since then would be its own answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// Which announcements of writes had been made by then.
    pub(crate) turn: u64,
}

/// What is decided of a remembered value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answers, and is this old.
    Answers { lag: Duration },
    /// It was read from another history than the one that the database continues.
    OtherLineage,
    /// It is older than the read allows.
    TooOld,
    /// Its entity was written since.
    Overwritten,
    /// It may not have what the token stands for.
    NotCovered,
}

/// Decides.
pub(crate) fn decide(demand: &Demand, held: &Held, known: &Known) -> Verdict {
    let lineage = held.value.position.lineage();
    if known.lineage != Some(lineage) {
        return Verdict::OtherLineage;
    }
    let lag = held.lag_at(known.now);
    if lag > demand.lag_max.min(known.age_max) {
        return Verdict::TooOld;
    }
    // What was announced after the read came need not be in its answer.
    let asked_after = held.is_exact && known.fence.turn.min(known.arrival.turn) <= held.turn;
    let covers_write = held
        .value
        .covers
        .is_some_and(|covers| known.fence.lsn < covers);
    if !asked_after && !covers_write {
        return Verdict::Overwritten;
    }
    let Some(token) = demand.token else {
        return Verdict::Answers { lag };
    };
    // Not at the same position: its commit may be in the log and not yet be seen by anybody. Unless the primary was asked when
    // the client had the token already, and so when its commit had been seen.
    let asked_since = held.is_exact && known.arrival.at <= held.began;
    let is_covered = held
        .value
        .covers
        .is_some_and(|covers| token.lsn < covers || (asked_since && token.lsn == covers));
    if is_covered && token.lineage() == lineage {
        Verdict::Answers { lag }
    } else {
        Verdict::NotCovered
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::{EntityId, Lsn, TenantId, Timestamp};

    use super::*;
    use crate::value::Value;

    const AGE_MAX: Duration = Duration::from_secs(60);

    fn at(timeline: u32, lsn: u64) -> Position {
        Position {
            system_id: 7,
            timeline,
            lsn: Lsn(lsn),
        }
    }

    /// Read at turn 5, covering 100.
    fn held(began: Instant) -> Held {
        Held {
            value: Value {
                tenant: TenantId(1),
                entity: Some(EntityId(2)),
                version: 3,
                body: None,
                position: at(3, 110),
                covers: Some(Lsn(100)),
                data_timestamp: Timestamp::MIN,
            },
            began,
            lag: Duration::from_millis(500),
            turn: 5,
            is_exact: true,
        }
    }

    fn decided(
        held: &Held,
        demand: (u64, Option<Position>),
        fence: (u64, u64),
        age_ms: u64,
    ) -> Verdict {
        // It comes now, after all that was announced.
        let now = held.began + Duration::from_millis(age_ms);
        let arrival = Arrival {
            at: now + Duration::from_millis(1),
            turn: fence.0,
        };
        decided_at(arrival, held, demand, fence, age_ms)
    }

    fn decided_at(
        arrival: Arrival,
        held: &Held,
        demand: (u64, Option<Position>),
        fence: (u64, u64),
        age_ms: u64,
    ) -> Verdict {
        let known = Known {
            lineage: Some(at(3, 0).lineage()),
            fence: Fence {
                turn: fence.0,
                lsn: Lsn(fence.1),
            },
            age_max: AGE_MAX,
            arrival,
            now: held.began + Duration::from_millis(age_ms),
        };
        let demand = Demand {
            lag_max: Duration::from_millis(demand.0),
            token: demand.1,
        };
        decide(&demand, held, &known)
    }

    #[test]
    fn a_value_answers_while_it_is_young_unwritten_and_covers_the_token() {
        let exact = held(Instant::now());
        let behind = Held {
            is_exact: false,
            ..exact.clone()
        };
        let mut unplaced = exact.clone();
        unplaced.value.covers = None;
        let answers = |ms| Verdict::Answers {
            lag: Duration::from_millis(ms),
        };
        use Verdict::{NotCovered, Overwritten, TooOld};
        let table = [
            // Its age is what it had and what has passed.
            (&exact, (3_000, None), (0, 0), 2_500, answers(3_000)),
            (&exact, (3_000, None), (0, 0), 2_501, TooOld),
            (&exact, (100_000, None), (0, 0), 59_501, TooOld),
            (&exact, (0, None), (0, 0), 0, TooOld),
            // A write before the primary was asked is in it; one after, only if the value covers it.
            (&exact, (3_000, None), (5, 200), 0, answers(500)),
            (&exact, (3_000, None), (6, 200), 0, Overwritten),
            (&exact, (3_000, None), (6, 99), 0, answers(500)),
            (&exact, (3_000, None), (6, 100), 0, Overwritten),
            // A source that is behind may lack a write from before it was asked.
            (&behind, (3_000, None), (5, 99), 0, answers(500)),
            (&behind, (3_000, None), (5, 100), 0, Overwritten),
            (&unplaced, (3_000, None), (5, 0), 0, answers(500)),
            (&unplaced, (3_000, None), (6, 0), 0, Overwritten),
            // Tokens.
            (&exact, (3_000, Some(at(3, 99))), (0, 0), 0, answers(500)),
            (&exact, (3_000, Some(at(3, 100))), (0, 0), 0, NotCovered),
            (&exact, (3_000, Some(at(2, 99))), (0, 0), 0, NotCovered),
            (&exact, (3_000, Some(at(4, 99))), (0, 0), 0, NotCovered),
            (&unplaced, (3_000, Some(at(3, 1))), (0, 0), 0, NotCovered),
            (&exact, (3_000, Some(at(3, 99))), (6, 200), 0, Overwritten),
        ];
        for (place, (held, demand, fence, age_ms, expected)) in table.into_iter().enumerate() {
            let verdict = decided(held, demand, fence, age_ms);
            assert_eq!(verdict, expected, "row {place}");
        }
    }

    #[test]
    fn an_answer_that_was_asked_for_on_the_way_is_judged_as_of_when_the_read_came() {
        let began = Instant::now();
        let exact = held(began);
        let behind = Held {
            is_exact: false,
            ..exact.clone()
        };
        let (before, after) = (began, began + Duration::from_millis(1));
        let answers = Verdict::Answers {
            lag: Duration::from_millis(500),
        };
        use Verdict::{NotCovered, Overwritten, TooOld};
        let table = [
            // A write that was announced after the read came is not missed; one before is.
            (&exact, (before, 5), 3_000, None, (6, 200), answers),
            (&exact, (after, 6), 3_000, None, (6, 200), Overwritten),
            (&behind, (before, 5), 3_000, None, (6, 200), Overwritten),
            // The token's commit was seen before the read came.
            (&exact, (before, 5), 3_000, Some(100), (0, 0), answers),
            (&exact, (after, 5), 3_000, Some(100), (0, 0), NotCovered),
            (&behind, (before, 5), 3_000, Some(100), (0, 0), NotCovered),
            (&exact, (before, 5), 3_000, Some(101), (0, 0), NotCovered),
            (&exact, (before, 5), 3_000, Some(100), (6, 200), answers),
            // How old it may be is another matter.
            (&exact, (before, 5), 499, None, (0, 0), TooOld),
        ];
        for (place, (held, (came, turn), lag_ms, token, fence, expected)) in
            table.into_iter().enumerate()
        {
            let arrival = Arrival { at: came, turn };
            let demand = (lag_ms, token.map(|lsn| at(3, lsn)));
            let verdict = decided_at(arrival, held, demand, fence, 0);
            assert_eq!(verdict, expected, "row {place}");
        }
    }

    #[test]
    fn a_value_of_another_history_answers_nothing() {
        let now = Instant::now();
        let held = held(now);
        let demand = Demand {
            lag_max: AGE_MAX,
            token: None,
        };
        for (lineage, expected) in [
            (None, Verdict::OtherLineage),
            (Some(at(4, 0).lineage()), Verdict::OtherLineage),
            (
                Some(Lineage {
                    system_id: 8,
                    timeline: 3,
                }),
                Verdict::OtherLineage,
            ),
            (Some(at(3, 0).lineage()), Verdict::Answers { lag: held.lag }),
        ] {
            let known = Known {
                lineage,
                fence: Fence {
                    turn: 0,
                    lsn: Lsn(0),
                },
                age_max: AGE_MAX,
                arrival: Arrival { at: now, turn: 0 },
                now,
            };
            assert_eq!(decide(&demand, &held, &known), expected, "{lineage:?}");
        }
    }
}
