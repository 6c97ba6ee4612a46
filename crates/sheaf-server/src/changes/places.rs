//! How many subscriptions there may be at once, and how many of them may work.
//!
//! A filter may be long and so may what it looks at: one tenant's filters are evaluated one after the other, and all of them by
//! few threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sheaf_model::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SUBSCRIPTIONS_RUNNING;
use crate::problem::{Code, Problem};
use crate::state::SubscriptionBounds;

/// How long a client waits before it asks for one again: they last for minutes and more.
const RETRY_AFTER_S: u32 = 5;
/// Tenants whose filters are evaluated at the same time.
const TURNS: usize = 2;

/// The subscriptions of this server, counted.
pub(crate) struct Places {
    bounds: SubscriptionBounds,
    taken: Mutex<HashMap<TenantId, Taken>>,
    turns: Arc<Semaphore>,
}

/// The subscriptions of a tenant that has some.
struct Taken {
    count: usize,
    turn: Arc<Semaphore>,
}

/// The right to one; it goes back when this is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantId,
    turn: Arc<Semaphore>,
}

/// The right to evaluate a filter.
pub(super) struct Turn {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(bounds: SubscriptionBounds) -> Places {
        Places {
            bounds,
            taken: Mutex::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// One more of a tenant.
    pub(super) fn take(self: &Arc<Self>, tenant: TenantId) -> Result<Place, Problem> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&tenant).map_or(0, |own| own.count);
        let all: usize = taken.values().map(|of_tenant| of_tenant.count).sum();
        let (code, detail) = if own >= self.bounds.of_tenant_max {
            (
                Code::RateLimited,
                "the tenant has as many subscriptions as it may have",
            )
        } else if all >= self.bounds.running_max {
            (
                Code::Overloaded,
                "the server has as many subscriptions as it may have",
            )
        } else {
            let own = taken.entry(tenant).or_insert_with(|| Taken {
                count: 0,
                turn: Arc::new(Semaphore::new(1)),
            });
            own.count += 1;
            metrics::gauge!(SUBSCRIPTIONS_RUNNING).increment(1.0);
            return Ok(Place {
                places: Arc::clone(self),
                tenant,
                turn: Arc::clone(&own.turn),
            });
        };
        Err(Problem::new(code, detail).after_s(RETRY_AFTER_S))
    }
}

impl Place {
    /// Waits until this subscription may evaluate its filter.
    pub(super) async fn turn(&self) -> Turn {
        const OPEN: &str = "invariant: the semaphore is never closed";
        let of_tenant = Arc::clone(&self.turn).acquire_owned().await;
        let of_all = Arc::clone(&self.places.turns).acquire_owned();
        Turn {
            _of_tenant: of_tenant.expect(OPEN),
            _of_all: of_all.await.expect(OPEN),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = self.places.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.tenant) {
            own.count -= 1;
            if own.count == 0 {
                taken.remove(&self.tenant);
            }
        }
        metrics::gauge!(SUBSCRIPTIONS_RUNNING).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenants_filters_take_turns_and_leave_one_to_the_others() {
        let places = Arc::new(Places::new(SubscriptionBounds::default()));
        let take = |tenant| {
            let place = places.take(TenantId(tenant));
            place.map_err(|problem| problem.code).expect("a place")
        };
        let (first, second, others) = (take(1), take(1), take(2));
        let turn = first.turn().await;
        let mut waiting = std::pin::pin!(second.turn());
        assert!(futures::poll!(&mut waiting).is_pending(), "one of a tenant");
        let _of_others = others.turn().await;
        drop(turn);
        assert!(futures::poll!(&mut waiting).is_ready(), "it is its turn");
    }

    #[test]
    fn a_tenant_has_its_share_and_all_have_a_bound_and_both_go_back() {
        let places = Arc::new(Places::new(SubscriptionBounds {
            of_tenant_max: 2,
            running_max: 3,
            ..SubscriptionBounds::default()
        }));
        let take = |tenant| {
            places
                .take(TenantId(tenant))
                .map_err(|problem| problem.code)
        };
        let first = take(1).expect("the first");
        let _second = take(1).expect("the second");
        assert_eq!(take(1).err(), Some(Code::RateLimited));
        let _third = take(2).expect("another tenant's");
        assert_eq!(take(3).err(), Some(Code::Overloaded));
        drop(first);
        let _fourth = take(3).expect("one went back");
        assert_eq!(
            take(1).err(),
            Some(Code::Overloaded),
            "the tenant has room, the server none"
        );
    }
}
