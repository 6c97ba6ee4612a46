//! The commands: each reads its arguments, calls what does the work, and prints the result.

mod archive;
mod dev;
mod doctor;
mod import;
mod key;
mod migrate;
mod partition;
mod private;
mod reconcile;
mod serve;
mod settings;
mod tenant;

use anyhow::{Context, Result};

use std::path::Path;

use sheaf_config::Roles;
use sheaf_pg::Pool;

use crate::cli::{Cli, Command};

/// Pools to the database of a `sheaf dev` that runs on this directory.
pub(crate) fn private_pools(data_dir: &Path) -> Result<Roles<Pool>> {
    Ok(private::access(data_dir)?.pools())
}

/// How to reach the database of a `sheaf dev` that runs on this directory, as any role.
pub(crate) fn private_config(data_dir: &Path, role: &str) -> Result<tokio_postgres::Config> {
    private::config(data_dir, role)
}

/// Runs one command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Migrate { command } => migrate::run(command).await,
            Command::Tenant { command } => tenant::run(command).await,
            Command::Key { command } => key::run(command).await,
            Command::Partition { command } => partition::run(command).await,
            Command::Reconcile(args) => reconcile::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Bench(args) => crate::bench::run(args).await,
        }
    })
}
