//! What was refused: listed, and tried again once its cause is mended.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Serialize;
use sheaf_ingest::{REPLAYED_MAX, ReplayRequest};
use sheaf_model::{BatchId, RefusalCode, RejectionId, Timestamp};
use sheaf_store::rejections::{Rejection, RejectionFilter, ReplaySelection, list_rejections};
use utoipa::ToSchema;

use crate::admission::Admitted;
use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, read_admitted, require_json};
use crate::edits::take_durable_ack;
use crate::freshness::{read_fresh, read_headers, read_options};
use crate::ingest::{IngestBody, answer_headers, charge, respond};
use crate::members::{Change, Members};
use crate::page::{PageBody, PagedList};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::AppState;

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
pub(crate) async fn list(
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

/// Which refusals are to be tried again: exactly one of the first three.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents a body that is read member by member")]
pub(crate) struct ReplayBody {
    /// These, at most 1000.
    ids: Option<Vec<String>>,
    /// Those of one request.
    batch_id: Option<String>,
    /// Those with one code.
    code: Option<String>,
    /// Only those refused after this one: `next` of an earlier answer.
    after: Option<String>,
}

/// Try open refusals again, with the attributes and policies of now.
///
/// At most 1,000 refusals a call, oldest first, of at most 8 MiB of events unless it is a single one; `next` in the answer
/// is what to send as `after` for the others. The answer counts the events that were tried, and lists those of which
/// anything is still bad: these stay open. Twice changes nothing. An event without a time of its own is stored at the
/// time at which it was received; of one that was stored in part only what was refused is added, at its instant.
#[utoipa::path(post, path = "/v1/rejections/replay", tag = "ingest", request_body = ReplayBody,
    params(("ack" = Option<String>, Query, description = "durable or replicated")),
    responses((status = 200, description = "Tried again", body = IngestBody)))]
pub(crate) async fn replay(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Admitted(mut permit): Admitted,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let ack = take_durable_ack(&mut params)?;
    params.finish()?;
    require_json(&headers)?;
    let received_at = Timestamp::now();
    let body = read_admitted(&headers, body, SMALL_BYTES_MAX, &mut permit).await?;
    let (selection, after) = selection(&body)?;
    let request = ReplayRequest {
        selection,
        after,
        ack,
        received_at,
    };
    let ended = state.writer.replay(&scope, request).await;
    let written = ended.as_ref().map_or(0, |answer| answer.ingest.written);
    charge(&mut permit, written, &ended);
    let answer = ended?;
    let headers = answer_headers(&answer.ingest, &scope, &state);
    let outcome = answer.ingest.outcome;
    let body = IngestBody::of(answer.ingest, &scope, &state).of_replay(answer.open, answer.last);
    Ok(respond(headers, outcome, body))
}

/// Reads which refusals a replay means.
fn selection(body: &[u8]) -> Result<(ReplaySelection, Option<RejectionId>), Problem> {
    let mut members = Members::read(body)?;
    let ids: Option<Vec<String>> = members.take("ids")?;
    let batch = members.take_as("batch_id", "the id of a batch", |text| text.parse().ok())?;
    let code = members.take_as("code", "the code of a refusal", RefusalCode::parse)?;
    let after = members.take_as("after", "the id of a refusal", |text| text.parse().ok())?;
    members.finish()?;
    let selection = match (ids, batch, code) {
        (Some(ids), Change::Keep | Change::Clear, Change::Keep | Change::Clear) => {
            ReplaySelection::Ids(rejection_ids(&ids)?)
        }
        (None, Change::Set(batch), Change::Keep | Change::Clear) => ReplaySelection::Batch(batch),
        (None, Change::Keep | Change::Clear, Change::Set(code)) => ReplaySelection::Code(code),
        _ => {
            return Err(Problem::new(
                Code::InvalidParameter,
                "expected exactly one of ids, batch_id and code",
            ));
        }
    };
    Ok((selection, after.apply(None)))
}

fn rejection_ids(texts: &[String]) -> Result<Vec<RejectionId>, Problem> {
    if !(1..=REPLAYED_MAX).contains(&texts.len()) {
        return Err(Problem::invalid("ids", "expected 1 to 1000 ids"));
    }
    let ids = texts.iter().map(|text| text.parse().ok());
    ids.collect::<Option<Vec<_>>>()
        .ok_or_else(|| Problem::invalid("ids", "expected ids of refusals"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_names_exactly_one_selection() {
        let (batch, id) = (BatchId::new(), RejectionId::new());
        let taken = |body: String| selection(body.as_bytes()).ok();
        assert_eq!(
            taken(format!(r#"{{"ids":["{id}"]}}"#)),
            Some((ReplaySelection::Ids(vec![id]), None))
        );
        assert_eq!(
            taken(format!(
                r#"{{"batch_id":"{batch}","code":null,"after":"{id}"}}"#
            )),
            Some((ReplaySelection::Batch(batch), Some(id)))
        );
        assert_eq!(
            taken(r#"{"code":"type_mismatch"}"#.to_owned()),
            Some((ReplaySelection::Code(RefusalCode::TypeMismatch), None))
        );
        let many = format!(
            r#"{{"ids":["{}"]}}"#,
            vec![id.to_string(); 1001].join("\",\"")
        );
        for body in [
            "{}",
            "[]",
            r#"{"ids":[]}"#,
            r#"{"ids":["r_1"]}"#,
            r#"{"ids":"r_1"}"#,
            r#"{"batch_id":"x"}"#,
            r#"{"code":"nonsense"}"#,
            r#"{"code":"type_mismatch","after":"x"}"#,
            r#"{"code":"type_mismatch","status":"open"}"#,
            &format!(r#"{{"code":"type_mismatch","batch_id":"{batch}"}}"#),
            &format!(r#"{{"ids":["{id}"],"batch_id":"{batch}"}}"#),
            &many,
        ] {
            assert_eq!(taken(body.to_owned()), None, "{body}");
        }
    }
}
