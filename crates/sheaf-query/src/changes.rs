//! Events as those who follow changes see them: named, and held to what they asked for.
//!
//! What stands in the database and cannot be told, because its attributes cannot be read or its entity has no name, was put there by
//! somebody else. Such an event is left out and counted: whatever follows it is told.
//!
//! A filter is about the event alone: an attribute that it does not carry is absent, and so is one that it removes. Of the
//! reserved names `observed_at` is the event's, and `updated_at` is when it was received.

use std::collections::HashMap;
use std::sync::Arc;

use sheaf_model::{AttributeId, Cell, EntityId, Lineage, Name, Op, Timestamp, Value};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::entities::fetch_names;
use sheaf_store::stored::{StoredFault, read_attrs};

use crate::error::ReadError;
use crate::filter::{Expr, FilterError, Property, Reserved, TypedExpr};
use crate::history::{HistoryItem, named};
use crate::list::property;
use crate::reader::{Reader, type_filter};
use crate::selection::Selection;

/// Names that are remembered beside a subscription, at most. Fewer are asked for more often; each takes a few hundred bytes.
const NAMES_MAX: usize = 1_000;

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct ChangeFilter {
    entity_type: Option<Name>,
    expr: Option<TypedExpr>,
}

/// An event as the change stream has it.
#[derive(Debug, Clone, Copy)]
pub struct ChangedEvent<'a> {
    /// The entity.
    pub entity: EntityId,
    /// The instant that it is about.
    pub observed_at: Timestamp,
    /// When the server received it.
    pub ingested_at: Timestamp,
    /// What it does.
    pub op: Op,
    /// Its attributes in their stored form.
    pub attrs: &'a str,
}

/// An event with its names.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedChange {
    /// The entity's type.
    pub entity_type: String,
    /// Its id.
    pub external_id: String,
    /// What the event says.
    pub item: HistoryItem,
}

/// Names of entities that were asked for before; absent where an entity has none. They never change, within a lineage.
#[derive(Debug, Default)]
pub struct KnownNames(HashMap<EntityId, Option<(String, String)>>);

/// What becomes of an event whose entity has no name that can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// It may be seen later.
    Awaited,
    /// It was waited for: the entity has none.
    LeftOut,
}

/// Events that cannot be told to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// How many have attributes that cannot be read.
    pub unreadable: u64,
    /// How many of the others have an entity without a name.
    pub unnamed: u64,
    /// The entity of the first of them.
    pub first: Option<EntityId>,
}

/// Events that were read and not named yet.
#[derive(Debug)]
pub struct ReadChanges {
    catalogue: Arc<Catalogue>,
    /// Absent where they cannot be read.
    cells: Vec<Option<Cells>>,
}

/// Why events cannot be named now.
#[derive(Debug, thiserror::Error)]
pub enum NamingError {
    /// Their names cannot be seen yet: a commit shows in the log before it shows in the tables.
    #[error("an entity's name is not visible yet")]
    NotVisible,
    /// The database continues another history than the one that they are of.
    #[error("the numbers of the events are of another lineage than the database's")]
    OtherLineage,
    /// The catalogue or the names cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Reader {
    /// What is wanted, with its names found.
    ///
    /// # Errors
    /// As a list with this filter.
    pub async fn change_filter(
        &self,
        scope: &TenantScope,
        entity_type: Option<&str>,
        filter: Option<&Expr>,
    ) -> Result<ChangeFilter, ReadError> {
        let entity_type = type_filter(entity_type)?;
        let Some(expr) = filter else {
            return Ok(ChangeFilter {
                entity_type,
                expr: None,
            });
        };
        let typed =
            |catalogue: &Catalogue| TypedExpr::resolve(expr, &|name| property(name, catalogue));
        let catalogue = self.catalogues.current(scope).await?;
        let found = match typed(&catalogue) {
            // It may have been created since, by another server.
            Err(FilterError::UnknownAttribute { .. }) => {
                typed(&*self.catalogues.refresh(scope).await?)
            }
            found => found,
        };
        Ok(ChangeFilter {
            entity_type,
            expr: Some(found?),
        })
    }

    /// Reads events of one lineage, and learns the names that they need.
    pub async fn read_changes(
        &self,
        scope: &TenantScope,
        lineage: Lineage,
        known: &mut KnownNames,
        events: &[ChangedEvent<'_>],
        unnamed: Unnamed,
    ) -> Result<ReadChanges, NamingError> {
        let mut catalogue = self
            .catalogues
            .current(scope)
            .await
            .map_err(ReadError::from)?;
        let mut cells = read_all(events, &catalogue);
        let is_too_new = |read: &Result<Cells, StoredFault>| {
            matches!(read, Err(StoredFault::UnknownAttribute(_)))
        };
        if cells.iter().any(is_too_new) {
            catalogue = self
                .catalogues
                .refresh(scope)
                .await
                .map_err(ReadError::from)?;
            cells = read_all(events, &catalogue);
        }
        // The other way round a failover in between would name the old numbers by the new catalogue.
        self.learn(scope, lineage, known, events).await?;
        if catalogue.lineage() != Some(lineage) {
            return Err(NamingError::OtherLineage);
        }
        for event in events {
            match unnamed {
                Unnamed::Awaited if !known.0.contains_key(&event.entity) => {
                    return Err(NamingError::NotVisible);
                }
                Unnamed::Awaited => {}
                Unnamed::LeftOut => {
                    known.0.entry(event.entity).or_default();
                }
            }
        }
        let cells = cells.into_iter().map(Result::ok).collect();
        Ok(ReadChanges { catalogue, cells })
    }

    /// Asks for the names that are not known yet.
    async fn learn(
        &self,
        scope: &TenantScope,
        lineage: Lineage,
        known: &mut KnownNames,
        events: &[ChangedEvent<'_>],
    ) -> Result<(), NamingError> {
        let is_unknown = |entity: &EntityId| !known.0.contains_key(entity);
        let entities = events.iter().map(|event| event.entity);
        let mut missing: Vec<EntityId> = entities.filter(is_unknown).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        if known.0.len() + missing.len() > NAMES_MAX {
            known.0.clear();
            missing = events.iter().map(|event| event.entity).collect();
            missing.sort_unstable();
            missing.dedup();
        }
        let app = self.sources.primary_app();
        let (names, read_on) = fetch_names(app, scope, &missing)
            .await
            .map_err(ReadError::from)?;
        if read_on != Some(lineage) {
            return Err(NamingError::OtherLineage);
        }
        let names = names.into_iter();
        known
            .0
            .extend(names.map(|(entity, name)| (entity, Some(name))));
        Ok(())
    }
}

type Cells = Vec<(AttributeId, Cell)>;

fn read_all(events: &[ChangedEvent<'_>], catalogue: &Catalogue) -> Vec<Result<Cells, StoredFault>> {
    let events = events.iter();
    events
        .map(|event| read_cells(event.attrs, catalogue))
        .collect()
}

/// The cells of an event, each of an attribute that the catalogue has.
fn read_cells(attrs: &str, catalogue: &Catalogue) -> Result<Cells, StoredFault> {
    let cells: Cells = read_attrs(attrs, catalogue)?.iter().cloned().collect();
    // A removal is read without looking the attribute up.
    let is_missing = |(id, _): &&(AttributeId, Cell)| catalogue.by_id(*id).is_none();
    match cells.iter().find(is_missing) {
        Some((id, _)) => Err(StoredFault::UnknownAttribute(*id)),
        None => Ok(cells),
    }
}

fn change_of(
    (entity_type, external_id): &(String, String),
    event: &ChangedEvent<'_>,
    cells: Cells,
    catalogue: &Catalogue,
) -> Result<NamedChange, ReadError> {
    Ok(NamedChange {
        entity_type: entity_type.clone(),
        external_id: external_id.clone(),
        item: HistoryItem {
            observed_at: event.observed_at,
            ingested_at: event.ingested_at,
            replaced: event.op == Op::Replace,
            deleted: event.op == Op::Delete,
            attributes: named(cells, &Selection::All, catalogue)?,
            row: None,
        },
    })
}

impl ChangeFilter {
    /// Names the events that are wanted; absent in the place of the others, and of those that cannot be told. Can take a while: a filter may be long, and so may
    /// what it looks at.
    pub fn name(
        &self,
        events: &[ChangedEvent<'_>],
        read: ReadChanges,
        known: &KnownNames,
    ) -> Result<(Vec<Option<NamedChange>>, LeftOut), NamingError> {
        let ReadChanges { catalogue, cells } = read;
        let mut named = Vec::with_capacity(events.len());
        let mut left_out = LeftOut::default();
        for (event, cells) in events.iter().zip(cells) {
            let name = known.0.get(&event.entity).ok_or(NamingError::NotVisible)?;
            let change = match (cells, name) {
                (Some(cells), Some(name)) if self.passes(name, event, &cells) => {
                    Some(change_of(name, event, cells, &catalogue)?)
                }
                (Some(_), Some(_)) => None,
                (None, _) => {
                    left_out.unreadable += 1;
                    left_out.first.get_or_insert(event.entity);
                    None
                }
                (Some(_), None) => {
                    left_out.unnamed += 1;
                    left_out.first.get_or_insert(event.entity);
                    None
                }
            };
            named.push(change);
        }
        Ok((named, left_out))
    }

    fn passes(
        &self,
        (entity_type, external_id): &(String, String),
        event: &ChangedEvent<'_>,
        cells: &[(AttributeId, Cell)],
    ) -> bool {
        if let Some(wanted) = &self.entity_type
            && wanted.as_str() != entity_type
        {
            return false;
        }
        let Some(expr) = &self.expr else {
            return true;
        };
        let of_entity = [
            Value::Text(entity_type.clone()),
            Value::Text(external_id.clone()),
            Value::Time(event.observed_at),
            Value::Time(event.ingested_at),
        ];
        let value_of = |property: &Property| match property {
            Property::Reserved(Reserved::EntityType) => Some(&of_entity[0]),
            Property::Reserved(Reserved::ExternalId) => Some(&of_entity[1]),
            Property::Reserved(Reserved::ObservedAt) => Some(&of_entity[2]),
            Property::Reserved(Reserved::UpdatedAt) => Some(&of_entity[3]),
            Property::Attribute { id, .. } => {
                let cell = cells.iter().find(|(carried, _)| carried == id);
                match cell {
                    Some((_, Cell::Value(value))) => Some(value),
                    Some((_, Cell::Removed)) | None => None,
                }
            }
        };
        expr.evaluate(&value_of) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::AttributeType;
    use sheaf_store::catalogue::Temperature;

    use super::*;
    use crate::filter::parse_text;

    fn lookup(name: &str) -> Option<Property> {
        let attribute = |id, kind| Property::Attribute {
            id: AttributeId(id),
            kind,
            temperature: Temperature::Cold,
            is_indexed: false,
        };
        match name {
            "seats" => Some(attribute(1, AttributeType::Int)),
            "model" => Some(attribute(2, AttributeType::Text)),
            "speed" => Some(attribute(3, AttributeType::Float)),
            _ => Reserved::named(name).map(Property::Reserved),
        }
    }

    #[test]
    fn a_filter_is_about_what_the_event_carries() {
        let time = |text: &str| Timestamp::parse(text).expect("a time").0;
        let event = ChangedEvent {
            entity: EntityId(1),
            observed_at: time("2013-01-01T00:00:00Z"),
            ingested_at: time("2024-01-01T00:00:00Z"),
            op: Op::Patch,
            attrs: "",
        };
        // It sets the seats, removes the speed, and does not say anything of the model.
        let cells = [
            (AttributeId(1), Cell::Value(Value::Int(149))),
            (AttributeId(3), Cell::Removed),
        ];
        let name = ("plane".to_owned(), "N1".to_owned());
        for (text, wanted) in [
            ("seats >= 149", true),
            ("seats < 149", false),
            ("NOT seats < 149", true),
            ("seats IS NULL", false),
            ("model = 'a'", false),
            ("NOT model = 'a'", false),
            ("model <> 'a'", false),
            ("model IS NULL", true),
            ("speed > 0", false),
            ("NOT speed > 0", false),
            ("speed IS NULL", true),
            ("seats = 149 OR model = 'a'", true),
            ("seats = 149 AND model = 'a'", false),
            ("external_id = 'N1' AND entity_type = 'plane'", true),
            ("external_id LIKE 'M%'", false),
            ("observed_at < TIMESTAMP('2014-01-01T00:00:00Z')", true),
            ("updated_at < TIMESTAMP('2014-01-01T00:00:00Z')", false),
        ] {
            let expr = parse_text(text).expect(text);
            let filter = ChangeFilter {
                entity_type: None,
                expr: Some(TypedExpr::resolve(&expr, &lookup).expect(text)),
            };
            assert_eq!(filter.passes(&name, &event, &cells), wanted, "{text}");
        }
        for (entity_type, wanted) in [("plane", true), ("airport", false)] {
            let filter = ChangeFilter {
                entity_type: Some(Name::parse(entity_type).expect("a name")),
                expr: None,
            };
            assert_eq!(
                filter.passes(&name, &event, &cells),
                wanted,
                "{entity_type}"
            );
        }
        assert!(ChangeFilter::default().passes(&name, &event, &cells));
    }
}
