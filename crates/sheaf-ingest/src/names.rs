//! Names of entities to their numbers, through a bounded memory. A number never changes on one lineage of the database, so
//! what is remembered of it is true; on another, a name may be lost and its number given to another.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};
use sheaf_model::{EntityId, Lineage, TenantId, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::entities::{EntityName, EntityNumbers, create_entities, fetch_entities};

use crate::observer::Observed;
use crate::request::WriteError;

/// What remembered names may take. The server is to stay below 400 MB under full load; names get a sixth of that, a
/// million devices. More saves look-ups for tenants with more active entities than that (a body with forgotten names
/// costs one more statement); less forgets names between two reports.
const NAMES_BYTES_MAX: usize = 64_000_000;
/// What a remembered name takes, whatever its length: digest, number, links and its place in the table. A process grew
/// by 63.5 bytes a name when a cache of a million was filled three times over.
const NAME_BYTES: usize = 64;
const NAMES_MAX: usize = NAMES_BYTES_MAX / NAME_BYTES;

/// Remembered names.
pub(crate) struct EntityNames {
    app: Pool,
    known: Known,
    observed: Observed,
}

/// Names by their digest: a name has up to 767 bytes, and a million of them are to be remembered.
struct Known {
    digests: [RandomState; 2],
    numbers: Cache<NameDigest, EntityId>,
}

/// Where a name has its number: a lineage and a tenant of it. None where the lineage is not known, on a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Space {
    lineage: Option<Lineage>,
    tenant: TenantId,
}

/// 128 bits of a lineage, a tenant and a name, under two keys that are drawn when the process starts, so that nobody can look for
/// two names with the same digest. Among a million remembered names, a name that is looked for meets another's digest
/// once in 10^32 look-ups.
type NameDigest = (u64, u64);

impl Known {
    fn new(names_max: usize) -> Known {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(names_max)
            .weight_capacity(names_max as u64)
            // A forgotten name that is kept in mind would take as much as a remembered one.
            .ghost_allocation(0.0)
            .build()
            .expect("invariant: both capacities are set");
        Known {
            digests: [RandomState::new(), RandomState::new()],
            numbers: Cache::with_options(
                options,
                UnitWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
        }
    }

    fn digest(&self, space: Space, name: EntityName<'_>) -> NameDigest {
        let [one, other] = &self.digests;
        (one.hash_one((space, name)), other.hash_one((space, name)))
    }

    fn get(&self, space: Space, name: EntityName<'_>) -> Option<EntityId> {
        self.numbers.get(&self.digest(space, name))
    }

    fn insert(&self, space: Space, name: EntityName<'_>, id: EntityId) {
        self.numbers.insert(self.digest(space, name), id);
    }
}

impl EntityNames {
    pub(crate) fn new(app: Pool, observed: Observed) -> EntityNames {
        EntityNames {
            app,
            known: Known::new(NAMES_MAX),
            observed,
        }
    }

    /// Tells of names whose numbers were just learned. That they have one now is told to other servers with their first
    /// document, which answers otherwise than none; a request that created them and was dropped has told nobody.
    fn tell(&self, tenant: TenantId) {
        if let Some(observer) = self.observed.get() {
            observer.named(tenant);
        }
    }

    /// The number of each name on this lineage, in their order; names never seen are created.
    pub(crate) async fn require(
        &self,
        scope: &TenantScope,
        lineage: Option<Lineage>,
        names: &[EntityName<'_>],
        now: Timestamp,
    ) -> Result<Vec<EntityId>, WriteError> {
        let mut found = self.recall(scope, lineage, names);
        let mut unknown = missing(names, &found);
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let learned = self.learn(scope, lineage, &unknown, now).await?;
            let by_name: HashMap<EntityName<'_>, EntityId> =
                unknown.into_iter().zip(learned).collect();
            for (slot, name) in found.iter_mut().zip(names) {
                *slot = slot.or_else(|| by_name.get(name).copied());
            }
        }
        Ok(found
            .into_iter()
            .map(|id| id.expect("every name was known, found or created"))
            .collect())
    }

    /// The numbers of names that are not remembered: one statement finds those that are there, one creates the others,
    /// and one more is needed only where another server has created some meanwhile.
    async fn learn(
        &self,
        scope: &TenantScope,
        lineage: Option<Lineage>,
        names: &[EntityName<'_>],
        now: Timestamp,
    ) -> Result<Vec<EntityId>, WriteError> {
        let mut found = on(lineage, fetch_entities(&self.app, scope, names).await?)?;
        let new = missing(names, &found);
        if !new.is_empty() {
            let created = create_entities(&self.app, scope, &new, now).await?;
            fill(&mut found, on(lineage, created)?);
        }
        let created_elsewhere = missing(names, &found);
        if !created_elsewhere.is_empty() {
            let rest = fetch_entities(&self.app, scope, &created_elsewhere).await?;
            fill(&mut found, on(lineage, rest)?);
        }
        let tenant = scope.tenant();
        let space = Space { lineage, tenant };
        // Before anybody finds them in memory and writes under them.
        self.tell(tenant);
        let mut ids = Vec::with_capacity(names.len());
        for (name, id) in names.iter().zip(found) {
            let id =
                id.ok_or_else(|| PgError::unreadable("creating entities", "a created name"))?;
            self.known.insert(space, *name, id);
            ids.push(id);
        }
        Ok(ids)
    }

    /// The number of one name on this lineage; absent where it was never seen.
    pub(crate) async fn fetch(
        &self,
        scope: &TenantScope,
        lineage: Option<Lineage>,
        name: EntityName<'_>,
    ) -> Result<Option<EntityId>, WriteError> {
        if let Some(id) = self.recall(scope, lineage, &[name])[0] {
            return Ok(Some(id));
        }
        let found = fetch_entities(&self.app, scope, &[name]).await?;
        let found = on(lineage, found)?[0];
        if let Some(id) = found {
            let tenant = scope.tenant();
            self.tell(tenant);
            self.known.insert(Space { lineage, tenant }, name, id);
        }
        Ok(found)
    }

    fn recall(
        &self,
        scope: &TenantScope,
        lineage: Option<Lineage>,
        names: &[EntityName<'_>],
    ) -> Vec<Option<EntityId>> {
        let tenant = scope.tenant();
        let known = |name: &EntityName<'_>| self.known.get(Space { lineage, tenant }, *name);
        names.iter().map(known).collect()
    }
}

/// Numbers that were learned on this lineage.
fn on(
    lineage: Option<Lineage>,
    learned: EntityNumbers,
) -> Result<Vec<Option<EntityId>>, WriteError> {
    if learned.lineage == lineage {
        Ok(learned.numbers)
    } else {
        Err(WriteError::OtherLineage)
    }
}

/// The names without a number.
fn missing<'a>(names: &[EntityName<'a>], found: &[Option<EntityId>]) -> Vec<EntityName<'a>> {
    let pairs = names.iter().zip(found);
    let missing = pairs.filter(|(_, id)| id.is_none());
    missing.map(|(name, _)| *name).collect()
}

/// Puts the numbers of the missing names in their places.
fn fill(found: &mut [Option<EntityId>], learned: Vec<Option<EntityId>>) {
    let places = found.iter_mut().filter(|id| id.is_none());
    for (place, id) in places.zip(learned) {
        *place = id;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn space(timeline: u32, tenant: i64) -> Space {
        Space {
            lineage: Some(Lineage {
                system_id: 7,
                timeline,
            }),
            tenant: TenantId(tenant),
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_true_and_within_its_bound(
            seen in vec((1_u32..3, 0_i64..3, "[ab]{0,3}", "[ab]{0,6}"), 1..600),
            names_max in 1_usize..200,
        ) {
            let known = Known::new(names_max);
            let mut numbers = HashMap::new();
            for (timeline, tenant, entity_type, external_id) in &seen {
                let (space, name) = (space(*timeline, *tenant), (entity_type.as_str(), external_id.as_str()));
                let next = EntityId(numbers.len() as i64 + 1);
                let number = *numbers.entry((space, name)).or_insert(next);
                if let Some(remembered) = known.get(space, name) {
                    prop_assert_eq!(remembered, number);
                }
                known.insert(space, name, number);
                let bound = names_max.next_multiple_of(known.numbers.num_shards());
                prop_assert!(known.numbers.len() <= bound, "{} of {names_max}", known.numbers.len());
            }
        }
    }

    #[test]
    fn a_type_and_an_id_that_run_together_alike_are_two_names() {
        let known = Known::new(10);
        known.insert(space(1, 1), ("ab", "c"), EntityId(1));
        assert_eq!(known.get(space(1, 1), ("ab", "c")), Some(EntityId(1)));
        for (timeline, tenant, name) in [
            (1, 1, ("a", "bc")),
            (1, 1, ("", "abc")),
            (1, 2, ("ab", "c")),
            (2, 1, ("ab", "c")),
        ] {
            let found = known.get(space(timeline, tenant), name);
            assert_eq!(found, None, "{timeline} {tenant} {name:?}");
        }
    }

    #[test]
    fn a_million_names_are_remembered_at_once() {
        let known = Known::new(NAMES_MAX);
        assert!(known.numbers.capacity() >= 1_000_000);
    }
}
