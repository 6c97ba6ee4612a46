//! A redis-server of a test's own, and a way to it that can be led elsewhere.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};

use super::world::{PATIENCE, until};

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

    /// One of a cluster, which holds the keys of these slots.
    pub(crate) async fn start_node(first_slot: u16, last_slot: u16) -> Result<Redis> {
        let node = Redis::start(&["--cluster-enabled", "yes"]).await?;
        let (first, last) = (first_slot.to_string(), last_slot.to_string());
        let _: String = node
            .call(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])
            .await?;
        Ok(node)
    }

    /// Until the cluster that it is of takes keys, and has so many nodes that hold some.
    pub(crate) async fn wait_cluster(&self, nodes: usize) -> Result<()> {
        until("the cluster is there", async || {
            let told: String = self.call(&["CLUSTER", "INFO"]).await?;
            let size = format!("cluster_size:{nodes}\r\n");
            Ok(told.contains("cluster_state:ok") && told.contains(&size))
        })
        .await
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
