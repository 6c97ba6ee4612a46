//! HTTP/1.1 as a test needs it: one connection a request, the whole answer or an error.
//!
//! An answer that was cut off is an error and never a shorter body, as tests of crashes must tell the two apart.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RESPONSE_BYTES_MAX: usize = 256 << 20;
const WITHIN: Duration = Duration::from_secs(60);

/// Talks to one server, as one holder of a key.
#[derive(Debug, Clone)]
pub struct HttpClient {
    authority: String,
    key: Option<String>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// Without transfer coding; a content coding is left as it is.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// The first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages too.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, no JSON: {}", self.status, self.text()))
    }
}

impl HttpClient {
    /// `base` is `http://host:port`.
    pub fn new(base: &str) -> Result<Self> {
        let authority = base
            .strip_prefix("http://")
            .context("the base starts with http://")?
            .trim_end_matches('/');
        Ok(HttpClient {
            authority: authority.to_owned(),
            key: None,
        })
    }

    /// The same server, with this key as bearer token.
    pub fn with_key(&self, key: &str) -> Self {
        HttpClient {
            authority: self.authority.clone(),
            key: Some(key.to_owned()),
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<HttpResponse> {
        self.request("GET", path, &[], b"").await
    }

    /// POST of a body of this type.
    pub async fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Result<HttpResponse> {
        self.request("POST", path, &[("content-type", content_type)], body)
            .await
    }

    /// Any method, with further headers.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<HttpResponse> {
        let head = self.head(method, path, headers, body.len());
        let answer = tokio::time::timeout(WITHIN, self.exchange(&head, body))
            .await
            .with_context(|| format!("{method} {path}: no answer within {WITHIN:?}"))?
            .with_context(|| format!("{method} {path}"))?;
        parse(&answer, method == "HEAD").with_context(|| format!("{method} {path}"))
    }

    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.authority);
        head.push_str(&format!(
            "connection: close\r\ncontent-length: {length}\r\n"
        ));
        if let Some(key) = &self.key {
            head.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    async fn exchange(&self, head: &str, body: &[u8]) -> Result<Vec<u8>> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .context("connect")?;
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(body).await
        };
        let mut answer = Vec::new();
        let receive = async {
            let limit = RESPONSE_BYTES_MAX as u64;
            (&mut reader).take(limit).read_to_end(&mut answer).await
        };
        // A server may refuse a large body before it has read it all, and the refusal is the answer.
        let (sent, received) = tokio::join!(send, receive);
        if answer.is_empty() {
            sent.context("send")?;
            received.context("receive")?;
        }
        ensure!(answer.len() < RESPONSE_BYTES_MAX, "the answer is too large");
        Ok(answer)
    }
}

/// Everything that came on one connection, which the server closed after one answer.
fn parse(mut answer: &[u8], head_only: bool) -> Result<HttpResponse> {
    loop {
        let (status, headers, rest) = parse_head(answer)?;
        if (100..200).contains(&status) {
            answer = rest;
            continue;
        }
        let mut response = HttpResponse {
            status,
            headers,
            body: Vec::new(),
        };
        let no_body = head_only || status == 204 || status == 304;
        if !no_body {
            response.body = parse_body(&response, rest)?;
        }
        return Ok(response);
    }
}

type Headers = Vec<(String, String)>;

fn parse_head(answer: &[u8]) -> Result<(u16, Headers, &[u8])> {
    let end = find(answer, b"\r\n\r\n").context("the answer ends within its head")?;
    let head = std::str::from_utf8(&answer[..end]).context("the head is text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .with_context(|| format!("no status line: {head}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').context("a header has a colon")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok((status, headers, &answer[end + 4..]))
}

fn parse_body(response: &HttpResponse, rest: &[u8]) -> Result<Vec<u8>> {
    if response.header("transfer-encoding") == Some("chunked") {
        return unchunk(rest);
    }
    let length: usize = response
        .header("content-length")
        .context("the answer has no length, so its end cannot be told")?
        .parse()?;
    ensure!(
        rest.len() == length,
        "the body has {} of {length} bytes",
        rest.len()
    );
    Ok(rest.to_vec())
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n").context("the answer ends before its last chunk")?;
        let size = std::str::from_utf8(&rest[..end])?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk has a size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size.saturating_add(2) {
            bail!("the answer ends within a chunk");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_interim_answers_passed_over() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n\
            3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let response = parse(answer, false).expect("complete");
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-a"), Some("b"));
        assert_eq!(response.text(), "abcde");
    }

    #[test]
    fn a_cut_off_answer_is_an_error_at_every_byte() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            assert!(parse(answer, false).is_ok());
            for length in 0..answer.len() {
                let cut = parse(&answer[..length], false);
                assert!(cut.is_err(), "{length} bytes");
            }
        }
    }
}
