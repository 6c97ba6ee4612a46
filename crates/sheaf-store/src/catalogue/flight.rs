//! Reads of a tenant's catalogue that many callers want at once: one runs, and who asked before it began shares it.
//!
//! A read that was running already is not enough for a caller, because it may have missed what the caller has just
//! written. So a caller waits for two reads at most, however many others there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sheaf_model::TenantId;
use tokio::sync::Semaphore;

/// The reads that are running or waited for; nothing is kept of a tenant whom nobody asks about.
#[derive(Debug)]
pub(super) struct Flights<T> {
    by_tenant: Mutex<HashMap<TenantId, Arc<Flight<T>>>>,
}

#[derive(Debug)]
struct Flight<T> {
    /// One permit: who has it reads.
    turn: Semaphore,
    reads: Mutex<Reads<T>>,
}

#[derive(Debug)]
struct Reads<T> {
    begun: u64,
    /// The number of the newest read that ended, and what it found; nothing where it failed.
    ended: Option<(u64, Option<T>)>,
}

impl<T: Clone> Flights<T> {
    pub(super) fn new() -> Flights<T> {
        Flights {
            by_tenant: Mutex::new(HashMap::new()),
        }
    }

    /// What `read` finds, or what another caller's read found that began after this was called.
    pub(super) async fn share<E>(
        &self,
        tenant: TenantId,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let seat = self.join(tenant);
        let flight = &seat.flight;
        let begun_before = locked(&flight.reads).begun;
        let turn = flight.turn.acquire().await;
        let turn = turn.expect("invariant: a flight's semaphore is never closed");
        let number = {
            let mut reads = locked(&flight.reads);
            match &reads.ended {
                Some((number, Some(found))) if *number > begun_before => return Ok(found.clone()),
                Some((number, None)) if *number > begun_before => None,
                _ => {
                    reads.begun += 1;
                    Some(reads.begun)
                }
            }
        };
        let Some(number) = number else {
            // Where reads fail, callers that ask one after the other would each wait for the time-outs of all before.
            drop(turn);
            return read.await;
        };
        let found = read.await;
        locked(&flight.reads).ended = Some((number, found.as_ref().ok().cloned()));
        found
    }

    /// Does `work` while no other caller's work for this tenant is done.
    pub(super) async fn alone<R>(&self, tenant: TenantId, work: impl Future<Output = R>) -> R {
        let seat = self.join(tenant);
        let turn = seat.flight.turn.acquire().await;
        let _turn = turn.expect("invariant: a flight's semaphore is never closed");
        work.await
    }

    fn join(&self, tenant: TenantId) -> Seat<'_, T> {
        let mut by_tenant = locked(&self.by_tenant);
        let flight = by_tenant.entry(tenant).or_insert_with(|| {
            Arc::new(Flight {
                turn: Semaphore::new(1),
                reads: Mutex::new(Reads {
                    begun: 0,
                    ended: None,
                }),
            })
        });
        Seat {
            flights: self,
            tenant,
            flight: Arc::clone(flight),
        }
    }
}

/// One caller's part in a flight; the last one to leave removes it.
struct Seat<'a, T> {
    flights: &'a Flights<T>,
    tenant: TenantId,
    flight: Arc<Flight<T>>,
}

impl<T> Drop for Seat<'_, T> {
    fn drop(&mut self) {
        let mut by_tenant = locked(&self.flights.by_tenant);
        // The map's and this one; others are made under the map's lock.
        if Arc::strong_count(&self.flight) == 2 {
            by_tenant.remove(&self.tenant);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    const TENANT: TenantId = TenantId(1);

    #[tokio::test]
    async fn a_read_is_shared_by_those_who_asked_before_it_began_and_by_no_others() {
        let (flights, reads, go_on) = (Flights::new(), AtomicUsize::new(0), Notify::new());
        let read = || async {
            let number = reads.fetch_add(1, Ordering::Relaxed) + 1;
            go_on.notified().await;
            Ok::<usize, ()>(number)
        };
        let first = flights.share(TENANT, read());
        let mut first = std::pin::pin!(first);
        assert!(futures::poll!(&mut first).is_pending(), "it is reading");
        let waiting = join_all((0..10).map(|_| flights.share(TENANT, read())));
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(reads.load(Ordering::Relaxed), 1, "the others wait");
        go_on.notify_one();
        assert_eq!(first.await, Ok(1));
        assert!(
            futures::poll!(&mut waiting).is_pending(),
            "the second reads"
        );
        go_on.notify_one();
        assert_eq!(waiting.await, vec![Ok(2); 10]);
        assert!(locked(&flights.by_tenant).is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_or_fails_leaves_the_turn_to_the_next() {
        let flights: Flights<usize> = Flights::new();
        let forever = std::future::pending::<Result<usize, &str>>();
        let mut first = Box::pin(flights.share(TENANT, forever));
        assert!(futures::poll!(&mut first).is_pending());
        let share = |found| Box::pin(flights.share(TENANT, std::future::ready(found)));
        let mut second = share(Err("no database"));
        let (mut third, mut fourth) = (share(Ok(3)), share(Ok(4)));
        for waiting in [&mut second, &mut third, &mut fourth] {
            assert!(futures::poll!(waiting).is_pending());
        }
        drop(first);
        assert_eq!(second.await, Err("no database"));
        assert_eq!((third.await, fourth.await), (Ok(3), Ok(4)));
        assert!(locked(&flights.by_tenant).is_empty());
    }
}
