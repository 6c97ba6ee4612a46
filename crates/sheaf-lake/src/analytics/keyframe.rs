//! The last keyframe of an entity: what its events before the end of an archived period come to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, PrimitiveArray, RecordBatch};
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{binary, col, lit};
use futures::TryStreamExt;
use sheaf_model::{AttributeId, AttributeType, Document, EntityId, Timestamp};
use sheaf_store::TenantScope;
use tokio::time::timeout;

use super::columns::schema_of;
use super::entity::{Task, context, files_of};
use super::error::{Bound, QueryError};
use super::excerpts::{Sought, cell, column, unreadable};
use super::scan::{Source, Tally};
use super::{LakeReader, LakeSnapshot, Shared};
use crate::schema::LakeTable;

const TABLE: LakeTable = LakeTable::Keyframes;

impl LakeReader {
    /// The last keyframe of an entity that is of an instant or of one before it: which instant, and what the events before that
    /// come to.
    ///
    /// # Errors
    /// The lake cannot be read, or it takes more than it may.
    pub async fn keyframe(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
        entity: EntityId,
        until: Timestamp,
    ) -> Result<Option<(Timestamp, Document)>, QueryError> {
        let standing = snapshot.standing.as_ref().ok_or(QueryError::Empty)?;
        let known = standing.tables.iter();
        let description = known.clone().find(|(name, _)| name == TABLE.name());
        let Some((_, description)) = description.cloned() else {
            return Ok(None);
        };
        let shared = Arc::clone(&self.shared);
        let (tenant, bounds) = (scope.tenant(), self.shared.options.bounds);
        let (told, found) = tokio::sync::oneshot::channel();
        let _task = Task(self.shared.threads.spawn(async move {
            let found = find(&shared, tenant.0, description, (entity, until)).await;
            let _ = told.send(found);
        }));
        let found = timeout(bounds.time_after(snapshot.waited), found).await;
        let found = found.map_err(|_| QueryError::limit(Bound::Time))?;
        found.map_err(|_| QueryError::Internal {
            step: "reading a keyframe",
            source: "its computation ended".into(),
        })?
    }
}

async fn find(
    shared: &Shared,
    tenant: i64,
    description: String,
    (entity, until): (EntityId, Timestamp),
) -> Result<Option<(Timestamp, Document)>, QueryError> {
    let files = files_of(shared, TABLE, &description, tenant).await?;
    // By the end of their period, the last one first.
    let mut periods: BTreeMap<Timestamp, Vec<_>> = BTreeMap::new();
    for file in files {
        let (first, last) = file.instants(TABLE, "at");
        if first <= until && file.may_hold(TABLE, "entity_id", entity.0) {
            periods.entry(last).or_default().push((first, file));
        }
    }
    let budget = shared.budgets.open(sheaf_model::TenantId(tenant)) as Arc<dyn MemoryPool>;
    let context = context(budget).map_err(QueryError::of_planning)?;
    let tally = Arc::new(Tally::default());
    let whole = schema_of(TABLE);
    let sought = col("entity_id", &whole)
        .and_then(|column| binary(column, Operator::Eq, lit(entity.0), &whole))
        .and_then(|is_entity| Sought::new(Arc::clone(&whole), Arc::clone(&whole), is_entity))
        .map_err(QueryError::of_planning)?;
    let mut found: Option<(Timestamp, Document)> = None;
    for (last, files) in periods.into_iter().rev() {
        if found.as_ref().is_some_and(|(at, _)| *at > last) {
            break;
        }
        for (_, file) in files {
            let source = Source {
                table: TABLE,
                tenant,
                warehouse: shared.warehouse.clone(),
                ends: Arc::clone(&shared.ends),
                tally: Arc::clone(&tally),
                rows_max: shared.options.bounds.rows_max,
            };
            let rows = sought.rows(source, file, Arc::clone(&context));
            let mut rows = rows.map_err(QueryError::of_running)?;
            while let Some(batch) = rows.try_next().await.map_err(QueryError::of_running)? {
                take(&batch, until, &mut found).map_err(QueryError::of_running)?;
            }
        }
    }
    Ok(found)
}

/// Takes the rows of a batch that are of the last keyframe so far.
fn take(
    batch: &RecordBatch,
    until: Timestamp,
    found: &mut Option<(Timestamp, Document)>,
) -> Result<()> {
    type Times = PrimitiveArray<TimestampMicrosecondType>;
    let times = |name| -> Result<&Times> { column(batch, name, |array| array.as_primitive_opt()) };
    let time = |times: &Times, place: usize| {
        let at = Timestamp::from_micros(times.value(place));
        at.map_err(|_| unreadable("an instant"))
    };
    let ats = times("at")?;
    let (newest, floors, since) = (times("newest")?, times("floor_at")?, times("observed_at")?);
    let deleted = column(batch, "deleted", |array| array.as_boolean_opt())?;
    let attributes: &PrimitiveArray<Int64Type> =
        column(batch, "attribute_id", |array| array.as_primitive_opt())?;
    let kinds = column(batch, "type", |array| array.as_string_view_opt())?;
    for place in 0..batch.num_rows() {
        let at = time(ats, place)?;
        if at > until || found.as_ref().is_some_and(|(held, _)| at < *held) {
            continue;
        }
        if found.as_ref().is_none_or(|(held, _)| *held < at) {
            let floor = (!floors.is_null(place)).then(|| time(floors, place));
            let document = Document {
                newest: Some(time(newest, place)?),
                floor: floor.transpose()?,
                deleted: deleted.value(place),
                ..Document::default()
            };
            *found = Some((at, document));
        }
        let Some((_, document)) = found.as_mut().filter(|_| !attributes.is_null(place)) else {
            continue;
        };
        let kind = AttributeType::parse(kinds.value(place));
        let kind = kind.ok_or_else(|| unreadable("the type"))?;
        let held = (cell(batch, place, kind)?, time(since, place)?);
        document
            .cells
            .insert(AttributeId(attributes.value(place)), held);
    }
    Ok(())
}
