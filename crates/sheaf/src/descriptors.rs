//! How many connections the process may have open: as many as its file descriptors hold, and no more than it has
//! memory for.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Each costs some 20 KiB while it waits, and up to 128 KiB for a head. More makes idle clients able to fill the
/// memory; fewer makes them wait.
const CONNECTIONS_MAX: u64 = 4_000;
/// For what is no client: connections to PostgreSQL, files, listeners, the runtime.
const RESERVED: u64 = 256;
/// Even where the limit is lower than what is reserved, somebody must be served.
const CONNECTIONS_LEAST: u64 = 16;

/// Raises the soft limit of file descriptors as far as it is needed and allowed, and says how many connections that
/// leaves beside so many of another kind.
pub(crate) fn connections_max(beside: usize) -> usize {
    let reserved = RESERVED.saturating_add(u64::try_from(beside).unwrap_or(u64::MAX));
    let wanted = CONNECTIONS_MAX.saturating_add(reserved);
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = rustix::process::Rlimit {
            current: Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted))),
            maximum: limit.maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "the limit of file descriptors stays as it is"),
        }
    }
    let connections = connections_within(limit.current, reserved);
    if connections < CONNECTIONS_MAX {
        tracing::info!(
            connections,
            file_descriptors = limit.current,
            "the limit of file descriptors bounds the connections"
        );
    }
    usize::try_from(connections).unwrap_or(usize::MAX)
}

fn connections_within(descriptors: Option<u64>, reserved: u64) -> u64 {
    let left = descriptors.map_or(CONNECTIONS_MAX, |limit| limit.saturating_sub(reserved));
    left.clamp(CONNECTIONS_LEAST, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        for (descriptors, reserved, connections) in [
            (None, 256, 4_000),
            (Some(1_000_000), 256, 4_000),
            (Some(1_024), 256, 768),
            (Some(1_024), 512, 512),
            (Some(272), 256, 16),
            (Some(0), 256, 16),
        ] {
            assert_eq!(
                connections_within(descriptors, reserved),
                connections,
                "{descriptors:?}"
            );
        }
    }
}
