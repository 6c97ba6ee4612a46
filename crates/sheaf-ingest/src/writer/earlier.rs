//! Requests that came before: how a retry finds its first, and what it is answered or has left to do.

use std::collections::HashSet;

use sheaf_model::{BatchId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::ledger::{
    Counts, EarlierRequest, LedgerEntry, LedgerRecord, Outcome, fetch_request,
};
use sheaf_store::rejections::fetch_batch_rejections;
use sheaf_store::staging::StagedRequest;

use super::{Inner, LISTED_MAX};
use crate::decode::quote_line;
use crate::request::{Ack, IngestAnswer, WriteError};

/// How a request is found in the ledger, and what of it is there.
pub(super) struct Ticket {
    pub(super) key: String,
    /// Empty where no retry can name the request.
    pub(super) hash: Vec<u8>,
    pub(super) batch: BatchId,
    /// The buckets that are to be written, where the request was opened before; else all of them.
    pub(super) missing: Option<HashSet<i32>>,
    /// What it was opened with.
    pub(super) opened: Option<Opened>,
    /// Parts of it may be there already although nobody has opened it.
    pub(super) is_doubtful: bool,
}

/// What a request was opened with, which its retry must come to again.
pub(super) struct Opened {
    pub(super) received_at: Timestamp,
    refused: i32,
    buckets: Vec<i32>,
}

impl Ticket {
    pub(super) fn new(key: String, hash: Vec<u8>, batch: BatchId) -> Ticket {
        Ticket {
            key,
            hash,
            batch,
            missing: None,
            opened: None,
            is_doubtful: false,
        }
    }

    /// The ticket of a request that is read anew: parts of it may have been stored before.
    pub(super) fn again(&self, runs: u32) -> Ticket {
        Ticket {
            is_doubtful: runs > 0,
            ..Ticket::new(self.key.clone(), self.hash.clone(), self.batch)
        }
    }

    /// Refuses to go on with a request that the catalogue of now makes another one of: events that were stored would be
    /// refused, or the other way round, and nobody could say so in one answer.
    pub(super) fn check(&self, entry: &LedgerEntry) -> Result<(), WriteError> {
        match &self.opened {
            Some(opened) if opened.refused != entry.refused || opened.buckets != entry.buckets => {
                Err(WriteError::KeyReused)
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn resuming(self, record: LedgerRecord) -> Ticket {
        Ticket {
            batch: record.batch,
            missing: Some(record.missing.into_iter().collect()),
            opened: Some(Opened {
                received_at: record.received_at,
                refused: record.refused_at_first,
                buckets: record.buckets,
            }),
            ..self
        }
    }

    pub(super) fn has_key(&self) -> bool {
        !self.hash.is_empty()
    }
}

/// What a request that was there before makes of its retry.
pub(super) enum Known {
    /// It is answered.
    Answered(Box<IngestAnswer>),
    /// Parts of it are to be written yet.
    Unfinished(Ticket),
}

impl Inner {
    /// The request of a ticket, if it came before and is the same.
    pub(super) async fn fetch(
        &self,
        scope: &TenantScope,
        ticket: &Ticket,
    ) -> Result<Option<EarlierRequest>, WriteError> {
        let found = fetch_request(&self.app, scope, &ticket.key).await?;
        match found {
            Some(earlier) if earlier.request_hash() != ticket.hash => Err(WriteError::KeyReused),
            found => Ok(found),
        }
    }

    /// The first answer once more; or what is left to do, where not all of it is written.
    pub(super) async fn replay_or_resume(
        &self,
        scope: &TenantScope,
        earlier: EarlierRequest,
        ticket: Ticket,
    ) -> Result<Known, WriteError> {
        let answer = match earlier {
            EarlierRequest::Staged(staged) => self.replay_staged(scope, &staged).await?,
            EarlierRequest::Stored(record) if record.missing.is_empty() => {
                self.replay(scope, &record).await?
            }
            EarlierRequest::Stored(record) => {
                return Ok(Known::Unfinished(ticket.resuming(record)));
            }
        };
        Ok(Known::Answered(Box::new(answer)))
    }

    /// The request of a ticket whose key was just found taken.
    pub(super) async fn require(
        &self,
        scope: &TenantScope,
        ticket: &Ticket,
    ) -> Result<EarlierRequest, WriteError> {
        let earlier = self.fetch(scope, ticket).await?;
        // One that was staged may have been lost between the two looks.
        earlier.ok_or(WriteError::Overloaded)
    }

    /// The first answer once more, from the ledger; only the position is read anew.
    async fn replay(
        &self,
        scope: &TenantScope,
        record: &LedgerRecord,
    ) -> Result<IngestAnswer, WriteError> {
        let listed_max = i64::try_from(LISTED_MAX).expect("a small number");
        let kept = fetch_batch_rejections(&self.app, scope, record.batch, listed_max).await?;
        let position = self.read_position(scope).await?;
        Ok(IngestAnswer {
            batch: record.batch,
            ack: record.ack.clone(),
            outcome: record.outcome,
            events: record.events,
            counts: record.counts,
            rejected: kept.first,
            first_bad_line: kept.first_raw.map(|raw| quote_line(&raw)),
            bad_events: kept.bad_events,
            position: Some(position),
            replayed: true,
            written: 0,
        })
    }

    /// The first answer of a staged request once more: the same before and after its flush.
    async fn replay_staged(
        &self,
        scope: &TenantScope,
        staged: &StagedRequest,
    ) -> Result<IngestAnswer, WriteError> {
        let listed_max = i64::try_from(LISTED_MAX).expect("a small number");
        let kept = fetch_batch_rejections(&self.app, scope, staged.batch, listed_max).await?;
        Ok(IngestAnswer {
            batch: staged.batch,
            ack: Ack::Staged.as_str().to_owned(),
            outcome: Outcome::Stored,
            events: staged.events,
            counts: Counts {
                values: staged.values,
                refused: staged.refused,
                ..Counts::default()
            },
            rejected: kept.first,
            first_bad_line: kept.first_raw.map(|raw| quote_line(&raw)),
            bad_events: kept.bad_events,
            position: None,
            replayed: true,
            written: 0,
        })
    }
}
