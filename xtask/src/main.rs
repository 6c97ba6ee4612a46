//! All automation of the project: `cargo xtask check` is the gate, `cargo xtask e2e` the steps that test the executable
//! from outside, `cargo xtask edges` the rules on dependencies and sources alone, `cargo xtask faults` random faults under
//! load on the optimised executable, from a seed that repeats them.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever started it"
)]

mod edges;
mod programs;
mod sources;
mod step;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Last, and short: what failed stands right above it, and a backtrace of this program tells nothing of it.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["check"] => step::check(),
        ["edges"] => step::edges(),
        ["e2e"] => step::e2e(),
        ["faults", "--seed", seed, "--minutes", minutes] => step::faults(seed, minutes),
        _ => bail!("usage: cargo xtask check|edges|e2e|faults --seed N --minutes M"),
    }
}
