//! How many streams there may be, and how many of them may ask the database at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sheaf_model::TenantId;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::STREAMS_RUNNING;
use crate::problem::{Code, Problem};
use crate::state::Bounds;

/// How long a client waits before it asks for a stream again: they run for seconds and more.
const RETRY_AFTER_S: u32 = 5;
/// Pages that streams read at the same time. Half of the connections for filters that a server has by default: whoever
/// asks for one page never waits behind exports alone. More make exports faster and everything else slower.
const READS_MAX: usize = 4;

/// The streams of this server.
pub(crate) struct Streams {
    running: Mutex<HashMap<TenantId, usize>>,
    of_tenant_max: usize,
    max: usize,
    reads: Semaphore,
}

/// The right to run a stream; it goes back when this is dropped.
pub(crate) struct StreamPermit {
    streams: Arc<Streams>,
    tenant: TenantId,
}

impl Streams {
    pub(crate) fn new(bounds: &Bounds) -> Streams {
        Streams {
            running: Mutex::new(HashMap::new()),
            of_tenant_max: bounds.streams_of_tenant_max,
            max: bounds.streams_max,
            reads: Semaphore::new(READS_MAX),
        }
    }

    /// Another stream of a tenant.
    pub(crate) fn open(self: &Arc<Self>, tenant: TenantId) -> Result<StreamPermit, Problem> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = running.values().sum();
        let own = running.get(&tenant).copied().unwrap_or_default();
        let refusal = if own >= self.of_tenant_max {
            Some((
                Code::RateLimited,
                "the tenant has as many streams running as it may have",
            ))
        } else if all >= self.max {
            Some((
                Code::Overloaded,
                "the server has as many streams running as it may have",
            ))
        } else {
            None
        };
        if let Some((code, detail)) = refusal {
            return Err(Problem::new(code, detail).after_s(RETRY_AFTER_S));
        }
        running.insert(tenant, own + 1);
        metrics::gauge!(STREAMS_RUNNING).increment(1.0);
        Ok(StreamPermit {
            streams: Arc::clone(self),
            tenant,
        })
    }

    /// Waits until this stream may read a page. First come, first served.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.reads.acquire().await;
        turn.expect("invariant: the semaphore is never closed")
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut running = self
            .streams
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.tenant);
            }
        }
        metrics::gauge!(STREAMS_RUNNING).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_and_all_have_a_bound_and_both_go_back() {
        let streams = Arc::new(Streams::new(&Bounds {
            streams_of_tenant_max: 2,
            streams_max: 3,
            ..Bounds::default()
        }));
        let open = |tenant| {
            streams
                .open(TenantId(tenant))
                .map_err(|problem| problem.code)
        };
        let first = open(1).expect("the first");
        let _second = open(1).expect("the second");
        assert_eq!(open(1).err(), Some(Code::RateLimited));
        let _third = open(2).expect("another tenant's");
        assert_eq!(open(3).err(), Some(Code::Overloaded));
        assert_eq!(open(1).err(), Some(Code::RateLimited));
        drop(first);
        assert!(open(3).is_ok(), "one went back");
        assert!(open(1).is_ok(), "one went back, and the other tenant's too");
    }
}
