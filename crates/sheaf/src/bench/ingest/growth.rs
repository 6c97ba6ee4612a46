//! Whether writing stays as fast when much is there already: millions of values, thousands of attributes, a million names.

use std::cell::Cell;
use std::ops::Range;

use anyhow::{Context, Result};

use super::Bench;
use super::bodies::{Form, request, requests};
use super::generators::{Fields, Workload};
use super::load::{Done, Sender, closed_loop, joined, send};
use super::turns::{Side, Told, Turns, metered};
use crate::bench::cost::resident_bytes;
use crate::bench::report::Better;
use crate::bench::world::Tenant;
use crate::bench::{CLIENTS, Scale};

/// What the rate may fall to.
const BAR: f64 = 0.8;
/// Values of an event, and events of an entity, of what is there already.
const WIDTH: u64 = 10;
const DEPTH: u64 = 10;

/// Sends a range that is made while it is sent.
async fn stream(
    tenant: &Tenant,
    workload: Workload,
    range: Range<u64>,
    batch: u64,
) -> Result<Done> {
    let make = move |ticket: u64| {
        let from = range.start + ticket * batch;
        (from < range.end)
            .then(|| request(&workload, Form::Ndjson, from, range.end.min(from + batch)))
    };
    closed_loop(Sender::all(tenant.connections(CLIENTS).await?, make), None).await
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let tenant = bench.world.tenant(bench.name).await?;
    let batch = bench.scale.pick(50, 5_000, 5_000);
    let devices = Workload::devices("device", bench.scale.pick(50, 5_000, 20_000));
    // Few, because what is measured stays there and counts for the next level.
    let events = bench.scale.pick(100, 40_000, 60_000);
    let there = Cell::new(devices.entities * WIDTH);
    let first = requests(&devices, Form::Ndjson, 0..devices.entities, batch);
    send(tenant.connections(CLIENTS).await?, first).await?;
    let mut next = devices.entities;
    let mut all = Vec::new();
    // The same load each time, going on where it has stopped.
    let rounds = bench.scale.rounds();
    let mut measure = async || {
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let requests = requests(&devices, Form::Ndjson, next..next + events, batch);
            next += events;
            let done = send(tenant.connections(CLIENTS).await?, requests).await?;
            rates.push(done.rate());
            all.push(done);
            there.set(there.get() + events * WIDTH);
        }
        anyhow::Ok(rates)
    };
    let mut first: Option<Vec<f64>> = None;
    for (place, (name, values)) in levels(bench.scale, bench.millions).into_iter().enumerate() {
        // Each level has entities of its own, so that documents grow in number as well as history.
        let kind = ["filled", "filled_more", "filled_most"][place];
        let missing = values.saturating_sub(there.get());
        let filled = Workload::devices(kind, (missing / (WIDTH * DEPTH)).max(1));
        let range = 0..filled.entities * DEPTH;
        there.set(there.get() + range.end * WIDTH);
        stream(&tenant, filled, range, batch)
            .await
            .context("filling")?;
        let rates = measure().await?;
        let line = bench.line(
            format!("durable_values_at_{name}"),
            "values/s",
            Better::Higher,
            rates.clone(),
        );
        match &first {
            Some(first) => bench
                .report
                .add(&line.against("least_there", first, Some(BAR)))?,
            None => bench.report.add(&line)?,
        }
        first.get_or_insert(rates);
    }
    let before = measure().await?;
    let attributes = bench.scale.pick(100, 10_000, 10_000);
    create_attributes(&tenant, attributes).await?;
    let rates = measure().await?;
    let line = bench.line(
        format!("durable_values_with_{attributes}_attributes"),
        "values/s",
        Better::Higher,
        rates,
    );
    bench
        .report
        .add(&line.against("few_attributes", &before, Some(BAR)))?;
    bench.draw("values/s", &joined(&all))
}

/// How many values are there when the rate is measured. A small run ends at a hundredth of what can be
/// asked for.
fn levels(scale: Scale, millions: u32) -> Vec<(&'static str, u64)> {
    let levels = [
        ("1m", 1_000_000),
        ("10m", 10_000_000),
        ("100m", 100_000_000),
    ];
    let most = u64::from(millions) * 1_000_000;
    match scale {
        Scale::Tiny => vec![("1k", 1_000), ("3k", 3_000)],
        Scale::Small => vec![("100k", 100_000), ("1m", 1_000_000)],
        Scale::Full => levels
            .into_iter()
            .filter(|(_, values)| *values <= most)
            .collect(),
    }
}

/// Makes attributes that nothing else uses, 500 a request.
async fn create_attributes(tenant: &Tenant, count: u64) -> Result<()> {
    const EACH: u64 = 500;
    for first in (0..count).step_by(EACH as usize) {
        let fields: Vec<String> = (first..count.min(first + EACH))
            .map(|place| format!("\"x{place}\":1"))
            .collect();
        let body = format!(
            "{{\"type\":\"odd\",\"id\":\"o{first}\",\"observed_at\":\"2013-01-01T00:00:00Z\",\"attributes\":{{{}}}}}\n",
            fields.join(",")
        );
        tenant.ingest(body).await.context("making attributes")?;
    }
    Ok(())
}

/// Entities named by texts: first all new, then each once more.
pub(super) async fn text_ids(bench: &mut Bench<'_>) -> Result<()> {
    let tenant = bench.world.tenant(bench.name).await?;
    let batch = bench.scale.pick(50, 5_000, 5_000);
    let entities = bench.scale.pick(100, 20_000, 1_000_000);
    let workload = Workload {
        long_ids: true,
        fields: Fields::All(WIDTH),
        ..Workload::devices("named", entities)
    };
    let pass = async |number: u64| -> Result<Side> {
        let range = number * entities..(number + 1) * entities;
        let sent = stream(&tenant, workload.clone(), range, batch);
        metered(bench.world, sent).await
    };
    let turns = Turns {
        baseline: vec![pass(0).await?],
        case: vec![pass(1).await?],
    };
    let created = turns.baseline.iter().map(|side| side.done.rate()).collect();
    let line = bench.line("new_entities_values", "values/s", Better::Higher, created);
    bench.report.add(&line)?;
    bench.tell(&turns, Told::values("first_event_of_each", None))?;
    let resident = resident_bytes(bench.world.server_pid())? / 1e6;
    let line = bench.line("resident_after", "MB", Better::Lower, vec![resident]);
    bench.report.add(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundred_million_are_asked_for() {
        let names = |scale, millions| -> Vec<&str> {
            levels(scale, millions)
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(names(Scale::Full, 10), ["1m", "10m"]);
        assert_eq!(names(Scale::Full, 100), ["1m", "10m", "100m"]);
        assert_eq!(names(Scale::Small, 10), ["100k", "1m"]);
    }
}
