//! The events that are followed: devices that report ten values with two decimals each, all at the same whole seconds.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;

use super::VALUES;
use crate::bench::ingest::bodies::{Form, request, requests};
use crate::bench::ingest::generators::Workload;
use crate::bench::ingest::load::{Done, Sender, open_loop, send};
use crate::bench::world::{Tenant, World};
use crate::bench::{CLIENTS, Scale};

/// Events of a request that is sent as soon as the one before is answered.
const BATCH: u64 = 5_000;
/// Events whose requests are in memory at once.
const READY: u64 = 300_000;

/// A tenant's events, each sent once.
pub(in crate::bench) struct Feed {
    pub(super) tenant: Tenant,
    workload: Workload,
    batch: u64,
    next: Cell<u64>,
}

impl Feed {
    /// Of a tenant of its own, whose names and attributes are there.
    pub(super) async fn new(world: &World, name: &'static str, scale: Scale) -> Result<Feed> {
        let feed = Feed {
            tenant: world.tenant(name).await?,
            workload: Workload::devices("device", scale.pick(50, 1_000, 20_000)),
            batch: scale.pick(25, BATCH, BATCH),
            next: Cell::new(0),
        };
        feed.send(feed.workload.events_of_all()).await?;
        Ok(feed)
    }

    /// Of a tenant that is there already.
    pub(in crate::bench) fn of(tenant: Tenant, workload: Workload, batch: u64) -> Feed {
        Feed {
            tenant,
            workload,
            batch,
            next: Cell::new(0),
        }
    }

    /// Sends the next events as fast as they are answered.
    pub(super) async fn send(&self, events: u64) -> Result<Done> {
        let range = self.take(events);
        let requests = requests(&self.workload, Form::Ndjson, range, self.batch);
        send(self.tenant.connections(CLIENTS).await?, requests).await
    }

    /// Sends as many of the next events as a case wants to find.
    pub(in crate::bench) async fn fill(&self, events: u64) -> Result<()> {
        for from in (0..events).step_by(usize::try_from(READY)?) {
            self.send(READY.min(events - from)).await?;
        }
        Ok(())
    }

    /// Sends the next events at a pace, whatever the answers do.
    pub(super) async fn pace(&self, pace: Pace, during: Duration) -> Result<Done> {
        let Pace { events, requests } = pace;
        let count = (during.as_secs_f64() * f64::from(requests)).ceil() as u64;
        let first = self.take(count * events).start;
        let workload = self.workload.clone();
        let make = move |ticket: u64| {
            let from = first + ticket * events;
            Some(request(&workload, Form::Ndjson, from, from + events))
        };
        let senders = Sender::all(self.tenant.connections(CLIENTS).await?, make);
        open_loop(senders, requests, during).await
    }

    fn take(&self, events: u64) -> std::ops::Range<u64> {
        let first = self.next.get();
        self.next.set(first + events);
        first..first + events
    }
}

/// How much is sent, however long it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Of a request.
    pub(super) events: u64,
    /// A second.
    pub(super) requests: u32,
}

impl Pace {
    pub(super) fn facts_per_second(self) -> f64 {
        (self.events * VALUES) as f64 * f64::from(self.requests)
    }
}
