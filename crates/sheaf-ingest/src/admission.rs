//! Who may send now: each tenant within its rates and its share of memory, before its body is read.
//!
//! A decision takes the time as an argument and waits for nothing. Rates may go into debt: what has arrived is stored,
//! and the tenant's next request is told when to come. What a body of some length will hold is expected to be as with the
//! tenant's bodies before, and charged when it is admitted: else all that come while one is being stored would be let in
//! at once. Nothing here queues; [`FairQueue`] does, once a body is decoded.

mod fair_queue;
mod rate;

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::TenantId;

pub use fair_queue::{FairQueue, FairQueueBounds, Full};
use rate::Spent;

/// What one tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantRates {
    /// Values of stored events; without it, as many as can be stored.
    pub values_per_second: Option<NonZeroU64>,
    /// Decompressed bytes of bodies; without it, as many as can be stored.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Requests that are being served at the same time.
    pub requests_concurrent: NonZeroU32,
}

impl Default for TenantRates {
    fn default() -> TenantRates {
        TenantRates {
            values_per_second: None,
            bytes_per_second: None,
            requests_concurrent: NonZeroU32::new(128).expect("invariant: a positive constant"),
        }
    }
}

/// What all tenants may send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of every tenant that is not named.
    pub default: TenantRates,
    /// By the name of the tenant.
    pub by_tenant: BTreeMap<String, TenantRates>,
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleReason {
    /// The tenant's values a second.
    Values,
    /// The tenant's bytes a second.
    Bytes,
    /// The tenant's requests at the same time.
    Requests,
    /// The tenant's share of the memory for bodies.
    TenantMemory,
    /// The memory for the bodies of all tenants.
    Memory,
    /// The tenants that are remembered.
    Tenants,
}

impl ThrottleReason {
    /// The reason as a label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ThrottleReason::Values => "values",
            ThrottleReason::Bytes => "bytes",
            ThrottleReason::Requests => "requests",
            ThrottleReason::TenantMemory => "tenant_memory",
            ThrottleReason::Memory => "memory",
            ThrottleReason::Tenants => "tenants",
        }
    }

    /// Whether it is this tenant's own doing, and not that the server has too much to do.
    pub fn is_of_tenant(self) -> bool {
        match self {
            ThrottleReason::Values
            | ThrottleReason::Bytes
            | ThrottleReason::Requests
            | ThrottleReason::TenantMemory => true,
            ThrottleReason::Memory | ThrottleReason::Tenants => false,
        }
    }
}

/// A request that has to come again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("throttled: {}", reason.as_str())]
pub struct Throttled {
    /// What ran out.
    pub reason: ThrottleReason,
    /// When to come again.
    pub retry_after: Duration,
}

/// How long to wait for something that no clock gives back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Values in a byte of a body, as long as nothing is known of the tenant's bodies: ten in a line of two hundred bytes.
const VALUES_PER_BYTE: f64 = 0.05;
/// How much the newest body counts for what is expected of the next.
const NEWEST_SHARE: f64 = 0.25;
/// Tenants that are remembered. Only those with a request, or with a debt, have to be.
const TENANTS_MAX: usize = 10_000;

/// Decides for all tenants of a server. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    rates: Rates,
    body_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Tenant>,
    body_bytes: usize,
}

#[derive(Debug)]
struct Tenant {
    rates: TenantRates,
    values: Spent,
    bytes: Spent,
    values_per_byte: f64,
    requests: u32,
    body_bytes: usize,
}

impl Tenant {
    /// Values that a body of this length is expected to hold.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of something that is not negative"
    )]
    fn expected_values(&self, sent_bytes: u64) -> u64 {
        (sent_bytes as f64 * self.values_per_byte) as u64
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn learn(&mut self, sent_bytes: u64, values: u64) {
        // An answer that is only repeated stored nothing, and tells nothing.
        if sent_bytes > 0 && values > 0 {
            let newest = values as f64 / sent_bytes as f64;
            self.values_per_byte += (newest - self.values_per_byte) * NEWEST_SHARE;
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.requests == 0 && self.values.is_nothing(now) && self.bytes.is_nothing(now)
    }

    fn refusal(&self, now: Instant) -> Option<Throttled> {
        let throttled = |reason, retry_after| Throttled {
            reason,
            retry_after,
        };
        if self.requests >= self.rates.requests_concurrent.get() {
            return Some(throttled(ThrottleReason::Requests, RETRY_AFTER));
        }
        let values = self
            .values
            .wait(now)
            .map(|wait| throttled(ThrottleReason::Values, wait));
        let bytes = self
            .bytes
            .wait(now)
            .map(|wait| throttled(ThrottleReason::Bytes, wait));
        values
            .into_iter()
            .chain(bytes)
            .max_by_key(|throttled| throttled.retry_after)
    }
}

impl Admission {
    /// Admits within these rates, and with at most so many bytes of bodies in memory, of which one tenant may hold half.
    pub fn new(rates: Rates, body_bytes_max: usize) -> Admission {
        Admission {
            inner: Arc::new(Inner {
                rates,
                body_bytes_max,
                state: Mutex::default(),
            }),
        }
    }

    /// Admits a request of a tenant with a body of this length, as far as that is known, or says when to come again.
    pub fn admit(
        &self,
        tenant: TenantId,
        name: &str,
        sent_bytes: Option<u64>,
        now: Instant,
    ) -> Result<Permit, Throttled> {
        let mut state = self.inner.lock();
        if !state.tenants.contains_key(&tenant) && state.tenants.len() >= TENANTS_MAX {
            // A tenant that owes nothing is the same as one that was never seen.
            state.tenants.retain(|_, tenant| !tenant.is_idle(now));
            if state.tenants.len() >= TENANTS_MAX {
                return Err(Throttled {
                    reason: ThrottleReason::Tenants,
                    retry_after: RETRY_AFTER,
                });
            }
        }
        let known = state.tenants.entry(tenant).or_insert_with(|| {
            let rates = self.inner.rates.by_tenant.get(name);
            Tenant {
                rates: *rates.unwrap_or(&self.inner.rates.default),
                values: Spent::nothing(now),
                bytes: Spent::nothing(now),
                values_per_byte: VALUES_PER_BYTE,
                requests: 0,
                body_bytes: 0,
            }
        });
        if let Some(throttled) = known.refusal(now) {
            return Err(throttled);
        }
        known.requests += 1;
        let sent_bytes = sent_bytes.unwrap_or(0);
        let mut expected_values = 0;
        if let Some(per_second) = known.rates.values_per_second {
            expected_values = known.expected_values(sent_bytes);
            known.values.charge(expected_values, per_second, now);
        }
        Ok(Permit {
            inner: Arc::clone(&self.inner),
            tenant,
            sent_bytes,
            expected_values,
            body_bytes: 0,
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being served, until dropped.
#[derive(Debug)]
pub struct Permit {
    inner: Arc<Inner>,
    tenant: TenantId,
    sent_bytes: u64,
    /// Values that are charged and may still turn out not to be there.
    expected_values: u64,
    body_bytes: usize,
}

impl Permit {
    /// Takes memory for more of the body, before it is used. It is given back with the permit.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Throttled> {
        let throttled = |reason| Throttled {
            reason,
            retry_after: RETRY_AFTER,
        };
        let body_bytes_max = self.inner.body_bytes_max;
        let mut state = self.inner.lock();
        let state = &mut *state;
        let tenant = known(&mut state.tenants, self.tenant);
        if tenant.body_bytes.saturating_add(bytes) > body_bytes_max / 2 {
            return Err(throttled(ThrottleReason::TenantMemory));
        }
        if state.body_bytes.saturating_add(bytes) > body_bytes_max {
            return Err(throttled(ThrottleReason::Memory));
        }
        tenant.body_bytes += bytes;
        state.body_bytes += bytes;
        self.body_bytes += bytes;
        Ok(())
    }

    /// Counts bytes of a body that have arrived.
    pub fn charge_bytes(&self, bytes: usize, now: Instant) {
        let mut state = self.inner.lock();
        let tenant = known(&mut state.tenants, self.tenant);
        if let Some(per_second) = tenant.rates.bytes_per_second {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            tenant.bytes.charge(bytes, per_second, now);
        }
    }

    /// Counts the values that were stored, instead of those that were expected.
    pub fn charge_values(&mut self, values: u64, now: Instant) {
        let expected = std::mem::take(&mut self.expected_values);
        let mut state = self.inner.lock();
        let tenant = known(&mut state.tenants, self.tenant);
        if let Some(per_second) = tenant.rates.values_per_second {
            tenant.values.refund(expected, per_second);
            tenant.values.charge(values, per_second, now);
            tenant.learn(self.sent_bytes, values);
        }
    }
}

/// The tenant of a permit, which is not forgotten while the permit lives.
fn known(tenants: &mut HashMap<TenantId, Tenant>, tenant: TenantId) -> &mut Tenant {
    tenants
        .get_mut(&tenant)
        .expect("invariant: a tenant with a request is remembered")
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.body_bytes -= self.body_bytes;
        let tenant = known(&mut state.tenants, self.tenant);
        if let Some(per_second) = tenant.rates.values_per_second {
            tenant.values.refund(self.expected_values, per_second);
        }
        tenant.requests -= 1;
        tenant.body_bytes -= self.body_bytes;
    }
}

#[cfg(test)]
mod tests;
