//! Single flight: of many reads of one entity at once, one asks the sources and the others wait for its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::local::Key;
use crate::value::Held;

/// What a flight brings back.
#[derive(Debug, Clone)]
pub(crate) enum Landing {
    /// An answer.
    Held(Arc<Held>),
    /// One that is good for whoever asked alone: nobody knows how fresh it is.
    Unshared,
}

/// The flights of one server.
#[derive(Default)]
pub(crate) struct Flights {
    running: Mutex<HashMap<Key, watch::Receiver<Option<Landing>>>>,
}

/// A place in a flight.
pub(crate) enum Place<'a> {
    /// Nobody was under way: this one goes.
    Leads(Lead<'a>),
    /// Somebody is.
    Follows(Follower),
}

/// The one who goes. When it is dropped without an answer, those who wait are told that there is none.
pub(crate) struct Lead<'a> {
    flights: &'a Flights,
    key: Key,
    landing: watch::Sender<Option<Landing>>,
}

/// One who waits.
pub(crate) struct Follower(watch::Receiver<Option<Landing>>);

impl Flights {
    pub(crate) fn join(&self, key: Key) -> Place<'_> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = running.get(&key) {
            return Place::Follows(Follower(landing.clone()));
        }
        let (landing, landed) = watch::channel(None);
        running.insert(key, landed);
        Place::Leads(Lead {
            flights: self,
            key,
            landing,
        })
    }
}

impl Lead<'_> {
    /// Tells those who wait.
    pub(crate) fn land(self, landing: Landing) {
        self.landing.send_replace(Some(landing));
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let running = &self.flights.running;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.key);
    }
}

impl Follower {
    /// What came back; nothing where the one who went has failed or has gone away.
    pub(crate) async fn landed(mut self) -> Option<Landing> {
        let landed = self.0.wait_for(Option::is_some).await;
        landed.ok().and_then(|landing| landing.clone())
    }
}
