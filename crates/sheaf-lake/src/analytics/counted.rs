//! Questions as they are counted: how each ended, how long it took, and what it read.

use std::sync::Arc;

use tokio::time::Instant;

use super::error::QueryError;
use super::scan::Tally;
use crate::instruments::{
    SQL_QUESTIONS_TOTAL, SQL_RUNNING, SQL_SCANNED_BYTES_TOTAL, SQL_SECONDS, SQL_WAITING,
};

/// A question that is being answered. It is counted when this is dropped, however that comes.
#[derive(Debug)]
pub(crate) struct Counted {
    since: Instant,
    tally: Arc<Tally>,
    result: &'static str,
}

impl Counted {
    pub(crate) fn begin(tally: Arc<Tally>) -> Counted {
        metrics::gauge!(SQL_RUNNING).increment(1.0);
        Counted {
            since: Instant::now(),
            tally,
            // Until it ends otherwise.
            result: "left",
        }
    }

    /// It ended so.
    pub(crate) fn ended(&mut self, outcome: Result<(), &QueryError>) {
        self.result = match outcome {
            Ok(()) => "answered",
            Err(error) => result_of(error),
        };
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(SQL_RUNNING).decrement(1.0);
        metrics::counter!(SQL_QUESTIONS_TOTAL, "result" => self.result).increment(1);
        metrics::histogram!(SQL_SECONDS).record(self.since.elapsed().as_secs_f64());
        metrics::counter!(SQL_SCANNED_BYTES_TOTAL).increment(self.tally.scanned().bytes);
    }
}

fn result_of(error: &QueryError) -> &'static str {
    match error {
        QueryError::Refused { .. } | QueryError::Parameter { .. } => "refused",
        QueryError::Limit { .. } => "limited",
        QueryError::Computation { .. } => "computation",
        QueryError::Empty
        | QueryError::Superseded { .. }
        | QueryError::Postgres(_)
        | QueryError::Damaged { .. }
        | QueryError::Internal { .. } => "failed",
    }
}

/// A question that waits for its token.
#[derive(Debug)]
pub(crate) struct Waiting;

impl Waiting {
    pub(crate) fn begin() -> Waiting {
        metrics::gauge!(SQL_WAITING).increment(1.0);
        Waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::gauge!(SQL_WAITING).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Bound;
    use super::*;
    use crate::instruments::SQL_RESULTS;

    #[test]
    fn every_end_has_a_name_that_is_there_from_the_start() {
        for (error, wanted) in [
            (QueryError::refused("x"), "refused"),
            (QueryError::limit(Bound::Time), "limited"),
            (QueryError::Empty, "failed"),
            (
                QueryError::Computation {
                    detail: String::new(),
                },
                "computation",
            ),
        ] {
            assert_eq!(result_of(&error), wanted);
            assert!(SQL_RESULTS.contains(&wanted));
        }
        let mut counted = Counted::begin(Arc::default());
        assert!(SQL_RESULTS.contains(&counted.result));
        counted.ended(Ok(()));
        assert!(SQL_RESULTS.contains(&counted.result));
    }
}
