//! The cache over a real Redis, and what can happen to that: away, slow, emptied, full, exchanged, cut off, written to by
//! others.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

#[path = "redis/cluster.rs"]
mod cluster;
#[path = "redis/entry.rs"]
mod entry;
#[path = "redis/fills.rs"]
mod fills;
#[path = "redis/keys.rs"]
mod keys;
#[path = "redis/outage.rs"]
mod outage;
#[path = "redis/process.rs"]
mod process;
#[path = "redis/world.rs"]
mod world;

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use process::Redis;
use world::{ANY, By, Given, Primary, Server, until};

/// Nothing that is remembered is so young.
const NEW: Duration = Duration::ZERO;

fn injected(what: &str, count: usize) {
    println!("injected {what}: {count}");
    assert!(count > 0, "the fault {what} was not injected");
}

/// Reads until the answer comes from Redis: it was put there without anybody waiting for it.
async fn wait_shared(server: &Server, primary: &Primary, name: &str, redis: &Redis) -> Result<()> {
    server.read(primary, name, ANY).await;
    until("the value is in redis", async || {
        Ok(!redis.entity_keys().await?.is_empty())
    })
    .await
}

/// A server that has read an entity long ago, so that it knows its number and has to ask.
async fn server_with_an_old_value(
    redis_port: u16,
    primary: &Primary,
    name: &str,
) -> Result<Server> {
    let given = Given {
        age_max: Duration::from_millis(400),
        ..Given::default()
    };
    let server = Server::start(redis_port, given);
    server.reached().await?;
    server.read(primary, name, ANY).await;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_has_read_answers_the_reads_of_another() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let one = Server::started(redis.port).await?;
    let other = server_with_an_old_value(redis.port, &primary, "a").await?;
    one.write(&primary, "a");
    let age = async |server: &Server| server.read(&primary, "a", ANY).await;
    // Until the other one has heard of the write and knows the number of the new entity.
    until("the other server knows the entity", async || {
        Ok(age(&other).await.0 == 1)
    })
    .await?;
    until("the other server answers from redis", async || {
        // Its own value is too old soon; the first one's newer one is not.
        one.read(&primary, "a", NEW).await;
        Ok(age(&other).await == (1, By::Redis))
    })
    .await?;
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_reads_at_once_ask_the_primary_once() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let server = Server::started(redis.port).await?;
    server.write(&primary, "a");
    let (hold, held) = tokio::sync::watch::channel(true);
    let herd = (0..500).map(|_| {
        let (server, primary, mut held) = (&server, &primary, held.clone());
        async move {
            let ask = async {
                held.wait_for(|held| !*held).await.expect("it lives");
                Ok(primary.says("a"))
            };
            server.read_asking("a", ANY, ask).await.0
        }
    });
    let let_go = async {
        tokio::task::yield_now().await;
        hold.send_replace(false);
    };
    let (versions, ()) = tokio::join!(join_all(herd), let_go);
    assert_eq!(versions, vec![1; 500]);
    assert_eq!(primary.asked(), 1);
    injected("read of a herd", versions.len());
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_there_is_found_once_it_is_created_on_any_server() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    let names: Vec<String> = (0..10).map(|number| format!("e{number}")).collect();
    for name in &names {
        for server in [&one, &other] {
            server.read(&primary, name, ANY).await;
            assert_eq!(server.read(&primary, name, ANY).await, (0, By::Memory));
        }
        one.write(&primary, name);
        assert_eq!(one.read(&primary, name, ANY).await.0, 1);
        until("the other server finds it, too", async || {
            Ok(other.read(&primary, name, ANY).await.0 == 1)
        })
        .await?;
    }
    injected("remembered absence before a creation", names.len());
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_request_left_behind_hides_no_entity_that_is_created_under_it() -> Result<()>
{
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    let names: Vec<String> = (0..10).map(|number| format!("e{number}")).collect();
    for name in &names {
        for server in [&one, &other] {
            server.read(&primary, name, ANY).await;
            assert_eq!(server.read(&primary, name, ANY).await, (0, By::Memory));
        }
        // It gets its number, and whoever asked for it has gone away before anybody was told.
        primary.number(name);
        // The next request finds it, and writes.
        one.write(&primary, name);
        assert_eq!(one.read(&primary, name, ANY).await.0, 1);
        until("the other server finds it, too", async || {
            Ok(other.read(&primary, name, ANY).await.0 == 1)
        })
        .await?;
    }
    injected("name that a dropped request left behind", names.len());
    one.stop().await?;
    other.stop().await
}
