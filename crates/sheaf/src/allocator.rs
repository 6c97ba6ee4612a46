//! How the C library's allocator keeps what is freed.
//!
//! glibc gives a large buffer back to the kernel when it is freed, but what it takes for large grows with each one that is freed, up
//! to 32 MiB; smaller ones leave parts in its arenas, eight for each processor, that later ones do not fit into. A server that wrote
//! files of the lake at full speed held ever more, and nearly all of it free. With a size that does not grow and fewer arenas it
//! stays at half of that (decision 0028). glibc reads these from the environment, when a process begins.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How many arenas there are at most: one for each processor within these bounds. A thread that is interrupted while it allocates
/// holds up all others of its arena, and each arena keeps what is free in it to itself.
const ARENAS: &str = "MALLOC_ARENA_MAX";
const ARENAS_MIN: usize = 2;
const ARENAS_MAX: usize = 8;
/// From how many bytes on a buffer is given back to the kernel when it is freed.
const LARGE: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1048576");
/// Up to how many free bytes stay at an arena's end. What glibc has by itself, once the size above is set, is less than the batches of a
/// question take, and the kernel clears what is taken from it anew.
const KEPT: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "16777216");
/// Has the number of the process that began again. Where glibc takes its variables out of the environment, as it does for an executable
/// with capabilities of its own, they are never there, and the process must not begin again for ever.
const BEGUN_AGAIN: &str = "_SHEAF_BEGUN_AGAIN";

/// What is to be done about the allocator.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Everything is set.
    Nothing,
    /// To begin again with these beside what is set.
    Again(Vec<(&'static str, String)>),
    /// What was set did not stay.
    Refused,
}

/// Begins this process again, as itself and with the same arguments, where the allocator was not told yet. Does not return then; where
/// that is impossible the server takes more memory, and says so. Called once, before anything is open.
pub(crate) fn settle() {
    if cfg!(not(target_env = "gnu")) {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(ARENAS_MIN, usize::from);
    let failed = match next(
        |name| std::env::var_os(name),
        std::process::id(),
        processors,
    ) {
        Next::Nothing => return,
        Next::Again(variables) => again(variables),
        Next::Refused => "the environment was not kept".to_owned(),
    };
    tracing::warn!(failed, "more memory may stay with the server than it uses");
}

fn next(variable: impl Fn(&str) -> Option<OsString>, process: u32, processors: usize) -> Next {
    let arenas = processors.clamp(ARENAS_MIN, ARENAS_MAX).to_string();
    let own = |(name, value): (&'static str, &str)| (name, value.to_owned());
    let wanted = [(ARENAS, arenas), own(LARGE), own(KEPT)];
    let unset = wanted
        .into_iter()
        .filter(|(name, _)| variable(name).is_none());
    let mut unset: Vec<_> = unset.collect();
    if unset.is_empty() {
        return Next::Nothing;
    }
    let process = process.to_string();
    if variable(BEGUN_AGAIN).is_some_and(|begun| begun == *process) {
        return Next::Refused;
    }
    unset.push((BEGUN_AGAIN, process));
    Next::Again(unset)
}

/// Why it is still this one.
fn again(variables: Vec<(&'static str, String)>) -> String {
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return format!("finding this executable: {error}"),
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("sheaf"));
    let mut again = Command::new(&executable);
    again.arg0(name).args(arguments).envs(variables);
    let error = again.exec();
    format!("starting {} again: {error}", executable.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_begins_again_once_with_what_nobody_has_set() {
        let large = (LARGE.0, LARGE.1.to_owned());
        let kept = (KEPT.0, KEPT.1.to_owned());
        let arenas = |count: &str| (ARENAS, count.to_owned());
        let begun = (BEGUN_AGAIN, "7".to_owned());
        let all = [(ARENAS, "1"), (LARGE.0, "1"), (KEPT.0, "1")];
        for (set, processors, wanted) in [
            (
                vec![],
                1,
                Next::Again(vec![
                    arenas("2"),
                    large.clone(),
                    kept.clone(),
                    begun.clone(),
                ]),
            ),
            (
                vec![(LARGE.0, "1"), (BEGUN_AGAIN, "6")],
                64,
                Next::Again(vec![arenas("8"), kept.clone(), begun.clone()]),
            ),
            (
                vec![(LARGE.0, "1"), (KEPT.0, "1")],
                4,
                Next::Again(vec![arenas("4"), begun]),
            ),
            (vec![(BEGUN_AGAIN, "7")], 4, Next::Refused),
            (vec![(BEGUN_AGAIN, "7"), all[0], all[1]], 4, Next::Refused),
            (all.to_vec(), 4, Next::Nothing),
            ([&all[..], &[(BEGUN_AGAIN, "7")]].concat(), 4, Next::Nothing),
        ] {
            let variable = |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            assert_eq!(next(variable, 7, processors), wanted, "{set:?}");
        }
    }
}
