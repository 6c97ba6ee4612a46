//! The events of a body on their way into the history: staged, or committed in parts, round after round, until all are
//! there; a retry goes on where its first broke off.

use std::sync::Arc;

use futures::future::join_all;
use sha2::{Digest, Sha256};
use sheaf_model::{BatchId, Position};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::ledger::{LedgerEntry, Opening, Outcome, open_request};
use sheaf_store::rejections::{NewRejection, Reading};

use super::Inner;
use super::answer::{Written, answer};
use super::division::Division;
use super::earlier::{Known, Ticket};
use super::staged::StagedWay;
use crate::lane::{EventSource, PartKind, PartOutcome, Request, StoredPart};
use crate::plan::GroupEvent;
use crate::request::{Ack, IngestAnswer, IngestRequest, OnError, WriteError};
use crate::staging::Staging;

/// How often a request asks for its missing parts while other servers write them, too.
const ROUNDS_MAX: usize = 8;

/// A request that is read: what the ledger is to say of it, and what is to be written.
struct Prepared {
    catalogue: Arc<Catalogue>,
    entry: LedgerEntry,
    events: Vec<GroupEvent>,
    sources: Vec<EventSource>,
    refusals: Vec<NewRejection>,
    reading: Reading,
}

/// What the parts of a request came to in one round.
enum Round {
    /// All of them are stored by this call.
    Whole(Vec<StoredPart>, Position),
    /// Some were there before, or are written elsewhere.
    Shared,
    /// The plan refused a request that wants all or nothing.
    Refused(Vec<NewRejection>),
}

impl Inner {
    pub(super) async fn store(
        &self,
        staging: Option<&Staging>,
        scope: &TenantScope,
        request: &IngestRequest,
        written: &mut Written,
    ) -> Result<IngestAnswer, WriteError> {
        let _turn = self.turn(request.body.len()).await?;
        let batch = BatchId::new();
        let (key, hash) = match &request.idempotency_key {
            Some(key) => (format!("k:{key}"), hash_of(request)),
            None => (batch.to_string(), Vec::new()),
        };
        let ticket = Ticket::new(key, hash, batch);
        let _running = if ticket.has_key() {
            Some(self.enter(scope, &ticket.key)?)
        } else {
            None
        };
        let mut runs = 0;
        let mut looked_again = false;
        loop {
            let ticket = ticket.again(runs);
            let stored = self.store_or_resume(staging, scope, request, ticket, written);
            let ended = stored.await;
            // The same request may have been opened elsewhere while this call read it as of its own time, which decides how
            // far ahead events may be. The next look finds it, and reads as of when it was opened.
            let may_be_the_same = matches!(ended, Err(WriteError::KeyReused));
            if may_be_the_same && !std::mem::replace(&mut looked_again, true) {
                continue;
            }
            if !self.begins_anew(scope, &ended, &mut runs).await? {
                return ended;
            }
        }
    }

    /// Answers a request that came before, or writes what is missing of it.
    async fn store_or_resume(
        &self,
        staging: Option<&Staging>,
        scope: &TenantScope,
        request: &IngestRequest,
        mut ticket: Ticket,
        written: &mut Written,
    ) -> Result<IngestAnswer, WriteError> {
        if (ticket.has_key() || ticket.is_doubtful)
            && let Some(earlier) = self.fetch(scope, &ticket).await?
        {
            match self.replay_or_resume(scope, earlier, ticket).await? {
                Known::Answered(answer) => return Ok(written.charged(*answer)),
                Known::Unfinished(unfinished) => ticket = unfinished,
            }
        }
        // What is left of a request is read as of when it first came: its times are as far ahead as they were.
        let mut request = request.clone();
        if let Some(opened) = &ticket.opened {
            request.received_at = opened.received_at;
        }
        let stored = self.store_once(staging, scope, &request, ticket, written);
        let answer = stored.await?;
        Ok(written.charged(answer))
    }

    async fn store_once(
        &self,
        staging: Option<&Staging>,
        scope: &TenantScope,
        request: &IngestRequest,
        mut ticket: Ticket,
        written: &mut Written,
    ) -> Result<IngestAnswer, WriteError> {
        let mut prepared = self.preparation(scope, request, &ticket).await?;
        let way = self.stage(
            staging,
            scope,
            request,
            &ticket,
            (&prepared.entry, &prepared.events, &prepared.refusals),
            written,
        );
        match way.await? {
            StagedWay::Answered(answer) => return Ok(*answer),
            StagedWay::Earlier(earlier) => {
                match self.replay_or_resume(scope, earlier, ticket).await? {
                    Known::Answered(answer) => return Ok(*answer),
                    Known::Unfinished(unfinished) => ticket = unfinished,
                }
                prepared.entry.batch = ticket.batch;
            }
            StagedWay::Durable => {}
        }
        let kind = match request.on_error {
            OnError::Reject => PartKind::AllOrNothing,
            OnError::Partial => PartKind::Bulk,
        };
        let Prepared {
            catalogue,
            mut entry,
            events,
            sources,
            refusals,
            reading,
        } = prepared;
        let mut division = Division::new(self, kind, events, refusals);
        entry.buckets = division.buckets();
        ticket.check(&entry)?;
        let opens_alone = opens_alone(request, &ticket, division.parts());
        let mut opened = Vec::new();
        if ticket.missing.is_none() && opens_alone {
            opened = std::mem::take(&mut division.of_none);
            match open_request(&self.writer, scope, &entry, &opened).await? {
                Opening::Opened => written.count_opened(&entry, &opened),
                Opening::OtherLineage => return Err(WriteError::OtherLineage),
                Opening::Taken => {
                    // Another server was first with this key: what it has not written is written here.
                    let earlier = self.require(scope, &ticket).await?;
                    match self.replay_or_resume(scope, earlier, ticket).await? {
                        Known::Answered(answer) => return Ok(*answer),
                        Known::Unfinished(unfinished) => ticket = unfinished,
                    }
                    ticket.check(&entry)?;
                    entry.batch = ticket.batch;
                }
            }
        }
        let mut job = Arc::new(Request {
            scope: scope.clone(),
            catalogue,
            entry,
            sources,
            reading,
            now: request.received_at,
        });
        for _ in 0..ROUNDS_MAX {
            let opens = ticket.missing.is_none() && !opens_alone;
            match self
                .commit_round(&division, &job, &ticket, opens, written)
                .await?
            {
                Round::Whole(parts, position) => {
                    let (entry, position) = (&job.entry, Some(position));
                    return Ok(answer(entry, opened, parts, position, &request.format));
                }
                Round::Refused(refused) => {
                    return self.refuse_batch(&job, request, refused, written).await;
                }
                Round::Shared => {}
            }
            let earlier = self.require(scope, &ticket).await?;
            match self.replay_or_resume(scope, earlier, ticket).await? {
                Known::Answered(answer) => return Ok(*answer),
                Known::Unfinished(unfinished) => ticket = unfinished,
            }
            ticket.check(&job.entry)?;
            // Another server may have opened it, under its own number.
            Arc::make_mut(&mut job).entry.batch = ticket.batch;
        }
        Err(WriteError::Overloaded)
    }

    /// Reads a body, and decides what of it is to be written.
    async fn preparation(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
        ticket: &Ticket,
    ) -> Result<Prepared, WriteError> {
        let (mut typed, count, catalogue) = self.type_request(scope, request).await?;
        let outcome = if request.on_error == OnError::Reject && !typed.refusals.is_empty() {
            Outcome::BatchRefused
        } else if typed.events.is_empty() && typed.refused_events > 0 {
            Outcome::AllRefused
        } else {
            Outcome::Stored
        };
        // What is not staged is durable.
        let ack = match request.ack {
            Ack::Durable | Ack::Staged => Ack::Durable,
            Ack::Replicated => Ack::Replicated,
        };
        let received_at = request.received_at;
        let mut entry = LedgerEntry::new(
            scope.tenant(),
            ticket.batch,
            ack.as_str(),
            count,
            received_at,
        );
        entry.request_key.clone_from(&ticket.key);
        entry.request_hash.clone_from(&ticket.hash);
        entry.outcome = outcome;
        entry.lineage = catalogue.lineage();
        match outcome {
            Outcome::Stored => {
                entry.refused = i32::try_from(typed.refused_events).unwrap_or(i32::MAX);
            }
            Outcome::AllRefused | Outcome::BatchRefused => {
                entry.refused = entry.events;
                // Of events that had single bad values nothing is stored either.
                for refusal in &mut typed.refusals {
                    refusal.rest = None;
                }
                typed.events.clear();
            }
        }
        let (events, sources) = self
            .name_events(scope, &catalogue, typed.events, received_at)
            .await?;
        Ok(Prepared {
            catalogue,
            entry,
            events,
            sources,
            refusals: typed.refusals,
            reading: typed.reading,
        })
    }

    /// Commits the parts that are to be written. What is stored is counted, whatever becomes of the others.
    async fn commit_round(
        &self,
        division: &Division,
        job: &Arc<Request>,
        ticket: &Ticket,
        opens: bool,
        written: &mut Written,
    ) -> Result<Round, WriteError> {
        let parts = division.parts_of(self, job, ticket, opens);
        let commits = parts.into_iter().map(async |part| {
            let opens = part.opens;
            (opens, self.lanes.commit(part).await)
        });
        let mut stored = Vec::new();
        let mut is_shared = ticket.missing.is_some();
        let mut refused_by_plan = None;
        let mut failed = None;
        for (opened, outcome) in join_all(commits).await {
            let (part, position) = match outcome {
                Ok(PartOutcome::Stored(part, position)) => (*part, position),
                Ok(PartOutcome::AlreadyThere(Some(part), position)) => {
                    // With a key the ledger tells what it came to; by all odds this call has written it.
                    is_shared |= job.has_key();
                    (part, position)
                }
                Ok(PartOutcome::AlreadyThere(None, _)) => {
                    is_shared = true;
                    continue;
                }
                Ok(PartOutcome::RefusedByPlan(refused)) => {
                    refused_by_plan = Some(refused);
                    continue;
                }
                Err(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
            };
            written.count_part(&part);
            if opened {
                written.count_opened(&job.entry, &[]);
            }
            stored.push((part, position));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(refused) = refused_by_plan {
            return Ok(Round::Refused(refused));
        }
        if is_shared {
            return Ok(Round::Shared);
        }
        let position = match position_of(&stored)? {
            Some(position) => position,
            None => {
                let lineage = job.catalogue.lineage();
                self.read_position_of(&job.scope, lineage).await?
            }
        };
        let parts = stored.into_iter().map(|(part, _)| part).collect();
        Ok(Round::Whole(parts, position))
    }

    /// Keeps that the plan refused a request that wants all or nothing.
    async fn refuse_batch(
        &self,
        job: &Request,
        request: &IngestRequest,
        refused: Vec<NewRejection>,
        written: &mut Written,
    ) -> Result<IngestAnswer, WriteError> {
        let entry = LedgerEntry {
            outcome: Outcome::BatchRefused,
            refused: job.entry.events,
            buckets: Vec::new(),
            ..job.entry.clone()
        };
        match open_request(&self.writer, &job.scope, &entry, &refused).await? {
            Opening::Opened => {}
            // Another server was first with this key, and saw it before what it conflicts with was stored.
            Opening::Taken => return Err(WriteError::InProgress),
            Opening::OtherLineage => return Err(WriteError::OtherLineage),
        }
        written.count_opened(&entry, &refused);
        let position = self.read_position_of(&job.scope, job.catalogue.lineage());
        let position = Some(position.await?);
        let format = &request.format;
        Ok(answer(&entry, refused, Vec::new(), position, format))
    }
}

/// The position of the write history that has all of these parts. Where they are on several lineages, one of them may be
/// lost, and the ledger has to tell which.
fn position_of(parts: &[(StoredPart, Position)]) -> Result<Option<Position>, WriteError> {
    let positions = || parts.iter().map(|(_, position)| *position);
    let newest = positions().max_by_key(|position| position.lsn);
    let is_of_newest =
        |position: Position| newest.is_some_and(|newest| newest.lineage() == position.lineage());
    if positions().all(is_of_newest) {
        Ok(newest)
    } else {
        Err(WriteError::OtherLineage)
    }
}

/// Whether a request takes its place in the ledger before any of its parts. Parts in several transactions need it to be
/// there, so that no other request takes its key in between. And while one server lets a request take the durable way,
/// another may stage it: opening alone is what both ways wait for.
fn opens_alone(request: &IngestRequest, ticket: &Ticket, parts: usize) -> bool {
    let may_be_staged_elsewhere =
        request.ack == Ack::Staged && request.on_error == OnError::Partial;
    parts == 0 || (ticket.has_key() && (parts > 1 || may_be_staged_elsewhere))
}

/// What a retry must repeat: how the body is read, and the body.
fn hash_of(request: &IngestRequest) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{:?}|{:?}|{:?}|",
        request.format, request.ack, request.on_error
    ));
    hash.update(&request.body);
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;
    use sheaf_store::ledger::Counts;

    use super::*;

    #[test]
    fn parts_on_one_lineage_have_a_position_and_parts_on_two_may_be_lost() {
        let at = |timeline, lsn| {
            let part = StoredPart {
                counts: Counts::default(),
                rejections: Vec::new(),
                document: None,
            };
            let position = Position {
                system_id: 7,
                timeline,
                lsn: Lsn(lsn),
            };
            (part, position)
        };
        let newest = |parts: &[(StoredPart, Position)]| {
            let position = position_of(parts).ok()?;
            Some(position.map(|position| (position.timeline, position.lsn.0)))
        };
        assert_eq!(newest(&[]), Some(None));
        assert_eq!(newest(&[at(1, 5), at(1, 9), at(1, 7)]), Some(Some((1, 9))));
        assert_eq!(newest(&[at(1, 9), at(2, 10)]), None);
        assert_eq!(newest(&[at(2, 5), at(1, 9)]), None);
    }
}
