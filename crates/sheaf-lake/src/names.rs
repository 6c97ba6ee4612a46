//! What the numbers in events mean: learned from the rows of the catalogues that pass, and read from PostgreSQL where a row
//! has passed before this process began. Neither names nor types ever change.

use std::collections::HashMap;
use std::sync::Arc;

use quick_cache::sync::Cache;
use sheaf_model::{AttributeId, AttributeType, EntityId, TenantId};
use sheaf_pg::Pool;
use sheaf_store::lake::{name_attributes, name_entities};

use crate::error::LakeError;

/// How many names of entities are remembered: 100 MB of names of twenty letters. One that is forgotten is read again.
const ENTITIES_MAX: usize = 500_000;
/// How many names of attributes and of types are remembered.
const OTHERS_MAX: usize = 500_000;
/// How many names are read by one statement.
const READ_MAX: usize = 10_000;

/// An attribute's name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttributeName {
    pub(crate) name: Box<str>,
    pub(crate) kind: AttributeType,
}

/// An entity's type and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityName {
    pub(crate) entity_type: Arc<str>,
    pub(crate) external_id: Box<str>,
}

/// The names that are known.
#[derive(Debug)]
pub(crate) struct Names {
    cdc: Pool,
    attributes: HashMap<(TenantId, AttributeId), Arc<AttributeName>>,
    /// Few types, many entities: each is kept once.
    types: HashMap<String, Arc<str>>,
    entities: Cache<(TenantId, EntityId), Arc<EntityName>>,
}

impl Names {
    pub(crate) fn new(cdc: Pool) -> Names {
        Names {
            cdc,
            attributes: HashMap::new(),
            types: HashMap::new(),
            entities: Cache::new(ENTITIES_MAX),
        }
    }

    pub(crate) fn learn_attribute(
        &mut self,
        tenant: TenantId,
        id: AttributeId,
        name: &str,
        kind: AttributeType,
    ) {
        let name = AttributeName {
            name: name.into(),
            kind,
        };
        self.attributes.insert((tenant, id), Arc::new(name));
    }

    pub(crate) fn learn_entity(
        &mut self,
        tenant: TenantId,
        entity: EntityId,
        entity_type: &str,
        external_id: &str,
    ) {
        let name = self.entity_name(entity_type, external_id);
        self.entities.insert((tenant, entity), name);
    }

    fn entity_name(&mut self, entity_type: &str, external_id: &str) -> Arc<EntityName> {
        let known = self.types.get(entity_type).map(Arc::clone);
        let entity_type = known.unwrap_or_else(|| {
            let kept: Arc<str> = entity_type.into();
            self.types.insert(entity_type.to_owned(), Arc::clone(&kept));
            kept
        });
        Arc::new(EntityName {
            entity_type,
            external_id: external_id.into(),
        })
    }

    /// Forgets what has become too much. Only while nothing waits: facts that wait need their attributes.
    pub(crate) fn forget_many(&mut self) {
        if self.attributes.len() > OTHERS_MAX {
            self.attributes.clear();
        }
        if self.types.len() > OTHERS_MAX {
            self.types.clear();
        }
    }

    pub(crate) fn kind(&self, tenant: TenantId, id: AttributeId) -> Option<AttributeType> {
        self.attributes.get(&(tenant, id)).map(|name| name.kind)
    }

    pub(crate) fn attribute(
        &self,
        tenant: TenantId,
        id: AttributeId,
    ) -> Option<&Arc<AttributeName>> {
        self.attributes.get(&(tenant, id))
    }

    /// Reads what is not known of these attributes.
    pub(crate) async fn find_attributes(
        &mut self,
        tenant: TenantId,
        ids: &[AttributeId],
    ) -> Result<(), LakeError> {
        let wanted = ids.iter().map(|id| (tenant, *id));
        let unknown: Vec<_> = wanted
            .filter(|number| !self.attributes.contains_key(number))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for found in name_attributes(&self.cdc, &unknown).await? {
            self.learn_attribute(found.tenant, found.attribute, &found.name, found.kind);
        }
        Ok(())
    }

    /// The names of these entities, at the same places. Absent where there is none.
    pub(crate) async fn entities(
        &mut self,
        wanted: &[(TenantId, EntityId)],
    ) -> Result<Vec<Option<Arc<EntityName>>>, LakeError> {
        // Held beside the cache, which may forget some while the others are read.
        let mut names: HashMap<(TenantId, EntityId), Option<Arc<EntityName>>> = HashMap::new();
        for number in wanted {
            names
                .entry(*number)
                .or_insert_with(|| self.entities.get(number));
        }
        let unknown = names.iter().filter(|(_, name)| name.is_none());
        let mut unknown: Vec<_> = unknown.map(|(number, _)| *number).collect();
        unknown.sort_unstable();
        for some in unknown.chunks(READ_MAX) {
            for found in name_entities(&self.cdc, some).await? {
                let number = (found.tenant, found.entity);
                let name = self.entity_name(&found.entity_type, &found.external_id);
                self.entities.insert(number, Arc::clone(&name));
                names.insert(number, Some(name));
            }
        }
        let name = |number| names.get(number).and_then(Clone::clone);
        Ok(wanted.iter().map(name).collect())
    }
}
