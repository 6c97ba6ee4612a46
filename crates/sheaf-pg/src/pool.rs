//! Pools of connections, one for each role, so that no kind of work can use up another's.

use std::future::poll_fn;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::PgError;

/// How long a request waits for a connection before it is told that the service is overloaded. Longer only
/// moves the queue from clients, who can back off, to the server, which cannot.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
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
        let role = config.get_user().unwrap_or("the default user").to_owned();
        let mut config = config.clone();
        config.application_name(format!("sheaf {role}"));
        limit_patience(&mut config);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(config.clone(), tls.0.clone(), recycling);
        let inner = deadpool_postgres::Pool::builder(manager)
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .build()
            .expect("a runtime is given, the one thing that the builder asks for");
        Pool {
            inner,
            role,
            config,
            tls: tls.clone(),
        }
    }

    /// A further pool of the same role, for work that must not wait for this one's connections, nor they for it.
    pub fn beside(&self, connections_max: usize) -> Pool {
        Pool::new(&self.config, connections_max, &self.tls)
    }

    /// A connection, waiting a bounded time for one.
    pub async fn get(&self) -> Result<Connection, PgError> {
        self.inner.get().await.map_err(|source| PgError::Connect {
            role: self.role.clone(),
            source: Box::new(source),
        })
    }

    /// A connection as the pool's are, of its own: it does not wait for the pool's, nor they for it.
    pub async fn connect_apart(&self) -> Result<tokio_postgres::Client, PgError> {
        self.tls.connect(&self.config).await
    }

    /// How the pool's connections are made, for one that must stand outside it.
    pub(crate) fn origin(&self) -> (&Config, &Tls) {
        (&self.config, &self.tls)
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

fn limit_patience(config: &mut Config) {
    config
        .connect_timeout(CONNECT_MAX)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX);
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
        Ok(Tls::trusting(roots))
    }

    /// Trusts nobody: for sockets, and for servers without TLS.
    pub fn none() -> Tls {
        Tls::trusting(rustls::RootCertStore::empty())
    }

    fn trusting(roots: rustls::RootCertStore) -> Tls {
        // The provider is named, because two may be linked and neither is then the default.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring serves the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls(MakeRustlsConnect::new(config))
    }

    /// Connects once, outside any pool; the task that drives the connection ends with it.
    pub async fn connect(&self, config: &Config) -> Result<tokio_postgres::Client, PgError> {
        self.connect_hearing(config, |notice| tracing::debug!(%notice, "postgresql says"))
            .await
    }

    /// As [`Tls::connect`], and passes on what the server says beside its answers: each notice before the answer
    /// to the statement that it belongs to.
    pub(crate) async fn connect_hearing(
        &self,
        config: &Config,
        heard: impl Fn(DbError) + Send + 'static,
    ) -> Result<tokio_postgres::Client, PgError> {
        let role = config.get_user().unwrap_or("the default user").to_owned();
        let mut config = config.clone();
        limit_patience(&mut config);
        let (client, mut connection) =
            config
                .connect(self.0.clone())
                .await
                .map_err(|source| PgError::Connect {
                    role,
                    source: Box::new(source),
                })?;
        tokio::spawn(async move {
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
        Ok(client)
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
