//! Bodies on their way in: one that comes too slowly is cut off, and what a handler leaves unread is dealt with.
//!
//! In HTTP/1.1 the next request comes behind the unread remainder: it is read and thrown away, within bounds, and past them
//! the answer says that the connection ends. A client would otherwise learn it only from its next request, which fails.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use futures::Stream;
use sheaf_model::Limits;
use tokio::time::{Instant, Sleep};

use crate::state::BodyPace;

/// Bytes that are read only to be thrown away: as many as a body may have. A client that is still sending when the
/// connection closes may never see why it was refused, and most send all of a body before they look.
const BYTES_MAX: usize = Limits::DEFAULT.body_bytes_max;
/// How long such bytes may take to arrive, and so how much later a refusal may be. Longer lets refused clients hold
/// connections; shorter leaves those on slow lines without the reason.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long none of them may come: who has stopped sending waits for the answer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The end of a body that its handler may not read.
pub(crate) struct Remainder {
    body: Arc<Mutex<Lent>>,
    /// The client sends nothing before it is asked to, which reading does.
    awaits_continue: bool,
}

struct Lent {
    body: BodyDataStream,
    progress: Progress,
    pace: BodyPace,
    /// Bytes since the timer was set.
    paced_bytes: usize,
    /// Runs while the body is awaited; set at the first wait, so that time before the handler reads is not the client's.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("less than {} bytes of the body came within {:?}", _0.bytes_min, _0.within)]
pub(crate) struct TooSlow(BodyPace);

impl TooSlow {
    /// Whether this is why a body could not be read.
    pub(crate) fn is_behind(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<TooSlow>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Untouched,
    Begun,
    Ended,
    Broken,
}

impl Remainder {
    /// Gives a request a body of which what is not read stays here.
    pub(crate) fn lend(request: Request, pace: BodyPace) -> (Request, Remainder) {
        let (parts, body) = request.into_parts();
        let progress = if body.is_end_stream() {
            Progress::Ended
        } else {
            Progress::Untouched
        };
        let remainder = Remainder {
            awaits_continue: parts.headers.contains_key(header::EXPECT),
            body: Arc::new(Mutex::new(Lent {
                body: body.into_data_stream(),
                progress,
                pace,
                paced_bytes: 0,
                timer: None,
            })),
        };
        let body = match progress {
            Progress::Ended => Body::empty(),
            Progress::Untouched | Progress::Begun | Progress::Broken => {
                let lent = Arc::clone(&remainder.body);
                Body::from_stream(futures::stream::poll_fn(move |context| {
                    poll(&lent, context)
                }))
            }
        };
        (Request::from_parts(parts, body), remainder)
    }

    /// Reads what is left, within bounds. Whether another request can follow on the connection.
    pub(crate) async fn drain(self) -> bool {
        let (progress, bytes_least) = {
            let lent = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            (lent.progress, HttpBody::size_hint(&lent.body).lower())
        };
        match progress {
            Progress::Ended => return true,
            Progress::Broken => return false,
            Progress::Untouched if self.awaits_continue => return false,
            Progress::Untouched | Progress::Begun => {}
        }
        if bytes_least > BYTES_MAX as u64 {
            return false;
        }
        let drained = async {
            let mut bytes = 0;
            loop {
                let next = poll_fn(|context| poll(&self.body, context));
                let Ok(Some(Ok(chunk))) = tokio::time::timeout(PAUSE_MAX, next).await else {
                    break;
                };
                bytes += chunk.len();
                if bytes > BYTES_MAX {
                    return false;
                }
            }
            let lent = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            lent.progress == Progress::Ended
        };
        tokio::time::timeout(WAIT_MAX, drained)
            .await
            .unwrap_or(false)
    }
}

fn poll(lent: &Mutex<Lent>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
    let mut lent = lent.lock().unwrap_or_else(PoisonError::into_inner);
    if lent.progress == Progress::Ended {
        return Poll::Ready(None);
    }
    let mut polled = Pin::new(&mut lent.body).poll_next(context);
    match &polled {
        Poll::Pending if lent.poll_timer(context).is_ready() => {
            polled = Poll::Ready(Some(Err(axum::Error::new(TooSlow(lent.pace)))));
        }
        Poll::Ready(Some(Ok(chunk))) => lent.came(chunk.len()),
        Poll::Pending | Poll::Ready(_) => {}
    }
    lent.progress = match &polled {
        Poll::Pending | Poll::Ready(Some(Ok(_))) => Progress::Begun,
        Poll::Ready(Some(Err(_))) => Progress::Broken,
        Poll::Ready(None) => Progress::Ended,
    };
    polled
}

impl Lent {
    /// Ready once the body has been awaited for too long.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let within = self.pace.within;
        self.timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(within)))
            .as_mut()
            .poll(context)
    }

    fn came(&mut self, bytes: usize) {
        self.paced_bytes += bytes;
        if self.paced_bytes >= self.pace.bytes_min {
            self.paced_bytes = 0;
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(Instant::now() + self.pace.within);
            }
        }
    }
}
