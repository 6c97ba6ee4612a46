//! Why a question is not answered.

use std::error::Error;

use arrow_schema::ArrowError;
use datafusion::common::DataFusionError;
use sheaf_pg::PgError;

use crate::error::{Cause, LakeError};

/// A sentence about a fault of the query may quote the query: at most so much of it.
const DETAIL_BYTES_MAX: usize = 400;

/// Why a question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It is not a single SELECT, names what is not there, or cannot be read as typed.
    #[error("{detail}")]
    Refused {
        /// Why, in a safe sentence.
        detail: String,
    },
    /// A parameter does not fit.
    #[error("parameter ${number}: {detail}")]
    Parameter {
        /// Which, from 1.
        number: usize,
        /// Why, in a safe sentence.
        detail: String,
    },
    /// It needs more than it may have.
    #[error("the query needs more {what} than it may have")]
    Limit {
        /// Of what.
        what: Bound,
    },
    /// It was computed with values that the computation is not defined for, such as a division by zero.
    #[error("{detail}")]
    Computation {
        /// What went wrong, in a safe sentence.
        detail: String,
    },
    /// The lake was never begun.
    #[error("the lake holds nothing yet")]
    Empty,
    /// The state of the lake that it began with is not kept any more. Asked again it begins with the newest.
    #[error("the state of the lake that the query began with is not kept any more; ask again")]
    Superseded {
        /// What is gone.
        #[source]
        source: Cause,
    },
    /// A file that it needs is damaged: asked again it is no better.
    #[error("a file of the lake is damaged")]
    Damaged {
        /// Which, and where.
        #[source]
        source: Cause,
    },
    /// PostgreSQL could not be asked.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// Our fault.
    #[error("{step}")]
    Internal {
        /// What was being attempted.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

/// What a question may have so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Memory.
    Memory,
    /// Rows that are read.
    Rows,
    /// Time.
    Time,
    /// Room for a regular expression.
    Pattern,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Bound::Memory => "memory",
            Bound::Rows => "rows",
            Bound::Time => "time",
            Bound::Pattern => "room for a regular expression",
        })
    }
}

impl QueryError {
    pub(crate) fn refused(detail: impl Into<String>) -> QueryError {
        QueryError::Refused {
            detail: shortened(detail.into()),
        }
    }

    pub(crate) fn limit(what: Bound) -> QueryError {
        QueryError::Limit { what }
    }

    /// What went wrong while the question was planned: mostly it, not we.
    pub(crate) fn of_planning(error: DataFusionError) -> QueryError {
        QueryError::of(error, Stage::Planning)
    }

    /// What went wrong while it was answered.
    pub(crate) fn of_running(error: DataFusionError) -> QueryError {
        QueryError::of(error, Stage::Running)
    }

    fn of(error: DataFusionError, stage: Stage) -> QueryError {
        if let Some(Exceeded(bound)) = cause_of(&error) {
            return QueryError::limit(*bound);
        }
        match cause_of(&error) {
            Some(LakeError::Missing { .. }) => {
                return QueryError::Superseded {
                    source: Box::new(error),
                };
            }
            Some(LakeError::Damaged { .. }) => {
                return QueryError::Damaged {
                    source: Box::new(error),
                };
            }
            Some(_) | None => {}
        }
        if let Some(text) = fault_of_pattern(&error) {
            let reason = reason(&text);
            return match is_too_large(reason) {
                true => QueryError::limit(Bound::Pattern),
                false => QueryError::refused(format!("no regular expression: {reason}")),
            };
        }
        let text = match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => return QueryError::limit(Bound::Memory),
            DataFusionError::SQL(fault, _) => Some(fault.to_string()),
            DataFusionError::SchemaError(fault, _) => Some(fault.to_string()),
            DataFusionError::Plan(text)
            | DataFusionError::NotImplemented(text)
            | DataFusionError::Configuration(text) => Some(text.clone()),
            DataFusionError::ArrowError(fault, _) => Some(fault.to_string()),
            DataFusionError::Execution(text) => Some(text.clone()),
            DataFusionError::Diagnostic(_, inner) => Some(inner.to_string()),
            _ => None,
        };
        match (text, stage) {
            (Some(text), Stage::Planning) => QueryError::refused(text),
            (Some(text), Stage::Running) => QueryError::Computation {
                detail: shortened(text),
            },
            (None, _) => QueryError::Internal {
                step: match stage {
                    Stage::Planning => "planning a query",
                    Stage::Running => "answering a query",
                },
                source: Box::new(error),
            },
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Planning,
    Running,
}

/// A bound that was passed, as it goes through the engine.
#[derive(Debug, thiserror::Error)]
#[error("more {0} than a query may have")]
pub(crate) struct Exceeded(pub(crate) Bound);

impl From<Exceeded> for DataFusionError {
    fn from(exceeded: Exceeded) -> DataFusionError {
        DataFusionError::External(Box::new(exceeded))
    }
}

/// What is wrong with a regular expression, in the words of whoever has read it: the optimizer, whose error has a type of a crate
/// that nothing here names, or those that compile one, one of whom takes it for a fault of its own.
fn fault_of_pattern(error: &DataFusionError) -> Option<String> {
    const COMPILING: &str = "Regular expression did not compile: ";
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let text = match (error.downcast_ref(), error.downcast_ref()) {
            (Some(DataFusionError::Context(what, inner)), _) if what == "Invalid regex" => {
                return Some(inner.find_root().to_string());
            }
            (Some(DataFusionError::Execution(text) | DataFusionError::Internal(text)), _)
            | (_, Some(ArrowError::ComputeError(text))) => text.split_once(COMPILING),
            _ => None,
        };
        if let Some((_, text)) = text {
            return Some(text.to_owned());
        }
        next = error.source();
    }
    None
}

/// Why: those who point at a place take several lines.
fn reason(text: &str) -> &str {
    let mut lines = text.lines();
    let said = lines.find_map(|line| line.strip_prefix("error: "));
    said.or_else(|| text.lines().next()).unwrap_or_default()
}

/// Whether a regular expression is one, but takes more than it may.
fn is_too_large(reason: &str) -> bool {
    reason.contains("CompiledTooBig") || reason.contains("exceed")
}

/// What is behind an error of the engine, through whatever crates it came.
fn cause_of<T: Error + 'static>(error: &DataFusionError) -> Option<&T> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The first line, and of that the beginning.
fn shortened(mut text: String) -> String {
    let end = text.find('\n').unwrap_or(text.len());
    let end = text.floor_char_boundary(end.min(DETAIL_BYTES_MAX));
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use parquet::errors::ParquetError;

    use super::*;

    #[test]
    fn what_stopped_a_question_is_found_through_whatever_it_came() {
        let missing = || LakeError::Missing {
            location: "file".to_owned(),
        };
        let by_the_reader = ParquetError::External(Box::new(missing()));
        let shared = DataFusionError::External(Box::new(missing()));
        let inner = DataFusionError::External(Box::new(missing()));
        for error in [
            DataFusionError::External(Box::new(missing())),
            DataFusionError::External(Box::new(by_the_reader)),
            DataFusionError::Shared(std::sync::Arc::new(shared)),
            DataFusionError::Context("reading".to_owned(), Box::new(inner)),
        ] {
            let found = QueryError::of_running(error);
            assert!(matches!(found, QueryError::Superseded { .. }), "{found:?}");
        }
        let compiling = |why: &str| format!("Regular expression did not compile: {why}");
        let pattern = |text: &str| {
            let inner = DataFusionError::External(text.into());
            DataFusionError::Context("Invalid regex".to_owned(), Box::new(inner))
        };
        for error in [
            pattern(
                "regex parse error:\n    (((\nerror: exceed the maximum number of nested parentheses/brackets (250)",
            ),
            DataFusionError::Execution(compiling("CompiledTooBig(10485760)")),
            DataFusionError::Internal(format!("failed: {}", compiling("CompiledTooBig(10485760)"))),
            ArrowError::ComputeError(compiling("CompiledTooBig(10485760)")).into(),
        ] {
            let found = QueryError::of_planning(error);
            let what = Bound::Pattern;
            assert!(
                matches!(found, QueryError::Limit { what: found } if found == what),
                "{found:?}"
            );
        }
        let found = QueryError::of_planning(pattern(
            "regex parse error:\n    (\n    ^\nerror: unclosed group",
        ));
        assert_eq!(found.to_string(), "no regular expression: unclosed group");
        let bound = DataFusionError::from(Exceeded(Bound::Rows)).context("reading");
        let found = QueryError::of_running(bound);
        assert!(matches!(found, QueryError::Limit { what: Bound::Rows }));
        let other = LakeError::NotAsked;
        let found = QueryError::of_running(DataFusionError::External(Box::new(other)));
        assert!(matches!(found, QueryError::Internal { .. }), "{found:?}");
    }
}
