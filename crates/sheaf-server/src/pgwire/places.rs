//! The sessions that there are: how many there may be, and how each is named where it is to be cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sheaf_model::TenantId;
use tokio::sync::watch;

use super::CONNECTIONS;

/// Bytes of a secret in the protocol's first version, and in the one that has more room.
const SECRET_BYTES: usize = 4;
const SECRET_BYTES_LONG: usize = 32;

/// The sessions of this server.
#[derive(Default)]
pub(super) struct Places {
    sessions: Mutex<HashMap<i32, Known>>,
}

struct Known {
    tenant: TenantId,
    secret: Vec<u8>,
    cancel: watch::Sender<u64>,
}

/// The right to a session; it goes back when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    /// Its number. Drawn like the secret, so that both have to be guessed.
    pub(super) process: i32,
    pub(super) secret: Vec<u8>,
    /// Counts how often it was cancelled.
    pub(super) cancelled: watch::Receiver<u64>,
}

impl Places {
    /// One more of a tenant, which may have so many.
    pub(super) fn take(
        self: &Arc<Self>,
        tenant: TenantId,
        of_tenant_max: usize,
        has_long_secret: bool,
    ) -> Option<Place> {
        let mut sessions = self.lock();
        let own = sessions.values().filter(|known| known.tenant == tenant);
        if own.count() >= of_tenant_max {
            return None;
        }
        let drawn: [u8; SECRET_BYTES_LONG] = rand::random();
        let length = match has_long_secret {
            true => SECRET_BYTES_LONG,
            false => SECRET_BYTES,
        };
        let secret = drawn[..length].to_vec();
        let process = loop {
            let process = rand::random::<i32>() & i32::MAX;
            if process != 0 && !sessions.contains_key(&process) {
                break process;
            }
        };
        let (cancel, cancelled) = watch::channel(0);
        let known = Known {
            tenant,
            secret: secret.clone(),
            cancel,
        };
        sessions.insert(process, known);
        metrics::gauge!(CONNECTIONS).increment(1.0);
        Some(Place {
            places: Arc::clone(self),
            process,
            secret,
            cancelled,
        })
    }

    /// Cancels what a session is doing, where this is its secret. Nobody is told whether it is.
    pub(super) fn cancel(&self, process: i32, secret: &[u8]) {
        if let Some(known) = self.lock().get(&process)
            && is_same(&known.secret, secret)
        {
            known.cancel.send_modify(|times| *times += 1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Known>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes as long for every secret of its length.
fn is_same(known: &[u8], sent: &[u8]) -> bool {
    known.len() == sent.len()
        && known
            .iter()
            .zip(sent)
            .fold(0, |differs, (known, sent)| differs | (known ^ sent))
            == 0
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.process);
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_and_only_the_secret_cancels() {
        let places = Arc::new(Places::default());
        let take = |tenant| places.take(TenantId(tenant), 2, false);
        let first = take(1).expect("the first");
        let second = take(1).expect("the second");
        assert!(take(1).is_none());
        assert!(take(2).is_some(), "another tenant's");
        let mut cancelled = first.cancelled.clone();
        assert_eq!(first.secret.len(), SECRET_BYTES);
        let mut wrong = first.secret.clone();
        wrong[3] ^= 1;
        for (process, secret) in [
            (first.process, wrong.as_slice()),
            (first.process, &[]),
            (second.process, &first.secret),
            (0, &first.secret),
        ] {
            places.cancel(process, secret);
            assert_eq!(*cancelled.borrow_and_update(), 0);
        }
        places.cancel(first.process, &first.secret);
        assert_eq!(*cancelled.borrow_and_update(), 1);
        drop(first);
        let long = places.take(TenantId(1), 2, true).expect("one went back");
        assert_eq!(long.secret.len(), SECRET_BYTES_LONG);
    }
}
