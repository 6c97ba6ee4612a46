//! The steps of each command, in order. The first that fails ends the run; each prints its seconds.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use crate::{edges, sources, workspace};

/// Python programs that test the executable from outside. Each starts what it needs.
const CLIENT_TESTS: [&str; 2] = ["tests/e2e", "tests/influx"];

/// Runs of random faults: under writers, under sessions that read from replicas and caches, and under what follows changes.
const FAULT_RUNS: [&str; 3] = [
    "tests/faults/run.py",
    "tests/faults/reads.py",
    "tests/faults/changes.py",
];

/// One schedule for everybody: a failure is of the change at hand. `cargo xtask faults` tries others.
const SHORT_FAULTS_SEED: &str = "1";
/// As long as every fault takes to come at least once. The long form is ten minutes, by hand.
const SHORT_FAULTS_MINUTES: &str = "1";

/// What tests are built with as well: another profile would compile everything once more, for a quarter of an hour.
const TESTED: &str = "target/debug/sheaf";
const OPTIMISED: &str = "target/release/sheaf";

pub(crate) fn check() -> Result<()> {
    step("format", || cargo(&["fmt", "--all", "--", "--check"]))?;
    step("edges", rules)?;
    step("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    step("rustdoc", || {
        let mut command = cargo_command(&["doc", "--workspace", "--no-deps", "--locked"]);
        run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("tests", || cargo(&["test", "--workspace", "--locked"]))
}

pub(crate) fn edges() -> Result<()> {
    step("edges", rules)
}

pub(crate) fn e2e() -> Result<()> {
    step("example", || {
        run(Command::new("scripts/run.sh").arg("--check"))
    })?;
    let tests = client_tests()?;
    ensure!(!tests.is_empty(), "no *.py in any of {CLIENT_TESTS:?}");
    for test in tests {
        step(&test.display().to_string(), || {
            run(python(TESTED).arg(&test))
        })?;
    }
    step("faults", || {
        random_faults(TESTED, SHORT_FAULTS_SEED, SHORT_FAULTS_MINUTES)
    })
}

/// Random faults for as long as asked, on the optimised executable as it is now.
pub(crate) fn faults(seed: &str, minutes: &str) -> Result<()> {
    step("build", || {
        cargo(&["build", "--release", "--locked", "--package", "sheaf"])
    })?;
    step("faults", || random_faults(OPTIMISED, seed, minutes))
}

fn random_faults(executable: &str, seed: &str, minutes: &str) -> Result<()> {
    for program in FAULT_RUNS {
        run(python(executable).args([program, "--seed", seed, "--minutes", minutes]))?;
    }
    Ok(())
}

/// A Python that is to test this executable.
fn python(executable: &str) -> Command {
    let mut command = Command::new("target/venv/bin/python");
    command.env("SHEAF_BIN", workspace::root().join(executable));
    command
}

fn rules() -> Result<()> {
    let workspace = Workspace::read()?;
    let mut violations = edges::violations(&workspace)?;
    violations.extend(sources::violations(&workspace)?);
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

fn client_tests() -> Result<Vec<PathBuf>> {
    let mut tests = Vec::new();
    for directory in CLIENT_TESTS {
        let Ok(entries) = std::fs::read_dir(workspace::root().join(directory)) else {
            continue;
        };
        for entry in entries {
            let path = entry
                .with_context(|| format!("listing {directory}"))?
                .path();
            if path.extension().is_some_and(|extension| extension == "py") {
                tests.push(path);
            }
        }
    }
    tests.sort();
    Ok(tests)
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let result = work();
    let seconds = started.elapsed().as_secs_f64();
    let outcome = if result.is_ok() { "passed" } else { "FAILED" };
    println!("== {name}: {outcome} after {seconds:.1} s");
    result.with_context(|| format!("step {name}"))
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run(&mut cargo_command(arguments))
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace::cargo());
    command.args(arguments);
    command
}

/// Runs at the workspace's root, with our own output.
fn run(command: &mut Command) -> Result<()> {
    println!("+ {command:?}");
    let status = command
        .current_dir(workspace::root())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
