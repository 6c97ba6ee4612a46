//! `sheaf serve` on an existing PostgreSQL: what it needs before it starts, and who it is once it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_pg::cluster::StopMode;
use sheaf_testkit::{
    HttpClient, ScratchDir, ServerCommand, ServerProcess, TestCluster, TestDatabase, free_port,
    wait_until,
};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
const WITHIN: Duration = Duration::from_secs(60);
/// Well before the next round of the background without a signal.
const AT_ONCE: Duration = Duration::from_secs(10);
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

struct Configured {
    dir: ScratchDir,
    port: u16,
    admin_port: u16,
}

impl Configured {
    /// A configuration for this database.
    fn new(name: &str, database: &TestDatabase) -> Result<Configured> {
        let (dir, port, admin_port) = (ScratchDir::new(name)?, free_port()?, free_port()?);
        let cluster = database.cluster().cluster();
        let socket = cluster
            .socket_dir()
            .display()
            .to_string()
            .replace('/', "%2F");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\n[database]\nurl = \"postgresql://{socket}:{}/{}\"\n",
            cluster.port(),
            database.name(),
        );
        std::fs::write(dir.path().join("sheaf.toml"), text)?;
        Ok(Configured {
            dir,
            port,
            admin_port,
        })
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("sheaf.toml")
    }

    async fn serve(&self) -> Result<(ServerProcess, HttpClient)> {
        let mut process = ServerCommand::new(SHEAF, self.dir.path().join("log"))
            .args(["serve", "--config"])
            .args([&self.config()])
            .spawn()?;
        let client = HttpClient::new(&format!("http://127.0.0.1:{}", self.port))?;
        process.wait_ready(&client, "/readyz", WITHIN).await?;
        Ok((process, client))
    }

    async fn metrics(&self) -> Result<String> {
        let admin = HttpClient::new(&format!("http://127.0.0.1:{}", self.admin_port))?;
        Ok(admin.get("/metrics").await?.text())
    }

    /// A client with the key that a command makes.
    fn with_key(&self, client: &HttpClient, command: &[&str]) -> Result<HttpClient> {
        let output = sheaf(command, &self.config())?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let key = answer["key"].as_str().or(answer["key"]["key"].as_str());
        Ok(client.with_key(key.context("a key")?))
    }
}

fn sheaf(arguments: &[&str], config: &Path) -> Result<Output> {
    Ok(Command::new(SHEAF)
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()?)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[tokio::test]
async fn it_serves_with_one_kind_of_connection_for_each_kind_of_work() -> Result<()> {
    let database = TestDatabase::create().await?;
    let configured = Configured::new("serve", &database)?;
    let (mut process, client) = configured.serve().await?;
    let client = configured.with_key(&client, &["tenant", "create", "acme"])?;
    let body = br#"{"attributes":{"n":1}}"#;
    let written = client
        .request("PATCH", "/v1/entities/thing/1", &JSON, body)
        .await?;
    assert_eq!(written.status, 201, "{}", written.text());
    let found = client.get("/v1/entities?filter=n=1").await?;
    assert_eq!(found.status, 200, "{}", found.text());
    assert_eq!(found.json()?["items"][0]["id"], "1");

    let superuser = database.superuser().await?;
    let rows = superuser
        .query(
            "SELECT DISTINCT usename::text FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'sheaf %' ORDER BY 1",
            &[],
        )
        .await?;
    let roles: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        roles,
        ["sheaf_app", "sheaf_search", "sheaf_upkeep", "sheaf_writer"]
    );
    assert!(process.sigterm(WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn what_it_counts_is_there_before_it_happens_and_times_are_histograms() -> Result<()> {
    let database = TestDatabase::create().await?;
    let configured = Configured::new("serve-metrics", &database)?;
    let (mut process, client) = configured.serve().await?;
    let metrics = configured.metrics().await?;
    for line in [
        r#"sheaf_http_requests_total{route="/metrics",method="GET",status="200"} 0"#,
        r#"sheaf_http_request_duration_seconds_count{route="/metrics",method="GET"} 0"#,
        r#"sheaf_ingest_events_total{result="accepted"} 0"#,
        r#"sheaf_ingest_events_total{result="duplicate"} 0"#,
        r#"sheaf_ingest_events_total{result="merged"} 0"#,
        r#"sheaf_ingest_events_total{result="corrected"} 0"#,
        r#"sheaf_ingest_events_total{result="refused"} 0"#,
        "sheaf_ingest_values_total 0",
        r#"sheaf_rejections_total{code="type_mismatch"} 0"#,
        "sheaf_ingest_queue_events 0",
        r#"sheaf_source_up{source="primary"} 1"#,
        r#"sheaf_source_lag_seconds{source="primary"} 0"#,
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    let acme = configured.with_key(&client, &["tenant", "create", "acme"])?;
    let body = br#"{"attributes":{"n":1,"m":2}}"#;
    let written = acme
        .request("PATCH", "/v1/entities/thing/1", &JSON, body)
        .await?;
    assert_eq!(written.status, 201, "{}", written.text());
    let metrics = configured.metrics().await?;
    for line in [
        r#"sheaf_ingest_events_total{result="accepted"} 1"#,
        "sheaf_ingest_values_total 2",
        "# TYPE sheaf_http_request_duration_seconds histogram",
        "# TYPE sheaf_ingest_step_seconds histogram",
        r#"sheaf_http_request_duration_seconds_bucket{route="/v1/entities/{type}/{id}",method="PATCH",le="+Inf"} 1"#,
        r#"sheaf_ingest_step_seconds_bucket{step="commit",le="+Inf"} 1"#,
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    assert!(!metrics.contains("quantile="), "{metrics}");
    assert!(process.sigterm(WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_primary_that_does_not_answer_is_down_and_its_lag_is_no_number() -> Result<()> {
    let cluster = TestCluster::private_durable().await?;
    let database = TestDatabase::create_in(&cluster).await?;
    let configured = Configured::new("serve-down", &database)?;
    let (mut process, _client) = configured.serve().await?;
    let shows = async |lines: [&str; 2]| {
        let metrics = configured.metrics().await.expect("the metrics");
        lines.iter().all(|line| metrics.contains(line))
    };
    let (up, down) = (
        [
            r#"sheaf_source_up{source="primary"} 1"#,
            r#"sheaf_source_lag_seconds{source="primary"} 0"#,
        ],
        [
            r#"sheaf_source_up{source="primary"} 0"#,
            r#"sheaf_source_lag_seconds{source="primary"} NaN"#,
        ],
    );
    cluster.cluster().stop(StopMode::Immediate).await?;
    wait_until("it is down", WITHIN, async || shows(down).await).await;
    cluster.cluster().restart().await?;
    wait_until("it is up again", WITHIN, async || shows(up).await).await;
    assert!(process.sigterm(WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_changed_pin_moves_values_at_once_and_filters_find_them_all_the_while() -> Result<()> {
    const THINGS: usize = 1_200;
    let database = TestDatabase::create().await?;
    let configured = Configured::new("serve-pin", &database)?;
    let (mut process, client) = configured.serve().await?;
    let acme = configured.with_key(&client, &["tenant", "create", "acme"])?;
    let events: Vec<String> = (0..THINGS)
        .map(|n| {
            format!(r#"{{"type":"thing","id":"{n}","observed_at":"2024-01-01T00:00:00Z","attributes":{{"a":{n}}}}}"#)
        })
        .collect();
    let ndjson = "application/x-ndjson";
    let written = acme
        .post("/v1/ingest", ndjson, events.join("\n").as_bytes())
        .await?;
    assert_eq!(written.status, 200, "{}", written.text());
    let found = async || -> Result<serde_json::Value> {
        let path = "/v1/entities?filter=a%3E=100&count=exact&limit=1";
        Ok(acme.get(path).await?.json()?["count"]["value"].clone())
    };
    let temperature = async || -> Result<serde_json::Value> {
        Ok(acme.get("/v1/attributes/a").await?.json()?["temperature"].clone())
    };
    assert_eq!(
        (temperature().await?, found().await?),
        ("cold".into(), 1_100.into())
    );

    // A document that is locked cannot move, so that the attribute stays on its way.
    let superuser = database.superuser().await?;
    superuser
        .batch_execute("BEGIN; SELECT FROM sheaf.entity_jsonb LIMIT 1 FOR UPDATE")
        .await?;
    let pinned = acme
        .request("PATCH", "/v1/attributes/a", &JSON, br#"{"pin":"hot"}"#)
        .await?;
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    let moved = "SELECT count(*) FROM sheaf.entity_jsonb WHERE hot_attrs <> '{}'";
    wait_until("all but one have moved", AT_ONCE, async || {
        assert_eq!(found().await.expect("an answer"), 1_100);
        let row = superuser.query_one(moved, &[]).await.expect("a count");
        row.get::<_, i64>(0) == 1_199
    })
    .await;
    assert_eq!(
        (temperature().await?, found().await?),
        ("warming".into(), 1_100.into())
    );
    superuser.batch_execute("ROLLBACK").await?;
    wait_until("the attribute is hot", AT_ONCE, async || {
        assert_eq!(found().await.expect("an answer"), 1_100);
        temperature().await.expect("an answer") == "hot"
    })
    .await;
    assert_eq!(found().await?, 1_100);
    assert!(process.sigterm(WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn it_refuses_to_start_as_a_role_that_row_level_security_does_not_bind() -> Result<()> {
    // Roles belong to the whole cluster: not to be changed under other tests.
    let cluster = TestCluster::private_durable().await?;
    let database = TestDatabase::create_in(&cluster).await?;
    let configured = Configured::new("serve-roles", &database)?;
    let superuser = database.superuser().await?;
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer"] {
        for (make, unmake, wanted) in [
            (
                format!("ALTER ROLE {role} SUPERUSER"),
                format!("ALTER ROLE {role} NOSUPERUSER"),
                "a superuser",
            ),
            (
                format!("ALTER ROLE {role} BYPASSRLS"),
                format!("ALTER ROLE {role} NOBYPASSRLS"),
                "BYPASSRLS",
            ),
            (
                format!("GRANT sheaf_owner TO {role}"),
                format!("REVOKE sheaf_owner FROM {role}"),
                "a member of the tables' owner",
            ),
        ] {
            superuser.batch_execute(&make).await?;
            for command in ["serve", "doctor"] {
                let output = sheaf(&[command], &configured.config())?;
                let said = text(&output);
                assert_eq!(output.status.code(), Some(1), "{make}, {command}: {said}");
                assert!(
                    said.contains(role) && said.contains(wanted),
                    "{make}, {command}: {said}"
                );
            }
            superuser.batch_execute(&unmake).await?;
        }
    }
    let doctor = sheaf(&["doctor"], &configured.config())?;
    assert!(doctor.status.success(), "{}", text(&doctor));
    let said = text(&doctor);
    assert!(
        said.contains("replicated acknowledgements: not served"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn it_refuses_to_start_without_the_schema_and_migrate_brings_it() -> Result<()> {
    let database = TestDatabase::create_empty().await?;
    // The roles are there once any database of the cluster is migrated.
    let _migrated = TestDatabase::create().await?;
    let configured = Configured::new("serve-schema", &database)?;
    let config = configured.config();
    let output = sheaf(&["serve"], &config)?;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("run sheaf migrate up"),
        "{}",
        text(&output)
    );
    let status: serde_json::Value =
        serde_json::from_slice(&sheaf(&["migrate", "status"], &config)?.stdout)?;
    assert_eq!(status["version"], serde_json::Value::Null);

    let up = sheaf(&["migrate", "up", "--as", "sheaf_superuser"], &config)?;
    assert!(up.status.success(), "{}", text(&up));
    let status: serde_json::Value =
        serde_json::from_slice(&sheaf(&["migrate", "status"], &config)?.stdout)?;
    assert_eq!(status["version"], status["newest"]);
    assert_eq!(status["pending"], serde_json::json!([]));
    let again = sheaf(&["migrate", "up"], &config)?;
    assert!(
        again.status.success(),
        "as sheaf_upkeep, once the roles are there: {}",
        text(&again)
    );
    Ok(())
}
