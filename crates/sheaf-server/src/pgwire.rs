//! Questions over the lake by PostgreSQL's protocol, so that its clients need no other: psql, drivers, dashboards.
//!
//! A tenant's name is the user and a key of it the password. What a question may see and take, the lake's reader decides as it does
//! for `POST /v1/sql`: each is answered in a session of its own, from the same budgets. This here turns messages into questions and
//! rows into messages (decision 0021). It knows no table, writes nothing, and keeps nothing but what a connection has set.

mod catalogue;
mod command;
mod fault;
mod lexer;
mod line;
mod login;
mod message;
mod numeric;
mod opening;
mod param;
mod parts;
mod places;
mod question;
mod reply;
mod session;
mod startup;
mod value;
mod variables;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::serve::{ACCEPT_PAUSE, SHUTDOWN_MAX};
use crate::state::Shared;
use places::Places;

/// Connections of PostgreSQL's clients that are logged in.
pub const CONNECTIONS: &str = "sheaf_pgwire_connections";
/// Connections of PostgreSQL's clients, by what became of their login.
pub const CONNECTIONS_TOTAL: &str = "sheaf_pgwire_connections_total";
/// Their questions over the lake, by what came of them.
pub const QUESTIONS_TOTAL: &str = "sheaf_pgwire_questions_total";

/// Bounds on the clients of PostgreSQL's protocol.
#[derive(Debug, Clone)]
pub struct PgWireBounds {
    /// Connections at once, logged in or not; further ones wait unaccepted.
    pub connections_max: usize,
    /// Of one tenant.
    pub connections_of_tenant_max: usize,
    /// How long a login may take, encryption and all. While less than a quarter of the connections is left, a quarter of it.
    pub login_within: Duration,
    /// How long a connection may say nothing.
    pub idle_max: Duration,
    /// How long rows of a portal may wait for their client, as an answer that is being computed waits for it. They hold a place among
    /// the questions that may run.
    pub rows_wait_max: Duration,
    /// The certificate that connections are encrypted with; absent where they are not.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether a key is taken in clear from other machines.
    pub takes_cleartext: bool,
}

impl Default for PgWireBounds {
    fn default() -> PgWireBounds {
        PgWireBounds {
            connections_max: 256,
            connections_of_tenant_max: 64,
            login_within: Duration::from_secs(10),
            idle_max: Duration::from_secs(15 * 60),
            rows_wait_max: Duration::from_secs(30),
            tls: None,
            takes_cleartext: false,
        }
    }
}

/// What is served to clients of PostgreSQL. Clones share everything.
#[derive(Clone)]
pub struct PgWire {
    shared: Shared,
    bounds: Arc<PgWireBounds>,
    tls: Option<TlsAcceptor>,
    places: Arc<Places>,
}

impl PgWire {
    pub(crate) fn new(shared: Shared, bounds: PgWireBounds) -> PgWire {
        PgWire {
            shared,
            tls: bounds.tls.clone().map(TlsAcceptor::from),
            bounds: Arc::new(bounds),
            places: Arc::default(),
        }
    }

    /// How long a login may take while so many connections are left.
    fn login_within(&self, free: usize) -> Duration {
        match free < self.bounds.connections_max / 4 {
            true => self.bounds.login_within / 4,
            false => self.bounds.login_within,
        }
    }
}

/// Serves connections until `shutdown` completes; then takes no more, ends those that ask nothing, and lets running questions end,
/// within 20 seconds.
pub async fn serve_pgwire(
    listener: TcpListener,
    pgwire: PgWire,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(pgwire.bounds.connections_max));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            while connections.try_join_next().is_some() {}
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("invariant: the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let within = pgwire.login_within(slots.available_permits());
                    let until = Instant::now() + within;
                    let served = serve_one(pgwire.clone(), (stream, peer), until, stopped.clone());
                    connections.spawn(hold(slot, served));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of PostgreSQL's protocol could not be accepted");
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
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_MAX, ended).await.is_err() {
        tracing::warn!(
            seconds = SHUTDOWN_MAX.as_secs(),
            "questions were cut off because they did not end in time"
        );
    }
}

/// Returns when the server stops.
async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    // Whoever says so lives for as long as any connection.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

/// Runs with a slot, which goes back after it.
async fn hold(slot: OwnedSemaphorePermit, served: impl Future<Output = ()>) {
    served.await;
    drop(slot);
}

/// A connection from its first byte to its last.
async fn serve_one(
    pgwire: PgWire,
    (stream, peer): (TcpStream, SocketAddr),
    until: Instant,
    stopped: watch::Receiver<bool>,
) {
    // Small answers would otherwise wait for the client's acknowledgement of the packet before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut told = stopped.clone();
    let login = tokio::select! {
        login = login::login(&pgwire, stream, peer, until) => login,
        () = stop_of(&mut told) => return,
    };
    let count = |result: &'static str| {
        metrics::counter!(CONNECTIONS_TOTAL, "result" => result).increment(1);
    };
    match login {
        Ok(Some(admitted)) => {
            count("admitted");
            session::run(pgwire, admitted, stopped).await;
        }
        // A cancel, or a question whether there is encryption.
        Ok(None) => count("other"),
        Err(refusal) => {
            count(refusal.as_str());
            tracing::debug!(reason = refusal.as_str(), "a login has failed");
        }
    }
}
