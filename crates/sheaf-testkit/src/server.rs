//! A program under test, as its own process.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::{HttpClient, watchdog};

const POLL: Duration = Duration::from_millis(20);
/// What a failed test shows of the log.
const TAIL_BYTES_MAX: usize = 8_000;

/// What to run and how.
#[derive(Debug)]
pub struct ServerCommand {
    command: Command,
    log: PathBuf,
    data_dir: Option<PathBuf>,
}

impl ServerCommand {
    /// `executable` is what cargo tells in `CARGO_BIN_EXE_sheaf`; `log` takes both output streams, appended.
    pub fn new(executable: impl AsRef<OsStr>, log: PathBuf) -> Self {
        let mut command = Command::new(executable);
        command
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        ServerCommand {
            command,
            log,
            data_dir: None,
        }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes an environment variable away, which whoever runs the tests may have set.
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// The program keeps a private PostgreSQL here, to be ended with it even if the program is killed.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_path_buf());
        self
    }

    /// Starts it; see [`ServerProcess::wait_ready`].
    pub fn spawn(mut self) -> Result<ServerProcess> {
        let log = open_log(&self.log)?;
        let log_start = usize::try_from(log.metadata()?.len())?;
        self.command.stdout(log.try_clone()?).stderr(log);
        if let Some(dir) = &self.data_dir {
            watchdog::end_cluster(dir);
        }
        let child = self.command.spawn().context("start the server process")?;
        let pid = child.id().context("a new process has an id")?;
        watchdog::kill_process(pid);
        Ok(ServerProcess {
            child,
            pid,
            log: self.log,
            log_start,
            data_dir: self.data_dir,
        })
    }
}

/// A running program; killed when dropped, and its log shown if the test is failing.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    pid: u32,
    log: PathBuf,
    log_start: usize,
    data_dir: Option<PathBuf>,
}

impl ServerProcess {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far, on both streams.
    pub fn output(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let from = self.log_start.min(log.len());
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// Waits until `path` answers 200; fails at once if the program ends.
    pub async fn wait_ready(
        &mut self,
        client: &HttpClient,
        path: &str,
        within: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if client.get(path).await.is_ok_and(|r| r.status == 200) {
                return Ok(());
            }
            self.poll_again(path, deadline).await?;
        }
    }

    /// Waits until a whole line of its output contains `wanted`, and returns that line.
    pub async fn wait_for_output(&mut self, wanted: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            let output = self.output();
            let mut whole_lines = output.split_inclusive('\n').filter(|l| l.ends_with('\n'));
            if let Some(line) = whole_lines.find(|line| line.contains(wanted)) {
                return Ok(line.trim_end().to_owned());
            }
            self.poll_again(wanted, deadline).await?;
        }
    }

    async fn poll_again(&mut self, wanted: &str, deadline: Instant) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "ended with {status} while we waited for {wanted}:\n{}",
                self.tail()
            );
        }
        ensure!(
            Instant::now() < deadline,
            "still waiting for {wanted}:\n{}",
            self.tail()
        );
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    /// Kills it with SIGKILL and waits until it is gone. A private PostgreSQL of it lives on, as it would.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await.context("kill the server process")?;
        self.ended();
        Ok(())
    }

    /// Asks it to end, and waits for that.
    pub async fn sigterm(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.wait(within).await
    }

    /// Sends a signal by name.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.pid.to_string()])
            .status()
            .await?;
        ensure!(status.success(), "process {} takes SIG{signal}", self.pid);
        Ok(())
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(within, self.child.wait()).await else {
            bail!("did not end within {within:?}:\n{}", self.tail());
        };
        self.ended();
        Ok(status?)
    }

    fn ended(&self) {
        watchdog::forget_process(self.pid);
    }

    fn tail(&self) -> String {
        let output = self.output();
        let from = output.len().saturating_sub(TAIL_BYTES_MAX);
        String::from_utf8_lossy(&output.as_bytes()[from..]).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("output of process {}:\n{}", self.pid, self.tail());
        }
        // The program goes first, or it would see its PostgreSQL end.
        let _ = self.child.start_kill();
        self.ended();
        if let Some(dir) = &self.data_dir {
            watchdog::end_cluster_now(dir);
        }
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}
