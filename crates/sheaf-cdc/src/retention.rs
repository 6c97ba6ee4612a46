//! How much log the slot may hold back before somebody is told, and before a sink that holds it is given up.
//!
//! The disk of the primary comes before the completeness of a sink that does not take its changes: such a sink begins anew from a
//! snapshot when it is well again. Where the server itself limits what slots may hold (`max_slot_wal_keep_size`), a slot that
//! reaches the limit is lost for every sink, so that the sick one is given up well before.

use std::time::Duration;

use tokio::time::Instant;

/// Without a limit of the server: as much as a day of 200 kB/s, which a small disk still has.
pub const RETAINED_BYTES_MAX: i64 = 16 << 30;
/// From this share of what may be held on, in percent, somebody is told.
const ALARM_PERCENT: i64 = 25;
/// From this share of the server's limit on, in percent, sick sinks are given up.
const GIVE_UP_PERCENT: i64 = 75;

/// What is known of the log that a slot holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// How much it holds; absent where that is unknown.
    pub retained_bytes: Option<i64>,
    /// How much the server lets it hold; absent where there is no limit.
    pub keep_bytes_max: Option<i64>,
    /// How much more may be written before it may be lost; absent where nothing is lost.
    pub safe_bytes: Option<i64>,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing.
    None,
    /// It is not known how much is held.
    Unknown,
    /// Somebody has to look.
    Alarm,
    /// Sinks that do not take their changes are given up, so that the log can go.
    GiveUp,
}

impl Retention {
    /// From how much on sinks are given up, where our own limit is this many bytes.
    pub fn bytes_max(self, retained_bytes_max: i64) -> i64 {
        let of_server = self
            .keep_bytes_max
            .map(|keep| keep.saturating_mul(GIVE_UP_PERCENT) / 100);
        of_server.map_or(retained_bytes_max, |of_server| {
            of_server.min(retained_bytes_max)
        })
    }

    /// Decides, where our own limit is this many bytes.
    pub fn pressure(self, retained_bytes_max: i64) -> Pressure {
        let Some(retained) = self.retained_bytes else {
            return Pressure::Unknown;
        };
        let give_up_at = self.bytes_max(retained_bytes_max);
        // The server counts whole files, and says itself how near it is.
        let is_nearly_lost = matches!((self.safe_bytes, self.keep_bytes_max), (Some(safe), Some(keep))
            if safe <= keep.saturating_mul(100 - GIVE_UP_PERCENT) / 100);
        if retained >= give_up_at || is_nearly_lost {
            return Pressure::GiveUp;
        }
        if retained >= give_up_at.saturating_mul(ALARM_PERCENT) / 100 {
            return Pressure::Alarm;
        }
        Pressure::None
    }
}

/// Since when a slot holds back too much and that does not become less; and how much it was then.
#[derive(Debug, Default)]
pub(crate) struct Excess(Option<(Instant, i64)>);

impl Excess {
    /// Too much is held at this moment. Gives back how long it has not become less.
    pub(crate) fn look(&mut self, retained_bytes: i64, now: Instant) -> Duration {
        match self.0 {
            Some((since, least)) if retained_bytes >= least => now.duration_since(since),
            Some(_) | None => {
                self.0 = Some((now, retained_bytes));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    #[test]
    fn the_alarm_is_long_before_the_end_and_the_end_before_the_servers() {
        let table = [
            (0, None, None, Pressure::None),
            (3 * GIB, None, None, Pressure::None),
            (4 * GIB, None, None, Pressure::Alarm),
            (16 * GIB, None, None, Pressure::GiveUp),
            // A limit of the server of 8 GiB.
            (GIB, Some(8 * GIB), Some(7 * GIB), Pressure::None),
            (2 * GIB, Some(8 * GIB), Some(6 * GIB), Pressure::Alarm),
            (6 * GIB, Some(8 * GIB), Some(2 * GIB), Pressure::GiveUp),
            (GIB, Some(8 * GIB), Some(2 * GIB), Pressure::GiveUp),
            // One above ours.
            (15 * GIB, Some(100 * GIB), Some(85 * GIB), Pressure::Alarm),
            (16 * GIB, Some(100 * GIB), Some(84 * GIB), Pressure::GiveUp),
        ];
        for (retained, keep, safe, wanted) in table {
            let retention = Retention {
                retained_bytes: Some(retained),
                keep_bytes_max: keep,
                safe_bytes: safe,
            };
            assert_eq!(retention.pressure(16 * GIB), wanted, "{retention:?}");
        }
    }

    #[test]
    fn an_excess_that_becomes_less_is_a_new_one() {
        let (begun, mut excess) = (Instant::now(), Excess::default());
        for (second, retained, lasts) in
            [(0, 50, 0), (5, 50, 5), (9, 70, 9), (10, 49, 0), (13, 50, 3)]
        {
            let now = begun + Duration::from_secs(second);
            let lasts = Duration::from_secs(lasts);
            assert_eq!(excess.look(retained, now), lasts, "second {second}");
        }
    }

    #[test]
    fn an_unknown_amount_is_not_a_small_one() {
        assert_eq!(Retention::default().pressure(GIB), Pressure::Unknown);
    }
}
