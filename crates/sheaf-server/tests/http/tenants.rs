//! Tenants, by administrators.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{JSON, TestServer, expect, is_fresh_read, problem, send};

#[tokio::test]
async fn a_tenant_is_created_with_its_defaults_and_a_key_that_works() -> Result<()> {
    let server = TestServer::start().await?;
    let created = expect(
        &server
            .admin
            .post("/v1/tenants", JSON, br#"{"name":"acme"}"#)
            .await?,
        201,
    )?;
    ensure!(
        created["name"] == "acme" && created["unknown_attributes"] == "create",
        "{created}"
    );
    ensure!(
        created["observed_at_min"] == "1990-01-01T00:00:00Z"
            && created["observed_at_ahead_max"] == "1d",
        "{created}"
    );
    ensure!(
        created["retention"].is_null() && created["line_protocol"] == json!({}),
        "{created}"
    );
    ensure!(
        created["created_at"].is_string() && created["key"]["scopes"] == json!(["read", "write"]),
        "{created}"
    );
    let key = created["key"]["key"].as_str().context("a key")?;
    ensure!(
        key.starts_with("shf_")
            && created["key"]["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("k_"))
    );
    expect(
        &server.anonymous.with_key(key).get("/v1/attributes").await?,
        200,
    )?;
    let again = server
        .admin
        .post("/v1/tenants", JSON, br#"{"name":"acme"}"#)
        .await?;
    ensure!(problem(&again, 409)? == "tenant_exists");
    Ok(())
}

#[tokio::test]
async fn a_tenants_policies_are_given_and_changed_one_by_one() -> Result<()> {
    let server = TestServer::start().await?;
    let body = r#"{"name":"acme","unknown_attributes":"refuse","observed_at_min":"2000-01-01T02:00:00+02:00",
        "observed_at_ahead_max":"2h","retention":"730d","line_protocol":{"cpu":{"id_tags":["host","cpu"]}}}"#;
    let created = expect(
        &server
            .admin
            .post("/v1/tenants", JSON, body.as_bytes())
            .await?,
        201,
    )?;
    ensure!(
        created["observed_at_min"] == "2000-01-01T00:00:00Z" && created["retention"] == "730d",
        "{created}"
    );
    let changed = expect(
        &send(
            &server.admin,
            "PATCH",
            "/v1/tenants/acme",
            r#"{"retention":null,"observed_at_ahead_max":90}"#,
        )
        .await?,
        200,
    )?;
    ensure!(
        changed["retention"].is_null() && changed["observed_at_ahead_max"] == "90s",
        "{changed}"
    );
    ensure!(changed["unknown_attributes"] == "refuse", "{changed}");
    ensure!(
        changed["line_protocol"] == json!({"cpu":{"id_tags":["host","cpu"]}}),
        "{changed}"
    );
    ensure!(
        changed.get("key").is_none() && changed["created_at"] == created["created_at"],
        "{changed}"
    );
    ensure!(
        problem(
            &send(&server.admin, "PATCH", "/v1/tenants/nobody", "{}").await?,
            404
        )? == "not_found"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_tenant_is_named() -> Result<()> {
    let server = TestServer::start().await?;
    for (body, code, parameter) in [
        (r#"{}"#, "invalid_parameter", "name"),
        (r#"{"name":""}"#, "invalid_parameter", "name"),
        (r#"{"name":5}"#, "invalid_parameter", "name"),
        (
            r#"{"name":"a","unknown_attributes":"maybe"}"#,
            "invalid_parameter",
            "unknown_attributes",
        ),
        (
            r#"{"name":"a","observed_at_min":"1990"}"#,
            "invalid_parameter",
            "observed_at_min",
        ),
        (
            r#"{"name":"a","retention":"1y"}"#,
            "invalid_parameter",
            "retention",
        ),
        (
            r#"{"name":"a","line_protocol":{"cpu":{"id_tags":[]}}}"#,
            "invalid_parameter",
            "line_protocol",
        ),
        (
            r#"{"name":"a","tenant_id":7}"#,
            "unknown_parameter",
            "tenant_id",
        ),
    ] {
        let response = server
            .admin
            .post("/v1/tenants", JSON, body.as_bytes())
            .await?;
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
    for body in ["", "[]", "{", r#"{"name":"a","name":"b"}"#] {
        ensure!(
            problem(
                &server
                    .admin
                    .post("/v1/tenants", JSON, body.as_bytes())
                    .await?,
                400
            )? == "malformed_json",
            "{body}"
        );
    }
    let response = server
        .admin
        .post("/v1/tenants", "text/plain", br#"{"name":"a"}"#)
        .await?;
    ensure!(problem(&response, 415)? == "unsupported_media_type");
    Ok(())
}

#[tokio::test]
async fn tenants_are_listed_in_pages_in_order_of_name() -> Result<()> {
    let server = TestServer::start().await?;
    for name in ["c", "a", "b"] {
        server.tenant(name).await?;
    }
    let first = server.admin.get("/v1/tenants?limit=2").await?;
    is_fresh_read(&first)?;
    let page = expect(&first, 200)?;
    ensure!(
        page["items"][0]["name"] == "a"
            && page["items"][1]["name"] == "b"
            && page["items"][2].is_null(),
        "{page}"
    );
    let cursor = page["next_cursor"].as_str().context("a cursor")?;
    let link = first.header("link").context("a link")?;
    ensure!(
        link == format!("</v1/tenants?limit=2&cursor={cursor}>; rel=\"next\""),
        "{link}"
    );
    let page = expect(
        &server
            .admin
            .get(&format!("/v1/tenants?limit=2&cursor={cursor}"))
            .await?,
        200,
    )?;
    ensure!(
        page["items"][0]["name"] == "c" && page["next_cursor"].is_null(),
        "{page}"
    );
    let mut forged = cursor.to_owned();
    forged.pop();
    for query in [
        format!("cursor={forged}"),
        "cursor=x".to_owned(),
        "cursor=c1.".to_owned(),
    ] {
        ensure!(
            problem(
                &server.admin.get(&format!("/v1/tenants?{query}")).await?,
                400
            )? == "invalid_cursor",
            "{query}"
        );
    }
    // A cursor of one list is none of another.
    let keys = server
        .admin
        .get(&format!("/v1/tenants/a/keys?cursor={cursor}"))
        .await?;
    ensure!(problem(&keys, 400)? == "invalid_cursor");
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2"] {
        ensure!(
            problem(
                &server.admin.get(&format!("/v1/tenants?{query}")).await?,
                400
            )? == "invalid_parameter",
            "{query}"
        );
    }
    ensure!(problem(&server.admin.get("/v1/tenants?page=2").await?, 400)? == "unknown_parameter");
    Ok(())
}

#[tokio::test]
async fn changes_of_different_members_at_once_are_all_kept() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    expect(
        &acme
            .post("/v1/attributes", JSON, br#"{"name":"n","type":"int"}"#)
            .await?,
        201,
    )?;
    for round in 0..20 {
        let policies = [
            json!({"retention": format!("{}d", 141 + round * 7)}).to_string(),
            json!({"observed_at_ahead_max": format!("{}h", 31 + round * 2)}).to_string(),
        ];
        let descriptions = [
            json!({"unit": format!("u{round}")}).to_string(),
            json!({"description": format!("d{round}")}).to_string(),
        ];
        let (one, two, three, four) = tokio::try_join!(
            send(&server.admin, "PATCH", "/v1/tenants/acme", &policies[0]),
            send(&server.admin, "PATCH", "/v1/tenants/acme", &policies[1]),
            send(&acme, "PATCH", "/v1/attributes/n", &descriptions[0]),
            send(&acme, "PATCH", "/v1/attributes/n", &descriptions[1]),
        )?;
        for changed in [one, two, three, four] {
            expect(&changed, 200)?;
        }
        let tenant = expect(
            &send(&server.admin, "PATCH", "/v1/tenants/acme", "{}").await?,
            200,
        )?;
        ensure!(
            tenant["retention"] == format!("{}d", 141 + round * 7)
                && tenant["observed_at_ahead_max"] == format!("{}h", 31 + round * 2),
            "round {round}: {tenant}"
        );
        let attribute = expect(&acme.get("/v1/attributes/n").await?, 200)?;
        ensure!(
            attribute["unit"] == format!("u{round}")
                && attribute["description"] == format!("d{round}"),
            "round {round}: {attribute}"
        );
    }
    Ok(())
}
