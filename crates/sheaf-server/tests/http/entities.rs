//! Entities: edited, read back, listed, and their history.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem, send};

#[tokio::test]
async fn an_edit_is_read_back_as_it_was_written() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let path = "/v1/entities/plane/N14228";
    let body = r#"{"attributes":{"seats":149,"model":"737-824","speed":null},"observed_at":"2013-01-01T10:00:00Z"}"#;
    let response = send(&acme, "PATCH", path, body).await?;
    let created = expect(&response, 201)?;
    ensure!(
        created["type"] == "plane" && created["id"] == "N14228" && created["ack"] == "durable",
        "{created}"
    );
    ensure!(
        created["observed_at"] == "2013-01-01T10:00:00Z" && created["superseded"] == json!([]),
        "{created}"
    );
    let version = created["version"].as_i64().context("a version")?;
    let tag = format!("\"{version}\"");
    ensure!(
        response.header("etag") == Some(tag.as_str()),
        "{:?}",
        response.headers
    );
    ensure!(
        response.header("x-consistency-token") == created["token"].as_str(),
        "{created}"
    );
    let shown = acme.get(&format!("{path}?times=true")).await?;
    is_fresh_read(&shown)?;
    ensure!(shown.header("etag") == Some(tag.as_str()));
    let entity = expect(&shown, 200)?;
    ensure!(
        entity["attributes"]["model"] == "737-824"
            && entity["attributes"]["seats"].as_f64() == Some(149.0),
        "{entity}"
    );
    ensure!(
        entity["times"]["seats"] == "2013-01-01T10:00:00Z" && entity["version"] == version,
        "{entity}"
    );
    ensure!(entity["attributes"].get("speed").is_none(), "{entity}");
    let known = acme
        .request("GET", path, &[("if-none-match", &tag)], b"")
        .await?;
    ensure!(
        known.status == 304 && known.body.is_empty() && known.header("etag") == Some(tag.as_str()),
        "{known:?}"
    );
    let selected = expect(&acme.get(&format!("{path}?select=model")).await?, 200)?;
    ensure!(
        selected["attributes"] == json!({"model":"737-824"}) && selected.get("times").is_none(),
        "{selected}"
    );
    Ok(())
}

#[tokio::test]
async fn preconditions_admit_the_version_that_they_name() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let path = "/v1/entities/plane/N1";
    let put = async |headers: &[(&str, &str)], body: &str| {
        let mut headers = headers.to_vec();
        headers.push(("content-type", JSON));
        acme.request("PUT", path, &headers, body.as_bytes()).await
    };
    let created = put(
        &[("if-none-match", "*")],
        r#"{"attributes":{"a":"x","b":"y"}}"#,
    )
    .await?;
    expect(&created, 201)?;
    let tag = created.header("etag").context("a tag")?.to_owned();
    ensure!(
        problem(
            &put(&[("if-none-match", "*")], r#"{"attributes":{}}"#).await?,
            412
        )? == "version_mismatch"
    );
    ensure!(
        problem(
            &put(&[("if-match", "\"999\"")], r#"{"attributes":{}}"#).await?,
            412
        )? == "version_mismatch"
    );
    expect(
        &put(&[("if-match", &tag)], r#"{"attributes":{"b":"z"}}"#).await?,
        200,
    )?;
    ensure!(
        problem(
            &put(&[("if-match", &tag)], r#"{"attributes":{}}"#).await?,
            412
        )? == "version_mismatch"
    );
    let entity = expect(&acme.get(path).await?, 200)?;
    ensure!(entity["attributes"] == json!({"b":"z"}), "{entity}");
    Ok(())
}

#[tokio::test]
async fn a_deleted_entity_is_gone_and_was_there() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let path = "/v1/entities/plane/N1";
    expect(
        &send(
            &acme,
            "PATCH",
            path,
            r#"{"attributes":{"a":"x"},"observed_at":"2013-01-01T10:00:00Z"}"#,
        )
        .await?,
        201,
    )?;
    let deleted = acme
        .request(
            "DELETE",
            &format!("{path}?observed_at=2013-01-02T00:00:00Z"),
            &[],
            b"",
        )
        .await?;
    ensure!(
        deleted.status == 204 && deleted.header("x-consistency-token").is_some(),
        "{}",
        deleted.text()
    );
    let gone = acme.get(path).await?;
    is_fresh_read(&gone)?;
    ensure!(problem(&gone, 404)? == "not_found");
    ensure!(
        problem(
            &acme
                .request("DELETE", "/v1/entities/plane/never", &[], b"")
                .await?,
            404
        )? == "not_found"
    );
    Ok(())
}

#[tokio::test]
async fn the_path_is_decoded_once() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (path, id) in [
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("host=a,region=eu", "host=a,region=eu"),
        ("%C3%A9", "\u{e9}"),
        ("a+b", "a+b"),
    ] {
        let path = format!("/v1/entities/odd%20type/{path}");
        let created = expect(
            &send(&acme, "PATCH", &path, r#"{"attributes":{"a":"x"}}"#).await?,
            201,
        )?;
        ensure!(
            created["id"] == id && created["type"] == "odd type",
            "{created}"
        );
        ensure!(expect(&acme.get(&path).await?, 200)?["id"] == id, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn one_bad_value_refuses_the_edit_and_is_named() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"seats","type":"int"}"#)
            .await?,
        201,
    )?;
    let path = "/v1/entities/plane/N1";
    let refused = send(
        &acme,
        "PATCH",
        path,
        r#"{"attributes":{"seats":"many","model":"x"}}"#,
    )
    .await?;
    ensure!(problem(&refused, 422)? == "invalid_value");
    let fault = &refused.json()?["errors"][0];
    ensure!(
        fault["parameter"] == "attributes.seats"
            && fault["code"] == "type_mismatch"
            && fault["detail"].is_string(),
        "{fault}"
    );
    ensure!(problem(&acme.get(path).await?, 404)? == "not_found");
    for (body, code) in [
        ("{", "malformed_json"),
        ("[]", "malformed_json"),
        (r#"{"attributes":{},"version":7}"#, "unknown_parameter"),
    ] {
        ensure!(
            problem(&send(&acme, "PATCH", path, body).await?, 400)? == code,
            "{body}"
        );
    }
    ensure!(
        problem(
            &send(&acme, "PATCH", &format!("{path}?ack=replicated"), "{}").await?,
            503
        )? == "ack_unavailable"
    );
    ensure!(
        problem(
            &send(&acme, "PATCH", &format!("{path}?ack=staged"), "{}").await?,
            400
        )? == "invalid_parameter"
    );
    ensure!(
        problem(
            &send(&acme, "PATCH", &format!("{path}?ack=maybe"), "{}").await?,
            400
        )? == "invalid_parameter"
    );
    ensure!(
        problem(
            &send(&acme, "PATCH", &format!("{path}?force=true"), "{}").await?,
            400
        )? == "unknown_parameter"
    );
    Ok(())
}

#[tokio::test]
async fn entities_are_listed_by_filter_in_order_page_by_page() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"seats","type":"int"}"#)
            .await?,
        201,
    )?;
    for (id, seats) in [("a", 100), ("b", 450), ("c", 200), ("d", 20)] {
        let body = json!({"attributes":{"seats":seats}}).to_string();
        expect(
            &send(&acme, "PATCH", &format!("/v1/entities/plane/{id}"), &body).await?,
            201,
        )?;
    }
    let query =
        "type=plane&filter=seats%20%3E%3D%20100&sort=-seats&select=seats&limit=2&count=exact";
    let first = acme.get(&format!("/v1/entities?{query}")).await?;
    is_fresh_read(&first)?;
    let page = expect(&first, 200)?;
    ensure!(
        page["items"][0]["id"] == "b"
            && page["items"][1]["id"] == "c"
            && page["items"][2].is_null(),
        "{page}"
    );
    ensure!(page["count"] == json!({"kind":"exact","value":3}), "{page}");
    ensure!(
        page["items"][0]["attributes"] == json!({"seats":450})
            && page["items"][0]["version"].is_i64(),
        "{page}"
    );
    let next = first
        .header("link")
        .and_then(|link| link.strip_prefix('<')?.strip_suffix(">; rel=\"next\""))
        .context("a link")?;
    let rest = expect(&acme.get(next).await?, 200)?;
    ensure!(
        rest["items"][0]["id"] == "a"
            && rest["items"][1].is_null()
            && rest["next_cursor"].is_null(),
        "{rest}"
    );
    let body = r#"{"type":"plane","filter":{"op":">=","args":[{"property":"seats"},100]},"sort":["-seats"],"select":["seats"],"limit":2,"count":"exact"}"#;
    let searched = expect(
        &acme
            .post("/v1/entities/search", JSON, body.as_bytes())
            .await?,
        200,
    )?;
    ensure!(
        searched["items"] == page["items"] && searched["count"] == page["count"],
        "{searched}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_list_is_named() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (query, code, parameter) in [
        ("filter=seatz%20%3D%201", "unknown_attribute", "filter"),
        ("filter=seats%20%3D", "invalid_filter", "filter"),
        ("sort=seatz", "unknown_attribute", "sort"),
        ("limit=0", "invalid_parameter", "limit"),
        ("limit=1001", "invalid_parameter", "limit"),
        ("count=all", "invalid_parameter", "count"),
        ("facets=seatz", "unknown_attribute", "facets"),
        ("facets=seats:0", "unknown_attribute", "facets"),
        ("facets=external_id:0", "invalid_parameter", "facets"),
        ("filter-lang=sql", "invalid_parameter", "filter-lang"),
        ("filters=x", "unknown_parameter", "filters"),
        ("consistency=total", "invalid_parameter", "consistency"),
        ("max_lag=long", "invalid_parameter", "max_lag"),
    ] {
        let response = acme.get(&format!("/v1/entities?{query}")).await?;
        ensure!(
            problem(&response, 400)? == code,
            "{query}: {}",
            response.text()
        );
        ensure!(
            response.json()?["errors"][0]["parameter"] == parameter,
            "{query}: {}",
            response.text()
        );
    }
    let filter = acme
        .get("/v1/entities?filter=seatz%20%3D%201")
        .await?
        .json()?;
    ensure!(filter["errors"][0]["offset"] == 0, "{filter}");
    ensure!(problem(&acme.get("/v1/entities?cursor=c1.AAAA").await?, 400)? == "invalid_cursor");
    Ok(())
}

#[tokio::test]
async fn a_token_is_honoured_and_belongs_to_its_tenant() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let other = server.tenant("other").await?;
    let path = "/v1/entities/plane/N1";
    let created = send(&acme, "PATCH", path, r#"{"attributes":{"a":"x"}}"#).await?;
    let token = created.header("x-consistency-token").context("a token")?;
    let get = async |client: &sheaf_testkit::HttpClient, token: &str| {
        client
            .request("GET", path, &[("x-consistency-token", token)], b"")
            .await
    };
    let read = get(&acme, token).await?;
    expect(&read, 200)?;
    ensure!(read.header("x-consistency-level") == Some("session"));
    ensure!(acme.get(path).await?.header("x-consistency-level") == Some("strong"));
    ensure!(problem(&get(&other, token).await?, 400)? == "foreign_token");
    ensure!(problem(&get(&acme, "t1.AAAA").await?, 400)? == "invalid_token");
    Ok(())
}

#[tokio::test]
async fn history_is_shown_raw_and_in_buckets() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let path = "/v1/entities/airport/JFK";
    for (time, temp) in [("06:00", 39.0), ("06:30", 41.0), ("08:00", 40.0)] {
        let body =
            json!({"attributes":{"temp":temp},"observed_at":format!("2013-01-01T{time}:00Z")})
                .to_string();
        send(&acme, "PATCH", path, &body).await?;
    }
    let raw = acme
        .get(&format!("{path}/history?attribute=temp&limit=2"))
        .await?;
    is_fresh_read(&raw)?;
    let page = expect(&raw, 200)?;
    ensure!(
        page["type"] == "airport" && page["id"] == "JFK" && page["next_cursor"].is_string(),
        "{page}"
    );
    ensure!(
        page["items"][0]["observed_at"] == "2013-01-01T06:00:00Z"
            && page["items"][0]["attributes"] == json!({"temp":39.0}),
        "{page}"
    );
    ensure!(
        page["items"][0].get("deleted").is_none() && page["items"][0]["ingested_at"].is_string(),
        "{page}"
    );
    let buckets = expect(
        &acme
            .get(&format!(
                "{path}/history?attribute=temp&bucket=1h&agg=avg,max,count"
            ))
            .await?,
        200,
    )?;
    ensure!(
        buckets["bucket"] == "1h" && buckets["items"][0]["to"] == "2013-01-01T07:00:00Z",
        "{buckets}"
    );
    ensure!(
        buckets["items"][0]["attributes"]["temp"] == json!({"avg":40.0,"max":41.0,"count":2}),
        "{buckets}"
    );
    ensure!(problem(&acme.get("/v1/entities/airport/NONE/history").await?, 404)? == "not_found");
    ensure!(
        problem(&acme.get(&format!("{path}/history?agg=avg")).await?, 400)? == "invalid_parameter"
    );
    ensure!(
        problem(
            &acme
                .get(&format!("{path}/history?bucket=1h&agg=median"))
                .await?,
            400
        )? == "invalid_aggregate"
    );
    Ok(())
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_never_our_fault() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"a","type":"text"}"#)
            .await?,
        201,
    )?;
    for body in [
        r#"{"type":"x\u0000"}"#,
        r#"{"filter":"a = 'x\u0000'"}"#,
        r#"{"filter":{"op":"=","args":[{"property":"a"},"x\u0000"]}}"#,
        r#"{"filter":{"op":"=","args":[{"property":"external_id"},"x\u0000"]}}"#,
        r#"{"filter":"a LIKE 'x\u0000%'"}"#,
        r#"{"select":["x\u0000"]}"#,
        r#"{"sort":["x\u0000"]}"#,
        r#"{"cursor":"x\u0000"}"#,
    ] {
        let response = acme
            .post("/v1/entities/search", JSON, body.as_bytes())
            .await?;
        ensure!(response.status < 500, "{body}: {}", response.text());
    }
    for path in [
        "/v1/entities/x%00/y",
        "/v1/entities/x/y%00",
        "/v1/entities/x/y%00/history",
        "/v1/attributes/x%00",
    ] {
        ensure!(
            problem(&acme.get(path).await?, 404)? == "not_found",
            "{path}"
        );
    }
    ensure!(problem(&acme.get("/v1/rejections?type=x%00").await?, 400)? == "invalid_parameter");
    ensure!(
        send(&acme, "PATCH", "/v1/entities/x/y%00", "{}")
            .await?
            .status
            < 500
    );
    let cut = acme
        .get(&format!("/v1/entities/plane/{}", "x".repeat(513)))
        .await?;
    ensure!(problem(&cut, 404)? == "not_found");
    Ok(())
}
