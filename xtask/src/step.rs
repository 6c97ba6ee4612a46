//! The steps of each command, in order. The first that fails ends the run; each prints its seconds.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::programs::{self, Program};
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

/// How many tests of one program run side by side: on two cores half as many leave these idle two thirds of the time.
const TESTS_AT_A_TIME: &str = "4";
/// How many programs run side by side: most of their time they wait for a crash, a limit or a replica.
const AT_A_TIME: usize = 3;
/// Those that hold a time to a bound, and are alone on the machine.
const ALONE: [&str; 2] = ["tests/e2e/crash_under_load.py", "tests/e2e/timing.py"];

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
    step("tests", || {
        let mut command = cargo_command(&["test", "--workspace", "--locked"]);
        run(command.env("RUST_TEST_THREADS", TESTS_AT_A_TIME))
    })
}

pub(crate) fn edges() -> Result<()> {
    step("edges", rules)
}

/// What tests the executable from outside: first what waits more than it computes, some at a time, then what measures time.
pub(crate) fn e2e() -> Result<()> {
    let mut together = vec![Program::new("example", example())];
    for test in client_tests()? {
        together.push(Program::new(&test, python(TESTED, &[&test])));
    }
    for run in FAULT_RUNS {
        let arguments = [
            run,
            "--seed",
            SHORT_FAULTS_SEED,
            "--minutes",
            SHORT_FAULTS_MINUTES,
        ];
        together.push(Program::new(run, python(TESTED, &arguments)));
    }
    let (alone, together) = together
        .into_iter()
        .partition(|program| ALONE.contains(&program.name.as_str()));
    programs::run(together, AT_A_TIME)?;
    programs::run(alone, 1)
}

/// Random faults for as long as asked, on the optimised executable as it is now.
pub(crate) fn faults(seed: &str, minutes: &str) -> Result<()> {
    step("build", || {
        cargo(&["build", "--release", "--locked", "--package", "sheaf"])
    })?;
    for program in FAULT_RUNS {
        step(program, || {
            run(&mut python(
                OPTIMISED,
                &[program, "--seed", seed, "--minutes", minutes],
            ))
        })?;
    }
    Ok(())
}

/// Builds what is tested, when it is not there yet, and loads and checks the example with it.
fn example() -> Command {
    let mut command = Command::new("scripts/run.sh");
    command.arg("--check");
    command
}

/// A Python that is to test this executable.
fn python(executable: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("target/venv/bin/python");
    command
        .env("SHEAF_BIN", workspace::root().join(executable))
        .args(arguments);
    command
}

fn rules() -> Result<()> {
    let workspace = Workspace::read()?;
    let mut violations = edges::violations(&workspace)?;
    violations.extend(sources::violations(&workspace)?);
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

fn client_tests() -> Result<Vec<String>> {
    let mut tests = Vec::new();
    for directory in CLIENT_TESTS {
        let entries = std::fs::read_dir(workspace::root().join(directory))
            .with_context(|| format!("listing {directory}"))?;
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".py") {
                tests.push(format!("{directory}/{name}"));
            }
        }
    }
    ensure!(!tests.is_empty(), "no *.py in any of {CLIENT_TESTS:?}");
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
