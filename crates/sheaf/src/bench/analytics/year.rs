//! A year of one value of one entity, among others that have said as much.

use anyhow::{Result, ensure};

use super::SUITE;
use super::asked::Asked;
use super::filled::{Amount, Filled};
use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;

pub(super) const CASE: &str = "entity_year";
const MILLISECONDS_MAX: f64 = 100.0;

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let amount = Amount {
        kind: "meter",
        entities: scale.pick(5, 20, 200),
        // One each hour.
        instants: scale.pick(365, 365 * 24, 365 * 24),
        days: 365,
    };
    let filled = Filled::of(world, amount, scale).await?;
    let mut asked = Asked::open(&filled).await?;
    let mut times = Vec::new();
    // The first one finds nothing in memory.
    for round in 0..=scale.pick(1, 20, 50) {
        let query = format!(
            "SELECT observed_at, value_float FROM facts WHERE entity_type = 'meter' AND external_id = 'd{}' AND attribute = 'm1'
                AND observed_at >= '2013-01-01' AND observed_at < '2014-01-01' ORDER BY observed_at",
            round % amount.entities
        );
        let (seconds, answer) = asked.ask(&query).await?;
        let count = u64::try_from(answer.0.len())?;
        ensure!(count == amount.instants, "a year has {count} values");
        if round > 0 {
            times.push(seconds * 1_000.0);
        }
    }
    let line = Line::new((SUITE, CASE), "warm", "ms", Better::Lower, times);
    report.add(&match scale {
        Scale::Tiny => line,
        Scale::Small | Scale::Full => line.stated(MILLISECONDS_MAX),
    })?;
    filled.stop(world).await
}
