//! HTTP/1.1 as `sheaf import` needs it: one connection, one request at a time, retried while the server is away.
//!
//! It speaks no TLS: the server does not either, and a proxy in front of it has a plain side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longer than the server gives to a body of events, so that its own word of a deadline that passed is heard.
const ANSWER_WITHIN: Duration = Duration::from_secs(150);
/// A thousand rejections with their raw events may be long; a page of more is no answer of ours.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A restart of the database with recovery fits; what is longer needs a person, and the import can go on later.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server that asks for more is asked earlier.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A request that can be sent again.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn get(path: String) -> Call {
        Call {
            method: Method::GET,
            path,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn post(path: &str, content_type: &str, body: Vec<u8>) -> Call {
        Call {
            method: Method::POST,
            path: path.to_owned(),
            headers: vec![(CONTENT_TYPE.as_str(), content_type.to_owned())],
            body: body.into(),
        }
    }
}

/// A complete answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    retry_after: Option<Duration>,
}

impl Answer {
    /// Reads the body.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}: an answer that is not understood", self.status))
    }

    /// What the server says of its refusal.
    pub(crate) fn refusal(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Problem {
            code: String,
            detail: String,
        }
        match self.json::<Problem>() {
            Ok(problem) => format!("{} ({}): {}", self.status, problem.code, problem.detail),
            Err(_) => self.status.to_string(),
        }
    }

    /// The server is away or busy, and the same request is right later.
    fn is_passing(&self) -> bool {
        let busy_with_the_same = self.status == StatusCode::CONFLICT;
        let passing = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        busy_with_the_same || passing.contains(&self.status)
    }
}

/// Talks to one server with one key.
pub(crate) struct HttpClient {
    authority: String,
    prefix: String,
    authorization: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    pub(crate) fn new(url: &str, key: &str) -> Result<HttpClient> {
        let uri: Uri = url.parse().context("the url cannot be read")?;
        if uri.scheme_str() != Some("http") {
            bail!("the url does not begin with http://");
        }
        let host = uri.host().context("the url names no host")?;
        if uri.query().is_some()
            || uri
                .authority()
                .is_some_and(|text| text.as_str().contains('@'))
        {
            bail!("the url holds a user or a query; the key comes from a file");
        }
        Ok(HttpClient {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {key}"),
            connection: None,
        })
    }

    /// Sends until there is an answer that another try would not change. `waiting` is told each reason to wait.
    pub(crate) async fn call(
        &mut self,
        call: &Call,
        mut waiting: impl FnMut(&str),
    ) -> Result<Answer> {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let outcome = self.attempt(call).await;
            let retry_after = match &outcome {
                Ok(answer) if !answer.is_passing() => return outcome,
                Ok(answer) => answer.retry_after,
                Err(_) => None,
            };
            if begun.elapsed() > PATIENCE {
                let what = format!("no answer from {} for {PATIENCE:?}", self.authority);
                return match outcome {
                    Ok(answer) => bail!("{what}: {}", answer.refusal()),
                    Err(error) => Err(error.context(what)),
                };
            }
            match &outcome {
                Ok(answer) => waiting(&answer.refusal()),
                Err(error) => waiting(&format!("{error:#}")),
            }
            // The chance in it keeps several importers from coming back together.
            let least = retry_after.unwrap_or(pause).min(RETRY_AFTER_MAX);
            tokio::time::sleep(least + pause.mul_f64(rand::random())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&mut self, call: &Call) -> Result<Answer> {
        let exchange = tokio::time::timeout(ANSWER_WITHIN, self.exchange(call)).await;
        let outcome = match exchange {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {ANSWER_WITHIN:?}")),
        };
        if outcome.is_err() {
            self.connection = None;
        }
        outcome.with_context(|| format!("{} {}", call.method, call.path))
    }

    async fn exchange(&mut self, call: &Call) -> Result<Answer> {
        let mut connection = self.connected().await?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.prefix, call.path))
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, &self.authorization);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(call.body.clone()))?;
        let answer = connection.send_request(request).await.context("sending")?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error).context("receiving"))?;
        let retry_after = head
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        self.connection = Some(connection);
        Ok(Answer {
            status: head.status,
            body: body.to_bytes(),
            retry_after,
        })
    }

    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let stream = TcpStream::connect(&self.authority)
            .await
            .with_context(|| format!("connecting to {}", self.authority))?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; what went wrong the requests tell.
        tokio::spawn(driver);
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_without_secrets_are_taken() {
        let taken = HttpClient::new("http://[::1]:7070/sheaf/", "k").expect("taken");
        assert_eq!(
            (taken.authority.as_str(), taken.prefix.as_str()),
            ("[::1]:7070", "/sheaf")
        );
        for url in [
            "https://h",
            "h:7070",
            "http://u:p@h",
            "http://h/?key=x",
            "",
            "http://",
        ] {
            assert!(HttpClient::new(url, "k").is_err(), "{url}");
        }
    }
}
