//! How fast facts that are there already come into the lake: by a snapshot, where nothing was ever followed, and by the
//! stream, where the slot holds what came meanwhile.
//!
//! Counted from the start of the process that follows to the commit that has the last fact. That commit waits for more
//! that might come, so what was sustained before it is told beside.

use anyhow::Result;

use super::feed::Feed;
use super::follower::{Follower, Reached};
use super::memory;
use crate::bench::Scale;
use crate::bench::cost::Cost;
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;

pub(super) const CASE: &str = "stream_to_lake";
/// On two cores with nothing else running.
const FACTS_PER_SECOND: f64 = 300_000.0;
const SUITE: (&str, &str) = ("cdc", CASE);

/// One of the counters.
type Seconds = fn(&Cost) -> f64;

/// Lives of the process that follows, and what each came to.
#[derive(Default)]
struct Runs {
    reached: Vec<Reached>,
    costs: Vec<Cost>,
    megabytes: Vec<f64>,
}

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let feed = Feed::new(world, CASE, scale).await?;
    let events = scale.pick(200, 20_000, 1_000_000);
    let mut snapshot = Runs::default();
    feed.fill(events).await?;
    snapshot.add(world).await?;
    let mut stream = Runs::default();
    for _ in 0..scale.rounds() {
        feed.fill(events).await?;
        stream.add(world).await?;
    }
    for (runs, names) in [
        (&snapshot, ["snapshot", "snapshot_sustained"]),
        (&stream, ["stream", "stream_sustained"]),
    ] {
        runs.tell_rates(names, scale, report)?;
    }
    stream.tell_costs(report)?;
    let megabytes = [snapshot.megabytes, stream.megabytes].concat();
    report.add(&memory(CASE, megabytes))
}

impl Runs {
    async fn add(&mut self, world: &World) -> Result<()> {
        let before = Cost::now(world).await?;
        let follower = Follower::start(world).await?;
        let reached = follower.until_all().await?;
        self.costs.push(Cost::now(world).await?.since(&before));
        self.megabytes.push(follower.megabytes_max()?);
        self.reached.push(reached);
        follower.stop().await
    }

    fn tell_rates(
        &self,
        [all, full]: [&'static str; 2],
        scale: Scale,
        report: &mut Report,
    ) -> Result<()> {
        let rate = |name, figures| Line::new(SUITE, name, "facts/s", Better::Higher, figures);
        let line = rate(all, self.reached.iter().map(Reached::rate).collect());
        // What takes a second to follow is mostly the start, and the wait for more.
        report.add(&match scale {
            Scale::Full => line.stated(FACTS_PER_SECOND),
            Scale::Tiny | Scale::Small => line,
        })?;
        let sustained: Vec<f64> = self.reached.iter().filter_map(Reached::sustained).collect();
        if sustained.is_empty() {
            return Ok(());
        }
        report.add(&rate(full, sustained))
    }

    fn tell_costs(&self, report: &mut Report) -> Result<()> {
        let computed: [(&'static str, Seconds); 2] = [
            ("server_cpu", |cost| cost.server_cpu_seconds),
            ("postgres_cpu", |cost| cost.postgres_cpu_seconds),
        ];
        for (name, seconds) in computed {
            let runs = self.costs.iter().zip(&self.reached);
            let each = runs.map(|(cost, reached)| seconds(cost) * 1e6 / reached.added as f64);
            let line = Line::new(SUITE, name, "us/fact", Better::Lower, each.collect());
            report.add(&line)?;
        }
        Ok(())
    }
}
