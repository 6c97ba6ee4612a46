//! Runs programs side by side. What each prints is shown in one piece when it has ended; after a failure no other starts,
//! and what failed is shown last.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Where each writes what it prints, in the project.
const LOGS: &str = "target/e2e";

pub(crate) struct Program {
    pub(crate) name: String,
    command: Command,
}

impl Program {
    pub(crate) fn new(name: &str, command: Command) -> Self {
        Program {
            name: name.to_owned(),
            command,
        }
    }

    fn log(&self) -> PathBuf {
        let file = self.name.replace('/', "-");
        workspace::root().join(LOGS).join(file + ".log")
    }

    fn run(&mut self) -> Result<()> {
        let log = File::create(self.log())?;
        let status = self
            .command
            .current_dir(workspace::root())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("starting {:?}", self.command))?;
        if !status.success() {
            bail!("{:?} ended with {status}", self.command);
        }
        Ok(())
    }
}

struct Queue {
    waiting: VecDeque<Program>,
    failed: Vec<(Program, anyhow::Error)>,
}

/// Runs all of them, so many at a time, in their order.
pub(crate) fn run(programs: Vec<Program>, at_a_time: usize) -> Result<()> {
    std::fs::create_dir_all(workspace::root().join(LOGS))?;
    let queue = Mutex::new(Queue {
        waiting: programs.into(),
        failed: Vec::new(),
    });
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| work(&queue));
        }
    });
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut first = Ok(());
    for (program, error) in queue.failed {
        show(&program)?;
        first = first.and(Err(error.context(format!("step {}", program.name))));
    }
    first
}

fn work(queue: &Mutex<Queue>) {
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.failed.is_empty() {
            true => queue.waiting.pop_front(),
            false => None,
        }
    };
    while let Some(mut program) = next() {
        let started = Instant::now();
        let result = program.run();
        let seconds = started.elapsed().as_secs_f64();
        // Under the lock, so that two do not print into each other.
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &program.name;
        match result.and_then(|()| show(&program)) {
            Ok(()) => println!("== {name}: passed after {seconds:.1} s"),
            Err(error) => {
                println!("== {name}: FAILED after {seconds:.1} s");
                queue.failed.push((program, error));
            }
        }
    }
}

fn show(program: &Program) -> Result<()> {
    println!("== {}", program.name);
    println!("+ {:?}", program.command);
    let mut log = File::open(program.log())?;
    io::copy(&mut log, &mut io::stdout())?;
    Ok(())
}
