//! What a transaction writes: the plan, and the rows that it becomes.

use std::collections::{BTreeMap, BTreeSet};

use futures::try_join;
use sheaf_model::{AttributeId, Cell, Timestamp};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::documents::DocumentColumns;
use sheaf_store::events::{EventColumns, EventRows, Instants};
use sheaf_store::stored::{PartsToWrite, write_document};
use sheaf_store::value_index::IndexColumns;
use tokio_postgres::Client;

use super::super::{Lane, Part};
use super::Abort;
use super::catalogues::GroupCatalogues;
use crate::plan::{
    Documents, GroupPart, GroupPlan, PlannedDocument, PlannedRow, StoredInstants, is_late,
    plan_group, take_closed, time_events,
};

impl Lane {
    pub(super) async fn plan(
        &self,
        client: &Client,
        parts: &[GroupPart<'_>],
        documents: Documents,
        catalogues: &GroupCatalogues,
        closed_before: Option<Timestamp>,
    ) -> Result<GroupPlan, Abort> {
        let (mut timed, to_read) = time_events(parts, &documents);
        let closed = take_closed(&mut timed, &self.closed, closed_before);
        let (mut instants, mut late) = (Instants::default(), Instants::default());
        for (tenant, entity, time) in to_read {
            let asked = if is_late(time, closed_before) {
                &mut late
            } else {
                &mut instants
            };
            asked.push(tenant, entity, time);
        }
        let mut stored = StoredInstants::new();
        let catalogue_of = |entity| catalogues.of_entity(entity);
        let (rows, late_rows) = try_join!(
            instants.read(client, catalogue_of),
            late.read_late(client, catalogue_of),
        )?;
        for (entity, row) in rows.into_iter().chain(late_rows) {
            stored
                .entry((entity, row.observed_at))
                .or_default()
                .push(row);
        }
        let mut plan = plan_group(parts, timed, documents, stored, closed_before);
        plan.refuse_closed(&closed);
        Ok(plan)
    }

    /// The late rows of the plan, encoded for their table.
    pub(super) fn late_rows(running: &[(usize, &Part)], plan: &GroupPlan) -> EventColumns {
        let mut encoded = EventColumns::default();
        for planned in plan.rows.iter().filter(|planned| planned.is_late()) {
            push_row(&mut encoded, running, planned);
        }
        encoded
    }

    /// The others, encoded for their partitions.
    pub(super) fn rows<R: EventRows>(
        &self,
        running: &[(usize, &Part)],
        plan: &GroupPlan,
    ) -> Result<Vec<(String, R)>, Abort> {
        let mut encoded: BTreeMap<usize, R> = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut at = None;
        for planned in plan.rows.iter().filter(|planned| !planned.is_late()) {
            let time = planned.row.observed_at;
            let held = at.filter(|place: &usize| self.partitions[*place].holds(time));
            let place = held.or_else(|| {
                self.partitions
                    .iter()
                    .position(|partition| partition.holds(time))
            });
            let Some(place) = place else {
                missing.insert(time);
                continue;
            };
            at = Some(place);
            push_row(encoded.entry(place).or_default(), running, planned);
        }
        if !missing.is_empty() {
            return Err(Abort::Partitions(missing));
        }
        Ok(encoded
            .into_iter()
            .map(|(place, rows)| (self.partitions[place].name.clone(), rows))
            .collect())
    }
}

fn push_row(encoded: &mut impl EventRows, running: &[(usize, &Part)], planned: &PlannedRow) {
    let entry = &running[planned.part].1.request.entry;
    encoded.push(
        planned.tenant,
        planned.entity,
        &planned.row,
        entry.batch,
        entry.received_at,
    );
}

pub(super) fn columns(
    plan: &GroupPlan,
    catalogues: &GroupCatalogues,
) -> (DocumentColumns, DocumentColumns) {
    let (mut inserts, mut updates) = (DocumentColumns::default(), DocumentColumns::default());
    for planned in plan
        .documents
        .iter()
        .filter(|planned| planned.change.written)
    {
        let catalogue = catalogues.of_tenant(planned.tenant);
        // While values move between the parts, a part that stays as it is could keep what the other part gets.
        let parts = if catalogue.is_moving() || !planned.existed {
            PartsToWrite::ALL
        } else {
            changed_parts(planned, catalogue)
        };
        let columns = if planned.existed {
            &mut updates
        } else {
            &mut inserts
        };
        columns.push(
            planned.tenant,
            &planned.stored,
            write_document(&planned.stored.document, catalogue, parts),
        );
    }
    (inserts, updates)
}

/// What the documents that changed hold of attributes that have a value index.
pub(super) fn indexed(plan: &GroupPlan, catalogues: &GroupCatalogues) -> IndexColumns {
    let mut columns = IndexColumns::default();
    for planned in &plan.documents {
        let catalogue = catalogues.of_tenant(planned.tenant);
        if !catalogue.has_value_index() {
            continue;
        }
        for id in &planned.change.changed {
            let known = catalogue.by_id(*id);
            let Some(known) = known.filter(|known| known.value_index.is_kept()) else {
                continue;
            };
            let value = match planned.stored.document.cells.get(id) {
                Some((Cell::Value(value), _)) => Some(value),
                Some((Cell::Removed, _)) | None => None,
            };
            columns.push(
                planned.tenant,
                *id,
                known.kind,
                planned.stored.entity,
                value,
            );
        }
    }
    columns
}

fn changed_parts(planned: &PlannedDocument, catalogue: &Catalogue) -> PartsToWrite {
    let is_hot = |id: &AttributeId| {
        catalogue
            .by_id(*id)
            .is_some_and(|known| known.temperature.writes_hot())
    };
    let change = &planned.change;
    PartsToWrite {
        hot_attrs: change.changed.iter().any(is_hot),
        cold_attrs: change.changed.iter().any(|id| !is_hot(id)),
        present: change.presence_changed,
        times: planned.has_times,
    }
}
