//! A PostgreSQL of our own: found, made, started, recovered and stopped, for `sheaf dev` and for tests.
//!
//! It listens on a unix socket in a private directory (no password) and on a free port of 127.0.0.1 (password in
//! `<data dir>/postgres.password`). It refuses to share its data directory, to run as root (root becomes an
//! unprivileged user), and to read the environment. It does not watch over the server: see [`Cluster::wait_exit`].

mod account;
mod binaries;
mod error;
mod home;
mod leftover;
mod postmaster;
mod settings;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use binaries::{Binaries, MAJOR_VERSION_MIN};
pub use error::ClusterError;
use home::Home;
use postmaster::Postmaster;

/// The superuser of every private cluster.
pub const SUPERUSER: &str = "sheaf_superuser";

/// Recovery replays up to `max_wal_size` (2 GB) of log, on a slow disk at some 20 MB/s.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How long a shutdown may take before the next harder one: a checkpoint for fast, an exit for immediate.
const FAST_WITHIN: Duration = Duration::from_secs(60);
const IMMEDIATE_WITHIN: Duration = Duration::from_secs(10);

/// What must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// What was committed survives the loss of power.
    Full,
    /// What was committed survives the death of any process, but not of the machine: faster, for tests.
    Test,
}

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Transactions are aborted and a checkpoint is written.
    Fast,
    /// Everything exits at once; the next start recovers from the log.
    Immediate,
}

/// How to run a private cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The installation to run.
    pub binaries: Binaries,
    /// Made if it does not exist.
    pub data_dir: PathBuf,
    /// Takes the socket if the path of `data_dir` is too long for one.
    pub temp_dir: PathBuf,
    /// What must survive.
    pub durability: Durability,
    /// PostgreSQL settings that are put over the defaults.
    pub settings: Vec<(String, String)>,
    /// How long a start may take, with recovery.
    pub ready_within: Duration,
}

impl ClusterOptions {
    /// Full durability and default settings.
    pub fn new(binaries: Binaries, data_dir: PathBuf, temp_dir: PathBuf) -> Self {
        ClusterOptions {
            binaries,
            data_dir,
            temp_dir,
            durability: Durability::Full,
            settings: Vec::new(),
            ready_within: READY_WITHIN,
        }
    }
}

/// A private PostgreSQL. Dropping it asks the server for a fast shutdown and does not wait; [`Cluster::stop`] does.
#[derive(Debug)]
pub struct Cluster {
    home: Home,
    /// The present run, or the last one.
    postmaster: Mutex<Postmaster>,
}

impl Cluster {
    /// Starts the cluster of a data directory, making it on first use. A server that was left running there by
    /// somebody who was killed is stopped first; a crash is recovered from.
    ///
    /// # Errors
    /// [`ClusterError`], worded for the person who started us.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let home = Home::open(options).await?;
        let postmaster = Postmaster::start(&home, None).await?;
        let cluster = Cluster {
            home,
            postmaster: Mutex::new(postmaster),
        };
        cluster.ensure_password().await?;
        Ok(cluster)
    }

    /// Stops the server if it runs and starts it again, on the same port if that is still free.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn restart(&self) -> Result<(), ClusterError> {
        self.stop(StopMode::Fast).await?;
        let postmaster = Postmaster::start(&self.home, Some(self.port())).await?;
        *self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = postmaster;
        Ok(())
    }

    /// Ends the server and waits for it. A shutdown that takes too long is followed by a harder one.
    ///
    /// # Errors
    /// [`ClusterError::Leftover`] if even SIGKILL does not end it.
    pub async fn stop(&self, mode: StopMode) -> Result<(), ClusterError> {
        let postmaster = self.current();
        let steps = [
            ("INT", FAST_WITHIN),
            ("QUIT", IMMEDIATE_WITHIN),
            ("KILL", IMMEDIATE_WITHIN),
        ];
        let first = match mode {
            StopMode::Fast => 0,
            StopMode::Immediate => 1,
        };
        for (signal, within) in &steps[first..] {
            postmaster.signal(signal).await?;
            if postmaster.exits_within(*within).await {
                self.home.tidy();
                return Ok(());
            }
        }
        Err(ClusterError::Leftover {
            dir: self.home.pgdata.clone(),
            processes: vec![postmaster.pid],
        })
    }

    /// Kills the postmaster with SIGKILL and waits until it is gone: a crash, for tests. Its backends find out by
    /// themselves; [`Cluster::restart`] waits for them.
    ///
    /// # Errors
    /// If no signal can be sent.
    pub async fn kill9(&self) -> Result<(), ClusterError> {
        let postmaster = self.current();
        postmaster.signal("KILL").await?;
        postmaster.wait_exit().await;
        Ok(())
    }

    /// Whether the postmaster lives.
    pub fn is_running(&self) -> bool {
        self.current().is_running()
    }

    /// Returns when the present run of the server ends; `None` if how it ended is unknown.
    pub async fn wait_exit(&self) -> Option<ExitStatus> {
        self.current().wait_exit().await
    }

    /// The process id of the present run, or of the last one.
    pub fn postmaster_pid(&self) -> u32 {
        self.current().pid
    }

    /// The TCP port on 127.0.0.1, which also names the socket.
    pub fn port(&self) -> u16 {
        self.current().port
    }

    /// The private directory of the unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.home.socket_dir
    }

    /// The data directory, as an absolute path.
    pub fn data_dir(&self) -> &Path {
        &self.home.options.data_dir
    }

    /// What the server logs.
    pub fn log_file(&self) -> PathBuf {
        self.home.log_file()
    }

    /// Holds the password of [`SUPERUSER`] for connections over TCP.
    pub fn password_file(&self) -> PathBuf {
        self.home.password_file()
    }

    /// How to connect over the socket, as any role and without a password.
    pub fn connect_config(&self, dbname: &str, user: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.socket_dir())
            .port(self.port())
            .dbname(dbname)
            .user(user);
        config
    }

    fn current(&self) -> Postmaster {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives the superuser a password, once. If we are killed before the file is there, the next start gives another.
    async fn ensure_password(&self) -> Result<(), ClusterError> {
        if self.home.password_file().exists() {
            return Ok(());
        }
        // 244 random bits of the operating system, and nothing in them that needs quoting.
        let password = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        );
        let superuser = |source| ClusterError::Superuser { source };
        let (client, connection) = self
            .connect_config("postgres", SUPERUSER)
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(superuser)?;
        let statement = format!("ALTER ROLE {SUPERUSER} PASSWORD '{password}'");
        let set = async {
            let outcome = client.batch_execute(&statement).await;
            drop(client);
            outcome
        };
        let (outcome, ended) = tokio::join!(set, connection);
        outcome.and(ended).map_err(superuser)?;
        self.home.write_password(&password)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let postmaster = self.current();
        if postmaster.is_running() {
            // If it cannot be sent, the next start ends the server.
            let _ = leftover::signal_command("INT", postmaster.pid).status();
        }
    }
}
