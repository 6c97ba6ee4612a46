//! The histories of many entities in one answer, and what stands for buckets without values.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem};

async fn airports(server: &TestServer) -> Result<sheaf_testkit::HttpClient> {
    let acme = server.tenant("acme").await?;
    let mut events = Vec::new();
    for (id, temperatures) in [
        ("JFK", [10.0, 20.0, 40.0]),
        ("LGA", [1.0, 2.0, 3.0]),
        ("EWR", [7.0, 8.0, 9.0]),
    ] {
        for (hour, temperature) in [0, 1, 4].into_iter().zip(temperatures) {
            events.push(json!({"type": "airport", "id": id, "observed_at": format!("2013-01-01T{hour:02}:30:00Z"),
                "attributes": {"temp": temperature, "sky": "clear"}}));
        }
    }
    let body = json!(events).to_string();
    expect(&acme.post("/v1/ingest", JSON, body.as_bytes()).await?, 200)?;
    Ok(acme)
}

async fn asked(client: &sheaf_testkit::HttpClient, body: &Value) -> Result<Value> {
    let answer = client
        .post("/v1/history/query", JSON, body.to_string().as_bytes())
        .await?;
    is_fresh_read(&answer)?;
    expect(&answer, 200)
}

fn query(more: Value) -> Value {
    let mut body = json!({"type": "airport", "filter": "external_id IN ('JFK','LGA')", "attribute": ["temp"],
        "from": "2013-01-01T00:00:00Z", "to": "2013-01-01T06:00:00Z"});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn histories_come_by_id_and_time_page_by_page() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = airports(&server).await?;
    let whole = asked(
        &acme,
        &query(json!({"bucket": "3h", "agg": ["avg", "count"]})),
    )
    .await?;
    let item = |id: &str, hour: u32, avg: f64, count: u32| {
        json!({"type": "airport", "id": id, "from": format!("2013-01-01T{hour:02}:00:00Z"),
            "to": format!("2013-01-01T{:02}:00:00Z", hour + 3), "attributes": {"temp": {"avg": avg, "count": count}}})
    };
    let expected = [
        item("JFK", 0, 15.0, 2),
        item("JFK", 3, 40.0, 1),
        item("LGA", 0, 1.5, 2),
        item("LGA", 3, 3.0, 1),
    ];
    ensure!(
        whole == json!({"items": expected, "next_cursor": null}),
        "{whole}"
    );
    let (mut body, mut items) = (
        query(json!({"bucket": "3h", "agg": ["avg", "count"], "limit": 1})),
        Vec::new(),
    );
    loop {
        let page = asked(&acme, &body).await?;
        items.extend(page["items"].as_array().context("items")?.clone());
        if page["next_cursor"].is_null() {
            break;
        }
        body["cursor"] = page["next_cursor"].clone();
    }
    ensure!(items == expected, "{items:?}");
    let plain = asked(&acme, &query(json!({"limit": 2}))).await?;
    ensure!(
        plain["items"][1]["observed_at"] == "2013-01-01T01:30:00Z"
            && plain["items"][1]["attributes"] == json!({"temp": 20.0}),
        "{plain}"
    );
    ensure!(
        plain["items"][1]["type"] == "airport" && plain["next_cursor"].is_string(),
        "{plain}"
    );
    let all = asked(
        &acme,
        &query(json!({"bucket": "1d", "agg": ["max", "count"], "group": "all", "filter": null})),
    )
    .await?;
    ensure!(
        all["items"]
            == json!([{"from": "2013-01-01T00:00:00Z", "to": "2013-01-02T00:00:00Z", "attributes": {"temp": {"max": 40.0, "count": 9}}}]),
        "{all}"
    );
    Ok(())
}

#[tokio::test]
async fn gaps_are_filled_as_asked() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = airports(&server).await?;
    let averages = |answer: &Value| -> Vec<Value> {
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| item["attributes"]["temp"]["avg"].clone())
            .collect()
    };
    for (from, fill, expected) in [
        (
            "00:00:00",
            "null",
            json!([10.0, 20.0, null, null, 40.0, null]),
        ),
        (
            "00:00:00",
            "previous",
            json!([10.0, 20.0, 20.0, 20.0, 40.0, 40.0]),
        ),
        ("02:00:00", "previous", json!([20.0, 20.0, 40.0, 40.0])),
        (
            "00:00:00",
            "linear",
            json!([
                10.0,
                20.0,
                26.666666666666664,
                33.33333333333333,
                40.0,
                null
            ]),
        ),
    ] {
        let path = format!(
            "/v1/entities/airport/JFK/history?attribute=temp&from=2013-01-01T{from}Z&to=2013-01-01T06:00:00Z&bucket=1h&agg=avg,count&fill={fill}"
        );
        let one = expect(&acme.get(&path).await?, 200)?;
        let close = |got: &[Value], expected: &Value| {
            let expected = expected.as_array().cloned().unwrap_or_default();
            got.len() == expected.len()
                && got.iter().zip(&expected).all(|(got, expected)| {
                    match (got.as_f64(), expected.as_f64()) {
                        (Some(got), Some(expected)) => (got - expected).abs() < 1e-9,
                        (got, expected) => got.is_none() && expected.is_none(),
                    }
                })
        };
        ensure!(
            close(&averages(&one), &expected),
            "{fill} from {from}: {one}"
        );
        let body = query(
            json!({"filter": "external_id = 'JFK'", "from": format!("2013-01-01T{from}Z"), "bucket": "1h",
            "agg": ["avg", "count"], "fill": fill}),
        );
        let many = asked(&acme, &body).await?;
        ensure!(
            close(&averages(&many), &expected),
            "{fill} from {from}: {many}"
        );
    }
    for (attribute, fill) in [("sky", "linear"), ("temp", "nearest")] {
        let path = format!(
            "/v1/entities/airport/JFK/history?attribute={attribute}&bucket=1h&agg=last&fill={fill}"
        );
        ensure!(
            problem(&acme.get(&path).await?, 400)? == "invalid_parameter",
            "{fill} of {attribute}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_would_read_without_bound_is_refused_with_a_hint_and_tenants_do_not_meet() -> Result<()>
{
    let server = TestServer::start().await?;
    let acme = airports(&server).await?;
    for missing in ["from", "attribute"] {
        let mut body = query(json!({}));
        body.as_object_mut().context("an object")?.remove(missing);
        let answer = acme
            .post("/v1/history/query", JSON, body.to_string().as_bytes())
            .await?;
        ensure!(
            problem(&answer, 422)? == "unbounded_query",
            "{}",
            answer.text()
        );
        ensure!(answer.json()?["hint"].is_string(), "{}", answer.text());
    }
    let body = query(json!({"bucket": "1ms", "fill": "null"}));
    let answer = acme
        .post("/v1/history/query", JSON, body.to_string().as_bytes())
        .await?;
    ensure!(problem(&answer, 422)? == "query_limit", "{}", answer.text());
    let zenith = server.tenant("zenith").await?;
    let mut events = json!([{"type": "airport", "id": "JFK", "observed_at": "2013-01-01T00:00:00Z", "attributes": {"temp": -1.0}}]);
    expect(
        &zenith
            .post("/v1/ingest", JSON, events.to_string().as_bytes())
            .await?,
        200,
    )?;
    events.take();
    let own = asked(&zenith, &query(json!({}))).await?;
    ensure!(
        own["items"].as_array().map(Vec::len) == Some(1)
            && own["items"][0]["attributes"]["temp"] == -1.0,
        "{own}"
    );
    let page = asked(&acme, &query(json!({"limit": 1}))).await?;
    let body = query(json!({"limit": 1, "cursor": page["next_cursor"]}));
    let answer = zenith
        .post("/v1/history/query", JSON, body.to_string().as_bytes())
        .await?;
    ensure!(
        problem(&answer, 400)? == "invalid_cursor",
        "{}",
        answer.text()
    );
    Ok(())
}
