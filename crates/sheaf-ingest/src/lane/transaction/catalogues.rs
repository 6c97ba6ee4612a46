//! The catalogues that a group of parts is written under.

use std::collections::HashMap;
use std::sync::Arc;

use sheaf_model::{EntityId, Lineage, TenantId};
use sheaf_store::catalogue::{Catalogue, Catalogues};

use super::super::Part;

/// The catalogues of a group's tenants.
pub(super) struct GroupCatalogues {
    pub(super) by_tenant: HashMap<TenantId, Arc<Catalogue>>,
    /// Tenants whose catalogue has another version in the database than any at hand.
    pub(super) missing: Vec<TenantId>,
    /// Whose each entity is, where the group is of several tenants.
    tenants: HashMap<EntityId, TenantId>,
    first: TenantId,
}

impl GroupCatalogues {
    /// The catalogues at hand that have these versions.
    pub(super) fn of(
        group: &[Part],
        lineage: Option<Lineage>,
        versions: &HashMap<TenantId, i64>,
    ) -> GroupCatalogues {
        let mut by_tenant = HashMap::new();
        for Part { request, .. } in group {
            let tenant = request.entry.tenant;
            let version = versions.get(&tenant);
            if version.is_some_and(|version| request.catalogue.is_version(lineage, *version)) {
                by_tenant.insert(tenant, Arc::clone(&request.catalogue));
            }
        }
        let mut all: Vec<TenantId> = group.iter().map(|part| part.request.entry.tenant).collect();
        all.sort_unstable();
        all.dedup();
        let events = group.iter().flat_map(|part| part.events.iter());
        let tenants = if all.len() > 1 {
            events.map(|event| (event.entity, event.tenant)).collect()
        } else {
            HashMap::new()
        };
        GroupCatalogues {
            first: all[0],
            missing: all
                .into_iter()
                .filter(|tenant| !by_tenant.contains_key(tenant))
                .collect(),
            by_tenant,
            tenants,
        }
    }

    /// Takes versions that this server remembers: where a catalogue grows, requests come with the one before.
    pub(super) fn recall(
        &mut self,
        remembered: &Catalogues,
        lineage: Option<Lineage>,
        versions: &HashMap<TenantId, i64>,
    ) {
        for tenant in std::mem::take(&mut self.missing) {
            let version = versions.get(&tenant);
            match version.and_then(|version| remembered.recall(tenant, lineage, *version)) {
                Some(catalogue) => drop(self.by_tenant.insert(tenant, catalogue)),
                None => self.missing.push(tenant),
            }
        }
    }

    pub(super) fn of_tenant(&self, tenant: TenantId) -> &Catalogue {
        let found = self.by_tenant.get(&tenant);
        found.expect("every tenant of the group has a catalogue, at hand or read")
    }

    pub(super) fn of_entity(&self, entity: EntityId) -> &Catalogue {
        self.of_tenant(self.tenants.get(&entity).copied().unwrap_or(self.first))
    }
}
