//! The announcements of other servers, over a connection of their own. As long as it lives nothing of them is lost, however
//! late they come; so it outlives the connection for requests, and what is remembered is dropped only with it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use redis::Client;
use redis::aio::{PubSub, PubSubSink};
use tokio::sync::watch;

use super::Remote;
use super::client::client;
use super::key::Keys;
use super::link::{CONNECT_MAX, LinkError, again};
use crate::cache::Inner;
use crate::seal::Content;

/// How often it is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long it may not answer before it is given up. A Redis that stands still for some seconds, while it forks or its machine
/// is moved, goes on where it was, and nothing is lost. Longer leaves a server deaf for longer where a network swallows what
/// is sent; what it remembers meanwhile answers within its age.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// Hears until told to stop.
pub(super) async fn keep(cache: Arc<Inner>, stop: watch::Receiver<bool>) {
    let remote = cache
        .remote()
        .expect("invariant: started for a cache that has a redis");
    let cache: &Inner = &cache;
    let trouble = "announcements of other servers are not heard through redis";
    again(trouble, stop, move || hear_on(cache, remote)).await;
}

/// One connection, for as long as it lasts.
async fn hear_on(cache: &Inner, remote: &Remote) -> (LinkError, bool) {
    let error = match hear_once(cache, remote).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let was_up = remote.hears.load(std::sync::atomic::Ordering::Acquire);
    remote.set_hears(false);
    (error, was_up)
}

async fn hear_once(cache: &Inner, remote: &Remote) -> Result<Infallible, LinkError> {
    let client = client(&remote.options).map_err(LinkError::Connect)?;
    let own_channel = remote.keys.own_channel(remote.sender);
    // What was said of the one before.
    let _ = remote.subscribe_again.notified().now_or_never();
    let pubsub = subscribe(&remote.keys, &own_channel, &client).await?;
    // What others wrote before this was not heard.
    cache.lose();
    remote.set_hears(true);
    let (sink, mut messages) = pubsub.split();
    let silence = silence(sink);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok_or(LinkError::StreamEnded)?;
                if message.get_channel_name() != own_channel {
                    hear(cache, remote, message.get_payload_bytes());
                }
            }
            error = &mut silence => return Err(error),
            () = remote.subscribe_again.notified() => return Err(LinkError::Elsewhere),
        }
    }
}

/// Returns once the connection does not answer any more.
async fn silence(mut sink: PubSubSink) -> LinkError {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(SILENT_MAX, sink.ping::<redis::Value>()).await {
            // One who may not ask this is answered, too.
            Ok(Err(error)) if error.is_unrecoverable_error() => return LinkError::StreamEnded,
            Ok(Ok(_) | Err(_)) => {}
            Err(_) => return LinkError::Late(SILENT_MAX),
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

pub(super) async fn subscribe(
    keys: &Keys,
    own_channel: &str,
    client: &Client,
) -> Result<PubSub, LinkError> {
    let subscribed = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub
            .subscribe(&[keys.channel().as_str(), own_channel])
            .await?;
        Ok(pubsub)
    };
    match tokio::time::timeout(CONNECT_MAX, subscribed).await {
        Ok(Ok(pubsub)) => Ok(pubsub),
        Ok(Err(error)) => Err(LinkError::Subscribe(error)),
        Err(_) => Err(LinkError::Late(CONNECT_MAX)),
    }
}
