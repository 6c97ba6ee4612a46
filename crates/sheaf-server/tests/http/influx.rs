//! The routes of InfluxDB, in the forms that its clients read.

use anyhow::{Context, Result, ensure};
use sheaf_model::Limits;
use sheaf_server::Bounds;

use crate::support::{TestServer, expect, problem};

const TEXT: &str = "text/plain; charset=utf-8";

#[tokio::test]
async fn lines_are_stored_without_a_word() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    for (path, id) in [
        ("/write?db=x&precision=s&u=ignored", "a"),
        ("/api/v2/write?org=o&bucket=b&precision=s", "b"),
    ] {
        let line = format!("cpu,host={id},region=eu usage=12.5,n=3i 1357020000\n");
        let response = acme.post(path, TEXT, line.as_bytes()).await?;
        ensure!(
            response.status == 204 && response.body.is_empty(),
            "{path}: {} {}",
            response.status,
            response.text()
        );
        ensure!(
            response
                .header("x-consistency-token")
                .is_some_and(|token| token.starts_with("t1."))
        );
        let entity = expect(
            &acme
                .get(&format!("/v1/entities/cpu/host%3D{id},region%3Deu"))
                .await?,
            200,
        )?;
        ensure!(
            entity["attributes"]["usage"] == 12.5 && entity["attributes"]["n"] == 3,
            "{entity}"
        );
        ensure!(entity["observed_at"] == "2013-01-01T06:00:00Z", "{entity}");
    }
    let ruled = acme
        .post(
            "/write?id_tag=host",
            TEXT,
            b"disk,host=a,path=/ used=1i 1357020000000000000",
        )
        .await?;
    ensure!(ruled.status == 204, "{}", ruled.text());
    expect(&acme.get("/v1/entities/disk/a").await?, 200)?;
    Ok(())
}

#[tokio::test]
async fn a_bad_line_among_good_ones_is_told_in_each_versions_form() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let lines = "cpu,host=a usage=1 1357020000000000000\ncpu usage=\ncpu,host=b usage=2 1357020000000000000\n";
    let message = "partial write: unable to parse 'cpu usage=': missing field value dropped=1";
    let v1 = acme.post("/write?db=x", TEXT, lines.as_bytes()).await?;
    ensure!(
        expect(&v1, 400)? == serde_json::json!({ "error": message }),
        "{}",
        v1.text()
    );
    ensure!(
        v1.header("x-influxdb-error") == Some(message),
        "{:?}",
        v1.headers
    );
    let v2 = acme
        .post(
            "/api/v2/write?bucket=b",
            TEXT,
            lines.replace("host=", "host=v2").as_bytes(),
        )
        .await?;
    let body = expect(&v2, 400)?;
    ensure!(
        body["code"] == "invalid" && body["message"] == message && body["line"] == 2,
        "{body}"
    );
    let batch = body["batch_id"].as_str().context("a batch id")?;
    let kept = expect(
        &acme
            .get(&format!("/v1/rejections?batch_id={batch}"))
            .await?,
        200,
    )?;
    ensure!(
        kept["items"][0]["code"] == "malformed_line" && kept["items"][0]["raw"] == "cpu usage=",
        "{kept}"
    );
    for id in ["host%3Da", "host%3Db", "host%3Dv2a", "host%3Dv2b"] {
        expect(&acme.get(&format!("/v1/entities/cpu/{id}")).await?, 200)?;
    }
    Ok(())
}

#[tokio::test]
async fn errors_have_no_other_form_on_these_routes() -> Result<()> {
    let bounds = Bounds {
        failed_attempts_max: 2,
        ..Bounds::default()
    };
    let server = TestServer::start_with(bounds, Limits::DEFAULT).await?;
    let acme = server.tenant("acme").await?;
    expect(&acme.get("/v1/attributes").await?, 200)?;
    let wrong = server.anonymous.with_key("shf_wrong");
    let cases = [
        (&server.anonymous, "", 401, "unauthorized"),
        (&acme, "precision=y", 400, "invalid"),
        (&server.admin, "", 400, "invalid"),
        (&wrong, "", 401, "unauthorized"),
        (&wrong, "", 401, "unauthorized"),
        (&wrong, "", 429, "too many requests"),
    ];
    for (number, (client, query, status, code)) in cases.into_iter().enumerate() {
        // Two failures with each route would be too many for the second.
        if number < 3 {
            let v1 = client
                .post(&format!("/write?{query}"), TEXT, b"cpu v=1")
                .await?;
            let body = expect(&v1, status)?;
            let error = body["error"].as_str().context("an error")?;
            ensure!(
                body.as_object().is_some_and(|members| members.len() == 1)
                    && error.starts_with(code),
                "{body}"
            );
            ensure!(
                v1.header("x-influxdb-error") == Some(error),
                "{:?}",
                v1.headers
            );
        }
        let v2 = client
            .post(&format!("/api/v2/write?{query}"), TEXT, b"cpu v=1")
            .await?;
        let body = expect(&v2, status)?;
        ensure!(
            body["code"] == code && body["message"].is_string(),
            "{body}"
        );
        ensure!(
            (status == 429) == v2.header("retry-after").is_some(),
            "{:?}",
            v2.headers
        );
    }
    Ok(())
}

#[tokio::test]
async fn create_database_is_accepted_and_no_other_query() -> Result<()> {
    let server = TestServer::start().await?;
    let acme = server.tenant("acme").await?;
    let form = "application/x-www-form-urlencoded";
    for response in [
        acme.get("/query?q=CREATE%20DATABASE%20x&db=y&epoch=ns")
            .await?,
        acme.post("/query?q=CREATE+DATABASE+%22x%22", form, b"")
            .await?,
        acme.post("/query", form, b"q=CREATE+DATABASE+x&db=y")
            .await?,
    ] {
        ensure!(
            expect(&response, 200)? == serde_json::json!({"results":[{"statement_id":0}]}),
            "{}",
            response.text()
        );
    }
    ensure!(problem(&acme.get("/query?q=SHOW%20DATABASES").await?, 400)? == "invalid_parameter");
    ensure!(problem(&acme.get("/query").await?, 400)? == "invalid_parameter");
    Ok(())
}
