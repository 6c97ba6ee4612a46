//! History that is older than it is kept is shown by no way of reading, from the moment that a policy says so.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_model::Timestamp;
use sheaf_testkit::HttpClient;
use tokio_postgres::SimpleQueryMessage;

use crate::pgwire::connect;
use crate::support::{JSON, TestServer, expect, problem};

const NDJSON: &str = "application/x-ndjson";
const LEVELS: [&str; 2] = ["strong", "analytics"];

/// A tenant that keeps 30 days, but for an attribute that it keeps 10 and one that it keeps 90.
struct Keeping {
    server: TestServer,
    own: HttpClient,
    now: Timestamp,
    token: String,
}

impl Keeping {
    async fn create() -> Result<Keeping> {
        let server = TestServer::start_asking().await?;
        let own = server.tenant("acme").await?;
        let now = Timestamp::now();
        let mut keeping = Keeping {
            server,
            own,
            now,
            token: String::new(),
        };
        let values = |number: i64| json!({"short": number, "plain": number, "long": number});
        let event = |id: &str, days: i64, attributes: Value| json!({"type": "thing", "id": id, "observed_at": keeping.ago(days), "attributes": attributes});
        let events = json!([
            event("A", 100, values(100)),
            event("A", 60, values(60)),
            event("A", 20, values(20)),
            event("A", 1, values(1)),
            // Current, however old it is.
            event("B", 100, values(100)),
            event("B", 60, json!({"short": 60})),
        ]);
        let stored = keeping
            .own
            .post("/v1/ingest", JSON, events.to_string().as_bytes())
            .await?;
        let token = expect(&stored, 200)?["token"].as_str().map(str::to_owned);
        keeping.token = token.context("a token")?;
        Ok(keeping)
    }

    fn ago(&self, days: i64) -> String {
        self.now
            .saturating_add_micros(-days * 86_400_000_000)
            .to_string()
    }

    async fn keep(&self) -> Result<()> {
        let headers = [("content-type", JSON)];
        let set = async |client: &HttpClient, path: &str, retention: &str| {
            let body = json!({ "retention": retention }).to_string();
            let set = client
                .request("PATCH", path, &headers, body.as_bytes())
                .await?;
            let set = expect(&set, 200)?;
            ensure!(set["retention"] == retention, "{set}");
            Ok(())
        };
        set(&self.server.admin, "/v1/tenants/acme", "30d").await?;
        set(&self.own, "/v1/attributes/short", "10d").await?;
        set(&self.own, "/v1/attributes/long", "90d").await
    }

    async fn asked(&self, path: &str, body: Option<Value>, accept: &str) -> Result<Vec<u8>> {
        let headers = [
            ("x-consistency-token", self.token.as_str()),
            ("content-type", JSON),
            ("accept", accept),
        ];
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = self
            .own
            .request(method, path, &headers, body.as_bytes())
            .await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        Ok(answer.body.to_vec())
    }

    async fn json(&self, path: &str, body: Option<Value>) -> Result<Value> {
        Ok(serde_json::from_slice(
            &self.asked(path, body, JSON).await?,
        )?)
    }

    /// The values of plain items, oldest first, as text.
    async fn items(&self, path: &str, body: Option<Value>) -> Result<Vec<String>> {
        let answer = self.json(path, body).await?;
        let items = answer["items"].as_array().context("items")?;
        Ok(items
            .iter()
            .map(|item| item["attributes"].to_string())
            .collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attribute_is_shown_for_as_long_as_it_is_kept_in_every_way_of_reading() -> Result<()> {
    let keeping = Keeping::create().await?;
    let of = "/v1/entities/thing/A/history";
    for level in LEVELS {
        let all = keeping
            .items(&format!("{of}?consistency={level}"), None)
            .await?;
        ensure!(all.len() == 4, "{level}: {all:?}");
    }
    keeping.keep().await?;
    let all = [
        r#"{"long":60.0}"#,
        r#"{"long":20.0,"plain":20.0}"#,
        r#"{"long":1.0,"plain":1.0,"short":1.0}"#,
    ];
    let shorts = [r#"{"short":1.0}"#];
    let several = [r#"{"plain":20.0}"#, r#"{"plain":1.0,"short":1.0}"#];
    for level in LEVELS {
        for (asked, wanted) in [
            ("", &all[..]),
            ("&corrections=true", &all),
            ("&attribute=short", &shorts),
            ("&attribute=short,plain", &several),
        ] {
            for order in ["asc", "desc"] {
                let path = format!("{of}?consistency={level}&order={order}{asked}");
                let mut found = keeping.items(&path, None).await?;
                if order == "desc" {
                    found.reverse();
                }
                ensure!(found == wanted, "{path}: {found:?}");
            }
        }
        // Page after page it is the same.
        let first = keeping
            .json(&format!("{of}?consistency={level}&limit=1"), None)
            .await?;
        let cursor = first["next_cursor"].as_str().context("a cursor")?;
        let second = keeping
            .items(
                &format!("{of}?consistency={level}&limit=1&cursor={cursor}"),
                None,
            )
            .await?;
        assert_eq!(second, all[1..2]);
        let lines = keeping
            .asked(&format!("{of}?consistency={level}"), None, NDJSON)
            .await?;
        let lines = String::from_utf8(lines)?;
        assert_eq!(lines.lines().count(), 3, "{lines}");
        for (asked, wanted) in [
            ("&attribute=short", 1),
            ("&attribute=plain", 2),
            ("&attribute=long", 3),
            ("", 3),
        ] {
            let path = format!("{of}?consistency={level}&bucket=1h&agg=count{asked}");
            let found = keeping.items(&path, None).await?;
            ensure!(found.len() == wanted, "{path}: {found:?}");
        }
        let path = format!(
            "{of}?consistency={level}&bucket=1d&agg=count&attribute=short,long&from={}",
            keeping.ago(61)
        );
        let found = keeping.items(&path, None).await?;
        ensure!(!found[0].contains("short"), "{path}: {found:?}");
        // What stands before a range is as old as it is.
        let path = format!(
            "{of}?consistency={level}&bucket=1d&fill=previous&attribute=short,long&from={}&to={}",
            keeping.ago(9),
            keeping.ago(8)
        );
        let found = keeping.json(&path, None).await?;
        let found = &found["items"][0]["attributes"];
        assert_eq!(found["short"]["avg"], Value::Null, "{level} {found}");
        assert_eq!(found["long"]["avg"], json!(20.0), "{level} {found}");
        for group in ["entity", "all"] {
            let asked = json!({"type": "thing", "attribute": ["short", "long"], "from": keeping.ago(300), "group": group});
            let path = format!("/v1/history/query?consistency={level}");
            let found = keeping.items(&path, Some(asked)).await?;
            let wanted = [
                r#"{"long":60.0}"#,
                r#"{"long":20.0}"#,
                r#"{"long":1.0,"short":1.0}"#,
            ];
            ensure!(found == wanted, "{level} {group}: {found:?}");
            let asked = json!({"type": "thing", "attribute": ["short", "long"], "from": keeping.ago(300), "group": group,
                "bucket": "1h", "agg": ["count"]});
            let found = keeping.items(&path, Some(asked)).await?.join(" ");
            assert_eq!(found.matches("long").count(), 3, "{level} {group}: {found}");
            assert_eq!(
                found.matches("short").count(),
                1,
                "{level} {group}: {found}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_current_is_shown_however_old_it_is_and_was_then_too() -> Result<()> {
    let keeping = Keeping::create().await?;
    keeping.keep().await?;
    let of = async |path: String| -> Result<Value> {
        let answer = keeping.json(&path, None).await?;
        Ok(answer["attributes"].clone())
    };
    let current = of("/v1/entities/thing/B".to_owned()).await?;
    let whole = json!({"short": 60.0, "plain": 100.0, "long": 100.0});
    assert_eq!(current, whole);
    for level in LEVELS {
        for (id, days, wanted) in [
            // From the boundary of each on, it is what it was.
            ("A", 5, json!({"short": 20.0, "plain": 20.0, "long": 20.0})),
            // Before it, it is not told what it was, unless it is so still.
            ("A", 15, json!({"plain": 20.0, "long": 20.0})),
            ("A", 50, json!({"long": 60.0})),
            ("A", 95, json!({})),
            ("B", 50, whole.clone()),
            ("B", 95, json!({"plain": 100.0, "long": 100.0})),
        ] {
            let path = format!(
                "/v1/entities/thing/{id}?consistency={level}&as_of={}",
                keeping.ago(days)
            );
            assert_eq!(of(path.clone()).await?, wanted, "{path}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_in_sql_see_history_as_others_do_and_current_values_all() -> Result<()> {
    let keeping = Keeping::create().await?;
    keeping.keep().await?;
    let key = keeping.server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let key = key["key"].get("key").or_else(|| key.get("key"));
    let key = key.and_then(Value::as_str).context("a key")?;
    let psql = connect(keeping.server.pgwire, "acme", key, "").await?;
    for (query, wanted) in [
        (
            "SELECT attribute, count(*) FROM facts GROUP BY 1 ORDER BY 1",
            json!([["long", 3], ["plain", 2], ["short", 1]]),
        ),
        (
            "SELECT attribute, sum(\"count\") FROM facts_hourly GROUP BY 1 ORDER BY 1",
            json!([["long", 3], ["plain", 2], ["short", 1]]),
        ),
        (
            "SELECT external_id, short, plain, long FROM current.thing ORDER BY 1",
            json!([["A", 1.0, 1.0, 1.0], ["B", 60.0, 100.0, 100.0]]),
        ),
        ("SELECT count(*) FROM attributes", json!([[3]])),
    ] {
        let answer = keeping
            .json("/v1/sql", Some(json!({ "query": query })))
            .await?;
        assert_eq!(answer["rows"], wanted, "{query}");
        let rows = psql.simple_query(query).await?;
        let rows = rows.iter();
        let count = rows.filter(|row| matches!(row, SimpleQueryMessage::Row(_)));
        let wanted = wanted.as_array().map(Vec::len);
        assert_eq!(Some(count.count()), wanted, "{query}");
    }
    let first = "SELECT count(*) FROM facts WHERE attribute = 'short'";
    let rows = psql.simple_query(first).await?;
    let shown = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(shown, Some("1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_is_declared_described_and_taken_back() -> Result<()> {
    let server = TestServer::start().await?;
    let own = server.tenant("acme").await?;
    let declare = async |body: Value| {
        let body = body.to_string();
        own.post("/v1/attributes", JSON, body.as_bytes()).await
    };
    let declared = json!({"name": "temp", "type": "float", "retention": "2w"});
    let made = expect(&declare(declared.clone()).await?, 201)?;
    assert_eq!(made["retention"], "2w", "{made}");
    assert_eq!(expect(&declare(declared).await?, 200)?["retention"], "2w");
    let other = json!({"name": "temp", "type": "float", "retention": "3w"});
    assert_eq!(problem(&declare(other).await?, 409)?, "attribute_exists");
    let none = expect(&declare(json!({"name": "on", "type": "bool"})).await?, 201)?;
    assert!(none["retention"].is_null(), "{none}");
    for refused in [json!("0s"), json!("1y"), json!(-5), json!([1])] {
        let body = json!({"name": "new", "type": "int", "retention": refused});
        let code = problem(&declare(body.clone()).await?, 400)?;
        assert_eq!(code, "invalid_parameter", "{body}");
    }
    let headers = [("content-type", JSON)];
    for (body, wanted) in [
        (json!({"unit": "C"}), json!("2w")),
        (json!({"retention": 3600}), json!("1h")),
        (json!({"retention": null}), Value::Null),
    ] {
        let body = body.to_string();
        let path = "/v1/attributes/temp";
        let set = own
            .request("PATCH", path, &headers, body.as_bytes())
            .await?;
        assert_eq!(expect(&set, 200)?["retention"], wanted, "{body}");
        let shown = expect(&own.get(path).await?, 200)?;
        assert_eq!(
            (&shown["retention"], &shown["unit"]),
            (&wanted, &json!("C"))
        );
    }
    Ok(())
}
