//! What is done between the steps of a commit: they are counted, or the process ends after so many.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheaf_lake::{CommitObserver, CommitStep, LakeOptions, LakeSink};

use crate::child;
use crate::world::World;

/// Counts the steps of an undisturbed life.
#[derive(Default)]
pub(crate) struct Counter(Mutex<Vec<CommitStep>>);

impl Counter {
    /// Those until now.
    pub(crate) fn steps(&self) -> Vec<CommitStep> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl CommitObserver for Counter {
    fn passed(&self, step: CommitStep) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }
}

/// Kills the process, power and all as far as the lake is concerned, after so many steps.
struct Killer {
    steps: AtomicUsize,
    last: usize,
}

impl CommitObserver for Killer {
    fn passed(&self, _: CommitStep) {
        if self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            std::process::abort();
        }
    }
}

/// Runs a test that works on [`sink_to_be_killed`] as a process of its own, which has to end after this step.
pub(crate) fn kill_after(world: &World, catalog: &str, test: &str, last: usize) -> Result<()> {
    let output = child::command(world, catalog, test, &json!({ "last": last }), "")?.output()?;
    ensure!(
        output.status.code().is_none(),
        "after step {last} it was not killed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The sink of such a process. None where this is an ordinary run of the tests.
pub(crate) fn sink_to_be_killed() -> Result<Option<LakeSink>> {
    let Some((cdc, options, task)) = child::work()? else {
        return Ok(None);
    };
    let last = task["last"].as_u64().context("a number")?;
    let killer = Killer {
        steps: AtomicUsize::new(0),
        last: usize::try_from(last)?,
    };
    let options = LakeOptions {
        observer: Some(Arc::new(killer)),
        ..options
    };
    Ok(Some(LakeSink::new(&cdc, options)?))
}
