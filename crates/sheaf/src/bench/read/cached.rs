//! Reading entities that the server remembers: as fast as the clients ask, and at half of the rate that is stated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;

use super::{Figure, Latencies, fill, gathered};
use crate::bench::report::{Better, Line, Report};
use crate::bench::world::World;
use crate::bench::{CLIENTS, Scale};

pub(super) const CASE: &str = "cache";

/// A remembered entity answers for three seconds: these are asked of PostgreSQL some hundred times a second, and so few
/// that what is measured is the memory.
const ENTITIES: usize = 500;
/// The stated rate, with client and server on two cores, and what a read may take at half of it.
const READS_PER_SECOND: f64 = 30_000.0;
const P99_MS_MAX: f64 = 2.0;
/// Reads that memory answers at least, in percent.
const REMEMBERED_PERCENT_MIN: f64 = 95.0;

pub(super) async fn run(world: &World, scale: Scale, report: &mut Report) -> Result<()> {
    fill(world).await?;
    let reads = scale.pick(100, 20_000, 100_000);
    let (mut rates, mut p99s) = (Vec::new(), Vec::new());
    for round in 0..=scale.rounds() {
        let before = remembered(world).await?;
        let free = read(world, reads, Pace::Free).await?;
        let paced = read(world, reads / 2, Pace::Each(READS_PER_SECOND / 2.0)).await?;
        let answered = remembered(world).await? - before;
        // The first round fills the memory and is not counted.
        if round > 0 {
            let all = (free.sorted.len() + paced.sorted.len()) as f64;
            let percent = answered / all * 100.0;
            ensure!(
                percent >= REMEMBERED_PERCENT_MIN || scale == Scale::Tiny,
                "memory answered {percent:.1} % of the reads"
            );
            rates.push(Figure::Rate.of(&free));
            p99s.push(Figure::P99.of(&paced));
        }
    }
    let rate = Line::new(("read", CASE), "rate", "reads/s", Better::Higher, rates);
    let is_measured = matches!(scale, Scale::Full);
    report.add(&if is_measured {
        rate.stated(READS_PER_SECOND)
    } else {
        rate
    })?;
    let measure = "p99 at half of the stated rate";
    let p99 = Line::new(("read", CASE), measure, "ms", Better::Lower, p99s);
    report.add(&if is_measured {
        p99.stated(P99_MS_MAX)
    } else {
        p99
    })
}

/// When a client asks again.
#[derive(Clone, Copy)]
enum Pace {
    /// As soon as it is answered.
    Free,
    /// So often a second, all clients together, whatever the answers take.
    Each(f64),
}

impl Pace {
    fn interval(self) -> Duration {
        match self {
            Pace::Free => Duration::ZERO,
            Pace::Each(per_second) => Duration::from_secs_f64(CLIENTS as f64 / per_second),
        }
    }
}

async fn read(world: &World, reads: usize, pace: Pace) -> Result<Latencies> {
    let connections = world.first.connections(CLIENTS).await?;
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        clients.spawn(async move {
            let mut latencies = Vec::with_capacity(reads);
            let mut due = begun;
            for read in 0..reads {
                let entity = (client * 7919 + read * 104_729) % ENTITIES;
                let path = format!("/v1/entities/device/d{entity}?consistency=eventual");
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                }
                due += pace.interval();
                let sent = Instant::now();
                connection
                    .call(Method::GET, &path, "text/plain", Bytes::new())
                    .await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(latencies)
        });
    }
    gathered(clients, begun).await
}

/// How many reads memory has answered so far.
async fn remembered(world: &World) -> Result<f64> {
    const HITS: &str = "sheaf_cache_requests_total{result=\"hit\"} ";
    let metrics = world.metrics().await?;
    let first = metrics.first().context("there is a server")?;
    let hits = first.lines().find_map(|line| line.strip_prefix(HITS));
    Ok(hits.context("the server counts its hits")?.parse()?)
}
