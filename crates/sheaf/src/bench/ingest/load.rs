//! Sending: a closed loop of prepared requests over several connections, and clients that act at a given pace.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::Method;
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bench::connection::Connection;
use crate::bench::plot::Sample;
use crate::bench::report::percentile;

/// One request of many events.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Request {
    pub(super) path: Cow<'static, str>,
    pub(super) kind: &'static str,
    pub(super) body: Bytes,
    pub(super) values: u64,
}

/// Something that acts again and again.
pub(in crate::bench) trait Client: Send + 'static {
    /// Acts once and gives back what the act counts for in the throughput; `None` if there is nothing left to do.
    fn act(&mut self, ticket: u64) -> impl Future<Output = Result<Option<f64>>> + Send;
}

/// What clients have done.
#[derive(Debug, Clone, Default)]
pub(in crate::bench) struct Done {
    pub(super) seconds: f64,
    pub(super) samples: Vec<Sample>,
}

impl Done {
    pub(super) fn weight(&self) -> f64 {
        self.samples.iter().map(|sample| sample.weight).sum()
    }

    pub(in crate::bench) fn rate(&self) -> f64 {
        self.weight() / self.seconds
    }

    pub(in crate::bench) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted: Vec<f64> = self
            .samples
            .iter()
            .map(|sample| sample.milliseconds)
            .collect();
        sorted.sort_unstable_by(f64::total_cmp);
        percentile(&sorted, percent)
    }
}

/// Samples of several rounds one after the other.
pub(super) fn joined<'a>(rounds: impl IntoIterator<Item = &'a Done>) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut begin = 0.0;
    for round in rounds {
        let moved = |sample: &Sample| Sample {
            at: begin + sample.at,
            ..*sample
        };
        samples.extend(round.samples.iter().map(moved));
        begin += round.seconds;
    }
    samples
}

/// A client that sends what is given to it, and takes only a complete success for an answer.
pub(in crate::bench) struct Sender<F> {
    connection: Connection,
    make: Arc<F>,
}

impl<F: Fn(u64) -> Option<Request> + Send + Sync + 'static> Sender<F> {
    pub(in crate::bench) fn all(connections: Vec<Connection>, make: F) -> Vec<Sender<F>> {
        let make = Arc::new(make);
        let sender = |connection| Sender {
            connection,
            make: Arc::clone(&make),
        };
        connections.into_iter().map(sender).collect()
    }
}

impl<F: Fn(u64) -> Option<Request> + Send + Sync + 'static> Client for Sender<F> {
    async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
        let Some(request) = (self.make)(ticket) else {
            return Ok(None);
        };
        let values = request.values as f64;
        let answer = self
            .connection
            .call(Method::POST, &request.path, request.kind, request.body)
            .await?;
        // Line protocol answers a complete success with nothing.
        if !answer.is_empty() && !answer.windows(11).any(|part| part == b"\"refused\":0") {
            bail!(
                "not everything was taken: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(Some(values))
    }
}

/// Sends requests, each once, and gives back when the last was answered.
pub(in crate::bench) async fn send(
    connections: Vec<Connection>,
    requests: Vec<Request>,
) -> Result<Done> {
    let make = move |ticket: u64| requests.get(usize::try_from(ticket).ok()?).cloned();
    closed_loop(Sender::all(connections, make), None).await
}

/// Each client acts again as soon as it has acted, until there is nothing left to do or the time is over.
pub(super) async fn closed_loop<C: Client>(
    clients: Vec<C>,
    within: Option<Duration>,
) -> Result<Done> {
    let tickets = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let tickets = Arc::clone(&tickets);
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while within.is_none_or(|within| begun.elapsed() < within) {
                let due = Instant::now();
                let Some(weight) = client.act(tickets.fetch_add(1, Ordering::Relaxed)).await?
                else {
                    break;
                };
                samples.push(sample(begun, due, weight));
            }
            anyhow::Ok(samples)
        });
    }
    gather(tasks, begun).await
}

/// Acts fall due at a steady pace, whatever the answers do; each is timed from when it fell due.
pub(in crate::bench) async fn open_loop<C: Client>(
    clients: Vec<C>,
    per_second: u32,
    during: Duration,
) -> Result<Done> {
    let count = (during.as_secs_f64() * f64::from(per_second)).ceil() as u64;
    let pace = Duration::from_secs(1) / per_second;
    // Room for all: what waits is late, and its lateness is measured.
    let (sender, receiver) = mpsc::channel(usize::try_from(count)?);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let begun = Instant::now();
    // A thread, because a sleep of the runtime is rounded up to a millisecond.
    let clock = std::thread::spawn(move || {
        let mut due = begun;
        for ticket in 0..count {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.try_send((ticket, due)).is_err() {
                return;
            }
            due += pace;
        }
    });
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let receiver = Arc::clone(&receiver);
        tasks.spawn(async move {
            let mut samples = Vec::new();
            loop {
                let next = receiver.lock().await.recv().await;
                let Some((ticket, due)) = next else {
                    return anyhow::Ok(samples);
                };
                if let Some(weight) = client.act(ticket).await? {
                    samples.push(sample(begun, due, weight));
                }
            }
        });
    }
    let done = gather(tasks, begun).await;
    drop(receiver);
    let joined = tokio::task::spawn_blocking(move || clock.join()).await?;
    joined
        .ok()
        .context("the clock of the benchmark has failed")?;
    done
}

fn sample(begun: Instant, due: Instant, weight: f64) -> Sample {
    Sample {
        at: begun.elapsed().as_secs_f64(),
        milliseconds: due.elapsed().as_secs_f64() * 1000.0,
        weight,
    }
}

async fn gather(mut tasks: JoinSet<Result<Vec<Sample>>>, begun: Instant) -> Result<Done> {
    let mut samples = Vec::new();
    while let Some(task) = tasks.join_next().await {
        samples.extend(task??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    samples.sort_unstable_by(|a, b| a.at.total_cmp(&b.at));
    Ok(Done { seconds, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acts up to a bound; each act takes a while.
    struct Slow {
        tickets: u64,
        takes: Duration,
    }

    impl Client for Slow {
        async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
            tokio::time::sleep(self.takes).await;
            Ok((ticket < self.tickets).then_some(2.0))
        }
    }

    fn slow(clients: usize, tickets: u64, milliseconds: u64) -> Vec<Slow> {
        let takes = Duration::from_millis(milliseconds);
        (0..clients).map(|_| Slow { tickets, takes }).collect()
    }

    #[tokio::test]
    async fn a_closed_loop_does_every_act_once() {
        let done = closed_loop(slow(4, 10, 1), None).await.expect("must work");
        assert_eq!((done.samples.len(), done.weight()), (10, 20.0));
    }

    #[tokio::test]
    async fn an_open_loop_counts_the_time_that_an_act_had_to_wait() {
        // One client, and acts that take twice the pace: the last waits for half of all.
        let during = Duration::from_millis(200);
        let done = open_loop(slow(1, u64::MAX, 10), 200, during)
            .await
            .expect("must work");
        assert_eq!(done.samples.len(), 40);
        let last = done.samples[39].milliseconds;
        assert!(last > 150.0, "{last}");
    }

    #[test]
    fn rounds_are_joined_in_time() {
        let sample = |at| Sample {
            at,
            milliseconds: 1.0,
            weight: 1.0,
        };
        let round = |seconds, at| Done {
            seconds,
            samples: vec![sample(at)],
        };
        let rounds = [round(2.0, 1.5), round(3.0, 0.5)];
        let at: Vec<f64> = joined(&rounds).iter().map(|sample| sample.at).collect();
        assert_eq!(at, [1.5, 2.5]);
    }
}
