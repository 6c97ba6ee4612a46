//! Replicas of a running server come and go by its configuration, and are shown wherever sources are.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sheaf_pg::cluster::Cluster;
use sheaf_testkit::{
    HttpClient, ScratchDir, ServerCommand, ServerProcess, TestCluster, TestDatabase, TestStandby,
    free_port, wait_until,
};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
const WITHIN: Duration = Duration::from_secs(60);

struct Configured {
    dir: ScratchDir,
    port: u16,
    admin_port: u16,
    url: String,
}

fn url_of(cluster: &Cluster, database: &TestDatabase) -> String {
    let socket = cluster.socket_dir().display().to_string();
    format!(
        "postgresql://{}:{}/{}",
        socket.replace('/', "%2F"),
        cluster.port(),
        database.name()
    )
}

impl Configured {
    fn new(database: &TestDatabase) -> Result<Configured> {
        let configured = Configured {
            dir: ScratchDir::new("replicas")?,
            port: free_port()?,
            admin_port: free_port()?,
            url: url_of(database.cluster().cluster(), database),
        };
        configured.write("")?;
        Ok(configured)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("sheaf.toml")
    }

    /// Writes the configuration, with these sections behind the others.
    fn write(&self, sections: &str) -> Result<()> {
        let (port, admin_port, url) = (self.port, self.admin_port, &self.url);
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\n\
             [database]\nurl = \"{url}\"\n{sections}"
        );
        Ok(std::fs::write(self.config(), text)?)
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

    fn sheaf(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(SHEAF)
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .output()?)
    }

    /// A tenant's client.
    fn tenant(&self, client: &HttpClient) -> Result<HttpClient> {
        let output = self.sheaf(&["tenant", "create", "acme"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        Ok(client.with_key(answer["key"]["key"].as_str().context("a key")?))
    }

    async fn metrics(&self) -> Result<String> {
        let admin = HttpClient::new(&format!("http://127.0.0.1:{}", self.admin_port))?;
        Ok(admin.get("/metrics").await?.text())
    }
}

/// Who answers a read that may be a little old.
async fn source(acme: &HttpClient) -> String {
    let path = "/v1/entities?consistency=eventual";
    let answer = acme.get(path).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let source = answer.header("x-data-source").expect("a source").to_owned();
    let lag = answer.header("x-data-lag-seconds").expect("a lag");
    let lag: f64 = lag.parse().expect("the heart beats");
    assert!((0.0..=3.0).contains(&lag), "{source} {lag}");
    source
}

fn check<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    let checks = answer["checks"].as_array()?;
    checks.iter().find(|check| check["name"] == name)
}

#[tokio::test]
async fn replicas_come_and_go_without_a_restart_and_are_shown_everywhere() -> Result<()> {
    let primary = TestCluster::private().await?;
    let database = TestDatabase::create_in(&primary).await?;
    let standby = TestStandby::follow(&primary, "west").await?;
    let configured = Configured::new(&database)?;
    let (mut process, client) = configured.serve().await?;
    let acme = configured.tenant(&client)?;
    assert_eq!(source(&acme).await, "primary");

    let url = url_of(standby.cluster(), &database);
    let west = format!("[replicas.west]\nurl = \"{url}\"\n");
    configured.write(&west)?;
    wait_until("the new replica answers", WITHIN, async || {
        source(&acme).await == "replica:west"
    })
    .await;
    wait_until("the metrics show it", WITHIN, async || {
        let metrics = configured.metrics().await.expect("the metrics");
        let lines = [
            r#"sheaf_source_up{source="replica:west"} 1"#,
            r#"sheaf_source_breaker{source="replica:west",state="closed"} 1"#,
            r#"sheaf_source_breaker{source="primary",state="open"} 0"#,
        ];
        lines.iter().all(|line| metrics.contains(line))
    })
    .await;
    let ready = client.get("/readyz").await?.json()?;
    let shown = check(&ready, "replica:west").context("readyz lists it")?;
    assert_eq!(shown["status"], "ok", "{ready}");
    let doctor = configured.sheaf(&["doctor", "--json"])?;
    let doctor: Value = serde_json::from_slice(&doctor.stdout)?;
    let shown = check(&doctor, "replica:west").context("doctor lists it")?;
    assert_eq!(shown["status"], "ok", "{doctor}");

    // What cannot be used changes nothing.
    configured.write("[replicas.west]\nurl = \"nonsense\"\n")?;
    process.signal("HUP").await?;
    process
        .wait_for_output("the replicas stay as they are", WITHIN)
        .await?;
    wait_until("it answers on", WITHIN, async || {
        source(&acme).await == "replica:west"
    })
    .await;
    configured.write("")?;
    process.signal("HUP").await?;
    wait_until("it is not asked any more", WITHIN, async || {
        source(&acme).await == "primary"
    })
    .await;
    let ready = client.get("/readyz").await?.json()?;
    assert_eq!(check(&ready, "replica:west"), None, "{ready}");

    // One that is down is missed by nobody, and shown.
    configured.write(&west)?;
    process.signal("HUP").await?;
    wait_until("it is back", WITHIN, async || {
        source(&acme).await == "replica:west"
    })
    .await;
    standby
        .cluster()
        .stop(sheaf_pg::cluster::StopMode::Immediate)
        .await?;
    wait_until("the primary answers", WITHIN, async || {
        source(&acme).await == "primary"
    })
    .await;
    wait_until("it is shown to be down", WITHIN, async || {
        let ready = client.get("/readyz").await.expect("an answer");
        let shown = ready.json().expect("checks");
        let metrics = configured.metrics().await.expect("the metrics");
        ready.status == 200
            && check(&shown, "replica:west").is_some_and(|check| check["status"] == "warn")
            && metrics.contains(r#"sheaf_source_up{source="replica:west"} 0"#)
            && metrics.contains(r#"sheaf_source_lag_seconds{source="replica:west"} NaN"#)
    })
    .await;
    let doctor = configured.sheaf(&["doctor", "--json"])?;
    let doctor: Value = serde_json::from_slice(&doctor.stdout)?;
    let shown = check(&doctor, "replica:west").context("doctor lists it")?;
    assert_eq!(shown["status"], "fail", "{doctor}");
    assert!(process.sigterm(WITHIN).await?.success());
    Ok(())
}
