//! The connection that requests go over: made, looked after, and made anew. What is heard has one of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::watch;

use super::client::client;
use super::hearing::subscribe;
use super::key::Keys;
use super::looking::{Look, look};
use super::{Link, Remote, RemoteFault, RemoteOptions};
use crate::breaker::Ended;
use crate::cache::Inner;

/// How long a connection may take to be made.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether Redis is the one that it was. What is sent meanwhile to one that was emptied or exchanged
/// is judged like everything else.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a connection ended the next one is tried, and at most after several that failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("connecting to redis")]
    Connect(#[source] RedisError),
    #[error("asking redis what it is")]
    Look(#[source] RedisError),
    #[error("hearing announcements through redis")]
    Subscribe(#[source] RedisError),
    #[error("redis did not answer within {0:?}")]
    Late(Duration),
    #[error("redis is a replica, which takes no values")]
    Replica,
    #[error(
        "redis is a cluster of {0} nodes that hold keys, of which only one would be used; a cluster of one such node is, or a proxy before it"
    )]
    Nodes(u64),
    #[error("redis does not say what it is")]
    Unclear,
    #[error("the stream of announcements ended")]
    StreamEnded,
    #[error("announcements are heard from another redis than requests go to")]
    Elsewhere,
    #[error("requests were not answered in time")]
    Renewed,
}

impl RemoteOptions {
    /// Connects once and asks what a server of this database asks, for those who want to know whether one could.
    pub async fn reach(&self, system_id: u64) -> Result<(), RemoteFault> {
        let client = client(self).map_err(RemoteFault::Unreadable)?;
        let keys = Keys::new(system_id);
        let own = keys.own_channel(rand::random());
        let reached = async {
            let mut connection = connect(&client).await?;
            look(&keys, &own, &mut connection).await?;
            subscribe(&keys, &own, &client).await
        };
        let reached = reached.await.map(drop);
        reached.map_err(|error| RemoteFault::Unreached(Box::new(error)))
    }
}

/// Keeps a connection until told to stop.
pub(super) async fn keep(cache: Arc<Inner>, stop: watch::Receiver<bool>) {
    let remote = cache
        .remote()
        .expect("invariant: started for a cache that has a redis");
    let trouble = "redis is not reached; reads go on without it";
    again(trouble, stop, move || serve(remote)).await;
}

/// Does what lasts as long as a connection does, again and again until told to stop. It says with what it ended whether
/// there was one.
pub(super) async fn again<F>(
    trouble: &'static str,
    mut stop: watch::Receiver<bool>,
    mut once: impl FnMut() -> F,
) where
    F: Future<Output = (LinkError, bool)>,
{
    let mut pause = PAUSE_MIN;
    let mut was_told = false;
    loop {
        let (error, was_up) = tokio::select! {
            ended = once() => ended,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        if was_up {
            pause = PAUSE_MIN;
            was_told = false;
        }
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        if was_told {
            tracing::debug!(%error, cause, "still: {trouble}");
        } else {
            tracing::warn!(%error, cause, "{trouble}");
            was_told = true;
        }
        let jittered = pause.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection, for as long as it lasts.
async fn serve(remote: &Remote) -> (LinkError, bool) {
    let error = match serve_once(remote).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let was_up = remote.link().is_some();
    remote.set_link(None);
    (error, was_up)
}

async fn serve_once(remote: &Remote) -> Result<Infallible, LinkError> {
    let client = client(&remote.options).map_err(LinkError::Connect)?;
    let own = remote.keys.own_channel(remote.sender);
    // What was said of the one before.
    let _ = remote.renew.notified().now_or_never();
    let mut connection = connect(&client).await?;
    let mut known = None;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = remote.renew.notified() => return Err(LinkError::Renewed),
        }
        let heard_before = remote.hears.load(Ordering::Acquire);
        let begun = Instant::now();
        let Look { epoch, hearers } = look(&remote.keys, &own, &mut connection).await?;
        // One that is answered within the deadline of a read shows that reads may ask again.
        if begun.elapsed() <= remote.options.deadline {
            remote.record(Ended::Well);
        }
        if known != Some(epoch) {
            match known {
                None => tracing::info!("redis is reached"),
                Some(_) => tracing::warn!("redis was emptied or exchanged"),
            }
            known = Some(epoch);
            remote.set_link(Some(Link {
                connection: connection.clone(),
                epoch,
            }));
        }
        if heard_before && hearers == 0 {
            remote.subscribe_again.notify_one();
        }
    }
}

pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, LinkError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(CONNECT_MAX));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(LinkError::Connect)
}
