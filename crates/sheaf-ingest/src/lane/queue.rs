//! What waits for a lane, and which of it becomes the next group.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::{EntityId, TenantId};
use tokio::sync::{Notify, oneshot};

use super::{Part, PartKind, PartResult};
use crate::admission::{FairQueue, FairQueueBounds};
use crate::instruments::QUEUE_EVENTS;
use crate::request::WriteError;

/// What waits for one lane. A tenant's turn is worth a fraction of a group, so that one that floods the lane does not fill
/// the groups alone. The bounds are a net: how much waits is bounded by the bodies in work and by each tenant's requests
/// at once, and a request whose first parts are queued must find room for the others.
const BOUNDS: FairQueueBounds = FairQueueBounds {
    quantum: 256,
    tenant_items_max: 32_768,
    tenant_weight_max: 4_000_000,
    items_max: 65_536,
    weight_max: 8_000_000,
};
/// Events of one group, unless a single part has more. Larger groups share more document updates and fewer commits;
/// smaller ones hold less in memory and let the next ones in sooner.
const GROUP_EVENTS_MAX: usize = 8_192;
/// The same while several tenants write: each waits for the group at work and for its own, however little it has.
const SHARED_GROUP_EVENTS_MAX: usize = 256;
/// How long after a tenant's last part others still count it as writing.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Parts of one group.
const GROUP_PARTS_MAX: usize = 256;

/// A part and who waits for it.
pub(super) struct Queued {
    pub(super) part: Part,
    pub(super) reply: oneshot::Sender<PartResult>,
}

/// Parts on their way into one lane.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
}

struct Waiting {
    parts: FairQueue<Queued>,
    tenants: Tenants,
    closed: bool,
}

/// Whether one tenant writes, or several.
#[derive(Debug, Default)]
struct Tenants {
    last: Option<TenantId>,
    /// When the last part came that was of another tenant than the one before.
    changed_at: Option<Instant>,
}

impl Tenants {
    fn note(&mut self, tenant: TenantId, now: Instant) {
        if self.last.is_some_and(|last| last != tenant) {
            self.changed_at = Some(now);
        }
        self.last = Some(tenant);
    }

    fn group_events_max(&self, now: Instant) -> usize {
        let is_shared = |changed_at| now.duration_since(changed_at) < SHARED_FOR;
        if self.changed_at.is_some_and(is_shared) {
            SHARED_GROUP_EVENTS_MAX
        } else {
            GROUP_EVENTS_MAX
        }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        let waiting = Waiting {
            parts: FairQueue::new(BOUNDS),
            tenants: Tenants::default(),
            closed: false,
        };
        Queue {
            waiting: Mutex::new(waiting),
            ready: Notify::new(),
        }
    }
}

/// The end of a lane, however it comes: whoever waits for it is told, and nobody can begin to.
pub(super) struct End(pub(super) Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
        while let Some(queued) = self.0.lock().parts.pop() {
            queued_events().decrement(count_of(&queued.part));
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, queued: Queued) -> Result<(), WriteError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(WriteError::Stopped);
        }
        let events = count_of(&queued.part);
        let weight = u64::try_from(queued.part.events.len()).unwrap_or(u64::MAX);
        let tenant = queued.part.request.entry.tenant;
        waiting
            .parts
            .push(tenant, weight, queued)
            .map_err(|_| WriteError::Overloaded)?;
        waiting.tenants.note(tenant, Instant::now());
        queued_events().increment(events);
        drop(waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Takes nothing more: the lane ends once it is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    /// The next group, or nothing once the queue is closed and empty.
    pub(super) async fn next_group(&self) -> Option<Vec<Queued>> {
        loop {
            {
                let mut waiting = self.lock();
                let events_max = waiting.tenants.group_events_max(Instant::now());
                let group = take_group(&mut waiting.parts, events_max);
                if !group.is_empty() {
                    for queued in &group {
                        queued_events().decrement(count_of(&queued.part));
                    }
                    return Some(group);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }
}

/// Takes parts, each tenant's in turn, that can be one group.
fn take_group(waiting: &mut FairQueue<Queued>, events_max: usize) -> Vec<Queued> {
    let mut group: Vec<Queued> = Vec::new();
    let mut events = 0;
    let mut conditional: HashSet<EntityId> = HashSet::new();
    let is_alone = |part: &Part| part.kind == PartKind::AllOrNothing;
    loop {
        let next = waiting.pop_if(|_, Queued { part, .. }| {
            let is_full = events + part.events.len() > events_max || group.len() >= GROUP_PARTS_MAX;
            let goes_along =
                !is_full && !is_alone(part) && !meets_condition(part, &group, &conditional);
            group.is_empty() || goes_along
        });
        let Some(queued) = next else {
            return group;
        };
        let part = &queued.part;
        if part.kind.is_conditional() {
            conditional.extend(part.events.iter().map(|event| event.entity));
        }
        events += part.events.len();
        let ends = is_alone(part);
        group.push(queued);
        if ends {
            return group;
        }
    }
}

/// Whether the part's condition is about an entity that the group touches, or the part touches one that a condition of
/// the group is about: then it waits for the next group.
fn meets_condition(part: &Part, group: &[Queued], conditional: &HashSet<EntityId>) -> bool {
    // A request that was given up and its retry: the second asks the ledger after the first is in it.
    let is_same = |other: &Part| {
        other.request.has_key()
            && other.request.entry.tenant == part.request.entry.tenant
            && other.request.entry.request_key == part.request.entry.request_key
            && !Arc::ptr_eq(&other.request, &part.request)
    };
    if part.request.has_key() && group.iter().any(|queued| is_same(&queued.part)) {
        return true;
    }
    if !conditional.is_empty()
        && part
            .events
            .iter()
            .any(|event| conditional.contains(&event.entity))
    {
        return true;
    }
    if !part.kind.is_conditional() {
        return false;
    }
    let mut touched = group.iter().flat_map(|queued| queued.part.events.iter());
    touched.any(|event| part.events.iter().any(|own| own.entity == event.entity))
}

/// Events of parts that wait for a lane.
fn queued_events() -> metrics::Gauge {
    metrics::gauge!(QUEUE_EVENTS)
}

fn count_of(part: &Part) -> f64 {
    f64::from(u32::try_from(part.events.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_small_while_several_tenants_write_and_large_when_one_does() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut tenants = Tenants::default();
        assert_eq!(tenants.group_events_max(begin), GROUP_EVENTS_MAX);
        for millis in 0..10 {
            tenants.note(TenantId(1), after(millis));
        }
        assert_eq!(tenants.group_events_max(after(10)), GROUP_EVENTS_MAX);
        tenants.note(TenantId(2), after(20));
        tenants.note(TenantId(1), after(30));
        assert_eq!(tenants.group_events_max(after(40)), SHARED_GROUP_EVENTS_MAX);
        assert_eq!(
            tenants.group_events_max(after(1_029)),
            SHARED_GROUP_EVENTS_MAX
        );
        tenants.note(TenantId(1), after(1_030));
        assert_eq!(tenants.group_events_max(after(1_030)), GROUP_EVENTS_MAX);
    }
}
