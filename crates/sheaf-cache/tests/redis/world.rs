//! A redis-server of a test's own, a way to it that can be led elsewhere, servers that share it, and a database that counts
//! who asks.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use sheaf_cache::{
    Cache, Database, Demand, EntityName, Fetched, Options, Origin, Reading, RemoteOptions,
};
use sheaf_model::{EntityId, Lsn, Position, TenantId, Timestamp, WrittenEntity};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

const TENANT: TenantId = TenantId(1);
const SYSTEM_ID: u64 = 7;
/// For what takes milliseconds on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A redis-server. It keeps nothing on the disk.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    args: Vec<String>,
}

impl Redis {
    pub(crate) async fn start(args: &[&str]) -> Result<Redis> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        // Another process may take a free port before it is used.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let child = spawn(port, &args)?;
            let mut redis = Redis {
                child,
                port,
                args: args.clone(),
            };
            if redis.is_up().await? {
                return Ok(redis);
            }
        }
        bail!("redis-server finds no port");
    }

    async fn is_up(&mut self) -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if self.connect().await.is_ok() {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("redis-server does not answer");
    }

    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let _: String = redis::cmd("PING").query_async(&mut connection).await?;
        Ok(connection)
    }

    /// One command, on a connection of its own.
    pub(crate) async fn call<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut connection = self.connect().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        Ok(command.query_async(&mut connection).await?)
    }

    pub(crate) async fn entity_keys(&self) -> Result<Vec<String>> {
        self.call(&["KEYS", "sheaf:*:entity:*"]).await
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(self.port, &self.args)?;
        if self.is_up().await? {
            Ok(())
        } else {
            bail!("redis-server does not start again");
        }
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "kill -{name} fails");
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be stopped or gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(dir_of(self.port));
    }
}

fn dir_of(port: u16) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("redis-{port}"))
}

fn spawn(port: u16, args: &[String]) -> Result<Child> {
    // What a replica was sent is left on the disk, and would be read by the next one that starts there.
    let dir = dir_of(port);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(["--repl-diskless-sync-delay", "0"])
        .arg("--dir")
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting redis-server, which scripts/bootstrap.sh --test installs")
}

/// A way to a port that can be led to another one.
pub(crate) struct Way {
    pub(crate) port: u16,
    target: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    task: JoinHandle<()>,
}

impl Way {
    pub(crate) async fn to(port: u16) -> Result<Way> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let own_port = listener.local_addr()?.port();
        let (target, open) = (Arc::new(AtomicU16::new(port)), Arc::default());
        let task = tokio::spawn(carry(listener, Arc::clone(&target), Arc::clone(&open)));
        Ok(Way {
            port: own_port,
            target,
            open,
            task,
        })
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
        for connection in self.open.lock().expect("not poisoned").drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    listener: tokio::net::TcpListener,
    target: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let target = Arc::clone(&target);
        let carried = tokio::spawn(async move {
            let address = ("127.0.0.1", target.load(Ordering::SeqCst));
            if let Ok(mut far) = TcpStream::connect(address).await {
                // Either side may end it.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        open.lock()
            .expect("not poisoned")
            .push(carried.abort_handle());
    }
}

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
    /// The number of a name, and whether it has just got it.
    pub(crate) fn number(&self, name: &str) -> (EntityId, bool) {
        let mut state = self.state.lock().expect("not poisoned");
        let next = state.numbers.len() as i64 + 1;
        let number = *state.numbers.entry(name.to_owned()).or_insert(next);
        (EntityId(number), number == next)
    }

    /// A commit: what it wrote, and the position that has it.
    pub(crate) fn write(&self, name: &str) -> (Position, WrittenEntity) {
        let (entity, _) = self.number(name);
        let mut state = self.state.lock().expect("not poisoned");
        state.lsn += 2;
        let version = state.versions.entry(name.to_owned()).or_insert(0);
        *version += 1;
        let written = WrittenEntity {
            tenant: TENANT,
            entity,
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
            Ok(Reading::Asked(version)) => (version, By::Primary),
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
        let (_, is_new) = primary.number(name);
        self.cache.named(TENANT, is_new);
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
