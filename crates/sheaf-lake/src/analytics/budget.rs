//! How much memory questions may take: each one, those of a tenant together, and all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use sheaf_model::TenantId;

/// What may be taken, here and of everything that this is a part of.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    taken: AtomicUsize,
    whole: Option<Arc<Budget>>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bytes_max,
            taken: AtomicUsize::new(0),
            whole: None,
        })
    }

    /// A part of it, with a bound of its own.
    pub(crate) fn part(self: &Arc<Budget>, bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bytes_max,
            taken: AtomicUsize::new(0),
            whole: Some(Arc::clone(self)),
        })
    }

    fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.take(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }

    fn try_take(&self, bytes: usize) -> bool {
        let more = |taken: usize| {
            taken
                .checked_add(bytes)
                .filter(|all| *all <= self.bytes_max)
        };
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if taken.is_err() {
            return false;
        }
        let is_within = self
            .whole
            .as_ref()
            .is_none_or(|whole| whole.try_take(bytes));
        if !is_within {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_within
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl MemoryPool for Budget {
    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.take(additional);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.try_take(additional) {
            return Ok(());
        }
        let consumer = reservation.consumer().name();
        Err(DataFusionError::ResourcesExhausted(format!(
            "{consumer} needs {additional} bytes more"
        )))
    }

    fn reserved(&self) -> usize {
        self.taken()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

/// The budgets of the tenants that have questions running.
#[derive(Debug)]
pub(crate) struct Budgets {
    whole: Arc<Budget>,
    of_tenant_max: usize,
    of_query_max: usize,
    tenants: Mutex<HashMap<TenantId, Weak<Budget>>>,
}

impl Budgets {
    pub(crate) fn new(of_query_max: usize, of_tenant_max: usize, all_max: usize) -> Budgets {
        Budgets {
            whole: Budget::new(all_max),
            of_tenant_max,
            of_query_max,
            tenants: Mutex::default(),
        }
    }

    /// The budget of another question of a tenant.
    pub(crate) fn open(&self, tenant: TenantId) -> Arc<Budget> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, budget| budget.strong_count() > 0);
        let of_tenant = tenants.get(&tenant).and_then(Weak::upgrade);
        let of_tenant = of_tenant.unwrap_or_else(|| {
            let budget = self.whole.part(self.of_tenant_max);
            tenants.insert(tenant, Arc::downgrade(&budget));
            budget
        });
        of_tenant.part(self.of_query_max)
    }

    /// What all questions have taken.
    pub(crate) fn taken(&self) -> usize {
        self.whole.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_a_tenant_and_all_have_bounds_and_what_was_refused_was_not_taken() {
        let budgets = Budgets::new(60, 100, 150);
        let (one, other) = (budgets.open(TenantId(1)), budgets.open(TenantId(1)));
        let foreign = budgets.open(TenantId(2));
        assert!(one.try_take(60));
        assert!(!one.try_take(1), "a question has its bound");
        assert!(!other.try_take(41), "its tenant has one");
        assert!(other.try_take(40));
        assert!(!foreign.try_take(51), "all have one");
        assert_eq!(budgets.taken(), 100);
        assert!(foreign.try_take(50));
        one.give_back(60);
        other.give_back(40);
        assert!(foreign.try_take(10));
        foreign.give_back(60);
        assert_eq!(budgets.taken(), 0);
        drop((one, other));
        assert!(budgets.open(TenantId(1)).try_take(60));
        assert_eq!(budgets.tenants.lock().expect("no panic").len(), 2);
    }
}
