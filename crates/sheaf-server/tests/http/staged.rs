//! The staged mode: its answers, the status of its batches, its retries, and what does not go that way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_ingest::{StagingOptions, StagingPolicy};
use sheaf_testkit::{HttpClient, HttpResponse, Injected, wait_until};
use tokio_postgres::Client;

use crate::support::{JSON, TestServer, expect, problem, send};

const WITHIN: Duration = Duration::from_secs(20);
const STAGED: &str = "/v1/ingest?ack=staged";

/// While it lives, no flush ends: it holds the locks of buckets, at first of all.
struct Held(Client);

impl Held {
    async fn new(server: &TestServer) -> Result<Held> {
        let client = server.database.superuser().await?;
        let sql = "SELECT pg_advisory_lock(24239, b.bucket) FROM sheaf.settings s, \
                   generate_series(0, s.bucket_count - 1) AS b (bucket)";
        client.batch_execute(sql).await?;
        Ok(Held(client))
    }

    /// Holds only those of what is staged now, so that everybody else goes on.
    async fn narrow(&self) -> Result<()> {
        let sql = "SELECT pg_advisory_unlock(24239, b.bucket) FROM sheaf.settings s, \
                   generate_series(0, s.bucket_count - 1) AS b (bucket) \
                   WHERE NOT EXISTS (SELECT FROM sheaf.staged_batches w WHERE b.bucket = ANY (w.buckets))";
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn release(self) -> Result<()> {
        Ok(self
            .0
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await?)
    }
}

fn body() -> String {
    json!([
        {"type":"plane","id":"N1","observed_at":"2013-01-01T10:17:00Z","attributes":{"n":1,"dest":"IAH"}},
        {"type":"plane","id":"N2","observed_at":"2013-01-01T10:17:00Z","attributes":{"n":"one","dest":"IAH"}},
        {"type":"plane","id":"N3","observed_at":"2013-01-01T10:17:00Z","attributes":{"n":3}},
        {"id":"N4"},
    ])
    .to_string()
}

async fn declared(server: &TestServer) -> Result<HttpClient> {
    let acme = server.tenant("acme").await?;
    let attribute = br#"{"name":"n","type":"int"}"#;
    expect(&acme.post("/v1/attributes", JSON, attribute).await?, 201)?;
    Ok(acme)
}

async fn keyed(client: &HttpClient, path: &str, key: &str, body: &str) -> Result<HttpResponse> {
    let headers = [("content-type", JSON), ("idempotency-key", key)];
    client
        .request("POST", path, &headers, body.as_bytes())
        .await
}

async fn status(client: &HttpClient, batch: &str) -> Result<Value> {
    expect(
        &client.get(&format!("/v1/ingest/batches/{batch}")).await?,
        200,
    )
}

async fn wait_for(client: &HttpClient, batch: &str, wanted: &str) -> Result<Value> {
    wait_until(&format!("the batch is {wanted}"), WITHIN, async || {
        let found = status(client, batch).await;
        found.is_ok_and(|found| found["status"] == wanted)
    })
    .await;
    status(client, batch).await
}

#[tokio::test]
async fn a_staged_request_has_no_token_and_becomes_readable_and_durable_with_its_flush()
-> Result<()> {
    let server = TestServer::start_staging(StagingOptions::default()).await?;
    let acme = declared(&server).await?;
    let held = Held::new(&server).await?;
    let first = keyed(&acme, STAGED, "once", &body()).await?;
    let answer = expect(&first, 202)?;
    ensure!(
        first.header("x-consistency-token").is_none(),
        "{:?}",
        first.headers
    );
    let batch = answer["batch_id"]
        .as_str()
        .context("a batch id")?
        .to_owned();
    let rejected = answer["rejected"].clone();
    let expected = json!({"batch_id":batch,"ack":"staged","events":4,"values":4,"accepted":null,"duplicates":null,
        "merged":null,"corrected":null,"refused":1,"token":null,"rejected":rejected});
    ensure!(answer == expected, "{answer}");
    let places: Vec<_> = rejected
        .as_array()
        .context("a list")?
        .iter()
        .map(|it| (&it["index"], &it["code"]))
        .collect();
    ensure!(
        places
            == [
                (&json!(1), &json!("type_mismatch")),
                (&json!(3), &json!("missing_type"))
            ],
        "{places:?}"
    );

    let found = status(&acme, &batch).await?;
    ensure!(
        found["status"] == "staged" && found["ack"] == "staged" && found["events"] == 4,
        "{found}"
    );
    ensure!(found["values"] == 4 && found["refused"] == 1, "{found}");
    for unknown in ["accepted", "durable_at", "token"] {
        ensure!(found[unknown].is_null(), "{unknown}: {found}");
    }
    ensure!(
        acme.get("/v1/entities/plane/N1").await?.status == 404,
        "not readable yet"
    );
    ensure!(expect(&acme.get("/v1/entities?type=plane").await?, 200)?["items"] == json!([]));
    let again = keyed(&acme, STAGED, "once", &body()).await?;
    ensure!(
        again.text() == first.text() && again.status == 202,
        "{}",
        again.text()
    );
    ensure!(
        again.header("idempotency-replayed") == Some("true"),
        "{:?}",
        again.headers
    );
    for (path, other) in [(STAGED, "[]".to_owned()), ("/v1/ingest", body())] {
        let reused = keyed(&acme, path, "once", &other).await?;
        ensure!(problem(&reused, 422)? == "idempotency_key_reused", "{path}");
    }
    let other = server.tenant("other").await?;
    ensure!(
        problem(
            &other.get(&format!("/v1/ingest/batches/{batch}")).await?,
            404
        )? == "not_found"
    );

    held.release().await?;
    let found = wait_for(&acme, &batch, "durable").await?;
    ensure!(
        found["accepted"] == 3 && found["refused"] == 1 && found["values"] == 4,
        "{found}"
    );
    ensure!(
        found["durable_at"].is_string() && found["token"].is_string(),
        "{found}"
    );
    let stored = expect(&acme.get("/v1/entities/plane/N1").await?, 200)?;
    ensure!(
        stored["attributes"] == json!({"n":1,"dest":"IAH"}),
        "{stored}"
    );
    let after = keyed(&acme, STAGED, "once", &body()).await?;
    ensure!(
        after.text() == first.text() && after.status == 202,
        "{}",
        after.text()
    );
    ensure!(
        after.header("x-consistency-token").is_none()
            && after.header("idempotency-replayed") == Some("true")
    );
    ensure!(
        stored == expect(&acme.get("/v1/entities/plane/N1").await?, 200)?,
        "nothing twice"
    );
    Ok(())
}

#[tokio::test]
async fn what_a_flush_refuses_is_no_part_of_the_first_answer() -> Result<()> {
    let poisoned = Injected::new("staged event that the database refuses");
    let server = TestServer::start_staging(StagingOptions::default()).await?;
    let acme = declared(&server).await?;
    let held = Held::new(&server).await?;
    let first = keyed(&acme, STAGED, "late", &body()).await?;
    let batch = expect(&first, 202)?["batch_id"]
        .as_str()
        .context("a batch id")?
        .to_owned();
    let client = server.database.superuser().await?;
    let sql = "UPDATE sheaf.entity_values_ingest SET op = 'x' WHERE ordinal < 2";
    ensure!(client.execute(sql, &[]).await? == 2);
    poisoned.count();
    held.release().await?;
    let found = wait_for(&acme, &batch, "durable").await?;
    ensure!(found["accepted"] == 1 && found["refused"] == 3, "{found}");
    let kept = expect(
        &acme
            .get(&format!("/v1/rejections?batch_id={batch}"))
            .await?,
        200,
    )?;
    ensure!(kept["items"].as_array().map_or(0, Vec::len) == 4, "{kept}");
    let again = keyed(&acme, STAGED, "late", &body()).await?;
    ensure!(again.text() == first.text(), "{}", again.text());
    poisoned.require();
    Ok(())
}

#[tokio::test]
async fn what_stores_nothing_or_wants_all_or_nothing_is_written_durably() -> Result<()> {
    let server = TestServer::start_staging(StagingOptions::default()).await?;
    let acme = declared(&server).await?;
    for (path, body, status, ack, batch_status) in [
        (STAGED, r#"[{"id":"N1"}]"#, 422, "durable", "refused"),
        (STAGED, "[]", 200, "durable", "durable"),
        (
            "/v1/ingest?ack=staged&on_error=reject",
            r#"[{"id":"N1"}]"#,
            422,
            "durable",
            "refused",
        ),
        (
            "/v1/ingest?ack=staged&on_error=reject",
            r#"[{"type":"plane","id":"N1","attributes":{"n":1}}]"#,
            200,
            "durable",
            "durable",
        ),
    ] {
        let answer = expect(&acme.post(path, JSON, body.as_bytes()).await?, status)?;
        ensure!(
            answer["ack"] == ack && answer["token"].is_string(),
            "{path} {body}: {answer}"
        );
        let batch = answer["batch_id"].as_str().context("a batch id")?;
        ensure!(
            self::status(&acme, batch).await?["status"] == batch_status,
            "{path} {body}"
        );
    }
    for method in ["PATCH", "PUT", "DELETE"] {
        let refused = send(&acme, method, "/v1/entities/plane/N1?ack=staged", "{}").await?;
        ensure!(problem(&refused, 400)? == "invalid_parameter", "{method}");
    }
    let replay = acme
        .post(
            "/v1/rejections/replay?ack=staged",
            JSON,
            br#"{"code":"missing_type"}"#,
        )
        .await?;
    ensure!(problem(&replay, 400)? == "invalid_parameter");
    let line = acme
        .post(
            "/write?ack=staged",
            "text/plain",
            b"cpu,host=a usage=1 1357020000000000000",
        )
        .await?;
    ensure!(
        line.status == 204 && line.header("x-consistency-token").is_some(),
        "not a parameter there"
    );
    Ok(())
}

#[tokio::test]
async fn behind_stuck_flushes_staged_requests_are_refused_or_durable_and_others_go_on() -> Result<()>
{
    let stuck = Injected::new("flush that waits for a lock");
    for policy in [StagingPolicy::Refuse, StagingPolicy::TurnDurable] {
        let options = StagingOptions {
            policy,
            ..StagingOptions::default()
        };
        let server = TestServer::start_staging(options).await?;
        let acme = server.tenant("acme").await?;
        let one = |id: &str| {
            json!([{"type":"plane","id":id,"observed_at":"2013-01-01T10:17:00Z","attributes":{"n":1}}]).to_string()
        };
        let held = Held::new(&server).await?;
        let first = expect(
            &acme.post(STAGED, JSON, one("stuck").as_bytes()).await?,
            202,
        )?;
        let batch = first["batch_id"].as_str().context("a batch id")?.to_owned();
        held.narrow().await?;
        stuck.count();
        wait_until("the oldest batch is too old", WITHIN, async || {
            let answer = acme.post(STAGED, JSON, one("other").as_bytes()).await;
            answer.is_ok_and(|answer| answer.status != 202)
        })
        .await;
        let second = keyed(&acme, STAGED, "second", &one("another")).await?;
        match policy {
            StagingPolicy::Refuse => {
                ensure!(problem(&second, 503)? == "overloaded");
                ensure!(
                    second.header("retry-after").is_some(),
                    "{:?}",
                    second.headers
                );
            }
            StagingPolicy::TurnDurable => {
                let answer = expect(&second, 200)?;
                ensure!(
                    answer["ack"] == "durable" && answer["accepted"] == 1,
                    "{answer}"
                );
                ensure!(answer["token"].is_string(), "{answer}");
                let again = keyed(&acme, STAGED, "second", &one("another")).await?;
                ensure!(expect(&again, 200)?["batch_id"] == answer["batch_id"]);
                ensure!(again.header("idempotency-replayed") == Some("true"));
            }
        }
        let durable = acme
            .post("/v1/ingest", JSON, one("durable").as_bytes())
            .await?;
        ensure!(expect(&durable, 200)?["accepted"] == 1);
        ensure!(status(&acme, &batch).await?["status"] == "staged");
        held.release().await?;
        wait_for(&acme, &batch, "durable").await?;
        wait_until("staging goes on", WITHIN, async || {
            let answer = acme.post(STAGED, JSON, one("stuck").as_bytes()).await;
            answer.is_ok_and(|answer| answer.status == 202)
        })
        .await;
    }
    stuck.require();
    Ok(())
}
