//! Places for one test: a directory and a port.

use std::fs::Permissions;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::watchdog;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// An empty directory that is removed when the test process ends. Its path is short enough for sockets below it, and
/// it can be entered by the unprivileged user that runs PostgreSQL for root.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes it; `name` shows in its path.
    pub fn new(name: &str) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("sheaf-test-{}-{number}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(unique);
        // Left by a killed watchdog of a process with our number.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        watchdog::remove(&dir);
        std::fs::set_permissions(&dir, Permissions::from_mode(0o711))?;
        Ok(ScratchDir(dir))
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// A TCP port of 127.0.0.1 that nobody listened on a moment ago.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
