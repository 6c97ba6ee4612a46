//! Which facts are replaced by later ones of their instant. Pure.
//!
//! An event of an instant that has one already (its `seq` is above 0) hides what it says again of what those before it say, and
//! all of it if it replaces or deletes. What is hidden is in `facts_corrected`; `facts` has the rest.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroI64;

use sheaf_model::{LATE_SEQ, Op};

use crate::pending::{Pending, PendingEvent, PendingFact};

/// An instant of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At {
    pub(crate) tenant: i64,
    pub(crate) entity: i64,
    /// In microseconds.
    pub(crate) observed_at: i64,
}

impl At {
    pub(crate) fn of(event: &PendingEvent) -> At {
        At {
            tenant: event.tenant.0,
            entity: event.entity.0,
            observed_at: event.observed_at.as_micros(),
        }
    }
}

/// Whether an event may hide something. A patch says only what was not said, as whoever wrote it compared; what is new of one that came
/// after its period was closed, nobody compared.
fn may_hide(event: &PendingEvent) -> bool {
    event.seq > 0 && (event.op != Op::Patch || event.seq >= LATE_SEQ)
}

/// Whether an event hides everything before it at its instant.
fn hides_all(event: &PendingEvent) -> bool {
    matches!(event.op, Op::Replace | Op::Delete)
}

/// What becomes of what was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The places of events that have to wait: what they hide may be in a file.
    pub(crate) waiting: HashSet<u32>,
    /// The places of facts that others of the same events hide.
    pub(crate) hidden: HashSet<u32>,
}

/// Decides what has to wait. Where all events of an instant are at hand they are sorted out at once; else, from the first on
/// that may hide something, they wait. Those of an instant of which some wait already wait with them, but for the first.
pub(crate) fn resolve(pending: &Pending, is_waiting: impl Fn(&At) -> bool) -> Resolved {
    let mut resolved = Resolved::default();
    for (at, places) in instants(pending) {
        let events = || places.iter().map(|place| pending.event(*place));
        if is_waiting(&at) {
            let later = places.iter().zip(events()).filter(|(_, e)| e.seq > 0);
            resolved.waiting.extend(later.map(|(place, _)| *place));
            continue;
        }
        let is_whole = (0..).zip(events()).all(|(seq, event)| event.seq == seq);
        if is_whole {
            hide(pending, &places, &mut resolved.hidden);
        } else if let Some(first) = events().position(may_hide) {
            resolved.waiting.extend(&places[first..]);
        }
    }
    resolved
}

/// The places of facts that others of the same instants hide, where all events of these are pending.
pub(crate) fn hidden_among(pending: &Pending) -> HashSet<u32> {
    let mut hidden = HashSet::new();
    for places in instants(pending).into_values() {
        hide(pending, &places, &mut hidden);
    }
    hidden
}

/// The instants of which later events are pending, with the places of all their pending events, in order of `seq`.
fn instants(pending: &Pending) -> HashMap<At, Vec<u32>> {
    let later = pending.later.iter();
    let mut instants: HashMap<At, Vec<u32>> = later
        .map(|(place, _)| (At::of(pending.event(*place)), Vec::new()))
        .collect();
    if instants.is_empty() {
        return instants;
    }
    for (place, event) in (0..).zip(&pending.events) {
        if let Some(places) = instants.get_mut(&At::of(event)) {
            places.push(place);
        }
    }
    for places in instants.values_mut() {
        places.sort_unstable_by_key(|place| pending.event(*place).seq);
    }
    instants
}

/// Adds the facts that are hidden by later ones among these events of one instant, which are in order of `seq`.
fn hide(pending: &Pending, places: &[u32], hidden: &mut HashSet<u32>) {
    let mut said: HashSet<NonZeroI64> = HashSet::new();
    let mut is_all_hidden = false;
    for place in places.iter().rev() {
        let attributes = || {
            let facts = pending.facts_of(*place);
            facts.map(|fact| (fact, pending.facts[fact].attribute))
        };
        for (fact, attribute) in attributes() {
            if is_all_hidden || attribute.is_some_and(|number| said.contains(&number)) {
                hidden.insert(u32::try_from(fact).expect("what waits is bounded"));
            }
        }
        said.extend(attributes().filter_map(|(_, attribute)| attribute));
        is_all_hidden |= hides_all(pending.event(*place));
    }
}

/// Events that waited, beside what is in the tables of their instants.
#[derive(Debug)]
pub(crate) struct Corrections {
    /// The instants, with the greatest `seq` at which everything is hidden; below all of them where nothing is.
    replaced: HashMap<At, i64>,
    /// The greatest `seq` at which something is said of an attribute.
    said: HashMap<(At, i64), i64>,
    /// Which of these events are in the tables already: one may be offered twice.
    present: HashMap<(At, i64), bool>,
}

/// A fact that is in a table, or that is not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FactOf {
    pub(crate) at: At,
    pub(crate) seq: i64,
    /// None where the row is about the event.
    pub(crate) attribute: Option<i64>,
}

impl Corrections {
    /// Everything pending is an event that waited.
    pub(crate) fn new(pending: &Pending) -> Corrections {
        let mut corrections = Corrections {
            replaced: HashMap::new(),
            said: HashMap::new(),
            present: HashMap::new(),
        };
        for event in &pending.events {
            let at = At::of(event);
            corrections.replaced.insert(at, i64::MIN);
            corrections
                .present
                .insert((at, i64::from(event.seq)), false);
        }
        for fact in &pending.facts {
            let event = pending.event_of(fact);
            corrections.hear(fact_of(pending, fact), hides_all(event));
        }
        corrections
    }

    /// The same of events that need not have waited, and of these instants beside theirs.
    pub(crate) fn of_instants(
        pending: &Pending,
        instants: impl Iterator<Item = At>,
    ) -> Corrections {
        let mut corrections = Corrections::new(pending);
        for at in instants {
            corrections.replaced.entry(at).or_insert(i64::MIN);
        }
        corrections
    }

    /// Whether a fact is about one of the instants.
    pub(crate) fn concerns(&self, fact: &FactOf) -> bool {
        self.replaced.contains_key(&fact.at)
    }

    /// Takes in a fact that is in a table, if it is about one of the instants. Tells whether it is.
    pub(crate) fn see(&mut self, fact: FactOf, hides_all: bool) -> bool {
        if !self.concerns(&fact) {
            return false;
        }
        if let Some(present) = self.present.get_mut(&(fact.at, fact.seq)) {
            *present = true;
        }
        self.hear(fact, hides_all);
        true
    }

    fn hear(&mut self, fact: FactOf, hides_all: bool) {
        if let Some(attribute) = fact.attribute {
            let said = self.said.entry((fact.at, attribute)).or_insert(i64::MIN);
            *said = fact.seq.max(*said);
        }
        if hides_all && let Some(replaced) = self.replaced.get_mut(&fact.at) {
            *replaced = fact.seq.max(*replaced);
        }
    }

    /// Whether something hides a fact.
    pub(crate) fn hide(&self, fact: FactOf) -> bool {
        let Some(replaced) = self.replaced.get(&fact.at) else {
            return false;
        };
        let said = fact
            .attribute
            .and_then(|number| self.said.get(&(fact.at, number)));
        fact.seq < said.map_or(*replaced, |said| *said.max(replaced))
    }

    /// Whether a fact of one of these events is in a table already.
    pub(crate) fn is_present(&self, fact: FactOf) -> bool {
        self.present.get(&(fact.at, fact.seq)) == Some(&true)
    }

    /// Whether there may be something about these instants among rows of these ranges.
    pub(crate) fn may_be_in(&self, ranges: &Ranges) -> bool {
        let within = |(least, greatest): (i64, i64), number| (least..=greatest).contains(&number);
        self.replaced.keys().any(|at| {
            within(ranges.tenants, at.tenant)
                && within(ranges.entities, at.entity)
                && within(ranges.instants, at.observed_at)
        })
    }
}

/// What tells a pending fact from others.
pub(crate) fn fact_of(pending: &Pending, fact: &PendingFact) -> FactOf {
    let event = pending.event_of(fact);
    FactOf {
        at: At::of(event),
        seq: i64::from(event.seq),
        attribute: fact.attribute.map(NonZeroI64::get),
    }
}

/// The least and the greatest of what some rows have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) tenants: (i64, i64),
    pub(crate) entities: (i64, i64),
    pub(crate) instants: (i64, i64),
}

#[cfg(test)]
mod tests;
