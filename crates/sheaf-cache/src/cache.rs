//! The cache as readers and writers see it: one read, one announcement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sheaf_model::{Lineage, Position, TenantId, WrittenEntity};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::decision::{Arrival, Demand, Known, Verdict, decide};
use crate::fences::Fences;
use crate::flights::{Flights, Landing, Place};
use crate::horizon::Horizon;
use crate::instruments::Counted;
use crate::local::{Key, Local};
use crate::reading::{Answer, EntityName, Fetched, Reading};
use crate::remote::{Remote, RemoteOptions};
use crate::sampler::Sampler;
use crate::value::{Held, Origin, Value};

/// How many others a read waits for who bring nothing back before it asks beside those who ask: another where one went away,
/// and no line in which each waits until all before it have failed.
const FAILED_MAX: usize = 2;

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

/// What became of what a source said.
struct Kept {
    /// What its token stands for.
    position: Position,
    /// What those have of it who waited for it.
    landing: Landing,
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
        let arrival = inner.arrival();
        let mut known = inner.local.get(key);
        let was_known = known.is_some();
        let mut failed = 0;
        // Whoever came before an answer of the primary was asked for has one with it, so that a herd asks twice.
        let lead = loop {
            if let Some(held) = &known {
                match inner.verdict(held, demand, arrival) {
                    Verdict::Answers { lag } => {
                        let answer = inner.answer(held, demand, lag, Origin::Memory);
                        return Ok(Reading::Remembered(answer));
                    }
                    // Asking takes longer than its answer may be old: nobody else's will do.
                    Verdict::TooOld if arrival.at <= held.began => break None,
                    Verdict::TooOld
                    | Verdict::OtherLineage
                    | Verdict::Overwritten
                    | Verdict::NotCovered => {}
                }
            }
            match inner.flights.join(key) {
                Place::Leads(lead) => break Some(lead),
                Place::Follows(_) if failed == FAILED_MAX => break None,
                Place::Follows(follower) => match follower.landed().await {
                    Some(Landing::Held(held)) => known = Some(held),
                    Some(Landing::Unshared) => break None,
                    None => failed += 1,
                },
            }
        };
        if lead.is_some()
            && let Some(held) = inner.ask_redis(name.tenant, known.as_ref()).await
            && let Verdict::Answers { lag } = inner.verdict(&held, demand, arrival)
        {
            inner.local.keep(key, &held);
            let answer = inner.answer(&held, demand, lag, Origin::Redis);
            if let Some(lead) = lead {
                lead.land(Landing::Held(held));
            }
            return Ok(Reading::Remembered(answer));
        }
        inner.counted.asked(was_known);
        let ticket = inner.arrival();
        let (fetched, answer) = ask.await?;
        let mut position = fetched.position;
        if let Some(lead) = lead {
            let kept = inner.keep(key, name.tenant, &ticket, fetched);
            position = kept.position;
            lead.land(kept.landing);
        }
        let position = later(demand.token, position);
        Ok(Reading::Asked { answer, position })
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
            remote.announce_firsts(written);
        }
    }

    /// Names of the tenant were found to have a number. Told before anything is written under them by this server: what
    /// another has written under them may not have been heard of.
    pub fn named(&self, tenant: TenantId) {
        self.inner.fences.name(tenant);
    }

    /// Entities were written by anybody, and the position has them: for whoever follows the changes of the database.
    pub fn learn(&self, position: Position, written: &[WrittenEntity]) {
        self.inner.learn(position, written);
    }

    /// Whether nothing that is only known by its position is believed, until it is known how far the primary has come.
    pub fn awaits_primary(&self) -> bool {
        self.inner.fences.is_raised()
    }

    /// The primary had come this far at some time after it was asked.
    pub fn saw_primary(&self, position: Position, asked_at: Instant) {
        if self.inner.horizon.follow(position.lineage()) {
            self.inner.fences.settle(asked_at, position.lsn);
        }
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
    fn arrival(&self) -> Arrival {
        Arrival {
            turn: self.fences.turn(),
            at: Instant::now(),
        }
    }

    fn verdict(&self, held: &Held, demand: &Demand, arrival: Arrival) -> Verdict {
        let known = Known {
            lineage: self.horizon.lineage(),
            fence: self.fences.of(held.value.tenant, held.value.entity),
            age_max: self.options.age_max,
            arrival,
            now: Instant::now(),
        };
        decide(demand, held, &known)
    }

    fn answer(&self, held: &Held, demand: &Demand, lag: Duration, origin: Origin) -> Box<Answer> {
        let mut value = held.value.clone();
        value.position = later(demand.token, value.position);
        self.counted.answered(value.body.is_some());
        Box::new(Answer {
            sample: self.sampler.claim(value.version),
            value,
            origin,
            lag,
        })
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
    fn keep(&self, key: Key, tenant: TenantId, asked: &Arrival, fetched: Fetched) -> Kept {
        let (position, is_primary) = (fetched.position, fetched.is_primary);
        let mut value = Value {
            tenant,
            entity: fetched.entity,
            version: fetched.version,
            body: fetched.body,
            position,
            covers: fetched.covers,
            data_timestamp: fetched.data_timestamp,
        };
        value.position = self.local.shown_since(key, &value);
        let unshared = Kept {
            position: value.position,
            landing: Landing::Unshared,
        };
        if !self.horizon.follow(position.lineage()) {
            return unshared;
        }
        if is_primary {
            self.fences.settle(asked.at, position.lsn);
            self.horizon.set_clock(value.data_timestamp, asked.at);
        }
        let Some(lag) = fetched.lag else {
            return unshared;
        };
        let held = Arc::new(Held {
            value,
            began: asked.at,
            lag,
            turn: asked.turn,
            is_exact: is_primary,
        });
        let any = Demand {
            lag_max: Duration::MAX,
            token: None,
        };
        match self.verdict(&held, &any, self.arrival()) {
            Verdict::Answers { .. } => {
                self.local.keep(key, &held);
                self.counted.holds(self.local.bytes());
                if let Some(remote) = &self.remote {
                    remote.put(&held.value);
                }
            }
            Verdict::OtherLineage
            | Verdict::TooOld
            | Verdict::Overwritten
            | Verdict::NotCovered => self.counted.refused(),
        }
        Kept {
            position: held.value.position,
            // It may do for those who came before what was written meanwhile.
            landing: Landing::Held(held),
        }
    }

    pub(crate) fn learn(&self, position: Position, written: &[WrittenEntity]) {
        // A write to a primary that was left behind is not in the history that is read.
        if self.horizon.follow(position.lineage()) {
            for each in written {
                self.fences.advance(each.tenant, each.entity, position.lsn);
                if each.is_first {
                    self.fences.name(each.tenant);
                }
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

/// The later of what a client has seen and what it is shown.
fn later(token: Option<Position>, shown: Position) -> Position {
    match token {
        Some(token) if token.lineage() == shown.lineage() && token.lsn > shown.lsn => token,
        Some(_) | None => shown,
    }
}

#[cfg(test)]
mod tests;
