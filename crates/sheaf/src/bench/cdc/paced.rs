//! How late the lake is while events come at a pace, and what following takes from writing as fast as it goes.
//!
//! The baseline of the latter is the same server while nothing follows. The slot keeps the log then, and what it keeps is
//! followed before the next round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sheaf_model::Lsn;

use super::feed::{Feed, Pace};
use super::follower::{Follower, standing};
use super::lag::Lag;
use super::memory;
use crate::bench::Scale;
use crate::bench::ingest::load::Done;
use crate::bench::ingest::turns::{Side, metered, take_turns};
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;

pub(super) const CASE: &str = "lag_under_ingest";
const SUITE: (&str, &str) = ("cdc", CASE);
/// From a commit in PostgreSQL to the one of the lake that has it.
const LAG_P99_SECONDS: f64 = 15.0;
/// What is left of writing where it is followed.
const SHARE_LEFT: f64 = 0.7;
/// Of what is offered; with less the lag is not that of the pace.
const SHARE_TAKEN: f64 = 0.95;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long after the last event the lake may take.
const HELD_WITHIN: Duration = Duration::from_secs(600);

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let feed = Feed::new(world, CASE, scale).await?;
    let follower = Follower::start(world).await?;
    follower.until_all().await?;
    at_a_pace(world, &feed, scale, report).await?;
    let megabytes = follower.megabytes_max()?;
    follower.stop().await?;
    let megabytes = vec![megabytes, unbounded(world, &feed, scale, report).await?];
    report.add(&memory(CASE, megabytes))
}

async fn at_a_pace(world: &World, feed: &Feed, scale: Scale, report: &mut Report) -> Result<()> {
    let pace = scale.pick(
        Pace {
            events: 10,
            requests: 20,
        },
        Pace {
            events: 1_000,
            requests: 20,
        },
        Pace {
            events: 1_000,
            requests: 20,
        },
    );
    let during = Duration::from_secs_f64(scale.pick(0.5, 10.0, 60.0));
    let (done, lag) = watched(world, feed, pace, during).await?;
    let line = |name, unit, better, figure| Line::new(SUITE, name, unit, better, vec![figure]);
    let taken = line("paced_values", "values/s", Better::Higher, done.rate());
    report.add(&taken.against("offered", &[pace.facts_per_second()], Some(SHARE_TAKEN)))?;
    let request = done.percentile(99);
    report.add(&line("paced_request_p99", "ms", Better::Lower, request))?;
    for (name, percent) in [("lag_p50", 50), ("lag_max", 100)] {
        report.add(&line(name, "s", Better::Lower, lag.percentile(percent)))?;
    }
    let p99 = line("lag_p99", "s", Better::Lower, lag.percentile(99));
    report.add(&p99.stated(LAG_P99_SECONDS))
}

/// Sends at a pace, and looks how late the lake is until it holds what was sent.
async fn watched(world: &World, feed: &Feed, pace: Pace, during: Duration) -> Result<(Done, Lag)> {
    let begun = Instant::now();
    let mut lag = Lag::default();
    let sending = feed.pace(pace, during);
    tokio::pin!(sending);
    let done = loop {
        tokio::select! {
            done = &mut sending => break done?,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let at = begun.elapsed().as_secs_f64();
        lag.ends(at, log_end(world).await?);
        look(world, begun, &mut lag).await?;
    };
    // The lake's position is that of a change: one comes after the last look.
    feed.send(1).await?;
    let sent = Instant::now();
    while !lag.is_over() {
        if sent.elapsed() > HELD_WITHIN {
            bail!("the lake does not hold what was written");
        }
        tokio::time::sleep(LOOK_EVERY).await;
        look(world, begun, &mut lag).await?;
    }
    Ok((done, lag))
}

async fn look(world: &World, begun: Instant, lag: &mut Lag) -> Result<()> {
    let standing = standing(world).await?;
    if let Some(change) = standing.and_then(|standing| standing.position.stream) {
        lag.holds(begun.elapsed().as_secs_f64(), change.commit_lsn);
    }
    Ok(())
}

async fn log_end(world: &World) -> Result<Lsn> {
    let row = world
        .client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .context("reading where the log ends")?;
    Ok(row.get::<_, &str>(0).parse()?)
}

/// Writes as fast as it goes, followed and not, and gives back the most memory of following.
async fn unbounded(world: &World, feed: &Feed, scale: Scale, report: &mut Report) -> Result<f64> {
    let events = scale.pick(100, 60_000, 300_000);
    let mut megabytes: f64 = 0.0;
    let turns = take_turns(
        scale.rounds(),
        async |_| {
            let follower = Follower::start(world).await?;
            follower.until_all().await?;
            let side = metered(world, feed.send(events)).await?;
            megabytes = megabytes.max(follower.megabytes_max()?);
            follower.stop().await?;
            Ok(side)
        },
        async |_| metered(world, feed.send(events)).await,
    )
    .await?;
    let rates =
        |sides: &[Side]| -> Vec<f64> { sides.iter().map(|side| side.done.rate()).collect() };
    let (case, baseline) = (rates(&turns.case), rates(&turns.baseline));
    let line = Line::new(SUITE, "durable_values", "values/s", Better::Higher, case);
    report.add(&line.against("not_followed", &baseline, Some(SHARE_LEFT)))?;
    Ok(megabytes)
}
