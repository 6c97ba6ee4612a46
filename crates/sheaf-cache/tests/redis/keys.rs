//! What is under the keys: no text of clients, and nothing that others put there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::Redis;
use super::world::{ANY, By, Given, Primary, Server, until};
use super::{NEW, injected, wait_shared};

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_client_is_in_a_key_and_no_two_names_meet() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let server = Server::started(redis.port).await?;
    let names = [
        "a:b",
        "a",
        "b:a",
        "a:",
        ":a",
        "{a}",
        "a}",
        "é",
        "e\u{301}",
        "a\r\nDEL x",
        "*",
        "entity:1:1",
    ];
    for name in names {
        server.write(&primary, name);
        // Its body is checked to be of this name.
        server.read(&primary, name, ANY).await;
        assert_eq!(
            server.read(&primary, name, ANY).await.1,
            By::Memory,
            "{name:?}"
        );
    }
    until("all are in redis", async || {
        Ok(redis.entity_keys().await?.len() == names.len())
    })
    .await?;
    let keys: Vec<String> = redis.call(&["KEYS", "*"]).await?;
    for key in keys {
        let is_plain = key
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || b"sheaf:entitygeneration".contains(&byte));
        ensure!(is_plain && key.starts_with("sheaf:"), "{key:?}");
    }
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_under_our_keys_is_no_value_and_is_replaced() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let server = Server::started(redis.port).await?;
    server.write(&primary, "a");
    server.write(&primary, "b");
    for name in ["a", "b"] {
        wait_shared(&server, &primary, name, &redis).await?;
    }
    until("both are in redis", async || {
        Ok(redis.entity_keys().await?.len() == 2)
    })
    .await?;
    let keys = redis.entity_keys().await?;
    let mut poisons: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{\"type\":\"device\"}".to_vec(),
        vec![b'9'; 200],
        vec![0xff; 70],
    ];
    // Another entity's own value, which is sealed.
    let mut connection = redis.connect().await?;
    let foreign: Vec<u8> = redis::cmd("GET")
        .arg(&keys[0])
        .query_async(&mut connection)
        .await?;
    let mut changed = foreign.clone();
    changed[60] ^= 1;
    poisons.extend([changed, foreign]);
    for poison in &poisons {
        for key in &keys {
            let _: () = redis::cmd("SET")
                .arg(key)
                .arg(poison)
                .query_async(&mut connection)
                .await?;
        }
        for name in ["a", "b"] {
            let (version, by) = server.read(&primary, name, NEW).await;
            assert_eq!((version, by), (1, By::Primary), "{name}");
        }
        until("the poison is replaced", async || {
            for name in ["a", "b"] {
                server.read(&primary, name, NEW).await;
            }
            let mut connection = redis.connect().await?;
            let mut is_replaced = true;
            for key in &keys {
                let now: Option<Vec<u8>> = redis::cmd("GET")
                    .arg(key)
                    .query_async(&mut connection)
                    .await?;
                is_replaced &= now.is_some_and(|now| now != *poison && now.len() > 70);
            }
            Ok(is_replaced)
        })
        .await?;
    }
    injected("poisoned value", poisons.len() * keys.len());
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_ours_that_holds_another_kind_of_thing_is_replaced() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let server = Server::started(redis.port).await?;
    // More than failures that a breaker bears: it is none of Redis.
    let names: Vec<String> = (0..10).map(|number| format!("e{number}")).collect();
    for name in &names {
        server.write(&primary, name);
        server.read(&primary, name, ANY).await;
    }
    until("all are in redis", async || {
        Ok(redis.entity_keys().await?.len() == names.len())
    })
    .await?;
    let keys = redis.entity_keys().await?;
    let kind = async |key: &str| redis.call::<String>(&["TYPE", key]).await;
    let kinds: [&[&str]; 4] = [&["LPUSH"], &["SADD"], &["HSET", "x"], &["ZADD", "1"]];
    for put in kinds {
        for key in &keys {
            let _: i64 = redis.call(&["DEL", key]).await?;
            let mut words = vec![put[0], key];
            words.extend(&put[1..]);
            words.push("x");
            let _: i64 = redis.call(&words).await?;
        }
        for name in &names {
            let answer = server.read(&primary, name, NEW).await;
            assert_eq!(answer, (1, By::Primary), "{put:?}");
        }
        assert_eq!(server.cache.reaches_redis(), Some(true), "{put:?}");
        until("all are values again", async || {
            for name in &names {
                server.read(&primary, name, NEW).await;
            }
            let mut are_values = true;
            for key in &keys {
                are_values &= kind(key).await? == "string";
            }
            Ok(are_values)
        })
        .await?;
    }
    injected("key of another kind", kinds.len() * keys.len());
    // The one that every key begins with, before a server looks at it for the first time.
    let mut names: Vec<String> = redis.call(&["KEYS", "sheaf:*:generation"]).await?;
    let name = names.pop().context("it is there")?;
    let _: i64 = redis.call(&["DEL", &name]).await?;
    let _: i64 = redis.call(&["LPUSH", &name, "x"]).await?;
    until("another generation is drawn", async || {
        Ok(kind(&name).await? == "string")
    })
    .await?;
    server.reached().await?;
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_redis_decides_nothing() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let primary = Primary::default();
    let given = Given {
        age_max: Duration::from_millis(300),
        ..Given::default()
    };
    let server = Server::start(redis.port, given);
    server.reached().await?;
    server.write(&primary, "a");
    wait_shared(&server, &primary, "a", &redis).await?;
    // A clock that stands still would keep it for ever.
    let key = redis.entity_keys().await?.pop().context("it is there")?;
    let kept: i64 = redis.call(&["PERSIST", &key]).await?;
    ensure!(kept == 1, "it had gone already");
    injected("value that never expires", 1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(301) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // There is no reason but its age: nobody wrote.
    let (version, by) = server.read(&primary, "a", ANY).await;
    assert_eq!((version, by), (1, By::Primary));
    // One that runs ahead forgets it at once, and it is asked for.
    let _: i64 = redis.call(&["DEL", &key]).await?;
    assert_eq!(server.read(&primary, "a", NEW).await, (1, By::Primary));
    server.stop().await
}
