//! The cache over a real Redis, and what can happen to that: away, slow, emptied, full, exchanged, cut off, written to by
//! others.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

#[path = "redis/world.rs"]
mod world;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use sheaf_cache::RemoteOptions;
use tokio::sync::oneshot;
use world::{ANY, By, Given, Primary, Redis, Server, Way, until};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_asks_for_a_name_and_a_password_gets_them() -> Result<()> {
    let redis = Redis::start(&[]).await?;
    let _: String = redis
        .call(&[
            "ACL",
            "SETUSER",
            "sheaf",
            "on",
            ">of a test",
            "~sheaf:*",
            "&sheaf:*",
            "+@all",
        ])
        .await?;
    let _: String = redis
        .call(&[
            "ACL",
            "SETUSER",
            "default",
            "resetkeys",
            "resetchannels",
            "-@all",
            "+ping",
        ])
        .await?;
    let with = |password: &str| {
        Server::start(
            redis.port,
            Given {
                user: Some("sheaf".to_owned()),
                password: Some(password.to_owned()),
                ..Given::default()
            },
        )
    };
    let primary = Primary::default();
    let server = with("of a test");
    server.reached().await?;
    for (password, may_enter) in [("of a test", true), ("another", false)] {
        let options = RemoteOptions {
            url: format!("redis://127.0.0.1:{}", redis.port),
            user: Some("sheaf".to_owned()),
            password: Some(password.to_owned()),
            ca: None,
            deadline: Duration::from_secs(1),
        };
        options.check()?;
        assert_eq!(options.reach(7).await.is_ok(), may_enter, "{password}");
    }
    let wrong = with("another");
    wrong.write(&primary, "a");
    assert_eq!(wrong.read(&primary, "a", ANY).await, (1, By::Primary));
    assert_eq!(wrong.cache.reaches_redis(), Some(false));
    server.stop().await?;
    wrong.stop().await
}

/// A certificate authority, and a certificate of it for this machine's own address; as files in a directory.
fn certificates(dir: &Path) -> Result<()> {
    let run = |line: &str| -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let run = Command::new("openssl")
            .current_dir(dir)
            .args(&words)
            .output();
        let output = run.context("running openssl")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 30"
    ))?;
    run(&format!(
        "req {key} -keyout own.key -out own.csr -subj /CN=redis"
    ))?;
    std::fs::write(dir.join("own.cnf"), "subjectAltName=IP:127.0.0.1\n")?;
    run(
        "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile own.cnf -out own.pem -days 30",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_reached_encrypted_if_its_certificate_is_trusted() -> Result<()> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-certificates");
    std::fs::create_dir_all(&dir)?;
    certificates(&dir)?;
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let free = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = free.local_addr()?.port();
    drop(free);
    let (cert, key, ca) = (file("own.pem"), file("own.key"), file("ca.pem"));
    let tls_port = port.to_string();
    let redis = Redis::start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await?;
    let primary = Primary::default();
    let trusted = std::fs::read(&ca)?;
    let url = format!("rediss://127.0.0.1:{port}");
    let server = Server::start_at(url.clone(), Given::default(), Some(trusted));
    server.reached().await?;
    server.write(&primary, "a");
    wait_shared(&server, &primary, "a", &redis).await?;
    // Nobody public has signed it.
    let distrustful = Server::start_at(url, Given::default(), None);
    assert_eq!(distrustful.read(&primary, "a", ANY).await.0, 1);
    assert_eq!(distrustful.cache.reaches_redis(), Some(false));
    server.stop().await?;
    distrustful.stop().await
}
