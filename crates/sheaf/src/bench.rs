//! `sheaf bench`: each case against its baseline in the same run, on the same server, alternating; medians and spread.
//!
//! A run starts a `sheaf dev` of this very executable in an empty directory and ends it. Absolute numbers depend on the
//! machine; ratios are what is compared.

mod connection;
mod ingest;
mod read;
mod report;
mod world;

use anyhow::{Context, Result};

use crate::cli::{BenchArgs, Suite};
use report::Report;
use world::World;

/// How much data a case builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scale {
    /// Ends within a minute; for trying.
    Small,
    /// What published figures come from.
    Full,
}

/// Case and baseline take turns this often.
const ROUNDS: usize = 5;
/// Clients that send at the same time.
const CLIENTS: usize = 8;

/// Runs a suite.
pub(crate) async fn run(args: BenchArgs) -> Result<()> {
    let mut report = Report::new(args.json.as_deref())?;
    let wanted = |case: &str| args.case.as_deref().is_none_or(|name| name == case);
    let world = World::start().await?;
    let outcome = async {
        match args.suite {
            Suite::Ingest => ingest::run(&world, args.scale, &wanted, &mut report).await,
            Suite::Read => read::run(&world, args.scale, &wanted, &mut report).await,
        }
    }
    .await;
    world
        .stop()
        .await
        .context("stopping the server of the benchmark")?;
    outcome?;
    report.finish()
}
