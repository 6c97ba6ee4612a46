//! Who may enter: a name and a password, and certificates on the way.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cache::RemoteOptions;

use super::process::Redis;
use super::wait_shared;
use super::world::{ANY, By, Given, Primary, Server};

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
