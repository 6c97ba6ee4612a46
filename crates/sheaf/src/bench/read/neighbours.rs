//! The filters of one tenant, before and after the others have ten times as many entities.

use anyhow::Result;

use super::filters::{LOTS, QUERIES, create_wide, declare, fill_tenant, finish, over_http};
use crate::bench::Scale;
use crate::bench::report::{Better, Line, Report, percentile};
use crate::bench::world::{Tenant, World};

pub(super) const CASE: &str = "neighbours";

/// How many times the entities of the others.
const GROWTH: i64 = 10;
/// What is taken for no change: what the same measure differs by from round to round.
const BAR: f64 = 1.1;

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    let entities = scale.pick(1_000, 20_000, 200_000);
    let ours = world.tenant("neighbour").await?;
    let others = world.tenant("neighbours").await?;
    declare(&[&others, &ours]).await?;
    create_wide(world).await?;
    fill_tenant(world, &others, 1..=entities, 1).await?;
    fill_tenant(world, &ours, 1..=entities, LOTS).await?;
    finish(world).await?;
    let before = measured(&ours, scale).await?;
    fill_tenant(world, &others, entities + 1..=entities * GROWTH, 1).await?;
    finish(world).await?;
    let after = measured(&ours, scale).await?;
    for ((query, before), after) in QUERIES.iter().zip(before).zip(after) {
        let measure = format!("{}: p50", query.name);
        let line = Line::new(("read", CASE), measure, "ms", Better::Lower, after);
        let bar = matches!(scale, Scale::Full).then_some(BAR);
        report.add(&line.against("fewer_neighbours", &before, bar))?;
    }
    Ok(())
}

/// The median of each query in each round, in milliseconds.
async fn measured(ours: &Tenant, scale: Scale) -> Result<Vec<Vec<f64>>> {
    let calls = scale.pick(5, 60, 400);
    let mut all = Vec::new();
    for query in &QUERIES {
        let mut p50s = Vec::new();
        for round in 0..=scale.rounds() {
            let latencies = over_http(ours, query, calls, round, 0).await?;
            // The first round fills caches and is not counted.
            if round > 0 {
                p50s.push(percentile(&latencies, 50));
            }
        }
        all.push(p50s);
    }
    Ok(all)
}
