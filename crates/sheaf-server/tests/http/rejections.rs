//! Refusals over HTTP: listed in pages that are bound to their query, and tried again once their cause is mended.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_testkit::HttpClient;

use crate::support::{JSON, TestServer, expect, problem, send};

/// A tenant that refuses attributes that nobody has declared.
async fn strict(server: &TestServer, name: &str) -> Result<HttpClient> {
    let client = server.tenant(name).await?;
    let policy = r#"{"unknown_attributes":"refuse"}"#;
    let path = format!("/v1/tenants/{name}");
    expect(&send(&server.admin, "PATCH", &path, policy).await?, 200)?;
    Ok(client)
}

async fn ingest(client: &HttpClient, events: &Value, status: u16) -> Result<Value> {
    let body = events.to_string();
    expect(
        &client.post("/v1/ingest", JSON, body.as_bytes()).await?,
        status,
    )
}

async fn replay(client: &HttpClient, body: &Value, status: u16) -> Result<Value> {
    let body = body.to_string();
    let answer = client
        .post("/v1/rejections/replay", JSON, body.as_bytes())
        .await?;
    expect(&answer, status)
}

async fn listed(client: &HttpClient, query: &str) -> Result<Vec<Value>> {
    let page = expect(&client.get(&format!("/v1/rejections?{query}")).await?, 200)?;
    page["items"].as_array().cloned().context("items")
}

async fn declare(client: &HttpClient, name: &str, kind: &str) -> Result<()> {
    let body = json!({"name": name, "type": kind}).to_string();
    expect(
        &client.post("/v1/attributes", JSON, body.as_bytes()).await?,
        201,
    )
    .map(drop)
}

fn event(id: &str, attributes: Value) -> Value {
    json!({"type": "plane", "id": id, "observed_at": "2013-01-01T10:00:00Z", "attributes": attributes})
}

#[tokio::test]
async fn pages_of_refusals_are_newest_first_and_bound_to_their_query_and_tenant() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, other) = (
        strict(&server, "acme").await?,
        strict(&server, "other").await?,
    );
    let events: Vec<Value> = (0..5)
        .map(|n| event(&format!("N{n}"), json!({"gate": n})))
        .collect();
    let batch = ingest(&acme, &json!(events), 422).await?;
    ingest(&other, &json!(events), 422).await?;
    let batch = batch["batch_id"].as_str().context("a batch")?;
    let (mut indexes, mut path) = (
        Vec::new(),
        format!("/v1/rejections?batch_id={batch}&limit=2"),
    );
    loop {
        let answer = acme.get(&path).await?;
        let page = expect(&answer, 200)?;
        for item in page["items"].as_array().context("items")? {
            indexes.push(item["index"].as_i64().context("an index")?);
            ensure!(
                item["raw"]
                    .as_str()
                    .is_some_and(|raw| raw.contains("\"observed_at\"")),
                "the event is kept whole: {item}"
            );
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            ensure!(answer.header("link").is_none(), "{:?}", answer.headers);
            break;
        };
        let link = answer.header("link").context("a link to the next page")?;
        ensure!(
            link.ends_with(">; rel=\"next\"") && link.contains(cursor),
            "{link}"
        );
        let foreign = [
            (&acme, format!("/v1/rejections?limit=2&cursor={cursor}")),
            (
                &acme,
                format!(
                    "/v1/rejections?batch_id={batch}&code=type_mismatch&limit=2&cursor={cursor}"
                ),
            ),
            (
                &other,
                format!("/v1/rejections?batch_id={batch}&limit=2&cursor={cursor}"),
            ),
        ];
        for (client, path) in foreign {
            ensure!(
                problem(&client.get(&path).await?, 400)? == "invalid_cursor",
                "{path}"
            );
        }
        path = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .context("a target")?
            .to_owned();
    }
    ensure!(indexes == [4, 3, 2, 1, 0], "{indexes:?}");
    ensure!(
        listed(&other, &format!("batch_id={batch}"))
            .await?
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
async fn a_replay_answers_as_an_ingest_does_and_its_batch_can_be_looked_up() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = strict(&server, "acme").await?;
    declare(&acme, "dest", "text").await?;
    let events = json!([
        event("N1", json!({"dest": "IAH", "gate": "B7"})),
        event("N2", json!({"gate": "B8"})),
        event("N3", json!({"crew": 4})),
    ]);
    let first = ingest(&acme, &events, 200).await?;
    let selection = json!({"batch_id": first["batch_id"]});
    let early = replay(&acme, &selection, 422).await?;
    ensure!(
        early["code"] == "all_refused" && early["refused"] == 3,
        "{early}"
    );

    declare(&acme, "gate", "text").await?;
    let mended = replay(&acme, &selection, 200).await?;
    let open = listed(&acme, "status=open").await?;
    ensure!(open.len() == 1 && open[0]["field"] == "crew", "{open:?}");
    let rejected = json!([{"index": 2, "field": "crew", "code": "unknown_attribute",
        "reason": "unknown attribute \"crew\"", "id": open[0]["id"]}]);
    for (member, expected) in [
        ("ack", json!("durable")),
        ("events", json!(3)),
        ("values", json!(2)),
        ("accepted", json!(1)),
        ("merged", json!(1)),
        ("refused", json!(1)),
        ("rejected", rejected),
    ] {
        ensure!(mended[member] == expected, "{member}: {mended}");
    }
    ensure!(
        mended["token"].is_string() && mended.get("next").is_none(),
        "{mended}"
    );
    let replayed = listed(&acme, "status=replayed").await?;
    ensure!(replayed.len() == 2, "{replayed:?}");
    let entity = expect(&acme.get("/v1/entities/plane/N1").await?, 200)?;
    ensure!(
        entity["attributes"] == json!({"dest": "IAH", "gate": "B7"}),
        "{entity}"
    );
    let id = mended["batch_id"].as_str().context("a batch")?;
    let batch = expect(&acme.get(&format!("/v1/ingest/batches/{id}")).await?, 200)?;
    ensure!(
        batch["status"] == "durable" && batch["merged"] == 1,
        "{batch}"
    );

    let again = replay(&acme, &json!({"code": "unknown_attribute"}), 422).await?;
    ensure!(again["events"] == 1 && again["refused"] == 1, "{again}");
    let nothing = replay(&acme, &json!({"code": "type_mismatch"}), 200).await?;
    ensure!(
        nothing["events"] == 0 && nothing["rejected"] == json!([]),
        "{nothing}"
    );
    Ok(())
}

#[tokio::test]
async fn nobody_replays_what_is_anothers_or_with_a_key_that_only_reads() -> Result<()> {
    let server = TestServer::start().await?;
    let (acme, other) = (
        strict(&server, "acme").await?,
        strict(&server, "other").await?,
    );
    let first = ingest(&acme, &json!([event("N1", json!({"gate": "B7"}))]), 422).await?;
    let rejection = listed(&acme, "").await?[0]["id"].clone();
    for client in [&acme, &other] {
        declare(client, "gate", "text").await?;
    }
    for selection in [
        json!({"ids": [rejection]}),
        json!({"batch_id": first["batch_id"]}),
        json!({"code": "unknown_attribute"}),
    ] {
        let answer = replay(&other, &selection, 200).await?;
        ensure!(answer["events"] == 0, "{selection}: {answer}");
    }
    ensure!(listed(&other, "").await?.is_empty());
    ensure!(problem(&other.get("/v1/entities/plane/N1").await?, 404)? == "not_found");
    let reading = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let reading = server
        .anonymous
        .with_key(reading["key"].as_str().context("a key")?);
    let body = json!({"ids": [rejection]}).to_string();
    let answer = reading
        .post("/v1/rejections/replay", JSON, body.as_bytes())
        .await?;
    ensure!(problem(&answer, 403)? == "forbidden");
    ensure!(replay(&acme, &json!({"ids": [rejection]}), 200).await?["accepted"] == 1);
    Ok(())
}

#[tokio::test]
async fn a_replay_without_one_clear_selection_is_refused() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (body, code) in [
        ("{}", "invalid_parameter"),
        (r#"{"ids":[]}"#, "invalid_parameter"),
        (r#"{"ids":["x"]}"#, "invalid_parameter"),
        (r#"{"code":"nonsense"}"#, "invalid_parameter"),
        (
            r#"{"code":"type_mismatch","ids":["r_00000000000000000000000000"]}"#,
            "invalid_parameter",
        ),
        (
            r#"{"code":"type_mismatch","status":"open"}"#,
            "unknown_parameter",
        ),
        ("[]", "malformed_json"),
        ("", "malformed_json"),
    ] {
        let answer = acme
            .post("/v1/rejections/replay", JSON, body.as_bytes())
            .await?;
        ensure!(problem(&answer, 400)? == code, "{body}");
    }
    let answer = acme
        .post("/v1/rejections/replay?dry_run=true", JSON, b"{}")
        .await?;
    ensure!(problem(&answer, 400)? == "unknown_parameter");
    Ok(())
}
