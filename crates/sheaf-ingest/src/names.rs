//! Names of entities to their numbers, through a bounded memory. A number never changes, so what is remembered is true.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use quick_cache::{Equivalent, sync::Cache};
use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::entities::{EntityName, create_entities, fetch_entities};

/// How many names are remembered: about a hundred bytes each. More saves look-ups for tenants with more active
/// entities; fewer saves memory.
const NAMES_MAX: usize = 500_000;

/// Remembered names.
pub(crate) struct EntityNames {
    app: Pool,
    known: Cache<NameKey, EntityId>,
}

#[derive(Clone, PartialEq, Eq)]
struct NameKey {
    tenant: TenantId,
    entity_type: Box<str>,
    external_id: Box<str>,
}

impl Hash for NameKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        NameRef {
            tenant: self.tenant,
            name: (&self.entity_type, &self.external_id),
        }
        .hash(state);
    }
}

/// A name that is looked for, borrowed; it hashes as the remembered one does.
#[derive(Hash)]
struct NameRef<'a> {
    tenant: TenantId,
    name: EntityName<'a>,
}

impl Equivalent<NameKey> for NameRef<'_> {
    fn equivalent(&self, key: &NameKey) -> bool {
        self.tenant == key.tenant && self.name == (&*key.entity_type, &*key.external_id)
    }
}

impl EntityNames {
    pub(crate) fn new(app: Pool) -> EntityNames {
        EntityNames {
            app,
            known: Cache::new(NAMES_MAX),
        }
    }

    /// The number of each name, in their order; names never seen are created.
    pub(crate) async fn require(
        &self,
        scope: &TenantScope,
        names: &[EntityName<'_>],
        now: Timestamp,
    ) -> Result<Vec<EntityId>, PgError> {
        let mut found = self.recall(scope, names);
        let mut unknown: Vec<EntityName<'_>> = names
            .iter()
            .zip(&found)
            .filter(|(_, id)| id.is_none())
            .map(|(name, _)| *name)
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let mut learned = fetch_entities(&self.app, scope, &unknown).await?;
            if learned.contains(&None) {
                let new: Vec<EntityName<'_>> = unknown
                    .iter()
                    .zip(&learned)
                    .filter(|(_, id)| id.is_none())
                    .map(|(name, _)| *name)
                    .collect();
                create_entities(&self.app, scope, &new, now).await?;
                learned = fetch_entities(&self.app, scope, &unknown).await?;
            }
            let mut by_name = HashMap::with_capacity(unknown.len());
            for (name, id) in unknown.into_iter().zip(learned) {
                let id =
                    id.ok_or_else(|| PgError::unreadable("creating entities", "a created name"))?;
                self.remember(scope, name, id);
                by_name.insert(name, id);
            }
            for (slot, name) in found.iter_mut().zip(names) {
                *slot = slot.or_else(|| by_name.get(name).copied());
            }
        }
        Ok(found
            .into_iter()
            .map(|id| id.expect("every name was known, found or created"))
            .collect())
    }

    /// The number of one name; absent where it was never seen.
    pub(crate) async fn fetch(
        &self,
        scope: &TenantScope,
        name: EntityName<'_>,
    ) -> Result<Option<EntityId>, PgError> {
        if let Some(id) = self.recall(scope, &[name])[0] {
            return Ok(Some(id));
        }
        let found = fetch_entities(&self.app, scope, &[name]).await?[0];
        if let Some(id) = found {
            self.remember(scope, name, id);
        }
        Ok(found)
    }

    fn recall(&self, scope: &TenantScope, names: &[EntityName<'_>]) -> Vec<Option<EntityId>> {
        let tenant = scope.tenant();
        names
            .iter()
            .map(|name| {
                self.known.get(&NameRef {
                    tenant,
                    name: *name,
                })
            })
            .collect()
    }

    fn remember(
        &self,
        scope: &TenantScope,
        (entity_type, external_id): EntityName<'_>,
        id: EntityId,
    ) {
        let key = NameKey {
            tenant: scope.tenant(),
            entity_type: entity_type.into(),
            external_id: external_id.into(),
        };
        self.known.insert(key, id);
    }
}
