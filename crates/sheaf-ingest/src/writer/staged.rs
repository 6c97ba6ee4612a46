//! Requests that are to be staged, on their way to the staging table or back to the durable way.

use std::collections::BTreeSet;

use sheaf_model::BatchId;
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::ledger::{Counts, EarlierRequest, LedgerEntry, Outcome};
use sheaf_store::rejections::NewRejection;
use sheaf_store::staging::{StagedStatus, fetch_staged_status};

use super::answer::{Written, answer};
use super::earlier::Ticket;
use super::{Inner, Writer};
use crate::lane::StoredPart;
use crate::plan::GroupEvent;
use crate::request::{Ack, IngestAnswer, IngestRequest, OnError, WriteError};
use crate::staging::{StagedAnswer, Staging};

/// Where a request goes that is to be staged.
pub(super) enum StagedWay {
    /// It ends here.
    Answered(Box<IngestAnswer>),
    /// It was there before.
    Earlier(EarlierRequest),
    /// The durable way.
    Durable,
}

impl Writer {
    /// What is true of a batch that was staged; absent if none with this id was.
    pub async fn staged_status(
        &self,
        scope: &TenantScope,
        batch: BatchId,
    ) -> Result<Option<StagedStatus>, PgError> {
        let app = &self.inner.app;
        match &self.staging {
            Some(staging) => staging.status(app, scope, batch).await,
            None => fetch_staged_status(app, scope, batch).await,
        }
    }
}

impl Inner {
    /// Stages a typed request, if it can be. What stores nothing is written down durably; and what wants all or nothing
    /// is decided where its events meet what is stored, which is after the answer to a staged one.
    pub(super) async fn stage(
        &self,
        staging: Option<&Staging>,
        scope: &TenantScope,
        request: &IngestRequest,
        ticket: &Ticket,
        (entry, events, refusals): (&LedgerEntry, &[GroupEvent], &[NewRejection]),
        written: &mut Written,
    ) -> Result<StagedWay, WriteError> {
        let Some(staging) = staging.filter(|_| stages(request, ticket, entry, events)) else {
            return Ok(StagedWay::Durable);
        };
        let bucket = |event: &GroupEvent| self.settings.bucket(event.tenant, event.entity);
        let buckets: BTreeSet<i32> = events.iter().map(bucket).collect();
        let entry = LedgerEntry {
            ack: Ack::Staged.as_str(),
            buckets: buckets.into_iter().collect(),
            ..entry.clone()
        };
        match staging.stage(scope, &entry, events, refusals).await? {
            StagedAnswer::Staged { values } => {
                let counts = Counts {
                    values,
                    ..Counts::default()
                };
                let staged = StoredPart {
                    counts,
                    rejections: Vec::new(),
                    document: None,
                };
                written.count_opened(&entry, refusals);
                written.count_part(&staged);
                let refusals = refusals.to_vec();
                let answer = answer(&entry, refusals, vec![staged], None, &request.format);
                Ok(StagedWay::Answered(Box::new(answer)))
            }
            StagedAnswer::TurnDurable => Ok(StagedWay::Durable),
            StagedAnswer::AlreadyThere => {
                Ok(StagedWay::Earlier(self.require(scope, ticket).await?))
            }
        }
    }
}

/// Whether a request may be staged, if the flushes are not behind.
fn stages(
    request: &IngestRequest,
    ticket: &Ticket,
    entry: &LedgerEntry,
    events: &[GroupEvent],
) -> bool {
    request.ack == Ack::Staged
        && request.on_error == OnError::Partial
        && entry.outcome == Outcome::Stored
        && ticket.missing.is_none()
        && !events.is_empty()
        && events.len() <= STAGED_EVENTS_MAX
}

/// Events of one request that are staged; a larger one is stored durably, and its answer says so. A flush moves whole
/// requests, and holds the locks of their buckets meanwhile.
const STAGED_EVENTS_MAX: usize = 10_000;
