//! A server over a database of its own, whose changes may be followed.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sheaf_testkit::{
    HttpClient, ScratchDir, ServerCommand, ServerProcess, TestCluster, TestDatabase, free_port,
    wait_until,
};

pub(crate) const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
pub(crate) const FOLLOWING: &str = "sheaf_cdc_following{slot=\"sheaf_changes\"} 1";

/// A server's configuration, over a database whose owner may publish its tables.
pub(crate) struct Configured {
    pub(crate) dir: ScratchDir,
    port: u16,
    admin_port: u16,
    database: String,
}

impl Configured {
    pub(crate) fn new(name: &str, database: &TestDatabase) -> Result<Configured> {
        let cluster = database.cluster().cluster();
        let socket = cluster.socket_dir().display().to_string();
        let socket = socket.replace('/', "%2F");
        let (port, name_of) = (cluster.port(), database.name());
        Ok(Configured {
            dir: ScratchDir::new(name)?,
            port: free_port()?,
            admin_port: free_port()?,
            database: format!("[database]\nurl = \"postgresql://{socket}:{port}/{name_of}\"\n"),
        })
    }

    pub(crate) fn write(&self, sections: &str) -> Result<()> {
        let Configured {
            port,
            admin_port,
            database,
            ..
        } = self;
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\n{database}{sections}"
        );
        Ok(std::fs::write(self.dir.path().join("sheaf.toml"), text)?)
    }

    /// With the changes in a file.
    pub(crate) fn write_following(&self, sections: &str) -> Result<()> {
        let file = self.dir.path().join("changes.jsonl");
        self.write(&format!("{sections}[changes]\nfile = {file:?}\n"))
    }

    pub(crate) async fn serve(&self) -> Result<(ServerProcess, HttpClient)> {
        let mut process = ServerCommand::new(SHEAF, self.dir.path().join("log"))
            .args(["serve", "--config"])
            .args([&self.dir.path().join("sheaf.toml")])
            .spawn()?;
        let client = HttpClient::new(&format!("http://127.0.0.1:{}", self.port))?;
        process.wait_ready(&client, "/readyz", WITHIN).await?;
        Ok((process, client))
    }

    pub(crate) fn sheaf(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(SHEAF)
            .args(arguments)
            .arg("--config")
            .arg(self.dir.path().join("sheaf.toml"))
            .output()?)
    }

    pub(crate) fn key(&self, client: &HttpClient) -> Result<HttpClient> {
        let output = self.sheaf(&["tenant", "create", "acme"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let key = answer["key"].as_str().or(answer["key"]["key"].as_str());
        Ok(client.with_key(key.context("a key")?))
    }

    pub(crate) async fn metrics(&self) -> Result<String> {
        let admin = HttpClient::new(&format!("http://127.0.0.1:{}", self.admin_port))?;
        Ok(admin.get("/metrics").await?.text())
    }

    pub(crate) async fn wait_for_metric(&self, line: &str) {
        wait_until(line, WITHIN, async || {
            let metrics = self.metrics().await.unwrap_or_default();
            metrics.lines().any(|shown| shown == line)
        })
        .await;
    }

    /// How many changes a sink was given.
    pub(crate) async fn given(&self, sink: &str) -> Option<f64> {
        let metrics = self.metrics().await.ok()?;
        let name = format!("sheaf_cdc_changes_total{{sink=\"{sink}\"}} ");
        let number = metrics.lines().find_map(|line| line.strip_prefix(&*name))?;
        number.parse().ok()
    }

    /// What `sheaf doctor` says of one thing.
    pub(crate) fn doctor(&self, name: &str) -> Result<(String, String)> {
        let output = self.sheaf(&["doctor", "--json"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let checks = answer["checks"].as_array().context("checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.with_context(|| format!("a check of {name}: {answer}"))?;
        let said = |member: &str| check[member].as_str().unwrap_or_default().to_owned();
        Ok((said("status"), said("detail")))
    }

    pub(crate) fn require_doctor(&self, name: &str, status: &str, part: &str) -> Result<()> {
        let found = self.doctor(name)?;
        assert!(
            found.0 == status && found.1.contains(part),
            "{name} is {found:?}, not {status} with {part}"
        );
        Ok(())
    }
}

pub(crate) async fn database_in(cluster: &Arc<TestCluster>) -> Result<TestDatabase> {
    let database = TestDatabase::create_in(cluster).await?;
    let grant = format!(
        "GRANT CREATE ON DATABASE {} TO sheaf_owner",
        database.name()
    );
    database.superuser().await?.batch_execute(&grant).await?;
    Ok(database)
}

/// Writes a first value, which nothing was there before.
pub(crate) async fn write_one(client: &HttpClient) -> Result<()> {
    let body = br#"{"attributes":{"n":"one"}}"#;
    let written = client
        .request("PATCH", "/v1/entities/thing/1", &JSON, body)
        .await?;
    assert_eq!(written.status, 201, "{}", written.text());
    Ok(())
}
