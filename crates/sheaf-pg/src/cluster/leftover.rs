//! PostgreSQL processes that outlived whoever started them.
//!
//! After `kill -9` of us the postmaster lives on; after `kill -9` of the postmaster its backends may, and a new
//! postmaster refuses to start beside them. Its pid file alone proves nothing: the number may belong to somebody
//! else by now. Every PostgreSQL process works in its data directory, so `/proc/<pid>/cwd` tells them apart. On
//! a system without `/proc` nothing is found, and PostgreSQL's own checks decide.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::error::{Attempt, ClusterError};

/// A fast shutdown ends with a checkpoint, which may write all of `shared_buffers`.
const FAST_WITHIN: Duration = Duration::from_secs(60);
/// Backends that are told to quit do nothing but exit.
const QUIT_WITHIN: Duration = Duration::from_secs(5);
/// The kernel may be busy with a killed process, but not for long.
const KILL_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Ends everything that still works in `pgdata`, as gently as it allows, and removes a pid file that nobody holds.
pub(super) async fn end_all(pgdata: &Path) -> Result<(), ClusterError> {
    let found = processes_in(pgdata);
    if found.is_empty() {
        return remove_stale_pid_file(pgdata);
    }
    tracing::warn!(dir = %pgdata.display(), processes = ?found, "stopping a PostgreSQL that was left running");
    if let Some(postmaster) = postmaster_in(pgdata).filter(|pid| found.contains(pid)) {
        send("INT", &[postmaster]).await?;
        if all_gone(pgdata, FAST_WITHIN).await {
            return remove_stale_pid_file(pgdata);
        }
    }
    for (signal, within) in [("QUIT", QUIT_WITHIN), ("KILL", KILL_WITHIN)] {
        send(signal, &processes_in(pgdata)).await?;
        if all_gone(pgdata, within).await {
            return remove_stale_pid_file(pgdata);
        }
    }
    Err(ClusterError::Leftover {
        dir: pgdata.to_path_buf(),
        processes: processes_in(pgdata),
    })
}

/// Sends a signal by name. The shell's own `kill` needs no package.
pub(super) async fn send(signal: &str, processes: &[u32]) -> Result<(), ClusterError> {
    for process in processes {
        // A process that is gone already is what we want, so the outcome does not matter.
        tokio::process::Command::from(signal_command(signal, *process))
            .status()
            .await
            .attempt("run", "/bin/sh")?;
    }
    Ok(())
}

pub(super) fn signal_command(signal: &str, process: u32) -> std::process::Command {
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &process.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The process id in the first line of `postmaster.pid`.
fn postmaster_in(pgdata: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Processes of PostgreSQL (not, say, a shell) whose working directory is `dir`.
fn processes_in(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| works_in(*pid, dir))
        .collect()
}

fn works_in(pid: u32, dir: &Path) -> bool {
    let of_process = Path::new("/proc").join(pid.to_string());
    let Ok(works_in) = std::fs::read_link(of_process.join("cwd")) else {
        return false;
    };
    if works_in != dir {
        return false;
    }
    let Ok(executable) = std::fs::read_link(of_process.join("exe")) else {
        return false;
    };
    let name = executable.file_name().unwrap_or_default().to_string_lossy();
    name.contains("postgres") || name.contains("initdb")
}

async fn all_gone(pgdata: &Path, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if processes_in(pgdata).is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// PostgreSQL takes any living process of its user with the number in the file for a postmaster. We know better, if
/// there is a `/proc` to know it from.
fn remove_stale_pid_file(pgdata: &Path) -> Result<(), ClusterError> {
    let file = pgdata.join("postmaster.pid");
    if !Path::new("/proc/self/cwd").exists() || !file.exists() {
        return Ok(());
    }
    std::fs::remove_file(&file).attempt("remove", file)
}
