//! Refused events tried again, with the catalogue of now. What is good is stored as a request of its own; what is still
//! bad stays where it is.
//!
//! An event that did not say when it was observed gets a time that follows from its refusal, so that the history's own
//! key makes a second replay, or one that was cut off before it was marked, a duplicate.

mod reread;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use sheaf_model::{BatchId, Position, RejectionId, Timestamp};
use sheaf_pg::PgError;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::ledger::{Counts, LedgerEntry, Outcome, open_request};
use sheaf_store::rejections::{
    ListedRejection, NewRejection, Reading, RefusedEvent, ReplaySelection, Settled,
    choose_refused_events, settle_rejections, storable,
};

use super::answer::count_events;
use super::preparation::{TYPING_RUNS_MAX, aside};
use super::{Inner, LISTED_MAX, Writer};
use crate::lane::{Part, PartKind, PartOutcome, Request};
use crate::plan::GroupEvent;
use crate::promise;
use crate::request::{Ack, IngestAnswer, WriteError};
use crate::typing::{Typed, TypedEvent, type_body};
use reread::{joined, reread};

/// Refusals that one call tries again. More would be stored in a larger transaction; fewer take more calls.
pub const REPLAYED_MAX: usize = 1_000;
/// How often a replay is put together anew because what is stored refuses some of its events.
const PLANS_MAX: usize = 8;

/// A request to try refused events again.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// Which.
    pub selection: ReplaySelection,
    /// Only those refused after this one: where an earlier answer ended.
    pub after: Option<RejectionId>,
    /// What the answer must promise.
    pub ack: Ack,
    /// When it arrived.
    pub received_at: Timestamp,
}

/// What became of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayAnswer {
    /// As of a request with these events, oldest first.
    pub ingest: IngestAnswer,
    /// For each refusal that it lists, the one that stays open.
    pub open: Vec<RejectionId>,
    /// Where more were selected than one call takes, the last refusal that this one took.
    pub last: Option<RejectionId>,
}

impl Writer {
    /// Tries the oldest of the selected refusals again, at most [`REPLAYED_MAX`], each with all of its event that is open.
    /// Twice changes nothing.
    pub async fn replay(
        &self,
        scope: &TenantScope,
        request: ReplayRequest,
    ) -> Result<ReplayAnswer, WriteError> {
        promise::require(&self.inner.fence, request.ack).await?;
        let answer = self.inner.replay_refused(scope, &request).await?;
        if let Some(position) = answer.ingest.position {
            promise::keep(&self.inner.fence, request.ack, position).await?;
        }
        Ok(answer)
    }
}

/// A replay on its way into the history.
struct Replay {
    catalogue: Arc<Catalogue>,
    entry: LedgerEntry,
    /// What is good, in order of event.
    events: Vec<TypedEvent>,
    /// What is still bad.
    refusals: Vec<NewRejection>,
}

impl Inner {
    async fn replay_refused(
        &self,
        scope: &TenantScope,
        request: &ReplayRequest,
    ) -> Result<ReplayAnswer, WriteError> {
        let mut runs = 0;
        loop {
            let ended = self.replay_once(scope, request).await;
            if !self.begins_anew(scope, &ended, &mut runs).await? {
                return ended;
            }
        }
    }

    async fn replay_once(
        &self,
        scope: &TenantScope,
        request: &ReplayRequest,
    ) -> Result<ReplayAnswer, WriteError> {
        let refusals_max = i64::try_from(REPLAYED_MAX).expect("a small number");
        let (selection, after) = (&request.selection, request.after);
        let chosen =
            choose_refused_events(&self.app, scope, selection, after, refusals_max).await?;
        let body = joined(&chosen.events);
        let _turn = self.turn(body.len()).await?;
        let (typed, catalogue) = self
            .type_refused(scope, &body, &chosen.events, request.received_at)
            .await?;
        let batch = BatchId::new();
        let mut replay = Replay {
            catalogue,
            entry: LedgerEntry::new(
                scope.tenant(),
                batch,
                request.ack.as_str(),
                chosen.events.len(),
                request.received_at,
            ),
            events: typed.events,
            refusals: typed.refusals,
        };
        let (stored, at) = self.store_replay(scope, &mut replay).await?;
        replay.refusals.sort_by_key(|refusal| refusal.event_index);
        let settled = replay.settle(&chosen.events);
        let lineage = at.map(|at| at.lineage()).or(replay.catalogue.lineage());
        // Where the events are not, their refusals stay open.
        if let Some(lineage) = lineage
            && !settle_rejections(&self.app, scope, lineage, &settled).await?
        {
            return Err(WriteError::OtherLineage);
        }
        // Read after the marks, so that whoever reads with it finds them.
        let position = self.read_position_of(scope, lineage).await?;
        let counts = Counts {
            refused: i64::from(replay.entry.refused),
            ..stored
        };
        count_events(&counts);
        let listed = replay.refusals.iter().take(LISTED_MAX);
        Ok(ReplayAnswer {
            open: listed
                .clone()
                .filter_map(|refusal| open_refusal(&chosen.events, refusal))
                .collect(),
            ingest: IngestAnswer {
                batch,
                ack: replay.entry.ack.to_owned(),
                outcome: replay.entry.outcome,
                events: replay.entry.events.into(),
                counts,
                bad_events: bad_events(&replay.refusals),
                rejected: listed.map(listed_of).collect(),
                first_bad_line: None,
                position: Some(position),
                replayed: false,
                written: counts.values + counts.refused,
            },
            last: chosen.last,
        })
    }

    /// Reads and types the events, creating the attributes that they need.
    async fn type_refused(
        &self,
        scope: &TenantScope,
        body: &Bytes,
        events: &[RefusedEvent],
        now: Timestamp,
    ) -> Result<(Typed, Arc<Catalogue>), WriteError> {
        // Whoever has just mended the cause, perhaps at another server, means the catalogue with the mend in it.
        let mut catalogue = self.catalogues.refresh(scope).await?;
        for _ in 0..TYPING_RUNS_MAX {
            let work = || {
                let line_protocol = &catalogue.tenant.policy.line_protocol;
                let decoded = reread(body, events, line_protocol, &self.limits);
                type_body(decoded, body, &self.rules(&catalogue, now))
            };
            let typed = aside(body.len(), work);
            if typed.missing.is_empty() && typed.unmarked.is_empty() {
                return Ok((typed, catalogue));
            }
            catalogue = self.amend(scope, &catalogue, &typed, now).await?;
        }
        Err(WriteError::Overloaded)
    }

    /// Stores what is good. What the plan refuses beside what is stored joins what is bad, and the others are planned
    /// anew: what is refused of a part that is all or nothing is not kept, and these events have their refusals already.
    async fn store_replay(
        &self,
        scope: &TenantScope,
        replay: &mut Replay,
    ) -> Result<(Counts, Option<Position>), WriteError> {
        for _ in 0..PLANS_MAX {
            let good = i32::try_from(replay.events.len()).unwrap_or(i32::MAX);
            replay.entry.refused = replay.entry.events - good;
            if good == 0 {
                if replay.entry.refused > 0 {
                    replay.entry.outcome = Outcome::AllRefused;
                }
                replay.entry.buckets.clear();
                open_request(&self.writer, scope, &replay.entry, &[]).await?;
                return Ok((Counts::default(), None));
            }
            let part = self.replay_part(scope, replay).await?;
            match self.lanes.commit(part).await? {
                PartOutcome::Stored(part, position) => return Ok((part.counts, Some(position))),
                PartOutcome::AlreadyThere(Some(part), position) => {
                    return Ok((part.counts, Some(position)));
                }
                PartOutcome::AlreadyThere(None, _) => {
                    return Err(PgError::unreadable("opening a replay", "a new batch id").into());
                }
                PartOutcome::RefusedByPlan(refused) => {
                    let places: HashSet<i32> =
                        refused.iter().map(|refusal| refusal.event_index).collect();
                    replay
                        .events
                        .retain(|event| !places.contains(&place_of(event)));
                    replay.refusals.extend(refused);
                }
            }
        }
        Err(WriteError::Overloaded)
    }

    /// The one part of a replay, for all of its buckets.
    async fn replay_part(
        &self,
        scope: &TenantScope,
        replay: &mut Replay,
    ) -> Result<Part, WriteError> {
        let now = replay.entry.received_at;
        let (events, sources) = self
            .name_events(scope, &replay.catalogue, replay.events.clone(), now)
            .await?;
        let bucket = |event: &GroupEvent| self.settings.bucket(event.tenant, event.entity);
        let buckets: BTreeSet<i32> = events.iter().map(bucket).collect();
        let buckets: Vec<i32> = buckets.into_iter().collect();
        replay.entry.buckets.clone_from(&buckets);
        let request = Request {
            scope: scope.clone(),
            catalogue: Arc::clone(&replay.catalogue),
            entry: replay.entry.clone(),
            sources,
            reading: Reading::Json,
            now,
        };
        Ok(Part {
            request: Arc::new(request),
            events: Arc::new(events),
            buckets,
            rejections: Vec::new(),
            opens: true,
            is_doubtful: false,
            may_be_stored: false,
            kind: PartKind::AllOrNothing,
            prepared: None,
        })
    }
}

impl Replay {
    /// What to say of the refusals of events that are stored now.
    fn settle(&self, chosen: &[RefusedEvent]) -> Vec<Settled> {
        let mut bad: HashMap<i32, Vec<Option<&str>>> = HashMap::new();
        for refusal in &self.refusals {
            let fields = bad.entry(refusal.event_index).or_default();
            fields.push(refusal.field.as_deref());
        }
        let mut settled = Vec::new();
        for event in &self.events {
            let place = place_of(event);
            let refused = usize::try_from(place).ok().and_then(|at| chosen.get(at));
            let (Some(refused), Some(observed_at)) = (refused, event.event.observed_at) else {
                continue;
            };
            let still_bad = bad.get(&place).map_or(&[][..], Vec::as_slice);
            let done = done(refused, still_bad);
            let open = refused.open.iter().zip(done);
            settled.extend(open.map(|((id, _), is_done)| Settled {
                id: *id,
                is_done,
                external_id: event.external_id.clone(),
                observed_at,
            }));
        }
        settled
    }
}

/// Which of the open refusals of an event that is stored now have become untrue; none at all where something is still bad
/// of which no refusal tells: it would be forgotten with them.
fn done(refused: &RefusedEvent, still_bad: &[Option<&str>]) -> Vec<bool> {
    let still_bad: Vec<Option<Cow<'_, str>>> =
        still_bad.iter().map(|field| field.map(storable)).collect();
    let has_refusal = |field: &Option<Cow<'_, str>>| {
        let field = field.as_deref();
        field.is_some()
            && refused
                .open
                .iter()
                .any(|(_, open)| open.as_deref() == field)
    };
    if !still_bad.iter().all(has_refusal) {
        return Vec::new();
    }
    let is_bad = |field: &str| still_bad.iter().any(|bad| bad.as_deref() == Some(field));
    let fields = refused.open.iter().map(|(_, field)| field.as_deref());
    fields.map(|field| !field.is_some_and(is_bad)).collect()
}

/// The open refusal that a still bad value or event belongs to: of its field, or the first of its event.
fn open_refusal(chosen: &[RefusedEvent], refusal: &NewRejection) -> Option<RejectionId> {
    let event = chosen.get(usize::try_from(refusal.event_index).ok()?)?;
    let field = refusal.field.as_deref().map(storable);
    let same = event
        .open
        .iter()
        .find(|(_, open)| open.as_deref() == field.as_deref());
    same.or(event.open.first()).map(|(id, _)| *id)
}

fn place_of(event: &TypedEvent) -> i32 {
    i32::try_from(event.index).unwrap_or(i32::MAX)
}

fn bad_events(refusals: &[NewRejection]) -> i64 {
    let places: HashSet<i32> = refusals.iter().map(|refusal| refusal.event_index).collect();
    i64::try_from(places.len()).unwrap_or(i64::MAX)
}

fn listed_of(refusal: &NewRejection) -> ListedRejection {
    ListedRejection {
        event_index: refusal.event_index,
        field: refusal.field.clone(),
        code: refusal.code.as_str().to_owned(),
        reason: refusal.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::{Refusal, RefusalCode};

    use super::*;

    #[test]
    fn what_is_stored_is_done_and_what_is_still_bad_stays_unless_it_would_be_forgotten() {
        let refused = |fields: &[Option<&str>]| RefusedEvent {
            raw: Vec::new(),
            batch: BatchId::new(),
            event_index: 0,
            entity_type: None,
            reading: None,
            received_at: Timestamp::MIN,
            rest: None,
            open: fields
                .iter()
                .map(|field| (RejectionId::new(), field.map(str::to_owned)))
                .collect(),
            refusal: Refusal::new(RefusalCode::TypeMismatch, "no"),
        };
        type Fields<'a> = &'a [Option<&'a str>];
        let table: &[(Fields<'_>, Fields<'_>, &[bool])] = &[
            (&[None], &[], &[true]),
            (&[Some("a"), Some("b")], &[], &[true, true]),
            (&[Some("a"), Some("b")], &[Some("b")], &[true, false]),
            // The event was refused as a whole, and now one value of it is: that has no refusal of its own.
            (&[None], &[Some("b")], &[]),
            (&[Some("region")], &[Some("b")], &[]),
            (&[Some("a"), None], &[Some("a")], &[false, true]),
            (
                &[Some("a\u{fffd}"), Some("b")],
                &[Some("a\0")],
                &[false, true],
            ),
        ];
        for (open, bad, expected) in table {
            assert_eq!(done(&refused(open), bad), *expected, "{open:?} {bad:?}");
        }
    }
}
