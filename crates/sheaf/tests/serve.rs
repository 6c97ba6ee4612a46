//! `sheaf serve` on an existing PostgreSQL: what it needs before it starts, and who it is once it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;
use sheaf_testkit::{HttpClient, ScratchDir, ServerCommand, TestCluster, TestDatabase, free_port};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
const WITHIN: Duration = Duration::from_secs(60);

struct Configured {
    dir: ScratchDir,
    port: u16,
}

impl Configured {
    /// A configuration for this database.
    fn new(name: &str, database: &TestDatabase) -> Result<Configured> {
        let (dir, port) = (ScratchDir::new(name)?, free_port()?);
        let cluster = database.cluster().cluster();
        let socket = cluster
            .socket_dir()
            .display()
            .to_string()
            .replace('/', "%2F");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[database]\nurl = \"postgresql://{socket}:{}/{}\"\n",
            cluster.port(),
            database.name(),
        );
        std::fs::write(dir.path().join("sheaf.toml"), text)?;
        Ok(Configured { dir, port })
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("sheaf.toml")
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
    let config = configured.config();
    let mut process = ServerCommand::new(SHEAF, configured.dir.path().join("log"))
        .args(["serve", "--config"])
        .args([&config])
        .spawn()?;
    let client = HttpClient::new(&format!("http://127.0.0.1:{}", configured.port))?;
    process.wait_ready(&client, "/readyz", WITHIN).await?;
    let created = sheaf(&["tenant", "create", "acme"], &config)?;
    let answer: serde_json::Value = serde_json::from_slice(&created.stdout)?;
    let client = client.with_key(answer["key"]["key"].as_str().unwrap_or_default());
    let body = br#"{"attributes":{"n":1}}"#;
    let headers = [("content-type", "application/json")];
    let written = client
        .request("PATCH", "/v1/entities/thing/1", &headers, body)
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
