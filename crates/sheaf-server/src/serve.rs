//! Serving connections until told to stop. Slow heads are cut off, and so is a client that does not finish in time.
//!
//! There are only so many connections. Further ones wait unaccepted, in the queue of the operating system, until one
//! ends; while few are left, each has less time for its next head, so that those who only hold them do not for long.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Layer;

use crate::auth::Peer;
use crate::stalled::Stalled;

/// How long a request's head may take to arrive, on a new connection and on one that waits for its next request. Longer
/// lets slow clients hold sockets; shorter makes clients that pool connections connect more often.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// The same while less than a quarter of the connections is left.
const HEAD_CROWDED_MAX: Duration = Duration::from_secs(5);
/// How often the log says that all connections are taken, at most.
const CROWDED_LOG_PAUSE: Duration = Duration::from_secs(60);
/// Bytes that are buffered of a head before it is too large.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// How long a client may take next to nothing of an answer that is being sent. Longer lets stalled readers hold streams; shorter cuts
/// off those whose line is away for a moment.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long running requests may take to end once the server stops.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(20);
/// How long to wait after a failed accept: it fails for want of file descriptors, and at once again.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves at most so many connections at once until `shutdown` completes; then takes no more and lets running requests
/// end, within 20 seconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
) {
    let connections = GracefulShutdown::new();
    let mut slots = Slots::new(connections_max);
    let accept = async {
        loop {
            let slot = slots.take().await;
            match listener.accept().await {
                Ok((stream, address)) => {
                    let head_max = slots.head_max();
                    connect(
                        stream,
                        (slot, head_max),
                        Peer(address),
                        &router,
                        &connections,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = accept => {}
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_MAX, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = SHUTDOWN_MAX.as_secs(),
            "requests were cut off because they did not end in time"
        );
    }
}

/// The connections that there may be.
struct Slots {
    free: Arc<Semaphore>,
    max: usize,
    crowded_logged_at: Option<Instant>,
}

impl Slots {
    fn new(max: usize) -> Slots {
        Slots {
            free: Arc::new(Semaphore::new(max)),
            max,
            crowded_logged_at: None,
        }
    }

    /// Waits until there may be another one.
    async fn take(&mut self) -> OwnedSemaphorePermit {
        if self.free.available_permits() == 0 {
            let logged = self.crowded_logged_at;
            if logged.is_none_or(|at| at.elapsed() >= CROWDED_LOG_PAUSE) {
                self.crowded_logged_at = Some(Instant::now());
                tracing::warn!(
                    connections_max = self.max,
                    "all connections are taken; further ones wait"
                );
            }
        }
        let slot = Arc::clone(&self.free).acquire_owned().await;
        slot.expect("invariant: the semaphore is never closed")
    }

    fn head_max(&self) -> Duration {
        head_max(self.free.available_permits(), self.max)
    }
}

/// How long a connection has for each head, by how many are left.
fn head_max(free: usize, connections_max: usize) -> Duration {
    if free < connections_max / 4 {
        HEAD_CROWDED_MAX
    } else {
        HEAD_MAX
    }
}

fn connect(
    stream: TcpStream,
    (slot, head_max): (OwnedSemaphorePermit, Duration),
    peer: Peer,
    router: &Router,
    connections: &GracefulShutdown,
) {
    // Small answers would otherwise wait for the client's acknowledgement of the packet before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it was served");
        return;
    }
    let service = TowerToHyperService::new(Extension(peer).layer(router.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_max)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Stalled::new(stream, TAKEN_WITHIN)), service);
    let connection = connections.watch(connection);
    // The task ends with its connection; at shutdown the watch above joins it, for a bounded time.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
        drop(slot);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_less_time_while_few_connections_are_left() {
        for (free, max, seconds) in [
            (1_000, 1_000, 30),
            (250, 1_000, 30),
            (249, 1_000, 5),
            (0, 1_000, 5),
        ] {
            assert_eq!(
                head_max(free, max),
                Duration::from_secs(seconds),
                "{free} of {max}"
            );
        }
    }
}
