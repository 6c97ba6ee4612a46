//! The connection to Redis: made, looked after, and made anew; and the announcements of other servers, as they come.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::watch;

use super::client::client;
use super::key::Keys;
use super::{Link, Remote, RemoteFault, RemoteOptions};
use crate::breaker::Ended;
use crate::cache::Inner;
use crate::seal::Content;

/// How long a connection may take to be made, and a look at it to be answered.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether Redis is the one that it was. What is sent meanwhile to one that was emptied or exchanged
/// is judged like everything else.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a connection ended the next one is tried, and at most after several that failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
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
    #[error("redis does not say what it is")]
    Unclear,
    #[error("the stream of announcements ended")]
    StreamEnded,
    #[error("requests were not answered in time")]
    Renewed,
}

impl RemoteOptions {
    /// Connects once and asks what a server of this database asks, for those who want to know whether one could.
    pub async fn reach(&self, system_id: u64) -> Result<(), RemoteFault> {
        let client = client(self).map_err(RemoteFault::Unreadable)?;
        let reached = async {
            let mut connection = connect(&client).await?;
            look(&Keys::new(system_id), &mut connection).await?;
            subscribe(&Keys::new(system_id), &client).await
        };
        let reached = reached.await.map(drop);
        reached.map_err(|error| RemoteFault::Unreached(Box::new(error)))
    }
}

/// Keeps a connection until told to stop.
pub(super) async fn keep(cache: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let remote = cache
        .remote()
        .expect("invariant: started for a cache that has a redis");
    let mut pause = PAUSE_MIN;
    let mut was_told = false;
    loop {
        let ended = tokio::select! {
            ended = serve(&cache, remote) => ended,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        let was_up = remote.link().is_some();
        remote.set_link(None);
        if was_up {
            pause = PAUSE_MIN;
            was_told = false;
        }
        let cause = std::error::Error::source(&ended).map(ToString::to_string);
        if was_told {
            tracing::debug!(error = %ended, cause, "redis is still not reached");
        } else {
            tracing::warn!(error = %ended, cause, "redis is not reached; reads go on without it");
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
async fn serve(cache: &Inner, remote: &Remote) -> LinkError {
    match serve_once(cache, remote).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn serve_once(cache: &Inner, remote: &Remote) -> Result<std::convert::Infallible, LinkError> {
    let client = client(&remote.options).map_err(LinkError::Connect)?;
    let mut connection = connect(&client).await?;
    let epoch = look_in_time(remote, &mut connection).await?;
    let pubsub = subscribe(&remote.keys, &client).await?;
    // What others wrote before this was not heard.
    cache.lose();
    remote.set_link(Some(Link {
        connection: connection.clone(),
        epoch,
    }));
    tracing::info!("redis is reached");
    if remote.is_unheard.swap(false, Ordering::AcqRel) {
        remote.announce_anything();
    }
    let mut known = epoch;
    let mut messages = pubsub.into_on_message();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok_or(LinkError::StreamEnded)?;
                hear(cache, remote, message.get_payload_bytes());
            }
            _ = looks.tick() => {
                let epoch = look_in_time(remote, &mut connection).await?;
                if epoch != known {
                    tracing::warn!("redis was emptied or exchanged");
                    known = epoch;
                    remote.set_link(Some(Link { connection: connection.clone(), epoch }));
                }
            }
            () = remote.renew.notified() => return Err(LinkError::Renewed),
        }
    }
}

fn hear(cache: &Inner, remote: &Remote, message: &[u8]) {
    match remote.seals.open_announcement(message) {
        Some(announcement) if announcement.sender == remote.sender => {}
        Some(announcement) => match announcement.content {
            Content::Written(position, written) => cache.learn(position, &written),
            Content::Named(tenant) => cache.fences.name(tenant),
            Content::Anything => cache.lose(),
        },
        None => {
            tracing::warn!(
                "an announcement cannot be read; everything that is remembered is dropped"
            );
            cache.lose();
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, LinkError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(CONNECT_MAX));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(LinkError::Connect)
}

async fn subscribe(keys: &Keys, client: &Client) -> Result<PubSub, LinkError> {
    let subscribed = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(keys.channel()).await?;
        Ok(pubsub)
    };
    match tokio::time::timeout(CONNECT_MAX, subscribed).await {
        Ok(Ok(pubsub)) => Ok(pubsub),
        Ok(Err(error)) => Err(LinkError::Subscribe(error)),
        Err(_) => Err(LinkError::Late(CONNECT_MAX)),
    }
}

/// As [`look`]. One that is answered within the deadline of a read shows that reads may ask again.
async fn look_in_time(
    remote: &Remote,
    connection: &mut MultiplexedConnection,
) -> Result<u64, LinkError> {
    let begun = Instant::now();
    let epoch = look(&remote.keys, connection).await?;
    if begun.elapsed() <= remote.options.deadline {
        remote.record(Ended::Well);
    }
    Ok(epoch)
}

/// The epoch of the Redis behind a connection, which must be one that takes values.
async fn look(keys: &Keys, connection: &mut MultiplexedConnection) -> Result<u64, LinkError> {
    let name = keys.generation();
    let asked = async {
        let mut asked = redis::pipe();
        asked.cmd("INFO").arg("server");
        asked.cmd("INFO").arg("replication");
        asked.cmd("GET").arg(&name);
        let (server, replication, generation) = asked
            .query_async::<(String, String, Option<String>)>(connection)
            .await?;
        if field(&replication, "role") != Some("master") || generation.is_some() {
            return Ok((server, replication, generation));
        }
        let drawn = format!("{:016x}", rand::random::<u64>());
        let mut drawing = redis::cmd("SET");
        drawing.arg(&name).arg(drawn).arg("NX");
        drawing.query_async::<()>(connection).await?;
        // Another server may have been first.
        let mut reading = redis::cmd("GET");
        let generation = reading.arg(&name).query_async(connection).await?;
        Ok((server, replication, generation))
    };
    let (server, replication, generation) = match tokio::time::timeout(LOOK_MAX, asked).await {
        Ok(answer) => answer.map_err(LinkError::Look)?,
        Err(_) => return Err(LinkError::Late(LOOK_MAX)),
    };
    if field(&replication, "role") != Some("master") {
        return Err(LinkError::Replica);
    }
    let run_id = field(&server, "run_id").ok_or(LinkError::Unclear)?;
    let generation = generation.ok_or(LinkError::Unclear)?;
    Ok(keys.epoch(run_id, &generation))
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim())
}
