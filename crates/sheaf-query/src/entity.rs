//! One entity: its current document, or what it was at an instant.
//!
//! Both parts of a document are read whole and attributes never change their type, so that a catalogue from before a
//! change of temperature reads it as well as the newest. One from before an attribute was created fails to, and is
//! read anew.

use sheaf_model::EntityId;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::documents::{StoredDocument, entity_of, read_entity_alone};

use crate::answer::{EntityAnswer, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::Reader;
use crate::selection::{Selection, select_values};
use crate::source::Source;

mod as_of;
mod remembered;

pub use remembered::{Encode, EncodedEntity};

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
        self.bypass();
        let name = EntityName::canonical(entity_type, external_id);
        let mut attempt = Attempt::first(self, scope, options).await?;
        loop {
            let source = attempt.source().await?;
            let result = found_under(attempt.catalogue(), &source, scope, &name, query).await;
            if let Some(Read { value, freshness }) = attempt.judge(source, result).await? {
                let value = value.answer;
                return Ok(Read { value, freshness });
            }
        }
    }
}

/// What a source says of an entity.
struct Found {
    /// Which it is; none where the name has no number.
    entity: Option<EntityId>,
    /// The version of its document; 0 where there never was one.
    version: i64,
    /// None where it is not found.
    answer: Option<EntityAnswer>,
}

async fn found_under(
    catalogue: &Catalogue,
    source: &Source,
    scope: &TenantScope,
    name: &EntityName,
    query: &EntityQuery,
) -> Result<Found, ReadError> {
    let wanted = Wanted::resolve(query, catalogue)?;
    let tenant = scope.tenant();
    let (entity_type, external_id) = (name.entity_type.as_str(), name.external_id.as_str());
    let statement = read_entity_alone(&tenant, &entity_type, &external_id);
    let row = source.run_alone(&statement).await?;
    let Some((entity, stored)) = entity_of(&row, catalogue)? else {
        return Ok(Found {
            entity: None,
            version: 0,
            answer: None,
        });
    };
    let version = stored.as_ref().map(|stored| stored.document.version);
    let answer = match stored {
        Some(stored) if stored.document.exists() => Some(wanted.answer(name, stored, version)?),
        Some(_) | None => None,
    };
    Ok(Found {
        entity: Some(entity),
        version: version.unwrap_or(0),
        answer,
    })
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
