//! What became of a batch, by what the ledger and the staging table have of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_ingest::Ack;
use sheaf_model::{BatchId, Timestamp};
use sheaf_store::ledger::{Counts, LedgerRecord, Outcome, fetch_batch};
use sheaf_store::staging::{StagedState, StagedStatus};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::freshness::{read_fresh, read_headers, read_options, token_text};
use crate::params::{Params, Segments};
use crate::problem::Problem;
use crate::state::AppState;

/// What became of a batch. Numbers that are not known yet, or not known any more, are null.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchBody {
    #[schema(value_type = String)]
    batch_id: BatchId,
    /// `staged`, `durable`, `refused`, `lost`, or `unknown`: while parts of it are not written, or where a crash of
    /// PostgreSQL may have taken a staged one without a trace.
    status: &'static str,
    /// What was asked for: an answer gives it only once it holds, and `status` is what is known now.
    ack: String,
    events: Option<i64>,
    values: Option<i64>,
    accepted: Option<i64>,
    duplicates: Option<i64>,
    merged: Option<i64>,
    corrected: Option<i64>,
    refused: Option<i64>,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    #[schema(value_type = Option<String>)]
    durable_at: Option<Timestamp>,
    token: Option<String>,
}

/// What is known of a batch as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It waits for its flush.
    Staged,
    /// All of it that is good is stored.
    Durable,
    /// Nothing of it is: it was bad.
    Refused,
    /// Nothing of it is: a crash of PostgreSQL took it.
    Lost,
    /// Not all of its parts are written, and nobody here writes them: its request is running, or broke off. Or nobody
    /// knows of it, and it may have been staged before a crash.
    Unknown,
}

impl Standing {
    /// `outcome` is the one that it came to, where it is whole.
    fn of(outcome: Outcome, is_whole: bool) -> Standing {
        match outcome {
            Outcome::AllRefused | Outcome::BatchRefused => Standing::Refused,
            Outcome::Stored if !is_whole => Standing::Unknown,
            Outcome::Stored => Standing::Durable,
        }
    }

    fn of_staged(status: &StagedStatus) -> Standing {
        match status.state {
            StagedState::Staged => Standing::Staged,
            StagedState::Durable => {
                let outcome = Outcome::Stored.settled(status.events, &status.counts);
                Standing::of(outcome, true)
            }
            StagedState::Lost => Standing::Lost,
            StagedState::Unknown => Standing::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Standing::Staged => "staged",
            Standing::Durable => "durable",
            Standing::Refused => "refused",
            Standing::Lost => "lost",
            Standing::Unknown => "unknown",
        }
    }
}

impl BatchBody {
    fn of_record(record: LedgerRecord) -> (Standing, BatchBody) {
        let is_whole = record.missing.is_empty();
        let standing = Standing::of(record.outcome, is_whole);
        let body = BatchBody {
            ack: record.ack,
            durable_at: Some(record.durable_at),
            ..BatchBody::of(
                record.batch,
                standing,
                record.events,
                &record.counts,
                record.received_at,
            )
        };
        (standing, body)
    }

    fn of_staged(batch: BatchId, status: &StagedStatus) -> (Standing, BatchBody) {
        let standing = Standing::of_staged(status);
        let counts = &status.counts;
        let mut body = BatchBody {
            durable_at: status.durable_at,
            ..BatchBody::of(batch, standing, status.events, counts, status.received_at)
        };
        if matches!(standing, Standing::Staged | Standing::Unknown) {
            (body.accepted, body.duplicates) = (None, None);
            (body.merged, body.corrected) = (None, None);
        }
        if standing == Standing::Lost {
            body.values = Some(0);
        }
        if standing == Standing::Unknown {
            (body.events, body.values, body.refused) = (None, None, None);
        }
        (standing, body)
    }

    fn of(
        batch: BatchId,
        standing: Standing,
        events: i64,
        counts: &Counts,
        received_at: Timestamp,
    ) -> BatchBody {
        BatchBody {
            batch_id: batch,
            status: standing.as_str(),
            ack: Ack::Staged.as_str().to_owned(),
            events: Some(events),
            values: Some(counts.values),
            accepted: Some(counts.accepted),
            duplicates: Some(counts.duplicates),
            merged: Some(counts.merged),
            corrected: Some(counts.corrected),
            refused: Some(counts.refused),
            received_at,
            durable_at: None,
            token: None,
        }
    }
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
    let find = async {
        let staged = state.writer.staged_status(&scope, batch).await?;
        Ok(match staged {
            Some(status) => Some(BatchBody::of_staged(batch, &status)),
            None => {
                let record = fetch_batch(&state.app, &scope, batch).await?;
                record.map(BatchBody::of_record)
            }
        })
    };
    let (found, freshness) = read_fresh(&state, &options, find).await?;
    let (standing, mut body) = found.ok_or_else(Problem::not_found)?;
    if standing == Standing::Durable {
        body.token = Some(token_text(freshness.position, scope.tenant(), &state));
    } else {
        body.durable_at = None;
    }
    Ok((read_headers(&freshness, scope.tenant(), &state), Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(events: i64, accepted: i64) -> Counts {
        Counts {
            accepted,
            refused: events - accepted,
            ..Counts::default()
        }
    }

    #[test]
    fn a_batch_is_durable_once_all_of_it_that_is_good_is_stored() {
        for (outcome, events, accepted, is_whole, status) in [
            (Outcome::Stored, 2, 2, true, "durable"),
            (Outcome::Stored, 2, 1, true, "durable"),
            (Outcome::Stored, 0, 0, true, "durable"),
            (Outcome::Stored, 2, 0, true, "refused"),
            (Outcome::Stored, 2, 1, false, "unknown"),
            (Outcome::AllRefused, 2, 0, true, "refused"),
            (Outcome::BatchRefused, 2, 0, true, "refused"),
        ] {
            let outcome = outcome.settled(events, &counts(events, accepted));
            let standing = Standing::of(outcome, is_whole);
            assert_eq!(standing.as_str(), status, "{outcome:?} {events} {accepted}");
        }
    }

    #[test]
    fn of_a_staged_batch_only_what_is_known_has_a_number() {
        for (state, accepted, status, known) in [
            (StagedState::Staged, 0, "staged", (Some(2), None, Some(1))),
            (
                StagedState::Durable,
                1,
                "durable",
                (Some(2), Some(1), Some(1)),
            ),
            (
                StagedState::Durable,
                0,
                "refused",
                (Some(2), Some(0), Some(2)),
            ),
            (StagedState::Lost, 0, "lost", (Some(2), Some(0), Some(1))),
            (StagedState::Unknown, 0, "unknown", (None, None, None)),
        ] {
            let refused = known.2.unwrap_or(0);
            let staged = StagedStatus {
                state,
                events: 2,
                counts: Counts {
                    accepted,
                    refused,
                    ..Counts::default()
                },
                received_at: Timestamp::MIN,
                durable_at: None,
            };
            let (_, body) = BatchBody::of_staged(BatchId::new(), &staged);
            assert_eq!(body.status, status);
            assert_eq!(
                (body.events, body.accepted, body.refused),
                known,
                "{status}"
            );
            assert_eq!(body.ack, "staged");
        }
    }
}
