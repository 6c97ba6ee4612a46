//! From an hour that differs to the instants of it that do.
//!
//! What PostgreSQL has is added and what the lake has is taken away, for each instant of each entity: what is left over is no
//! difference yet, as the sides are read one after the other, and is looked at again. An hour of many facts is gone through twice,
//! first for groups of instants, so that what is in memory is bounded.

use std::collections::HashMap;

use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::Pool;
use sheaf_store::lake::LakeCorrection;
use sheaf_store::reconcile::{Instant, Span, read_hour};
use tokio::sync::mpsc;

use super::explosion::{Explosion, Sums, all, split_last_instant};
use super::lake_files::{LakeFile, for_each_fact};
use crate::background::{in_background, outcome_of};
use crate::corrections::Ranges;
use crate::digest::{Digest, Digested, FactKey, HOUR_MICROS, TenantHour};
use crate::error::LakeError;
use crate::facts::day_of;
use crate::files::Files;
use crate::retention::Boundaries;
use crate::schema::LakeTable;
use crate::tenant_buckets::TenantBuckets;

/// Events that are taken apart at once, and how many bytes of their attributes.
const EVENTS: usize = 2_000;
const EVENTS_BYTES: usize = 4 << 20;
/// Facts of a file that are handed over at once, and how often before they are taken.
const CHUNK_FACTS: usize = 4_096;
const CHUNKS: usize = 4;
/// An hour of so many facts is gone through once.
const FACTS_ONCE: u64 = 300_000;
/// Into how many groups the instants of an hour of more are divided.
const GROUPS: usize = 1 << 16;
/// Instants of one hour in memory: about a hundred bytes each.
const MEMORY_INSTANTS: usize = 500_000;
/// Instants that are given back for one hour.
pub(crate) const INSTANTS_MAX: usize = 100_000;

/// The lake's files by day and bucket, and what waits to be in them.
pub(crate) struct LakeView {
    files: Files,
    parts: HashMap<(i32, i32), Vec<LakeFile>>,
    buckets: TenantBuckets,
    /// What the facts of waiting corrections come to.
    pub(crate) waiting: HashMap<Instant, Digest>,
    /// What is before this may have been taken out: of that nothing is compared.
    pub(crate) kept: Boundaries,
}

impl LakeView {
    pub(crate) fn new(
        files: Files,
        present: Vec<LakeFile>,
        waiting: HashMap<Instant, Digest>,
        kept: Boundaries,
    ) -> Result<LakeView, LakeError> {
        let mut parts: HashMap<(i32, i32), Vec<LakeFile>> = HashMap::new();
        for file in present {
            parts.entry(file.part).or_default().push(file);
        }
        Ok(LakeView {
            files,
            parts,
            buckets: TenantBuckets::new(LakeTable::Facts)?,
            waiting,
            kept,
        })
    }

    /// Whether a fact has to be there: it is not older than its attribute was kept.
    pub(crate) fn is_kept(&self, key: &FactKey) -> bool {
        !self
            .kept
            .is_before(key.tenant, key.attribute, key.observed_at)
    }

    /// The facts of a tenant of some time, of one day, among those instants and entities, from the files that may have them: each with
    /// whether it is hidden.
    pub(crate) async fn facts(
        &self,
        ranges: Ranges,
        is_wanted: impl Fn(&FactKey) -> bool + Send + Sync + Clone + 'static,
        mut each: impl FnMut(Digested, bool),
    ) -> Result<(), LakeError> {
        let bucket = self.buckets.of(ranges.tenants.0)?;
        let part = (day_of(ranges.instants.0), bucket);
        let files = self.parts.get(&part).into_iter().flatten();
        for file in files.filter(|file| overlaps(&file.ranges, &ranges)) {
            let (own, copy) = (file.clone(), self.files.clone());
            let is_wanted = is_wanted.clone();
            let (sender, mut receiver) = mpsc::channel::<Vec<Digested>>(CHUNKS);
            let reading = tokio::spawn(in_background(move || {
                let mut found = Vec::with_capacity(CHUNK_FACTS);
                let mut is_over = false;
                let may_have = |group: &Ranges| overlaps(group, &ranges);
                for_each_fact(&copy, &own, may_have, |fact| {
                    if is_over || !is_wanted(&fact.key) {
                        return;
                    }
                    found.push(fact);
                    if found.len() == CHUNK_FACTS {
                        // Nobody takes them any more where this fails.
                        is_over = sender.blocking_send(std::mem::take(&mut found)).is_err();
                    }
                })?;
                let _ = sender.blocking_send(found);
                Ok(())
            }));
            while let Some(found) = receiver.recv().await {
                for fact in found {
                    each(fact, file.is_corrected);
                }
            }
            match outcome_of(reading.await) {
                // It is told of by itself, and what is in it as missing.
                Err(LakeError::Damaged { .. }) => {}
                read => read?,
            }
        }
        Ok(())
    }
}

fn overlaps(one: &Ranges, other: &Ranges) -> bool {
    let meet = |one: (i64, i64), other: (i64, i64)| one.0 <= other.1 && other.0 <= one.1;
    meet(one.tenants, other.tenants)
        && meet(one.entities, other.entities)
        && meet(one.instants, other.instants)
}

/// What an hour is, as instants.
pub(crate) fn span_of(hour: TenantHour) -> Option<Span> {
    let at = |hour: i64| Timestamp::from_micros(hour.checked_mul(HOUR_MICROS)?).ok();
    let lower = at(hour.hour)?;
    // The last hour that there is has no instant after it.
    let upper = at(hour.hour + 1).unwrap_or(Timestamp::MAX);
    Some(Span { lower, upper })
}

/// Looks at one hour of a tenant on both sides.
pub(crate) struct Drilling<'a> {
    pub(crate) cdc: &'a Pool,
    pub(crate) view: &'a LakeView,
    pub(crate) explosion: &'a mut Explosion,
    pub(crate) cutoff: Timestamp,
}

impl Drilling<'_> {
    /// The instants that differ, in order, and whether there are more of them.
    pub(crate) async fn instants(
        &mut self,
        hour: TenantHour,
        facts: u64,
    ) -> Result<(Vec<Instant>, bool), LakeError> {
        let mut groups = None;
        if facts > FACTS_ONCE {
            let mut sums = vec![Sums::default(); GROUPS];
            self.pass(hour, |instant, sign, fact, is_hidden| {
                apply(&mut sums[group_of(&instant)], sign, fact, is_hidden);
            })
            .await?;
            let empty = Sums::default();
            groups = Some(sums.iter().map(|sum| *sum != empty).collect::<Vec<bool>>());
        }
        let mut sums: HashMap<Instant, Sums> = HashMap::new();
        let mut has_more = false;
        self.pass(hour, |instant, sign, fact, is_hidden| {
            let is_looked_at = groups
                .as_ref()
                .is_none_or(|groups| groups[group_of(&instant)]);
            if !is_looked_at {
                return;
            }
            if sums.len() >= MEMORY_INSTANTS && !sums.contains_key(&instant) {
                has_more = true;
                return;
            }
            apply(sums.entry(instant).or_default(), sign, fact, is_hidden);
        })
        .await?;
        let waiting = &self.view.waiting;
        let differs = |(instant, sums): &(Instant, Sums)| {
            sums.all != Digest::default()
                || (sums.hidden != Digest::default() && !waiting.contains_key(instant))
        };
        let differing = sums.into_iter().filter(differs);
        let mut differing: Vec<Instant> = differing.map(|(instant, _)| instant).collect();
        differing.sort_unstable();
        has_more |= differing.len() > INSTANTS_MAX;
        differing.truncate(INSTANTS_MAX);
        Ok((differing, has_more))
    }

    /// Goes through the hour on both sides.
    async fn pass(
        &mut self,
        hour: TenantHour,
        mut each: impl FnMut(Instant, Sign, Digest, bool),
    ) -> Result<(), LakeError> {
        let Some(span) = span_of(hour) else {
            return Ok(());
        };
        let ranges = Ranges {
            tenants: (hour.tenant, hour.tenant),
            entities: (i64::MIN, i64::MAX),
            instants: (span.lower.as_micros(), span.upper.as_micros() - 1),
        };
        let cutoff = self.cutoff.as_micros();
        let is_wanted = move |key: &FactKey| key.hour() == hour;
        let lake = self.view.facts(ranges, is_wanted, |fact, is_hidden| {
            if fact.ingested_at < cutoff
                && self.view.is_kept(&fact.key)
                && let Some(instant) = instant_of_key(&fact.key)
            {
                each(instant, Sign::Taken, fact.digest, is_hidden);
            }
        });
        lake.await?;
        for (instant, digest) in &self.view.waiting {
            if instant.tenant.0 == hour.tenant
                && instant.observed_at >= span.lower
                && instant.observed_at < span.upper
            {
                each(*instant, Sign::Taken, *digest, false);
            }
        }
        let tenant = TenantId(hour.tenant);
        let mut rows = read_hour(self.cdc, tenant, span, self.cutoff).await?;
        let mut kept: Vec<LakeCorrection> = Vec::new();
        let mut bytes = 0;
        loop {
            let row = rows.next().await?;
            let is_end = row.is_none();
            if let Some((event, _)) = row {
                bytes += event.attrs.len();
                kept.push(event);
            }
            if !is_end && kept.len() < EVENTS && bytes < EVENTS_BYTES {
                continue;
            }
            bytes = 0;
            let rest = if is_end {
                Vec::new()
            } else {
                split_last_instant(&mut kept)
            };
            for exploded in self.explosion.explode(&all(&kept)).await? {
                if let Some(instant) = instant_of_key(&exploded.fact.key)
                    && self.view.is_kept(&exploded.fact.key)
                {
                    let is_hidden = exploded.is_hidden;
                    each(instant, Sign::Added, exploded.fact.digest, is_hidden);
                }
            }
            kept = rest;
            if is_end {
                return Ok(());
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Added,
    Taken,
}

fn apply(sums: &mut Sums, sign: Sign, fact: Digest, is_hidden: bool) {
    match sign {
        Sign::Added => sums.add(fact, is_hidden),
        Sign::Taken => sums.take(fact, is_hidden),
    }
}

pub(crate) fn instant_of_key(key: &FactKey) -> Option<Instant> {
    Some(Instant {
        tenant: TenantId(key.tenant),
        entity: EntityId(key.entity),
        observed_at: Timestamp::from_micros(key.observed_at).ok()?,
    })
}

/// Which group an instant is in: neighbours are in others.
fn group_of(instant: &Instant) -> usize {
    let mixed = instant
        .entity
        .0
        .cast_unsigned()
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ instant
            .observed_at
            .as_micros()
            .cast_unsigned()
            .wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
    usize::try_from(mixed >> 48).expect("sixteen bits")
}
