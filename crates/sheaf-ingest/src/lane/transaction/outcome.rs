//! What becomes of single parts: conditions that do not hold, refusals, answers to edits.

use sheaf_model::{AttributeId, Refusal};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::rejections::NewRejection;

use super::super::{EditedDocument, Part, PartKind, Request};
use super::catalogues::GroupCatalogues;
use crate::plan::{Documents, GroupPlan, superseded};
use crate::request::{Precondition, WriteError};

pub(super) fn check_condition(part: &Part, documents: &Documents) -> Result<(), WriteError> {
    let PartKind::Edit {
        precondition,
        must_exist,
    } = part.kind
    else {
        return Ok(());
    };
    let document = part
        .events
        .first()
        .and_then(|event| documents.get(&event.entity))
        .map(|stored| &stored.document)
        .filter(|document| document.exists());
    if must_exist && document.is_none() {
        return Err(WriteError::NotFound);
    }
    let holds = match precondition {
        None => true,
        Some(Precondition::Version(version)) => {
            document.is_some_and(|document| document.version == version)
        }
        Some(Precondition::Absent) => document.is_none(),
    };
    if holds {
        Ok(())
    } else {
        Err(WriteError::Precondition)
    }
}

/// All refusals of a part, those of the plan among them. One order for all: refusals of one event are numbered by their
/// place.
pub(super) fn rejections_of(
    part: &Part,
    refusals: &[(u32, Option<AttributeId>, Refusal)],
    catalogues: &GroupCatalogues,
) -> Vec<NewRejection> {
    let catalogue = catalogues.of_tenant(part.request.entry.tenant);
    let mut rejections = part.rejections.clone();
    let late = refusals
        .iter()
        .map(|refusal| late_rejection(&part.request, refusal, catalogue));
    rejections.extend(late);
    rejections.sort_by_key(|rejection| rejection.event_index);
    rejections
}

fn late_rejection(
    request: &Request,
    (index, field, refusal): &(u32, Option<AttributeId>, Refusal),
    catalogue: &Catalogue,
) -> NewRejection {
    let source = request
        .sources
        .binary_search_by_key(index, |source| source.index)
        .map(|place| &request.sources[place]);
    NewRejection {
        event_index: i32::try_from(*index).unwrap_or(i32::MAX),
        entity_type: source
            .as_ref()
            .ok()
            .map(|source| source.entity_type.clone()),
        field: field
            .and_then(|id| catalogue.by_id(id))
            .map(|attribute| attribute.name.clone()),
        code: refusal.code,
        reason: refusal.reason.clone(),
        raw: source.map(|source| source.raw.clone()).unwrap_or_default(),
        reading: request.reading.clone(),
        rest: None,
    }
}

/// What an edit is answered with.
pub(super) fn edited_document(
    active: usize,
    part: &Part,
    plan: &GroupPlan,
    catalogues: &GroupCatalogues,
) -> Option<EditedDocument> {
    let (PartKind::Edit { .. }, [edit]) = (part.kind, part.events.as_slice()) else {
        return None;
    };
    let planned = plan.document(edit.tenant, edit.entity)?;
    let observed_at = plan.parts[active].last_at?;
    let catalogue = catalogues.of_tenant(edit.tenant);
    let name = |id: &AttributeId| {
        catalogue
            .by_id(*id)
            .map_or_else(|| id.to_string(), |attribute| attribute.name.clone())
    };
    let document = &planned.stored.document;
    let mut superseded: Vec<String> = superseded(document, &edit.event, observed_at)
        .iter()
        .map(name)
        .collect();
    superseded.sort_unstable();
    Some(EditedDocument {
        created: planned.created_by == Some(active),
        version: document.version,
        observed_at,
        superseded,
    })
}
