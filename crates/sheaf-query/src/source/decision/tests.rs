//! Every branch of the decision.

use sheaf_model::Lsn;
use sheaf_store::heartbeat::Beat;

use super::*;
use crate::source::view::tests::{SYSTEM, beat, look, seen};

const STRONG: ConsistencyLevel = ConsistencyLevel::Strong;
const SESSION: ConsistencyLevel = ConsistencyLevel::Session;
const EVENTUAL: ConsistencyLevel = ConsistencyLevel::Eventual;
const ANALYTICS: ConsistencyLevel = ConsistencyLevel::Analytics;
const PRIMARY: Decision = Decision::Primary { in_place: false };
const IN_PLACE: Decision = Decision::Primary { in_place: true };

fn need(level: ConsistencyLevel) -> Need {
    let lag_max = match level {
        STRONG => Some(Duration::ZERO),
        SESSION => None,
        EVENTUAL => Some(Duration::from_secs(3)),
        ANALYTICS => Some(Duration::from_secs(300)),
    };
    Need {
        level,
        lag_max,
        token: None,
        may_wait: true,
    }
}

fn token(timeline: u32, lsn: u64) -> Option<Position> {
    Some(Position {
        system_id: SYSTEM,
        timeline,
        lsn: Lsn(lsn),
    })
}

fn with_token(level: ConsistencyLevel, token: Option<Position>) -> Need {
    Need {
        token,
        ..need(level)
    }
}

fn of(part: Part, beat: Option<Beat>, now: Instant) -> ReplicaView {
    ReplicaView {
        seen: Some(seen(look(part, beat), now)),
        admits: true,
        in_flight: 0,
        latency: Duration::from_millis(1),
    }
}

/// A replica that has replayed up to 100 and is so many milliseconds behind.
fn replica(millis_behind: i64, now: Instant) -> ReplicaView {
    of(standby(100), Some(beat(millis_behind, 2)), now)
}

fn standby(replayed: u64) -> Part {
    Part::Standby {
        replayed: Some(Lsn(replayed)),
    }
}

fn primary(timeline: u32) -> Part {
    Part::Primary {
        timeline,
        written: Lsn(120),
    }
}

/// The primary on timeline 2, its heart beating.
fn view(replicas: Vec<ReplicaView>, now: Instant) -> View {
    View {
        system_id: SYSTEM,
        timeline: Some(2),
        heart: Heart::of(Some(&seen(look(primary(2), Some(beat(50, 2))), now))),
        primary_admits: true,
        replicas,
        turn: 0,
    }
}

#[test]
fn each_level_asks_whom_it_may() {
    let now = Instant::now();
    let behind = |millis| view(vec![replica(millis, now)], now);
    let with_max = |level, seconds| Need {
        lag_max: Some(Duration::from_secs(seconds)),
        ..need(level)
    };
    for (need, millis, expected) in [
        (need(STRONG), 0, PRIMARY),
        (with_token(STRONG, token(2, 50)), 0, PRIMARY),
        (need(SESSION), 0, PRIMARY),
        (with_token(SESSION, token(2, 100)), 0, Decision::Replica(0)),
        (
            with_token(SESSION, token(2, 100)),
            900_000,
            Decision::Replica(0),
        ),
        (need(EVENTUAL), 3_000, Decision::Replica(0)),
        (need(EVENTUAL), 3_001, IN_PLACE),
        (need(ANALYTICS), 300_000, Decision::Replica(0)),
        (need(ANALYTICS), 300_001, IN_PLACE),
        (with_max(EVENTUAL, 10), 10_000, Decision::Replica(0)),
        (with_max(EVENTUAL, 1), 1_001, IN_PLACE),
        (
            Need {
                token: token(2, 100),
                ..with_max(SESSION, 1)
            },
            1_001,
            IN_PLACE,
        ),
    ] {
        let decided = decide(&need, &behind(millis), now);
        assert_eq!(decided, expected, "{need:?}, {millis} ms behind");
    }
}

#[test]
fn without_replicas_the_primary_answers_everything_and_nobody_has_all_caught_up() {
    let now = Instant::now();
    for need in [
        need(EVENTUAL),
        need(ANALYTICS),
        with_token(SESSION, token(2, 999)),
        with_token(EVENTUAL, token(2, 999)),
    ] {
        assert_eq!(decide(&need, &view(vec![], now), now), PRIMARY, "{need:?}");
        // Its breaker is no reason to refuse what nobody else could answer.
        let shut = View {
            primary_admits: false,
            ..view(vec![], now)
        };
        assert_eq!(decide(&need, &shut, now), PRIMARY, "{need:?}");
    }
}

#[test]
fn a_replica_that_anything_speaks_against_is_not_asked() {
    let now = Instant::now();
    let whole = replica(100, now);
    let changed = |change: fn(&mut Seen)| {
        let mut changed = whole.clone();
        change(changed.seen.as_mut().expect("it was seen"));
        changed
    };
    let unfit = [
        (
            "its breaker is open",
            ReplicaView {
                admits: false,
                ..whole.clone()
            },
        ),
        (
            "it was never seen",
            ReplicaView {
                seen: None,
                ..whole.clone()
            },
        ),
        ("it was promoted", of(primary(2), Some(beat(0, 2)), now)),
        (
            "it is of another cluster",
            changed(|seen| seen.look.system_id = 8),
        ),
        (
            "it has replayed nothing",
            of(Part::Standby { replayed: None }, Some(beat(0, 2)), now),
        ),
        ("it shows no beat", of(standby(100), None, now)),
        (
            "it follows an old primary",
            of(standby(900), Some(beat(0, 1)), now),
        ),
        (
            "it follows a newer primary",
            of(standby(900), Some(beat(0, 3)), now),
        ),
    ];
    for (why, replica) in unfit {
        for need in [need(ANALYTICS), with_token(SESSION, token(2, 100))] {
            let alone = view(vec![replica.clone()], now);
            assert_eq!(decide(&need, &alone, now), IN_PLACE, "{why}: {need:?}");
            let with_other = view(vec![replica.clone(), whole.clone()], now);
            let decided = decide(&need, &with_other, now);
            assert_eq!(decided, Decision::Replica(1), "{why}: {need:?}");
        }
    }
    let unknown = View {
        timeline: None,
        ..view(vec![whole], now)
    };
    assert_eq!(decide(&need(ANALYTICS), &unknown, now), IN_PLACE);
}

#[test]
fn a_replica_that_does_not_answer_or_stands_still_is_left_after_a_second() {
    let now = Instant::now();
    let at = |millis| now + Duration::from_millis(millis);
    let asked = need(ANALYTICS);
    let alone = view(vec![replica(100, now)], now);
    assert_eq!(decide(&asked, &alone, at(1_000)), Decision::Replica(0));
    assert_eq!(decide(&asked, &alone, at(1_001)), IN_PLACE, "it is lost");
    // It answers, and has had nothing new while the heart was seen to beat.
    let standing = |beaten_at| {
        let mut standing = replica(100, now);
        standing.seen.as_mut().expect("it was seen").asked_at = at(1_000);
        let primary = seen(look(primary(2), Some(beat(50, 2))), at(beaten_at));
        View {
            heart: Heart::of(Some(&primary)),
            ..view(vec![standing], now)
        }
    };
    let decided = |beaten_at| decide(&asked, &standing(beaten_at), at(1_000));
    assert_eq!(decided(900), Decision::Replica(0));
    assert_eq!(decided(901), IN_PLACE, "it stands still");
}

#[test]
fn without_the_primary_replicas_answer_for_as_long_as_their_lag_allows() {
    let now = Instant::now();
    let at = |millis| now + Duration::from_millis(millis);
    // Both were seen last when the primary went; the replica goes on answering and has nothing new to show.
    let away = |millis| {
        let mut idle = replica(100, now);
        idle.seen.as_mut().expect("it was seen").asked_at = at(millis);
        View {
            primary_admits: false,
            ..view(vec![idle], now)
        }
    };
    let ten_seconds = Need {
        lag_max: Some(Duration::from_secs(10)),
        ..need(EVENTUAL)
    };
    let too_old = Decision::Refuse(Refusal::LagExceeded);
    for (need, millis, expected) in [
        (need(EVENTUAL), 2_900, Decision::Replica(0)),
        (need(EVENTUAL), 2_901, too_old),
        (ten_seconds, 9_900, Decision::Replica(0)),
        (ten_seconds, 9_901, too_old),
        (need(ANALYTICS), 60_000, Decision::Replica(0)),
        (
            with_token(SESSION, token(2, 100)),
            900_000,
            Decision::Replica(0),
        ),
    ] {
        let decided = decide(&need, &away(millis), at(millis));
        assert_eq!(decided, expected, "{need:?} after {millis} ms");
    }
}

#[test]
fn with_a_stopped_heart_only_a_token_admits_a_replica() {
    let now = Instant::now();
    for heart in [Heart::Stopped, Heart::Unknown] {
        let alone = View {
            heart,
            ..view(vec![replica(0, now)], now)
        };
        assert_eq!(decide(&need(EVENTUAL), &alone, now), IN_PLACE);
        assert_eq!(decide(&need(ANALYTICS), &alone, now), IN_PLACE);
        let session = with_token(SESSION, token(2, 100));
        assert_eq!(decide(&session, &alone, now), Decision::Replica(0));
    }
}

#[test]
fn a_token_is_waited_for_within_bounds_and_then_the_primary_answers() {
    let now = Instant::now();
    let alone = view(vec![replica(10, now)], now);
    for level in [SESSION, EVENTUAL, ANALYTICS] {
        let waiting = with_token(level, token(2, 101));
        assert_eq!(decide(&waiting, &alone, now), Decision::Wait, "{level:?}");
        let waited = Need {
            may_wait: false,
            ..waiting
        };
        assert_eq!(decide(&waited, &alone, now), IN_PLACE, "{level:?}");
        // One that has got there answers, whatever the other one has.
        let ahead = of(standby(101), Some(beat(900, 2)), now);
        let both = view(vec![replica(0, now), ahead], now);
        assert_eq!(decide(&waiting, &both, now), Decision::Replica(1));
    }
    // Who cannot get there is not waited for.
    let standing = ReplicaView {
        admits: false,
        ..replica(10, now)
    };
    let waiting = with_token(SESSION, token(2, 101));
    assert_eq!(decide(&waiting, &view(vec![standing], now), now), IN_PLACE);
}

#[test]
fn who_is_too_far_behind_to_reach_a_token_in_time_is_not_waited_for() {
    let now = Instant::now();
    let waiting = with_token(SESSION, token(2, 101));
    for (millis, expected) in [(1_000, Decision::Wait), (1_001, IN_PLACE)] {
        let decided = decide(&waiting, &view(vec![replica(millis, now)], now), now);
        assert_eq!(decided, expected, "{millis} ms behind");
    }
    // What is not known is waited for; and what it has already it answers, however far behind.
    let unknown = View {
        heart: Heart::Stopped,
        ..view(vec![replica(9_000, now)], now)
    };
    assert_eq!(decide(&waiting, &unknown, now), Decision::Wait);
    let reached = with_token(SESSION, token(2, 100));
    let behind = view(vec![replica(9_000, now)], now);
    assert_eq!(decide(&reached, &behind, now), Decision::Replica(0));
}

#[test]
fn a_replica_that_can_wait_itself_is_waited_at() {
    let now = Instant::now();
    let of_version = |version, millis| {
        let mut replica = replica(millis, now);
        let seen = replica.seen.as_mut().expect("it was seen");
        seen.look.server_version = version;
        replica
    };
    let (old, new) = (of_version(180_003, 10), of_version(190_000, 10));
    let waiting = with_token(SESSION, token(2, 101));
    for (replicas, expected) in [
        (vec![old.clone()], Decision::Wait),
        (vec![new.clone()], Decision::WaitAt(0)),
        (vec![old.clone(), new.clone()], Decision::WaitAt(1)),
        (
            vec![old.clone(), of_version(190_000, 9_000)],
            Decision::Wait,
        ),
        (vec![old, of_version(200_001, 10)], Decision::WaitAt(1)),
    ] {
        let decided = decide(&waiting, &view(replicas.clone(), now), now);
        assert_eq!(decided, expected, "{replicas:?}");
    }
    // Its command knows of no timelines.
    let later = with_token(SESSION, token(3, 1));
    assert_eq!(decide(&later, &view(vec![new], now), now), Decision::Wait);
}

#[tokio::test]
async fn the_servers_of_today_are_waited_for_by_looks() -> anyhow::Result<()> {
    let database = sheaf_testkit::TestDatabase::create().await?;
    let client = database.client("sheaf_app").await?;
    let look = sheaf_store::heartbeat::look(&client).await?;
    assert!(look.server_version >= 150_000, "{look:?}");
    let now = Instant::now();
    let mut of_today = replica(10, now);
    let seen = of_today.seen.as_mut().expect("it was seen");
    seen.look.server_version = look.server_version;
    let expected = if look.server_version < 190_000 {
        Decision::Wait
    } else {
        Decision::WaitAt(0)
    };
    let waiting = with_token(SESSION, token(2, 101));
    let decided = decide(&waiting, &view(vec![of_today], now), now);
    assert_eq!(decided, expected, "{look:?}");
    Ok(())
}

#[test]
fn tokens_of_another_history_are_refused_by_name_or_left_to_the_primary() {
    let now = Instant::now();
    let alone = view(vec![replica(0, now)], now);
    let foreign = token(2, 1).map(|token| Position {
        system_id: SYSTEM + 1,
        ..token
    });
    for level in ConsistencyLevel::ALL {
        for (token, expected) in [
            (foreign, Refusal::InvalidToken),
            (token(1, 1), Refusal::StaleTimeline),
        ] {
            let decided = decide(&with_token(level, token), &alone, now);
            assert_eq!(decided, Decision::Refuse(expected), "{level:?}");
        }
    }
    // Of a later one: the next looks may show a promotion, and then the primary says on which timeline it is.
    for level in [SESSION, EVENTUAL, ANALYTICS] {
        let later = with_token(level, token(3, 1));
        assert_eq!(decide(&later, &alone, now), Decision::Wait, "{level:?}");
        let waited = Need {
            may_wait: false,
            ..later
        };
        assert_eq!(decide(&waited, &alone, now), IN_PLACE, "{level:?}");
        assert_eq!(decide(&later, &view(vec![], now), now), PRIMARY);
    }
    let later = with_token(STRONG, token(3, 1));
    assert_eq!(decide(&later, &alone, now), PRIMARY);
    let unseen = View {
        timeline: None,
        ..view(vec![], now)
    };
    let old = with_token(SESSION, token(1, 1));
    assert_eq!(decide(&old, &unseen, now), PRIMARY, "the primary knows");
}

#[test]
fn without_a_primary_what_no_replica_may_answer_is_refused_by_name() {
    let now = Instant::now();
    let shut = View {
        primary_admits: false,
        ..view(vec![replica(4_000, now)], now)
    };
    let waited = Need {
        may_wait: false,
        ..with_token(SESSION, token(2, 101))
    };
    for (need, expected) in [
        (need(EVENTUAL), Decision::Refuse(Refusal::LagExceeded)),
        (waited, Decision::Refuse(Refusal::TokenNotReached)),
        (need(ANALYTICS), Decision::Replica(0)),
        (need(STRONG), PRIMARY),
        (need(SESSION), PRIMARY),
    ] {
        assert_eq!(decide(&need, &shut, now), expected, "{need:?}");
    }
}

#[test]
fn the_least_loaded_answers_and_not_the_least_lagged() {
    let now = Instant::now();
    let loaded = |millis_behind, in_flight, micros| ReplicaView {
        in_flight,
        latency: Duration::from_micros(micros),
        ..replica(millis_behind, now)
    };
    for (replicas, place) in [
        (vec![loaded(0, 3, 1_000), loaded(900, 0, 1_000)], 1),
        (vec![loaded(0, 0, 9_000), loaded(900, 0, 1_000)], 1),
        (vec![loaded(0, 1, 1_000), loaded(900, 0, 9_000)], 0),
        // Below the noise they are equal, and the turn decides.
        (vec![loaded(0, 0, 150), loaded(900, 0, 20)], 0),
    ] {
        let both = view(replicas, now);
        assert_eq!(
            decide(&need(EVENTUAL), &both, now),
            Decision::Replica(place)
        );
    }
    for turn in 0..6 {
        let equal = View {
            turn,
            ..view(vec![replica(0, now); 3], now)
        };
        let decided = decide(&need(EVENTUAL), &equal, now);
        assert_eq!(decided, Decision::Replica(turn % 3));
    }
}
