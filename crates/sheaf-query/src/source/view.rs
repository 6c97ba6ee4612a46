//! What is known of the sources at one moment: what their servers last showed, and when they were asked.
//!
//! Instants are of the monotonic clock. The primary's own clock is known by an answer and the time since, so that ages do
//! not depend on this machine's clock being right.

use std::time::{Duration, Instant};

use sheaf_model::Timestamp;
use sheaf_store::heartbeat::{Beat, Look, Part};

use crate::consistency::Lag;

/// Eight beats. A heart that has not beaten for so long has stopped, and says no more how old a replica is.
const HEART_STOPPED_AFTER: Duration = Duration::from_secs(2);
/// A source that has not answered for so long is lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(1);
/// A replica that shows nothing new for so long, while the heart is seen to beat, stands still. With the look that shows it
/// this is a second.
const STALLED_AFTER: Duration = Duration::from_millis(900);

/// What a server showed when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// When it was asked. What it showed was so after this instant.
    pub(crate) asked_at: Instant,
    /// When something new was last seen in it.
    pub(crate) progressed_at: Instant,
    /// What it showed.
    pub(crate) look: Look,
}

impl Seen {
    /// What is known after a further look.
    pub(crate) fn after(before: Option<&Seen>, look: Look, asked_at: Instant) -> Seen {
        let has_progressed = before.is_none_or(|before| {
            before.look.part != look.part
                || before.look.beat != look.beat
                || before.look.started_at != look.started_at
        });
        Seen {
            asked_at,
            progressed_at: match before {
                Some(before) if !has_progressed => before.progressed_at,
                Some(_) | None => asked_at,
            },
            look,
        }
    }

    /// Whether it is too long ago to count.
    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked_at) > LOST_AFTER
    }

    /// Whether the server stands still while the heart beats. A primary that is away beats no more: its replicas have nothing
    /// to show, and get older as the clock goes on.
    pub(crate) fn is_stalled(&self, heart: Heart) -> bool {
        match heart {
            Heart::Beating(clock) => {
                clock.asked_at.saturating_duration_since(self.progressed_at) > STALLED_AFTER
            }
            Heart::Stopped | Heart::Unknown => false,
        }
    }
}

/// What the primary's heart says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heart {
    /// The primary was never seen.
    Unknown,
    /// It does not beat: nobody can say how old a replica is.
    Stopped,
    /// It beats, or did when the primary was last reached; and the primary's clock.
    Beating(PrimaryClock),
}

/// The primary's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PrimaryClock {
    read: Timestamp,
    asked_at: Instant,
}

impl PrimaryClock {
    /// What it says now, at most: it was read a little after it was asked for.
    fn at(self, now: Instant) -> Timestamp {
        let since = now.saturating_duration_since(self.asked_at);
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        self.read.saturating_add_micros(micros)
    }
}

impl Heart {
    /// What the last look at the primary says of it.
    pub(crate) fn of(primary: Option<&Seen>) -> Heart {
        let Some(Seen { asked_at, look, .. }) = primary else {
            return Heart::Unknown;
        };
        let Some(beat) = look.beat else {
            return Heart::Stopped;
        };
        if look.clock.since(beat.at) > HEART_STOPPED_AFTER {
            return Heart::Stopped;
        }
        Heart::Beating(PrimaryClock {
            read: look.clock,
            asked_at: *asked_at,
        })
    }

    /// How far behind a source is that shows this beat and no later one.
    pub(crate) fn lag(self, beat: Option<Beat>, now: Instant) -> Lag {
        match (self, beat) {
            (Heart::Beating(clock), Some(beat)) => Lag::Measured(clock.at(now).since(beat.at)),
            (Heart::Unknown | Heart::Stopped, _) | (_, None) => Lag::Unknown,
        }
    }
}

/// The timeline that a server writes on; absent for one that follows.
pub(crate) fn written_timeline(look: &Look) -> Option<u32> {
    match look.part {
        Part::Primary { timeline, .. } => Some(timeline),
        Part::Standby { .. } => None,
    }
}

/// The newest timeline that a server proves: the one that it writes on; or that of the beat that it follows, where that has
/// come since the server was looked at before. A beat that was there already may be of another cluster, whose rows were
/// restored into this one or taken along by an upgrade: the row says nothing of the history that it was written in.
pub(crate) fn proven_timeline(before: Option<&Seen>, look: &Look) -> Option<u32> {
    let follows = match look.part {
        Part::Primary { timeline, .. } => return Some(timeline),
        Part::Standby { .. } => look.beat?,
    };
    let before = &before?.look;
    let is_same = before.system_id == look.system_id && before.started_at == look.started_at;
    let has_come = is_same && before.beat.is_some_and(|beat| beat != follows);
    has_come.then_some(follows.timeline)
}

#[cfg(test)]
pub(crate) mod tests {
    use sheaf_model::Lsn;

    use super::*;

    pub(crate) const SYSTEM: u64 = 7;

    /// The primary's clock at the instant `now` of a test.
    pub(crate) fn clock() -> Timestamp {
        Timestamp::parse("2024-06-01T00:00:00Z").expect("a time").0
    }

    pub(crate) fn beat(millis_ago: i64, timeline: u32) -> Beat {
        Beat {
            at: clock().saturating_add_micros(-millis_ago * 1_000),
            timeline,
        }
    }

    pub(crate) fn look(part: Part, beat: Option<Beat>) -> Look {
        Look {
            system_id: SYSTEM,
            part,
            server_version: 150_000,
            started_at: Timestamp::MIN,
            clock: clock(),
            beat,
        }
    }

    pub(crate) fn seen(look: Look, asked_at: Instant) -> Seen {
        Seen::after(None, look, asked_at)
    }

    fn primary(beat: Option<Beat>, asked_at: Instant) -> Seen {
        let written = Lsn(100);
        seen(
            look(
                Part::Primary {
                    timeline: 1,
                    written,
                },
                beat,
            ),
            asked_at,
        )
    }

    fn standby(replayed: u64, beat: Option<Beat>) -> Look {
        let replayed = Some(Lsn(replayed));
        look(Part::Standby { replayed }, beat)
    }

    #[test]
    fn a_replica_is_as_old_as_its_last_beat_against_the_primarys_clock() {
        let now = Instant::now();
        let heart = Heart::of(Some(&primary(Some(beat(100, 1)), now)));
        let millis = |millis| Lag::Measured(Duration::from_millis(millis));
        assert_eq!(heart.lag(Some(beat(2_000, 1)), now), millis(2_000));
        let later = now + Duration::from_millis(500);
        assert_eq!(heart.lag(Some(beat(2_000, 1)), later), millis(2_500));
        // A beat that came after the primary's clock was read.
        assert_eq!(heart.lag(Some(beat(-400, 1)), now), millis(0));
        assert_eq!(heart.lag(None, now), Lag::Unknown);
    }

    #[test]
    fn without_a_beating_heart_every_lag_is_unknown() {
        let now = Instant::now();
        for (heart, expected) in [
            (Heart::of(None), Heart::Unknown),
            (Heart::of(Some(&primary(None, now))), Heart::Stopped),
            (
                Heart::of(Some(&primary(Some(beat(2_001, 1)), now))),
                Heart::Stopped,
            ),
        ] {
            assert_eq!(heart, expected);
            assert_eq!(heart.lag(Some(beat(0, 1)), now), Lag::Unknown, "{heart:?}");
        }
        let heart = Heart::of(Some(&primary(Some(beat(2_000, 1)), now)));
        assert!(matches!(heart, Heart::Beating(_)));
    }

    #[test]
    fn a_server_proves_the_timeline_that_it_writes_on_or_that_of_a_beat_that_has_come() {
        let written = Lsn(100);
        let on = |timeline| Part::Primary { timeline, written };
        let follows = Part::Standby { replayed: None };
        let (old, new) = (Some(beat(500, 3)), Some(beat(0, 2)));
        for (before, part, beat, expected) in [
            // A row that was restored from a cluster with a longer history.
            (None, on(1), old, Some(1)),
            (None, on(3), None, Some(3)),
            (None, follows, old, None),
            (Some(old), follows, old, None),
            (Some(None), follows, old, None),
            (Some(old), follows, new, Some(2)),
            (Some(old), follows, None, None),
        ] {
            let before = before.map(|beat| seen(look(follows, beat), Instant::now()));
            let proven = proven_timeline(before.as_ref(), &look(part, beat));
            assert_eq!(proven, expected, "{before:?} {part:?} {beat:?}");
        }
        // Another server behind the address, or this one from another copy.
        let mut before = look(follows, old);
        before.started_at = clock();
        let before = seen(before, Instant::now());
        assert_eq!(proven_timeline(Some(&before), &look(follows, new)), None);
    }

    #[test]
    fn a_server_progresses_by_what_it_shows_and_not_by_being_asked() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        // As it was seen to beat then.
        let heart = |millis| Heart::of(Some(&primary(Some(beat(0, 1)), at(millis))));
        let first = seen(standby(5, Some(beat(0, 1))), now);
        let still = Seen::after(Some(&first), standby(5, Some(beat(0, 1))), at(900));
        assert!(!still.is_stalled(heart(900)));
        assert!(still.is_stalled(heart(901)));
        assert!(!still.is_stalled(Heart::Stopped) && !still.is_stalled(Heart::Unknown));
        let moved = Seen::after(Some(&still), standby(6, Some(beat(0, 1))), at(1_100));
        assert!(!moved.is_stalled(heart(2_000)));
        let beaten = Seen::after(Some(&still), standby(5, Some(beat(-1, 1))), at(1_100));
        assert!(!beaten.is_stalled(heart(2_000)));
        assert!(!still.is_lost(at(1_900)) && still.is_lost(at(1_901)));
    }
}
