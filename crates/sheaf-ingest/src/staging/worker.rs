//! The workers: those that flush, and one that watches the backlog, confirmations and losses.

use std::time::{Duration, Instant};

use sheaf_pg::PgError;
use sheaf_store::staging::{confirm, flush as flush_some, read_backlog};
use tokio::sync::watch;

use super::{Staging, locked};
use crate::instruments::{EVENTS_TOTAL, STAGING_EVENTS, STAGING_OLDEST_SECONDS};

/// How often a worker looks when this server stages nothing: batches of another that has ended are flushed, too.
const IDLE_EVERY: Duration = Duration::from_secs(1);
/// Of idle looks, the one in so many that confirms all the same: what a server flushed that ended before it was confirmed.
const IDLE_CONFIRMS_EVERY: u64 = 10;
/// How long a worker goes on flushing after it was told to stop. What is left then waits for another server.
const LAST_FLUSHES_MAX: Duration = Duration::from_secs(5);

/// What one flush left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing was there.
    Empty,
    /// What was there is moved.
    Moved,
    /// As much as a flush takes is moved, and there may be more.
    Full,
    /// Nothing is moved: PostgreSQL is away, or somebody holds a lock. Neither is over in the next moment.
    Failed,
}

/// Flushes until told to stop, and then until nothing is left.
pub(super) async fn flush(staging: Staging, mut stop: watch::Receiver<bool>) {
    let options = staging.inner.options;
    while !*stop.borrow() {
        let pause = match flush_once(&staging).await {
            Turn::Full => {
                // There is work for another worker, too.
                staging.inner.staged.notify_one();
                continue;
            }
            Turn::Failed => IDLE_EVERY,
            Turn::Moved => options.flush_every,
            Turn::Empty => {
                tokio::select! {
                    () = staging.inner.staged.notified() => {}
                    () = tokio::time::sleep(IDLE_EVERY) => {}
                    _ = stop.wait_for(|stopped| *stopped) => break,
                }
                options.flush_every
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
    }
    let stopped_at = Instant::now();
    loop {
        match flush_once(&staging).await {
            Turn::Empty => return,
            Turn::Moved | Turn::Full => {}
            Turn::Failed => tokio::time::sleep(options.flush_every).await,
        }
        if stopped_at.elapsed() > LAST_FLUSHES_MAX {
            return;
        }
    }
}

async fn flush_once(staging: &Staging) -> Turn {
    let events_max = staging.inner.options.flush_events_max;
    let flushed = match flush_some(&staging.inner.writer, events_max).await {
        Ok(flushed) => flushed,
        Err(error) => {
            warn(
                &error,
                "a flush of staged batches failed; the next tries again",
            );
            return Turn::Failed;
        }
    };
    let old = flushed.duplicates + flushed.merged + flushed.corrected;
    record("accepted", flushed.events - old);
    record("duplicate", flushed.duplicates);
    record("merged", flushed.merged);
    record("corrected", flushed.corrected);
    if flushed.batches == 0 {
        Turn::Empty
    } else if flushed.events >= i64::from(events_max) {
        Turn::Full
    } else {
        Turn::Moved
    }
}

fn record(result: &'static str, events: i64) {
    let events = u64::try_from(events).unwrap_or_default();
    metrics::counter!(EVENTS_TOTAL, "result" => result).increment(events);
}

fn warn(error: &PgError, what: &'static str) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, "{what}");
}

/// Watches until told to stop.
pub(super) async fn watch(staging: Staging, mut stop: watch::Receiver<bool>) {
    for number in 0_u64.. {
        let confirms = number % IDLE_CONFIRMS_EVERY == 0;
        let (is_idle, every) = match look(&staging, confirms).await {
            Ok(true) => (false, staging.inner.options.flush_every.min(IDLE_EVERY)),
            Ok(false) => (true, IDLE_EVERY),
            Err(error) => {
                warn(
                    &error,
                    "looking at what is staged failed; the next look tries again",
                );
                (false, IDLE_EVERY)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = staging.inner.watched.notified(), if is_idle => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// One look. True while there is something to look at.
async fn look(staging: &Staging, confirms: bool) -> Result<bool, PgError> {
    let inner = &staging.inner;
    inner.notice_loss().await?;
    let begun_at = Instant::now();
    let backlog = read_backlog(&inner.writer).await?;
    let oldest = Duration::try_from_secs_f64(backlog.oldest_seconds).unwrap_or_default();
    locked(&inner.backlog).measure((backlog.batches > 0).then_some(oldest), begun_at);
    metrics::gauge!(STAGING_OLDEST_SECONDS).set(backlog.oldest_seconds);
    let put_aside = std::mem::replace(&mut *locked(&inner.put_aside), backlog.put_aside);
    if backlog.put_aside > put_aside {
        tracing::warn!(
            batches = backlog.put_aside,
            "flushes with some staged batches fail, and they are tried by themselves; the log of postgresql says why"
        );
    }
    let events = u32::try_from(backlog.events).unwrap_or(u32::MAX);
    metrics::gauge!(STAGING_EVENTS).set(f64::from(events));
    let is_active = {
        let mut memory = locked(&inner.memory);
        if backlog.batches > 0 {
            memory.see_waiting();
        }
        !memory.is_settled()
    };
    if is_active || confirms {
        let confirmed = confirm(&inner.writer).await?;
        locked(&inner.memory).confirm(confirmed.confirmed_at);
    }
    Ok(is_active)
}
