//! The heartbeat of the primary, by which replicas tell how old they are.
//!
//! Every server beats and none has to be elected: whoever finds that nobody has beaten a moment ago does, so that ten
//! servers write no more than one, and the heart goes on while any of them lives.

use std::time::Duration;

use sheaf_pg::Pool;
use sheaf_store::heartbeat::beat;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// Between two beats. An answer of a replica is known to be as old as its last beat and no less, so that this is what
/// even the best lag may say; each beat costs the primary a flush of its log.
pub const BEAT_EVERY: Duration = Duration::from_millis(250);
/// Who has waited a little less than a beat still beats: servers' ticks are not as even as clocks.
const UNLESS_WITHIN: Duration = Duration::from_millis(200);
/// A primary that takes longer for a beat has none.
const BEAT_MAX: Duration = Duration::from_secs(5);

/// Beats until told to stop, over a connection of its own. That it cannot is told once, until it can again.
pub async fn keep_beating(upkeep: Pool, mut stop: watch::Receiver<bool>) {
    let upkeep = upkeep.beside(1);
    let mut ticks = interval_at(Instant::now(), BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_beating = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let outcome = timeout(BEAT_MAX, beat(&upkeep, UNLESS_WITHIN)).await;
        let is_beating = matches!(outcome, Ok(Ok(())));
        if is_beating && !was_beating {
            tracing::info!("the heartbeat goes on");
        }
        if !is_beating && was_beating {
            let cause = match outcome {
                Ok(Err(error)) => sheaf_pg::chain(&error),
                Ok(Ok(())) | Err(_) => format!("no answer within {BEAT_MAX:?}"),
            };
            tracing::warn!(
                cause,
                "the heartbeat cannot be written; the lag of replicas is unknown"
            );
        }
        was_beating = is_beating;
    }
}
