//! A slot is followed over every kind of connection, and what was confirmed has arrived when it ends.

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::Lsn;
use sheaf_pg::cluster::SUPERUSER;
use sheaf_pg::{NewestTimeline, Received, ReplicationConnection, ReplicationError, Tls};
use sheaf_testkit::{TestCluster, wait_until};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};

const WITHIN: Duration = Duration::from_secs(60);
const OPTIONS: [(&str, &str); 2] = [("proto_version", "1"), ("publication_names", "all_of_it")];

async fn with_slot(slot: &str) -> Result<(std::sync::Arc<TestCluster>, Client)> {
    let cluster = TestCluster::private().await?;
    let client = cluster.superuser("postgres").await?;
    client
        .batch_execute("CREATE TABLE things (id int PRIMARY KEY); CREATE PUBLICATION all_of_it FOR TABLE things")
        .await?;
    client
        .query(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&slot],
        )
        .await?;
    Ok((cluster, client))
}

async fn over_tcp(cluster: &TestCluster, host: &str) -> Result<Config> {
    let password = std::fs::read_to_string(cluster.cluster().password_file())?;
    let mut config = Config::new();
    config
        .host(host)
        .port(cluster.cluster().port())
        .user(SUPERUSER)
        .password(password.trim())
        .dbname("postgres");
    Ok(config)
}

async fn connect_to(config: &Config, tls: &Tls) -> Result<ReplicationConnection, ReplicationError> {
    ReplicationConnection::connect(config, tls, &NewestTimeline::default()).await
}

/// Follows the slot until it has seen a transaction, confirms that, and ends.
async fn follow_one(config: &Config, tls: &Tls, slot: &str, client: &Client) -> Result<Lsn> {
    let mut connection = connect_to(config, tls).await?;
    connection.follow(slot, &OPTIONS).await?;
    client
        .batch_execute("INSERT INTO things SELECT coalesce(max(id), 0) + 1 FROM things")
        .await?;
    let mut kinds = Vec::new();
    let end = loop {
        match timeout(WITHIN, connection.receive()).await?? {
            Received::Message(message) => {
                kinds.push(message[0]);
                if message[0] == b'C' {
                    break Lsn(u64::from_be_bytes(message[10..18].try_into()?));
                }
            }
            Received::Alive { .. } => {}
            Received::End => anyhow::bail!("it ended by itself"),
        }
    };
    assert_eq!(kinds, b"BRIC");
    connection.confirm(end, true).await?;
    // The answer that was asked for.
    loop {
        if let Received::Alive { read_to, .. } = timeout(WITHIN, connection.receive()).await?? {
            assert!(read_to >= end, "{read_to} before {end}");
            break;
        }
    }
    timeout(WITHIN, connection.end()).await??;
    Ok(end)
}

async fn confirmed(client: &Client, slot: &str) -> Result<Lsn> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_one(sql, &[&slot]).await?;
    Ok(row.get::<_, &str>(0).parse()?)
}

#[tokio::test]
async fn a_slot_is_followed_over_a_socket_with_a_password_and_encrypted() -> Result<()> {
    let (cluster, client) = with_slot("one").await?;
    let socket = cluster.cluster().connect_config("postgres", SUPERUSER);
    let password = over_tcp(&cluster, "127.0.0.1").await?;
    for (config, tls) in [(&socket, Tls::none()), (&password, Tls::none())] {
        let end = follow_one(config, &tls, "one", &client).await?;
        assert_eq!(
            confirmed(&client, "one").await?,
            end,
            "the last confirmation arrived"
        );
    }
    let make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE 2>/dev/null && chmod 600 server.key";
    client
        .batch_execute(&format!("COPY (SELECT 1) TO PROGRAM '{make}'"))
        .await
        .context("make a certificate")?;
    cluster.set("ssl", "on").await?;
    let mut encrypted = over_tcp(&cluster, "localhost").await?;
    encrypted.ssl_mode(SslMode::Require);
    let authority = cluster.cluster().data_dir().join("pgdata/server.crt");
    let trusting = Tls::with_ca_file(&authority)?;
    let end = follow_one(&encrypted, &trusting, "one", &client).await?;
    assert_eq!(confirmed(&client, "one").await?, end);
    let connection = connect_to(&encrypted, &trusting).await?;
    let encrypted_sessions =
        "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE s.ssl AND a.backend_type = 'walsender'";
    let row = client.query_one(encrypted_sessions, &[]).await?;
    assert_eq!(row.get::<_, i64>(0), 1);
    drop(connection);
    // Whoever trusts nobody trusts not this one.
    let refused = connect_to(&encrypted, &Tls::none()).await;
    assert!(
        matches!(refused, Err(ReplicationError::Connect(_))),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_its_code() -> Result<()> {
    let (cluster, client) = with_slot("one").await?;
    let mut wrong = over_tcp(&cluster, "127.0.0.1").await?;
    wrong.password("wrong");
    let refused = connect_to(&wrong, &Tls::none()).await;
    assert_eq!(
        refused.expect_err("a wrong password").sqlstate(),
        Some("28P01")
    );
    let right = cluster.cluster().connect_config("postgres", SUPERUSER);
    let connect = async || connect_to(&right, &Tls::none()).await;
    let mut nowhere = connect().await?;
    let missing = nowhere.follow("none", &OPTIONS).await.expect_err("no slot");
    assert_eq!(missing.sqlstate(), Some("42704"));
    let mut first = connect().await?;
    first.follow("one", &OPTIONS).await?;
    let busy = connect().await?.follow("one", &OPTIONS).await;
    assert!(busy.expect_err("it is followed").is_slot_in_use());
    client.batch_execute("CREATE ROLE plain LOGIN").await?;
    let plain = cluster.cluster().connect_config("postgres", "plain");
    let refused = connect_to(&plain, &Tls::none()).await;
    assert_eq!(
        refused.expect_err("no right to replicate").sqlstate(),
        Some("42501")
    );
    // A follower that is gone without a word is noticed where its connection breaks.
    drop(first);
    wait_until("the slot is free", WITHIN, async || {
        let mut next = connect().await.expect("it connects");
        next.follow("one", &OPTIONS).await.is_ok()
    })
    .await;
    Ok(())
}
