//! The catalogue.

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use serde_json::json;

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem, send};

#[tokio::test]
async fn an_attribute_is_declared_once_and_its_type_never_changes() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let body = r#"{"name":"temp","type":"float","unit":"degF","description":"air temperature","schema":{"minimum":-60},"pii":false,"pin":null}"#;
    let response = acme.post("/v1/attributes", JSON, body.as_bytes()).await?;
    ensure!(response.header("x-consistency-token").is_some());
    let created = expect(&response, 201)?;
    ensure!(
        created["origin"] == "declared"
            && created["type"] == "float"
            && created["temperature"] == "cold",
        "{created}"
    );
    ensure!(
        created["schema"] == json!({"minimum":-60})
            && created["pin"].is_null()
            && created["pii"] == false,
        "{created}"
    );
    ensure!(
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            200
        )? == created
    );
    for other in [
        r#"{"name":"temp","type":"int"}"#,
        r#"{"name":"temp","type":"float","unit":"degC"}"#,
    ] {
        ensure!(
            problem(
                &acme.post("/v1/attributes", JSON, other.as_bytes()).await?,
                409
            )? == "attribute_exists",
            "{other}"
        );
    }
    let shown = acme.get("/v1/attributes/temp").await?;
    is_fresh_read(&shown)?;
    ensure!(expect(&shown, 200)? == created);
    ensure!(
        problem(
            &send(&acme, "PATCH", "/v1/attributes/temp", r#"{"type":"int"}"#).await?,
            422
        )? == "type_immutable"
    );
    let changed = expect(
        &send(
            &acme,
            "PATCH",
            "/v1/attributes/temp",
            r#"{"unit":"degC","description":null}"#,
        )
        .await?,
        200,
    )?;
    ensure!(
        changed["unit"] == "degC" && changed["description"].is_null(),
        "{changed}"
    );
    ensure!(
        changed["schema"] == created["schema"] && changed["created_at"] == created["created_at"],
        "{changed}"
    );
    let other = server.tenant("other").await?;
    ensure!(problem(&other.get("/v1/attributes/temp").await?, 404)? == "not_found");
    Ok(())
}

#[tokio::test]
async fn a_pin_decides_the_temperature_and_a_changed_one_sets_values_moving() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (body, temperature) in [
        (r#"{"name":"a","type":"int"}"#, "hot"),
        (r#"{"name":"b","type":"float"}"#, "cold"),
        (r#"{"name":"c","type":"float","pin":"hot"}"#, "hot"),
        (r#"{"name":"d","type":"text","pin":"cold"}"#, "cold"),
    ] {
        let created = expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
        ensure!(created["temperature"] == temperature, "{created}");
    }
    let is_woken = || server.wake_upkeep.notified().now_or_never().is_some();
    ensure!(!is_woken(), "a new attribute has no values to move");
    let warming = expect(
        &send(&acme, "PATCH", "/v1/attributes/b", r#"{"pin":"hot"}"#).await?,
        200,
    )?;
    ensure!(is_woken());
    ensure!(
        warming["temperature"] == "warming" && warming["pin"] == "hot",
        "{warming}"
    );
    let cooling = expect(
        &send(&acme, "PATCH", "/v1/attributes/a", r#"{"pin":"cold"}"#).await?,
        200,
    )?;
    ensure!(cooling["temperature"] == "cooling", "{cooling}");
    ensure!(is_woken());
    let described = expect(
        &send(&acme, "PATCH", "/v1/attributes/c", r#"{"unit":"m"}"#).await?,
        200,
    )?;
    ensure!(described["temperature"] == "hot", "{described}");
    let again = r#"{"name":"c","type":"float","unit":"m","pin":"hot"}"#;
    expect(
        &acme.post("/v1/attributes", JSON, again.as_bytes()).await?,
        200,
    )?;
    for (path, body) in [
        ("/v1/attributes/a", r#"{"pin":"cold"}"#),
        ("/v1/attributes/c", r#"{"pin":null,"unit":"m"}"#),
        ("/v1/attributes/d", r#"{"pin":"cold","unit":"m"}"#),
    ] {
        expect(&send(&acme, "PATCH", path, body).await?, 200)?;
        // Unpinned, a float moves to its default.
        let moves = path.ends_with('c');
        ensure!(is_woken() == moves, "{path} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn names_are_one_spelling_and_may_be_encoded_in_the_path() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (name, path) in [
        ("a/b", "a%2Fb"),
        ("50%", "50%25"),
        ("cafe\u{301}", "caf%C3%A9"),
        ("two words", "two%20words"),
    ] {
        let body = json!({ "name": name, "type": "text" }).to_string();
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
        let shown = expect(&acme.get(&format!("/v1/attributes/{path}")).await?, 200)?;
        ensure!(shown["type"] == "text", "{shown}");
    }
    ensure!(problem(&acme.get("/v1/attributes/a%252Fb").await?, 404)? == "not_found");
    Ok(())
}

#[tokio::test]
async fn attributes_are_listed_by_prefix_in_pages() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for name in ["b1", "a2", "a1", "a3"] {
        let body = json!({ "name": name, "type": "int" }).to_string();
        expect(
            &acme.post("/v1/attributes", JSON, body.as_bytes()).await?,
            201,
        )?;
    }
    let page = expect(&acme.get("/v1/attributes?prefix=a&limit=2").await?, 200)?;
    let cursor = page["next_cursor"].as_str().context("a cursor")?;
    ensure!(
        page["items"][0]["name"] == "a1" && page["items"][1]["name"] == "a2",
        "{page}"
    );
    let rest = expect(
        &acme
            .get(&format!("/v1/attributes?prefix=a&limit=2&cursor={cursor}"))
            .await?,
        200,
    )?;
    ensure!(
        rest["items"][0]["name"] == "a3"
            && rest["items"][1].is_null()
            && rest["next_cursor"].is_null(),
        "{rest}"
    );
    // Of another query, and of another tenant.
    let other = server.tenant("other").await?;
    for (client, query) in [(&acme, "prefix=b"), (&other, "prefix=a")] {
        let response = client
            .get(&format!("/v1/attributes?{query}&limit=2&cursor={cursor}"))
            .await?;
        ensure!(problem(&response, 400)? == "invalid_cursor", "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_an_attribute_is_named() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (body, code, parameter) in [
        (r#"{"type":"int"}"#, "invalid_parameter", "name"),
        (
            r#"{"name":"external_id","type":"int"}"#,
            "invalid_parameter",
            "name",
        ),
        (r#"{"name":"a"}"#, "invalid_parameter", "type"),
        (
            r#"{"name":"a","type":"integer"}"#,
            "invalid_parameter",
            "type",
        ),
        (
            r#"{"name":"a","type":"int","pin":"warm"}"#,
            "invalid_parameter",
            "pin",
        ),
        (
            r#"{"name":"a","type":"int","pii":"no"}"#,
            "invalid_parameter",
            "pii",
        ),
        (
            r#"{"name":"a","type":"int","schema":{"type":"no such type"}}"#,
            "invalid_parameter",
            "schema",
        ),
        (
            r#"{"name":"a","type":"int","units":"m"}"#,
            "unknown_parameter",
            "units",
        ),
    ] {
        let response = acme.post("/v1/attributes", JSON, body.as_bytes()).await?;
        ensure!(
            problem(&response, 400)? == code,
            "{body}: {}",
            response.text()
        );
        ensure!(
            response.json()?["errors"][0]["parameter"] == parameter,
            "{body}: {}",
            response.text()
        );
    }
    Ok(())
}
