//! How the C library's allocator keeps what is freed, settled before there is a second thread.
//!
//! glibc gives a large buffer back to the kernel when it is freed, but what it takes for large grows with each one that is freed, up
//! to 32 MiB; smaller ones leave parts in its arenas, eight for each processor, that later ones do not fit into. A server that writes
//! files of the lake at full speed held four times of what it used, and ever more of it. With a size that does not grow and an arena
//! for each processor it holds half of that, as much after twice the time (docs/figures.md, "Following"). glibc reads these from the
//! environment, when a process begins.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// From how many bytes on a buffer is given back to the kernel when it is freed: above most pages of a data file, which would be
/// cleared by the kernel for each one that is read.
const LARGE: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "8388608");
/// How many bytes at an arena's end stay for what comes next. Once the first is set glibc's own are too few for a page.
const KEPT: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "16777216");
/// How many arenas there are at most.
const ARENAS: &str = "MALLOC_ARENA_MAX";
/// One would be waited for while a thread that computes holds it.
const ARENAS_MIN: usize = 2;

/// Begins this process again with what the environment does not say yet: the same executable, arguments and number of the process.
pub(crate) fn settle() -> Result<()> {
    let arenas = std::thread::available_parallelism().map_or(ARENAS_MIN, usize::from);
    let arenas = arenas.max(ARENAS_MIN).to_string();
    let wanted = [(ARENAS, arenas.as_str()), LARGE, KEPT];
    let unset = wanted
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    let unset: Vec<_> = unset.collect();
    if unset.is_empty() || cfg!(not(target_env = "gnu")) {
        return Ok(());
    }
    let executable = std::env::current_exe().context("finding this executable")?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("sheaf"));
    let mut again = Command::new(&executable);
    again.arg0(name).args(arguments).envs(unset);
    Err(again.exec()).with_context(|| format!("starting {} again", executable.display()))
}
