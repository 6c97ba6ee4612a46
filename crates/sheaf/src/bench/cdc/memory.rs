//! What following takes of memory while events come as fast as they are written, for as long as that lasts: how much at most, and
//! whether that grows.

use anyhow::Result;

use super::feed::Feed;
use super::follower::Follower;
use super::memory;
use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;

pub(super) const CASE: &str = "memory";
/// The most in all of the time against the most in its first half: what only grows is more. Where that is short, files are joined in the
/// second half only.
const GROWTH_MAX: f64 = 1.1;

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let feed = Feed::new(world, CASE, scale).await?;
    let half = scale.pick(200, 300_000, 6_000_000);
    let follower = Follower::start(world).await?;
    follower.until_all().await?;
    feed.fill(half).await?;
    let first_half = follower.megabytes_max()?;
    feed.fill(half).await?;
    let all = follower.megabytes_max()?;
    follower.stop().await?;
    let suite = ("cdc", CASE);
    let line = Line::new(suite, "resident_max", "MB", Better::Lower, vec![all]);
    let growth_max = scale.pick(None, None, Some(GROWTH_MAX));
    report.add(&line.against("of_the_first_half", &[first_half], growth_max))?;
    report.add(&memory(CASE, vec![all]))
}
