//! One change on its way to what waits for the next commit, or why it has no place there.

use sheaf_cdc::change::{Catalogue, CatalogueRow, Change, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::letter::{LetterReason, Refusal};
use sheaf_model::{AttributeId, AttributeType, ChangePosition, EntityId, LATE_SEQ, TenantId};

use super::LakeSink;
use crate::error::LakeError;
use crate::fact::{EventFault, attributes_of};
use crate::keyframes::attrs_of;
use crate::pending::Pending;
use crate::rows::StoredRow;
use crate::schema::LakeTable;

impl LakeSink {
    /// Takes a change.
    pub(super) async fn put(
        &mut self,
        pending: &mut Pending,
        change: &Change,
    ) -> Result<(), LakeError> {
        let position = change.position;
        match &change.row {
            ChangedRow::Event(event) => self
                .put_event(pending, event)
                .await?
                .map_err(|source| LakeError::Event { position, source }),
            ChangedRow::Catalogue(row) if row.catalogue == Catalogue::Keyframes => self
                .put_keyframe(pending, row)
                .await?
                .map_err(|source| LakeError::Event { position, source }),
            ChangedRow::Catalogue(row) => {
                self.learn(row);
                if let Some(source) = self.misfits.get(&position).cloned() {
                    return Err(LakeError::Row { position, source });
                }
                let stored = stored_row(row, position)?;
                pending.push_row(row.catalogue, stored);
                Ok(())
            }
        }
    }

    /// Remembers what the numbers of a catalogue's row mean. What cannot be read is asked for when it is needed.
    pub(super) fn learn(&mut self, row: &CatalogueRow) {
        let text = |name| match row.get(name) {
            Some(ColumnValue::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        match row.catalogue {
            Catalogue::Tenants | Catalogue::Keyframes => {}
            Catalogue::Attributes => {
                let kind = text("type").and_then(AttributeType::parse);
                if let (Some(tenant), Some(id), Some(name), Some(kind)) = (
                    row.number("tenant_id"),
                    row.number("attribute_id"),
                    text("name"),
                    kind,
                ) {
                    let (tenant, id) = (TenantId(tenant), AttributeId(id));
                    self.names.learn_attribute(tenant, id, name, kind);
                }
            }
            Catalogue::Entities => {
                if let (Some(tenant), Some(entity), Some(entity_type), Some(external_id)) = (
                    row.number("tenant_id"),
                    row.number("entity_id"),
                    text("entity_type"),
                    text("external_id"),
                ) {
                    let (tenant, entity) = (TenantId(tenant), EntityId(entity));
                    self.names
                        .learn_entity(tenant, entity, entity_type, external_id);
                }
            }
        }
    }

    /// Whether a row of a snapshot is of a period that the lake has kept. Late events are not: of those that are there nothing is
    /// added when they are looked up.
    pub(super) fn is_archived(&self, change: &Change) -> bool {
        let Some(before) = self.archived_before else {
            return false;
        };
        match &change.row {
            ChangedRow::Event(event) => event.observed_at < before && event.seq < LATE_SEQ,
            ChangedRow::Catalogue(row) => {
                let at = row.get("at");
                row.catalogue == Catalogue::Keyframes
                    && matches!(at, Some(ColumnValue::Time(at)) if *at <= before)
            }
        }
    }

    /// Takes a keyframe, or says what is wrong with it.
    pub(super) async fn put_keyframe(
        &mut self,
        pending: &mut Pending,
        row: &CatalogueRow,
    ) -> Result<Result<(), EventFault>, LakeError> {
        match pending.keyframes.push(row, &self.names) {
            // It was named before this process began.
            Err(EventFault::UnknownAttribute(_)) => {
                let Some((tenant, attrs)) = attrs_of(row) else {
                    return Ok(Err(EventFault::Attributes));
                };
                let ids = match attributes_of(attrs) {
                    Ok(ids) => ids,
                    Err(fault) => return Ok(Err(fault)),
                };
                self.names.find_attributes(tenant, &ids).await?;
                Ok(pending.keyframes.push(row, &self.names))
            }
            pushed => Ok(pushed),
        }
    }

    /// Takes an event, or says what is wrong with it.
    pub(super) async fn put_event(
        &mut self,
        pending: &mut Pending,
        event: &EventRow,
    ) -> Result<Result<(), EventFault>, LakeError> {
        pending.take_event(event, &mut self.names).await
    }
}

/// A row of a catalogue as the lake holds it.
pub(super) fn stored_row(
    row: &CatalogueRow,
    position: ChangePosition,
) -> Result<StoredRow, LakeError> {
    let table = match row.catalogue {
        Catalogue::Tenants => LakeTable::Tenants,
        Catalogue::Attributes => LakeTable::Attributes,
        Catalogue::Entities => LakeTable::Entities,
        Catalogue::Keyframes => LakeTable::Keyframes,
    };
    StoredRow::read(table, row, position).map_err(|source| LakeError::Row { position, source })
}

/// What is wrong with one change alone is no failure of the lake.
pub(super) fn refusal_of(put: Result<(), LakeError>) -> Result<Option<Refusal>, LakeError> {
    let (position, reason, detail) = match put {
        Ok(()) => return Ok(None),
        Err(LakeError::Event { position, source }) => {
            let reason = match &source {
                EventFault::UnknownAttribute(_) => LetterReason::UnknownAttribute,
                EventFault::Attributes | EventFault::Value(_) => LetterReason::InvalidValue,
            };
            (position, reason, source.to_string())
        }
        Err(LakeError::Row { position, source }) => {
            (position, LetterReason::InvalidRow, source.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Refusal {
        position,
        reason,
        detail,
    }))
}
