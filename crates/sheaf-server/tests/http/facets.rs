//! Facets, in a query and in a body.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::{JSON, TestServer, expect, problem};

fn maker_of(number: usize) -> &'static str {
    ["BOEING", "AIRBUS", "BOEING", "=EMBRAER"][number % 4]
}

/// Planes of three makers, of which some have no seats.
async fn planes(server: &TestServer) -> Result<sheaf_testkit::HttpClient> {
    let acme = server.tenant("acme").await?;
    for (name, kind, pin) in [
        ("price", "decimal", "cold"),
        ("seats", "int", "hot"),
        ("built", "time", "cold"),
    ] {
        let body = json!({"name": name, "type": kind, "pin": pin}).to_string();
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
    }
    let events: Vec<_> = (0..60)
        .map(|number| {
            let price = if number % 2 == 0 { "12.50" } else { "12.5" };
            let mut attributes = json!({
                "maker": maker_of(number),
                "price": price,
                "built": format!("2013-01-{:02}T12:00:00Z", 1 + number % 10),
            });
            if number % 5 > 0 {
                attributes["seats"] = json!(number * 10);
            }
            json!({"type": "plane", "id": format!("N{number:02}"), "observed_at": "2013-02-01T00:00:00Z", "attributes": attributes})
        })
        .collect();
    let body = json!(events).to_string();
    expect(&acme.post("/v1/ingest", JSON, body.as_bytes()).await?, 200)?;
    Ok(acme)
}

#[tokio::test]
async fn facets_are_of_everything_that_matches_and_the_same_in_both_forms() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = planes(&server).await?;
    let path = "/v1/entities?type=plane&filter=seats%20%3E%3D%20100&limit=1&count=exact\
        &facets=maker:2,seats:histogram:200,price,built:histogram:1w,entity_type";
    let listed = expect(&acme.get(path).await?, 200)?;
    let seats: Vec<usize> = (0..60)
        .filter(|number| number % 5 > 0 && *number >= 10)
        .collect();
    let made = |maker: &str| {
        let planes = seats.iter().filter(|number| maker_of(**number) == maker);
        planes.count()
    };
    let others = [("AIRBUS", made("AIRBUS")), ("=EMBRAER", made("=EMBRAER"))];
    // Of equally frequent ones the least by its bytes.
    let (second, third) = if others[0].1 > others[1].1 {
        (others[0], others[1])
    } else {
        (others[1], others[0])
    };
    ensure!(
        listed["facets"]["maker"]
            == json!({"kind": "top", "buckets": [{"value": "BOEING", "count": made("BOEING")}, {"value": second.0, "count": second.1}],
                "other": third.1, "missing": 0}),
        "{listed}"
    );
    let count = |from: usize| {
        seats
            .iter()
            .filter(|number| (from..from + 200).contains(&(**number * 10)))
            .count()
    };
    let buckets: Vec<_> = [0, 200, 400]
        .map(|from| json!({"from": from, "to": from + 200, "count": count(from)}))
        .to_vec();
    ensure!(
        listed["facets"]["seats"]
            == json!({"kind": "histogram", "interval": 200, "buckets": buckets, "missing": 0}),
        "{listed}"
    );
    ensure!(
        listed["facets"]["price"]
            == json!({"kind": "top", "buckets": [{"value": "12.50", "count": seats.len()}], "other": 0, "missing": 0}),
        "{listed}"
    );
    let built = &listed["facets"]["built"];
    ensure!(
        built["interval"] == "1w" && built["buckets"][0]["from"] == "2012-12-31T00:00:00Z",
        "{built}"
    );
    ensure!(
        listed["count"]["value"] == seats.len()
            && listed["items"].as_array().map(Vec::len) == Some(1),
        "{listed}"
    );
    let body = json!({"type": "plane", "filter": "seats >= 100", "limit": 1, "count": "exact", "facets": {
        "maker": {"top": 2}, "seats": {"histogram": 200}, "price": {}, "built": {"histogram": "1w"}, "entity_type": {}}});
    let found = expect(
        &acme
            .post("/v1/entities/search", JSON, body.to_string().as_bytes())
            .await?,
        200,
    )?;
    ensure!(found["facets"] == listed["facets"], "{found}");
    let all = expect(&acme.get("/v1/entities?facets=seats:3").await?, 200)?;
    ensure!(all["facets"]["seats"]["missing"] == 12, "{all}");
    let none = expect(&acme.get("/v1/entities").await?, 200)?;
    ensure!(none.get("facets").is_none(), "{none}");
    Ok(())
}

#[tokio::test]
async fn a_facet_that_cannot_be_counted_says_what_is_wrong() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = planes(&server).await?;
    for (facets, status, code) in [
        ("seatz", 400, "unknown_attribute"),
        ("maker:0", 400, "invalid_parameter"),
        ("maker:101", 400, "invalid_parameter"),
        ("maker:histogram:1", 400, "invalid_parameter"),
        ("seats:histogram:0.5", 400, "invalid_parameter"),
        ("seats:bars:5", 400, "invalid_parameter"),
        ("seats,seats:histogram:5", 400, "invalid_parameter"),
        ("built:histogram:1ms", 200, ""),
        ("a,b,c,d,e,f,g,h,i,j,k", 400, "invalid_parameter"),
    ] {
        let answer = acme.get(&format!("/v1/entities?facets={facets}")).await?;
        if status == 200 {
            expect(&answer, 200)?;
        } else {
            ensure!(
                problem(&answer, status)? == code,
                "{facets}: {}",
                answer.text()
            );
        }
    }
    Ok(())
}
