//! Somebody who takes changes over HTTP as it is meant, and behaves as he is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use sheaf_model::ChangePosition;
use sheaf_testkit::ScratchDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What it does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// Takes nothing, and answers with a status.
    Answer(u16),
    /// Takes what comes, and answers with a status all the same.
    TakeAndAnswer(u16),
    /// Takes what comes, and closes the connection.
    TakeAndCut,
    /// Takes what comes, and does not answer.
    TakeAndHang,
    /// Takes nothing, and does not answer.
    Hang,
    /// Takes nothing, and says to ask there.
    Redirect(u16, SocketAddr),
    /// Takes what comes, and answers well and without end.
    TakeAndPour,
    /// The same, a byte now and nothing after.
    TakeAndTrickle,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) bytes: usize,
}

impl Came {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    /// What it answers to bodies with one of these positions, of which it takes nothing.
    refuses: BTreeMap<String, u16>,
    manners: VecDeque<Manner>,
    requests: Vec<Came>,
    connections: usize,
    poured: usize,
    /// Which snapshot its changes are beside.
    base: Option<ChangePosition>,
    known: BTreeSet<ChangePosition>,
    lines: Vec<Value>,
}

impl State {
    /// What is known is recognised by its position; what is of a base before is not looked at any more.
    fn take(&mut self, text: &str) {
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let base = position(&line["source"]["base"]);
            if Some(base) > self.base {
                self.base = Some(base);
                self.known.clear();
                self.lines.clear();
            }
            let is_change = line["op"] != "t" && Some(base) == self.base;
            if is_change && self.known.insert(position(&line["source"]["position"])) {
                self.lines.push(line);
            }
        }
    }
}

fn position(text: &Value) -> ChangePosition {
    let text = text.as_str().expect("a position");
    text.parse().expect("a position")
}

/// The receiver.
pub(crate) struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn start(address: &str) -> Result<Receiver> {
        Receiver::listen(address, None).await
    }

    /// Encrypted, with a certificate of this name, which is given back.
    pub(crate) async fn start_encrypted(name: &str) -> Result<(Receiver, Vec<u8>)> {
        let dir = ScratchDir::new("receiver")?;
        let (key, certificate) = (dir.path().join("key"), dir.path().join("certificate"));
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", &format!("/CN={name}")])
            .args(["-addext", &format!("subjectAltName=DNS:{name}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout".as_ref(), key.as_os_str()])
            .args(["-out".as_ref(), certificate.as_os_str()])
            .output()
            .context("starting openssl")?;
        ensure!(made.status.success(), "{made:?}");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&certificate)?],
                PrivateKeyDer::from_pem_file(&key)?,
            )?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let receiver = Receiver::listen("127.0.0.1:0", Some(acceptor)).await?;
        Ok((receiver, std::fs::read(certificate)?))
    }

    async fn listen(address: &str, acceptor: Option<TlsAcceptor>) -> Result<Receiver> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let of_task = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, acceptor) = (Arc::clone(&of_task), acceptor.clone());
                locked(&state).connections += 1;
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, state).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Receiver {
            address,
            state,
            task,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does with the next requests; with those after them it does as it should.
    pub(crate) fn behave(&self, manners: impl IntoIterator<Item = Manner>) {
        locked(&self.state).manners = manners.into_iter().collect();
    }

    /// Answers bodies with a change at this position by a status, and takes nothing of them.
    pub(crate) fn refuse(&self, position: ChangePosition, status: u16) {
        locked(&self.state)
            .refuses
            .insert(format!("\"position\":\"{position}\""), status);
    }

    pub(crate) fn refuse_nothing(&self) {
        locked(&self.state).refuses.clear();
    }

    pub(crate) fn requests(&self) -> Vec<Came> {
        locked(&self.state).requests.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        locked(&self.state).connections
    }

    /// Bytes of endless answers that were asked for.
    pub(crate) fn poured(&self) -> usize {
        locked(&self.state).poured
    }

    /// The positions of its changes, in the order in which they came first.
    pub(crate) fn positions(&self) -> Vec<ChangePosition> {
        let state = locked(&self.state);
        let lines = state.lines.iter();
        lines
            .map(|line| position(&line["source"]["position"]))
            .collect()
    }

    pub(crate) fn stream_positions(&self) -> Vec<ChangePosition> {
        let state = locked(&self.state);
        let lines = state.lines.iter().filter(|line| line["op"] != "r");
        lines
            .map(|line| position(&line["source"]["position"]))
            .collect()
    }

    pub(crate) fn of_table(&self, table: &str) -> Vec<Value> {
        let state = locked(&self.state);
        let lines = state.lines.iter();
        lines
            .filter(|line| line["source"]["table"] == table)
            .cloned()
            .collect()
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("not poisoned")
}

async fn serve<S>(stream: S, state: Arc<Mutex<State>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| answer(request, Arc::clone(&state)));
    // It ends with the connection, or where the receiver closes it.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

#[derive(Debug, thiserror::Error)]
#[error("the receiver closes the connection")]
struct Closed;

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Either<Full<Bytes>, Endless>>, Closed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let text = String::from_utf8(body.to_vec()).expect("text");
    let manner = {
        let mut state = locked(&state);
        let headers = head.headers.iter();
        let refused = state.refuses.iter().find(|(of, _)| text.contains(*of));
        let refused = refused.map(|(_, status)| Manner::Answer(*status));
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        state.requests.push(Came {
            path: head.uri.path().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                .collect(),
            bytes: body.len(),
        });
        refused.or_else(|| state.manners.pop_front())
    };
    let mut answer = Response::new(Either::Left(Full::default()));
    let takes = !matches!(
        manner,
        Some(Manner::Answer(_) | Manner::Hang | Manner::Redirect(..))
    );
    if takes {
        locked(&state).take(&text);
    }
    let status = |status: u16| status.try_into().expect("a status");
    match manner {
        None => {}
        Some(Manner::Answer(code) | Manner::TakeAndAnswer(code)) => {
            *answer.status_mut() = status(code);
        }
        Some(Manner::TakeAndCut) => return Err(Closed),
        Some(Manner::Hang | Manner::TakeAndHang) => std::future::pending().await,
        Some(Manner::Redirect(code, there)) => {
            *answer.status_mut() = status(code);
            let there = format!("http://{there}/").parse().expect("a header");
            answer.headers_mut().insert("location", there);
        }
        Some(Manner::TakeAndPour) => {
            *answer.body_mut() = Either::Right(Endless {
                state,
                is_slow: false,
            });
        }
        Some(Manner::TakeAndTrickle) => {
            *answer.body_mut() = Either::Right(Endless {
                state,
                is_slow: true,
            });
        }
    }
    Ok(answer)
}

/// A body that does not end.
struct Endless {
    state: Arc<Mutex<State>>,
    is_slow: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = locked(&self.state);
        if self.is_slow && state.poured > 0 {
            return Poll::Pending;
        }
        let bytes = if self.is_slow { 1 } else { 8192 };
        state.poured += bytes;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; bytes].into()))))
    }
}
