//! Ingest of JSON and NDJSON, what became of a batch, and what was refused.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_ingest::{BodyFormat, IngestAnswer, IngestRequest, OnError};
use sheaf_model::{BatchId, RefusalCode, RejectionId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::ledger::{Counts, Outcome, fetch_batch};
use sheaf_store::rejections::{ListedRejection, Rejection, RejectionFilter, list_rejections};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{media_type, read_body};
use crate::edits::take_ack;
use crate::freshness::{read_fresh, read_headers, read_options, token_header, token_text};
use crate::page::{PageBody, PagedList};
use crate::params::{Params, Segments};
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
    /// Events that were new.
    accepted: i64,
    /// Events that brought nothing new.
    duplicates: i64,
    /// Events that added attributes to a stored instant.
    merged: i64,
    /// Events that changed a stored value.
    corrected: i64,
    /// Events of which nothing was stored.
    refused: i64,
    /// Proves the write to later reads.
    token: Option<String>,
    /// The first hundred refusals.
    rejected: Vec<RejectedBody>,
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
}

impl RejectedBody {
    fn of(rejection: ListedRejection) -> RejectedBody {
        RejectedBody {
            index: rejection.event_index,
            field: rejection.field,
            code: rejection.code,
            reason: rejection.reason,
        }
    }
}

impl IngestBody {
    fn of(answer: IngestAnswer, token: String) -> IngestBody {
        IngestBody {
            batch_id: answer.batch,
            ack: answer.ack,
            events: answer.events,
            values: answer.counts.values,
            accepted: answer.counts.accepted,
            duplicates: answer.counts.duplicates,
            merged: answer.counts.merged,
            corrected: answer.counts.corrected,
            refused: answer.counts.refused,
            token: Some(token),
            rejected: answer.rejected.into_iter().map(RejectedBody::of).collect(),
        }
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
    params(("ack" = Option<String>, Query, description = "durable"), ("on_error" = Option<String>, Query, description = "partial or reject"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters; a retry with the same key and body gets the first answer")),
    responses((status = 200, description = "Stored", body = IngestBody)))]
pub(crate) async fn ingest(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let ack = take_ack(&mut params)?;
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
    let body = read_body(&headers, body, state.limits.body_bytes_max).await?;
    let request = IngestRequest {
        body,
        format,
        ack,
        on_error: on_error.unwrap_or_default(),
        idempotency_key,
        received_at,
    };
    let answer = state.writer.ingest(&scope, request).await?;
    let headers = answer_headers(&answer, &scope, &state);
    let (outcome, position) = (answer.outcome, answer.position);
    let body = IngestBody::of(answer, token_text(position, scope.tenant(), &state));
    let code = match outcome {
        Outcome::Stored => return Ok((headers, Json(body)).into_response()),
        Outcome::AllRefused => Code::AllRefused,
        Outcome::BatchRefused => Code::BatchRefused,
    };
    let mut problem = Problem::new(code, code.row().explanation);
    problem.batch = Some(Arc::new(body));
    Ok((headers, problem).into_response())
}

/// The headers of an answer to events.
pub(crate) fn answer_headers(
    answer: &IngestAnswer,
    scope: &TenantScope,
    state: &AppState,
) -> HeaderMap {
    let mut headers = token_header(answer.position, scope.tenant(), state);
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

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchBody {
    #[schema(value_type = String)]
    batch_id: BatchId,
    /// `durable` or `refused`.
    status: &'static str,
    ack: String,
    events: i64,
    values: i64,
    accepted: i64,
    duplicates: i64,
    merged: i64,
    corrected: i64,
    refused: i64,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    #[schema(value_type = Option<String>)]
    durable_at: Option<Timestamp>,
    token: Option<String>,
}

/// Show what became of a batch.
#[utoipa::path(get, path = "/v1/ingest/batches/{id}", tag = "ingest", params(("id" = String, Path)),
    responses((status = 200, description = "The batch", body = BatchBody)))]
pub(crate) async fn batch(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Segments(id): Segments<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    params.finish()?;
    let batch: BatchId = id.parse().map_err(|_| Problem::not_found())?;
    let (record, freshness) =
        read_fresh(&state, &options, fetch_batch(&state.app, &scope, batch)).await?;
    let record = record.ok_or_else(Problem::not_found)?;
    let Counts {
        values,
        accepted,
        duplicates,
        merged,
        corrected,
        refused,
    } = record.counts;
    let is_stored = match record.outcome {
        // The outcome is recorded before the events meet what is stored, where all that are left may yet be refused.
        Outcome::Stored => record.events == 0 || accepted + duplicates + merged + corrected > 0,
        Outcome::AllRefused | Outcome::BatchRefused => false,
    };
    let body = BatchBody {
        batch_id: record.batch,
        status: if is_stored { "durable" } else { "refused" },
        ack: record.ack,
        events: record.events,
        values,
        accepted,
        duplicates,
        merged,
        corrected,
        refused,
        received_at: record.received_at,
        durable_at: is_stored.then_some(record.durable_at),
        token: is_stored.then(|| token_text(freshness.position, scope.tenant(), &state)),
    };
    Ok((read_headers(&freshness, scope.tenant(), &state), Json(body)).into_response())
}

/// A refusal with all that is kept of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RejectionBody {
    #[schema(value_type = String)]
    id: RejectionId,
    #[schema(value_type = String)]
    batch_id: BatchId,
    /// The place of the event in its request, from 0.
    index: i32,
    /// The attribute or member; null where it was the whole event.
    field: Option<String>,
    /// The stable code.
    code: String,
    /// The reason, for people.
    reason: String,
    /// The event as it was sent; what is no UTF-8 is replaced.
    raw: String,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// `open`, `replayed` or `discarded`.
    status: String,
}

impl RejectionBody {
    fn of(rejection: Rejection) -> RejectionBody {
        RejectionBody {
            id: rejection.id,
            batch_id: rejection.batch,
            index: rejection.listed.event_index,
            field: rejection.listed.field,
            code: rejection.listed.code,
            reason: rejection.listed.reason,
            raw: String::from_utf8_lossy(&rejection.raw).into_owned(),
            received_at: rejection.received_at,
            status: rejection.status,
        }
    }
}

/// List what was refused, newest first.
#[utoipa::path(get, path = "/v1/rejections", tag = "ingest",
    params(("batch_id" = Option<String>, Query), ("code" = Option<String>, Query), ("type" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "open, replayed or discarded"),
        ("from" = Option<String>, Query), ("to" = Option<String>, Query),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = PageBody<RejectionBody>)))]
pub(crate) async fn rejections(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let known_code = |text: &str| RefusalCode::parse(text).map(|code| code.as_str().to_owned());
    let known_status =
        |text: &str| matches!(text, "open" | "replayed" | "discarded").then(|| text.to_owned());
    let mut filter = RejectionFilter {
        batch: params.take_as("batch_id", "the id of a batch", |text| text.parse().ok())?,
        code: params.take_as("code", "the code of a refusal", known_code)?,
        entity_type: params.take("type")?,
        status: params.take_as("status", "open, replayed or discarded", known_status)?,
        from: params.take_time("from")?,
        to: params.take_time("to")?,
        before: None,
    };
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let (batch, from, to) = (
        filter.batch.map(|id| id.to_string()),
        time(filter.from),
        time(filter.to),
    );
    let parts = [
        &batch,
        &filter.code,
        &filter.entity_type,
        &filter.status,
        &from,
        &to,
    ]
    .map(Option::as_deref);
    let list = PagedList::take(&mut params, &state, scope.tenant(), "rejections", &parts)?;
    params.finish()?;
    filter.before = list.after.as_deref().and_then(|id| id.parse().ok());
    let rows_max = i64::try_from(list.limit).expect("a page is small");
    let page = list_rejections(&state.app, &scope, &filter, rows_max);
    let (page, freshness) = read_fresh(&state, &options, page).await?;
    // A page of large events is short; only the store knows whether others follow.
    let last = page.rejections.last().filter(|_| page.has_more);
    let last_key = last.map(|rejection| rejection.id.to_string());
    let bodies = page
        .rejections
        .into_iter()
        .map(RejectionBody::of)
        .collect::<Vec<_>>();
    let headers = read_headers(&freshness, scope.tenant(), &state);
    Ok(list.respond_before(&state, &uri, headers, bodies, last_key))
}
