//! What staging gains: first in PostgreSQL alone (unlogged staging, logged staging with asynchronous commit, and a durable
//! COPY of the same events), then over HTTP (`ack=staged` against `ack=durable`).

use std::fmt::Write as _;

use anyhow::{Context, Result};
use hyper::body::Bytes;

use super::Bench;
use super::bodies::{Form, requests};
use super::generators::{Event, Workload};
use super::load::{Done, Request, send};
use super::staging::{self, Text};
use super::turns::{Told, metered, take_turns};
use crate::bench::CLIENTS;
use crate::bench::report::Better;
use crate::bench::world::World;

const BATCH: u64 = 5_000;
const COLUMNS: &str = "(tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)";

/// A way into `bench.staged_history`.
struct Way {
    name: &'static str,
    /// Where events are copied to.
    table: &'static str,
    is_staging: bool,
}

const DURABLE: Way = Way {
    name: "sql_durable",
    table: "bench.staged_history",
    is_staging: false,
};
const STAGED: [Way; 2] = [
    Way {
        name: "sql_unlogged",
        table: "bench.staged_unlogged",
        is_staging: true,
    },
    Way {
        name: "sql_logged_async",
        table: "bench.staged_logged",
        is_staging: true,
    },
];

const TABLES: &str = "
DROP TABLE IF EXISTS bench.staged_history, bench.staged_unlogged, bench.staged_logged;
CREATE TABLE bench.staged_history (LIKE sheaf.entity_events INCLUDING ALL);
CREATE UNLOGGED TABLE bench.staged_unlogged (LIKE sheaf.entity_events);
CREATE TABLE bench.staged_logged (LIKE sheaf.entity_events)";

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    by_hand(bench).await?;
    over_http(bench).await
}

async fn by_hand(bench: &mut Bench<'_>) -> Result<()> {
    let workload = Workload::devices("device", bench.scale.pick(50, 10_000, 20_000));
    let events: u64 = bench.scale.pick(100, 20_000, 300_000);
    let mut durable = Vec::new();
    let mut staged = STAGED.map(|way| (way, Vec::new()));
    for round in 0..bench.scale.rounds() as u64 {
        let range = round * events..(round + 1) * events;
        durable.push(write(bench.world, &workload, range.clone(), &DURABLE).await?);
        for (way, rounds) in &mut staged {
            rounds.push(write(bench.world, &workload, range.clone(), way).await?);
        }
    }
    let rates = |rounds: &[Done]| -> Vec<f64> { rounds.iter().map(Done::rate).collect() };
    let taken =
        |rounds: &[Done]| -> Vec<f64> { rounds.iter().map(|round| round.percentile(50)).collect() };
    for (way, rounds) in &staged {
        let Way { name, .. } = way;
        let measure = format!("{name}_values");
        let line = bench.line(measure, "values/s", Better::Higher, rates(rounds));
        bench
            .report
            .add(&line.against(DURABLE.name, &rates(&durable), None))?;
        let line = bench.line(
            format!("{name}_batch_p50"),
            "ms",
            Better::Lower,
            taken(rounds),
        );
        bench
            .report
            .add(&line.against(DURABLE.name, &taken(&durable), None))?;
    }
    Ok(())
}

/// Writes a range of events, which ends when all of them are in the history, into empty tables.
async fn write(
    world: &World,
    workload: &Workload,
    range: std::ops::Range<u64>,
    way: &Way,
) -> Result<Done> {
    world.client.batch_execute(TABLES).await?;
    let texts = texts(workload, range)?;
    let table = way.table;
    let copy = format!("COPY {table} {COLUMNS} FROM STDIN");
    let flush = format!(
        "WITH taken AS (DELETE FROM {table} RETURNING *)
         INSERT INTO {} SELECT * FROM taken ORDER BY tenant_id, entity_id, observed_at",
        DURABLE.table
    );
    let flush = way.is_staging.then_some(flush.as_str());
    staging::write(world, texts, &copy, flush).await
}

fn texts(workload: &Workload, range: std::ops::Range<u64>) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    let mut event = Event::default();
    for from in range.clone().step_by(BATCH as usize) {
        let mut text = String::new();
        let mut values = 0;
        for index in from..range.end.min(from + BATCH) {
            workload.fill(index, &mut event);
            values += event.fields.len();
            let time = sheaf_model::Timestamp::from_micros(event.micros)?;
            let entity = event.entity;
            let _ = write!(
                text,
                "1\t{entity}\t{time}\t0\tp\t00000000-0000-0000-0000-000000000000\t{time}\t{{"
            );
            for (at, (place, value)) in event.fields.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(text, "{comma}\"{place}\":{}", *value as f64 / 100.0);
            }
            text.push_str("}\n");
        }
        texts.push(Text {
            text: Bytes::from(text),
            values: values as f64,
        });
    }
    Ok(texts)
}

async fn over_http(bench: &mut Bench<'_>) -> Result<()> {
    let tenant = bench.world.tenant(bench.name).await?;
    let devices = bench.scale.pick(50, 10_000, 20_000);
    let events = bench.scale.pick(100, 20_000, 300_000);
    let batch = bench.scale.pick(25, BATCH, BATCH);
    let sent = async |ack: &str, kind: &'static str, round: u64| {
        let workload = Workload::devices(kind, devices);
        let range = round * events..(round + 1) * events;
        let requests: Vec<Request> = requests(&workload, Form::Ndjson, range, batch)
            .into_iter()
            .map(|request| Request {
                path: format!("{}?ack={ack}", Form::Ndjson.path()).into(),
                ..request
            })
            .collect();
        let connections = tenant.connections(CLIENTS).await?;
        metered(bench.world, send(connections, requests)).await
    };
    sent("durable", "durable", 0).await?;
    sent("staged", "staged", 0)
        .await
        .context("writing with ack=staged")?;
    let turns = take_turns(
        bench.scale.rounds(),
        async |round| sent("staged", "staged", round).await,
        async |round| sent("durable", "durable", round).await,
    )
    .await?;
    let told = Told {
        measure: "staged_values",
        ..Told::values("durable", None)
    };
    bench.tell(&turns, told)
}
