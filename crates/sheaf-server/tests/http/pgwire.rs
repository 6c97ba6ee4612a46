//! PostgreSQL's protocol with clients of it: the driver for Rust, psql, and those who are no clients.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_server::PgWireBounds;
use sheaf_testkit::{HttpClient, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::support::{JSON, TestServer, expect};

/// More than any login or question takes, also on a slow machine.
const WITHIN: Duration = Duration::from_secs(60);
/// Never comes to an end by itself.
const ENDLESS: &str = "SELECT count(*) FROM facts a, facts b, facts c, facts d, facts e, facts f, facts g, facts h, facts i,
    facts j, facts k, facts l, facts m, facts n, facts o, facts p, facts q, facts r, facts s, facts t, facts u";

fn config(address: SocketAddr, user: &str, key: &str) -> Config {
    let mut config = Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user(user)
        .password(key)
        .dbname("sheaf")
        .connect_timeout(WITHIN);
    config
}

/// A client with a connection, with these options of the session.
pub(crate) async fn connect(
    address: SocketAddr,
    user: &str,
    key: &str,
    options: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = config(address, user, key);
    config.options(options);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A tenant with its client over HTTP and a key that reads.
struct Tenant {
    name: &'static str,
    http: HttpClient,
    key: String,
    key_id: String,
}

impl Tenant {
    async fn create(server: &TestServer, name: &'static str) -> Result<Tenant> {
        let http = server.tenant(name).await?;
        let made = server.key(name, r#"{"scopes":["read"]}"#).await?;
        let text = |member: &str| -> Result<String> {
            let key = made["key"].get(member).or_else(|| made.get(member));
            Ok(key.and_then(Value::as_str).context("a key")?.to_owned())
        };
        Ok(Tenant {
            name,
            http,
            key: text("key")?,
            key_id: text("id")?,
        })
    }

    async fn connect(&self, server: &TestServer) -> Result<Client> {
        Ok(connect(server.pgwire, self.name, &self.key, "").await?)
    }

    /// Writes events, and gives the token of that.
    async fn write(&self, events: &Value) -> Result<String> {
        let stored = self
            .http
            .post("/v1/ingest", JSON, events.to_string().as_bytes())
            .await?;
        let token = &expect(&stored, 200)?["token"];
        Ok(token.as_str().context("a token")?.to_owned())
    }
}

fn planes(ids: &[&str], maker: &str) -> Value {
    let events = ids.iter().zip(1..).map(|(id, number)| {
        json!({"type": "plane", "id": id, "observed_at": "2013-01-01T10:00:00Z",
            "attributes": {"seats": 50 * number, "maker": maker, "is_old": number == 1}})
    });
    events.collect()
}

fn state(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(
        || format!("no state: {error:?}"),
        |state| state.code().to_owned(),
    )
}

fn detail(error: &tokio_postgres::Error) -> &str {
    let error = error.as_db_error();
    error.and_then(|error| error.detail()).unwrap_or_default()
}

/// The first value of the first row.
async fn one(client: &Client, query: &str) -> Result<String> {
    let found = client.simple_query(query).await?;
    let value = found.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.with_context(|| format!("{query} gave no row"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_for_rust_asks_with_parameters_and_takes_rows_by_and_by() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let other = Tenant::create(&server, "globex").await?;
    let foreign = other.write(&planes(&["X1", "X2"], "hidden")).await?;
    let token = own.write(&planes(&["N1", "N2", "N3"], "boeing")).await?;
    let mut client = own.connect(&server).await?;
    // What was written is there where its token is said.
    client
        .batch_execute(&format!("SET sheaf.consistency_token = '{token}'"))
        .await?;
    let asked =
        "SELECT external_id, value_float, observed_at, value_bool, value_text, seq FROM facts
        WHERE attribute = $1 AND value_float >= $2 AND observed_at >= $3 ORDER BY external_id";
    let statement = client.prepare(asked).await?;
    assert_eq!(
        statement.params(),
        [Type::TEXT, Type::FLOAT8, Type::TIMESTAMPTZ]
    );
    let types: Vec<_> = statement
        .columns()
        .iter()
        .map(|c| c.type_().clone())
        .collect();
    assert_eq!(
        types,
        [
            Type::TEXT,
            Type::FLOAT8,
            Type::TIMESTAMPTZ,
            Type::BOOL,
            Type::TEXT,
            Type::INT8
        ]
    );
    let since = std::time::SystemTime::UNIX_EPOCH;
    let rows = client.query(&statement, &[&"seats", &75.0, &since]).await?;
    let found: Vec<(String, f64, Option<bool>)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(3)))
        .collect();
    let wanted = |id: &str, seats: f64| (id.to_owned(), seats, None);
    assert_eq!(found, [wanted("N2", 100.0), wanted("N3", 150.0)]);
    let observed: std::time::SystemTime = rows[0].get(2);
    let since_epoch = observed.duration_since(since)?;
    assert_eq!(since_epoch, Duration::from_secs(1_357_034_400));
    // A statement is asked again with other values, and one that is null.
    let none = client
        .query(&statement, &[&"seats", &None::<f64>, &since])
        .await?;
    assert!(none.is_empty());
    // Rows come as many at a time as are wanted, within a transaction.
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind("SELECT external_id FROM entities ORDER BY 1", &[])
        .await?;
    let mut ids: Vec<String> = Vec::new();
    for wanted in [2, 1, 0] {
        let rows = transaction.query_portal(&portal, 2).await?;
        assert_eq!(rows.len(), wanted);
        ids.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    assert_eq!(ids, ["N1", "N2", "N3"]);
    transaction.commit().await?;
    // How fresh that was; and the token of an answer is one that can be asked with.
    let lag: f64 = one(&client, "SHOW sheaf.data_lag_seconds").await?.parse()?;
    assert!((0.0..300.0).contains(&lag), "{lag}");
    let further = one(&client, "SHOW sheaf.data_token").await?;
    client
        .batch_execute(&format!("SET sheaf.consistency_token = '{further}'"))
        .await?;
    assert_eq!(one(&client, "SELECT count(*) FROM facts").await?, "9");
    let refused = client
        .batch_execute(&format!("SET sheaf.consistency_token = '{foreign}'"))
        .await
        .expect_err("another tenant's");
    assert_eq!(detail(&refused), "code: foreign_token");
    // The other has the same names, and rows in the same lake.
    let other = other.connect(&server).await?;
    assert_eq!(
        one(&other, "SELECT max(value_text) FROM facts").await?,
        "hidden"
    );
    assert_eq!(
        one(
            &other,
            "SELECT count(*) FROM facts WHERE value_text = 'boeing'"
        )
        .await?,
        "0"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_states_and_codes_and_a_transaction_that_failed_stays_so() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2"], "boeing")).await?;
    let client = own.connect(&server).await?;
    client
        .batch_execute(&format!("SET sheaf.consistency_token TO '{token}'"))
        .await?;
    for (query, wanted, code) in [
        ("SELECT nothing FROM facts", "42000", "invalid_parameter"),
        ("SELECT * FROM nothing", "42000", "invalid_parameter"),
        ("SELEC 1 + 1", "42000", "invalid_parameter"),
        ("DROP TABLE facts", "42000", "invalid_parameter"),
        (
            "INSERT INTO facts SELECT * FROM facts",
            "42000",
            "invalid_parameter",
        ),
        ("COPY facts TO STDOUT", "42000", "invalid_parameter"),
        (
            "SELECT 1 / (seq * 0) FROM facts",
            "22000",
            "invalid_parameter",
        ),
        ("SELECT * FROM pg_stat_activity", "0A000", ""),
        ("SET sheaf.tenant_id = 2", "42704", ""),
        ("SHOW nothing", "42704", ""),
        ("SET client_encoding = 'LATIN1'", "22023", ""),
        (
            "SET sheaf.consistency_token = 'x'",
            "22023",
            "invalid_token",
        ),
    ] {
        let error = client.simple_query(query).await.expect_err(query);
        assert_eq!(state(&error), wanted, "{query}: {error:?}");
        assert_eq!(detail(&error).trim_start_matches("code: "), code, "{query}");
    }
    // A question by itself leaves the connection as it was, and so does a series with an error in it.
    let error = client.query("SELECT $1 FROM nothing", &[&1i64]).await;
    assert!(error.is_err());
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    client.batch_execute("BEGIN").await?;
    assert!(
        client
            .simple_query("SELECT nothing FROM facts")
            .await
            .is_err()
    );
    let error = client
        .simple_query("SELECT 1")
        .await
        .expect_err("it has failed");
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("ROLLBACK").await?;
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    // Several at once are answered one by one, up to the one that fails.
    let several = client
        .simple_query("SELECT count(*) FROM entities; ; SELECT 'a;b'; SHOW server_version")
        .await?;
    let values = several.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(values.collect::<Vec<_>>(), ["2", "a;b", "15.0"]);
    let stopped = client.simple_query("SELECT 1; SELECT nothing FROM facts; SELECT 2");
    assert!(stopped.await.is_err());
    // What is too long is read and thrown away.
    let long = format!("SELECT '{}'", "x".repeat(1 << 20));
    for _ in 0..2 {
        let error = client.simple_query(&long).await.expect_err("too long");
        assert_eq!(error.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED));
    }
    let error = client.prepare(&long).await.expect_err("too long");
    assert_eq!(error.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED));
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_and_a_key_open_their_tenant_and_nothing_else_tells_why_not() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let other = Tenant::create(&server, "globex").await?;
    let expired = r#"{"scopes":["read"],"expires_at":"2013-01-01T00:00:00Z"}"#;
    let expired = server.key("acme", expired).await;
    let mut attempts = vec![
        ("acme", other.key.clone()),
        ("globex", own.key.clone()),
        ("nobody", own.key.clone()),
        ("", own.key.clone()),
        ("acme", String::new()),
        ("acme", "shf_live_x".to_owned()),
        ("acme", format!("{}x", own.key)),
        ("acme", "x".repeat(2_000)),
    ];
    if let Ok(expired) = &expired {
        let key = expired["key"].get("key").or_else(|| expired.get("key"));
        attempts.push((
            "acme",
            key.and_then(Value::as_str).context("a key")?.to_owned(),
        ));
    }
    let admin = server.admin_key.clone();
    attempts.push(("nobody", admin.clone()));
    for (user, key) in &attempts {
        let error = connect(server.pgwire, user, key, "").await.err();
        let error = error.with_context(|| format!("{user:?} was let in"))?;
        if key.is_empty() && error.as_db_error().is_none() {
            // The driver does not send one that is not there.
            continue;
        }
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{error:?}");
        let said = error.as_db_error().map(ToString::to_string);
        let wanted = format!("FATAL: password authentication failed for user {user:?}");
        assert_eq!(said, Some(wanted));
        assert_eq!(detail(&error), "");
    }
    // An administrator's key opens the tenant that is named.
    let client = connect(server.pgwire, "globex", &admin, "").await?;
    assert_eq!(one(&client, "SELECT current_user").await?, "globex");
    // One that may only write does not read.
    let writes = server.key("acme", r#"{"scopes":["write"]}"#).await?;
    let writes = writes["key"].get("key").or_else(|| writes.get("key"));
    let writes = writes.and_then(Value::as_str).context("a key")?;
    let error = connect(server.pgwire, "acme", writes, "").await.err();
    let error = error.context("it was let in")?;
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // A key that is revoked asks nothing more, and its connection ends.
    let token = own.write(&planes(&["N1"], "boeing")).await?;
    let set = format!("-c sheaf.consistency_token={token}");
    let client = connect(server.pgwire, own.name, &own.key, &set).await?;
    assert_eq!(one(&client, "SELECT count(*) FROM facts").await?, "3");
    let path = format!("/v1/tenants/acme/keys/{}", own.key_id);
    let revoked = server.admin.request("DELETE", &path, &[], b"").await?;
    ensure!(revoked.status == 204, "{}", revoked.text());
    let error = client
        .simple_query("SELECT count(*) FROM facts")
        .await
        .err();
    let error = error.context("it was answered")?;
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{error:?}");
    wait_until("the connection ends", WITHIN, async || client.is_closed()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_when_it_is_cancelled_when_its_time_is_over_and_when_its_client_goes()
-> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2", "N3"], "boeing")).await?;
    let set = format!("-c sheaf.consistency_token={token}");
    let client = connect(server.pgwire, own.name, &own.key, &set).await?;
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "3");
    // What comes before the question cancels nothing, so it is sent again and again.
    let cancel = client.cancel_token();
    let cancelling = tokio::spawn(async move {
        loop {
            let _ = cancel.cancel_query(NoTls).await;
            tokio::task::yield_now().await;
        }
    });
    let error = client.simple_query(ENDLESS).await.expect_err("cancelled");
    cancelling.abort();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(format!("{error:?}").contains("user request"), "{error:?}");
    // A cancel may still be on its way to that connection.
    let client = connect(server.pgwire, own.name, &own.key, &set).await?;
    client
        .batch_execute("SET statement_timeout = '200ms'")
        .await?;
    let error = client.simple_query(ENDLESS).await.expect_err("its time");
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(
        format!("{error:?}").contains("statement timeout"),
        "{error:?}"
    );
    client.batch_execute("RESET statement_timeout").await?;
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "3");
    // A client that goes leaves nothing running.
    let lake = server.lake.clone().context("a lake")?;
    let (leaving, connection) = config(server.pgwire, own.name, &own.key)
        .options(&set)
        .connect(NoTls)
        .await?;
    let driver = tokio::spawn(connection);
    let asking = tokio::spawn(async move { leaving.simple_query(ENDLESS).await.is_ok() });
    wait_until("it is computed", WITHIN, async || lake.taken_bytes() > 0).await;
    driver.abort();
    asking.abort();
    wait_until("it is not any more", WITHIN, async || {
        lake.taken_bytes() == 0
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_connections_and_the_others_have_theirs() -> Result<()> {
    let server = TestServer::start_asking_within(PgWireBounds {
        connections_of_tenant_max: 2,
        idle_max: Duration::from_millis(500),
        ..PgWireBounds::default()
    })
    .await?;
    let own = Tenant::create(&server, "acme").await?;
    let other = Tenant::create(&server, "globex").await?;
    let first = own.connect(&server).await?;
    let _second = own.connect(&server).await?;
    let third = connect(server.pgwire, own.name, &own.key, "").await.err();
    let third = third.context("it was let in")?;
    assert_eq!(third.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    other.connect(&server).await?;
    // One that says nothing for too long is ended, and its place goes back.
    wait_until("it is ended", WITHIN, async || first.is_closed()).await;
    own.connect(&server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_takes_are_let_go_and_the_connection_goes_on() -> Result<()> {
    let server = TestServer::start_asking_within(PgWireBounds {
        rows_wait_max: Duration::from_millis(200),
        ..PgWireBounds::default()
    })
    .await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2"], "boeing")).await?;
    let set = format!("-c sheaf.consistency_token={token}");
    let mut client = connect(server.pgwire, own.name, &own.key, &set).await?;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT seq FROM facts", &[]).await?;
    assert_eq!(transaction.query_portal(&portal, 1).await?.len(), 1);
    let lake = server.lake.clone().context("a lake")?;
    assert!(lake.taken_bytes() > 0, "rows wait");
    wait_until("they are let go", WITHIN, async || lake.taken_bytes() == 0).await;
    let error = transaction.query_portal(&portal, 1).await.err();
    let error = error.context("there were rows")?;
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    transaction.rollback().await?;
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    Ok(())
}

/// What the server answers to bytes, until it ends the connection or says nothing for a moment.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // The server may have heard enough before all of it was said.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_millis(100), read).await;
    Ok(answer)
}

/// A startup message, and a password message behind it.
fn login_bytes(user: &str, key: &str) -> Vec<u8> {
    let body = [b"\0\x03\0\0user\0".as_slice(), user.as_bytes(), b"\0\0"].concat();
    let length = |body: &[u8]| u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    let key = [key.as_bytes(), b"\0"].concat();
    [&length(&body)[..], &body, b"p", &length(&key), &key].concat()
}

fn resident_bytes() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("resident pages")?;
    Ok(pages.parse::<usize>()? * 4_096)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_protocol_end_their_connection_alone_and_take_no_memory() -> Result<()> {
    let server = TestServer::start_asking_within(PgWireBounds {
        login_within: Duration::from_secs(2),
        ..PgWireBounds::default()
    })
    .await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2"], "boeing")).await?;
    let set = format!("-c sheaf.consistency_token={token}");
    let client = connect(server.pgwire, own.name, &own.key, &set).await?;
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    let login = login_bytes(own.name, &own.key);
    // Before the login.
    let mut hostile: Vec<Vec<u8>> = vec![
        b"\0".to_vec(),
        b"\xff\xff\xff\xff".to_vec(),
        b"\x7f\xff\xff\xff\0\x03\0\0".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"\0\0\0\x08\0\x02\0\0".to_vec(),
        b"\0\0\0\x08\0\x03\0\0".to_vec(),
        b"\0\0\0\x09\0\x03\0\0x".to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2e".to_vec(),
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x01".to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2f".repeat(10),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        b"\0\0\x20\0\0\x03\0\0"
            .iter()
            .copied()
            .chain([b'a'; 9_000])
            .collect(),
    ];
    // Cut at every byte.
    hostile.extend((1..login.len()).map(|end| login[..end].to_vec()));
    // After it.
    for message in [
        &b"Q\xff\xff\xff\xff"[..],
        b"Q\x7f\xff\xff\xff",
        b"Q\0\0\0\x03",
        b"Q\0\0\0\x05x",
        b"Q\0\0\0\x06\xff\0",
        b"P\0\0\0\x08a\0b\0",
        b"P\0\0\0\x0aa\0b\0\xff\xff",
        b"B\0\0\0\x0c\0\0\0\0\xff\xff\0\0",
        b"B\0\0\0\x10\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0",
        b"E\0\0\0\x09\0\0\0\0\0",
        b"D\0\0\0\x06Q\0",
        b"C\0\0\0\x06S\0S\0\0\0\x04",
        b"F\0\0\0\x04",
        b"p\0\0\0\x05\0",
        b"\0\0\0\0\0\0\0\0",
        b"d\0\0\0\x05xc\0\0\0\x04",
        b"S\0\0\0\x04S\0\0\0\x04X\0\0\0\x04",
        b"H\0\0\0\x04E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04",
    ] {
        hostile.push([login.as_slice(), message].concat());
    }
    // Arbitrary ones, the same in each run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200 {
        let mut bytes = if round % 2 == 0 {
            login.clone()
        } else {
            Vec::new()
        };
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        hostile.push(bytes);
    }
    let count = hostile.len();
    for chunk in hostile.chunks(32) {
        let answers = chunk.iter().map(|bytes| answer_to(server.pgwire, bytes));
        futures::future::try_join_all(answers).await?;
    }
    // One that has logged in is told before it is ended.
    let told = answer_to(server.pgwire, &[login.as_slice(), b"F\0\0\0\x04"].concat()).await?;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("C08P01"), "{told:?}");
    // Many that claim much and say nothing take their place and no memory, and are gone when their time is over.
    let before = resident_bytes()?;
    let mut waiting = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(server.pgwire).await?;
        stream.write_all(b"\0\0\x27\x00\0\x03\0\0user\0").await?;
        waiting.push(stream);
    }
    let after = resident_bytes()?;
    assert!(after.saturating_sub(before) < 64 << 20, "{before} {after}");
    for mut stream in waiting {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(WITHIN, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a connection that says nothing stays");
    }
    // Who was there before is still, and so is everybody else.
    assert_eq!(one(&client, "SELECT count(*) FROM entities").await?, "2");
    let late = own.connect(&server).await?;
    assert_eq!(one(&late, "SELECT current_user").await?, "acme");
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("injected hostile connections: {count}");
    }
    Ok(())
}

/// A message of a kind.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[kind][..], &length, body].concat()
}

/// What comes up to some bytes, or up to the end.
async fn read_until(stream: &mut TcpStream, wanted: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(wanted.len()).any(|some| some == wanted) {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        anyhow::Ok(())
    };
    let came = tokio::time::timeout(WITHIN, read).await;
    came.with_context(|| format!("it never came: {:?}", String::from_utf8_lossy(&answer)))??;
    Ok(answer)
}

/// A connection that is logged in, for messages that no driver sends.
async fn logged_in(server: &TestServer, own: &Tenant) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server.pgwire).await?;
    stream.write_all(&login_bytes(own.name, &own.key)).await?;
    let answer = read_until(&mut stream, b"Z\0\0\0\x05I").await?;
    ensure!(answer.ends_with(b"I"), "no login: {answer:?}");
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_has_begun_ends_with_its_time() -> Result<()> {
    let server = TestServer::start_asking_within(PgWireBounds {
        login_within: Duration::from_secs(1),
        ..PgWireBounds::default()
    })
    .await?;
    let own = Tenant::create(&server, "acme").await?;
    let mut login = login_bytes(own.name, &own.key);
    // All but the last letter of the key, and what ends it.
    login.truncate(login.len() - 2);
    let begun = std::time::Instant::now();
    let mut stream = TcpStream::connect(server.pgwire).await?;
    stream.write_all(&login).await?;
    read_until(&mut stream, b"never said").await?;
    // A message has half a minute, once somebody is logged in.
    assert!(begun.elapsed() < Duration::from_secs(25));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_within_a_series_is_told_at_once_and_the_rest_is_left_out() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let mut stream = logged_in(&server, &own).await?;
    let flush = message(b'H', b"");
    let bind = message(b'B', b"\0nothing\0\0\0\0\0\0\0");
    stream.write_all(&[bind, flush.clone()].concat()).await?;
    let answer = read_until(&mut stream, b"C26000").await?;
    assert_eq!(answer.first(), Some(&b'E'));
    // Nothing of what follows is done before the series ends.
    let rest = [message(b'Q', b"SELECT 1\0"), flush, message(b'S', b"")].concat();
    stream.write_all(&rest).await?;
    let answer = read_until(&mut stream, b"Z\0\0\0\x05I").await?;
    assert!(
        !answer.windows(6).any(|some| some == b"SELECT"),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_portal_count_as_they_are_kept_and_not_as_they_came() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let mut stream = logged_in(&server, &own).await?;
    // A one and 1,800 zeros, as ten bytes.
    let number = [&[0, 0, 0, 10][..], &[0, 1, 1, 0xc2, 0, 0, 0, 0, 0, 1]].concat();
    let count = 4_000u16.to_be_bytes();
    let types = 1_700u32.to_be_bytes().repeat(4_000);
    let parse = [&b"s\0SELECT 1\0"[..], &count, &types].concat();
    let bind = [
        &b"p\0s\0\0\x01\0\x01"[..],
        &count,
        &number.repeat(4_000),
        b"\0\0",
    ]
    .concat();
    let series = [
        message(b'P', &parse),
        message(b'B', &bind),
        message(b'S', b""),
    ]
    .concat();
    stream.write_all(&series).await?;
    let answer = read_until(&mut stream, b"Z\0\0\0\x05I").await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("C54000"), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_has_failed_gives_no_more_rows_and_takes_back_what_it_has_set()
-> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2"], "boeing")).await?;
    let set = format!("-c sheaf.consistency_token={token}");
    let mut client = connect(server.pgwire, own.name, &own.key, &set).await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET application_name = 'within'")
        .await?;
    let portal = transaction.bind("SELECT seq FROM facts", &[]).await?;
    assert_eq!(transaction.query_portal(&portal, 1).await?.len(), 1);
    let refused = transaction.batch_execute("SELECT nothing FROM facts").await;
    assert!(refused.is_err());
    let error = transaction.query_portal(&portal, 1).await.err();
    let error = error.context("it had more rows")?;
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    transaction.rollback().await?;
    assert_eq!(one(&client, "SHOW application_name").await?, "");
    client
        .batch_execute("BEGIN; SET application_name = 'after'; COMMIT")
        .await?;
    assert_eq!(one(&client, "SHOW application_name").await?, "after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_holds_no_connection_that_asks_the_lake_nothing() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let client = own.connect(&server).await?;
    assert_eq!(one(&client, "SELECT 1").await?, "1");
    let path = format!("/v1/tenants/acme/keys/{}", own.key_id);
    let revoked = server.admin.request("DELETE", &path, &[], b"").await?;
    ensure!(revoked.status == 204, "{}", revoked.text());
    // A key is believed for some seconds.
    wait_until("the connection ends", WITHIN, async || {
        client.simple_query("SELECT 1").await.is_err()
    })
    .await;
    assert!(own.connect(&server).await.is_err());
    wait_until("it is closed", WITHIN, async || client.is_closed()).await;
    Ok(())
}

async fn psql(server: &TestServer, own: &Tenant, commands: &[&str]) -> Result<Output> {
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--host"])
        .arg(server.pgwire.ip().to_string())
        .arg(format!("--port={}", server.pgwire.port()))
        .arg(format!("--username={}", own.name))
        .arg("--dbname=whatever")
        .env("PGPASSWORD", &own.key)
        .env("PGCONNECT_TIMEOUT", "60");
    for command in commands {
        psql.args(["--command", command]);
    }
    psql.output().await.context("running psql")
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_asks_and_describes() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let own = Tenant::create(&server, "acme").await?;
    let token = own.write(&planes(&["N1", "N2"], "boeing")).await?;
    let token = format!("SET sheaf.consistency_token = '{token}'");
    let found = psql(
        &server,
        &own,
        &[
            &token,
            "SELECT external_id, value_float, observed_at FROM facts WHERE attribute = 'seats' ORDER BY 1",
            "BEGIN; SELECT count(*) FROM entities; COMMIT",
            "SELECT version()",
            r"\d",
            r"\d facts",
            r"\d facts_hourly",
            r"\d current.plane",
            r"\dn",
            r"\di",
            r"\conninfo",
        ],
    )
    .await?;
    let out = String::from_utf8_lossy(&found.stdout).into_owned();
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(found.status.success(), "{out}\n{said}");
    for line in [
        "N1|50|2013-01-01 10:00:00+00",
        "N2|100|2013-01-01 10:00:00+00",
        "2",
        "public|facts|table|acme",
        "public|facts_hourly|table|acme",
        "current|plane|table|acme",
        "hour|timestamp with time zone|||",
        "seats|double precision|||",
        "observed_at|timestamp with time zone|||",
        "value_float|double precision|||",
    ] {
        let is_there = out.lines().any(|found| found == line);
        assert!(is_there, "{line} is missing in\n{out}\n{said}");
    }
    let refused = psql(&server, &own, &["SELECT * FROM nothing"]).await?;
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("code: invalid_parameter"), "{said}");
    Ok(())
}
