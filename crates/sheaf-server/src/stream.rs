//! Streams: whole lists and histories instead of their pages, in a form that files have.
//!
//! A stream is page after page of the same query, each in a short transaction of its own, read when the client has taken
//! what was before: nothing is buffered beside one page, and no snapshot is held while a client thinks. So a stream is not
//! one instant's state: what changes meanwhile is seen as a reader of pages sees it, but no page is older than the one
//! before. A client that leaves takes everything with it, also the query that is running for it; an error after the
//! beginning closes the connection without the last chunk.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::try_unfold;
use sheaf_export::{ExportError, File};
use sheaf_model::Timestamp;
use sheaf_query::{ReadError, ReadOptions};
use sheaf_store::TenantScope;
use tokio::time::timeout;
use tracing::Instrument;

use crate::freshness::read_headers;
use crate::params::Params;
use crate::problem::{Code, Problem, chain};
use crate::state::AppState;

mod form;
mod quota;
mod row;
mod source;

pub(crate) use form::{Form, form_of};
pub(crate) use quota::{StreamPermit, Streams};
pub(crate) use row::{Item, Layout};
pub(crate) use source::{Of, Source};

/// The counter of streams by how they ended: `completed`, `abandoned` by the client, or `failed`.
pub const STREAMS_TOTAL: &str = "sheaf_streams_total";
/// The gauge of streams that are running.
pub const STREAMS_RUNNING: &str = "sheaf_streams_running";

const LIMITS: &str = "a number greater than 0";

/// How a stream is written.
enum Writing {
    Ndjson,
    File(Box<Layout>, File),
}

/// A stream under way.
struct Stream {
    state: Arc<AppState>,
    scope: TenantScope,
    source: Source,
    options: ReadOptions,
    writing: Writing,
    /// Items that are still wanted; absent for all.
    left: Option<u64>,
    is_last: bool,
    ending: Ending,
    permit: StreamPermit,
}

/// A stream that cannot go on. The log has been told.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("reading the next page of a stream")]
    Read(#[source] ReadError),
    #[error("writing a stream")]
    Write(#[from] ExportError),
    #[error("writing a line of a stream")]
    Line(#[from] serde_json::Error),
}

/// Begins a stream. What can be wrong with the query is found here, before the answer's head is sent.
pub(crate) async fn respond(
    (state, streams, scope): (Arc<AppState>, Arc<Streams>, TenantScope),
    form: Form,
    source: Source,
    options: ReadOptions,
    limit: Option<u64>,
) -> Result<Response, Problem> {
    let permit = streams.open(scope.tenant())?;
    let mut stream = Stream {
        state,
        scope,
        source,
        options,
        writing: Writing::Ndjson,
        left: limit,
        is_last: false,
        ending: Ending::Abandoned,
        permit,
    };
    let (items, headers) = match stream.read().await {
        Ok(Some(first)) => first,
        Ok(None) => {
            stream.ending = Ending::Completed;
            return Ok(Problem::not_found().into_response());
        }
        Err(error) => {
            stream.ending = Ending::Failed;
            return Err(error.into());
        }
    };
    if let Some(format) = form.file() {
        let catalogue = stream.state.catalogues.current(&stream.scope).await?;
        let layout = stream.source.layout(&catalogue)?;
        let file = File::begin(format, layout.columns().to_vec()).map_err(Problem::internal)?;
        stream.writing = Writing::File(Box::new(layout), file);
    }
    let first = stream.written(&items).map_err(Problem::internal)?;
    let body = Body::from_stream(try_unfold((stream, Some(first)), advance));
    let mut response = (headers, body).into_response();
    let kind = HeaderValue::from_static(form.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// The next piece of a stream, the first of which is there already.
async fn advance(
    (mut stream, first): (Stream, Option<Vec<u8>>),
) -> Result<Option<(Bytes, (Stream, Option<Vec<u8>>))>, Broken> {
    let bytes = match first {
        Some(first) => first,
        None if stream.is_last => {
            stream.ending = Ending::Completed;
            return Ok(None);
        }
        None => stream.next().await?,
    };
    Ok(Some((Bytes::from(bytes), (stream, None))))
}

impl Stream {
    /// The next page's items. Nothing where there is no such entity.
    async fn read(&mut self) -> Result<Option<(Vec<Item>, HeaderMap)>, ReadError> {
        let turn = self.permit.turn().await;
        // Cursors expire by the time of the request that they come with.
        self.options.now = Timestamp::now();
        let reader = &self.state.reader;
        let page = self
            .source
            .next(reader, &self.scope, &self.options, self.left);
        // What is given up here is cancelled in the database too.
        let page = timeout(self.permit.page_deadline(), page).await;
        drop(turn);
        let page = page.unwrap_or(Err(ReadError::QueryLimit {
            detail: "time of a page of a stream; narrow the filter or the range",
            source: None,
        }));
        let Some(page) = page? else {
            return Ok(None);
        };
        // No page may come from a source that is behind the page before it.
        self.options.token = Some(page.freshness.position);
        let headers = read_headers(&page.freshness, self.scope.tenant(), &self.state);
        let taken = u64::try_from(page.value.len()).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(taken));
        self.is_last = self.source.is_at_end() || self.left == Some(0);
        Ok(Some((page.value, headers)))
    }

    /// The bytes of the next page.
    async fn next(&mut self) -> Result<Vec<u8>, Broken> {
        let span = tracing::info_span!("stream", tenant = %self.scope.tenant());
        let bytes = async {
            // An entity cannot vanish: a deleted one keeps its history.
            let items = self.read().await.map_err(Broken::Read)?;
            let items = items.map(|(items, _)| items).unwrap_or_default();
            self.written(&items)
        };
        let bytes = bytes.instrument(span).await;
        if let Err(error) = &bytes {
            self.ending = Ending::Failed;
            let cause = chain(error);
            tracing::warn!(tenant = %self.scope.tenant(), cause, "a stream was cut off");
        }
        bytes
    }

    fn written(&mut self, items: &[Item]) -> Result<Vec<u8>, Broken> {
        match &mut self.writing {
            Writing::Ndjson => {
                let mut bytes = Vec::new();
                for item in items {
                    item.write_line(&mut bytes)?;
                }
                Ok(bytes)
            }
            Writing::File(layout, file) => {
                let rows: Vec<_> = items.iter().map(|item| layout.row(item)).collect();
                file.write(&rows)?;
                if self.is_last {
                    file.finish()?;
                }
                Ok(file.take())
            }
        }
    }
}

/// How a stream ended, as its counter names it.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Completed,
    Abandoned,
    Failed,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let result = match self.ending {
            Ending::Completed => "completed",
            Ending::Abandoned => "abandoned",
            Ending::Failed => "failed",
        };
        metrics::counter!(STREAMS_TOTAL, "result" => result).increment(1);
    }
}

/// Takes the number of items of a stream: any, absent for all.
pub(crate) fn take_limit(params: &mut Params) -> Result<Option<u64>, Problem> {
    let limit = params.take_as("limit", LIMITS, |text| text.parse().ok())?;
    check_limit(limit)
}

/// The same of one that came in a body.
pub(crate) fn check_limit(limit: Option<u64>) -> Result<Option<u64>, Problem> {
    match limit {
        Some(0) => Err(Problem::invalid("limit", format!("expected {LIMITS}"))),
        limit => Ok(limit),
    }
}

/// Refuses what only pages have.
pub(crate) fn refuse_of_pages(parameter: &str, is_given: bool) -> Result<(), Problem> {
    if is_given {
        return Err(Problem::parameter(
            Code::InvalidParameter,
            parameter,
            "belongs to pages, which are application/json",
        ));
    }
    Ok(())
}
