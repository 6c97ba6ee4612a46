//! The server itself: alive, ready, measured, documented; and errors that no handler makes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CONNECTIONS_MAX, TestServer, expect, problem, send};

#[tokio::test]
async fn the_server_says_how_it_is_without_a_key() -> Result<()> {
    let server = TestServer::start().await?;
    let health = server.anonymous.get("/healthz").await?;
    ensure!(expect(&health, 200)?["status"] == "ok" && health.header("x-request-id").is_some());
    let ready = expect(&server.anonymous.get("/readyz").await?, 200)?;
    ensure!(
        ready["status"] == "ready"
            && ready["checks"][0]["name"] == "primary"
            && ready["checks"][0]["status"] == "ok",
        "{ready}"
    );
    for method in ["GET", "HEAD"] {
        let ping = server.anonymous.request(method, "/ping", &[], b"").await?;
        ensure!(
            ping.status == 204 && ping.header("x-influxdb-version") == Some("1.8.10"),
            "{ping:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn metrics_are_for_administrators_and_count_requests_by_route() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    acme.get("/v1/entities/plane/N14228").await?;
    ensure!(problem(&acme.get("/metrics").await?, 403)? == "forbidden");
    let metrics = server.admin.get("/metrics").await?;
    ensure!(
        metrics.status == 200
            && metrics
                .header("content-type")
                .is_some_and(|kind| kind.starts_with("text/plain"))
    );
    let text = metrics.text();
    let line = "sheaf_http_requests_total{route=\"/v1/entities/{type}/{id}\",method=\"GET\",status=\"404\"}";
    ensure!(text.contains(line), "no {line} in {text}");
    ensure!(
        text.contains("sheaf_http_request_duration_seconds") && !text.contains("N14228"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn the_document_lists_every_route_of_the_interface() -> Result<()> {
    let server = TestServer::start().await?;
    let document = expect(&server.anonymous.get("/openapi.json").await?, 200)?;
    ensure!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1")),
        "{}",
        document["openapi"]
    );
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for method in item.as_object().context("operations")?.keys() {
            operations.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expected = "GET /healthz|GET /readyz|GET /metrics|GET /ping|GET /query|POST /query|GET /docs|GET /docs/assets/{file}\
        |GET /docs/errors/{code}|GET /openapi.json|POST /v1/tenants|GET /v1/tenants|PATCH /v1/tenants/{name}\
        |POST /v1/tenants/{name}/keys|GET /v1/tenants/{name}/keys|DELETE /v1/tenants/{name}/keys/{key_id}\
        |POST /v1/attributes|GET /v1/attributes|GET /v1/attributes/{name}|PATCH /v1/attributes/{name}\
        |GET /v1/entities|POST /v1/entities/search|GET /v1/entities/{type}/{id}|PATCH /v1/entities/{type}/{id}\
        |PUT /v1/entities/{type}/{id}|DELETE /v1/entities/{type}/{id}|GET /v1/entities/{type}/{id}/history|POST /v1/history/query|GET /v1/changes|POST /v1/sql\
        |POST /v1/ingest|GET /v1/ingest/batches/{id}|GET /v1/rejections|POST /v1/rejections/replay\
        |GET /v1/dead-letters|GET /v1/dead-letters/{id}|POST /v1/dead-letters/replay|POST /v1/dead-letters/discard\
        |POST /write|POST /api/v2/write";
    let expected: BTreeSet<String> = expected.split('|').map(str::to_owned).collect();
    ensure!(
        operations == expected,
        "{:?}",
        operations.symmetric_difference(&expected)
    );
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text
        .split("\"#/components/schemas/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        ensure!(
            document["components"]["schemas"].get(reference).is_some(),
            "{reference} is not in the document"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_page_to_try_it_comes_whole_from_this_server() -> Result<()> {
    let server = TestServer::start().await?;
    let page = server.anonymous.get("/docs").await?;
    ensure!(
        page.status == 200
            && page
                .header("content-type")
                .is_some_and(|kind| kind.starts_with("text/html"))
    );
    ensure!(
        page.header("content-security-policy")
            .is_some_and(|policy| policy.contains("default-src 'self'"))
    );
    let text = page.text();
    ensure!(
        !text.contains("http:") && !text.contains("https:"),
        "{text}"
    );
    for reference in text.split(['"']).filter(|part| part.starts_with("/docs/")) {
        let asset = server.anonymous.get(reference).await?;
        ensure!(
            asset.status == 200 && !asset.body.is_empty(),
            "{reference}: {}",
            asset.status
        );
    }
    ensure!(problem(&server.anonymous.get("/docs/assets/nothing").await?, 404)? == "not_found");
    let explained = server
        .anonymous
        .get("/docs/errors/unknown_attribute")
        .await?;
    ensure!(explained.status == 200 && explained.text().contains("unknown_attribute"));
    ensure!(problem(&server.anonymous.get("/docs/errors/nothing").await?, 404)? == "not_found");
    Ok(())
}

#[tokio::test]
async fn errors_that_no_handler_makes_are_problems_too() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    ensure!(problem(&server.anonymous.get("/nowhere").await?, 404)? == "not_found");
    let response = send(&acme, "DELETE", "/v1/attributes", "").await?;
    ensure!(problem(&response, 405)? == "method_not_allowed");
    ensure!(
        response
            .header("allow")
            .is_some_and(|allow| allow.contains("GET") && allow.contains("POST")),
        "{:?}",
        response.headers
    );
    let long = acme
        .get(&format!("/v1/entities?filter={}", "x".repeat(61 * 1024)))
        .await?;
    ensure!(problem(&long, 414)? == "uri_too_long");
    let wide = acme
        .request(
            "GET",
            "/v1/attributes",
            &[("x-wide", &"x".repeat(40 * 1024))],
            b"",
        )
        .await?;
    ensure!(problem(&wide, 431)? == "headers_too_large");
    let unserved = acme
        .request("GET", "/v1/entities", &[("accept", "text/html")], b"")
        .await?;
    ensure!(problem(&unserved, 406)? == "not_acceptable");
    ensure!(problem(&acme.get("/v1/entities/plane/%FF").await?, 400)? == "invalid_parameter");
    Ok(())
}

#[tokio::test]
async fn a_body_is_not_read_before_the_key_is_checked() -> Result<()> {
    let server = TestServer::start().await?;
    let mut stream = tokio::net::TcpStream::connect(&server.authority).await?;
    let head = format!(
        "POST /v1/ingest HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 50000000\r\nexpect: 100-continue\r\n\r\n",
        server.authority
    );
    stream.write_all(head.as_bytes()).await?;
    // It is not asked for after all, and the client is told that nothing more is read.
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 401") && answer.contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    Ok(())
}

/// Refused before their bodies are read: for the key, for what the body is, and for its length.
fn refused_requests(authority: &str, key: &str, length: usize) -> [(u16, String); 4] {
    let head = |key: &str, headers: &str| {
        format!(
            "POST /v1/ingest HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\n\
             content-length: {length}\r\ncontent-type: {headers}\r\n\r\n"
        )
    };
    [
        (401, head("shf_x", "application/json")),
        (415, head(key, "text/plain")),
        (415, head(key, "application/json\r\ncontent-encoding: br")),
        (413, head(key, "application/json")),
    ]
}

/// The head of the next answer on a connection, whose body is read too.
async fn next_answer(stream: &mut tokio::net::TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the connection ended")?);
    }
    let head = String::from_utf8(head)?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .context("a length")?;
    stream.read_exact(&mut vec![0; length.parse()?]).await?;
    Ok(head)
}

#[tokio::test]
async fn a_connection_outlives_requests_that_are_refused_before_their_body_is_read() -> Result<()> {
    let limits = sheaf_model::Limits {
        body_bytes_max: 1024,
        ..sheaf_model::Limits::DEFAULT
    };
    let server = TestServer::start_with(sheaf_server::Bounds::default(), limits).await?;
    server.tenant("acme").await?;
    let key = server.key("acme", r#"{"scopes":["write"]}"#).await?;
    let key = key["key"].as_str().context("a key")?;
    let mut stream = tokio::net::TcpStream::connect(&server.authority).await?;
    // More than is buffered with the head, so that it cannot have been read with it; and more than sockets buffer.
    for length in [200 * 1024, 8 << 20] {
        let body = vec![b' '; length];
        for (status, head) in refused_requests(&server.authority, key, body.len()) {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            let answer = next_answer(&mut stream).await.context(head)?;
            ensure!(
                answer.starts_with(&format!("HTTP/1.1 {status}"))
                    && !answer.contains("connection:"),
                "{length} bytes: {answer}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_ends_because_much_is_unread_says_so() -> Result<()> {
    let server = TestServer::start().await?;
    for (length, sent) in [(1 << 20, 0), (10, 9)] {
        let [(_, head), ..] = refused_requests(&server.authority, "", length);
        let mut stream = tokio::net::TcpStream::connect(&server.authority).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b' '; sent]).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 401") && answer.contains("\r\nconnection: close\r\n"),
            "{length} bytes, of which {sent} were sent: {answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn stopping_lets_a_running_request_end_and_waits_for_no_idle_connection() -> Result<()> {
    let (started, running) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some((started, released))));
    let slow = axum::routing::get(async move || {
        let taken = once.lock().expect("not poisoned").take();
        let (started, released) = taken.expect("asked once");
        let _ = started.send(());
        let _ = released.await;
        "done"
    });
    let router = axum::Router::new()
        .route("/slow", slow)
        .route("/fast", axum::routing::get(async || "fast"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(sheaf_server::serve(
        listener,
        router,
        CONNECTIONS_MAX,
        async {
            let _ = stopped.await;
        },
    ));
    let mut idle = tokio::net::TcpStream::connect(&authority).await?;
    idle.write_all(b"GET /fast HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    idle.read_exact(&mut [0; 12]).await?;
    let client = sheaf_testkit::HttpClient::new(&format!("http://{authority}"))?;
    let slow = tokio::spawn(async move { client.get("/slow").await });
    running.await?;
    let _ = stop.send(());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await?;
    ensure!(!served.is_finished(), "the server ended before its request");
    let _ = release.send(());
    ensure!(slow.await??.text() == "done");
    served.await?;
    ensure!(
        tokio::net::TcpStream::connect(&authority).await.is_err(),
        "the port is still open"
    );
    Ok(())
}
