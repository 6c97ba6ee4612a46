//! The operating system account that runs PostgreSQL: our own, or an unprivileged one when we are root.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{Attempt, ClusterError};

/// Accounts that root becomes, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

#[derive(Debug, Clone)]
pub(super) struct Account {
    name: String,
    uid: u32,
    gid: u32,
    we_are_root: bool,
}

impl Account {
    /// Our own account, or for root the first unprivileged one that exists.
    pub(super) async fn choose() -> Result<Self, ClusterError> {
        let own = id(&["-u"]).await?.ok_or(ClusterError::NoAccount)?;
        if own != 0 {
            let gid = id(&["-g"]).await?.ok_or(ClusterError::NoAccount)?;
            return Ok(Account {
                name: format!("id {own}"),
                uid: own,
                gid,
                we_are_root: false,
            });
        }
        for name in UNPRIVILEGED {
            if let (Some(uid), Some(gid)) = (id(&["-u", name]).await?, id(&["-g", name]).await?) {
                return Ok(Account {
                    name: name.to_owned(),
                    uid,
                    gid,
                    we_are_root: true,
                });
            }
        }
        Err(ClusterError::NoAccount)
    }

    pub(super) fn we_are_root(&self) -> bool {
        self.we_are_root
    }

    /// A program that runs as this account, in a process group of its own (Ctrl-C in a terminal goes to the whole
    /// foreground group, and would stop PostgreSQL before us), with messages in English so that we can read them, and without what
    /// a server of ours is told of its own memory.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .current_dir("/")
            .env("LC_ALL", "C")
            .env_remove("PGDATA")
            .env_remove("PGPORT")
            .env_remove("PGOPTIONS")
            .env_remove("MALLOC_ARENA_MAX")
            .env_remove("MALLOC_MMAP_THRESHOLD_")
            .env_remove("MALLOC_TRIM_THRESHOLD_")
            .process_group(0);
        if self.we_are_root {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives one file or directory to the account.
    pub(super) fn own(&self, path: &Path) -> Result<(), ClusterError> {
        if self.we_are_root {
            lchown(path, Some(self.uid), Some(self.gid)).attempt("change the owner of", path)?;
        }
        Ok(())
    }

    /// Makes sure that the account owns `dir` and what is in it; root changes it, others can only tell.
    pub(super) fn own_all(&self, dir: &Path) -> Result<(), ClusterError> {
        let owner = dir.symlink_metadata().attempt("look at", dir)?.uid();
        if owner == self.uid {
            return Ok(());
        }
        if !self.we_are_root {
            return Err(ClusterError::ForeignOwner {
                dir: dir.to_path_buf(),
                owner,
            });
        }
        let mut to_walk = vec![dir.to_path_buf()];
        while let Some(next) = to_walk.pop() {
            for entry in std::fs::read_dir(&next).attempt("list", &next)? {
                let entry = entry.attempt("list", &next)?;
                let path = entry.path();
                if entry.file_type().attempt("look at", &path)?.is_dir() {
                    to_walk.push(path);
                } else {
                    self.own(&path)?;
                }
            }
            // `dir` itself changes hands last: its owner tells the next start whether a walk was cut short.
            if next != dir {
                self.own(&next)?;
            }
        }
        self.own(dir)
    }

    /// Asks the operating system, as the account itself, whether it may enter `dir`: mode bits alone do not tell
    /// (access lists, mount options).
    pub(super) async fn require_entry(&self, dir: &Path) -> Result<(), ClusterError> {
        if !self.we_are_root || self.may_enter(dir).await? {
            return Ok(());
        }
        let mut on_the_way: Vec<&Path> = dir.ancestors().collect();
        on_the_way.reverse();
        for step in on_the_way {
            if !self.may_enter(step).await? {
                return Err(ClusterError::Unreachable {
                    user: self.name.clone(),
                    dir: step.to_path_buf(),
                });
            }
        }
        Ok(())
    }

    async fn may_enter(&self, dir: &Path) -> Result<bool, ClusterError> {
        let mut command = self.command("/bin/sh");
        command
            .args(["-c", "cd -- \"$0\""])
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = tokio::process::Command::from(command)
            .status()
            .await
            .attempt("run", "/bin/sh")?;
        Ok(status.success())
    }
}

/// `id` knows every source of accounts that the system has; `None` if it does not know this one.
async fn id(arguments: &[&str]) -> Result<Option<u32>, ClusterError> {
    let output = tokio::process::Command::new("id")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .attempt("run", "id")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}
