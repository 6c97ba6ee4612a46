//! Errors as clients see them: RFC 9457 problems with a stable code, a safe sentence and the request's id.
//!
//! A handler gives back a [`Problem`] and knows no form. The outermost layer, which knows the request, writes it: as
//! `application/problem+json`, or in the form of InfluxDB on the two routes whose clients expect that.

use std::error::Error;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_ingest::WriteError;
use sheaf_pg::{Disposition, PgError};
use sheaf_query::ReadError;
use sheaf_query::filter::FilterError;

mod code;

pub(crate) use code::{CODES, Code};

use crate::ingest::IngestBody;

/// One fault of a request, where there is a place to point to.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Fault {
    /// The query parameter, header, or member of the body.
    pub(crate) parameter: String,
    /// The code of the fault itself, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'static str>,
    /// For filters, the byte at which the fault stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<usize>,
    /// What is wrong.
    pub(crate) detail: String,
}

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    pub(crate) errors: Vec<Fault>,
    pub(crate) hint: Option<String>,
    pub(crate) retry_after_s: Option<u32>,
    /// What the log says of it, and the client never sees.
    pub(crate) cause: Option<Arc<dyn Error + Send + Sync>>,
    /// For a refused batch, what its answer holds beside.
    pub(crate) batch: Option<Arc<IngestBody>>,
}

/// How long a client waits before it tries again when nothing better is known.
const RETRY_AFTER_S: u32 = 1;

impl Problem {
    /// A problem with this code and sentence.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Problem {
        let is_temporary = matches!(code.status(), 429 | 503);
        Problem {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            hint: None,
            retry_after_s: is_temporary.then_some(RETRY_AFTER_S),
            cause: None,
            batch: None,
        }
    }

    /// A problem of one parameter, header or member.
    pub(crate) fn parameter(code: Code, parameter: &str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        let mut problem = Problem::new(code, format!("{parameter}: {detail}"));
        problem.errors.push(Fault {
            parameter: parameter.to_owned(),
            code: None,
            offset: None,
            detail,
        });
        problem
    }

    /// A value that cannot be used.
    pub(crate) fn invalid(parameter: &str, detail: impl Into<String>) -> Problem {
        Problem::parameter(Code::InvalidParameter, parameter, detail)
    }

    /// Missing, or another tenant's: identical.
    pub(crate) fn not_found() -> Problem {
        Problem::new(Code::NotFound, "there is no such resource")
    }

    /// Our fault.
    pub(crate) fn internal(cause: impl Error + Send + Sync + 'static) -> Problem {
        Problem::new(Code::Internal, "an internal error; the log has its cause").because(cause)
    }

    pub(crate) fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Problem {
        self.cause = Some(Arc::new(cause));
        self
    }

    pub(crate) fn after_s(mut self, seconds: u32) -> Problem {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What stands for an error that the framework made by itself.
    pub(crate) fn of_status(status: StatusCode) -> Problem {
        let (code, detail) = match status.as_u16() {
            404 => return Problem::not_found(),
            405 => (Code::MethodNotAllowed, "the path does not take this method"),
            413 => (Code::BodyTooLarge, "the body is too large"),
            415 => (
                Code::UnsupportedMediaType,
                "the content type is not served here",
            ),
            431 => (Code::HeadersTooLarge, "the headers are too large"),
            400..500 => (Code::InvalidParameter, "the request cannot be read"),
            _ => (Code::Internal, "an internal error"),
        };
        Problem::new(code, detail)
    }

    /// The body of `application/problem+json`.
    pub(crate) fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            kind: format!("/docs/errors/{}", self.code.as_str()),
            title: self.code.row().title,
            status: self.code.status(),
            code: self.code.as_str(),
            detail: self.detail.clone(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
            hint: self.hint.clone(),
            batch: self.batch.clone(),
        }
    }
}

/// The problem travels beside an empty body; the outermost layer writes it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).expect("the table holds statuses");
        let mut response = status.into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"sheaf\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A problem as RFC 9457 writes it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// Where the code is explained.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// Stable, for programs.
    code: &'static str,
    /// What is wrong with this request.
    detail: String,
    /// Finds the request in the server's log.
    request_id: String,
    /// The faults that have a place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    batch: Option<Arc<IngestBody>>,
}

impl From<PgError> for Problem {
    fn from(error: PgError) -> Problem {
        Arc::new(error).into()
    }
}

impl From<Arc<PgError>> for Problem {
    fn from(error: Arc<PgError>) -> Problem {
        let problem = match error.disposition() {
            Disposition::Unavailable => {
                Problem::new(Code::DatabaseUnavailable, "the database cannot be reached")
            }
            Disposition::Retry => {
                Problem::new(Code::Overloaded, "the database is busy with the same rows")
            }
            Disposition::TimedOut => {
                Problem::new(Code::Overloaded, "the database did not answer in time")
            }
            Disposition::StorageFull => {
                Problem::new(Code::StorageFull, "the database has no room left")
            }
            Disposition::Conflict | Disposition::Stop => return Problem::internal(error),
        };
        problem.because(error)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::Body(fault) => fault.into(),
            WriteError::Edit(faults) => {
                let mut problem = Problem::new(
                    Code::InvalidValue,
                    "the edit has values that cannot be stored",
                );
                problem.errors = faults
                    .into_iter()
                    .map(|fault| Fault {
                        parameter: fault.parameter,
                        code: Some(fault.code.as_str()),
                        offset: None,
                        detail: fault.reason,
                    })
                    .collect();
                problem
            }
            WriteError::Precondition => Problem::new(
                Code::VersionMismatch,
                "the entity is not as the request demands",
            ),
            WriteError::NotFound => Problem::not_found(),
            WriteError::KeyReused => Problem::new(
                Code::IdempotencyKeyReused,
                "the idempotency key was used for another request",
            ),
            WriteError::InProgress => Problem::new(
                Code::RequestInProgress,
                "the first request with this idempotency key is still running",
            ),
            WriteError::Overloaded => Problem::new(Code::Overloaded, "the write queue is full"),
            WriteError::OtherLineage => {
                Problem::new(Code::Overloaded, "the database is failing over")
            }
            WriteError::Stopped => Problem::new(Code::Overloaded, "the server is shutting down"),
            WriteError::NoStandby => Problem::parameter(
                Code::AckUnavailable,
                "ack",
                "replicated is not available: PostgreSQL has no synchronous standby; nothing was stored",
            ),
            WriteError::NoStaging => Problem::parameter(
                Code::AckUnavailable,
                "ack",
                "staged is not available on this server; nothing was stored",
            ),
            WriteError::NotReplicated(error) => Problem::parameter(
                Code::AckUnavailable,
                "ack",
                "the write is stored durably on the primary but not known to be replicated; the same again waits again",
            )
            .because(error),
            WriteError::Postgres(error) => error.into(),
        }
    }
}

impl From<sheaf_ingest::decode::BodyFault> for Problem {
    fn from(fault: sheaf_ingest::decode::BodyFault) -> Problem {
        use sheaf_ingest::decode::BodyFault;
        match fault {
            BodyFault::MalformedJson(detail) => Problem::new(Code::MalformedJson, detail),
            BodyFault::UnknownField(name) => {
                Problem::parameter(Code::UnknownParameter, &name, "there is no such member")
            }
            BodyFault::ObservedAt(refusal) => {
                let mut problem = Problem::new(Code::InvalidValue, refusal.reason.clone());
                problem.errors.push(Fault {
                    parameter: "observed_at".to_owned(),
                    code: Some(refusal.code.as_str()),
                    offset: None,
                    detail: refusal.reason,
                });
                problem
            }
            fault @ BodyFault::TooManyEvents => Problem::new(Code::BodyTooLarge, fault.to_string()),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        let code = Code::of_name(error.code());
        match error {
            ReadError::Filter(fault) => fault.into(),
            ReadError::UnknownAttribute { parameter, name } => {
                Problem::parameter(code, parameter, format!("unknown attribute {name:?}"))
            }
            ReadError::InvalidParameter { parameter, detail } => {
                Problem::parameter(code, parameter, detail)
            }
            ReadError::Unbounded { detail, hint } => Problem {
                hint: Some(hint),
                ..Problem::new(code, detail)
            },
            ReadError::Postgres(error) => error.into(),
            error @ (ReadError::MissingAttribute(_) | ReadError::Unfit { .. }) => {
                Problem::internal(error)
            }
            error @ (ReadError::InvalidAggregate { .. }
            | ReadError::InvalidCursor
            | ReadError::InvalidToken
            | ReadError::StaleTimeline
            | ReadError::LaterTimeline
            | ReadError::TokenNotReached { .. }
            | ReadError::LagExceeded { .. }
            | ReadError::PrimaryCrowded
            | ReadError::QueryLimit { .. }
            | ReadError::CatalogueChanged
            | ReadError::Archive(_)) => Problem::new(code, error.to_string()).because(error),
        }
    }
}

impl From<FilterError> for Problem {
    fn from(fault: FilterError) -> Problem {
        let detail = fault.to_string();
        let mut problem = Problem::new(Code::of_name(fault.code()), detail.clone());
        problem.errors.push(Fault {
            parameter: "filter".to_owned(),
            code: None,
            offset: Some(fault.offset()),
            detail,
        });
        problem
    }
}

/// An error with everything behind it on one line, as the log keeps it.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    const CHARS_MAX: usize = 2_000;
    sheaf_pg::chain(error)
        .chars()
        .take(CHARS_MAX)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_once_and_its_name_is_unique() {
        for (place, row) in CODES.iter().enumerate() {
            assert_eq!(
                row.code as usize, place,
                "{} is out of order or missing",
                row.name
            );
            assert_eq!(
                CODES.iter().filter(|other| other.name == row.name).count(),
                1,
                "{}",
                row.name
            );
            assert!(StatusCode::from_u16(row.status).is_ok(), "{}", row.name);
        }
    }

    #[test]
    fn a_temporary_problem_says_when_to_try_again() {
        for row in &CODES {
            let problem = Problem::new(row.code, "x");
            assert_eq!(
                problem.retry_after_s.is_some(),
                matches!(row.status, 429 | 503),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn the_log_gets_the_whole_chain_on_one_line() {
        let fault = sheaf_ingest::WriteError::Body(sheaf_ingest::decode::BodyFault::MalformedJson(
            "a\nb".to_owned(),
        ));
        assert_eq!(chain(&fault), "reading the body: a b");
    }
}
