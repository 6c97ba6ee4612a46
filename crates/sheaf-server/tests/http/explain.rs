//! What answers a list, told to administrators alone.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::{JSON, TestServer, expect, problem, send};

#[tokio::test]
async fn an_administrator_is_told_what_answers_each_condition_and_nobody_else_is() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (name, kind, pin) in [
        ("seats", "int", json!("hot")),
        ("maker", "text", json!(null)),
        ("note", "float", json!("cold")),
    ] {
        let body = json!({"name": name, "type": kind, "pin": pin}).to_string();
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
    }
    for (id, seats) in [("a", 100), ("b", 450), ("c", 20)] {
        let body = json!({"attributes":{"seats":seats,"maker":"x","note":1.5}}).to_string();
        let path = format!("/v1/entities/plane/{id}");
        expect(&send(&acme, "PATCH", &path, &body).await?, 201)?;
    }
    let filter = "seats >= 100 AND maker = 'x' AND NOT note = 2 AND external_id <> 'z' AND maker IS NOT NULL";
    let body = json!({"type": "plane", "filter": filter}).to_string();
    let path = "/v1/entities/search?explain=true";
    let refused = acme.post(path, JSON, body.as_bytes()).await?;
    ensure!(problem(&refused, 403)? == "forbidden");
    let headers = [("x-tenant", "acme"), ("content-type", JSON)];
    let answer = expect(
        &server
            .admin
            .request("POST", path, &headers, body.as_bytes())
            .await?,
        200,
    )?;
    let explain = &answer["explain"];
    let parts = json!([
        {"predicate": "seats >= 100", "by": "typed_index", "estimated_rows": 2},
        {"predicate": "maker = 'x'", "by": "hot_index", "estimated_rows": 3},
        {"predicate": "NOT note = 2", "by": "presence", "estimated_rows": 3},
        explain["parts"][3].clone(),
        {"predicate": "NOT maker IS NULL", "by": "presence", "estimated_rows": 3},
    ]);
    ensure!(explain["parts"] == parts, "{explain}");
    ensure!(explain["parts"][3]["by"] == "scan", "{explain}");
    ensure!(explain["source"] == "primary" && explain["cost"].as_f64() > Some(0.0));
    ensure!(answer["items"][1]["id"] == "b" && answer["items"][2].is_null());

    // Alternatives have their indexes only where each of them has one.
    for (filter, expected) in [
        (
            "seats >= 100 OR maker = 'x' OR note > 1",
            ["typed_index", "hot_index", "presence"],
        ),
        (
            "seats >= 100 OR maker = 'x' OR external_id = 'c'",
            ["scan"; 3],
        ),
        (
            "maker = 'x' AND (seats >= 100 OR note > 1)",
            ["hot_index", "scan", "scan"],
        ),
        (
            "seats >= 100 AND (seats < 200 OR maker = 'x')",
            ["typed_index", "typed_index", "hot_index"],
        ),
    ] {
        let body = json!({"type": "plane", "filter": filter}).to_string();
        let answer = server
            .admin
            .request("POST", path, &headers, body.as_bytes())
            .await?;
        let explain = expect(&answer, 200)?["explain"].clone();
        let by: Vec<_> = (0..3)
            .map(|place| explain["parts"][place]["by"].clone())
            .collect();
        ensure!(by == expected, "{filter}: {explain}");
        ensure!(
            explain["parts"][0]["estimated_rows"].as_i64() > Some(1),
            "{filter}: {explain}"
        );
    }

    let query = "/v1/entities?explain=true&filter=seats%20%3E%3D%20100";
    ensure!(problem(&acme.get(query).await?, 403)? == "forbidden");
    let listed = server
        .admin
        .request("GET", query, &[("x-tenant", "acme")], b"")
        .await?;
    ensure!(expect(&listed, 200)?["explain"]["parts"][0]["by"] == "typed_index");
    let plain = expect(&acme.get("/v1/entities?explain=false").await?, 200)?;
    ensure!(plain.get("explain").is_none(), "{plain}");
    Ok(())
}
