//! The threads that questions are computed on: their own, so that requests for single entities never wait behind a join, and with
//! less of a claim on the processors than all others have.

use std::future::Future;

use rustix::process::nice;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::LakeError;

/// Planning goes down a tree that is as deep as the text's bounds allow. Only what is touched takes memory.
const STACK_BYTES: usize = 64 << 20;
/// Threads that read files, beside those that compute.
const FILE_THREADS_MAX: usize = 32;
/// How far they step back. Threads of no such step get nine times as much of a processor that all want.
const NICE: i32 = 10;

/// The threads.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Always there, until it is dropped.
    runtime: Option<Runtime>,
    count: usize,
}

impl Threads {
    /// Starts them: as many as there are processors where it is not said.
    pub(crate) fn start(count: Option<usize>) -> Result<Threads, LakeError> {
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get());
        let count = count.unwrap_or_else(processors).max(1);
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .max_blocking_threads(FILE_THREADS_MAX)
            .thread_stack_size(STACK_BYTES)
            .thread_name("sheaf-analytics")
            .on_thread_start(|| {
                // Where it may not step back it stands beside the others.
                let _ = nice(NICE);
            })
            .enable_all()
            .build();
        let runtime = runtime.map_err(LakeError::Threads)?;
        Ok(Threads {
            runtime: Some(runtime),
            count,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let runtime = self.runtime.as_ref();
        runtime
            .expect("invariant: it is there until it is dropped")
            .spawn(work)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // May be dropped by a task, which must not wait for others.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
