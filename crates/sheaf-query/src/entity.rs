//! One entity: its current document, or what it was at an instant.
//!
//! Both parts of a document are read whole and attributes never change their type, so that a catalogue from before a
//! change of temperature reads it as well as the newest. One from before an attribute was created fails to, and is
//! read anew.

use sheaf_pg::Access;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::documents::{StoredDocument, document_of, read_entity};
use sheaf_store::snapshot::{read_snapshot, snapshot_of};

use crate::answer::{EntityAnswer, Read};
use crate::attempt::{Attempt, check_lineage};
use crate::consistency::{Freshness, ReadOptions};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::Reader;
use crate::selection::{Selection, select_values};

mod as_of;

/// What is wanted of an entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntityQuery {
    /// The attributes; absent for all. Those that the entity does not have are absent from the answer.
    pub select: Option<Vec<String>>,
    /// Whether since when each value holds.
    pub times: bool,
}

impl Reader {
    /// An entity as it is. Nothing for one that never had an event, or is deleted.
    pub async fn entity(
        &self,
        scope: &TenantScope,
        entity_type: &str,
        external_id: &str,
        query: &EntityQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<EntityAnswer>>, ReadError> {
        let name = EntityName::canonical(entity_type, external_id);
        let mut attempt = Attempt::first(&self.catalogues, scope).await?;
        loop {
            let result = self
                .entity_under(attempt.catalogue(), scope, &name, query, options)
                .await;
            if let Some(answer) = attempt.judge(result).await? {
                return Ok(answer);
            }
        }
    }

    async fn entity_under(
        &self,
        catalogue: &Catalogue,
        scope: &TenantScope,
        name: &EntityName,
        query: &EntityQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<EntityAnswer>>, ReadError> {
        let wanted = Wanted::resolve(query, catalogue)?;
        let tenant = scope.tenant();
        let (entity_type, external_id) = (name.entity_type.as_str(), name.external_id.as_str());
        let statements = [
            read_entity(&tenant, &entity_type, &external_id),
            read_snapshot(),
        ];
        let rows = scope.run(&self.app, Access::Read, &statements).await?;
        let snapshot = snapshot_of(&rows[1], &self.settings)?;
        check_lineage(catalogue, snapshot.position)?;
        let freshness = Freshness::of_primary(&snapshot, options)?;
        let stored = match rows[0].first() {
            Some(row) => Some(document_of(row, catalogue)?),
            None => None,
        };
        let value = match stored {
            Some(stored) if stored.document.exists() => {
                let version = Some(stored.document.version);
                Some(wanted.answer(name, stored, version)?)
            }
            Some(_) | None => None,
        };
        Ok(Read { value, freshness })
    }
}

/// What is wanted, with its names found.
struct Wanted<'a> {
    selection: Selection,
    times: bool,
    catalogue: &'a Catalogue,
}

impl Wanted<'_> {
    fn resolve<'a>(query: &EntityQuery, catalogue: &'a Catalogue) -> Result<Wanted<'a>, ReadError> {
        Ok(Wanted {
            selection: Selection::resolve("select", query.select.as_deref(), catalogue)?,
            times: query.times,
            catalogue,
        })
    }

    fn answer(
        &self,
        name: &EntityName,
        stored: StoredDocument,
        version: Option<i64>,
    ) -> Result<EntityAnswer, ReadError> {
        let observed_at = stored.document.newest.unwrap_or(stored.updated_at);
        let (attributes, times) = select_values(stored.document, &self.selection, self.catalogue)?;
        Ok(EntityAnswer {
            entity_type: name.entity_type.clone(),
            external_id: name.external_id.clone(),
            version,
            observed_at,
            updated_at: stored.updated_at,
            attributes,
            times: self.times.then_some(times),
        })
    }
}
