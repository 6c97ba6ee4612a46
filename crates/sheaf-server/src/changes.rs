//! Following changes: the events of a tenant as server-sent events, from a token on, for as long as the client stays.
//!
//! They come from the journal that this server keeps while it follows the change stream. The id of an event is a consistency
//! token: whoever goes on from it is sent everything again that it may have missed.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream::try_unfold;
use sheaf_cdc::journal::{Journal, Kept};
use sheaf_cdc::status::StreamStatus;
use sheaf_model::{Lineage, Lsn, Position, Timestamp};
use sheaf_query::{ConsistencyLevel, Lag, ReadError};
use tokio::sync::watch;

use crate::auth::Caller;
use crate::freshness::{current_position, position_of, put, token_header};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::{AppState, Shared};

mod places;
mod subscription;

pub(crate) use places::Places;
pub use subscription::{
    SUBSCRIPTION_EVENTS_LEFT_OUT_TOTAL, SUBSCRIPTIONS_RUNNING, SUBSCRIPTIONS_TOTAL,
};

use subscription::Subscription;

/// Where changes are.
pub(crate) const PATH: &str = "/v1/changes";
const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a server that follows changes has of them.
#[derive(Debug, Clone)]
pub struct ChangeFeed {
    /// The journal.
    pub journal: Journal,
    /// The name of the sink that writes it.
    pub sink: &'static str,
    /// How the change stream is.
    pub status: watch::Receiver<StreamStatus>,
    /// Tells when the server is about to stop.
    pub stop: watch::Receiver<bool>,
}

impl ChangeFeed {
    /// What can be read, where this server follows the change stream at this moment.
    fn kept(&self) -> Result<Kept, Problem> {
        let is_following = self.status.borrow().is_following;
        let kept = self.journal.kept().filter(|_| is_following);
        kept.ok_or_else(|| {
            unavailable("this server does not follow the change stream at the moment")
        })
    }

    /// The primary's clock when everything that the journal has had been committed; absent where that is unknown.
    fn complete_until(&self) -> Option<Timestamp> {
        let status = self.status.borrow();
        let sink = status.sinks.iter().find(|sink| sink.name == self.sink)?;
        sink.applied_at
    }
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(Code::ChangesUnavailable, detail)
}

/// Follow the changes of a tenant as server-sent events.
///
/// Each event that is stored comes as `event: change`, in the order of commits and at least once: its `id` is where to go on,
/// as `Last-Event-ID` or `since`. An event comes once its commit is in the log: a read with its id may not show it yet, and a failover
/// may undo it. One whose attributes or name nobody can read is left out. A comment comes every 15 seconds, with the token up to which nothing was missed. `event: bye`
/// ends a subscription whose client is too slow or whose server stops, with the token to go on from in `resume`.
#[utoipa::path(get, path = "/v1/changes", tag = "changes",
    params(("since" = Option<String>, Query, description = "A token: everything that was committed after it; absent: from now on"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received; counts before since"),
        ("type" = Option<String>, Query, description = "Only of entities of this type"),
        ("filter" = Option<String>, Query, description = "CQL2 about the event itself, such as seats >= 100: an attribute that it does not carry is absent, so that only IS NULL is true of it; observed_at is the event's, updated_at when it was received"),
        ("filter-lang" = Option<String>, Query, description = "cql2-text or cql2-json")),
    responses((status = 200, description = "Events without end: id, event and data lines; data is a JSON object with type, id, observed_at, ingested_at, attributes, and replaced or deleted where true", body = String, content_type = "text/event-stream"),
        (status = 410, description = "The changes after the token are not kept any more")))]
pub(crate) async fn follow(
    State(shared): State<Shared>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !accepts(&headers) {
        let detail = format!("the answer is {EVENT_STREAM}");
        return Err(Problem::new(Code::NotAcceptable, detail));
    }
    let state = &shared.state;
    let since = params.take("since")?;
    let since = match headers.get(LAST_EVENT_ID) {
        None => since,
        Some(id) => Some(id.to_str().unwrap_or_default().to_owned()),
    };
    let since = since.map(|text| position_of(&text, scope.tenant(), state));
    let since = since.transpose()?;
    let entity_type = params.take("type")?;
    let filter = params.take_filter()?;
    params.finish()?;
    let filter = state
        .reader
        .change_filter(&scope, entity_type.as_deref(), filter.as_ref())
        .await?;
    let feed = state.changes.clone();
    let feed = feed.ok_or_else(|| unavailable("this server keeps no journal of changes"))?;
    let kept = feed.kept()?;
    let lineage = Lineage {
        system_id: state.settings.system_id,
        timeline: kept.timeline,
    };
    if since.is_some_and(|token| token.timeline > kept.timeline) {
        // Else it is of a promotion that was undone.
        let now = current_position(state).await?;
        begin_now(now, lineage)?;
    }
    let from = match since {
        Some(token) => begin_after(token, lineage, kept)?,
        None => {
            // Not what has come so far: that may be behind what was acknowledged before this request.
            let now = current_position(state).await?;
            begin_now(now, lineage)?
        }
    };
    let place = shared.subscriptions.take(scope.tenant())?;
    let reader = feed.journal.read_from(scope.tenant(), from);
    let reader = reader.ok_or_else(expired)?;
    let mut answer = answer_headers(&feed, from, lineage, scope.tenant(), state);
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let subscription = Subscription::new(
        shared,
        feed,
        scope,
        (filter, lineage),
        reader,
        &headers,
        place,
    );
    let body = Body::from_stream(try_unfold(subscription, Subscription::advance));
    Ok((answer, body).into_response())
}

/// Where a subscription begins: nothing that was committed before has to be sent.
fn begin_after(token: Position, here: Lineage, kept: Kept) -> Result<Lsn, Problem> {
    if token.system_id != here.system_id {
        return Err(ReadError::InvalidToken.into());
    }
    if token.timeline < here.timeline {
        return Err(ReadError::StaleTimeline.into());
    }
    if token.timeline > here.timeline {
        return Err(ReadError::LaterTimeline.into());
    }
    if token.lsn < kept.from {
        return Err(expired());
    }
    Ok(token.lsn)
}

fn begin_now(now: Position, here: Lineage) -> Result<Lsn, Problem> {
    if (now.system_id, now.timeline) != (here.system_id, here.timeline) {
        return Err(unavailable("the database is failing over"));
    }
    Ok(now.lsn)
}

fn expired() -> Problem {
    Problem::new(
        Code::TokenExpired,
        "the changes after the token are not kept any more",
    )
}

/// Whether the client takes what is sent here.
fn accepts(headers: &HeaderMap) -> bool {
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .map(|range| range.trim().to_ascii_lowercase())
        .filter(|range| !range.is_empty());
    let mut ranges = ranges.peekable();
    ranges.peek().is_none()
        || ranges.any(|range| matches!(range.as_str(), EVENT_STREAM | "text/*" | "*/*"))
}

/// The headers of a read, as far as they can be said of what has not been read yet.
fn answer_headers(
    feed: &ChangeFeed,
    from: Lsn,
    lineage: Lineage,
    tenant: sheaf_model::TenantId,
    state: &AppState,
) -> HeaderMap {
    let complete_until = feed.complete_until();
    let lag = match complete_until {
        None => Lag::Unknown,
        Some(until) => Lag::Measured(Timestamp::now().since(until)),
    };
    let mut headers = token_header(lineage.at(from), tenant, state);
    let mut put = |name, value| put(&mut headers, name, value);
    put("x-data-source", "journal".to_owned());
    put("x-data-lag-seconds", lag.to_string());
    if let Some(until) = complete_until {
        put("x-data-timestamp", until.to_string());
    }
    let level = ConsistencyLevel::Eventual.as_str();
    put("x-consistency-level", level.to_owned());
    put("x-cache-hit", false.to_string());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_begins_after_its_token_or_is_told_why_not() {
        let here = Lineage {
            system_id: 7,
            timeline: 3,
        };
        let kept = Kept {
            timeline: 3,
            from: Lsn(100),
        };
        let at = |system_id, timeline, lsn| Position {
            system_id,
            timeline,
            lsn: Lsn(lsn),
        };
        for (token, wanted) in [
            (at(7, 3, 100), Ok(Lsn(100))),
            // Ahead of what has come: nothing before it is sent.
            (at(7, 3, 1_000_000), Ok(Lsn(1_000_000))),
            (at(7, 3, 99), Err(Code::TokenExpired)),
            (at(7, 2, 100), Err(Code::StaleTimeline)),
            (at(7, 4, 100), Err(Code::StaleTimeline)),
            (at(8, 3, 100), Err(Code::InvalidToken)),
        ] {
            let found = begin_after(token, here, kept).map_err(|problem| problem.code);
            assert_eq!(found, wanted, "{token:?}");
        }
        let now = |token| begin_now(token, here).map_err(|problem| problem.code);
        assert_eq!(now(at(7, 3, 5)), Ok(Lsn(5)));
        assert_eq!(now(at(7, 4, 5)), Err(Code::ChangesUnavailable));
    }

    #[test]
    fn events_go_to_whoever_takes_them() {
        for (value, wanted) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; q=0.9", true),
            ("application/json, */*;q=0.1", true),
            ("text/*", true),
            ("", true),
            ("application/json", false),
            ("text/csv, application/x-ndjson", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().expect("a header value"));
            assert_eq!(accepts(&headers), wanted, "{value}");
        }
        assert!(accepts(&HeaderMap::new()));
    }
}
