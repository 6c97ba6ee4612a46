//! SQL over a lake that the change stream feeds.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sheaf_testkit::{HttpClient, HttpResponse};

use crate::support::{JSON, TestServer, expect, problem};

const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

async fn ask(
    client: &HttpClient,
    accept: &str,
    token: Option<&str>,
    body: &Value,
) -> Result<HttpResponse> {
    let mut headers = vec![("accept", accept), ("content-type", JSON)];
    headers.extend(token.map(|token| ("x-consistency-token", token)));
    let body = body.to_string();
    client
        .request("POST", "/v1/sql", &headers, body.as_bytes())
        .await
}

async fn ingest(client: &HttpClient, events: &Value) -> Result<String> {
    let stored = client
        .post("/v1/ingest", JSON, events.to_string().as_bytes())
        .await?;
    let token = expect(&stored, 200)?["token"]
        .as_str()
        .context("a token")?
        .to_owned();
    Ok(token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_with_what_its_token_stands_for_in_every_form() -> Result<()> {
    let server = TestServer::start_asking().await?;
    let (own, other) = (server.tenant("acme").await?, server.tenant("globex").await?);
    let event = |id: &str, seats: i64, maker: &str| {
        json!({"type": "plane", "id": id, "observed_at": "2013-01-01T10:00:00Z",
            "attributes": {"seats": seats, "maker": maker}})
    };
    ingest(
        &other,
        &json!([event("X1", 7, "hidden"), event("X2", 8, "hidden")]),
    )
    .await?;
    let token = ingest(
        &own,
        &json!([event("N1", 149, "=1+1"), event("N2", 55, "b")]),
    )
    .await?;
    let token = Some(token.as_str());
    let query = json!({
        "query": "SELECT external_id, value_float, observed_at, avg(value_float) OVER () FROM facts
            WHERE attribute = $1 ORDER BY external_id",
        "params": ["seats"],
        "max_lag": "5m",
    });
    let answer = ask(&own, JSON, token, &query).await?;
    assert_eq!(
        expect(&answer, 200)?,
        json!({
            "columns": [
                {"name": "external_id", "type": "text"}, {"name": "value_float", "type": "float"},
                {"name": "observed_at", "type": "time"}, {"name": "avg", "type": "float"},
            ],
            "rows": [["N1", 149.0, "2013-01-01T10:00:00Z", 102.0], ["N2", 55.0, "2013-01-01T10:00:00Z", 102.0]],
            "row_count": 2,
            "truncated": false,
        })
    );
    for (name, wanted) in [
        ("x-data-source", "lake"),
        ("x-consistency-level", "analytics"),
        ("x-cache-hit", "false"),
    ] {
        assert_eq!(answer.header(name), Some(wanted), "{name}");
    }
    let lag = answer.header("x-data-lag-seconds").context("a lag")?;
    assert!((0.0..300.0).contains(&lag.parse::<f64>()?), "{lag}");
    assert!(answer.header("x-data-timestamp").is_some());
    // What an answer says of itself is a token that the lake covers.
    let further = answer.header("x-consistency-token").context("a token")?;
    let count = json!({"query": "SELECT count(*) FROM facts"});
    let counted = expect(&ask(&own, JSON, Some(further), &count).await?, 200)?;
    assert_eq!(counted["rows"], json!([[4]]));
    let makers =
        json!({"query": "SELECT value_text FROM facts WHERE attribute = 'maker' ORDER BY 1"});
    let csv = ask(&own, CSV, token, &makers).await?;
    assert_eq!(
        (csv.status, csv.text().as_str()),
        (200, "value_text\r\n'=1+1\r\nb\r\n")
    );
    let arrow = ask(&own, ARROW, token, &makers).await?;
    assert_eq!(
        (arrow.status, arrow.header("content-type")),
        (200, Some(ARROW))
    );
    assert_eq!(&arrow.body[..4], [0xff; 4]);
    // The other tenant has the same names, and rows in the same lake.
    let names = json!({"query": "SELECT DISTINCT external_id FROM facts ORDER BY 1"});
    let found = expect(&ask(&other, JSON, None, &names).await?, 200)?;
    assert_eq!(found["rows"], json!([["X1"], ["X2"]]));
    let foreign = ask(&other, JSON, token, &names).await?;
    assert_eq!(problem(&foreign, 400)?, "foreign_token");
    let many = json!({"query": "SELECT a.seq FROM facts a, facts b, facts c, facts d, facts e, facts f, facts g, facts h"});
    let cut = expect(&ask(&own, JSON, None, &many).await?, 200)?;
    assert_eq!(
        (&cut["truncated"], &cut["row_count"]),
        (&json!(true), &json!(50_000))
    );
    for (query, params) in [
        ("SELECT 1; SELECT 2", json!([])),
        ("DROP TABLE facts", json!([])),
        ("SELECT * FROM pg_class", json!([])),
        ("SELECT nothing FROM facts", json!([])),
        ("SELECT pg_read_file('/etc/passwd')", json!([])),
        ("SELECT 1 / 0", json!([])),
        ("SELECT $1", json!([])),
        ("SELECT 1", json!([1])),
    ] {
        let refused = ask(&own, JSON, None, &json!({"query": query, "params": params})).await?;
        assert_eq!(problem(&refused, 400)?, "invalid_parameter", "{query}");
    }
    let lines = ask(&own, "application/x-ndjson", None, &count).await?;
    assert_eq!(problem(&lines, 406)?, "not_acceptable");
    Ok(())
}

#[tokio::test]
async fn a_server_without_a_lake_says_so() -> Result<()> {
    let server = TestServer::start().await?;
    let client = server.tenant("acme").await?;
    let answer = ask(&client, JSON, None, &json!({"query": "SELECT 1"})).await?;
    assert_eq!(problem(&answer, 404)?, "not_found");
    Ok(())
}
