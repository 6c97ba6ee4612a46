//! Serving connections until told to stop. Slow heads are cut off, and so is a client that does not finish in time.

use std::future::Future;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::Layer;

use crate::auth::Peer;

/// How long a request's head may take to arrive, on a new connection and on one that waits for its next request. Longer
/// lets slow clients hold sockets; shorter makes clients that pool connections connect more often.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Bytes that are buffered of a head before it is too large.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// How long running requests may take to end once the server stops.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);
/// How long to wait after a failed accept: it fails for want of file descriptors, and at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` completes; then takes no more connections and lets running requests end, within 20 seconds.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => connect(stream, Peer(address), &router, &connections),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
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

fn connect(stream: TcpStream, peer: Peer, router: &Router, connections: &GracefulShutdown) {
    // Small answers would otherwise wait for the client's acknowledgement of the packet before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it was served");
        return;
    }
    let service = TowerToHyperService::new(Extension(peer).layer(router.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    // The task ends with its connection; at shutdown the watch above joins it, for a bounded time.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
}
