//! `sheaf bench`: each case against its baseline in the same run, on the same server, alternating; medians and spread.
//!
//! A run starts a `sheaf dev` of this very executable in an empty directory and ends it: one for all cases of a small
//! run, one a case for the full scale, so that no case meets what another has written. Absolute numbers depend on the
//! machine; ratios are what is compared. A case that fails is told and fails the run; the others go on.

mod analytics;
mod cdc;
mod connection;
mod cost;
mod ingest;
mod plot;
mod read;
mod report;
mod world;

use anyhow::{Context, Result};

use crate::cli::{BenchArgs, Suite};
use crate::exit::Stop;
use report::Report;
use world::World;

/// How much data a case builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scale {
    /// Shows that every case runs, and measures nothing; for tests.
    #[value(hide = true)]
    Tiny,
    /// Ends within a minute; for trying.
    Small,
    /// What published figures come from.
    Full,
}

impl Scale {
    /// One of three by scale.
    fn pick<T>(self, tiny: T, small: T, full: T) -> T {
        match self {
            Scale::Tiny => tiny,
            Scale::Small => small,
            Scale::Full => full,
        }
    }

    /// How often case and baseline take turns.
    fn rounds(self) -> usize {
        self.pick(1, 1, 5)
    }
}

/// Clients that send at the same time.
const CLIENTS: usize = 8;

/// Runs a suite.
pub(crate) async fn run(args: BenchArgs) -> Result<()> {
    let known = match args.suite {
        Suite::Ingest => ingest::Case::NAMES.map(|(name, _)| name).to_vec(),
        Suite::Read => read::CASES.to_vec(),
        Suite::Cdc => cdc::CASES.to_vec(),
        Suite::Analytics => analytics::CASES.to_vec(),
    };
    let chosen = chosen(&known, &args.case)?;
    let mut report = Report::new(args.json.as_deref())?;
    if let Some(dir) = &args.svg {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let mut world = None;
    for case in chosen {
        let here = match world.take() {
            Some(here) => here,
            None => World::start().await?,
        };
        if let Err(error) = run_case(&here, &args, case, &mut report).await {
            report.fail(case, &error)?;
        }
        match args.scale {
            Scale::Full => {
                if let Err(error) = here.stop().await {
                    report.fail(case, &error)?;
                }
            }
            Scale::Tiny | Scale::Small => world = Some(here),
        }
    }
    if let Some(world) = world {
        world.stop().await?;
    }
    report.finish()
}

async fn run_case(world: &World, args: &BenchArgs, case: &str, report: &mut Report) -> Result<()> {
    match args.suite {
        Suite::Ingest => {
            let case = ingest::Case::find(case).context("the cases were checked")?;
            ingest::run(world, args, case, report).await
        }
        Suite::Read => read::run(world, case, args.scale, report).await,
        Suite::Cdc => cdc::run(world, case, args.scale, report).await,
        Suite::Analytics => analytics::run(world, args, case, report).await,
    }
}

/// The cases to run: those asked for, in the suite's order, or all.
fn chosen<'a>(known: &[&'a str], asked: &[String]) -> Result<Vec<&'a str>> {
    if let Some(unknown) = asked.iter().find(|name| !known.contains(&name.as_str())) {
        let text = format!(
            "there is no case {unknown}; the suite has {}",
            known.join(", ")
        );
        return Err(Stop::Usage(text).into());
    }
    let wanted = |case: &&str| asked.is_empty() || asked.iter().any(|name| name == case);
    Ok(known.iter().copied().filter(|case| wanted(case)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_run_in_the_suites_order_and_unknown_ones_are_told() {
        let known = ["a", "b", "c"];
        let asked = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(&known, &[]).expect("must work"), known);
        assert_eq!(
            chosen(&known, &asked(&["c", "a"])).expect("must work"),
            ["a", "c"]
        );
        let error = chosen(&known, &asked(&["a", "x"])).expect_err("must fail");
        assert_eq!(
            error.to_string(),
            "there is no case x; the suite has a, b, c"
        );
    }
}
