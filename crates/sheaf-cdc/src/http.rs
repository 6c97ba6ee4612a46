//! A sink that is somebody's URL: changes are posted there in Debezium's form, a line each.
//!
//! At least once: what was answered by a success is held, and what was not is posted again. Whoever gets a change twice knows it
//! by its position, and a request that is repeated by its key. What the receiver holds only the receiver knows, so that what was
//! stored of it counts. A change that the receiver refuses for what it is, alone in its request, is refused. Where the addresses of the URL may lead is decided in `address`.

mod address;
mod client;
mod target;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use sheaf_model::{ChangePosition, Network};

use crate::change::{Batch, Progress};
use crate::column::hex;
use crate::envelope::{begin_lines, line};
use crate::letter::{Letter, LetterReason, Refusal};
use crate::sink::{Held, Sink, SinkError, SinkFuture};
pub use client::{Addresses, CertificatesFault, Resolve, SystemResolver, Trust};
use client::{Client, HttpFault};
pub use target::{Headers, HeadersFault, Target, TargetFault};

/// The header that tells a repeated request: the same for the same body.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header with the position of the last change of a request.
const POSITION: &str = "x-change-position";

/// A body is at most so long, but for a single change that is longer: common servers refuse a megabyte.
const BODY_BYTES_MAX: usize = 512 << 10;

/// Where a sink posts to, and how.
pub struct HttpOptions {
    /// The URL.
    pub target: Target,
    /// What each request has besides.
    pub headers: Headers,
    /// Networks that may be called although they are not of the public network, and without encryption.
    pub allowed: Vec<Network>,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// How long a request may take. Less than a sink may take for a batch, which is several.
    pub deadline: Duration,
    /// Who tells what the URL's name leads to.
    pub resolver: Arc<dyn Resolve>,
}

impl std::fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpOptions({:?})", self.target)
    }
}

/// The sink.
pub struct HttpSink {
    name: String,
    client: Client,
    /// What was answered by a success; absent before it is known which snapshot that is of.
    progress: Option<Progress>,
    /// How far it is once what was refused has been kept, which is when it is called again.
    after_refused: Option<Progress>,
    refused: Vec<Refusal>,
}

/// A change as it is posted, and how far the receiver is with it.
struct Line {
    position: ChangePosition,
    text: String,
    with_it: Progress,
}

impl HttpSink {
    /// Posts as the options say.
    pub fn new(name: impl Into<String>, options: HttpOptions) -> HttpSink {
        HttpSink {
            name: name.into(),
            client: Client::new(options),
            progress: None,
            after_refused: None,
            refused: Vec::new(),
        }
    }

    fn fault(&self, source: Box<dyn std::error::Error + Send + Sync>) -> SinkError {
        SinkError {
            sink: self.name.clone(),
            step: "posting changes",
            source,
        }
    }

    /// How far it is, asked when it is called: what it has refused is kept by now.
    fn require_progress(&mut self) -> Result<Progress, SinkError> {
        self.progress = self.after_refused.take().or(self.progress);
        let known = self.progress;
        known.ok_or_else(|| self.fault("the sink was not told where it goes on".into()))
    }

    async fn post(&mut self, lines: String, last: ChangePosition) -> Result<(), HttpFault> {
        let key = hex(&Sha256::digest(lines.as_bytes()));
        let header = |text: &str| {
            HeaderValue::from_str(text).expect("invariant: keys and positions are plain text")
        };
        let headers = [
            (HeaderName::from_static(IDEMPOTENCY_KEY), header(&key)),
            (HeaderName::from_static(POSITION), header(&last.to_string())),
        ];
        self.client.post(&Bytes::from(lines), &headers).await
    }

    /// Posts a batch in bodies of bounded size. What one of them was answered by is kept whatever comes of the next. A body that is
    /// refused for what is in it is posted in halves, and what is refused alone is refused.
    async fn post_batch(&mut self, batch: &Batch) -> Result<Progress, SinkError> {
        let mut held = self.require_progress()?;
        let mut progress = held;
        let (mut bodies, mut body, mut bytes) = (VecDeque::new(), Vec::new(), 0);
        for change in &batch.changes {
            if progress.holds(batch.origin, change.position) {
                continue;
            }
            progress.advance(batch.origin, change.position);
            let text = line(change, batch.origin, &progress);
            if !body.is_empty() && bytes + text.len() >= BODY_BYTES_MAX {
                bodies.push_back(std::mem::take(&mut body));
                bytes = 0;
            }
            bytes += text.len() + 1;
            body.push(Line {
                position: change.position,
                text,
                with_it: progress,
            });
        }
        bodies.push_back(body);
        while let Some(mut body) = bodies.pop_front() {
            let Some(last) = body.last() else { continue };
            let (position, with_it) = (last.position, last.with_it);
            let lines = body.iter().flat_map(|line| [line.text.as_str(), "\n"]);
            match self.post(lines.collect(), position).await {
                Ok(()) => {}
                Err(fault) if !is_of_body(&fault) => return Err(self.fault(Box::new(fault))),
                Err(_) if body.len() > 1 => {
                    let rest = body.split_off(body.len() / 2);
                    bodies.push_front(rest);
                    bodies.push_front(body);
                    continue;
                }
                Err(fault) => self.refused.push(refusal(position, &fault)),
            }
            if self.refused.is_empty() {
                held = with_it;
                self.progress = Some(held);
            }
        }
        if !self.refused.is_empty() {
            self.after_refused = Some(progress);
        }
        Ok(held)
    }
}

/// Whether the receiver says that it will not take a body for what is in it or how long it is.
fn is_of_body(fault: &HttpFault) -> bool {
    matches!(
        fault,
        HttpFault::Failed(StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY)
    )
}

/// Whether the receiver refuses what it is posted, and not who posts it or when.
fn is_refusal(fault: &HttpFault) -> bool {
    match fault {
        HttpFault::Failed(status) => {
            let is_passing = matches!(
                *status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            );
            status.is_client_error() && !is_passing
        }
        _ => false,
    }
}

fn refusal(position: ChangePosition, fault: &HttpFault) -> Refusal {
    Refusal {
        position,
        reason: LetterReason::Refused,
        detail: fault.to_string(),
    }
}

impl Sink for HttpSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async { Ok(Held::Untracked) })
    }

    /// What this process has seen answered since that was stored is not posted again.
    fn resume(&mut self, from: Progress) {
        // What was refused and not kept is posted again.
        self.after_refused = None;
        self.refused.clear();
        let known = self.progress.filter(|known| known.base == from.base);
        self.progress = Some(known.map_or(from, |known| Progress {
            base: from.base,
            snapshot: known.snapshot.max(from.snapshot),
            stream: known.stream.max(from.stream),
        }));
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        Box::pin(async move {
            (self.progress, self.after_refused) = (None, None);
            self.refused.clear();
            let posted = self.post(begin_lines(base), base).await;
            posted.map_err(|fault| self.fault(Box::new(fault)))?;
            self.progress = Some(Progress::begun(base));
            Ok(())
        })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(self.post_batch(batch))
    }

    fn take_refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused)
    }

    /// Each is a request.
    fn letters_max(&self) -> usize {
        1
    }

    /// Each in a request of its own, whose position is the letter's: it is no further than what was posted before.
    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        Box::pin(async move {
            let progress = self.require_progress()?;
            let mut refused = Vec::new();
            for letter in letters {
                let position = letter.change.position;
                let mut lines = line(&letter.change, letter.origin, &progress);
                lines.push('\n');
                match self.post(lines, position).await {
                    Ok(()) => {}
                    Err(fault) if is_refusal(&fault) => refused.push(refusal(position, &fault)),
                    Err(fault) => return Err(self.fault(Box::new(fault))),
                }
            }
            Ok(refused)
        })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let held = self.require_progress();
        Box::pin(async move { held })
    }
}
