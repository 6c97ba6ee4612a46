//! A request divided into the parts of its lanes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sheaf_store::rejections::NewRejection;

use super::Inner;
use super::earlier::Ticket;
use crate::lane::{Part, PartKind, Request};
use crate::plan::GroupEvent;

/// What of a request each of its parts writes.
pub(super) struct Division {
    kind: PartKind,
    shares: Vec<Share>,
    /// Refusals of events that nothing is stored of, in order of event.
    pub(super) of_none: Vec<NewRejection>,
}

/// What one part writes.
#[derive(Default)]
struct Share {
    events: Arc<Vec<GroupEvent>>,
    buckets: BTreeSet<i32>,
    /// Refusals of values of events whose others are stored, each with the bucket of its event.
    refusals: Vec<(i32, NewRejection)>,
}

/// About how many events one part has at most. A part is in one transaction, which others wait for; more parts are more
/// rows in the ledger.
const PART_EVENTS_MAX: usize = 256;

/// How buckets become parts: those of one slot belong to one lane.
struct Slots {
    lanes: usize,
    of_lane: usize,
}

impl Slots {
    fn one() -> Slots {
        Slots {
            lanes: 1,
            of_lane: 1,
        }
    }

    fn of(lanes: usize, events: usize) -> Slots {
        Slots {
            lanes,
            of_lane: events.div_ceil(lanes * PART_EVENTS_MAX).max(1),
        }
    }

    fn count(&self) -> usize {
        self.lanes * self.of_lane
    }

    /// Buckets that are the same modulo the number of slots are the same modulo that of the lanes, which owns them.
    fn of_bucket(&self, bucket: i32) -> usize {
        usize::try_from(bucket).unwrap_or(0) % self.count()
    }
}

impl Division {
    /// Events and refusals are in order of index.
    pub(super) fn new(
        inner: &Inner,
        kind: PartKind,
        events: Vec<GroupEvent>,
        refusals: Vec<NewRejection>,
    ) -> Division {
        let slots = match kind {
            // What must be all there or not at all is one transaction, of whichever lane.
            PartKind::AllOrNothing => Slots::one(),
            PartKind::Bulk | PartKind::Edit { .. } => Slots::of(inner.lanes.count(), events.len()),
        };
        let mut shares: Vec<Share> = (0..slots.count()).map(|_| Share::default()).collect();
        let mut events_of: Vec<Vec<GroupEvent>> = (0..slots.count()).map(|_| Vec::new()).collect();
        let refused: HashSet<i32> = refusals.iter().map(|refusal| refusal.event_index).collect();
        let mut owners: HashMap<i32, (usize, i32)> = HashMap::new();
        for event in events {
            let bucket = inner.settings.bucket(event.tenant, event.entity);
            let slot = slots.of_bucket(bucket);
            let index = i32::try_from(event.index).unwrap_or(i32::MAX);
            if refused.contains(&index) {
                owners.insert(index, (slot, bucket));
            }
            shares[slot].buckets.insert(bucket);
            events_of[slot].push(event);
        }
        for (share, events) in shares.iter_mut().zip(events_of) {
            share.events = Arc::new(events);
        }
        let mut of_none = Vec::new();
        for refusal in refusals {
            match owners.get(&refusal.event_index) {
                Some((slot, bucket)) => shares[*slot].refusals.push((*bucket, refusal)),
                None => of_none.push(refusal),
            }
        }
        shares.retain(|share| !share.events.is_empty());
        Division {
            kind,
            shares,
            of_none,
        }
    }

    /// The buckets of all events, ascending.
    pub(super) fn buckets(&self) -> Vec<i32> {
        let buckets: BTreeSet<i32> = self
            .shares
            .iter()
            .flat_map(|share| &share.buckets)
            .copied()
            .collect();
        buckets.into_iter().collect()
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.shares.len()
    }

    /// The parts, of the missing buckets alone where the request was opened before. The first opens the request if it is
    /// to be opened.
    pub(super) fn parts_of(
        &self,
        inner: &Inner,
        request: &Arc<Request>,
        ticket: &Ticket,
        opens: bool,
    ) -> Vec<Part> {
        let missing = ticket.missing.as_ref();
        let wanted = |bucket: &i32| missing.is_none_or(|missing| missing.contains(bucket));
        let mut parts = Vec::new();
        for share in &self.shares {
            let buckets: Vec<i32> = share.buckets.iter().copied().filter(wanted).collect();
            if buckets.is_empty() {
                continue;
            }
            let events = if buckets.len() == share.buckets.len() {
                Arc::clone(&share.events)
            } else {
                let bucket = |event: &GroupEvent| inner.settings.bucket(event.tenant, event.entity);
                let is_wanted = |event: &&GroupEvent| wanted(&bucket(event));
                Arc::new(share.events.iter().filter(is_wanted).cloned().collect())
            };
            let refusals = share.refusals.iter().filter(|(bucket, _)| wanted(bucket));
            let mut rejections: Vec<NewRejection> =
                refusals.map(|(_, refusal)| refusal.clone()).collect();
            let opens = opens && parts.is_empty();
            if opens {
                rejections.extend_from_slice(&self.of_none);
            }
            parts.push(Part {
                request: Arc::clone(request),
                events,
                buckets,
                rejections,
                opens,
                // Only a request with a key can have been opened before, here or on another server; or one that is read
                // anew.
                is_doubtful: ticket.is_doubtful || (request.has_key() && !opens),
                may_be_stored: false,
                kind: self.kind,
                prepared: None,
            });
        }
        parts
    }
}
