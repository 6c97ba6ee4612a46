//! HTTP/1.1 as a benchmark needs it: one kept connection, one request at a time, never retried.

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection to the server of the benchmark.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    authorization: String,
}

impl Connection {
    pub(super) async fn open(authority: &str, key: &str) -> Result<Connection> {
        let stream = TcpStream::connect(authority)
            .await
            .context("connecting to the server of the benchmark")?;
        stream.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection.
        tokio::spawn(driver);
        Ok(Connection {
            sender,
            authority: authority.to_owned(),
            authorization: format!("Bearer {key}"),
        })
    }

    /// Whether another request can be sent: an answer may end its connection.
    pub(super) async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and reads the whole answer, which must be a success.
    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Bytes> {
        let (status, body) = self.exchange(method, path, kind, body).await?;
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// Sends a request and reads the whole answer, whatever it is.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let answer = self.answer(method, path, kind, body).await?;
        let (head, body) = answer.into_parts();
        Ok((head.status, body))
    }

    /// The same with what its head says.
    pub(super) async fn answer(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Response<Bytes>> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))?;
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
