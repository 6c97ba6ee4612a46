//! The routes that InfluxDB's clients know: they write line protocol and read their own form of errors.
//!
//! Unknown parameters are ignored here, and only here: clients send many that mean nothing to this server.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_ingest::decode::Precision;
use sheaf_ingest::{Ack, BodyFormat, IngestAnswer, IngestRequest, OnError};
use sheaf_model::Timestamp;
use sheaf_store::TenantScope;
use utoipa::ToSchema;

use crate::admission::Admitted;
use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, media_type, read_admitted, read_body};
use crate::ingest::{answer_headers, idempotency_key, store};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::AppState;

pub(crate) const V1_PATH: &str = "/write";
pub(crate) const V2_PATH: &str = "/api/v2/write";
const ERROR: HeaderName = HeaderName::from_static("x-influxdb-error");
const VERSION: HeaderName = HeaderName::from_static("x-influxdb-version");

/// Whose form an error has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error":".."}`.
    V1,
    /// `{"code":"..","message":".."}`.
    V2,
}

/// An error as version 1 writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct V1Error {
    error: String,
}

/// An error as version 2 writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct V2Error {
    code: &'static str,
    message: String,
    /// The first bad line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<i32>,
    /// Finds all of them under `/v1/rejections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_id: Option<String>,
}

impl Dialect {
    /// The form that errors of this route have; absent for all others.
    pub(crate) fn of_route(route: &str) -> Option<Dialect> {
        match route {
            V1_PATH => Some(Dialect::V1),
            V2_PATH => Some(Dialect::V2),
            _ => None,
        }
    }

    /// A problem in this form.
    pub(crate) fn problem(self, problem: &Problem) -> Response {
        let code = code_of(problem.code.status());
        match self {
            Dialect::V1 => self.error(code, format!("{code}: {}", problem.detail), None),
            Dialect::V2 => self.error(code, problem.detail.clone(), None),
        }
    }

    fn error(self, code: &'static str, message: String, place: Option<(i32, String)>) -> Response {
        match self {
            Dialect::V1 => {
                let header = HeaderValue::from_bytes(message.as_bytes()).ok();
                let mut response = Json(V1Error { error: message }).into_response();
                if let Some(header) = header {
                    response.headers_mut().insert(ERROR, header);
                }
                response
            }
            Dialect::V2 => {
                let (line, batch_id) = place.unzip();
                Json(V2Error {
                    code,
                    message,
                    line,
                    batch_id,
                })
                .into_response()
            }
        }
    }

    /// The answer to a write.
    fn written(self, answer: IngestAnswer, scope: &TenantScope, state: &AppState) -> Response {
        let headers = answer_headers(&answer, scope, state);
        let Some(first) = answer.rejected.first() else {
            return (StatusCode::NO_CONTENT, headers).into_response();
        };
        let line = answer.first_bad_line.as_deref().unwrap_or_default();
        let message = format!(
            "partial write: unable to parse '{line}': {} dropped={}",
            first.reason, answer.bad_events
        );
        let place = (
            first.event_index.saturating_add(1),
            answer.batch.to_string(),
        );
        (
            StatusCode::BAD_REQUEST,
            headers,
            self.error("invalid", message, Some(place)),
        )
            .into_response()
    }

    fn precision(self, text: &str) -> Option<Precision> {
        match self {
            Dialect::V1 => Precision::parse(text),
            Dialect::V2 => Some(text)
                .filter(|text| matches!(*text, "ns" | "us" | "ms" | "s"))
                .and_then(Precision::parse),
        }
    }
}

/// The codes of version 2, by status.
fn code_of(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        409 => "conflict",
        413 => "request too large",
        415 => "unsupported media type",
        422 => "unprocessable entity",
        429 => "too many requests",
        500 => "internal error",
        408 | 503 | 507 => "unavailable",
        _ => "invalid",
    }
}

/// Store line protocol, as version 1 of InfluxDB does.
#[utoipa::path(post, path = "/write", tag = "influxdb",
    request_body(content_type = "text/plain", description = "Line protocol", content = String),
    params(("db" = Option<String>, Query, description = "Ignored: the key names the tenant"),
        ("precision" = Option<String>, Query, description = "n, ns, u, us, ms, s, m or h"),
        ("id_tag" = Option<String>, Query, description = "The tags that make the entity's id, as a comma list")),
    responses((status = 204, description = "Stored"), (status = 400, description = "Bad lines; the good ones are stored", body = V1Error)))]
pub(crate) async fn write_v1(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    admitted: Admitted,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = (params, &headers, body);
    write(Dialect::V1, &state, caller, admitted, request).await
}

/// Store line protocol, as version 2 of InfluxDB does.
#[utoipa::path(post, path = "/api/v2/write", tag = "influxdb",
    request_body(content_type = "text/plain", description = "Line protocol", content = String),
    params(("org" = Option<String>, Query, description = "Ignored"), ("bucket" = Option<String>, Query, description = "Ignored"),
        ("precision" = Option<String>, Query, description = "ns, us, ms or s"),
        ("id_tag" = Option<String>, Query, description = "The tags that make the entity's id, as a comma list")),
    responses((status = 204, description = "Stored"), (status = 400, description = "Bad lines; the good ones are stored", body = V2Error)))]
pub(crate) async fn write_v2(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    admitted: Admitted,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = (params, &headers, body);
    write(Dialect::V2, &state, caller, admitted, request).await
}

async fn write(
    dialect: Dialect,
    state: &AppState,
    Caller(scope): Caller,
    Admitted(mut permit): Admitted,
    (mut params, headers, body): (Params, &HeaderMap, Body),
) -> Result<Response, Problem> {
    let read = |text: &str| {
        if text.is_empty() {
            Some(Precision::default())
        } else {
            dialect.precision(text)
        }
    };
    let precision = params.take_as("precision", "a unit of time such as ns", read)?;
    let id_tags = params.take_names("id_tag")?;
    let idempotency_key = idempotency_key(headers)?;
    let received_at = Timestamp::now();
    let body = read_admitted(headers, body, state.limits.body_bytes_max, &mut permit).await?;
    let request = IngestRequest {
        body,
        format: BodyFormat::LineProtocol {
            precision: precision.unwrap_or_default(),
            id_tags,
        },
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key,
        received_at,
    };
    let answer = store(state, &scope, &mut permit, request).await?;
    Ok(dialect.written(answer, &scope, state))
}

/// Say that a server is here, in the words of InfluxDB.
#[utoipa::path(get, path = "/ping", tag = "influxdb", responses((status = 204, description = "Here")))]
pub(crate) async fn ping() -> Response {
    (
        StatusCode::NO_CONTENT,
        [(VERSION, HeaderValue::from_static("1.8.10"))],
    )
        .into_response()
}

/// What InfluxDB answers to a statement that has no rows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueryBody {
    results: [QueryResult; 1],
}

/// One statement's result.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueryResult {
    statement_id: u32,
}

/// Accept `CREATE DATABASE`, which clients send before they write. The key names the tenant, so that nothing is created.
#[utoipa::path(get, path = "/query", tag = "influxdb", params(("q" = String, Query)),
    responses((status = 200, description = "Accepted", body = QueryBody)))]
pub(crate) async fn query(_: Caller, mut params: Params) -> Result<Json<QueryBody>, Problem> {
    answer_query(params.take("q")?)
}

/// The same as a form.
#[utoipa::path(post, path = "/query", tag = "influxdb", params(("q" = Option<String>, Query)),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 200, description = "Accepted", body = QueryBody)))]
pub(crate) async fn query_form(
    _: Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<QueryBody>, Problem> {
    let body = read_body(&headers, body, SMALL_BYTES_MAX).await?;
    let mut statement = params.take("q")?;
    if statement.is_none() && media_type(&headers) == "application/x-www-form-urlencoded" {
        let form = std::str::from_utf8(&body)
            .map_err(|_| Problem::new(Code::MalformedBody, "the form is not UTF-8"))?;
        statement = Params::parse(form)?.take("q")?;
    }
    answer_query(statement)
}

fn answer_query(statement: Option<String>) -> Result<Json<QueryBody>, Problem> {
    let statement = statement.ok_or_else(|| Problem::invalid("q", "is required"))?;
    if !creates_database(&statement) {
        return Err(Problem::invalid(
            "q",
            "only CREATE DATABASE is served; read through /v1/entities",
        ));
    }
    Ok(Json(QueryBody {
        results: [QueryResult { statement_id: 0 }],
    }))
}

fn creates_database(statement: &str) -> bool {
    let mut words = statement.split_whitespace();
    let mut next_is = |word: &str| {
        words
            .next()
            .is_some_and(|given| given.eq_ignore_ascii_case(word))
    };
    next_is("create") && next_is("database") && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_create_database_is_a_query() {
        for statement in [
            "CREATE DATABASE x",
            "create database \"my db\"",
            "CREATE DATABASE x WITH DURATION 1d;",
        ] {
            assert!(creates_database(statement), "{statement}");
        }
        for statement in [
            "",
            "CREATE DATABASE",
            "SHOW DATABASES",
            "DROP DATABASE x",
            "SELECT * FROM cpu",
        ] {
            assert!(!creates_database(statement), "{statement}");
        }
    }

    #[test]
    fn each_version_has_its_own_precisions() {
        assert!(Dialect::V1.precision("h").is_some() && Dialect::V1.precision("n").is_some());
        assert!(Dialect::V2.precision("us").is_some());
        assert!(Dialect::V2.precision("h").is_none() && Dialect::V2.precision("n").is_none());
    }

    #[test]
    fn the_statuses_have_the_codes_that_clients_know() {
        let known = [
            (400, "invalid"),
            (401, "unauthorized"),
            (413, "request too large"),
            (429, "too many requests"),
            (500, "internal error"),
            (503, "unavailable"),
        ];
        for (status, code) in known {
            assert_eq!(code_of(status), code);
        }
    }
}
