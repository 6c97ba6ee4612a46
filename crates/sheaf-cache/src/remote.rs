//! Redis: values that servers share, and announcements of what they write.
//!
//! No read depends on it. A request has a deadline, a few are under way at once, and a breaker leaves a Redis alone that
//! does not answer, so that a slow one costs some milliseconds and then nothing. What it holds is judged like everything
//! that is remembered; what it loses is asked of the database again.

mod announce;
mod client;
mod hearing;
mod key;
mod link;
mod looking;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sheaf_model::{EntityId, Lineage, Position, TenantId, WrittenEntity};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::breaker::{Breaker, Ended};
use crate::cache::{Database, Inner};
use crate::instruments::{REDIS_RESULTS, REDIS_TOTAL, REDIS_UP};
use crate::seal::{ANNOUNCED_MAX, Announcement, Content, Seals};
use crate::value::Value;
pub use client::RemoteFault;
use key::Keys;

/// Requests under way at once. More only wait for each other in one connection.
const ASKED_MAX: usize = 256;
/// Values and announcements that wait to be sent. Values beyond are not shared; announcements beyond become one that says
/// that anything may have been written.
const JOBS_MAX: usize = 1_024;

/// Where Redis is, and how long it may take.
#[derive(Clone)]
pub struct RemoteOptions {
    /// `redis://` or `rediss://` with host, port and database.
    pub url: String,
    /// Who to log in as; none for the default user.
    pub user: Option<String>,
    /// The password, where it asks for one.
    pub password: Option<String>,
    /// The certificates to trust, in PEM, in place of the public ones.
    pub ca: Option<Vec<u8>>,
    /// How long a read waits for it.
    pub deadline: Duration,
}

impl std::fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteOptions({})", self.url)
    }
}

/// A connection that is up, and the epoch of what is under its keys.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    epoch: u64,
}

/// What is sent without anybody waiting for it.
enum Job {
    /// A value under its key.
    Put { key: String, value: Vec<u8> },
    /// What is there cannot be read: it goes.
    Remove { key: String },
    /// A message.
    Announce { message: Vec<u8> },
}

/// The jobs of a cache's Redis, for the task that does them.
pub(crate) struct Jobs(mpsc::Receiver<Job>);

/// Redis as this server reaches it.
pub(crate) struct Remote {
    options: RemoteOptions,
    ttl: Duration,
    seals: Seals,
    keys: Keys,
    /// Who this server is among those that announce.
    sender: u64,
    link: RwLock<Option<Link>>,
    /// Whether announcements are heard.
    hears: AtomicBool,
    breaker: Mutex<Breaker>,
    asked: Semaphore,
    jobs: mpsc::Sender<Job>,
    /// Announcements were dropped: the others have to be told that there were some.
    is_unheard: AtomicBool,
    /// The connection for requests is to be made anew; the one that hears is still good.
    renew: Notify,
    /// The connection that hears is to be made anew: it is not to the Redis that requests go to.
    subscribe_again: Notify,
    /// There is a connection again, for what waits to be sent.
    linked: Notify,
}

impl Remote {
    pub(crate) fn new(
        options: RemoteOptions,
        ttl: Duration,
        database: &Database,
    ) -> (Remote, Jobs) {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        for result in REDIS_RESULTS {
            metrics::counter!(REDIS_TOTAL, "result" => result).absolute(0);
        }
        metrics::gauge!(REDIS_UP).set(0.0);
        let remote = Remote {
            options,
            ttl,
            seals: Seals::new(&database.signing_key),
            keys: Keys::new(database.system_id),
            sender: rand::random(),
            link: RwLock::new(None),
            hears: AtomicBool::new(false),
            breaker: Mutex::new(Breaker::new()),
            asked: Semaphore::new(ASKED_MAX),
            jobs,
            is_unheard: AtomicBool::new(false),
            renew: Notify::new(),
            subscribe_again: Notify::new(),
            linked: Notify::new(),
        };
        (remote, Jobs(waiting))
    }

    /// What Redis holds of an entity on a history. None where it holds nothing that can be read, or does not say so in
    /// time.
    pub(crate) async fn fetch(
        &self,
        tenant: TenantId,
        entity: EntityId,
        lineage: Lineage,
    ) -> Option<Value> {
        let Some((mut link, _place)) = self.admitted() else {
            count("skipped");
            return None;
        };
        let key = self.keys.entity(link.epoch, lineage, tenant, entity);
        let mut command = redis::cmd("GET");
        command.arg(&key);
        let answer = command.query_async::<Option<Vec<u8>>>(&mut link.connection);
        let found = match tokio::time::timeout(self.options.deadline, answer).await {
            Ok(Ok(found)) => {
                self.record(Ended::Well);
                found
            }
            // What is there is no text: it goes, and Redis is well.
            Ok(Err(error)) if error.code() == Some(client::WRONG_TYPE) => {
                self.record(Ended::Well);
                self.send(Job::Remove { key });
                count("invalid");
                return None;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "redis failed a read");
                self.record(Ended::Badly);
                count("error");
                return None;
            }
            Err(_) => {
                self.record(Ended::Badly);
                count("timeout");
                return None;
            }
        };
        let Some(found) = found else {
            count("miss");
            return None;
        };
        let value = self.seals.open_value(&found, tenant, entity, lineage);
        if value.is_none() {
            // It would be in the way of the next value.
            self.send(Job::Remove { key });
        }
        count(if value.is_some() { "hit" } else { "invalid" });
        value
    }

    /// A connection and a place among those who ask, if it may be asked now.
    fn admitted(&self) -> Option<(Link, tokio::sync::SemaphorePermit<'_>)> {
        let place = self.asked.try_acquire().ok()?;
        let link = self.link()?;
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.admits(Instant::now()).then_some((link, place))
    }

    fn record(&self, ended: Ended) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let was_closed = breaker.is_closed();
        breaker.record(ended, Instant::now(), rand::random());
        let is_closed = breaker.is_closed();
        drop(breaker);
        if was_closed && !is_closed {
            tracing::warn!("redis does not answer in time; it is left alone for a while");
            // What was asked and not answered goes with the connection.
            self.renew.notify_one();
        }
    }

    /// Shares a value, some time.
    pub(crate) fn put(&self, value: &Value) {
        let (Some(entity), Some(link)) = (value.entity, self.link()) else {
            return;
        };
        if let Some(sealed) = self.seals.value(value) {
            let lineage = value.position.lineage();
            self.send(Job::Put {
                key: self.keys.entity(link.epoch, lineage, value.tenant, entity),
                value: sealed,
            });
        }
    }

    /// Tells the other servers what was written.
    pub(crate) fn announce(&self, position: Position, written: &[WrittenEntity]) {
        for some in written.chunks(ANNOUNCED_MAX) {
            let message = self.message(Content::Written(position, some.to_vec()));
            self.send(Job::Announce { message });
        }
    }

    /// Tells the other servers which tenants have an entity that was not there before: who found nothing under its name knows
    /// no number that it was announced by.
    pub(crate) fn announce_firsts(&self, written: &[WrittenEntity]) {
        let firsts = written.iter().filter(|each| each.is_first);
        let tenants: BTreeSet<TenantId> = firsts.map(|each| each.tenant).collect();
        for tenant in tenants {
            let message = self.message(Content::Named(tenant));
            self.send(Job::Announce { message });
        }
    }

    /// Tells the other servers that anything may have been written.
    pub(crate) fn announce_anything(&self) {
        let message = self.message(Content::Anything);
        self.send(Job::Announce { message });
    }

    fn message(&self, content: Content) -> Vec<u8> {
        self.seals.announcement(&Announcement {
            sender: self.sender,
            content,
        })
    }

    fn send(&self, job: Job) {
        let is_announcement = matches!(job, Job::Announce { .. });
        if self.jobs.try_send(job).is_err() && is_announcement {
            self.is_unheard.store(true, Ordering::Release);
        }
    }

    /// Whether it is connected, announces what others write, and answers in time.
    pub(crate) fn is_reached(&self) -> bool {
        let breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.is_closed() && self.hears.load(Ordering::Acquire) && self.link().is_some()
    }

    fn link(&self) -> Option<Link> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        link.clone()
    }

    fn set_link(&self, link: Option<Link>) {
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = link;
        self.tell();
        self.linked.notify_one();
    }

    fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        let is_up = self.hears.load(Ordering::Acquire) && self.link().is_some();
        metrics::gauge!(REDIS_UP).set(f64::from(u8::from(is_up)));
    }
}

/// Starts the tasks of a cache's Redis.
pub(crate) fn start(
    cache: &Arc<Inner>,
    jobs: Jobs,
    stop: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(link::keep(Arc::clone(cache), stop.clone())),
        tokio::spawn(hearing::keep(Arc::clone(cache), stop.clone())),
        tokio::spawn(announce::work(Arc::clone(cache), jobs, stop.clone())),
    ]
}

fn count(result: &'static str) {
    metrics::counter!(REDIS_TOTAL, "result" => result).increment(1);
}
