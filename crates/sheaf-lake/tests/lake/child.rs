//! A process of a test's own that works on its lake: with a bound on its files, or another clock.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sheaf_lake::LakeOptions;
use sheaf_pg::{Pool, Tls};
use tokio_postgres::config::Host;

use crate::world::{World, options};

/// Where such a process finds what it works on.
const CHILD: &str = "SHEAF_TEST_LAKE_TASK";

/// Runs a test of this executable as a process of its own, on the lake of this name, with a task. The shell does something first.
pub(crate) fn command(
    world: &World,
    catalog: &str,
    test: &str,
    task: &Value,
    shell: &str,
) -> Result<Command> {
    let config = world.database.config("sheaf_cdc");
    let Some(Host::Unix(socket_dir)) = config.get_hosts().first() else {
        anyhow::bail!("the cluster of tests listens on a socket");
    };
    let child = json!({
        "catalog": catalog,
        "folder": world.folder(catalog),
        "host": socket_dir,
        "port": config.get_ports().first(),
        "dbname": world.database.name(),
        "task": task,
    });
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, child.to_string());
    Ok(command)
}

/// What such a process works on. None where this is an ordinary run of the tests.
pub(crate) fn work() -> Result<Option<(Pool, LakeOptions, Value)>> {
    let Ok(child) = std::env::var(CHILD) else {
        return Ok(None);
    };
    let child: Value = serde_json::from_str(&child)?;
    let text = |name: &str| child[name].as_str().context("a text");
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(text("host")?)
        .port(u16::try_from(child["port"].as_u64().context("a port")?)?)
        .dbname(text("dbname")?)
        .user("sheaf_cdc");
    let options = options(text("catalog")?, PathBuf::from(text("folder")?));
    Ok(Some((
        Pool::new(&config, 4, &Tls::none()),
        options,
        child["task"].clone(),
    )))
}
