//! Changing one entity: PATCH, PUT and DELETE.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use sheaf_ingest::{Ack, EditAnswer, EditRequest, Precondition};
use sheaf_model::{Op, Timestamp};
use sheaf_store::TenantScope;
use utoipa::ToSchema;

use crate::admission::Admitted;
use crate::auth::Caller;
use crate::body::{read_admitted, require_json};
use crate::entities::etag;
use crate::freshness::{token_header, token_text};
use crate::params::{Params, Segments};
use crate::problem::Problem;
use crate::state::AppState;

/// What an edit counts against the tenant's rate of values, however many it changes: its cost is that of a transaction.
const EDIT_VALUES: u64 = 1;

/// The body of an edit, which the write path reads.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "documents a body that the write path reads")]
pub(crate) struct EditBody {
    /// Values by name; null removes.
    #[schema(value_type = Object)]
    attributes: (),
    /// When it was observed; absent: now, and after everything known of the entity.
    observed_at: Option<String>,
}

/// What an edit came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EditedBody {
    /// The entity's type.
    #[serde(rename = "type")]
    entity_type: String,
    /// Its id.
    id: String,
    /// The version of its document now.
    version: i64,
    /// The instant of the edit.
    #[schema(value_type = String, format = DateTime)]
    observed_at: Timestamp,
    /// Attributes whose values are in history only, because the document holds newer ones.
    superseded: Vec<String>,
    /// What is promised.
    ack: &'static str,
    /// Proves the edit to later reads.
    token: String,
}

/// Set and remove attributes of an entity; it is created if there is none.
#[utoipa::path(patch, path = "/v1/entities/{type}/{id}", tag = "entities", request_body = EditBody,
    params(("type" = String, Path), ("id" = String, Path), ("ack" = Option<String>, Query, description = "durable or replicated")),
    responses((status = 200, description = "Changed", body = EditedBody), (status = 201, description = "Created", body = EditedBody)))]
pub(crate) async fn patch(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    admitted: Admitted,
    Segments(name): Segments<(String, String)>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = (name, params, &headers, body);
    edit(&state, &scope, admitted, Op::Patch, request).await
}

/// Replace an entity: attributes that are not named are removed.
#[utoipa::path(put, path = "/v1/entities/{type}/{id}", tag = "entities", request_body = EditBody,
    params(("type" = String, Path), ("id" = String, Path), ("ack" = Option<String>, Query, description = "durable or replicated")),
    responses((status = 200, description = "Replaced", body = EditedBody), (status = 201, description = "Created", body = EditedBody)))]
pub(crate) async fn replace(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    admitted: Admitted,
    Segments(name): Segments<(String, String)>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = (name, params, &headers, body);
    edit(&state, &scope, admitted, Op::Replace, request).await
}

/// Type and id of the entity, parameters, headers and body.
type SentEdit<'a> = ((String, String), Params, &'a HeaderMap, Body);

async fn edit(
    state: &AppState,
    scope: &TenantScope,
    Admitted(mut permit): Admitted,
    op: Op,
    ((entity_type, external_id), mut params, headers, body): SentEdit<'_>,
) -> Result<Response, Problem> {
    let ack = take_durable_ack(&mut params)?;
    params.finish()?;
    let precondition = precondition(headers)?;
    require_json(headers)?;
    let body = read_admitted(headers, body, state.limits.event_bytes_max, &mut permit).await?;
    let request = EditRequest {
        entity_type,
        external_id,
        op,
        body,
        observed_at: None,
        precondition,
        ack,
        received_at: Timestamp::now(),
    };
    let answer = state.writer.edit(scope, request).await?;
    permit.charge_values(EDIT_VALUES, Instant::now());
    let headers = token_header(answer.position, scope.tenant(), state);
    let status = if answer.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let tag = [(header::ETAG, etag(answer.version))];
    Ok((
        status,
        tag,
        headers,
        Json(body_of(answer, ack, scope, state)),
    )
        .into_response())
}

fn body_of(answer: EditAnswer, ack: Ack, scope: &TenantScope, state: &AppState) -> EditedBody {
    EditedBody {
        token: token_text(answer.position, scope.tenant(), state),
        entity_type: answer.entity_type,
        id: answer.external_id,
        version: answer.version,
        observed_at: answer.observed_at,
        superseded: answer.superseded,
        ack: ack.as_str(),
    }
}

/// Delete an entity. Its history remains.
#[utoipa::path(delete, path = "/v1/entities/{type}/{id}", tag = "entities",
    params(("type" = String, Path), ("id" = String, Path),
        ("observed_at" = Option<String>, Query, description = "When it was; absent: now"), ("ack" = Option<String>, Query, description = "durable or replicated")),
    responses((status = 204, description = "Deleted")))]
pub(crate) async fn delete(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Admitted(mut permit): Admitted,
    Segments((entity_type, external_id)): Segments<(String, String)>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ack = take_durable_ack(&mut params)?;
    let observed_at = params.take_time("observed_at")?;
    params.finish()?;
    let request = EditRequest {
        entity_type,
        external_id,
        op: Op::Delete,
        body: Bytes::new(),
        observed_at,
        precondition: precondition(&headers)?,
        ack,
        received_at: Timestamp::now(),
    };
    let answer = state.writer.edit(&scope, request).await?;
    permit.charge_values(EDIT_VALUES, Instant::now());
    Ok((
        StatusCode::NO_CONTENT,
        token_header(answer.position, scope.tenant(), &state),
    )
        .into_response())
}

/// Takes what an answer is to promise that tells what something became, and so cannot be staged.
pub(crate) fn take_durable_ack(params: &mut Params) -> Result<Ack, Problem> {
    const ALLOWED: &str = "expected durable or replicated";
    let ack = take_ack(params, ALLOWED)?;
    match ack {
        Ack::Durable | Ack::Replicated => Ok(ack),
        Ack::Staged => Err(Problem::invalid("ack", ALLOWED)),
    }
}

/// Takes what the answer to events is to promise.
pub(crate) fn take_ingest_ack(params: &mut Params) -> Result<Ack, Problem> {
    take_ack(params, "expected durable, replicated or staged")
}

fn take_ack(params: &mut Params, allowed: &str) -> Result<Ack, Problem> {
    let named = |text: &str| {
        [Ack::Durable, Ack::Replicated, Ack::Staged]
            .into_iter()
            .find(|ack| ack.as_str() == text)
    };
    match params.take("ack")? {
        None => Ok(Ack::default()),
        Some(text) => named(&text).ok_or_else(|| Problem::invalid("ack", allowed)),
    }
}

/// What must hold for the edit to be made.
fn precondition(headers: &HeaderMap) -> Result<Option<Precondition>, Problem> {
    let text = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next().map(|value| value.to_str()), values.next()) {
            (None, _) => Ok(None),
            (Some(Ok(text)), None) => Ok(Some(text.trim())),
            (Some(Err(_)), None) => Err(Problem::invalid(name.as_str(), "not ASCII")),
            (Some(_), Some(_)) => Err(Problem::invalid(name.as_str(), "sent more than once")),
        }
    };
    match (text(&header::IF_MATCH)?, text(&header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(Precondition::Absent)),
        (None, Some(_)) => Err(Problem::invalid("If-None-Match", "expected *")),
        (Some(tag), None) => {
            let version = tag
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                // A quote inside is the end of the first tag of a list.
                .filter(|version| !version.contains('"'));
            let version = version.ok_or_else(|| {
                Problem::invalid("If-Match", "expected one version in quotes, such as \"7\"")
            })?;
            // A tag that is none of ours is one that no document has.
            Ok(Some(Precondition::Version(version.parse().unwrap_or(-1))))
        }
        (Some(_), Some(_)) => Err(Problem::invalid(
            "If-Match",
            "cannot stand beside If-None-Match",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn preconditions_are_read_from_their_headers() {
        let read = |pairs: &[(HeaderName, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().expect("a header value")));
            let mut headers = HeaderMap::new();
            pairs.for_each(|(name, value)| {
                headers.append(name, value);
            });
            precondition(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&[(header::IF_MATCH, "\"7\"")]),
            Ok(Some(Precondition::Version(7)))
        );
        assert_eq!(
            read(&[(header::IF_MATCH, "\"abc\"")]),
            Ok(Some(Precondition::Version(-1)))
        );
        assert_eq!(
            read(&[(header::IF_NONE_MATCH, "*")]),
            Ok(Some(Precondition::Absent))
        );
        for wrong in [
            &[(header::IF_MATCH, "7")][..],
            &[(header::IF_MATCH, "*")],
            &[(header::IF_MATCH, "\"1\", \"2\"")],
            &[(header::IF_MATCH, "\"1\""), (header::IF_MATCH, "\"2\"")],
            &[(header::IF_NONE_MATCH, "\"7\"")],
            &[(header::IF_MATCH, "\"7\""), (header::IF_NONE_MATCH, "*")],
        ] {
            assert_eq!(read(wrong), Err(Code::InvalidParameter), "{wrong:?}");
        }
    }

    #[test]
    fn edits_are_not_staged_and_an_unknown_acknowledgement_is_refused() {
        for (query, of_events, of_an_edit) in [
            ("", Ok(Ack::Durable), Ok(Ack::Durable)),
            ("ack=durable", Ok(Ack::Durable), Ok(Ack::Durable)),
            ("ack=staged", Ok(Ack::Staged), Err(Code::InvalidParameter)),
            ("ack=replicated", Ok(Ack::Replicated), Ok(Ack::Replicated)),
            (
                "ack=maybe",
                Err(Code::InvalidParameter),
                Err(Code::InvalidParameter),
            ),
        ] {
            let params = || Params::parse(query).expect("a query");
            let code = |taken: Result<Ack, Problem>| taken.map_err(|problem| problem.code);
            assert_eq!(code(take_ingest_ack(&mut params())), of_events, "{query}");
            assert_eq!(code(take_durable_ack(&mut params())), of_an_edit, "{query}");
        }
    }
}
