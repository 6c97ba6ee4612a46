//! Ingest of JSON and NDJSON.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_ingest::{BodyFormat, IngestAnswer, IngestRequest, OnError, Permit, WriteError};
use sheaf_model::{BatchId, RejectionId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::ledger::Outcome;
use sheaf_store::rejections::ListedRejection;
use utoipa::ToSchema;

use crate::admission::Admitted;
use crate::auth::Caller;
use crate::body::{media_type, read_admitted};
use crate::edits::take_ingest_ack;
use crate::freshness::{token_header, token_text};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// Where events are sent to.
pub(crate) const PATH: &str = "/v1/ingest";

/// What became of a request to store events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IngestBody {
    /// The request's number.
    #[schema(value_type = String)]
    batch_id: BatchId,
    /// What is promised.
    ack: String,
    /// Events in the request.
    events: i64,
    /// Values in stored events.
    values: i64,
    /// Events that were new. Null, as are the three after it, for a staged request: the flush decides.
    accepted: Option<i64>,
    /// Events that brought nothing new.
    duplicates: Option<i64>,
    /// Events that added attributes to a stored instant.
    merged: Option<i64>,
    /// Events that changed a stored value.
    corrected: Option<i64>,
    /// Events of which nothing was stored.
    refused: i64,
    /// Proves the write to later reads; null for a staged request.
    token: Option<String>,
    /// The first hundred refusals.
    rejected: Vec<RejectedBody>,
    /// In the answer to a replay that did not take all that were selected: where the next goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<RejectionId>,
}

/// One refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RejectedBody {
    /// The place of the event in its request, from 0.
    index: i32,
    /// The attribute or member; null where it was the whole event.
    field: Option<String>,
    /// The stable code.
    code: String,
    /// The reason, for people.
    reason: String,
    /// In the answer to a replay: the refusal that stays open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    id: Option<RejectionId>,
}

impl RejectedBody {
    fn of(rejection: ListedRejection) -> RejectedBody {
        RejectedBody {
            id: None,
            index: rejection.event_index,
            field: rejection.field,
            code: rejection.code,
            reason: rejection.reason,
        }
    }
}

impl IngestBody {
    pub(crate) fn of(answer: IngestAnswer, scope: &TenantScope, state: &AppState) -> IngestBody {
        let known = |count: i64| answer.position.map(|_| count);
        let token = |position| token_text(position, scope.tenant(), state);
        IngestBody {
            batch_id: answer.batch,
            ack: answer.ack,
            events: answer.events,
            values: answer.counts.values,
            accepted: known(answer.counts.accepted),
            duplicates: known(answer.counts.duplicates),
            merged: known(answer.counts.merged),
            corrected: known(answer.counts.corrected),
            refused: answer.counts.refused,
            token: answer.position.map(token),
            rejected: answer.rejected.into_iter().map(RejectedBody::of).collect(),
            next: None,
        }
    }

    /// Names the refusals that stay open, in the order in which they are listed, and where the next replay goes on.
    pub(crate) fn of_replay(
        mut self,
        open: Vec<RejectionId>,
        next: Option<RejectionId>,
    ) -> IngestBody {
        for (rejected, id) in self.rejected.iter_mut().zip(open) {
            rejected.id = Some(id);
        }
        self.next = next;
        self
    }

    /// The id of the request that the batch was: its retries are the same request, and get the same bytes.
    pub(crate) fn request_id(&self) -> String {
        self.batch_id
            .to_string()
            .trim_start_matches("b_")
            .to_owned()
    }
}

/// Store events.
#[utoipa::path(post, path = "/v1/ingest", tag = "ingest",
    request_body(content_type = "application/json", description = "A JSON array of events, or application/x-ndjson: one a line", content = Vec<EventBody>),
    params(("ack" = Option<String>, Query, description = "durable, replicated or staged"), ("on_error" = Option<String>, Query, description = "partial or reject"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters; a retry with the same key and body gets the first answer")),
    responses((status = 200, description = "Stored", body = IngestBody),
        (status = 202, description = "Staged: neither durable nor readable yet, and lost if PostgreSQL crashes", body = IngestBody)))]
pub(crate) async fn ingest(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Admitted(mut permit): Admitted,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let ack = take_ingest_ack(&mut params)?;
    let on_error = params.take_as("on_error", "partial or reject", |text| match text {
        "partial" => Some(OnError::Partial),
        "reject" => Some(OnError::Reject),
        _ => None,
    })?;
    params.finish()?;
    let format = match media_type(&headers).as_str() {
        "application/json" | "" => BodyFormat::JsonArray,
        "application/x-ndjson" | "application/ndjson" => BodyFormat::Ndjson,
        _ => {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "the content type is application/json or application/x-ndjson",
            ));
        }
    };
    let idempotency_key = idempotency_key(&headers)?;
    let received_at = Timestamp::now();
    let body = read_admitted(&headers, body, state.limits.body_bytes_max, &mut permit).await?;
    let request = IngestRequest {
        body,
        format,
        ack,
        on_error: on_error.unwrap_or_default(),
        idempotency_key,
        received_at,
    };
    let answer = store(&state, &scope, &mut permit, request).await?;
    let headers = answer_headers(&answer, &scope, &state);
    let outcome = answer.outcome;
    let body = IngestBody::of(answer, &scope, &state);
    Ok(respond(headers, outcome, body))
}

/// The answer to events: a problem with the same members where nothing is stored.
pub(crate) fn respond(headers: HeaderMap, outcome: Outcome, body: IngestBody) -> Response {
    let code = match outcome {
        // A token proves what is stored; what is staged has none.
        Outcome::Stored if body.token.is_none() => {
            return (StatusCode::ACCEPTED, headers, Json(body)).into_response();
        }
        Outcome::Stored => return (headers, Json(body)).into_response(),
        Outcome::AllRefused => Code::AllRefused,
        Outcome::BatchRefused => Code::BatchRefused,
    };
    let mut problem = Problem::new(code, code.row().explanation);
    problem.batch = Some(Arc::new(body));
    (headers, problem).into_response()
}

/// Stores the events of a body, and charges for what it has written, however it ends.
pub(crate) async fn store(
    state: &AppState,
    scope: &TenantScope,
    permit: &mut Permit,
    request: IngestRequest,
) -> Result<IngestAnswer, WriteError> {
    let mut written = 0;
    let ended = state
        .writer
        .ingest_counting(scope, request, &mut written)
        .await;
    charge(permit, written, &ended);
    ended
}

/// Counts what a request has written against the tenant's rate. A refused event costs as much as one value, and a first
/// answer that is given once more costs what was missing of it: mostly nothing. One that failed costs what it stored
/// before; where that is nothing, nothing is known of its body.
pub(crate) fn charge<T>(permit: &mut Permit, written: i64, ended: &Result<T, WriteError>) {
    let values = u64::try_from(written).unwrap_or(0);
    if ended.is_ok() || values > 0 {
        permit.charge_values(values, Instant::now());
    }
}

/// The headers of an answer to events.
pub(crate) fn answer_headers(
    answer: &IngestAnswer,
    scope: &TenantScope,
    state: &AppState,
) -> HeaderMap {
    let mut headers = match answer.position {
        Some(position) => token_header(position, scope.tenant(), state),
        None => HeaderMap::new(),
    };
    if answer.replayed {
        headers.insert(
            HeaderName::from_static("idempotency-replayed"),
            HeaderValue::from_static("true"),
        );
    }
    headers
}

/// The client's name for the request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()));
    let key = key
        .ok_or_else(|| Problem::invalid("Idempotency-Key", "expected 1 to 255 ASCII characters"))?;
    Ok(Some(key.to_owned()))
}

/// An event as it is sent.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents a body that the write path reads")]
pub(crate) struct EventBody {
    /// The entity's type.
    #[schema(rename = "type")]
    entity_type: String,
    /// Its id.
    id: String,
    /// When it was observed; absent: now, and after everything known of the entity.
    observed_at: Option<String>,
    /// Values by name; null removes.
    #[schema(value_type = Object)]
    attributes: (),
}
