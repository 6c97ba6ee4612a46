//! Servers that share a Redis, and a database that counts who asks.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sheaf_cache::{
    Cache, Database, Demand, EntityName, Fetched, Options, Origin, Reading, RemoteOptions,
};
use sheaf_model::{EntityId, Lsn, Position, TenantId, Timestamp, WrittenEntity};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const TENANT: TenantId = TenantId(1);
const SYSTEM_ID: u64 = 7;
/// For what takes milliseconds on a machine that does nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A database: entities with a version, a log that moves on, and a count of who asks.
#[derive(Default)]
pub(crate) struct Primary {
    state: Mutex<State>,
    pub(crate) asked: AtomicUsize,
}

#[derive(Default)]
struct State {
    lsn: u64,
    numbers: HashMap<String, i64>,
    versions: HashMap<String, i64>,
}

fn at(lsn: u64) -> Position {
    Position {
        system_id: SYSTEM_ID,
        timeline: 1,
        lsn: Lsn(lsn),
    }
}

impl Primary {
    /// The number of a name; it gets one if it has none.
    pub(crate) fn number(&self, name: &str) -> EntityId {
        let mut state = self.state.lock().expect("not poisoned");
        let next = state.numbers.len() as i64 + 1;
        EntityId(*state.numbers.entry(name.to_owned()).or_insert(next))
    }

    /// A commit: what it wrote, and the position that has it.
    pub(crate) fn write(&self, name: &str) -> (Position, WrittenEntity) {
        let entity = self.number(name);
        let mut state = self.state.lock().expect("not poisoned");
        state.lsn += 2;
        let version = state.versions.entry(name.to_owned()).or_insert(0);
        *version += 1;
        let written = WrittenEntity {
            tenant: TENANT,
            entity,
            is_first: *version == 1,
        };
        (at(state.lsn), written)
    }

    /// What it says of an entity now.
    pub(crate) fn says(&self, name: &str) -> (Fetched, i64) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock().expect("not poisoned");
        // Something else is written all the time.
        state.lsn += 2;
        let version = state.versions.get(name).copied().unwrap_or(0);
        let fetched = Fetched {
            is_primary: true,
            entity: state.numbers.get(name).map(|number| EntityId(*number)),
            version,
            body: (version > 0).then(|| format!("{name} {version}").into()),
            position: at(state.lsn),
            covers: Some(Lsn(state.lsn)),
            lag: Some(Duration::ZERO),
            data_timestamp: Timestamp::now(),
        };
        (fetched, version)
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Who answered a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Memory,
    Redis,
    Primary,
}

/// A server: a cache, and the tasks that keep its Redis.
pub(crate) struct Server {
    pub(crate) cache: Cache,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Given {
    pub(crate) age_max: Duration,
    pub(crate) deadline: Duration,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl Default for Given {
    fn default() -> Given {
        Given {
            age_max: Duration::from_secs(3_600),
            // A busy machine is slower than the 20 ms of the default.
            deadline: Duration::from_secs(5),
            user: None,
            password: None,
        }
    }
}

impl Server {
    pub(crate) fn start(port: u16, given: Given) -> Server {
        Server::start_at(format!("redis://127.0.0.1:{port}"), given, None)
    }

    pub(crate) fn start_at(url: String, given: Given, ca: Option<Vec<u8>>) -> Server {
        let (stop, stopped) = watch::channel(false);
        let options = Options {
            bytes_max: 1 << 20,
            age_max: given.age_max,
            sample_every: u64::MAX,
        };
        let database = Database {
            system_id: SYSTEM_ID,
            signing_key: [7; 32],
        };
        let remote = RemoteOptions {
            url,
            user: given.user,
            password: given.password,
            ca,
            deadline: given.deadline,
        };
        let (cache, tasks) = Cache::shared(options, &database, remote, &stopped);
        Server { cache, stop, tasks }
    }

    /// A server that has its Redis.
    pub(crate) async fn started(port: u16) -> Result<Server> {
        let server = Server::start(port, Given::default());
        server.reached().await?;
        Ok(server)
    }

    pub(crate) async fn reached(&self) -> Result<()> {
        until("redis is reached", async || {
            Ok(self.cache.reaches_redis() == Some(true))
        })
        .await
    }

    /// A read of what is at most so old.
    pub(crate) async fn read(&self, primary: &Primary, name: &str, lag_max: Duration) -> (i64, By) {
        let ask = async { Ok::<_, Infallible>(primary.says(name)) };
        self.read_asking(name, lag_max, ask).await
    }

    pub(crate) async fn read_asking(
        &self,
        name: &str,
        lag_max: Duration,
        ask: impl Future<Output = Result<(Fetched, i64), Infallible>>,
    ) -> (i64, By) {
        let asked_for = EntityName {
            tenant: TENANT,
            entity_type: "device",
            external_id: name,
        };
        let demand = Demand {
            lag_max,
            token: None,
        };
        match self.cache.read(asked_for, &demand, ask).await {
            Ok(Reading::Asked { answer, .. }) => (answer, By::Primary),
            Ok(Reading::Remembered(answer)) => {
                let version = answer.value.version;
                let body = (version > 0).then(|| format!("{name} {version}"));
                let said = answer.value.body.map(|body| body.to_vec());
                assert_eq!(
                    said,
                    body.map(String::into_bytes),
                    "another entity's answer"
                );
                match answer.origin {
                    Origin::Memory => (version, By::Memory),
                    Origin::Redis => (version, By::Redis),
                }
            }
            Err(never) => match never {},
        }
    }

    /// A write through this server.
    pub(crate) fn write(&self, primary: &Primary, name: &str) {
        primary.number(name);
        self.cache.named(TENANT);
        let (position, written) = primary.write(name);
        self.cache.committed(position, &[written]);
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task)
                .await
                .context("a task of the cache does not end")??;
        }
        Ok(())
    }
}

/// Any age.
pub(crate) const ANY: Duration = Duration::from_secs(3_000);

pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if holds().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("not within {PATIENCE:?}: {what}");
}
