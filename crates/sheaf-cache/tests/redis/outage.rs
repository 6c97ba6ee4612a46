//! A Redis that is away, stands still or is cut off, and announcements that wait for one.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;

use super::process::Redis;
use super::world::{ANY, By, Given, Primary, Server, until};
use super::{NEW, injected};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_or_dies_costs_speed_alone() -> Result<()> {
    let mut redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    redis.kill()?;
    let mut kills = 1;
    let server = Server::start(redis.port, Given::default());
    server.write(&primary, "a");
    assert_eq!(server.read(&primary, "a", ANY).await, (1, By::Primary));
    assert_eq!(server.read(&primary, "a", ANY).await, (1, By::Memory));
    redis.start_again().await?;
    server.reached().await?;
    for version in 2..5 {
        server.write(&primary, "a");
        assert_eq!(
            server.read(&primary, "a", ANY).await,
            (version, By::Primary)
        );
        redis.kill()?;
        kills += 1;
        server.write(&primary, "b");
        assert_eq!(
            server.read(&primary, "a", NEW).await,
            (version, By::Primary)
        );
        assert_eq!(server.read(&primary, "b", ANY).await.0, version - 1);
        redis.start_again().await?;
        server.reached().await?;
    }
    injected("kill -9 of redis", kills);
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_is_passed_by_and_piles_nothing_up() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let given = Given {
        deadline: Duration::from_millis(20),
        ..Given::default()
    };
    let server = Server::start(redis.port, given);
    server.reached().await?;
    let names: Vec<String> = (0..300).map(|number| format!("e{number}")).collect();
    for name in &names {
        server.write(&primary, name);
        server.read(&primary, name, ANY).await;
    }
    redis.signal("STOP")?;
    let begun = Instant::now();
    // Each asks Redis first, where that is asked.
    let reads = names.iter().map(|name| server.read(&primary, name, NEW));
    for (version, by) in join_all(reads).await {
        assert_eq!((version, by), (1, By::Primary));
    }
    until("redis is left alone", async || {
        Ok(server.cache.reaches_redis() == Some(false))
    })
    .await?;
    let took = begun.elapsed();
    let asked = primary.asked();
    for name in &names {
        assert_eq!(server.read(&primary, name, NEW).await, (1, By::Primary));
    }
    assert_eq!(primary.asked(), asked + names.len());
    println!("beside a redis that stands still, 300 reads at once took {took:?}");
    redis.signal("CONT")?;
    injected("SIGSTOP of redis", 1);
    server.reached().await?;
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_and_goes_on_costs_nothing_that_is_remembered() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let given = || Given {
        deadline: Duration::from_millis(20),
        ..Given::default()
    };
    let (one, other) = (
        Server::start(redis.port, given()),
        Server::start(redis.port, given()),
    );
    let servers = [&one, &other];
    for server in servers {
        server.reached().await?;
    }
    let names: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
    for name in &names {
        one.write(&primary, name);
    }
    for server in servers {
        for name in &names {
            until("it is remembered", async || {
                Ok(server.read(&primary, name, ANY).await == (1, By::Memory))
            })
            .await?;
        }
    }
    redis.signal("STOP")?;
    // Until requests were given up and their connection with them.
    for server in servers {
        until("redis is left alone", async || {
            server.read(&primary, "none", NEW).await;
            for name in &names {
                server.read(&primary, name, NEW).await;
            }
            Ok(server.cache.reaches_redis() == Some(false))
        })
        .await?;
    }
    // What is written meanwhile is announced late, and not in vain.
    one.write(&primary, &names[0]);
    assert_eq!(one.read(&primary, &names[0], ANY).await.0, 2);
    redis.signal("CONT")?;
    injected("SIGSTOP of redis for as long as requests are given up", 1);
    for server in servers {
        server.reached().await?;
    }
    until("the other server heard of the write", async || {
        Ok(other.read(&primary, &names[0], ANY).await.0 == 2)
    })
    .await?;
    let asked = primary.asked();
    for server in servers {
        for name in &names[1..] {
            let answer = server.read(&primary, name, ANY).await;
            assert_eq!(answer, (1, By::Memory), "{name}");
        }
    }
    assert_eq!(primary.asked(), asked);
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_announcements_that_redis_did_not_take_are_told_when_it_is_back() -> Result<()> {
    let mut redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    redis.kill()?;
    until("the end was noticed", async || {
        Ok(one.cache.reaches_redis() == Some(false) && other.cache.reaches_redis() == Some(false))
    })
    .await?;
    let names: Vec<String> = (0..100).map(|number| format!("e{number}")).collect();
    for name in &names {
        other.read(&primary, name, ANY).await;
        one.write(&primary, name);
    }
    injected("announcement without a redis", names.len());
    redis.start_again().await?;
    for server in [&one, &other] {
        server.reached().await?;
    }
    for name in &names {
        until("the other server shows it", async || {
            Ok(other.read(&primary, name, ANY).await.0 == 1)
        })
        .await?;
    }
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_of_announcements_drops_what_is_remembered() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    one.write(&primary, "a");
    until("both remember it", async || {
        let one = one.read(&primary, "a", ANY).await;
        let other = other.read(&primary, "a", ANY).await;
        Ok(one.1 == By::Memory && other.1 == By::Memory)
    })
    .await?;
    let (position, written) = primary.write("a");
    let killed: i64 = redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
    injected("killed stream of announcements", usize::try_from(killed)?);
    one.cache.committed(position, &[written]);
    for server in [&one, &other] {
        until("it is asked again", async || {
            Ok(server.read(&primary, "a", ANY).await.0 == 2)
        })
        .await?;
    }
    one.stop().await?;
    other.stop().await
}

#[tokio::test]
async fn what_was_written_before_a_stop_is_announced_before_it_ends() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    for name in ["many", "last"] {
        one.write(&primary, name);
    }
    until("the last one is remembered", async || {
        Ok(other.read(&primary, "last", ANY).await == (1, By::Memory))
    })
    .await?;
    // On one thread: all of it waits when the stop comes.
    let count = 900;
    for _ in 0..count {
        one.write(&primary, "many");
    }
    one.write(&primary, "last");
    one.stop().await?;
    injected("stop with announcements that wait", count + 1);
    until("the other server shows the last write", async || {
        Ok(other.read(&primary, "last", ANY).await.0 == 2)
    })
    .await?;
    other.stop().await
}
