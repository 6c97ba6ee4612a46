//! Keys: which routes they open, and how they are lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use serde_json::Value;
use sheaf_model::Limits;
use sheaf_server::Bounds;
use sheaf_store::keys::ApiKey;
use sheaf_testkit::{HttpClient, wait_until};

use crate::support::{JSON, TestServer, expect, problem};

/// Every operation of the document: method, a path that it matches, and the scope that it says it needs.
async fn operations(server: &TestServer) -> Result<Vec<(String, String, Option<String>)>> {
    let document = expect(&server.anonymous.get("/openapi.json").await?, 200)?;
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        let segments = path.split('/').map(|segment| {
            if segment.starts_with('{') {
                "x"
            } else {
                segment
            }
        });
        let concrete = segments.collect::<Vec<_>>().join("/");
        for (method, operation) in item.as_object().context("operations")? {
            let needed = operation["security"][0]["key"][0]
                .as_str()
                .map(str::to_owned);
            operations.push((method.to_uppercase(), concrete.clone(), needed));
        }
    }
    Ok(operations)
}

async fn status(client: &HttpClient, method: &str, path: &str) -> Result<(u16, Value)> {
    let response = client.request(method, path, &[], b"").await?;
    Ok((response.status, response.json().unwrap_or(Value::Null)))
}

#[tokio::test]
async fn every_route_refuses_a_request_without_the_key_that_it_needs() -> Result<()> {
    let server = TestServer::start().await?;
    server.tenant("acme").await?;
    let reader = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let writer = server.key("acme", r#"{"scopes":["write"]}"#).await?;
    let reader = server
        .anonymous
        .with_key(reader["key"].as_str().context("a key")?);
    let writer = server
        .anonymous
        .with_key(writer["key"].as_str().context("a key")?);
    let operations = operations(&server).await?;
    let mut open = Vec::new();
    for (method, path, needed) in &operations {
        let at = format!("{method} {path}");
        let (anonymous, _) = status(&server.anonymous, method, path).await?;
        let Some(needed) = needed else {
            ensure!(
                !matches!(anonymous, 401 | 403),
                "{at} says that it needs no key"
            );
            open.push(path.as_str());
            continue;
        };
        ensure!(anonymous == 401, "{at} without a key: {anonymous}");
        let (by_reader, _) = status(&reader, method, path).await?;
        let (by_writer, _) = status(&writer, method, path).await?;
        let (by_admin, body) = status(&server.admin, method, path).await?;
        ensure!(
            (by_reader == 403) == (needed != "read"),
            "{at} with a reader's key: {by_reader}"
        );
        ensure!(
            (by_writer == 403) == (needed != "write"),
            "{at} with a writer's key: {by_writer}"
        );
        let needs_tenant = by_admin == 400 && body.to_string().contains("X-Tenant");
        ensure!(
            needs_tenant == (needed != "admin"),
            "{at} with an administrator's key: {by_admin} {body}"
        );
    }
    open.sort_unstable();
    let expected = [
        "/docs",
        "/docs/assets/x",
        "/docs/errors/x",
        "/healthz",
        "/openapi.json",
        "/ping",
        "/readyz",
    ];
    ensure!(open == expected, "routes without a key: {open:?}");
    ensure!(
        operations.len() >= 30,
        "only {} operations were tried",
        operations.len()
    );
    Ok(())
}

#[tokio::test]
async fn three_schemes_carry_a_key_and_the_query_string_does_not() -> Result<()> {
    let server = TestServer::start().await?;
    server.tenant("acme").await?;
    let key = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let key = key["key"].as_str().context("a key")?;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("anyone:{key}"));
    for value in [
        format!("Bearer {key}"),
        format!("Token {key}"),
        format!("Basic {basic}"),
    ] {
        let response = server
            .anonymous
            .request("GET", "/v1/attributes", &[("authorization", &value)], b"")
            .await?;
        expect(&response, 200)?;
    }
    let response = server
        .anonymous
        .get(&format!("/v1/attributes?key={key}&u=x&p={key}&token={key}"))
        .await?;
    ensure!(problem(&response, 401)? == "unauthorized");
    ensure!(
        response
            .header("www-authenticate")
            .is_some_and(|scheme| scheme.starts_with("Bearer"))
    );
    Ok(())
}

#[tokio::test]
async fn x_tenant_names_the_tenant_of_an_administrator_and_binds_no_other_key() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    server.tenant("other").await?;
    let get = async |client: &HttpClient, tenant: &str| {
        client
            .request("GET", "/v1/attributes", &[("x-tenant", tenant)], b"")
            .await
    };
    expect(&get(&acme, "acme").await?, 200)?;
    ensure!(problem(&get(&acme, "other").await?, 403)? == "forbidden");
    ensure!(problem(&get(&acme, "nobody").await?, 403)? == "forbidden");
    expect(&get(&server.admin, "acme").await?, 200)?;
    ensure!(problem(&get(&server.admin, "nobody").await?, 404)? == "not_found");
    ensure!(problem(&server.admin.get("/v1/attributes").await?, 400)? == "tenant_required");
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_here_and_soon_on_another_server() -> Result<()> {
    let server = TestServer::start().await?;
    let other = TestServer::start_on(
        Arc::clone(&server.database),
        Bounds::default(),
        Limits::DEFAULT,
    )
    .await?;
    server.tenant("acme").await?;
    let key = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let (id, secret) = (
        key["id"].as_str().context("an id")?,
        key["key"].as_str().context("a key")?,
    );
    let (here, there) = (
        server.anonymous.with_key(secret),
        other.anonymous.with_key(secret),
    );
    expect(&here.get("/v1/attributes").await?, 200)?;
    expect(&there.get("/v1/attributes").await?, 200)?;
    let path = format!("/v1/tenants/acme/keys/{id}");
    let revoked = server.admin.request("DELETE", &path, &[], b"").await?;
    ensure!(revoked.status == 204, "{}", revoked.text());
    ensure!(problem(&here.get("/v1/attributes").await?, 401)? == "unauthorized");
    wait_until(
        "the other server refuses the key",
        Duration::from_secs(30),
        async || {
            there
                .get("/v1/attributes")
                .await
                .is_ok_and(|response| response.status == 401)
        },
    )
    .await;
    let listed = expect(&server.admin.get("/v1/tenants/acme/keys").await?, 200)?;
    let listed = listed["items"].as_array().context("items")?;
    let shown = listed
        .iter()
        .find(|item| item["id"] == id)
        .context("the revoked key")?;
    ensure!(
        shown["revoked_at"].is_string() && shown.get("key").is_none(),
        "{shown}"
    );
    ensure!(
        !listed.iter().any(|item| item.to_string().contains("shf_")),
        "a secret is listed"
    );
    let unknown = server
        .admin
        .request(
            "DELETE",
            "/v1/tenants/acme/keys/k_0000000000000000",
            &[],
            b"",
        )
        .await?;
    ensure!(problem(&unknown, 404)? == "not_found");
    Ok(())
}

#[tokio::test]
async fn an_expired_key_is_refused() -> Result<()> {
    let server = TestServer::start().await?;
    server.tenant("acme").await?;
    let key = server
        .key(
            "acme",
            r#"{"scopes":["read"],"expires_at":"2020-01-01T00:00:00Z"}"#,
        )
        .await?;
    ensure!(key["expires_at"] == "2020-01-01T00:00:00Z", "{key}");
    let client = server
        .anonymous
        .with_key(key["key"].as_str().context("a key")?);
    ensure!(problem(&client.get("/v1/attributes").await?, 401)? == "unauthorized");
    for body in [
        r#"{"scopes":[]}"#,
        r#"{"scopes":["admin"]}"#,
        r#"{}"#,
        r#"{"scopes":["read"],"expires_at":"soon"}"#,
    ] {
        let refused = server
            .admin
            .post("/v1/tenants/acme/keys", JSON, body.as_bytes())
            .await?;
        ensure!(problem(&refused, 400)? == "invalid_parameter", "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_that_was_good_is_asked_about_again_also_from_an_address_that_failed_too_often()
-> Result<()> {
    // No key is believed longer than its request, so that each one is as if it came after ten seconds.
    let bounds = Bounds {
        failed_attempts_max: 2,
        key_believed: Duration::ZERO,
        ..Bounds::default()
    };
    let server = TestServer::start_with(bounds, Limits::DEFAULT).await?;
    let other = TestServer::start_on(
        Arc::clone(&server.database),
        Bounds::default(),
        Limits::DEFAULT,
    )
    .await?;
    server.tenant("acme").await?;
    let key = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let secret = key["key"].as_str().context("a key")?;
    let unseen = server.key("acme", r#"{"scopes":["read"]}"#).await?;
    let unseen = unseen["key"].as_str().context("a key")?;
    let with = async |key: &str| server.anonymous.with_key(key).get("/v1/attributes").await;
    expect(&with(secret).await?, 200)?;
    for _ in 0..2 {
        ensure!(problem(&with("nonsense").await?, 401)? == "unauthorized");
    }
    ensure!(problem(&with(unseen).await?, 429)? == "rate_limited");
    expect(&with(secret).await?, 200)?;
    // Asked about, and not merely believed: another server's revocation is noticed.
    let path = format!(
        "/v1/tenants/acme/keys/{}",
        key["id"].as_str().context("an id")?
    );
    let revoked = other.admin.request("DELETE", &path, &[], b"").await?;
    ensure!(revoked.status == 204, "{}", revoked.text());
    ensure!(problem(&with(secret).await?, 429)? == "rate_limited");
    Ok(())
}

#[tokio::test]
async fn guessing_is_limited_by_address_asks_the_database_nothing_and_locks_no_known_key_out()
-> Result<()> {
    const LIMIT: u32 = 5;
    let bounds = Bounds {
        failed_attempts_max: LIMIT,
        ..Bounds::default()
    };
    let server = TestServer::start_with(bounds, Limits::DEFAULT).await?;
    let acme = server.tenant("acme").await?;
    expect(&acme.get("/v1/attributes").await?, 200)?;
    // From here on every look-up of a key fails, so that one is seen.
    let revoke = "REVOKE EXECUTE ON FUNCTION sheaf.find_api_key(text) FROM sheaf_app, PUBLIC";
    server
        .database
        .superuser()
        .await?
        .batch_execute(revoke)
        .await?;
    let attempt = async |key: &str| server.anonymous.with_key(key).get("/v1/attributes").await;
    let well_formed = || ApiKey::generate().reveal().to_owned();
    ensure!(
        problem(&attempt(&well_formed()).await?, 500)? == "internal",
        "a well-formed key is looked up"
    );
    for _ in 0..LIMIT {
        let mut mistyped = well_formed();
        let last = mistyped.pop().context("a key has letters")?;
        mistyped.push(if last == '0' { '1' } else { '0' });
        ensure!(problem(&attempt(&mistyped).await?, 401)? == "unauthorized");
    }
    for key in [well_formed(), "nonsense".to_owned()] {
        let response = attempt(&key).await?;
        ensure!(problem(&response, 429)? == "rate_limited");
        let after = response
            .header("retry-after")
            .and_then(|after| after.parse::<u32>().ok());
        ensure!(
            after.is_some_and(|seconds| (1..=60).contains(&seconds)),
            "{:?}",
            response.headers
        );
    }
    expect(&acme.get("/v1/attributes").await?, 200)?;
    // A request without any key is no attempt, and is not told to wait.
    ensure!(problem(&server.anonymous.get("/v1/attributes").await?, 401)? == "unauthorized");
    Ok(())
}
