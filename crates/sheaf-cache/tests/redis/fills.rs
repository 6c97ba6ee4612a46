//! Fills that come late, and a Redis that forgets what it was given.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::process::{Redis, Way};
use super::world::{ANY, By, Primary, Server, until};
use super::{NEW, injected, server_with_an_old_value, wait_shared};

/// A read whose source has answered and whose answer is held up until something has happened.
async fn late_fill(
    server: &Server,
    primary: &Primary,
    name: &str,
    meanwhile: impl Future<Output = Result<()>>,
) -> Result<(i64, By)> {
    let (asked, was_asked) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let ask = async {
        let said = primary.says(name);
        asked.send(()).expect("somebody waits");
        may_go_on.await.expect("somebody lets it go on");
        Ok(said)
    };
    let between = async {
        was_asked.await.context("nobody asked")?;
        meanwhile.await?;
        go_on.send(()).expect("it waits");
        anyhow::Ok(())
    };
    let (read, happened) = tokio::join!(server.read_asking(name, ANY, ask), between);
    happened?;
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_comes_after_the_write_it_lacks_answers_nobody() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    one.write(&primary, "a");
    for round in 0..20 {
        let version = round + 1;
        // Written here, or there and heard of.
        let writer = if round % 2 == 0 { &one } else { &other };
        one.cache.lose();
        // Remembered, so that it shows the next write only once that was heard of.
        one.read(&primary, "marker", ANY).await;
        let late = late_fill(&one, &primary, "a", async {
            writer.write(&primary, "a");
            // What was announced before this has been heard.
            writer.write(&primary, "marker");
            until("the write was heard of", async || {
                Ok(one.read(&primary, "marker", ANY).await.0 == round + 1)
            })
            .await
        });
        assert_eq!(
            late.await?,
            (version, By::Primary),
            "its own answer was right when it asked"
        );
        let (shown, by) = writer.read(&primary, "a", ANY).await;
        assert_eq!(shown, version + 1, "by {by:?}, on the server that wrote");
        let (shown, by) = one.read(&primary, "a", ANY).await;
        assert_eq!(shown, version + 1, "by {by:?}, where the fill came late");
        until("the other server shows it", async || {
            Ok(other.read(&primary, "a", ANY).await.0 == version + 1)
        })
        .await?;
    }
    injected("write between the answer of a source and its fill", 20);
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_from_before_redis_was_emptied_lands_where_nobody_looks() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let server = Server::started(redis.port).await?;
    server.write(&primary, "a");
    let generation = async || -> Result<Option<String>> {
        let names: Vec<String> = redis.call(&["KEYS", "sheaf:*:generation"]).await?;
        match names.first() {
            Some(name) => redis.call(&["GET", name]).await,
            None => Ok(None),
        }
    };
    let before = generation().await?.context("there is none")?;
    wait_shared(&server, &primary, "a", &redis).await?;
    let key_before = redis.entity_keys().await?.pop().context("it is there")?;
    server.write(&primary, "a");
    let late = late_fill(&server, &primary, "a", async {
        let _: String = redis.call(&["FLUSHALL"]).await?;
        injected("FLUSHALL with a fill in flight", 1);
        Ok(())
    });
    assert_eq!(late.await?, (2, By::Primary));
    until("another generation is drawn", async || {
        Ok(generation().await?.is_some_and(|drawn| drawn != before))
    })
    .await?;
    until("values are under another key", async || {
        server.read(&primary, "a", NEW).await;
        let keys = redis.entity_keys().await?;
        Ok(keys.iter().any(|key| *key != key_before))
    })
    .await?;
    let other = Server::started(redis.port).await?;
    assert_eq!(other.read(&primary, "a", ANY).await.0, 2);
    server.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_under_pressure_or_takes_nothing_makes_no_answer_old() -> Result<()> {
    let redis = Redis::start(&["--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru"]).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(redis.port).await?,
        Server::started(redis.port).await?,
    );
    let filler = "x".repeat(20_000);
    let mut fillers = 0;
    for round in 0..10 {
        if round == 5 {
            let _: String = redis
                .call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
                .await?;
        }
        for number in 0..30 {
            // Refused when it is full and forgets nothing.
            let put: Result<String> = redis
                .call(&["SET", &format!("filler {round} {number}"), &filler])
                .await;
            fillers += usize::from(put.is_ok());
        }
        for number in 0..20 {
            let name = format!("e{number}");
            let writer = if (round + number) % 2 == 0 {
                &one
            } else {
                &other
            };
            writer.write(&primary, &name);
            assert_eq!(writer.read(&primary, &name, ANY).await.0, round + 1);
        }
    }
    let evicted: String = redis.call(&["INFO", "stats"]).await?;
    let evicted = evicted
        .lines()
        .find_map(|line| line.strip_prefix("evicted_keys:"));
    let evicted: usize = evicted.context("redis does not count")?.trim().parse()?;
    injected("eviction", evicted);
    injected("filler", fillers);
    // What was announced is heard also where no value can be put.
    for number in 0..20 {
        let name = format!("e{number}");
        for server in [&one, &other] {
            until("every server shows the last write", async || {
                Ok(server.read(&primary, &name, ANY).await.0 == 10)
            })
            .await?;
        }
    }
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_over_without_the_last_writes_shows_no_old_value() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let heir = Redis::start(&[]).await?;
    let way = Way::to(redis.port).await?;
    let primary = Primary::default();
    let server = Server::started(way.port).await?;
    server.write(&primary, "a");
    wait_shared(&server, &primary, "a", &redis).await?;
    let port = redis.port.to_string();
    let _: String = heir.call(&["REPLICAOF", "127.0.0.1", &port]).await?;
    until("the heir has the value", async || {
        Ok(!heir.entity_keys().await?.is_empty())
    })
    .await?;
    let _: String = heir.call(&["REPLICAOF", "NO", "ONE"]).await?;
    server.write(&primary, "a");
    assert_eq!(server.read(&primary, "a", ANY).await, (2, By::Primary));
    way.lead_to(heir.port);
    injected("failover of redis", 1);
    until("the heir is used", async || {
        server.read(&primary, "a", NEW).await;
        let keys = heir.entity_keys().await?;
        Ok(keys.len() > 1)
    })
    .await?;
    // A server without a memory of its own, that knows the number from an answer that is too old.
    let other = server_with_an_old_value(way.port, &primary, "a").await?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(other.read(&primary, "a", ANY).await.0, 2);
    }
    server.stop().await?;
    other.stop().await
}
