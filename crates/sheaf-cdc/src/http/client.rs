//! One request at a time to one place, over a connection to an address that was judged.
//!
//! A name is asked for its addresses once a connection, and the connection is made to one of those that were judged: nobody
//! asks again in between, so that there is nothing for a second answer to change. A redirect is an answer like others that are
//! not a success; where it leads is not looked at.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sheaf_pg::trusting;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::HttpOptions;
use super::address::{AddressRefusal, judge};
use super::target::Target;

/// How long one address may take to be connected to, so that the next one has its turn.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// What an answer may hold before its connection is given up: nothing of it is needed.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long the rest of an answer may take for its connection to be used again.
const REST_MAX: Duration = Duration::from_secs(1);
/// The head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Why a request was not answered by a success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpFault {
    /// The name leads nowhere.
    #[error("looking up {host}")]
    Unknown {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It leads only to what is not called.
    #[error("{host} is not called")]
    Refused {
        /// The name.
        host: String,
        /// Why, of the first of its addresses.
        #[source]
        source: AddressRefusal,
    },
    /// It leads to nobody who answers.
    #[error("connecting to {address}")]
    Unreached {
        /// The last address that was tried.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Who answers has no certificate of the name.
    #[error("encrypting the connection to {host}")]
    Unencrypted {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or what came is no answer.
    #[error("sending a request")]
    Broken(#[from] hyper::Error),
    /// The answer is somewhere else, where nobody looks.
    #[error("the answer is {0}, and redirects are not followed")]
    Redirected(StatusCode),
    /// The answer is no success.
    #[error("the answer is {0}")]
    Failed(StatusCode),
    /// All of it took too long.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// What a name leads to.
pub type Addresses<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Tells what names lead to.
pub trait Resolve: Send + Sync {
    /// The addresses of a name, or the address that it is.
    fn resolve<'a>(&'a self, host: &'a str) -> Addresses<'a>;
}

/// As the machine resolves names.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// A text that is no certificates.
#[derive(Debug, thiserror::Error)]
#[error("reading certificates")]
pub struct CertificatesFault(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Whose certificates are trusted.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// The public authorities.
    pub fn public() -> Trust {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        Trust::of(roots.collect())
    }

    /// These certificates (PEM), and no others.
    pub fn only(certificates: &[u8]) -> Result<Trust, CertificatesFault> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(certificates) {
            let certificate = certificate.map_err(|error| CertificatesFault(Box::new(error)))?;
            let added = roots.add(certificate);
            added.map_err(|error| CertificatesFault(Box::new(error)))?;
        }
        if roots.is_empty() {
            return Err(CertificatesFault("there is none".into()));
        }
        Ok(Trust::of(roots))
    }

    fn of(roots: RootCertStore) -> Trust {
        Trust(Arc::new(trusting(roots)))
    }
}

/// A connection, and the task that drives it, which ends with it.
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer of which the head has come.
struct Answered {
    answer: Response<Incoming>,
    connection: Connection,
}

/// Posts to one place.
pub(crate) struct Client {
    options: HttpOptions,
    connection: Option<Connection>,
}

impl Client {
    pub(crate) fn new(options: HttpOptions) -> Client {
        Client {
            options,
            connection: None,
        }
    }

    /// Posts once, or twice where a connection that was used before had been closed meanwhile: whoever got both knows them by
    /// their key. Succeeds with an answer of success.
    pub(crate) async fn post(
        &mut self,
        body: &Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(), HttpFault> {
        let deadline = self.options.deadline;
        let exchange = async {
            if let Some(used) = self.connection.take()
                && let Ok(answered) = self.exchange(used, body, headers).await
            {
                return Ok(answered);
            }
            let new = self.connect().await?;
            self.exchange(new, body, headers).await
        };
        let answered = timeout(deadline, exchange)
            .await
            .map_err(|_| HttpFault::Silent(deadline))??;
        let status = answered.answer.status();
        // The receiver has said what it has to: the deadline is no matter of the rest.
        if rest_is_short(answered.answer).await {
            self.connection = Some(answered.connection);
        }
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(HttpFault::Redirected(status))
        } else {
            Err(HttpFault::Failed(status))
        }
    }

    /// One request over a connection.
    async fn exchange(
        &self,
        mut connection: Connection,
        body: &Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answered, HttpFault> {
        connection.requests.ready().await?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.options.target.path.clone();
        let to = request.headers_mut();
        to.extend(self.options.headers.0.clone());
        to.insert(HOST, self.options.target.authority.clone());
        to.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        for (name, value) in headers {
            to.insert(name.clone(), value.clone());
        }
        let answer = connection.requests.send_request(request).await?;
        Ok(Answered { answer, connection })
    }

    /// Connects to an address of the target that may be called.
    async fn connect(&self) -> Result<Connection, HttpFault> {
        let stream = self.open().await?;
        if !self.options.target.is_encrypted {
            return handshake(stream).await;
        }
        let host = &self.options.target.host;
        let unencrypted = |source| HttpFault::Unencrypted {
            host: host.clone(),
            source,
        };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|error| unencrypted(io::Error::other(error)))?;
        let connector = TlsConnector::from(Arc::clone(&self.options.trust.0));
        let stream = connector.connect(name, stream).await;
        handshake(stream.map_err(unencrypted)?).await
    }

    async fn open(&self) -> Result<TcpStream, HttpFault> {
        let Target {
            host,
            port,
            is_encrypted,
            ..
        } = &self.options.target;
        let unknown = |source| HttpFault::Unknown {
            host: host.clone(),
            source,
        };
        let found = self.options.resolver.resolve(host).await;
        let mut fault = None;
        for address in found.map_err(unknown)?.into_iter().take(ADDRESSES_MAX) {
            let address = match judge(address, *is_encrypted, &self.options.allowed) {
                Ok(address) => SocketAddr::new(address, *port),
                Err(source) => {
                    let host = host.clone();
                    fault.get_or_insert(HttpFault::Refused { host, source });
                    continue;
                }
            };
            let connected = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok(stream),
                Err(source) => fault = Some(HttpFault::Unreached { address, source }),
            }
        }
        Err(fault.unwrap_or_else(|| unknown(io::ErrorKind::NotFound.into())))
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, HttpFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // What went wrong with it the requests tell.
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { requests, driver })
}

/// Reads what is left of an answer, if that is not much.
async fn rest_is_short(answer: Response<Incoming>) -> bool {
    let rest = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    matches!(timeout(REST_MAX, rest).await, Ok(Ok(_)))
}
