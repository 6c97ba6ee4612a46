//! Which sources there are, and what is known of each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sheaf_model::Position;
use sheaf_pg::{NewestTimeline, Pool};
use sheaf_store::catalogue::Catalogues;
use sheaf_store::heartbeat::{Look, Part};
use sheaf_store::settings::Settings;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep_until;

use super::breaker::{Breaker, Event};
use super::decision::{Decision, Need, Refusal, ReplicaView, View, check_token, decide};
use super::view::{Heart, LOST_AFTER, Seen, proven_timeline, written_timeline};
use crate::consistency::{DataSource, ReadOptions};

/// In how long half of what was measured of a latency is forgotten.
const LATENCY_HALVED_IN: Duration = Duration::from_millis(250);

/// How a source is reached as each role that reads.
#[derive(Debug, Clone)]
pub struct SourcePools {
    /// Connections as `sheaf_app`.
    pub app: Pool,
    /// Connections as `sheaf_search`.
    pub search: Pool,
}

/// The primary and its replicas.
#[derive(Debug)]
pub struct Sources {
    pub(super) primary: SourcePools,
    pub(super) settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
    primary_state: Mutex<ServerState>,
    /// When the primary last answered a look as the primary; at first, when the sources were made.
    primary_answered_at: Mutex<Instant>,
    replicas: RwLock<Arc<Vec<Arc<Replica>>>>,
    /// Told when there are others.
    pub(super) replicas_changed: Notify,
    /// Reads that the primary answers in place of replicas.
    pub(super) in_place: Arc<Semaphore>,
    turn: AtomicUsize,
    /// Reads that wait for a replica to reach their token.
    waiting: AtomicUsize,
    /// Told when there is one that waits, so that looks come faster.
    pub(super) hurry: Notify,
    /// Told after each look.
    changed: Notify,
}

/// What is known of a server.
#[derive(Debug)]
struct ServerState {
    seen: Option<Seen>,
    breaker: Breaker,
    /// Of its last answers, the newer counting more; and when the last one came.
    latency: Duration,
    answered_at: Option<Instant>,
}

impl ServerState {
    const NEW: ServerState = ServerState {
        seen: None,
        breaker: Breaker::NEW,
        latency: Duration::ZERO,
        answered_at: None,
    };

    fn answered_after(&mut self, took: Duration, now: Instant) {
        self.latency = match self.answered_at {
            Some(_) => (self.latency_at(now) * 7 + took) / 8,
            None => took,
        };
        self.answered_at = Some(now);
    }

    /// What is still believed of the latency. It is forgotten by and by: a source that was slow once and is not asked any
    /// more would else never be asked again.
    fn latency_at(&self, now: Instant) -> Duration {
        let Some(answered_at) = self.answered_at else {
            return self.latency;
        };
        let age = now.saturating_duration_since(answered_at);
        let halvings = age.as_millis() / LATENCY_HALVED_IN.as_millis();
        self.latency / (1 << halvings.min(20))
    }
}

/// A replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) name: Arc<str>,
    pub(super) pools: SourcePools,
    state: Mutex<ServerState>,
    pub(super) in_flight: AtomicUsize,
    /// Turns of those that it is told to wait for: half of its connections stay with reads.
    pub(super) waits: Semaphore,
    /// Whether it is none of the sources any more.
    pub(super) is_removed: AtomicBool,
    /// Whether somebody looks at it.
    pub(super) is_watched: AtomicBool,
}

impl Replica {
    pub(super) fn new(name: &str, pools: SourcePools) -> Replica {
        let waits_max = (pools.app.connections_max() / 2).max(1);
        Replica {
            name: name.into(),
            pools,
            state: Mutex::new(ServerState::NEW),
            in_flight: AtomicUsize::new(0),
            waits: Semaphore::new(waits_max),
            is_removed: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
        }
    }

    pub(super) fn seen(&self) -> Option<Seen> {
        locked(&self.state).seen.clone()
    }

    pub(super) fn breaker(&self) -> Breaker {
        locked(&self.state).breaker
    }

    pub(super) fn saw(&self, look: Look, asked_at: Instant) {
        let mut state = locked(&self.state);
        let seen = Seen::after(state.seen.as_ref(), look, asked_at);
        state.seen = Some(seen);
    }

    /// Whether its breaker lets one more read through, which then asks.
    pub(super) fn admit(&self, now: Instant) -> bool {
        let mut state = locked(&self.state);
        let admits = state.breaker.admits(now);
        if admits {
            state.breaker = state.breaker.step(Event::Asked, now);
        }
        admits
    }

    pub(super) fn answered(&self, took: Duration) {
        let mut state = locked(&self.state);
        let now = Instant::now();
        state.answered_after(took, now);
        state.breaker = state.breaker.step(Event::Answered, now);
    }

    pub(super) fn step(&self, event: Event) {
        let mut state = locked(&self.state);
        let before = state.breaker;
        state.breaker = before.step(event, Instant::now());
        if let (Breaker::Closed { .. }, Breaker::Open { .. }) = (before, state.breaker) {
            tracing::warn!(replica = %self.name, "a replica fails; nothing is asked of it for a while");
        }
    }

    fn view(&self, is_excluded: bool, now: Instant) -> ReplicaView {
        let state = locked(&self.state);
        ReplicaView {
            seen: state.seen.clone(),
            admits: !is_excluded && state.breaker.admits(now),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            latency: state.latency_at(now),
        }
    }
}

impl Sources {
    /// Connections to the primary as `sheaf_app`.
    pub(crate) fn primary_app(&self) -> &Pool {
        &self.primary.app
    }

    /// The primary alone. Without [`Sources::watch`] nothing is known of replicas, and none is asked.
    pub fn new(
        primary: SourcePools,
        settings: Arc<Settings>,
        catalogues: Arc<Catalogues>,
    ) -> Sources {
        // Half of its connections for point reads stay with those who asked for the primary.
        let in_place_max = (primary.app.connections_max() / 2).max(1);
        Sources {
            primary,
            settings,
            catalogues,
            primary_state: Mutex::new(ServerState::NEW),
            primary_answered_at: Mutex::new(Instant::now()),
            replicas: RwLock::default(),
            replicas_changed: Notify::new(),
            in_place: Arc::new(Semaphore::new(in_place_max)),
            turn: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            hurry: Notify::new(),
            changed: Notify::new(),
        }
    }

    /// Adds a replica, or puts another server behind the name of one. It is asked once it was seen to be one.
    pub fn add_replica(&self, name: &str, pools: SourcePools) {
        let added = Replica::new(name, pools);
        self.change_replicas(name, Some(Arc::new(added)));
    }

    /// Takes a replica out. Reads that it is answering end.
    pub fn remove_replica(&self, name: &str) {
        self.change_replicas(name, None);
    }

    fn change_replicas(&self, name: &str, added: Option<Arc<Replica>>) {
        let mut replicas = self
            .replicas
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut kept = Vec::with_capacity(replicas.len() + 1);
        for replica in replicas.iter() {
            if *replica.name == *name {
                replica.is_removed.store(true, Ordering::Relaxed);
            } else {
                kept.push(Arc::clone(replica));
            }
        }
        kept.extend(added);
        *replicas = Arc::new(kept);
        drop(replicas);
        self.replicas_changed.notify_one();
    }

    pub(crate) fn replicas(&self) -> Arc<Vec<Arc<Replica>>> {
        let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&replicas)
    }

    /// Who answers; with the replicas that the answer is a place among.
    pub(crate) fn decide(
        &self,
        need: &Need,
        excluded: &[Arc<Replica>],
        now: Instant,
    ) -> (Decision, Arc<Vec<Arc<Replica>>>) {
        let replicas = self.replicas();
        let is_excluded =
            |replica: &Arc<Replica>| excluded.iter().any(|other| Arc::ptr_eq(other, replica));
        let views = replicas
            .iter()
            .map(|replica| replica.view(is_excluded(replica), now));
        let view = View {
            system_id: self.settings.system_id,
            timeline: self.newest().get(),
            heart: self.heart(),
            primary_admits: locked(&self.primary_state).breaker.admits(now),
            replicas: views.collect(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        (decide(need, &view, now), replicas)
    }

    /// Refuses a token that nobody can honour.
    pub(super) fn check_token(&self, token: Option<Position>) -> Result<(), Refusal> {
        check_token(token, self.settings.system_id, self.newest().get())
    }

    pub(super) fn newest(&self) -> &NewestTimeline {
        self.catalogues.newest_timeline()
    }

    /// What a cursor keeps of the position that its page was read at: nothing where only the primary answers, which is never
    /// behind itself.
    pub(crate) fn kept_in_cursor(&self, seen: Position) -> Option<Position> {
        (!self.replicas().is_empty()).then_some(seen)
    }

    /// The token that a further page is read with, where the page before has seen this position. Only what may be read from
    /// a replica needs one, and only of the history that goes on: the primary is never behind, and a failover between two
    /// pages ends neither.
    pub(crate) fn later(&self, options: &ReadOptions, seen: Position) -> Option<Position> {
        let asks_replicas = options.level.may_be_behind(options.token.is_some());
        let is_of_now =
            seen.system_id == self.settings.system_id && self.newest().get() == Some(seen.timeline);
        let is_later = options
            .token
            .is_none_or(|token| token.lineage() == seen.lineage() && token.lsn < seen.lsn);
        if asks_replicas && is_of_now && is_later && !self.replicas().is_empty() {
            Some(seen)
        } else {
            options.token
        }
    }

    pub(super) fn heart(&self) -> Heart {
        Heart::of(locked(&self.primary_state).seen.as_ref())
    }

    /// How far the primary had come when it was last looked at, and when it was asked; absent where that is not known.
    pub(crate) fn primary_written(&self) -> Option<(Position, Instant)> {
        let seen = self.primary_seen()?;
        match seen.look.part {
            Part::Primary { timeline, written } => {
                let position = Position {
                    system_id: seen.look.system_id,
                    timeline,
                    lsn: written,
                };
                Some((position, seen.asked_at))
            }
            Part::Standby { .. } => None,
        }
    }

    pub(super) fn primary_seen(&self) -> Option<Seen> {
        locked(&self.primary_state).seen.clone()
    }

    /// What the primary answers; nothing where it has not answered the watch for too long and there are replicas: it is not
    /// waited for then, before it was seen what these have.
    pub(super) async fn unless_primary_lost<T>(
        &self,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        if self.replicas().is_empty() {
            return Some(answer.await);
        }
        tokio::select! {
            // One that is known to be lost is not even asked.
            biased;
            () = self.primary_lost() => None,
            answer = answer => Some(answer),
        }
    }

    async fn primary_lost(&self) {
        loop {
            let lost_at = *locked(&self.primary_answered_at) + LOST_AFTER;
            if Instant::now() > lost_at {
                return;
            }
            sleep_until((lost_at + Duration::from_millis(1)).into()).await;
        }
    }

    pub(super) fn primary_breaker(&self) -> Breaker {
        locked(&self.primary_state).breaker
    }

    pub(super) fn step_primary(&self, event: Event) {
        let now = Instant::now();
        let mut state = locked(&self.primary_state);
        // A read that has nowhere else to go asks whether or not the breaker lets it, and its answer closes it.
        if state.breaker.admits(now) {
            state.breaker = state.breaker.step(Event::Asked, now);
        }
        state.breaker = match event {
            Event::Answered => Breaker::NEW,
            event => state.breaker.step(event, now),
        };
    }

    /// Takes in a look at what is reached as the primary. One that is none, or was left behind, says nothing of the age of
    /// replicas. Whether it is the primary.
    pub(super) fn saw_primary(&self, look: Look, asked_at: Instant) -> bool {
        let proven = proven_timeline(None, &look);
        self.saw_timeline(look.system_id, proven, &DataSource::Primary);
        let is_ours = look.system_id == self.settings.system_id;
        let timeline = written_timeline(&look).filter(|_| is_ours);
        let is_newest = timeline.is_some() && timeline == self.newest().get();
        if is_newest {
            *locked(&self.primary_answered_at) = asked_at;
        }
        let mut state = locked(&self.primary_state);
        state.seen = is_newest.then(|| Seen::after(state.seen.as_ref(), look, asked_at));
        drop(state);
        self.changed.notify_waiters();
        is_newest
    }

    /// Takes in a look at a replica. One that takes writes was promoted, and so was the primary of one that follows a newer
    /// timeline: the primary that is known is left behind.
    pub(super) fn saw_replica(&self, replica: &Replica, look: Look, asked_at: Instant) {
        let source = DataSource::Replica(Arc::clone(&replica.name));
        let proven = proven_timeline(replica.seen().as_ref(), &look);
        self.saw_timeline(look.system_id, proven, &source);
        replica.saw(look, asked_at);
        self.changed.notify_waiters();
    }

    /// Takes in a timeline that a source has shown which was asked. Nothing else makes a timeline the newest: a token of a
    /// promotion that was undone would else stop everybody.
    pub(super) fn saw_timeline(&self, system_id: u64, shown: Option<u32>, source: &DataSource) {
        let Some(timeline) = shown.filter(|_| system_id == self.settings.system_id) else {
            return;
        };
        let known = self.newest().get();
        if known.is_some_and(|known| known < timeline) {
            tracing::warn!(%source, timeline, "there was a promotion; the primary before is not used any more");
        }
        self.newest().saw(timeline);
    }

    /// Returns after the next look at any source, or at the deadline. Looks come faster meanwhile.
    pub(crate) async fn next_look(&self, deadline: Instant) {
        let changed = self.changed.notified();
        let _waiting = Waiting::begin(self);
        // Either is a reason to decide again.
        let _ = tokio::time::timeout_at(deadline.into(), changed).await;
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counts one that waits, also where it is dropped.
struct Waiting<'a>(&'a Sources);

impl Waiting<'_> {
    fn begin(sources: &Sources) -> Waiting<'_> {
        if sources.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            sources.hurry.notify_waiters();
        }
        Waiting(sources)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
