//! The decision which source answers a read: pure, from what is asked and what is known.
//!
//! A replica is asked only if everything that is known of it says that it may answer, and what it answers is judged once
//! more by what its own transaction says. What no replica may answer, the primary does.

use std::time::{Duration, Instant};

use sheaf_model::Position;
use sheaf_pg::has_wait;
use sheaf_store::heartbeat::Part;

use super::view::{Heart, Seen};
use crate::consistency::{ConsistencyLevel, Lag};

/// What a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) level: ConsistencyLevel,
    /// How old the answer may be; absent where nothing bounds it.
    pub(crate) lag_max: Option<Duration>,
    pub(crate) token: Option<Position>,
    /// Whether a replica may be waited for that has not reached the token.
    pub(crate) may_wait: bool,
}

/// What is known.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) system_id: u64,
    /// The highest timeline that any server of the cluster was seen to write on.
    pub(crate) timeline: Option<u32>,
    pub(crate) heart: Heart,
    /// Whether the primary's breaker lets a read through.
    pub(crate) primary_admits: bool,
    pub(crate) replicas: Vec<ReplicaView>,
    /// Where among equals the choice begins.
    pub(crate) turn: usize,
}

/// What is known of a replica.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaView {
    pub(crate) seen: Option<Seen>,
    /// Whether its breaker lets a read through, and this read has not failed there already.
    pub(crate) admits: bool,
    pub(crate) in_flight: usize,
    pub(crate) latency: Duration,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The replica at this place.
    Replica(usize),
    /// A replica that has not reached the token yet and may soon: after the next looks.
    Wait,
    /// The replica at this place, once it has reached the token, for which it waits itself.
    WaitAt(usize),
    /// The primary.
    Primary {
        /// Whether replicas should have answered, so that it does so within a bound.
        in_place: bool,
    },
    /// Nobody.
    Refuse(Refusal),
}

/// Why nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The token is of another cluster.
    InvalidToken,
    /// The token is of a timeline that a failover has ended.
    StaleTimeline,
    /// No replica has reached the token, and the primary cannot be asked.
    TokenNotReached,
    /// No replica is fresh enough, and the primary cannot be asked.
    LagExceeded,
}

/// Whether a replica may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Now,
    /// Once it has reached the token.
    Soon,
    No,
}

/// Decides.
pub(crate) fn decide(need: &Need, view: &View, now: Instant) -> Decision {
    if let Err(refusal) = check_token(need.token, view.system_id, view.timeline) {
        return Decision::Refuse(refusal);
    }
    if !need.level.may_be_behind(need.token.is_some()) || view.replicas.is_empty() {
        return Decision::Primary { in_place: false };
    }
    let fits: Vec<Fit> = view
        .replicas
        .iter()
        .map(|replica| fit(replica, need, view, now))
        .collect();
    if let Some(place) = least_loaded(view, &fits) {
        return Decision::Replica(place);
    }
    if need.may_wait && fits.contains(&Fit::Soon) {
        return match waits_itself(need, view, &fits) {
            Some(place) => Decision::WaitAt(place),
            None => Decision::Wait,
        };
    }
    if view.primary_admits {
        return Decision::Primary { in_place: true };
    }
    Decision::Refuse(match need.token {
        Some(_) => Refusal::TokenNotReached,
        None => Refusal::LagExceeded,
    })
}

/// Refuses a token that nobody can honour, whoever can be asked. One of a later timeline than is known is not refused yet:
/// who is asked may be on it.
pub(crate) fn check_token(
    token: Option<Position>,
    system_id: u64,
    newest: Option<u32>,
) -> Result<(), Refusal> {
    let Some(token) = token else {
        return Ok(());
    };
    if token.system_id != system_id {
        return Err(Refusal::InvalidToken);
    }
    if newest.is_some_and(|newest| token.timeline < newest) {
        return Err(Refusal::StaleTimeline);
    }
    Ok(())
}

fn fit(replica: &ReplicaView, need: &Need, view: &View, now: Instant) -> Fit {
    let Some(seen) = replica.seen.as_ref().filter(|_| replica.admits) else {
        return Fit::No;
    };
    let look = &seen.look;
    let Part::Standby {
        replayed: Some(replayed),
    } = look.part
    else {
        return Fit::No;
    };
    // The timeline is the one that its last beat was written on: a replica of a primary that was left behind shows none of
    // the newer one, and neither does one that has not come that far.
    let is_ours = look.system_id == view.system_id
        && look
            .beat
            .is_some_and(|beat| Some(beat.timeline) == view.timeline);
    if !is_ours || seen.is_lost(now) || seen.is_stalled(view.heart) {
        return Fit::No;
    }
    let lag = view.heart.lag(look.beat, now);
    if let Some(max) = need.lag_max {
        match lag {
            Lag::Measured(lag) if lag <= max => {}
            Lag::Measured(_) | Lag::Unknown => return Fit::No,
        }
    }
    let has_reached = |token: Position| {
        // A later timeline may be that of a promotion which the next looks show.
        Some(token.timeline) == view.timeline && token.lsn <= replayed
    };
    match (need.token.is_none_or(has_reached), lag) {
        (true, _) => Fit::Now,
        (false, Lag::Measured(lag)) if lag > SOON_LAG_MAX => Fit::No,
        (false, Lag::Measured(_) | Lag::Unknown) => Fit::Soon,
    }
}

/// A replica that is further behind does not reach within the wait what was just written: it replays about as fast as the
/// primary writes, and would have to be several times as fast.
const SOON_LAG_MAX: Duration = Duration::from_secs(1);

/// The replica that is waited for by a command of its own, if there is one. The command knows of no timelines.
fn waits_itself(need: &Need, view: &View, fits: &[Fit]) -> Option<usize> {
    let is_of_now = need
        .token
        .is_some_and(|token| Some(token.timeline) == view.timeline);
    let can_wait = |place: &usize| {
        let seen = view.replicas[*place].seen.as_ref();
        seen.is_some_and(|seen| has_wait(seen.look.server_version))
    };
    in_turn(view, fits, Fit::Soon)
        .filter(|_| is_of_now)
        .find(can_wait)
}

/// The one among those that fit now whose next answer is likely to come first.
fn least_loaded(view: &View, fits: &[Fit]) -> Option<usize> {
    in_turn(view, fits, Fit::Now).min_by_key(|place| {
        let replica = &view.replicas[*place];
        let each = replica.latency.as_micros().max(LATENCY_LEAST_MICROS);
        each * (replica.in_flight as u128 + 1)
    })
}

/// The places of those that fit so, from where the choice begins.
fn in_turn(view: &View, fits: &[Fit], wanted: Fit) -> impl Iterator<Item = usize> {
    let count = fits.len();
    (0..count)
        .map(move |step| (view.turn.wrapping_add(step)) % count)
        .filter(move |place| fits[*place] == wanted)
}

/// Differences below this are noise.
const LATENCY_LEAST_MICROS: u128 = 200;

#[cfg(test)]
mod tests;
