//! A year of one value of one entity, among others that have said as much: its history, page by page, as any client asks for it.

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
    let (mut first, mut warm) = (Vec::new(), Vec::new());
    // Before the first one nothing of the files is in memory; of the entity nothing is the first time that it is asked about.
    for round in 0..=scale.pick(1, 19, 50) {
        let path = format!(
            "/v1/entities/meter/d{}/history?attribute=m1&from=2013-01-01T00:00:00Z&to=2014-01-01T00:00:00Z&limit=1000&consistency=analytics",
            round % amount.entities
        );
        for times in [&mut first, &mut warm] {
            let (seconds, count) = asked.history(&path).await?;
            ensure!(count == amount.instants, "a year has {count} values");
            if round > 0 {
                times.push(seconds * 1_000.0);
            }
        }
    }
    let line = |what, times| Line::new((SUITE, CASE), what, "ms", Better::Lower, times);
    report.add(&line("of_a_new_entity", first))?;
    let warm = line("warm", warm);
    report.add(&match scale {
        Scale::Tiny => warm,
        Scale::Small | Scale::Full => warm.stated(MILLISECONDS_MAX),
    })?;
    filled.stop(world).await
}
