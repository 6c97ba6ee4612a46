//! Streams of lists and histories: everything once, in the form that was asked for, and nothing left behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_testkit::{HttpClient, Injected, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem};

const WITHIN: Duration = Duration::from_secs(30);
const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

async fn filled(
    server: &TestServer,
    entities: usize,
    filler: usize,
) -> Result<(HttpClient, String)> {
    server.tenant("acme").await?;
    let key = server.key("acme", r#"{"scopes":["read","write"]}"#).await?;
    let key = key["key"].as_str().context("a key")?.to_owned();
    let acme = server.anonymous.with_key(&key);
    for (name, kind) in [("n", "int"), ("price", "decimal")] {
        let body = json!({"name": name, "type": kind}).to_string();
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
    }
    let mut body = String::new();
    for number in 0..entities {
        let event = json!({"type": "thing", "id": format!("t{number:05}"), "observed_at": "2013-01-01T00:00:00Z",
            "attributes": {"n": -i64::try_from(number)?, "price": "12.50", "text": format!("={number}"), "type": "x".repeat(filler)}});
        body += &format!("{event}\n");
    }
    expect(
        &acme.post("/v1/ingest", NDJSON, body.as_bytes()).await?,
        200,
    )?;
    Ok((acme, key))
}

async fn streamed(client: &HttpClient, path: &str, form: &str) -> Result<Vec<u8>> {
    let answer = client
        .request("GET", path, &[("accept", form)], b"")
        .await?;
    ensure!(answer.status == 200, "{path} as {form}: {}", answer.text());
    is_fresh_read(&answer)?;
    let kind = answer.header("content-type").context("a type")?;
    ensure!(kind.starts_with(form), "{kind}");
    Ok(answer.body)
}

async fn lines(client: &HttpClient, path: &str) -> Result<Vec<Value>> {
    let body = String::from_utf8(streamed(client, path, NDJSON).await?)?;
    let lines = body.lines().map(serde_json::from_str);
    Ok(lines.collect::<serde_json::Result<_>>()?)
}

#[tokio::test]
async fn a_stream_holds_what_the_pages_hold_once_and_in_order() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, _) = filled(&server, 1_203, 10).await?;
    let all = lines(&acme, "/v1/entities?type=thing&sort=n").await?;
    let ids: Vec<&str> = all.iter().filter_map(|line| line["id"].as_str()).collect();
    let expected: Vec<String> = (0..1_203)
        .rev()
        .map(|number| format!("t{number:05}"))
        .collect();
    ensure!(ids == expected, "{} lines", ids.len());
    let page = expect(
        &acme.get("/v1/entities?type=thing&sort=n&limit=7").await?,
        200,
    )?;
    let items = page["items"].as_array().context("items")?;
    ensure!(items.as_slice() == &all[..7], "a line is an item of a page");
    ensure!(lines(&acme, "/v1/entities?limit=1001").await?.len() == 1_001);
    ensure!(
        lines(&acme, "/v1/entities?filter=n%20%3E%200")
            .await?
            .is_empty()
    );
    let body = r#"{"filter":"n > -3","select":["n"]}"#;
    let headers = [("accept", NDJSON), ("content-type", JSON)];
    let found = acme
        .request("POST", "/v1/entities/search", &headers, body.as_bytes())
        .await?;
    ensure!(
        found.status == 200 && found.text().lines().count() == 3,
        "{}",
        found.text()
    );
    Ok(())
}

#[tokio::test]
async fn csv_has_typed_columns_and_no_formula_and_arrow_is_whole() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, _) = filled(&server, 3, 1).await?;
    let csv = String::from_utf8(streamed(&acme, "/v1/entities", CSV).await?)?;
    let rows: Vec<&str> = csv.split("\r\n").collect();
    ensure!(
        rows[0] == "type,id,observed_at,updated_at,version,n,price,text,attributes.type",
        "{csv}"
    );
    ensure!(
        rows[2].starts_with("thing,t00001,2013-01-01T00:00:00Z,")
            && rows[2].ends_with(",1,-1,12.50,'=1,x"),
        "{csv}"
    );
    ensure!(rows.len() == 5 && rows[4].is_empty(), "{csv}");
    let some =
        String::from_utf8(streamed(&acme, "/v1/entities?select=text,n&sort=-n", CSV).await?)?;
    ensure!(
        some.starts_with("type,id,observed_at,updated_at,version,text,n\r\nthing,t00000,"),
        "{some}"
    );
    let path = "/v1/entities/thing/t00001/history";
    let history =
        String::from_utf8(streamed(&acme, &format!("{path}?attribute=n,text"), CSV).await?)?;
    ensure!(history.starts_with("type,id,observed_at,ingested_at,replaced,deleted,n,text\r\nthing,t00001,2013-01-01T00:00:00Z,"), "{history}");
    ensure!(history.ends_with(",false,false,-1,'=1\r\n"), "{history}");
    let buckets = streamed(
        &acme,
        &format!("{path}?attribute=n&bucket=1d&agg=sum,count"),
        CSV,
    )
    .await?;
    ensure!(
        String::from_utf8(buckets)?
            == "type,id,from,to,n.sum,n.count\r\nthing,t00001,2013-01-01T00:00:00Z,2013-01-02T00:00:00Z,-1,1\r\n"
    );
    for path in [
        "/v1/entities",
        path,
        &format!("{path}?attribute=n&bucket=1d&agg=sum,avg,last"),
    ] {
        let arrow = streamed(&acme, path, ARROW).await?;
        ensure!(
            arrow.starts_with(&[255; 4]) && arrow.ends_with(&[255, 255, 255, 255, 0, 0, 0, 0]),
            "{path}"
        );
    }
    let body = r#"{"attribute":["n"],"from":"2013-01-01T00:00:00Z","group":"all","bucket":"1d","agg":["sum"]}"#;
    let headers = [("accept", CSV), ("content-type", JSON)];
    let all = acme
        .request("POST", "/v1/history/query", &headers, body.as_bytes())
        .await?;
    ensure!(
        all.text() == "from,to,n.sum\r\n2013-01-01T00:00:00Z,2013-01-02T00:00:00Z,-3\r\n",
        "{}",
        all.text()
    );
    Ok(())
}

#[tokio::test]
async fn what_a_stream_cannot_hold_is_refused_before_it_begins() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, _) = filled(&server, 1, 1).await?;
    for (path, accept, status, code) in [
        ("/v1/entities?count=exact", NDJSON, 400, "invalid_parameter"),
        ("/v1/entities?facets=n", CSV, 400, "invalid_parameter"),
        ("/v1/entities?limit=0", CSV, 400, "invalid_parameter"),
        ("/v1/entities?select=seatz", CSV, 400, "unknown_attribute"),
        ("/v1/entities?filter=n%20%3E", ARROW, 400, "invalid_filter"),
        (
            "/v1/entities/thing/nobody/history",
            NDJSON,
            404,
            "not_found",
        ),
        (
            "/v1/entities/thing/t00000/history?bucket=1d",
            CSV,
            400,
            "invalid_parameter",
        ),
        ("/v1/entities", "text/html", 406, "not_acceptable"),
    ] {
        let answer = acme
            .request("GET", path, &[("accept", accept)], b"")
            .await?;
        ensure!(
            problem(&answer, status)? == code,
            "{path}: {}",
            answer.text()
        );
    }
    Ok(())
}

/// A stream that was begun by someone who reads slowly: the server cannot send much ahead.
async fn begun(server: &TestServer, key: &str) -> Result<(u16, TcpStream)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(8 << 10)?;
    let mut stream = socket.connect(server.authority.parse()?).await?;
    let request = format!(
        "GET /v1/entities HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\nAccept: {NDJSON}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 1_024];
    let read = stream.read(&mut head).await?;
    let text = String::from_utf8_lossy(&head[..read]).into_owned();
    let status = text.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, stream))
}

#[tokio::test]
async fn a_tenant_has_so_many_streams_and_who_leaves_makes_room() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, key) = filled(&server, 4_000, 2_000).await?;
    let injected = Injected::new("clients that leave in the middle of a stream");
    for _ in 0..2 {
        let mut running = Vec::new();
        for _ in 0..4 {
            let (status, stream) = begun(&server, &key).await?;
            ensure!(status == 200, "{status}");
            running.push(stream);
        }
        let refused = acme
            .request("GET", "/v1/entities", &[("accept", CSV)], b"")
            .await?;
        ensure!(
            problem(&refused, 429)? == "rate_limited",
            "{}",
            refused.text()
        );
        ensure!(
            refused.header("retry-after").is_some(),
            "{:?}",
            refused.headers
        );
        // A page is no stream.
        expect(&acme.get("/v1/entities?limit=1").await?, 200)?;
        running.iter().for_each(|_| injected.count());
        drop(running);
        let headers = [("accept", CSV)];
        wait_until("the places are free again", WITHIN, async || {
            let answer = acme
                .request("GET", "/v1/entities?limit=1", &headers, b"")
                .await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
    injected.require();
    Ok(())
}

#[tokio::test]
async fn nothing_runs_for_a_client_that_has_left_and_an_error_in_the_middle_is_seen() -> Result<()>
{
    let server = TestServer::start().await?;
    let (_, key) = filled(&server, 8_000, 2_000).await?;
    let superuser = server.database.superuser().await?;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sheaf_search' AND wait_event_type = 'Lock'";
    let is_waiting = async |wanted: bool| {
        let row = superuser.query_one(waiting, &[]).await;
        row.is_ok_and(|row| (row.get::<_, i64>(0) > 0) == wanted)
    };
    let injected =
        Injected::new("clients that leave, and connections that end, while a page is read");
    for is_left in [true, false] {
        let (status, mut stream) = begun(&server, &key).await?;
        ensure!(status == 200, "{status}");
        superuser
            .batch_execute("BEGIN; LOCK TABLE sheaf.entities")
            .await?;
        // Reads on, until the next page is asked for and waits.
        let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        let reading = async {
            loop {
                let got = stream.read(&mut buffer).await?;
                if got == 0 {
                    return anyhow::Ok(());
                }
                read.extend_from_slice(&buffer[..got]);
            }
        };
        let waits = wait_until("the next page waits", WITHIN, async || {
            is_waiting(true).await
        });
        tokio::select! {
            ended = reading => ensure!(ended.is_err(), "the stream ended before the table was locked"),
            () = waits => {}
        }
        injected.count();
        if is_left {
            drop(stream);
            wait_until("its query is cancelled", WITHIN, async || {
                is_waiting(false).await
            })
            .await;
        } else {
            superuser
                .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sheaf_search' AND wait_event_type = 'Lock'")
                .await?;
            // The rest of what was sent, and then an end that is none.
            let _ = stream.read_to_end(&mut read).await;
            ensure!(!read.ends_with(b"0\r\n\r\n"), "an error looks like the end");
            ensure!(read.len() < 8_000 * 2_000, "{} bytes", read.len());
        }
        superuser.batch_execute("ROLLBACK").await?;
    }
    injected.require();
    Ok(())
}
