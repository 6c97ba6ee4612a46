//! What differs indeed: instants are looked at again, in PostgreSQL as it is now and in a state of the lake that covers that.
//!
//! Facts are never changed, so that what PostgreSQL had before the lake came as far is in the lake, or is missing. What only the lake has may
//! be younger: PostgreSQL is asked for it once more, after the lake was read. It may be in the log, and so in the lake, and nobody may see
//! it yet, as when a commit waits for a standby: so whoever was in the middle of something then is waited for before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use sheaf_pg::Pool;
use sheaf_store::changes::read_running;
use sheaf_store::lake::{LakeCorrection, LakeFeed, LakeName};
use sheaf_store::reconcile::{EventKey, Instant, find_letters, read_instants, read_waiting};

use super::drilling::{LakeView, instant_of_key};
use super::explosion::{Exploded, Explosion, all};
use super::report::{Difference, DifferenceKind, NotCompared};
use super::run::LOOK_EVERY;
use crate::corrections::Ranges;
use crate::digest::{Digest, FactKey};
use crate::error::LakeError;
use crate::facts::day_of;
use tokio::time::{Instant as Moments, sleep};

/// A fact as PostgreSQL has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) is_hidden: bool,
}

/// What the lake has of a fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Each row, with whether it is among the hidden ones.
    pub(crate) rows: Vec<(Digest, bool)>,
    /// What waits to be a row.
    pub(crate) waiting: Vec<Digest>,
}

/// How one fact differs, if it does. Pure. Which facts are hidden is not asked while anything of the instant waits.
pub(crate) fn compare(
    wanted: Option<Wanted>,
    found: Option<&Found>,
    is_waiting: bool,
) -> Option<DifferenceKind> {
    let rows = found.map_or(&[][..], |found| &found.rows);
    let waiting = found.map_or(&[][..], |found| &found.waiting);
    let Some(wanted) = wanted else {
        return (!rows.is_empty() || !waiting.is_empty()).then_some(DifferenceKind::Extra);
    };
    let is_same = |digest: &Digest| *digest == wanted.digest;
    match (rows, waiting) {
        ([], []) => Some(DifferenceKind::Missing),
        // One that is offered twice may be there and wait: it adds nothing when it is its turn.
        ([], waiting) => (!waiting.iter().all(is_same)).then_some(DifferenceKind::Changed),
        ([(digest, is_hidden)], _) => {
            if !is_same(digest) {
                Some(DifferenceKind::Changed)
            } else if is_waiting || *is_hidden == wanted.is_hidden {
                None
            } else if *is_hidden {
                Some(DifferenceKind::Hidden)
            } else {
                Some(DifferenceKind::Shown)
            }
        }
        (_, _) => Some(DifferenceKind::Extra),
    }
}

/// What a second look needs.
pub(crate) struct SecondLook<'a> {
    pub(crate) cdc: &'a Pool,
    pub(crate) name: &'a LakeName,
    pub(crate) feed: &'a LakeFeed,
    pub(crate) explosion: &'a mut Explosion,
    /// How long transactions that go on are waited for.
    pub(crate) wait_max: Duration,
}

/// What it comes to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) differences: Vec<Difference>,
    /// Facts that the lake lacks because their events wait as letters.
    pub(crate) letters: u64,
    /// The events of PostgreSQL of those instants that differ.
    pub(crate) events: Vec<LakeCorrection>,
}

impl SecondLook<'_> {
    /// The events of instants as they are now: before the position that the lake is then waited for to cover.
    pub(crate) async fn events(
        &mut self,
        instants: &[Instant],
    ) -> Result<Vec<LakeCorrection>, LakeError> {
        let rows = read_instants(self.cdc, instants, None, None).await?;
        Ok(rows.into_iter().map(|row| row.event).collect())
    }

    /// What waits to be in the lake's files. Read before these, so that what is put into them in between is there twice and not missing.
    pub(crate) async fn waiting(
        &self,
        instants: &[Instant],
    ) -> Result<Vec<LakeCorrection>, LakeError> {
        Ok(read_waiting(self.cdc, self.name, instants).await?)
    }

    /// Compares events as they were read before with a state of the lake that covers that, and with what waited before it.
    pub(crate) async fn compare(
        &mut self,
        instants: &[Instant],
        events: Vec<LakeCorrection>,
        (waiting, view): (&[LakeCorrection], &LakeView),
    ) -> Result<Result<Looked, NotCompared>, LakeError> {
        let wanted = self.wanted(&events).await?;
        let mut found = self.found(instants, waiting, view).await?;
        let waiting: HashSet<Instant> = found
            .iter()
            .filter(|(_, found)| !found.waiting.is_empty())
            .filter_map(|(key, _)| instant_of_key(key))
            .collect();
        let Some(younger) = self.forget_younger(&wanted, &mut found).await? else {
            return Ok(Err(NotCompared::Running));
        };
        let mut keys: BTreeSet<FactKey> = wanted.keys().copied().collect();
        keys.extend(found.keys().copied());
        let letters = self.letters(&keys, &found).await?;
        let mut looked = Looked::default();
        let mut differing: BTreeSet<Instant> = BTreeSet::new();
        for key in keys {
            let Some(instant) = instant_of_key(&key).filter(|_| view.is_kept(&key)) else {
                continue;
            };
            let is_waiting = waiting.contains(&instant) || younger.contains(&instant);
            let wanted = wanted.get(&key).copied();
            let Some(kind) = compare(wanted, found.get(&key), is_waiting) else {
                continue;
            };
            if kind == DifferenceKind::Missing && letters.contains(&event_of_key(&instant, &key)) {
                looked.letters += 1;
                continue;
            }
            looked.differences.push(Difference { key, kind });
            differing.insert(instant);
        }
        let is_of_those =
            |event: &LakeCorrection| differing.contains(&super::explosion::instant_of(event));
        looked.events = events.into_iter().filter(is_of_those).collect();
        Ok(Ok(looked))
    }

    async fn wanted(
        &mut self,
        events: &[LakeCorrection],
    ) -> Result<BTreeMap<FactKey, Wanted>, LakeError> {
        let exploded = self.explosion.explode(&all(events)).await?;
        let wanted = |exploded: &Exploded| {
            let wanted = Wanted {
                digest: exploded.fact.digest,
                is_hidden: exploded.is_hidden,
            };
            (exploded.fact.key, wanted)
        };
        Ok(exploded.iter().map(wanted).collect())
    }

    async fn found(
        &mut self,
        instants: &[Instant],
        waiting: &[LakeCorrection],
        view: &LakeView,
    ) -> Result<HashMap<FactKey, Found>, LakeError> {
        let mut found: HashMap<FactKey, Found> = HashMap::new();
        // Those of a tenant and day are in the same files.
        let mut parts: BTreeMap<(i64, i32), Vec<Instant>> = BTreeMap::new();
        for instant in instants {
            let part = (instant.tenant.0, day_of(instant.observed_at.as_micros()));
            parts.entry(part).or_default().push(*instant);
        }
        for ((tenant, _), instants) in parts {
            let entities = || instants.iter().map(|at| at.entity.0);
            let times = || instants.iter().map(|at| at.observed_at.as_micros());
            let ranges = Ranges {
                tenants: (tenant, tenant),
                entities: bounds(entities()),
                instants: bounds(times()),
            };
            let asked: HashSet<(i64, i64)> = entities().zip(times()).collect();
            let asked = std::sync::Arc::new(asked);
            let is_asked = move |key: &FactKey| {
                key.tenant == tenant && asked.contains(&(key.entity, key.observed_at))
            };
            view.facts(ranges, is_asked, |fact, is_hidden| {
                let found = found.entry(fact.key).or_default();
                found.rows.push((fact.digest, is_hidden));
            })
            .await?;
        }
        for exploded in self.explosion.explode(&all(waiting)).await? {
            let found = found.entry(exploded.fact.key).or_default();
            found.waiting.push(exploded.fact.digest);
        }
        Ok(found)
    }

    /// Forgets what PostgreSQL has by now of what only the lake had, and tells of which instants that was. None where transactions that
    /// may have written it go on for too long.
    async fn forget_younger(
        &mut self,
        wanted: &BTreeMap<FactKey, Wanted>,
        found: &mut HashMap<FactKey, Found>,
    ) -> Result<Option<HashSet<Instant>>, LakeError> {
        let only_there = found.keys().filter(|key| !wanted.contains_key(key));
        let instants: BTreeSet<Instant> = only_there.filter_map(instant_of_key).collect();
        let instants: Vec<Instant> = instants.into_iter().collect();
        if instants.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        if !self.wait_for_running().await? {
            return Ok(None);
        }
        let before: HashSet<EventKey> = wanted.keys().filter_map(event_of).collect();
        let now = self.events(&instants).await?;
        let younger: Vec<LakeCorrection> = now
            .into_iter()
            .filter(|event| !before.contains(&event.key))
            .collect();
        let mut of = HashSet::new();
        for exploded in self.explosion.explode(&all(&younger)).await? {
            found.remove(&exploded.fact.key);
            of.extend(instant_of_key(&exploded.fact.key));
        }
        Ok(Some(of))
    }

    /// Waits for everybody who is in the middle of something. False where that takes too long.
    async fn wait_for_running(&self) -> Result<bool, LakeError> {
        let deadline = Moments::now() + self.wait_max;
        let (next_number, mut oldest_number) = read_running(self.cdc).await?;
        while oldest_number < next_number {
            if Moments::now() >= deadline {
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
            oldest_number = read_running(self.cdc).await?.1;
        }
        Ok(true)
    }

    /// The events that wait as letters of those tenants of which something is missing.
    async fn letters(
        &self,
        keys: &BTreeSet<FactKey>,
        found: &HashMap<FactKey, Found>,
    ) -> Result<HashSet<EventKey>, LakeError> {
        let missing = keys.iter().filter(|key| !found.contains_key(key));
        let tenants: BTreeSet<i64> = missing.map(|key| key.tenant).collect();
        if tenants.is_empty() {
            return Ok(HashSet::new());
        }
        let tenants: Vec<i64> = tenants.into_iter().collect();
        let letters = find_letters(self.cdc, self.feed, &tenants).await?;
        Ok(letters.into_iter().collect())
    }
}

fn bounds(values: impl Iterator<Item = i64> + Clone) -> (i64, i64) {
    let least = values.clone().min().unwrap_or(i64::MAX);
    (least, values.max().unwrap_or(i64::MIN))
}

/// The event that a fact is of.
pub(crate) fn event_of(key: &FactKey) -> Option<EventKey> {
    Some(event_of_key(&instant_of_key(key)?, key))
}

fn event_of_key(instant: &Instant, key: &FactKey) -> EventKey {
    EventKey {
        tenant: instant.tenant,
        entity: instant.entity,
        observed_at: instant.observed_at,
        seq: i16::try_from(key.seq).unwrap_or(i16::MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(sum: u128) -> Digest {
        Digest { facts: 1, sum }
    }

    #[test]
    fn a_fact_differs_as_the_lake_has_it() {
        let wanted = |is_hidden| {
            Some(Wanted {
                digest: digest(7),
                is_hidden,
            })
        };
        let found = |rows: &[(u128, bool)], waiting: &[u128]| {
            let rows = rows
                .iter()
                .map(|(sum, is_hidden)| (digest(*sum), *is_hidden));
            Some(Found {
                rows: rows.collect(),
                waiting: waiting.iter().map(|sum| digest(*sum)).collect(),
            })
        };
        for (claim, wanted, found, is_waiting, expected) in [
            (
                "the same",
                wanted(false),
                found(&[(7, false)], &[]),
                false,
                None,
            ),
            (
                "the same and hidden",
                wanted(true),
                found(&[(7, true)], &[]),
                false,
                None,
            ),
            ("neither", None, None, false, None),
            (
                "missing",
                wanted(false),
                None,
                false,
                Some(DifferenceKind::Missing),
            ),
            (
                "extra",
                None,
                found(&[(7, false)], &[]),
                false,
                Some(DifferenceKind::Extra),
            ),
            (
                "extra and waiting",
                None,
                found(&[], &[7]),
                true,
                Some(DifferenceKind::Extra),
            ),
            (
                "twice",
                wanted(false),
                found(&[(7, false), (7, false)], &[]),
                false,
                Some(DifferenceKind::Extra),
            ),
            (
                "in both tables",
                wanted(false),
                found(&[(7, false), (7, true)], &[]),
                false,
                Some(DifferenceKind::Extra),
            ),
            (
                "changed",
                wanted(false),
                found(&[(8, false)], &[]),
                false,
                Some(DifferenceKind::Changed),
            ),
            ("waits", wanted(false), found(&[], &[7]), true, None),
            (
                "waits and is there",
                wanted(false),
                found(&[(7, false)], &[7]),
                true,
                None,
            ),
            (
                "waits otherwise",
                wanted(false),
                found(&[], &[8]),
                true,
                Some(DifferenceKind::Changed),
            ),
            (
                "shown",
                wanted(true),
                found(&[(7, false)], &[]),
                false,
                Some(DifferenceKind::Shown),
            ),
            (
                "hidden",
                wanted(false),
                found(&[(7, true)], &[]),
                false,
                Some(DifferenceKind::Hidden),
            ),
            (
                "yet to be hidden",
                wanted(true),
                found(&[(7, false)], &[]),
                true,
                None,
            ),
        ] {
            assert_eq!(
                compare(wanted, found.as_ref(), is_waiting),
                expected,
                "{claim}"
            );
        }
    }
}
