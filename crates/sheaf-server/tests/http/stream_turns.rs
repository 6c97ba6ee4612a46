//! Streams of one tenant beside those of another: nobody's slow pages keep the others from theirs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use sheaf_model::Limits;
use sheaf_server::{Bounds, StreamBounds};
use sheaf_testkit::{HttpClient, HttpResponse, Injected, wait_until};
use tokio_postgres::Client;

use crate::support::{JSON, TestServer, expect, problem};

const WITHIN: Duration = Duration::from_secs(30);
const NDJSON: &str = "application/x-ndjson";
/// Waits, as long as somebody holds the events.
const HISTORY: &str = "/v1/entities/thing/one/history";

async fn tenant(server: &TestServer, name: &str) -> Result<HttpClient> {
    let client = server.tenant(name).await?;
    let event = json!([{"type": "thing", "id": "one", "observed_at": "2013-01-01T00:00:00Z", "attributes": {"n": 1}}]);
    let body = event.to_string();
    expect(
        &client.post("/v1/ingest", JSON, body.as_bytes()).await?,
        200,
    )?;
    Ok(client)
}

async fn streamed(client: &HttpClient, path: &str) -> Result<HttpResponse> {
    client
        .request("GET", path, &[("accept", NDJSON)], b"")
        .await
}

/// Pages that wait for the events.
async fn waiting(superuser: &Client) -> Option<i64> {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sheaf_app' AND wait_event_type = 'Lock'
        AND datname = current_database()";
    let row = superuser.query_one(waiting, &[]).await.ok()?;
    Some(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn four_slow_streams_of_a_tenant_do_not_keep_another_from_its_first_page() -> Result<()> {
    let server = TestServer::start().await?;
    let slow = tenant(&server, "slow").await?;
    let other = tenant(&server, "other").await?;
    let superuser = server.database.superuser().await?;
    let holder = server.database.superuser().await?;
    holder
        .batch_execute("BEGIN; LOCK TABLE sheaf.entity_events")
        .await?;
    let injected = Injected::new("streams whose page waits for a lock");
    let mut running = Vec::new();
    for _ in 0..4 {
        let slow = slow.clone();
        running.push(tokio::spawn(async move { streamed(&slow, HISTORY).await }));
        injected.count();
    }
    wait_until(
        "the tenant has all turns that it gets",
        WITHIN,
        async || waiting(&superuser).await >= Some(2),
    )
    .await;
    let answer = streamed(&other, "/v1/entities").await?;
    ensure!(
        answer.status == 200 && answer.text().lines().count() == 1,
        "{} {}",
        answer.status,
        answer.text()
    );
    ensure!(
        running.iter().any(|stream| !stream.is_finished()),
        "the slow streams were over before"
    );
    holder.batch_execute("ROLLBACK").await?;
    for stream in running {
        // Where the machine was so slow that a statement ran into its limit, the stream says so.
        let status = stream.await??.status;
        ensure!(status == 200 || status == 422, "{status}");
    }
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_beyond_its_deadline_is_given_up_and_its_turn_is_free() -> Result<()> {
    let bounds = Bounds {
        streams: StreamBounds {
            reading_max: 1,
            page_deadline: Duration::from_millis(300),
            ..StreamBounds::default()
        },
        ..Bounds::default()
    };
    let server = TestServer::start_with(bounds, Limits::DEFAULT).await?;
    let slow = tenant(&server, "slow").await?;
    let superuser = server.database.superuser().await?;
    let holder = server.database.superuser().await?;
    holder
        .batch_execute("BEGIN; LOCK TABLE sheaf.entity_events")
        .await?;
    let injected = Injected::new("pages that take longer than they may");
    // The second has the turn that the first has left.
    for _ in 0..2 {
        let answer = streamed(&slow, HISTORY).await?;
        ensure!(problem(&answer, 422)? == "query_limit", "{}", answer.text());
        injected.count();
        wait_until("its query is cancelled", WITHIN, async || {
            waiting(&superuser).await == Some(0)
        })
        .await;
    }
    holder.batch_execute("ROLLBACK").await?;
    injected.require();
    Ok(())
}
