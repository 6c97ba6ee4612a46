//! The cache as readers and writers see it: one read, one announcement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sheaf_model::{EntityId, Lineage, Lsn, Position, TenantId, Timestamp, WrittenEntity};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::decision::{Demand, Known, Verdict, decide};
use crate::fences::Fences;
use crate::flights::{Flights, Place};
use crate::horizon::Horizon;
use crate::instruments::Counted;
use crate::local::{Key, Local};
use crate::remote::{Remote, RemoteOptions};
use crate::sampler::{Sample, Sampler};
use crate::value::{Held, Origin, Value};

/// How often a read goes along with others before it asks by itself: once more, where the first it went along with failed
/// or brought back what is not enough for it.
const FLIGHTS_MAX: usize = 2;

/// How much is remembered, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of values in this process.
    pub bytes_max: usize,
    /// How old a value may be whatever a read allows: the net under everything else.
    pub age_max: Duration,
    /// One answer in so many is compared with the primary.
    pub sample_every: u64,
}

/// The database whose answers are remembered.
#[derive(Clone, Copy)]
pub struct Database {
    /// Which cluster it is.
    pub system_id: u64,
    /// The secret of its servers.
    pub signing_key: [u8; 32],
}

/// An entity by name.
#[derive(Debug, Clone, Copy)]
pub struct EntityName<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type, in its canonical spelling.
    pub entity_type: &'a str,
    /// Its id within the type, in its canonical spelling.
    pub external_id: &'a str,
}

/// What a source was found to say of an entity.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whether the primary said it: what was acknowledged before it was asked is then in it.
    pub is_primary: bool,
    /// The entity; none where the name has no number.
    pub entity: Option<EntityId>,
    /// The version of its document; 0 where there never was one.
    pub version: i64,
    /// The answer; none where it is not found.
    pub body: Option<Bytes>,
    /// A position that covers everything that was seen.
    pub position: Position,
    /// What the source had reached before its snapshot was taken: every commit whose token is below was seen. None where
    /// that is unknown.
    pub covers: Option<Lsn>,
    /// How far the source was behind when it was asked; none where that is unknown.
    pub lag: Option<Duration>,
    /// Everything committed before this was seen.
    pub data_timestamp: Timestamp,
}

/// An answer from memory.
#[derive(Debug)]
pub struct Answer {
    /// What it says, and how fresh that is.
    pub value: Value,
    /// Which memory.
    pub origin: Origin,
    /// How old it is.
    pub lag: Duration,
    /// There where the answer is to be compared with the primary.
    pub sample: Option<Sample>,
}

/// How a read was answered.
#[derive(Debug)]
pub enum Reading<T> {
    /// From memory.
    Remembered(Box<Answer>),
    /// By asking a source.
    Asked(T),
}

/// The cache of one server. Clones share it.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: Options,
    local: Local,
    pub(crate) fences: Fences,
    horizon: Horizon,
    flights: Flights,
    remote: Option<Remote>,
    sampler: Sampler,
    counted: Counted,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

/// What was known before a source was asked.
struct Ticket {
    began: Instant,
    turn: u64,
}

impl Cache {
    /// A cache in this process alone.
    pub fn local(options: Options, database: &Database) -> Cache {
        Cache::build(options, database, None)
    }

    /// A cache in this process and in Redis, with the tasks that keep the connection to it; they end when told to stop.
    pub fn shared(
        options: Options,
        database: &Database,
        remote: RemoteOptions,
        stop: &watch::Receiver<bool>,
    ) -> (Cache, Vec<JoinHandle<()>>) {
        let (remote, jobs) = Remote::new(remote, options.age_max, database);
        let cache = Cache::build(options, database, Some(remote));
        let tasks = crate::remote::start(&cache.inner, jobs, stop);
        (cache, tasks)
    }

    fn build(options: Options, database: &Database, remote: Option<Remote>) -> Cache {
        Cache {
            inner: Arc::new(Inner {
                options,
                local: Local::new(options.bytes_max),
                fences: Fences::new(),
                horizon: Horizon::new(database.system_id),
                flights: Flights::default(),
                remote,
                sampler: Sampler::new(options.sample_every),
                counted: Counted::new(),
            }),
        }
    }

    /// Answers a read: from memory where that is fresh enough, else by asking a source, whose answer is remembered. Where
    /// others ask for the same entity already, their answer is waited for.
    pub async fn read<T, E>(
        &self,
        name: EntityName<'_>,
        demand: &Demand,
        ask: impl Future<Output = Result<(Fetched, T), E>>,
    ) -> Result<Reading<T>, E> {
        let inner = &*self.inner;
        let key = inner
            .local
            .key(name.tenant, name.entity_type, name.external_id);
        let mut known = inner.local.get(key);
        let was_known = known.is_some();
        let mut flights = 0;
        loop {
            if let Some(held) = &known
                && let Some(answer) = inner.answer(held, demand, Origin::Memory)
            {
                return Ok(Reading::Remembered(answer));
            }
            if flights == FLIGHTS_MAX {
                inner.counted.asked(was_known);
                let (_, answer) = ask.await?;
                return Ok(Reading::Asked(answer));
            }
            flights += 1;
            match inner.flights.join(key) {
                Place::Follows(follower) => known = follower.landed().await,
                Place::Leads(lead) => {
                    if let Some(held) = inner.ask_redis(name.tenant, known.as_ref()).await
                        && let Some(answer) = inner.answer(&held, demand, Origin::Redis)
                    {
                        inner.local.keep(key, &held);
                        lead.land(held);
                        return Ok(Reading::Remembered(answer));
                    }
                    inner.counted.asked(was_known);
                    let ticket = Ticket {
                        turn: inner.fences.turn(),
                        began: Instant::now(),
                    };
                    let (fetched, answer) = ask.await?;
                    if let Some(held) = inner.keep(key, name.tenant, &ticket, fetched) {
                        lead.land(held);
                    }
                    return Ok(Reading::Asked(answer));
                }
            }
        }
    }

    /// The database continues this history, or one from before that is not continued: then nothing changes.
    pub fn follow(&self, lineage: Lineage) {
        self.inner.horizon.follow(lineage);
    }

    /// A read that no memory may answer.
    pub fn bypassed(&self) {
        self.inner.counted.bypassed();
    }

    /// Entities were written by this server, and the position was read after their commit. Told before the write is
    /// acknowledged, so that who writes here and then reads here does not read what was there before.
    pub fn committed(&self, position: Position, written: &[WrittenEntity]) {
        self.inner.learn(position, written);
        if let Some(remote) = &self.inner.remote {
            remote.announce(position, written);
        }
    }

    /// Names of the tenant were found to have a number, or got one. Told before anything is written under them by this
    /// server.
    pub fn named(&self, tenant: TenantId, are_new: bool) {
        self.inner.fences.name(tenant);
        if let Some(remote) = self.inner.remote.as_ref().filter(|_| are_new) {
            remote.announce_names(tenant);
        }
    }

    /// Entities were written by anybody, and the position has them: for whoever follows the changes of the database.
    pub fn learn(&self, position: Position, written: &[WrittenEntity]) {
        self.inner.learn(position, written);
    }

    /// Entities were or may have been written that nobody can name: everything that is remembered is behind.
    pub fn lose(&self) {
        self.inner.lose();
        if let Some(remote) = &self.inner.remote {
            remote.announce_anything();
        }
    }

    /// Whether Redis is reached and answers in time; none where there is none.
    pub fn reaches_redis(&self) -> Option<bool> {
        self.inner.remote.as_ref().map(Remote::is_reached)
    }
}

impl Inner {
    fn verdict(&self, held: &Held, demand: &Demand, now: Instant) -> Verdict {
        let known = Known {
            lineage: self.horizon.lineage(),
            fence: self.fences.of(held.value.tenant, held.value.entity),
            age_max: self.options.age_max,
            now,
        };
        decide(demand, held, &known)
    }

    fn answer(&self, held: &Held, demand: &Demand, origin: Origin) -> Option<Box<Answer>> {
        let Verdict::Answers { lag } = self.verdict(held, demand, Instant::now()) else {
            return None;
        };
        self.counted.answered(held.value.body.is_some());
        Some(Box::new(Answer {
            value: held.value.clone(),
            origin,
            lag,
            sample: self.sampler.claim(held.value.version),
        }))
    }

    /// What Redis has of an entity whose number is known from a value that is too old. A number is one entity's on one
    /// history alone.
    async fn ask_redis(&self, tenant: TenantId, known: Option<&Arc<Held>>) -> Option<Arc<Held>> {
        let (remote, lineage) = (self.remote.as_ref()?, self.horizon.lineage()?);
        let known = &known?.value;
        let entity = known.entity?;
        if known.position.lineage() != lineage {
            return None;
        }
        let value = remote.fetch(tenant, entity, lineage).await?;
        self.held(value, Instant::now())
    }

    /// A value that another server has read some time. Unknown is how old it is before the database's clock was seen.
    fn held(&self, value: Value, now: Instant) -> Option<Arc<Held>> {
        Some(Arc::new(Held {
            lag: self.horizon.lag_of(value.data_timestamp, now)?,
            value,
            began: now,
            turn: 0,
            is_exact: false,
        }))
    }

    /// Remembers what a source said, if it is known how fresh that is and nothing was written meanwhile.
    fn keep(
        &self,
        key: Key,
        tenant: TenantId,
        ticket: &Ticket,
        fetched: Fetched,
    ) -> Option<Arc<Held>> {
        let Fetched {
            position,
            is_primary,
            data_timestamp,
            ..
        } = fetched;
        if !self.horizon.follow(position.lineage()) {
            return None;
        }
        if is_primary {
            self.fences.settle(ticket.turn, position.lsn);
            self.horizon.set_clock(data_timestamp, ticket.began);
        }
        let held = Arc::new(Held {
            value: Value {
                tenant,
                entity: fetched.entity,
                version: fetched.version,
                body: fetched.body,
                position,
                covers: fetched.covers,
                data_timestamp,
            },
            began: ticket.began,
            lag: fetched.lag?,
            turn: ticket.turn,
            is_exact: is_primary,
        });
        let any = Demand {
            lag_max: Duration::MAX,
            token: None,
        };
        match self.verdict(&held, &any, Instant::now()) {
            Verdict::Answers { .. } => {}
            Verdict::OtherLineage
            | Verdict::TooOld
            | Verdict::Overwritten
            | Verdict::NotCovered => {
                self.counted.refused();
                return None;
            }
        }
        self.local.keep(key, &held);
        self.counted.holds(self.local.bytes());
        if let Some(remote) = &self.remote {
            remote.put(&held.value);
        }
        Some(held)
    }

    pub(crate) fn learn(&self, position: Position, written: &[WrittenEntity]) {
        // A write to a primary that was left behind is not in the history that is read.
        if self.horizon.follow(position.lineage()) {
            for each in written {
                self.fences.advance(each.tenant, each.entity, position.lsn);
            }
        }
    }

    pub(crate) fn lose(&self) {
        self.fences.raise();
        self.local.clear();
        self.counted.lost();
    }

    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }
}

#[cfg(test)]
mod tests;
