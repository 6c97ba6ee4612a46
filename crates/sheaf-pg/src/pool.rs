//! Pools of connections, one for each role, so that no kind of work can use up another's.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, RecyclingMethod, Runtime,
};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::PgError;
use crate::timeline::{NewestTimeline, each_host, is_left_behind};

/// How long a request waits for a connection before it is told that the service is overloaded. Longer only
/// moves the queue from clients, who can back off, to the server, which cannot.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What connecting gets of that, so that the last host's failure is told before the pool gives up.
const OPEN_MAX: Duration = Duration::from_millis(4_500);
/// When the kernel asks the other side of a silent connection for a sign of life, how often, and how long what was sent
/// may stay unacknowledged: a machine that is gone without a word is noticed in half a minute, and not in two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Connections of one role to one database.
#[derive(Clone)]
pub struct Pool {
    inner: deadpool_postgres::Pool,
    role: String,
    config: Config,
    tls: Tls,
    newest: Arc<NewestTimeline>,
}

/// A connection from a pool; it goes back when dropped.
pub type Connection = deadpool_postgres::Object;

/// A connection in the middle of a transaction, of someone who may be dropped at any await. It goes back to its pool only
/// when told that it is at rest; else it is closed, and its transaction with it.
pub struct Unfinished(Option<Connection>);

impl Unfinished {
    /// Before the transaction begins.
    pub fn new(connection: Connection) -> Unfinished {
        Unfinished(Some(connection))
    }

    /// After it has ended.
    pub fn rest(mut self) {
        drop(self.0.take());
    }
}

impl std::ops::Deref for Unfinished {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.0
            .as_ref()
            .expect("the connection is there until it is at rest")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
        }
    }
}

impl std::fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unfinished")
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.role)
    }
}

impl Pool {
    /// A pool that connects when first asked. Nothing is sent on checkout, so that it works behind a pooler.
    pub fn new(config: &Config, connections_max: usize, tls: &Tls) -> Pool {
        Pool::of_cluster(config, connections_max, tls, &Arc::default())
    }

    /// The same for a cluster that others connect to as well: it passes over hosts that are known to be left behind by a
    /// promotion, and lends no connection that was made before it was known. One address may lead to several hosts too.
    pub fn of_cluster(
        config: &Config,
        connections_max: usize,
        tls: &Tls,
        newest: &Arc<NewestTimeline>,
    ) -> Pool {
        let role = config.get_user().unwrap_or("the default user").to_owned();
        let mut config = config.clone();
        config.application_name(format!("sheaf {role}"));
        limit_patience(&mut config);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let connector = Connector {
            tls: tls.clone(),
            newest: Arc::clone(newest),
        };
        let manager = Manager::from_connect(config.clone(), connector, recycling);
        let moved = Arc::clone(newest);
        let inner = deadpool_postgres::Pool::builder(manager)
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if moved.has_moved_since(metrics.created) {
                    return Err(HookError::message("made before a promotion"));
                }
                Ok(())
            }))
            .build()
            .expect("a runtime is given, the one thing that the builder asks for");
        Pool {
            inner,
            role,
            config,
            tls: tls.clone(),
            newest: Arc::clone(newest),
        }
    }

    /// A further pool of the same role, for work that must not wait for this one's connections, nor they for it.
    pub fn beside(&self, connections_max: usize) -> Pool {
        Pool::of_cluster(&self.config, connections_max, &self.tls, &self.newest)
    }

    /// A connection, waiting a bounded time for one.
    pub async fn get(&self) -> Result<Connection, PgError> {
        self.inner.get().await.map_err(|source| PgError::Connect {
            role: self.role.clone(),
            source: Box::new(source),
        })
    }

    /// A connection as the pool's are, of its own: it does not wait for the pool's, nor they for it. Each host has so long
    /// to answer, whatever those before it did.
    pub async fn connect_apart(&self, host_max: Duration) -> Result<Client, PgError> {
        let opened = self
            .tls
            .open_current(&self.config, &self.newest, log, host_max);
        self.opened(opened.await)
    }

    /// One of its own by another configuration of the same hosts; what the server says beside its answers is passed on,
    /// each notice before the answer to the statement that it belongs to.
    pub(crate) async fn connect_hearing(
        &self,
        config: &Config,
        heard: impl Fn(DbError) + Clone + Send + 'static,
    ) -> Result<Client, PgError> {
        let mut config = config.clone();
        limit_patience(&mut config);
        let host_max = share_of_each(&config, OPEN_MAX);
        let opened = self
            .tls
            .open_current(&config, &self.newest, heard, host_max);
        self.opened(opened.await)
    }

    fn opened(&self, opened: Result<Opened, Unopened>) -> Result<Client, PgError> {
        // The task that drives the connection ends with it.
        let (client, _) = opened.map_err(|unopened| unopened.on_connecting(&self.role))?;
        Ok(client)
    }

    /// How the pool's connections are made, for one that must stand outside it.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// How they are encrypted.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The newest timeline that is known of the cluster.
    pub fn newest_timeline(&self) -> &Arc<NewestTimeline> {
        &self.newest
    }

    /// How many connections there can be at once.
    pub fn connections_max(&self) -> usize {
        self.inner.status().max_size
    }

    /// The role that the pool's connections log in as.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Closes every connection that is not in use and refuses new ones.
    pub fn close(&self) {
        self.inner.close();
    }
}

/// Makes the connections of a pool.
struct Connector {
    tls: Tls,
    newest: Arc<NewestTimeline>,
}

impl Connect for Connector {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<Opened, tokio_postgres::Error>> {
        let config = config.clone();
        Box::pin(async move {
            let host_max = share_of_each(&config, OPEN_MAX);
            let opened = self.tls.open_current(&config, &self.newest, log, host_max);
            match opened.await {
                Ok(opened) => Ok(opened),
                Err(Unopened::Failed(error)) => Err(error),
                // An error of this type cannot be made; the pool says the same in a moment.
                Err(Unopened::TimedOut) => std::future::pending().await,
            }
        })
    }
}

/// What is done with what a server says beside its answers, where nobody listens for it.
fn log(notice: DbError) {
    tracing::debug!(%notice, "postgresql says");
}

/// A connection, and the task that drives it.
type Opened = (Client, JoinHandle<()>);

/// Why no host could be connected to: what the last one came to.
enum Unopened {
    Failed(tokio_postgres::Error),
    TimedOut,
}

impl Unopened {
    fn on_connecting(self, role: &str) -> PgError {
        PgError::Connect {
            role: role.to_owned(),
            source: match self {
                Unopened::Failed(error) => Box::new(error),
                Unopened::TimedOut => "no answer in time".into(),
            },
        }
    }
}

/// The share of each of several hosts: one that says nothing leaves time for the next.
fn share_of_each(config: &Config, all: Duration) -> Duration {
    let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
    all / hosts.max(1)
}

fn limit_patience(config: &mut Config) {
    config
        .connect_timeout(share_of_each(config, CONNECT_MAX))
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX);
}

/// How a client encrypts that trusts these authorities, and no others.
pub fn trusting(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    // The provider is named, because two may be linked and neither is then the default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// How connections are encrypted, where the server asks for it or the configuration demands it.
#[derive(Clone)]
pub struct Tls(MakeRustlsConnect);

impl Tls {
    /// Trusts the certificates in this file (PEM), and no others.
    pub fn with_ca_file(path: &std::path::Path) -> Result<Tls, TlsFault> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let fault = |source: Box<dyn std::error::Error + Send + Sync>| TlsFault {
            path: path.to_owned(),
            source,
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|source| fault(Box::new(source)))?
        {
            let certificate = certificate.map_err(|source| fault(Box::new(source)))?;
            roots
                .add(certificate)
                .map_err(|source| fault(Box::new(source)))?;
        }
        Ok(Tls(MakeRustlsConnect::new(trusting(roots))))
    }

    /// Trusts nobody: for sockets, and for servers without TLS.
    pub fn none() -> Tls {
        let roots = rustls::RootCertStore::empty();
        Tls(MakeRustlsConnect::new(trusting(roots)))
    }

    /// Connects once, outside any pool; the task that drives the connection ends with it.
    pub async fn connect(&self, config: &Config) -> Result<Client, PgError> {
        let mut config = config.clone();
        limit_patience(&mut config);
        let (newest, host_max) = (NewestTimeline::default(), share_of_each(&config, OPEN_MAX));
        let opened = self.open_current(&config, &newest, log, host_max).await;
        let role = config.get_user().unwrap_or("the default user");
        let (client, _) = opened.map_err(|unopened| unopened.on_connecting(role))?;
        Ok(client)
    }

    /// Opens a connection to the first host that takes it and is not known to be left behind. Where there is none but
    /// these, to one of them: whoever reads or writes there is refused, and told why. Each host has so long for all of it.
    async fn open_current(
        &self,
        config: &Config,
        newest: &NewestTimeline,
        heard: impl Fn(DbError) + Clone + Send + 'static,
        host_max: Duration,
    ) -> Result<Opened, Unopened> {
        let (mut left_behind, mut failed) = (None, Unopened::TimedOut);
        for alone in each_host(config) {
            let opening = async {
                let opened = self.open(&alone, heard.clone()).await?;
                let is_left_behind = is_left_behind(&opened.0, newest).await?;
                Ok::<_, tokio_postgres::Error>((opened, is_left_behind))
            };
            match timeout(host_max, opening).await {
                Ok(Ok((opened, false))) => return Ok(opened),
                Ok(Ok((opened, true))) => left_behind = Some(opened),
                Ok(Err(error)) => failed = Unopened::Failed(error),
                Err(_) => failed = Unopened::TimedOut,
            }
        }
        let Some(opened) = left_behind else {
            return Err(failed);
        };
        newest.lent_left_behind();
        Ok(opened)
    }

    /// Opens a connection, with the task that drives it.
    async fn open(
        &self,
        config: &Config,
        heard: impl Fn(DbError) + Send + 'static,
    ) -> Result<Opened, tokio_postgres::Error> {
        let (client, mut connection) = config.connect(self.0.clone()).await?;
        let driving = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => heard(notice),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a postgresql connection ended");
                        return;
                    }
                }
            }
        });
        Ok((client, driving))
    }

    /// What a request to cancel is encrypted with.
    pub(crate) fn connector(&self) -> MakeRustlsConnect {
        self.0.clone()
    }
}

/// Certificates that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading certificates from {}", path.display())]
pub struct TlsFault {
    path: std::path::PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}
