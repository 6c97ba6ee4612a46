//! Reading: one entity by id, filters, and facets.
//!
//! One entity is read by id over HTTP, against the bare primary-key SELECT of its document through the same driver over as
//! many connections: over one, which is how long a read takes, and over several, which is how many there can be.

mod cached;
mod facets;
mod filters;
mod neighbours;

use std::time::Instant;

use anyhow::{Context, Result};
use hyper::Method;
use hyper::body::Bytes;
use sheaf_store::entities::fetch_entities;
use tokio_postgres::types::Type;

use super::report::{Better, Line, Report, percentile};
use super::world::World;
use super::{CLIENTS, Scale};

const ENTITIES: usize = 10_000;
const CASE: &str = "entity_by_id";
/// Of the median over one connection: so many times the SELECT, and so many milliseconds for HTTP.
const P50_RATIO: f64 = 1.3;
const P50_HTTP_MS: f64 = 0.3;
/// Of the 99th percentile over one connection, to that of the SELECT.
const P99_RATIO: f64 = 2.0;
/// Every case of the suite, in the order in which they run.
pub(super) const CASES: [&str; 5] = [
    CASE,
    cached::CASE,
    filters::CASE,
    neighbours::CASE,
    facets::CASE,
];

pub(super) async fn run(
    world: &World,
    case: &str,
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    match case {
        cached::CASE => cached::run(world, scale, report).await,
        filters::CASE => filters::run(world, scale, report).await,
        neighbours::CASE => neighbours::run(world, scale, report).await,
        facets::CASE => facets::run(world, scale, report).await,
        _ => entity_by_id(world, scale, report).await,
    }
}

async fn entity_by_id(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    fill(world).await?;
    let numbers = numbers(world).await?;
    let reads = scale.pick(10, 500, 5_000);
    let is_measured = matches!(scale, Scale::Full);
    for clients in [1, CLIENTS] {
        let (mut cases, mut baselines) = (Vec::new(), Vec::new());
        for round in 0..=scale.rounds() {
            let case = over_http(world, clients, reads, round).await?;
            let baseline = by_hand(world, &numbers, clients, reads, round).await?;
            // The first round fills caches on both sides and is not counted.
            if round > 0 {
                cases.push(case);
                baselines.push(baseline);
            }
        }
        let is_held_to = is_measured && clients == 1;
        for (figure, measure, unit, better) in [
            (Figure::P50, "p50", "ms", Better::Lower),
            (Figure::P99, "p99", "ms", Better::Lower),
            (Figure::Rate, "rate", "reads/s", Better::Higher),
        ] {
            let of = |rounds: &[Latencies]| rounds.iter().map(|round| figure.of(round)).collect();
            let baseline: Vec<f64> = of(&baselines);
            let measure = format!("{measure}, {clients} connections");
            let line = || Line::new(("read", CASE), measure.clone(), unit, better, of(&cases));
            let bar = matches!(figure, Figure::P99).then_some(P99_RATIO);
            let bar = bar.filter(|_| is_held_to);
            report.add(&line().against("primary_key_select", &baseline, bar))?;
            if matches!(figure, Figure::P50) {
                let allowed = |p50: &f64| p50 * P50_RATIO + P50_HTTP_MS;
                let allowed: Vec<f64> = baseline.iter().map(allowed).collect();
                let bar = is_held_to.then_some(1.0);
                report.add(&line().against("primary_key_select_and_http", &allowed, bar))?;
            }
        }
    }
    Ok(())
}

/// Latencies in milliseconds, sorted, and the seconds that all of them took together.
struct Latencies {
    sorted: Vec<f64>,
    seconds: f64,
}

enum Figure {
    P50,
    P99,
    Rate,
}

impl Figure {
    fn of(&self, latencies: &Latencies) -> f64 {
        match self {
            Figure::P50 => percentile(&latencies.sorted, 50),
            Figure::P99 => percentile(&latencies.sorted, 99),
            Figure::Rate => {
                f64::from(u32::try_from(latencies.sorted.len()).unwrap_or(u32::MAX))
                    / latencies.seconds
            }
        }
    }
}

async fn fill(world: &World) -> Result<()> {
    let mut body = String::new();
    for entity in 0..ENTITIES {
        body += &format!(
            "{{\"type\":\"device\",\"id\":\"d{entity}\",\"observed_at\":\"2013-01-01T00:00:00Z\",\"attributes\":\
             {{\"model\":\"m{}\",\"size\":{},\"a\":1.5,\"b\":2.5,\"c\":3.5,\"d\":4.5,\"e\":5.5,\"f\":true,\"g\":\"x\",\"h\":7}}}}\n",
            entity % 50,
            entity % 7,
        );
    }
    world.first.ingest(body).await
}

async fn numbers(world: &World) -> Result<Vec<i64>> {
    let ids: Vec<String> = (0..ENTITIES).map(|entity| format!("d{entity}")).collect();
    let names: Vec<(&str, &str)> = ids.iter().map(|id| ("device", id.as_str())).collect();
    let found = fetch_entities(&world.pools.app, &world.first.scope, &names).await?;
    found
        .numbers
        .into_iter()
        .map(|id| Ok(id.context("an entity was not created")?.0))
        .collect()
}

/// Which entity a client reads next: all of them, in no order that a cache likes.
fn chosen(client: usize, read: usize, round: usize) -> usize {
    (client * 7919 + read * 104_729 + round * 1_299_709) % ENTITIES
}

async fn over_http(world: &World, clients: usize, reads: usize, round: usize) -> Result<Latencies> {
    let connections = world.first.connections(clients).await?;
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        clients.spawn(async move {
            let mut latencies = Vec::with_capacity(reads);
            for read in 0..reads {
                let path = format!("/v1/entities/device/d{}", chosen(client, read, round));
                let begun = Instant::now();
                connection
                    .call(Method::GET, &path, "text/plain", Bytes::new())
                    .await?;
                latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(latencies)
        });
    }
    gathered(clients, begun).await
}

async fn by_hand(
    world: &World,
    numbers: &[i64],
    clients: usize,
    reads: usize,
    round: usize,
) -> Result<Latencies> {
    const SQL: &str = "SELECT hot_attrs::text, cold_attrs::text FROM sheaf.entity_jsonb WHERE tenant_id = $1 AND entity_id = $2";
    let tenant = world.first.scope.tenant().0;
    let mut prepared = Vec::new();
    for _ in 0..clients {
        // As the search role, which no policy slows down: the barest read that the schema allows.
        let client = world.pools.search.get().await?;
        let statement = client.prepare_typed(SQL, &[Type::INT8, Type::INT8]).await?;
        prepared.push((client, statement));
    }
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for (place, (client, statement)) in prepared.into_iter().enumerate() {
        let chosen: Vec<i64> = (0..reads)
            .map(|read| numbers[chosen(place, read, round)])
            .collect();
        clients.spawn(async move {
            let mut latencies = Vec::with_capacity(chosen.len());
            for entity in chosen {
                let begun = Instant::now();
                let rows = client.query(&statement, &[&tenant, &entity]).await?;
                anyhow::ensure!(rows.len() == 1, "entity {entity} is not there");
                latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(latencies)
        });
    }
    gathered(clients, begun).await
}

async fn gathered(
    mut clients: tokio::task::JoinSet<Result<Vec<f64>>>,
    begun: Instant,
) -> Result<Latencies> {
    let mut sorted = Vec::new();
    while let Some(client) = clients.join_next().await {
        sorted.extend(client??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(Latencies { sorted, seconds })
}
