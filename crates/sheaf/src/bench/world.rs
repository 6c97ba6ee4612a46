//! The servers of a benchmark: a `sheaf dev` of this executable in an empty directory that goes with it, and on demand
//! a second server on its database.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::Method;
use hyper::body::Bytes;
use sheaf_config::Roles;
use sheaf_pg::cluster::SUPERUSER;
use sheaf_pg::{Pool, Tls};
use sheaf_store::catalogue::{Catalogue, Catalogues};
use sheaf_store::{TenantScope, tenants};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use super::connection::Connection;
use super::cost::cpu_seconds;
use crate::{commands, private_file};

/// How long a server may take to be ready: the first makes a database first.
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Worlds that this process has started, for the names of their directories.
static STARTED: AtomicU32 = AtomicU32::new(0);

pub(super) struct World {
    dir: PathBuf,
    server: Server,
    second: Mutex<Option<Server>>,
    admin_key: String,
    /// Of the superuser, for what only the benchmark does: its own tables, and questions about the cluster.
    pub(super) client: Client,
    pub(super) pools: Roles<Pool>,
    /// The tenant that a `sheaf dev` begins with.
    pub(super) first: Tenant,
}

struct Server {
    child: Child,
    pid: u32,
    authority: String,
}

/// A tenant of the benchmark, with a key of its own.
#[derive(Clone)]
pub(super) struct Tenant {
    pub(super) scope: TenantScope,
    key: Arc<str>,
    authority: Arc<str>,
}

impl Tenant {
    /// A connection of its own for one client.
    pub(super) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.authority, &self.key).await
    }

    /// As many connections as there are clients.
    pub(super) async fn connections(&self, clients: usize) -> Result<Vec<Connection>> {
        let mut connections = Vec::with_capacity(clients);
        for _ in 0..clients {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }

    /// Sends some events of NDJSON in one request.
    pub(super) async fn ingest(&self, body: String) -> Result<()> {
        let mut connection = self.connect().await?;
        let sent = connection.call(
            Method::POST,
            "/v1/ingest",
            "application/x-ndjson",
            Bytes::from(body),
        );
        sent.await.map(drop)
    }

    /// The same tenant at another server.
    pub(super) fn at(&self, authority: &str) -> Tenant {
        let authority = authority.into();
        Tenant {
            authority,
            ..self.clone()
        }
    }
}

impl World {
    pub(super) async fn start() -> Result<World> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("sheaf-bench-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let authority = free_authority()?;
        let mut command = command()?;
        // What following costs is another question.
        command.args(["dev", "--no-changes", "--listen", &authority, "--data-dir"]);
        let server = spawn(command.arg(&dir), authority, &dir.join("server.log"))?;
        let (key_file, admin_file) = (dir.join("demo.key"), dir.join("admin.key"));
        if let Err(error) = wait_ready(&server.authority, &dir.join("server.log")).await {
            // It may have started a PostgreSQL, which goes with it.
            let _ = server.stop().await;
            return Err(error);
        }
        let pools = commands::private_pools(&dir)?;
        let client = superuser(&dir).await?;
        client.batch_execute("CREATE SCHEMA bench").await?;
        let first = Tenant {
            scope: scope(&pools, "demo").await?,
            key: private_file::read(&key_file)?.into(),
            authority: server.authority.as_str().into(),
        };
        Ok(World {
            admin_key: private_file::read(&admin_file)?,
            dir,
            server,
            second: Mutex::new(None),
            client,
            pools,
            first,
        })
    }

    /// A new tenant, so that no case meets the catalogue of another.
    pub(super) async fn tenant(&self, name: &str) -> Result<Tenant> {
        let body = serde_json::json!({ "name": name }).to_string();
        let mut connection = Connection::open(&self.server.authority, &self.admin_key).await?;
        let answer = connection
            .call(
                Method::POST,
                "/v1/tenants",
                "application/json",
                Bytes::from(body),
            )
            .await
            .context("creating a tenant")?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let key = answer["key"]["key"]
            .as_str()
            .context("the answer holds the tenant's key")?;
        Ok(Tenant {
            scope: scope(&self.pools, name).await?,
            key: key.into(),
            authority: self.first.authority.clone(),
        })
    }

    /// The catalogue of a tenant as it is now.
    pub(super) async fn catalogue(&self, tenant: &Tenant) -> Result<Arc<Catalogue>> {
        Ok(Catalogues::new(self.pools.app.clone())
            .refresh(&tenant.scope)
            .await?)
    }

    /// A further connection of the superuser.
    pub(super) async fn superuser(&self) -> Result<Client> {
        superuser(&self.dir).await
    }

    /// Starts a second server on the same database, configured with this text, and tells where it serves.
    pub(super) async fn start_second(&self, config_text: &str) -> Result<String> {
        let authority = free_authority()?;
        let log = self.dir.join("second.log");
        let file = self.config_of_second();
        std::fs::write(&file, config_text)
            .with_context(|| format!("writing {}", file.display()))?;
        let mut command = command()?;
        command
            .args(["serve", "--config"])
            .arg(&file)
            .env("SHEAF_DATABASE_URL", self.database_url()?)
            .env("SHEAF_SERVER_LISTEN", &authority);
        let server = spawn(&mut command, authority.clone(), &log)?;
        *self.second() = Some(server);
        wait_ready(&authority, &log).await?;
        Ok(authority)
    }

    /// Runs a command of this executable with the second server's settings, to its end.
    pub(super) async fn run_beside_second(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = command()?;
        let command = command
            .args(arguments)
            .arg("--config")
            .arg(self.config_of_second())
            .env("SHEAF_DATABASE_URL", self.database_url()?);
        let output = command.output().await;
        output.with_context(|| format!("running sheaf {}", arguments.join(" ")))
    }

    fn config_of_second(&self) -> PathBuf {
        self.dir.join("second.toml")
    }

    fn database_url(&self) -> Result<String> {
        let config = commands::private_config(&self.dir, "sheaf_app")?;
        let (hosts, ports) = (config.get_hosts(), config.get_ports());
        let (Some(tokio_postgres::config::Host::Unix(socket_dir)), Some(port)) =
            (hosts.first(), ports.first())
        else {
            bail!("a private cluster is reached over a socket");
        };
        let socket_dir = socket_dir.to_str().context("a socket's path is text")?;
        let database = config.get_dbname().context("the database has a name")?;
        Ok(format!(
            "postgresql://{}:{port}/{database}",
            socket_dir.replace('/', "%2F")
        ))
    }

    /// Ends the second server.
    pub(super) async fn stop_second(&self) -> Result<()> {
        let second = self.second().take();
        match second {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }

    /// A place of its own beside everything else of this world.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The process of the second server.
    pub(super) fn second_pid(&self) -> Result<u32> {
        let pid = self.second().as_ref().map(|server| server.pid);
        pid.context("there is no second server")
    }

    /// The process of the first server.
    pub(super) fn server_pid(&self) -> u32 {
        self.server.pid
    }

    /// CPU seconds of all servers.
    pub(super) fn servers_cpu_seconds(&self) -> Result<f64> {
        let second = self.second().as_ref().map(|server| server.pid);
        let second = second.map_or(Ok(0.0), cpu_seconds)?;
        Ok(cpu_seconds(self.server.pid)? + second)
    }

    /// The first process of PostgreSQL.
    pub(super) fn postmaster(&self) -> Result<u32> {
        let path = self.dir.join("postgres/pgdata/postmaster.pid");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let pid = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok());
        pid.with_context(|| format!("{} does not begin with a number", path.display()))
    }

    /// What each server counts.
    pub(super) async fn metrics(&self) -> Result<Vec<String>> {
        let second = self
            .second()
            .as_ref()
            .map(|server| server.authority.clone());
        let mut texts = Vec::new();
        for authority in [Some(self.server.authority.clone()), second]
            .into_iter()
            .flatten()
        {
            let mut connection = Connection::open(&authority, &self.admin_key).await?;
            let text = connection
                .call(Method::GET, "/metrics", "text/plain", Bytes::new())
                .await
                .context("reading a server's metrics")?;
            texts.push(String::from_utf8(text.to_vec())?);
        }
        Ok(texts)
    }

    /// Ends the servers and removes their data.
    pub(super) async fn stop(self) -> Result<()> {
        self.stop_second().await?;
        self.server.stop().await?;
        std::fs::remove_dir_all(&self.dir)
            .with_context(|| format!("removing {}", self.dir.display()))
    }

    fn second(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    async fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("a server of the benchmark has ended by itself: {status}");
        }
        Command::new("kill")
            .args(["-TERM", &self.pid.to_string()])
            .status()
            .await?;
        tokio::time::timeout(STOP_WITHIN, self.child.wait())
            .await
            .context("the server does not stop")??;
        Ok(())
    }
}

fn free_authority() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

/// This executable, without the settings of whoever runs the benchmark.
fn command() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this executable")?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHEAF_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn spawn(command: &mut Command, authority: String, log: &Path) -> Result<Server> {
    let log = std::fs::File::create(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("starting a server of the benchmark")?;
    let pid = child.id().context("a new process has an id")?;
    Ok(Server {
        child,
        pid,
        authority,
    })
}

async fn wait_ready(authority: &str, log: &Path) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < READY_WITHIN {
        if let Ok(mut connection) = Connection::open(authority, "").await
            && connection
                .call(Method::GET, "/readyz", "text/plain", Bytes::new())
                .await
                .is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!(
        "a server of the benchmark is not ready; see {}",
        log.display()
    );
}

async fn superuser(dir: &Path) -> Result<Client> {
    let config = commands::private_config(dir, SUPERUSER)?;
    Ok(Tls::none().connect(&config).await?)
}

async fn scope(pools: &Roles<Pool>, name: &str) -> Result<TenantScope> {
    let tenant = tenants::fetch_tenant(&pools.app, name)
        .await?
        .with_context(|| format!("the tenant {name} is not there"))?;
    Ok(TenantScope::system(
        tenant.tenant,
        "a benchmark writes its baseline",
    ))
}
