//! Events of PostgreSQL as what they come to in the lake: facts, and which of them others of their instant hide.

use std::collections::HashMap;

use sheaf_cdc::change::EventRow;
use sheaf_store::lake::LakeCorrection;
use sheaf_store::reconcile::Instant;

use crate::corrections::hidden_among;
use crate::digest::{Digest, Digested, TenantHour, digest_pending};
use crate::error::LakeError;
use crate::names::Names;
use crate::pending::Pending;

/// What facts come to: of all of them, and of those that are hidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) all: Digest,
    pub(crate) hidden: Digest,
}

impl Sums {
    pub(crate) fn add(&mut self, fact: Digest, is_hidden: bool) {
        self.all += fact;
        if is_hidden {
            self.hidden += fact;
        }
    }

    pub(crate) fn take(&mut self, fact: Digest, is_hidden: bool) {
        self.all = self.all.without(fact);
        if is_hidden {
            self.hidden = self.hidden.without(fact);
        }
    }
}

/// What the facts of each hour of each tenant come to.
pub(crate) type HourlySums = HashMap<TenantHour, Sums>;

/// A fact of an event, and whether others hide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exploded {
    pub(crate) fact: Digested,
    pub(crate) is_hidden: bool,
}

/// Takes events apart as the sink does.
#[derive(Debug)]
pub(crate) struct Explosion {
    names: Names,
    /// Events that cannot be read: the sink could not either, and they are letters.
    pub(crate) unreadable: u64,
}

impl Explosion {
    pub(crate) fn new(names: Names) -> Explosion {
        Explosion {
            names,
            unreadable: 0,
        }
    }

    /// The facts of some events. Which are hidden is decided among them: all events of an instant have to be there.
    pub(crate) async fn explode(
        &mut self,
        events: &[&LakeCorrection],
    ) -> Result<Vec<Exploded>, LakeError> {
        let mut pending = Pending::default();
        for event in events {
            let row = event_row(event);
            let pushed = pending.take_event(&row, &mut self.names).await?;
            if pushed.is_err() {
                self.unreadable += 1;
            }
        }
        let hidden = hidden_among(&pending);
        let mut exploded = Vec::with_capacity(pending.facts.len());
        let kind_of = |tenant, attribute| self.names.kind(tenant, attribute);
        let mut place = 0u32;
        digest_pending(&pending, kind_of, |_, fact| {
            exploded.push(Exploded {
                fact,
                is_hidden: hidden.contains(&place),
            });
            place += 1;
        });
        self.names.forget_many();
        Ok(exploded)
    }
}

/// All of some events.
pub(crate) fn all(events: &[LakeCorrection]) -> Vec<&LakeCorrection> {
    events.iter().collect()
}

/// An event as the sink is given it.
pub(crate) fn event_row(event: &LakeCorrection) -> EventRow {
    EventRow {
        tenant: event.key.tenant,
        entity: event.key.entity,
        observed_at: event.key.observed_at,
        seq: event.key.seq,
        op: event.op,
        batch: event.batch,
        ingested_at: event.ingested_at,
        attrs: event.attrs.clone(),
    }
}

/// The instant of an event.
pub(crate) fn instant_of(event: &LakeCorrection) -> Instant {
    Instant {
        tenant: event.key.tenant,
        entity: event.key.entity,
        observed_at: event.key.observed_at,
    }
}

/// Takes the events of the last instant away, which may have more on the next page.
pub(crate) fn split_last_instant(events: &mut Vec<LakeCorrection>) -> Vec<LakeCorrection> {
    let last = events.last().map(instant_of);
    let first_of_last = events
        .iter()
        .rposition(|event| Some(instant_of(event)) != last)
        .map_or(0, |place| place + 1);
    events.split_off(first_of_last)
}
