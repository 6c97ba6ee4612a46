//! Errors as PostgreSQL's clients read them: an SQLSTATE, a sentence, and the stable code that the same has over HTTP.

use sheaf_lake::analytics::{Bound, QueryError};

use crate::problem::{Code, Problem, chain};

/// What becomes of the statement or the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The statement has failed.
    Error,
    /// The connection ends.
    Fatal,
    /// Nothing has failed.
    Notice,
}

impl Severity {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Notice => "NOTICE",
        }
    }
}

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) severity: Severity,
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
    pub(super) code: Option<&'static str>,
    pub(super) hint: Option<String>,
}

/// No name and no key, the wrong ones, or ones that are not good any more: the client is not told which.
pub(super) const INVALID_PASSWORD: &str = "28P01";
pub(super) const PROTOCOL_VIOLATION: &str = "08P01";
pub(super) const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub(super) const INVALID_PARAMETER: &str = "22023";
pub(super) const UNKNOWN_SETTING: &str = "42704";
pub(super) const QUERY_CANCELED: &str = "57014";
pub(super) const ADMIN_SHUTDOWN: &str = "57P01";
pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";
pub(super) const PROGRAM_LIMIT: &str = "54000";
pub(super) const IDLE_TIMEOUT: &str = "57P05";
pub(super) const FAILED_TRANSACTION: &str = "25P02";
pub(super) const UNKNOWN_STATEMENT: &str = "26000";
pub(super) const UNKNOWN_PORTAL: &str = "34000";
pub(super) const SYNTAX_OR_ACCESS: &str = "42000";

impl Fault {
    pub(super) fn error(sqlstate: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Error,
            sqlstate,
            message: message.into(),
            code: None,
            hint: None,
        }
    }

    pub(super) fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Fatal,
            ..Fault::error(sqlstate, message)
        }
    }

    pub(super) fn notice(message: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Notice,
            ..Fault::error("00000", message)
        }
    }

    /// The same, and the connection ends.
    pub(super) fn and_ends(self) -> Fault {
        Fault {
            severity: Severity::Fatal,
            ..self
        }
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Fault {
        let sqlstate = match &error {
            QueryError::Refused { .. } => SYNTAX_OR_ACCESS,
            QueryError::Parameter { .. } => INVALID_PARAMETER,
            QueryError::Computation { .. } => "22000",
            QueryError::Limit {
                what: Bound::Memory,
            } => "53200",
            QueryError::Limit {
                what: Bound::Rows | Bound::Pattern,
            } => PROGRAM_LIMIT,
            QueryError::Limit { what: Bound::Time } => QUERY_CANCELED,
            _ => return Problem::from(error).into(),
        };
        Fault {
            sqlstate,
            message: match &error {
                QueryError::Refused { detail } | QueryError::Computation { detail } => {
                    detail.clone()
                }
                error => error.to_string(),
            },
            ..Problem::from(error).into()
        }
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Fault {
        if let (Some(cause), 500..) = (&problem.cause, problem.code.status()) {
            let cause = chain(cause.as_ref());
            match problem.code {
                Code::Internal => tracing::error!(cause, "a question has failed"),
                _ => tracing::warn!(cause, "a question was not answered"),
            }
        }
        Fault {
            severity: Severity::Error,
            sqlstate: sqlstate(problem.code),
            message: problem.detail,
            code: Some(problem.code.as_str()),
            hint: problem.hint,
        }
    }
}

/// What stands for a code; those that no question comes to are told by their status.
fn sqlstate(code: Code) -> &'static str {
    match code {
        Code::LagExceeded | Code::TokenNotReached | Code::StaleTimeline => "55000",
        Code::DatabaseUnavailable => "57P03",
        Code::NotFound => FEATURE_NOT_SUPPORTED,
        code => match code.status() {
            401 => INVALID_PASSWORD,
            403 => "42501",
            422 => PROGRAM_LIMIT,
            429 => "53400",
            503 | 507 => "53000",
            400..500 => INVALID_PARAMETER,
            _ => "XX000",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::CODES;

    #[test]
    fn every_code_has_an_sqlstate_and_what_fails_is_no_success() {
        for row in &CODES {
            let state = sqlstate(row.code);
            assert!(state.len() == 5 && !state.starts_with("00"), "{}", row.name);
        }
        let fault = Fault::from(QueryError::Limit { what: Bound::Time });
        assert_eq!(
            (fault.sqlstate, fault.code),
            (QUERY_CANCELED, Some("query_limit"))
        );
        assert!(fault.hint.is_some());
        let refused = QueryError::Refused {
            detail: "no table x".to_owned(),
        };
        let fault = Fault::from(refused);
        assert_eq!(
            (fault.sqlstate, fault.message.as_str()),
            (SYNTAX_OR_ACCESS, "no table x")
        );
    }
}
