//! The PostgreSQL that tests run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_pg::cluster::{Binaries, Cluster, ClusterOptions, Durability, SUPERUSER};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};

use crate::{ScratchDir, wait_until, watchdog};

/// The migrated database that others are cloned from.
pub(crate) const TEMPLATE: &str = "sheaf_template";

static SHARED: OnceCell<Arc<TestCluster>> = OnceCell::const_new();

/// A private PostgreSQL that ends with the test process.
#[derive(Debug)]
pub struct TestCluster {
    cluster: Cluster,
    template: OnceCell<()>,
    databases: AtomicU32,
    _dir: ScratchDir,
}

impl TestCluster {
    /// The one that all tests of this process share: fast, not durable, never to be killed.
    pub async fn shared() -> Result<Arc<Self>> {
        let shared = SHARED
            .get_or_try_init(|| Self::start("shared", Durability::Test))
            .await?;
        Ok(Arc::clone(shared))
    }

    /// One of the test's own, as durable as in production, to be killed and restarted.
    pub async fn private_durable() -> Result<Arc<Self>> {
        Self::start("durable", Durability::Full).await
    }

    /// One of the test's own, fast and not durable, for tests that change its settings or give it a standby.
    pub async fn private() -> Result<Arc<Self>> {
        Self::start("private", Durability::Test).await
    }

    async fn start(name: &str, durability: Durability) -> Result<Arc<Self>> {
        let dir = ScratchDir::new(name)?;
        let options = options_in(&dir, durability)?;
        Ok(Arc::new(TestCluster {
            cluster: Cluster::start(options).await?,
            template: OnceCell::new(),
            databases: AtomicU32::new(0),
            _dir: dir,
        }))
    }

    /// The cluster itself: restart it, kill it, ask where it is.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A superuser's connection to one of its databases.
    pub async fn superuser(&self, dbname: &str) -> Result<Client> {
        connect(&self.cluster.connect_config(dbname, SUPERUSER)).await
    }

    /// Changes one setting of the whole cluster while it runs.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        let client = self.superuser("postgres").await?;
        client
            .batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'"))
            .await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let within = Duration::from_secs(30);
        wait_until("sessions see the new setting", within, async || {
            let seen = client
                .query_one("SELECT current_setting($1)", &[&name])
                .await;
            seen.is_ok_and(|row| row.get::<_, String>(0) == value)
        })
        .await;
        Ok(())
    }

    /// Kills one server process with SIGKILL, upon which PostgreSQL ends all others and recovers. The process id is
    /// what `pg_backend_pid()` tells.
    pub async fn kill_backend(&self, pid: i32) -> Result<()> {
        let status = tokio::process::Command::new("/bin/sh")
            .args(["-c", "kill -s KILL \"$0\"", &pid.to_string()])
            .status()
            .await?;
        ensure!(status.success(), "backend {pid} can be killed");
        Ok(())
    }

    /// A name for a further database.
    pub(crate) fn next_database(&self) -> String {
        format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the template, once.
    pub(crate) async fn ensure_template(&self) -> Result<()> {
        self.template
            .get_or_try_init(|| self.make_template())
            .await?;
        Ok(())
    }

    async fn make_template(&self) -> Result<()> {
        let client = self.superuser("postgres").await?;
        // Left by an attempt that failed.
        let clear = format!("DROP DATABASE IF EXISTS {TEMPLATE}");
        client.batch_execute(&clear).await?;
        let create = format!("CREATE DATABASE {TEMPLATE}");
        client.batch_execute(&create).await?;
        let mut migrator = self.superuser(TEMPLATE).await?;
        sheaf_store::migrate::up(&mut migrator)
            .await
            .context("migrate the template database")?;
        drop(migrator);
        // A database can be cloned only while nobody is connected to it.
        let close = format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false");
        client.batch_execute(&close).await?;
        let within = Duration::from_secs(30);
        wait_until("the migration's connection ends", within, async || {
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
            client
                .query_one(sessions, &[&TEMPLATE])
                .await
                .is_ok_and(|row| row.get::<_, i64>(0) == 0)
        })
        .await;
        Ok(())
    }
}

/// A cluster for tests in this directory. Whatever it becomes, the watchdog ends it.
pub(crate) fn options_in(dir: &ScratchDir, durability: Durability) -> Result<ClusterOptions> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binaries = Binaries::find(None, &path)?;
    let data_dir = dir.path().join("data");
    let mut options = ClusterOptions::new(binaries, data_dir, std::env::temp_dir());
    options.durability = durability;
    options.settings = vec![
        ("shared_buffers".into(), "128MB".into()),
        // Parallel tests, each with the pools of a server.
        ("max_connections".into(), "300".into()),
    ];
    watchdog::end_cluster(&options.data_dir);
    Ok(options)
}

/// Connects without TLS and drives the connection on the current runtime.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; what went wrong the client's calls tell.
    tokio::spawn(connection);
    Ok(client)
}
