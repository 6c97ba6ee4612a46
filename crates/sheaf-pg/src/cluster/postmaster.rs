//! One run of the server process: starting it, knowing that it is ready, that it is gone, and signalling it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::{Attempt, ClusterError};
use super::home::Home;
use super::leftover;

/// What passes by itself, once; five times in a row is not bad luck any more.
const ATTEMPTS_MAX: u32 = 5;
const POLL: Duration = Duration::from_millis(20);

/// A server process that was ready once.
#[derive(Debug, Clone)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) port: u16,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// Whether another start may do what this one, whose log ends so, did not.
fn may_start_again(tail: &str) -> bool {
    // Between our choice of a free port and the server's use of it somebody else may have taken it.
    let is_port_taken = tail.contains("could not create any TCP/IP sockets");
    // Rolled back, a TRUNCATE of an unlogged table leaves a file until the next checkpoint. After a crash before that, recovery
    // makes the table again from its log, and stops at that file. The next one removes the file first.
    let is_file_left = tail.contains("could not create file") && tail.contains("File exists");
    is_port_taken || is_file_left
}

impl Postmaster {
    /// Starts the server and waits until it accepts connections, which includes crash recovery. `port` is tried
    /// first, so that a restart keeps its address if it can.
    pub(super) async fn start(home: &Home, port: Option<u16>) -> Result<Self, ClusterError> {
        leftover::end_all(&home.pgdata).await?;
        home.ensure_socket_dir()?;
        home.write_settings().await?;
        let mut wanted = port;
        for attempt in 1.. {
            let port = match wanted.take() {
                Some(port) => port,
                None => free_port()?,
            };
            let (postmaster, log_start) = Self::spawn(home, port)?;
            match postmaster.ready(home, log_start).await {
                Err(ClusterError::Start { tail, .. })
                    if attempt < ATTEMPTS_MAX && may_start_again(&tail) => {}
                Err(error) => {
                    // Without effect if it ended by itself.
                    postmaster.signal("KILL").await?;
                    return Err(error);
                }
                Ok(()) => return Ok(postmaster),
            }
        }
        unreachable!("the loop returns at its last attempt")
    }

    fn spawn(home: &Home, port: u16) -> Result<(Self, u64), ClusterError> {
        let (log, log_start) = home.open_log()?;
        let log_path = home.log_file();
        let log_again = log.try_clone().attempt("open", &log_path)?;
        let postgres = home.options.binaries.program("postgres");
        let mut command = home.account.command(&postgres);
        command
            .arg("-D")
            .arg(&home.pgdata)
            .args(["-p", &port.to_string()])
            .arg("-k")
            .arg(&home.socket_dir)
            .stdout(log)
            .stderr(log_again);
        let mut child = command.spawn().attempt("run", &postgres)?;
        let pid = child.id();
        let (tell, exit) = watch::channel(None);
        // A thread and not a task: the cluster may outlive the runtime it was started on, and a child that nobody
        // waits for stays a zombie. It ends with the server.
        std::thread::Builder::new()
            .name(format!("postgres-{pid}"))
            .spawn(move || {
                if let Ok(status) = child.wait() {
                    tell.send_replace(Some(status));
                }
            })
            .attempt("start a thread for", &postgres)?;
        Ok((Postmaster { pid, port, exit }, log_start))
    }

    async fn ready(&self, home: &Home, log_start: u64) -> Result<(), ClusterError> {
        let deadline = Instant::now() + home.options.ready_within;
        loop {
            if self.says_ready(home) {
                return Ok(());
            }
            if !self.is_running() {
                return Err(ClusterError::Start {
                    log: home.log_file(),
                    tail: home.log_tail(log_start),
                });
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NotReady {
                    seconds: home.options.ready_within.as_secs(),
                    log: home.log_file(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The eighth line of `postmaster.pid` is the server's state. A standby that takes connections says so by its name.
    fn says_ready(&self, home: &Home) -> bool {
        let Ok(text) = std::fs::read_to_string(home.pgdata.join("postmaster.pid")) else {
            return false;
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&self.pid.to_string().as_str())
            && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    pub(super) fn is_running(&self) -> bool {
        self.exit.borrow().is_none() && self.exit.has_changed().is_ok()
    }

    /// `None` if the operating system did not tell how it ended.
    pub(super) async fn wait_exit(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
    }

    pub(super) async fn exits_within(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.wait_exit()).await.is_ok()
    }

    /// Does nothing if the process is gone, as its number may be somebody else's by then.
    pub(super) async fn signal(&self, signal: &str) -> Result<(), ClusterError> {
        if !self.is_running() {
            return Ok(());
        }
        leftover::send(signal, &[self.pid]).await
    }
}

fn free_port() -> Result<u16, ClusterError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .attempt("find a free port on", "127.0.0.1")
}
