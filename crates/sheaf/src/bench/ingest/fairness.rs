//! One tenant floods, another trickles: how much longer the trickle waits than when it is alone.
//!
//! The tenant that floods has a quota, sends ten times as much at a steady pace, and does not listen when it is told to
//! come again later. What its quota lets it send at once is over before the trickle's percentiles are taken, and told
//! apart. Beside that, without a bar: a flood that has no quota and sends as much as the server takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use hyper::{Method, StatusCode};

use super::Bench;
use super::bodies::{Form, request, requests};
use super::generators::Workload;
use super::load::{Client, Done, Request, Sender, closed_loop, joined, open_loop, send};
use super::turns::metered;
use crate::bench::CLIENTS;
use crate::bench::connection::Connection;
use crate::bench::plot::Sample;
use crate::bench::report::Better;
use crate::bench::world::{Tenant, World};

/// Requests a second of the tenant that trickles, of 1 to [`DROP_EVENTS_MAX`] events each.
const TRICKLE: u32 = 50;
const DROP_EVENTS_MAX: u64 = 20;
/// Requests a second of the flood. One of eleven is ten times as large, so that half of the values come in each.
const FLOOD: u32 = 110;
const MIX: u64 = 11;
/// Connections of the flood: enough to keep its pace while some wait for what was taken.
const FLOOD_CONNECTIONS: usize = 16;
/// How long a client of a flood may be refused before it tries again: it does not listen to what it is told.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    // The flood offers 2,000 values a second for each event of its smaller bodies.
    let small = bench.scale.pick(5, 500, 500);
    let quota = 200 * small;
    let limits = format!("[tenants.flood.limits]\nvalues_per_second = {quota}\n");
    let world = bench.world;
    let server = world.start_second(&limits).await?;
    let outcome = rounds(bench, &server, small).await;
    world.stop_second().await?;
    let outcome = outcome?;
    tell(bench, &outcome)
}

/// How long a round is.
#[derive(Clone, Copy)]
struct Times {
    burst: Duration,
    after: Duration,
}

impl Times {
    fn all(self) -> Duration {
        self.burst + self.after
    }

    /// What fell due while the burst lasts, and what did after it.
    fn split(self, done: Done) -> (Done, Done) {
        let burst = self.burst.as_secs_f64();
        let is_burst = |sample: &Sample| sample.at - sample.milliseconds / 1000.0 < burst;
        let (in_burst, after) = done.samples.into_iter().partition(is_burst);
        let part = |samples, seconds| Done { seconds, samples };
        (part(in_burst, burst), part(after, done.seconds - burst))
    }
}

/// One figure a round of each.
#[derive(Default)]
struct Outcome {
    quiet: Vec<Trickled>,
    beside: Vec<Trickled>,
    beside_without_quota: Vec<Trickled>,
    flood: Vec<Flooded>,
    flood_without_quota: Vec<Flooded>,
}

/// What a trickle came to.
struct Trickled {
    /// The longest wait while a flood spends its burst.
    burst_max: f64,
    after: Done,
    servers_cores: f64,
}

/// What a flood came to after its burst.
struct Flooded {
    values: f64,
    refused: f64,
    unanswered: f64,
}

async fn rounds(bench: &Bench<'_>, server: &str, small: u64) -> Result<Outcome> {
    let world = bench.world;
    let times = Times {
        // Long enough to pay for what was let in before the first body was counted.
        burst: Duration::from_secs_f64(bench.scale.pick(0.5, 3.0, 5.0)),
        after: Duration::from_secs_f64(bench.scale.pick(0.5, 3.0, 10.0)),
    };
    let trickle = Trickle::new(world.tenant("trickle").await?.at(server)).await?;
    let entities = bench.scale.pick(50, 10_000, 20_000);
    let mut seas = Vec::new();
    for (name, small) in [("flood", Some(small)), ("flood_without_quota", None)] {
        let tenant = world.tenant(name).await?;
        let workload = Workload::devices("wave", entities);
        let large = bench.scale.pick(50, 5_000, 5_000);
        // At the server without the quota: this is not the flood yet.
        let before = requests(&workload, Form::Ndjson, 0..entities, large);
        send(tenant.connections(CLIENTS).await?, before).await?;
        seas.push(Arc::new(Sea {
            tenant: tenant.at(server),
            workload,
            small,
            large,
            next: AtomicU64::new(entities),
            over: AtomicBool::new(false),
            unanswered: AtomicU64::new(0),
        }));
    }
    let mut outcome = Outcome::default();
    for _ in 0..bench.scale.rounds() {
        outcome.quiet.push(trickle.run(world, times).await?);
        for sea in &seas {
            let (flooded, trickled) = tokio::join!(sea.flood(times), async {
                let trickled = trickle.run(world, times).await;
                sea.over.store(true, Ordering::Relaxed);
                trickled
            });
            let (floods, beside) = match sea.small {
                Some(_) => (&mut outcome.flood, &mut outcome.beside),
                None => (
                    &mut outcome.flood_without_quota,
                    &mut outcome.beside_without_quota,
                ),
            };
            floods.push(flooded?);
            beside.push(trickled?);
        }
    }
    Ok(outcome)
}

fn tell(bench: &mut Bench<'_>, outcome: &Outcome) -> Result<()> {
    let sides = [
        ("", &outcome.beside, &outcome.flood, Some(2.0)),
        (
            "_without_quota",
            &outcome.beside_without_quota,
            &outcome.flood_without_quota,
            None,
        ),
    ];
    for (suffix, beside, floods, bar) in sides {
        for (percent, bar) in [(50, None), (95, None), (99, bar)] {
            let of = |rounds: &[Trickled]| {
                let figures = rounds.iter().map(|round| round.after.percentile(percent));
                figures.collect::<Vec<f64>>()
            };
            let measure = format!("trickle_p{percent}{suffix}");
            let line = bench.line(measure, "ms", Better::Lower, of(beside));
            let line = line.against("quiet", &of(&outcome.quiet), bar);
            bench.report.add(&line)?;
        }
        type Figure<T> = fn(&T) -> f64;
        let of_trickle: [(&str, &str, Figure<Trickled>); 2] = [
            ("trickle_max_in_burst", "ms", |round| round.burst_max),
            ("server_cpu", "cores", |round| round.servers_cores),
        ];
        for (measure, unit, figure) in of_trickle {
            let of = |rounds: &[Trickled]| rounds.iter().map(figure).collect::<Vec<f64>>();
            let measure = format!("{measure}{suffix}");
            let line = bench.line(measure, unit, Better::Lower, of(beside));
            let line = line.against("quiet", &of(&outcome.quiet), None);
            bench.report.add(&line)?;
        }
        let of_flood: [(&str, &str, Better, Figure<Flooded>); 3] = [
            ("flood_values", "values/s", Better::Higher, |round| {
                round.values
            }),
            ("flood_refused", "requests", Better::Lower, |round| {
                round.refused
            }),
            ("flood_unanswered", "requests", Better::Lower, |round| {
                round.unanswered
            }),
        ];
        for (measure, unit, better, figure) in of_flood {
            let figures = floods.iter().map(figure).collect();
            let line = bench.line(format!("{measure}{suffix}"), unit, better, figures);
            bench.report.add(&line)?;
        }
    }
    ensure!(
        outcome.flood.iter().all(|round| round.refused > 0.0),
        "a flood of ten times its quota was never refused: there was no flood"
    );
    let samples = joined(outcome.beside.iter().map(|round| &round.after));
    bench.draw("values/s", &samples)
}

/// The tenant that trickles.
struct Trickle {
    tenant: Tenant,
    workload: Workload,
    next: Arc<AtomicU64>,
}

impl Trickle {
    async fn new(tenant: Tenant) -> Result<Trickle> {
        let workload = Workload::devices("drop", 100);
        let before = requests(&workload, Form::Ndjson, 0..100, 100);
        send(tenant.connections(1).await?, before).await?;
        Ok(Trickle {
            tenant,
            workload,
            next: Arc::new(AtomicU64::new(100)),
        })
    }

    async fn run(&self, world: &World, times: Times) -> Result<Trickled> {
        let (drops, next) = (self.workload.clone(), Arc::clone(&self.next));
        let make = move |ticket| {
            let events = 1 + ticket * 7 % DROP_EVENTS_MAX;
            let from = next.fetch_add(events, Ordering::Relaxed);
            Some(request(&drops, Form::Ndjson, from, from + events))
        };
        let senders = Sender::all(self.tenant.connections(CLIENTS).await?, make);
        let side = metered(world, open_loop(senders, TRICKLE, times.all())).await?;
        let servers_cores = side.cost.server_cpu_seconds / side.done.seconds;
        let (burst, after) = times.split(side.done);
        let waits = burst.samples.iter().map(|sample| sample.milliseconds);
        Ok(Trickled {
            burst_max: waits.fold(0.0, f64::max),
            after,
            servers_cores,
        })
    }
}

/// What the clients of a flood share.
struct Sea {
    tenant: Tenant,
    workload: Workload,
    /// Events of most bodies of a flood that keeps a pace; absent where it sends large ones as fast as they are taken.
    small: Option<u64>,
    large: u64,
    next: AtomicU64,
    over: AtomicBool,
    unanswered: AtomicU64,
}

impl Sea {
    async fn flood(self: &Arc<Sea>, times: Times) -> Result<Flooded> {
        self.over.store(false, Ordering::Relaxed);
        self.unanswered.store(0, Ordering::Relaxed);
        let wave = || Wave {
            sea: Arc::clone(self),
            connection: None,
            refused: [None, None],
        };
        let waves = |clients: usize| (0..clients).map(|_| wave()).collect();
        let done = match self.small {
            Some(_) => open_loop(waves(FLOOD_CONNECTIONS), FLOOD, times.all()).await?,
            None => closed_loop(waves(CLIENTS), None).await?,
        };
        let (_, after) = times.split(done);
        let refused = after.samples.iter().filter(|sample| sample.weight == 0.0);
        Ok(Flooded {
            values: after.rate(),
            refused: refused.count() as f64,
            unanswered: self.unanswered.load(Ordering::Relaxed) as f64,
        })
    }
}

/// A client that sends whatever it is told.
struct Wave {
    sea: Arc<Sea>,
    connection: Option<Connection>,
    /// Bodies that were refused, small and large: they are sent again, and cost nobody another one.
    refused: [Option<Request>; 2],
}

impl Client for Wave {
    async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
        let sea = Arc::clone(&self.sea);
        if sea.over.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let small = sea.small.filter(|_| !ticket.is_multiple_of(MIX));
        let place = usize::from(small.is_none());
        let request = match self.refused[place].take() {
            Some(request) => request,
            None => {
                let events = small.unwrap_or(sea.large);
                let from = sea.next.fetch_add(events, Ordering::Relaxed);
                request(&sea.workload, Form::Ndjson, from, from + events)
            }
        };
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => sea.tenant.connect().await?,
        };
        let body = request.body.clone();
        let answer = connection
            .exchange(Method::POST, &request.path, request.kind, body)
            .await;
        let Ok((status, body)) = answer else {
            // A connection that is ended with a body on its way can take the answer with it. A server that is gone does
            // not take the next one either.
            sea.unanswered.fetch_add(1, Ordering::Relaxed);
            return self.come_again(place, request).await;
        };
        if connection.is_open().await {
            self.connection = Some(connection);
        }
        match status {
            StatusCode::OK => Ok(Some(request.values as f64)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.come_again(place, request).await
            }
            _ => bail!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

impl Wave {
    async fn come_again(&mut self, place: usize, request: Request) -> Result<Option<f64>> {
        self.refused[place] = Some(request);
        tokio::time::sleep(REFUSED_PAUSE).await;
        Ok(Some(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fell_due_in_the_burst_is_apart_even_if_it_ended_later() {
        let sample = |at, milliseconds| Sample {
            at,
            milliseconds,
            weight: 1.0,
        };
        let samples = vec![sample(0.5, 10.0), sample(1.5, 600.0), sample(1.5, 100.0)];
        let second = Duration::from_secs(1);
        let times = Times {
            burst: second,
            after: 2 * second,
        };
        let (burst, after) = times.split(Done {
            seconds: 3.0,
            samples,
        });
        assert_eq!((burst.samples.len(), burst.seconds), (2, 1.0));
        assert_eq!((after.samples.len(), after.seconds), (1, 2.0));
    }
}
