//! The private PostgreSQL of `sheaf dev`: where it is kept, and how other commands reach it while it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sheaf_config::{Lake, Settings};
use tokio_postgres::Config;

use crate::connect::Access;
use crate::exit::Stop;

/// The database within the cluster.
pub(super) const DATABASE: &str = "sheaf";

/// The cluster's directory.
pub(super) fn cluster_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// Its lake.
pub(super) fn lake(data_dir: &Path) -> Lake {
    Lake::in_folder(data_dir.join("lake"))
}

/// The settings of `sheaf dev`: the defaults, whatever the environment says.
pub(super) fn settings() -> Settings {
    let (settings, _) = Settings::load(None, []).expect("the defaults are valid");
    settings
}

/// The way to a cluster that some `sheaf dev` runs.
pub(super) fn access(data_dir: &Path) -> Result<Access> {
    let (port, socket_dir) = running(data_dir)?;
    Ok(Access::private(
        |role| config_of(port, &socket_dir, role),
        &settings(),
    ))
}

/// The way to that cluster as one role.
pub(super) fn config(data_dir: &Path, role: &str) -> Result<Config> {
    let (port, socket_dir) = running(data_dir)?;
    Ok(config_of(port, &socket_dir, role))
}

fn config_of(port: u16, socket_dir: &Path, role: &str) -> Config {
    let mut config = Config::new();
    config
        .host_path(socket_dir)
        .port(port)
        .dbname(DATABASE)
        .user(role);
    config
}

fn running(data_dir: &Path) -> Result<(u16, PathBuf)> {
    let pid_file = cluster_dir(data_dir).join("pgdata/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).with_context(|| {
        let dir = data_dir.display();
        Stop::NotFound(format!("no sheaf dev runs on {dir}; start it first"))
    })?;
    address(&text)
        .with_context(|| format!("{} does not tell where the server is", pid_file.display()))
}

/// The fourth line is the port, the fifth the socket's directory.
fn address(pid_file: &str) -> Option<(u16, PathBuf)> {
    let lines: Vec<&str> = pid_file.lines().map(str::trim).collect();
    let port = lines.get(3)?.parse().ok()?;
    let socket_dir = lines.get(4).filter(|dir| dir.starts_with('/'))?;
    Some((port, PathBuf::from(socket_dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_pid_file() {
        let text = "71\n/d/pgdata\n1700000000\n5433\n/d/run\n127.0.0.1\n 1 2\nready   \n";
        assert_eq!(address(text), Some((5433, PathBuf::from("/d/run"))));
        assert_eq!(address("71\n/d/pgdata\n1700000000\n"), None);
    }
}
