//! A standby of a test's PostgreSQL: a copy that follows it over its socket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_pg::cluster::{Cluster, ClusterOptions, Durability, SUPERUSER};
use tokio_postgres::Client;

use crate::cluster::options_in;
use crate::{ScratchDir, TestCluster, connect, wait_until};

const WITHIN: Duration = Duration::from_secs(60);

/// A copy of a primary's files, and how a cluster of them is started.
pub(crate) async fn copy(
    primary: &TestCluster,
    name: &str,
) -> Result<(ScratchDir, ClusterOptions)> {
    let dir = ScratchDir::new(name)?;
    let options = options_in(&dir, Durability::Test)?;
    let of = primary.cluster();
    let socket_dir = of.socket_dir().display().to_string();
    std::fs::create_dir(&options.data_dir)?;
    // Of the same installation, where the search path has links to some of its programs only.
    let postgres = options.binaries.program("postgres").canonicalize()?;
    let pg_basebackup = postgres.with_file_name("pg_basebackup");
    // Run by whoever runs the test; the cluster takes its files over when it starts.
    let output = tokio::process::Command::new(pg_basebackup)
        .arg("--pgdata")
        .arg(options.data_dir.join("pgdata"))
        .args(["--host", &socket_dir, "--port", &of.port().to_string()])
        .args(["--username", SUPERUSER, "--checkpoint=fast", "--no-sync"])
        .output()
        .await
        .context("run pg_basebackup")?;
    ensure!(
        output.status.success(),
        "copy the primary: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // It cannot give its superuser a password before it takes writes; it has the primary's.
    let password = options.data_dir.join("postgres.password");
    std::fs::copy(of.password_file(), password)?;
    Ok((dir, options))
}

/// A streaming standby that takes reads, on this machine. It ends with the test process.
///
/// A primary that is started again keeps its port where it can, and the standby finds it there.
#[derive(Debug)]
pub struct TestStandby {
    cluster: Cluster,
    name: String,
    _dir: ScratchDir,
}

impl TestStandby {
    /// Copies the primary and follows it. `name` is what `synchronous_standby_names` of the primary calls it; whether
    /// the primary waits for it is the primary's setting alone.
    pub async fn follow(primary: &TestCluster, name: &str) -> Result<Self> {
        let (dir, mut options) = copy(primary, name).await?;
        let of = primary.cluster();
        let socket_dir = of.socket_dir().display().to_string();
        std::fs::write(options.data_dir.join("pgdata/standby.signal"), "")?;
        options.settings.push((
            "primary_conninfo".into(),
            format!(
                "host={socket_dir} port={} user={SUPERUSER} application_name={name}",
                of.port()
            ),
        ));
        // What it loses it asks for again at once; five seconds are longer than some tests read from it.
        let retry = ("wal_retrieve_retry_interval".into(), "100ms".into());
        options.settings.push(retry);
        let standby = TestStandby {
            cluster: Cluster::start(options).await?,
            name: name.to_owned(),
            _dir: dir,
        };
        standby.wait_streaming(primary).await?;
        Ok(standby)
    }

    /// The cluster itself: stop it, restart it, ask where it is.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A superuser's connection to one of its databases.
    pub async fn superuser(&self, dbname: &str) -> Result<Client> {
        connect(&self.cluster.connect_config(dbname, SUPERUSER)).await
    }

    /// Returns once it receives what the primary writes.
    pub async fn wait_streaming(&self, primary: &TestCluster) -> Result<()> {
        let client = primary.superuser("postgres").await?;
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'";
        wait_until("the standby streams", WITHIN, async || {
            let row = client.query_one(streams, &[&self.name]).await;
            row.is_ok_and(|row| row.get::<_, i64>(0) == 1)
        })
        .await;
        Ok(())
    }

    /// Receives and keeps, but shows nothing new until [`TestStandby::resume_replay`].
    pub async fn pause_replay(&self) -> Result<()> {
        let client = self.superuser("postgres").await?;
        client.batch_execute("SELECT pg_wal_replay_pause()").await?;
        wait_until("replay is paused", WITHIN, async || {
            let row = client
                .query_one("SELECT pg_get_wal_replay_pause_state()", &[])
                .await;
            row.is_ok_and(|row| row.get::<_, &str>(0) == "paused")
        })
        .await;
        Ok(())
    }

    /// Shows what came meanwhile.
    pub async fn resume_replay(&self) -> Result<()> {
        let client = self.superuser("postgres").await?;
        Ok(client
            .batch_execute("SELECT pg_wal_replay_resume()")
            .await?)
    }

    /// Changes one of its settings while it runs; none for its configuration file's.
    pub async fn set(&self, name: &str, value: Option<&str>) -> Result<()> {
        let client = self.superuser("postgres").await?;
        let change = match value {
            Some(value) => format!("ALTER SYSTEM SET {name} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {name}"),
        };
        client.batch_execute(&change).await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Cuts it off from the primary. It goes on with what it has, and has replayed all that it received.
    pub async fn cut_link(&self) -> Result<()> {
        let nowhere = format!("host=/nowhere application_name={}", self.name);
        self.set("primary_conninfo", Some(&nowhere)).await?;
        let client = self.superuser("postgres").await?;
        wait_until("nothing is received any more", WITHIN, async || {
            // One that is told to stop takes what comes until it does.
            let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
            let row = client.query_one(receivers, &[]).await;
            row.is_ok_and(|row| row.get::<_, i64>(0) == 0)
        })
        .await;
        Ok(())
    }

    /// Mends what [`TestStandby::cut_link`] cut.
    pub async fn mend_link(&self, primary: &TestCluster) -> Result<()> {
        self.set("primary_conninfo", None).await?;
        self.wait_streaming(primary).await
    }

    /// Follows another one, which was promoted, from now on.
    pub async fn follow_instead(&self, promoted: &TestStandby) -> Result<()> {
        let of = &promoted.cluster;
        let (socket_dir, name) = (of.socket_dir().display(), &self.name);
        let primary = format!(
            "host={socket_dir} port={} user={SUPERUSER} application_name={name}",
            of.port()
        );
        self.set("primary_conninfo", Some(&primary)).await?;
        let client = promoted.superuser("postgres").await?;
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'";
        wait_until("the standby follows the other one", WITHIN, async || {
            let row = client.query_one(streams, &[&self.name]).await;
            row.is_ok_and(|row| row.get::<_, i64>(0) == 1)
        })
        .await;
        Ok(())
    }

    /// Returns once it shows everything that the primary has now.
    pub async fn wait_caught_up(&self, primary: &TestCluster) -> Result<()> {
        let written = primary.superuser("postgres").await?;
        let row = written
            .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
            .await?;
        let written: String = row.get(0);
        let client = self.superuser("postgres").await?;
        wait_until("the standby has caught up", WITHIN, async || {
            let shows = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
            let row = client.query_one(&shows, &[]).await;
            row.is_ok_and(|row| row.get::<_, bool>(0))
        })
        .await;
        Ok(())
    }

    /// Makes it a primary of its own, on the next timeline.
    pub async fn promote(&self) -> Result<()> {
        let client = self.superuser("postgres").await?;
        let promoted: bool = client
            .query_one("SELECT pg_promote()", &[])
            .await
            .context("promote")?
            .get(0);
        ensure!(promoted, "{} becomes a primary", self.name);
        Ok(())
    }
}
