//! Pools of connections, one for each role, so that no kind of work can use up another's.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::PgError;

/// How long a request waits for a connection before it is told that the service is overloaded. Longer only
/// moves the queue from clients, who can back off, to the server, which cannot.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Connections of one role to one database.
#[derive(Clone)]
pub struct Pool {
    inner: deadpool_postgres::Pool,
    role: String,
}

/// A connection from a pool; it goes back when dropped.
pub type Connection = deadpool_postgres::Object;

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
        config.connect_timeout(CONNECT_MAX);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(config, tls.0.clone(), recycling);
        let inner = deadpool_postgres::Pool::builder(manager)
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .build()
            .expect("a runtime is given, the one thing that the builder asks for");
        Pool { inner, role }
    }

    /// A connection, waiting a bounded time for one.
    pub async fn get(&self) -> Result<Connection, PgError> {
        self.inner.get().await.map_err(|source| PgError::Connect {
            role: self.role.clone(),
            source: Box::new(source),
        })
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
        let role = config.get_user().unwrap_or("the default user").to_owned();
        let mut config = config.clone();
        config.connect_timeout(CONNECT_MAX);
        let (client, connection) =
            config
                .connect(self.0.clone())
                .await
                .map_err(|source| PgError::Connect {
                    role,
                    source: Box::new(source),
                })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a postgresql connection ended");
            }
        });
        Ok(client)
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
