//! Ends and removes what a test process leaves behind, also when that process is killed.
//!
//! One shell per test process reads from a pipe whose other end only we hold. The end of the pipe is the end of our
//! process, whatever its cause; then it does what it was told to:
//!
//! ```text
//! process PID      kill it, unless there is a line "ended PID"
//! cluster DIR      end the PostgreSQL whose cluster is in DIR/pgdata
//! remove DIR       remove the directory
//! ```

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

/// First processes (a server may start its PostgreSQL again), then clusters, then files. Whatever works in the directory
/// of a cluster belongs to it, which is true of backends without a postmaster too, and of no other process whose number
/// stands in an old pid file.
const SCRIPT: &str = r#"
todo=$(cat)
IFS='
'
has() { case "
$todo
" in *"
$1
"*) return 0 ;; esac; return 1; }
working() { find /proc -maxdepth 2 -name cwd -lname "${line#* }/pgdata" | cut -d / -f 3; }
send() { for pid in $(working); do kill -s "$1" "$pid"; done; }
for line in $todo; do
  case $line in
    "process "*) has "ended ${line#* }" || kill -s KILL "${line#* }" ;;
  esac
done
for line in $todo; do
  case $line in
    "cluster "*)
      send QUIT
      tries=0
      while [ -n "$(working)" ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
      send KILL ;;
  esac
done
for line in $todo; do
  case $line in
    "remove "*)
      tries=0
      until rm -rf -- "${line#* }" || [ $tries -ge 20 ]; do sleep 0.1; tries=$((tries + 1)); done ;;
  esac
done
"#;

static SHELL: LazyLock<Mutex<Child>> =
    LazyLock::new(|| Mutex::new(shell().spawn().expect("a shell can be started")));

/// The process is killed at our end.
pub(crate) fn kill_process(pid: u32) {
    tell(&format!("process {pid}"));
}

/// The process has ended, and its number may go to another.
pub(crate) fn forget_process(pid: u32) {
    tell(&format!("ended {pid}"));
}

/// The PostgreSQL of this data directory is ended at our end.
pub(crate) fn end_cluster(data_dir: &Path) {
    tell(&cluster_line(data_dir));
}

/// The directory is removed at our end.
pub(crate) fn remove(dir: &Path) {
    tell(&format!("remove {}", dir.display()));
}

/// Ends the PostgreSQL of this data directory now.
pub(crate) fn end_cluster_now(data_dir: &Path) {
    let Ok(mut shell) = shell().spawn() else {
        return;
    };
    if let Some(mut pipe) = shell.stdin.take() {
        let _ = writeln!(pipe, "{}", cluster_line(data_dir));
    }
    let _ = shell.wait();
}

fn cluster_line(data_dir: &Path) -> String {
    format!("cluster {}", data_dir.display())
}

fn tell(line: &str) {
    let mut shell = SHELL.lock().unwrap_or_else(PoisonError::into_inner);
    let pipe = shell.stdin.as_mut().expect("stdin is piped");
    writeln!(pipe, "{line}").expect("the watchdog lives as long as we do");
}

/// In a process group of its own, as Ctrl-C must not end it before us, and with no output, as whoever reads ours would
/// wait for it.
fn shell() -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}
