//! How many streams there may be, and how many of them may read at once.
//!
//! One tenant reads at most half of the pages that are read at once, whoever waits: pages take as long as they take, and
//! whoever comes then would wait for all of them. Behind that half a tenant's streams wait for each other alone, so that
//! no tenant has more than its half in front of another in the line for all turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sheaf_model::TenantId;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::STREAMS_RUNNING;
use crate::problem::{Code, Problem};
use crate::state::StreamBounds;

/// How long a client waits before it asks for a stream again: they run for seconds and more.
const RETRY_AFTER_S: u32 = 5;

/// The streams of this server.
pub(crate) struct Streams {
    bounds: StreamBounds,
    running: Mutex<HashMap<TenantId, Running>>,
    turns: Semaphore,
}

/// The streams of a tenant that has some.
struct Running {
    streams: usize,
    turns: Arc<Semaphore>,
}

/// The right to run a stream; it goes back when this is dropped.
pub(crate) struct StreamPermit {
    streams: Arc<Streams>,
    tenant: TenantId,
    turns_of_tenant: Arc<Semaphore>,
}

/// The right to read a page.
pub(crate) struct Turn<'a> {
    _of_tenant: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Streams {
    pub(crate) fn new(bounds: StreamBounds) -> Streams {
        Streams {
            bounds,
            running: Mutex::new(HashMap::new()),
            turns: Semaphore::new(bounds.reading_max),
        }
    }

    /// Another stream of a tenant.
    pub(crate) fn open(self: &Arc<Self>, tenant: TenantId) -> Result<StreamPermit, Problem> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = running.values().map(|of_tenant| of_tenant.streams).sum();
        let own = running.get(&tenant).map_or(0, |own| own.streams);
        let refusal = if own >= self.bounds.of_tenant_max {
            Some((
                Code::RateLimited,
                "the tenant has as many streams running as it may have",
            ))
        } else if all >= self.bounds.running_max {
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
        let own = running.entry(tenant).or_insert_with(|| Running {
            streams: 0,
            turns: Arc::new(Semaphore::new(self.bounds.reading_max.div_ceil(2))),
        });
        own.streams += 1;
        metrics::gauge!(STREAMS_RUNNING).increment(1.0);
        Ok(StreamPermit {
            streams: Arc::clone(self),
            tenant,
            turns_of_tenant: Arc::clone(&own.turns),
        })
    }
}

impl StreamPermit {
    /// Waits until this stream may read a page: among those of its tenant, then among all, first come, first served.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let of_tenant = self.turns_of_tenant.acquire().await;
        let of_tenant = of_tenant.expect("invariant: the semaphore is never closed");
        let of_all = self.streams.turns.acquire().await;
        Turn {
            _of_tenant: of_tenant,
            _of_all: of_all.expect("invariant: the semaphore is never closed"),
        }
    }

    /// How long a page may take once it is its turn.
    pub(crate) fn page_deadline(&self) -> Duration {
        self.streams.bounds.page_deadline
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
            own.streams -= 1;
            if own.streams == 0 {
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
        let streams = Arc::new(Streams::new(StreamBounds {
            of_tenant_max: 2,
            running_max: 3,
            ..StreamBounds::default()
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

    #[tokio::test]
    async fn a_tenant_reads_at_most_half_of_the_pages_and_the_others_take_turns() {
        let streams = Arc::new(Streams::new(StreamBounds {
            reading_max: 4,
            of_tenant_max: 4,
            ..StreamBounds::default()
        }));
        let open = |tenant| {
            let permit = streams.open(TenantId(tenant));
            permit.map_err(|problem| problem.code).expect("a stream")
        };
        let (first, second) = ([open(1), open(1), open(1)], [open(2), open(2)]);
        let of_first = [first[0].turn().await, first[1].turn().await];
        let mut waiting = std::pin::pin!(first[2].turn());
        assert!(futures::poll!(&mut waiting).is_pending(), "it has its half");
        // Whoever comes later does not wait for the one that waits.
        let of_second = [second[0].turn().await, second[1].turn().await];
        let third = open(3);
        let mut of_third = std::pin::pin!(third.turn());
        assert!(
            futures::poll!(&mut of_third).is_pending(),
            "all turns are taken"
        );
        drop(of_first);
        assert!(
            futures::poll!(&mut of_third).is_ready(),
            "it waited longest"
        );
        assert!(
            futures::poll!(&mut waiting).is_ready(),
            "its half is free again"
        );
        drop(of_second);
    }
}
