//! Who may write when: rates, requests at once, memory for bodies, and how fast a body must come.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_ingest::{Rates, TenantRates};
use sheaf_model::Limits;
use sheaf_server::{BodyPace, Bounds};
use sheaf_testkit::{HttpClient, HttpResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{JSON, TestServer, expect, problem, send};

const ROOM: usize = 1 << 30;

/// The tenant `bound` has these rates, and all others none.
fn bound(rates: TenantRates) -> Rates {
    Rates {
        default: TenantRates::default(),
        by_tenant: BTreeMap::from([("bound".to_owned(), rates)]),
    }
}

/// A way in: method, path, content type and body.
type Way = (&'static str, &'static str, &'static str, &'static str);

const WRITES: [Way; 6] = [
    (
        "POST",
        "/v1/ingest",
        JSON,
        r#"[{"type":"t","id":"a","attributes":{"n":1}}]"#,
    ),
    ("POST", "/write", "text/plain", "t,id=a n=1"),
    ("POST", "/api/v2/write", "text/plain", "t,id=a n=1"),
    (
        "PATCH",
        "/v1/entities/t/a",
        JSON,
        r#"{"attributes":{"n":1}}"#,
    ),
    ("PUT", "/v1/entities/t/a", JSON, r#"{"attributes":{"n":1}}"#),
    ("DELETE", "/v1/entities/t/a", JSON, ""),
];

async fn write(client: &HttpClient, (method, path, kind, body): Way) -> Result<HttpResponse> {
    client
        .request(method, path, &[("content-type", kind)], body.as_bytes())
        .await
}

/// Says when to come again, in the form of the route.
fn ensure_throttled(response: &HttpResponse, path: &str) -> Result<()> {
    ensure!(
        response.status == 429,
        "{path}: {} {}",
        response.status,
        response.text()
    );
    let seconds = response
        .header("retry-after")
        .context("a time")?
        .parse::<u32>()?;
    ensure!((1..100).contains(&seconds), "{path}: {seconds}");
    match path {
        "/write" => {
            let error = expect(response, 429)?["error"].to_string();
            ensure!(error.contains("too many requests: "), "{error}");
        }
        "/api/v2/write" => ensure!(expect(response, 429)?["code"] == "too many requests"),
        _ => ensure!(problem(response, 429)? == "rate_limited"),
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_past_its_values_or_bytes_is_told_when_to_come_on_every_way_in() -> Result<()> {
    let values = TenantRates {
        values_per_second: NonZeroU64::new(1),
        ..TenantRates::default()
    };
    let bytes = TenantRates {
        bytes_per_second: NonZeroU64::new(20),
        ..TenantRates::default()
    };
    for (reason, rates, first) in [
        (
            "values",
            values,
            r#"[{"type":"t","id":"b","attributes":{"k":1,"l":2,"m":3,"n":4,"o":5,"p":6,"q":7,"r":8,"s":9}}]"#,
        ),
        (
            "bytes",
            bytes,
            r#"[{"type":"t","id":"b","attributes":{"n":1,"text":"some forty bytes, and then some forty bytes"}}]"#,
        ),
    ] {
        let server = TestServer::start_admitting(bound(rates), ROOM).await?;
        let (tenant, other) = (server.tenant("bound").await?, server.tenant("other").await?);
        // What comes first is stored whole, though it is more than a second's worth.
        expect(
            &tenant.post("/v1/ingest", JSON, first.as_bytes()).await?,
            200,
        )?;
        for way in WRITES {
            ensure_throttled(&write(&tenant, way).await?, way.1).context(reason)?;
            let status = write(&other, way).await?.status;
            ensure!(status / 100 == 2, "{way:?}: {status}");
        }
        // Reads and what declares something are no writes of values.
        expect(&tenant.get("/v1/entities/t/b").await?, 200)?;
        ensure!(problem(&tenant.get("/v1/entities/t/a").await?, 404)? == "not_found");
        let line = format!("sheaf_throttled_requests_total{{reason=\"{reason}\"}} ");
        let metrics = server.admin.get("/metrics").await?.text();
        ensure!(metrics.contains(&line), "no {line}");
    }
    Ok(())
}

/// A request whose body is still awaited, so that it goes on.
async fn unfinished(server: &TestServer, key: &str, length: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&server.authority).await?;
    let head = format!(
        "POST /v1/ingest HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // It is asked for once the request has been admitted and is being read.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await?;
    ensure!(asked.starts_with(b"HTTP/1.1 100"), "{asked:?}");
    Ok(stream)
}

async fn write_key(server: &TestServer, tenant: &str) -> Result<String> {
    let key = server.key(tenant, r#"{"scopes":["write"]}"#).await?;
    Ok(key["key"].as_str().context("a key")?.to_owned())
}

#[tokio::test]
async fn requests_at_once_are_bounded_tenant_by_tenant_and_given_back() -> Result<()> {
    let rates = TenantRates {
        requests_concurrent: NonZeroU32::new(2).context("a positive number")?,
        ..TenantRates::default()
    };
    let server = TestServer::start_admitting(bound(rates), ROOM).await?;
    let (tenant, other) = (server.tenant("bound").await?, server.tenant("other").await?);
    let key = write_key(&server, "bound").await?;
    let mut first = unfinished(&server, &key, 2).await?;
    let second = unfinished(&server, &key, 2).await?;
    for way in WRITES {
        ensure_throttled(&write(&tenant, way).await?, way.1)?;
        ensure!(write(&other, way).await?.status / 100 == 2);
    }
    first.write_all(b"[]").await?;
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    ensure!(
        write(&tenant, WRITES[0]).await?.status == 200,
        "the end of one makes room"
    );
    drop(second);
    // The server sees the hang-up a moment later.
    let key_again = key.clone();
    let third = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let one = unfinished(&server, &key_again, 2).await;
            let two = unfinished(&server, &key_again, 2).await;
            if let (Ok(one), Ok(two)) = (one, two) {
                return (one, two);
            }
        }
    });
    third
        .await
        .context("what a client that went away held is not given back")?;
    Ok(())
}

#[tokio::test]
async fn bodies_take_no_more_memory_than_there_is_and_one_tenants_no_more_than_half() -> Result<()>
{
    let server = TestServer::start_admitting(Rates::default(), 100_000).await?;
    let (acme, other) = (server.tenant("acme").await?, server.tenant("other").await?);
    let large = format!(
        r#"[{{"type":"t","id":"a","attributes":{{"n":"{}"}}}}]"#,
        "x".repeat(60_000)
    );
    let refused = acme.post("/v1/ingest", JSON, large.as_bytes()).await?;
    ensure!(problem(&refused, 429)? == "rate_limited" && refused.header("retry-after").is_some());
    // Half of it each, which leaves nothing for a third.
    let (mut held, body) = (Vec::new(), vec![b' '; 49_000]);
    for tenant in ["acme", "other"] {
        let key = write_key(&server, tenant).await?;
        let mut stream = unfinished(&server, &key, 49_990).await?;
        stream.write_all(&body).await?;
        held.push(stream);
    }
    let third = server.tenant("third").await?;
    let middling = vec![b' '; 2_000];
    for (client, status, code) in [
        (&acme, 429, "rate_limited"),
        (&other, 429, "rate_limited"),
        (&third, 503, "overloaded"),
    ] {
        let refused = client.post("/v1/ingest", JSON, &middling).await?;
        ensure!(problem(&refused, status)? == code && refused.header("retry-after").is_some());
    }
    for mut stream in held {
        stream.write_all(&vec![b' '; 990]).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 400"),
            "nothing but spaces is no JSON: {answer:?}"
        );
    }
    ensure!(problem(&third.post("/v1/ingest", JSON, &middling).await?, 400)? == "malformed_json");
    Ok(())
}

/// What is answered to a body that comes a byte at a time, this long apart, on a connection that is then closed.
async fn trickled(server: &TestServer, head: &str, apart: Duration) -> Result<String> {
    let mut stream = TcpStream::connect(&server.authority).await?;
    stream.write_all(head.as_bytes()).await?;
    let (mut read, mut write) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(apart).await;
        }
    });
    let mut answer = String::new();
    let ended =
        tokio::time::timeout(Duration::from_secs(20), read.read_to_string(&mut answer)).await;
    trickle.abort();
    ended.context("the connection goes on")??;
    Ok(answer)
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_cut_off_on_every_route_and_one_in_time_is_not()
-> Result<()> {
    let bounds = Bounds {
        body_pace: BodyPace {
            bytes_min: 1_000,
            within: Duration::from_millis(400),
        },
        ..Bounds::default()
    };
    let server = TestServer::start_with(bounds, Limits::DEFAULT).await?;
    let acme = server.tenant("acme").await?;
    let key = write_key(&server, "acme").await?;
    for (method, path, kind) in [
        ("POST", "/v1/ingest", JSON),
        ("POST", "/write", "text/plain"),
        ("PATCH", "/v1/entities/t/a", JSON),
        ("POST", "/v1/attributes", JSON),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n\
             content-length: 100000\r\n\r\n"
        );
        let answer = trickled(&server, &head, Duration::from_millis(20)).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"),
            "{path}: {answer}"
        );
        ensure!(answer.contains("too slowly"), "{path}: {answer}");
    }
    // A body of any size that comes within its time, in pieces.
    let mut stream = unfinished(&server, &key, 4_001).await?;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(&[b' '; 1_000]).await?;
    }
    stream.write_all(b" ").await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 400"),
        "read to its end: {answer:?}"
    );
    ensure!(
        send(
            &acme,
            "PATCH",
            "/v1/entities/t/a",
            r#"{"attributes":{"n":1}}"#
        )
        .await?
        .status
            == 201
    );
    Ok(())
}

#[tokio::test]
async fn a_connection_past_the_most_is_served_once_another_ends() -> Result<()> {
    let router = axum::Router::new().route("/", axum::routing::get(async || "here"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(sheaf_server::serve(listener, router, 2, async {
        let _ = stopped.await;
    }));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await?;
        streams.push(stream);
    }
    let mut third = streams.pop().context("three")?;
    for stream in &mut streams {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    let mut answer = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(200), third.read(&mut answer)).await;
    ensure!(early.is_err(), "it is served beside two others");
    drop(streams.pop());
    tokio::time::timeout(Duration::from_secs(20), third.read_exact(&mut answer)).await??;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    let _ = stop.send(());
    served.await?;
    Ok(())
}

#[tokio::test]
async fn a_request_that_says_twice_where_it_ends_is_the_last_on_its_connection() -> Result<()> {
    let server = TestServer::start().await?;
    server.tenant("acme").await?;
    let key = write_key(&server, "acme").await?;
    for lengths in [
        "content-length: 7\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 7",
    ] {
        let requests = format!(
            "POST /v1/ingest HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             {lengths}\r\n\r\n2\r\n[]\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        );
        let mut stream = TcpStream::connect(&server.authority).await?;
        stream.write_all(requests.as_bytes()).await?;
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await?;
        // Its chunks are its body, and whatever another reader took for the next request is none.
        ensure!(
            answers.starts_with("HTTP/1.1 200") && answers.contains("connection: close"),
            "{lengths}: {answers}"
        );
        ensure!(
            answers.matches("HTTP/1.1 ").count() == 1,
            "{lengths}: {answers}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_document_says_where_a_request_may_have_to_come_again() -> Result<()> {
    let server = TestServer::start().await?;
    let document = expect(&server.anonymous.get("/openapi.json").await?, 200)?;
    for (method, path, ..) in WRITES {
        let path = path.replace("/t/a", "/{type}/{id}");
        for status in ["429", "503"] {
            let response = &document["paths"][&path][method.to_lowercase()]["responses"][status];
            ensure!(
                response["headers"]["Retry-After"].is_object(),
                "{method} {path}: {response}"
            );
            ensure!(
                response["content"].is_object(),
                "{method} {path}: {response}"
            );
        }
    }
    ensure!(document["paths"]["/healthz"]["get"]["responses"]["429"].is_null());
    Ok(())
}
