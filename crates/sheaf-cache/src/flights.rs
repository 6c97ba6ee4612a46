//! Single flight: of many reads of one entity at once, one asks the sources and the others wait for its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::local::Key;
use crate::value::Held;

/// What a flight brings back; nothing before it is back.
type Landed = Option<Arc<Held>>;

/// The flights of one server.
#[derive(Default)]
pub(crate) struct Flights {
    running: Mutex<HashMap<Key, watch::Receiver<Landed>>>,
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
    landing: watch::Sender<Landed>,
}

/// One who waits.
pub(crate) struct Follower(watch::Receiver<Landed>);

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
    pub(crate) fn land(self, held: Arc<Held>) {
        self.landing.send_replace(Some(held));
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
    /// The answer; none where the one who went has failed or has gone away.
    pub(crate) async fn landed(mut self) -> Option<Arc<Held>> {
        let landed = self.0.wait_for(Option::is_some).await;
        landed.ok().and_then(|held| held.clone())
    }
}
