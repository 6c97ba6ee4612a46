//! Ingest: its answers, its retries, and what it refuses.

use anyhow::{Context, Result, ensure};
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use serde_json::{Value, json};
use sheaf_model::Limits;
use sheaf_server::Bounds;
use sheaf_testkit::{HttpClient, HttpResponse};
use tokio::io::AsyncReadExt;

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem};

const NDJSON: &str = "application/x-ndjson";

fn event(id: &str, attributes: Value) -> String {
    json!({"type":"plane","id":id,"observed_at":"2013-01-01T10:17:00Z","attributes":attributes})
        .to_string()
}

/// The body without what a retry reads anew.
fn without_token(response: &HttpResponse) -> Result<String> {
    let text = response.text();
    let start = text.find("\"token\":\"").context("a token")?;
    let end = start + 9 + text[start + 9..].find('"').context("its end")?;
    Ok(format!("{}{}", &text[..start], &text[end..]))
}

async fn post(
    client: &HttpClient,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<HttpResponse> {
    client.request("POST", path, headers, body.as_bytes()).await
}

#[tokio::test]
async fn events_are_stored_and_counted_and_their_batch_is_found() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let body = format!(
        "[{},{}]",
        event("N1", json!({"dep_delay":2,"dest":"IAH"})),
        event("N2", json!({"dep_delay":4}))
    );
    let response = acme.post("/v1/ingest", JSON, body.as_bytes()).await?;
    let answer = expect(&response, 200)?;
    ensure!(
        answer["events"] == 2
            && answer["accepted"] == 2
            && answer["values"] == 3
            && answer["refused"] == 0,
        "{answer}"
    );
    ensure!(
        answer["ack"] == "durable" && answer["rejected"] == json!([]),
        "{answer}"
    );
    ensure!(
        response.header("x-consistency-token") == answer["token"].as_str()
            && answer["token"].is_string(),
        "{answer}"
    );
    ensure!(expect(&acme.get("/v1/entities/plane/N1").await?, 200)?["attributes"]["dest"] == "IAH");
    let again = expect(&acme.post("/v1/ingest", JSON, body.as_bytes()).await?, 200)?;
    ensure!(
        again["duplicates"] == 2 && again["accepted"] == 0,
        "{again}"
    );
    let id = answer["batch_id"].as_str().context("a batch id")?;
    let found = acme.get(&format!("/v1/ingest/batches/{id}")).await?;
    is_fresh_read(&found)?;
    let batch = expect(&found, 200)?;
    ensure!(
        batch["status"] == "durable"
            && batch["events"] == 2
            && batch["accepted"] == 2
            && batch["durable_at"].is_string(),
        "{batch}"
    );
    for unknown in ["b_01JD0000000000000000000000", "nonsense"] {
        ensure!(
            problem(
                &acme.get(&format!("/v1/ingest/batches/{unknown}")).await?,
                404
            )? == "not_found"
        );
    }
    let other = server.tenant("other").await?;
    ensure!(problem(&other.get(&format!("/v1/ingest/batches/{id}")).await?, 404)? == "not_found");
    Ok(())
}

#[tokio::test]
async fn compressed_lines_are_stored() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (encoding, id) in [("gzip", "N1"), ("zstd", "N2")] {
        let lines = format!(
            "{}\n{}\n",
            event(id, json!({"a":"x"})),
            event(id, json!({"a":"x"}))
        );
        let mut body = Vec::new();
        match encoding {
            "gzip" => {
                GzipEncoder::new(lines.as_bytes())
                    .read_to_end(&mut body)
                    .await?
            }
            _ => {
                ZstdEncoder::new(lines.as_bytes())
                    .read_to_end(&mut body)
                    .await?
            }
        };
        let headers = [("content-type", NDJSON), ("content-encoding", encoding)];
        let answer = expect(
            &acme.request("POST", "/v1/ingest", &headers, &body).await?,
            200,
        )?;
        ensure!(
            answer["accepted"] == 1 && answer["duplicates"] == 1,
            "{answer}"
        );
        let cut = acme
            .request("POST", "/v1/ingest", &headers, &body[..body.len() - 1])
            .await?;
        ensure!(problem(&cut, 400)? == "malformed_body");
    }
    let nested = acme
        .request(
            "POST",
            "/v1/ingest",
            &[("content-type", NDJSON), ("content-encoding", "gzip, gzip")],
            b"",
        )
        .await?;
    ensure!(problem(&nested, 415)? == "unsupported_media_type");
    ensure!(
        problem(&acme.post("/v1/ingest", "text/csv", b"a,b").await?, 415)?
            == "unsupported_media_type"
    );
    Ok(())
}

#[tokio::test]
async fn a_bad_value_is_refused_alone_and_kept() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post(
                "/v1/attributes",
                JSON,
                br#"{"name":"dep_delay","type":"float"}"#,
            )
            .await?,
        201,
    )?;
    let lines = format!(
        "{}\n{{\n{}\n",
        event("N1", json!({"dep_delay":"late","dest":"IAH"})),
        event("N2", json!({"dep_delay":1}))
    );
    let answer = expect(
        &acme.post("/v1/ingest", NDJSON, lines.as_bytes()).await?,
        200,
    )?;
    ensure!(
        answer["events"] == 3 && answer["accepted"] == 2 && answer["refused"] == 1,
        "{answer}"
    );
    let rejected = answer["rejected"].as_array().context("refusals")?;
    ensure!(
        rejected.len() == 2 && rejected[0]["index"] == 0 && rejected[0]["field"] == "dep_delay",
        "{answer}"
    );
    ensure!(
        rejected[0]["code"] == "type_mismatch"
            && rejected[1]["code"] == "malformed_json"
            && rejected[1]["field"].is_null(),
        "{answer}"
    );
    let batch = answer["batch_id"].as_str().context("a batch id")?;
    let listed = acme
        .get(&format!("/v1/rejections?batch_id={batch}&limit=1"))
        .await?;
    is_fresh_read(&listed)?;
    let page = expect(&listed, 200)?;
    let cursor = page["next_cursor"].as_str().context("a cursor")?;
    let rest = expect(
        &acme
            .get(&format!(
                "/v1/rejections?batch_id={batch}&limit=1&cursor={cursor}"
            ))
            .await?,
        200,
    )?;
    ensure!(rest["next_cursor"].is_null(), "{rest}");
    let both = [&page["items"][0], &rest["items"][0]];
    let kept = both
        .iter()
        .find(|item| item["code"] == "type_mismatch")
        .context("the kept value")?;
    ensure!(
        kept["batch_id"] == batch
            && kept["status"] == "open"
            && kept["raw"].as_str().is_some_and(|raw| raw.contains("late")),
        "{kept}"
    );
    ensure!(
        kept["id"].as_str().is_some_and(|id| id.starts_with("r_"))
            && kept["received_at"].is_string(),
        "{kept}"
    );
    for (query, count) in [
        ("code=type_mismatch", 1),
        ("type=plane", 1),
        ("status=replayed", 0),
        ("to=2013-01-01T00:00:00Z", 0),
    ] {
        let page = expect(&acme.get(&format!("/v1/rejections?{query}")).await?, 200)?;
        ensure!(
            page["items"]
                .as_array()
                .is_some_and(|items| items.len() == count),
            "{query}: {page}"
        );
    }
    for query in ["code=nonsense", "status=lost", "batch_id=x", "from=x"] {
        ensure!(
            problem(&acme.get(&format!("/v1/rejections?{query}")).await?, 400)?
                == "invalid_parameter",
            "{query}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn nothing_stored_is_a_problem_with_the_same_members() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"n","type":"int"}"#)
            .await?,
        201,
    )?;
    let bad = format!("[{}]", event("N1", json!({"n":"x"})));
    let response = acme.post("/v1/ingest", JSON, bad.as_bytes()).await?;
    ensure!(problem(&response, 422)? == "all_refused");
    let body = response.json()?;
    ensure!(
        body["events"] == 1
            && body["refused"] == 1
            && body["rejected"][0]["code"] == "type_mismatch"
            && body["batch_id"].is_string(),
        "{body}"
    );
    let mixed = format!(
        "[{},{}]",
        event("N1", json!({"n":"x"})),
        event("N2", json!({"n":1}))
    );
    let response = acme
        .post("/v1/ingest?on_error=reject", JSON, mixed.as_bytes())
        .await?;
    ensure!(problem(&response, 422)? == "batch_refused");
    let batch = response.json()?["batch_id"]
        .as_str()
        .context("a batch id")?
        .to_owned();
    ensure!(problem(&acme.get("/v1/entities/plane/N2").await?, 404)? == "not_found");
    let found = expect(
        &acme.get(&format!("/v1/ingest/batches/{batch}")).await?,
        200,
    )?;
    ensure!(
        found["status"] == "refused" && found["durable_at"].is_null() && found["token"].is_null(),
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_stored_is_told_as_refused_however_late_that_was_found()
-> Result<()> {
    const WRITE: &str = "/api/v2/write?id_tag=id";
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let first = "plane,id=N1,site=a n=1 1356998400000000000";
    let written = acme.post(WRITE, "text/plain", first.as_bytes());
    ensure!(written.await?.status == 204);
    // A line of another series at a stored instant: only the stored rows tell that it cannot be kept.
    let conflict = "plane,id=N1,site=b n=2 1356998400000000000";
    for (body, status) in [
        (conflict.to_owned(), "refused"),
        (format!("{conflict}\nthis is no line"), "refused"),
        (format!("{conflict}\n{first}"), "durable"),
    ] {
        let response = acme.post(WRITE, "text/plain", body.as_bytes());
        let answer = expect(&response.await?, 400)?;
        let batch = answer["batch_id"].as_str().context("a batch id")?;
        let found = acme.get(&format!("/v1/ingest/batches/{batch}")).await?;
        let found = expect(&found, 200)?;
        ensure!(found["status"] == status, "{body}: {found}");
        let is_durable = status == "durable";
        ensure!(
            found["durable_at"].is_string() == is_durable
                && found["token"].is_string() == is_durable,
            "{body}: {found}"
        );
    }
    let empty = expect(&acme.post("/v1/ingest", JSON, b"[]").await?, 200)?;
    let batch = empty["batch_id"].as_str().context("a batch id")?;
    let found = acme.get(&format!("/v1/ingest/batches/{batch}")).await?;
    ensure!(expect(&found, 200)?["status"] == "durable");
    Ok(())
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_first_answer_byte_for_byte() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"n","type":"int"}"#)
            .await?,
        201,
    )?;
    let stored = format!(
        "[{},{}]",
        event("N1", json!({"n":1})),
        event("N2", json!({"n":"x"}))
    );
    let refused = format!("[{}]", event("N1", json!({"n":"x"})));
    for (key, body) in [("stored", &stored), ("refused", &refused)] {
        let headers = [("content-type", JSON), ("idempotency-key", key)];
        let first = post(&acme, "/v1/ingest", &headers, body).await?;
        ensure!(first.header("idempotency-replayed").is_none());
        let second = post(&acme, "/v1/ingest", &headers, body).await?;
        ensure!(
            second.header("idempotency-replayed") == Some("true"),
            "{:?}",
            second.headers
        );
        ensure!(
            second.status == first.status,
            "{key}: {} and {}",
            first.status,
            second.status
        );
        ensure!(
            without_token(&first)? == without_token(&second)?,
            "{}\n{}",
            first.text(),
            second.text()
        );
        let reused = post(&acme, "/v1/ingest", &headers, "[]").await?;
        ensure!(problem(&reused, 422)? == "idempotency_key_reused");
    }
    for key in ["", &"x".repeat(256)] {
        let response = post(
            &acme,
            "/v1/ingest",
            &[("content-type", JSON), ("idempotency-key", key)],
            "[]",
        )
        .await?;
        ensure!(
            problem(&response, 400)? == "invalid_parameter",
            "{} characters",
            key.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_body_past_its_bound_is_refused_also_when_it_is_small_on_the_wire() -> Result<()> {
    let limits = Limits {
        body_bytes_max: 100_000,
        ..Limits::DEFAULT
    };
    let server = TestServer::start_with(Bounds::default(), limits).await?;
    let acme = server.tenant("acme").await?;
    let large = vec![b' '; 100_001];
    ensure!(problem(&acme.post("/v1/ingest", JSON, &large).await?, 413)? == "body_too_large");
    let mut bomb = Vec::new();
    GzipEncoder::new(large.as_slice())
        .read_to_end(&mut bomb)
        .await?;
    ensure!(bomb.len() < 1_000);
    let response = acme
        .request(
            "POST",
            "/v1/ingest",
            &[("content-type", JSON), ("content-encoding", "gzip")],
            &bomb,
        )
        .await?;
    ensure!(problem(&response, 413)? == "body_too_large");
    let line = acme
        .request(
            "POST",
            "/api/v2/write",
            &[("content-encoding", "gzip")],
            &bomb,
        )
        .await?;
    ensure!(expect(&line, 413)?["code"] == "request too large");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (path, body, status, code) in [
        ("/v1/ingest?ack=staged", "[]", 503, "ack_unavailable"),
        ("/v1/ingest?ack=replicated", "[]", 503, "ack_unavailable"),
        ("/v1/ingest?ack=maybe", "[]", 400, "invalid_parameter"),
        ("/v1/ingest?on_error=ignore", "[]", 400, "invalid_parameter"),
        ("/v1/ingest?tenant=other", "[]", 400, "unknown_parameter"),
        ("/v1/ingest", "{", 400, "malformed_json"),
        ("/v1/ingest", "{}", 400, "malformed_json"),
    ] {
        let response = acme.post(path, JSON, body.as_bytes()).await?;
        ensure!(
            problem(&response, status)? == code,
            "{path} {body}: {}",
            response.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_large_refused_events_is_short_and_the_next_goes_on() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"n","type":"int"}"#)
            .await?,
        201,
    )?;
    let long = "x".repeat(250 * 1024);
    let attributes = json!({"n": "x", "a": long, "b": long, "c": long, "d": long});
    let events: Vec<String> = (0..10)
        .map(|n| event(&format!("N{n}"), attributes.clone()))
        .collect();
    let body = format!("[{}]", events.join(","));
    expect(&acme.post("/v1/ingest", JSON, body.as_bytes()).await?, 200)?;
    let first = expect(&acme.get("/v1/rejections?limit=10").await?, 200)?;
    let cursor = first["next_cursor"].as_str().context("a cursor")?;
    let rest = expect(
        &acme
            .get(&format!("/v1/rejections?limit=10&cursor={cursor}"))
            .await?,
        200,
    )?;
    ensure!(rest["next_cursor"].is_null(), "the second page is the last");
    let count = |page: &serde_json::Value| page["items"].as_array().map_or(0, Vec::len);
    ensure!(
        (count(&first), count(&rest)) == (8, 2),
        "{} and {}",
        count(&first),
        count(&rest)
    );
    Ok(())
}
