//! What the lake holds of a partition that was dropped, put back into a table of its name.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use iceberg::spec::DataFile;
use sheaf_model::{
    AttributeId, AttributeType, Attrs, BatchId, Cell, EntityId, LATE_SEQ, StoredRow, TenantId,
    Timestamp,
};
use sheaf_pg::PgError;
use sheaf_store::events::{EventColumns, EventRows};
use sheaf_store::partitions::Partition;
use uuid::Uuid;

use super::{LakeArchive, each_batch, files_between};
use crate::analytics::cell;
use crate::background::in_background;
use crate::digest::Digest;
use crate::error::{Cause, LakeError};
use crate::facts::op_of;
use crate::files::Files;
use crate::rewrite::partition_of;

/// Events that are inserted by one statement.
const EVENTS_MAX: usize = 2_000;

/// What tells an event from others, in the order of the table's key.
type Key = (TenantId, EntityId, Timestamp, i16);

/// An event while its facts are put together.
#[derive(Debug)]
struct Event {
    op: sheaf_model::Op,
    batch: BatchId,
    ingested_at: Timestamp,
    cells: Vec<(AttributeId, Cell)>,
}

impl LakeArchive {
    /// Puts the events of a partition's time into the empty table of its name: a day and bucket of tenants after the other, of which
    /// all are in memory. Gives back how many, and what retention has taken out of the lake that they lack.
    ///
    /// # Errors
    /// PostgreSQL failed, or a file could not be read.
    pub async fn load(&self, partition: &Partition) -> Result<(u64, Digest), LakeError> {
        let ((tables, removed), files) = (self.tables(partition).await?, self.files());
        let span = (partition.lower, partition.upper);
        let listed = files.clone();
        let parts = in_background(move || {
            let mut parts: BTreeMap<Vec<Option<i32>>, Vec<DataFile>> = BTreeMap::new();
            for state in &tables {
                for file in files_between(&listed, state, span)? {
                    parts.entry(partition_of(&file)).or_default().push(file);
                }
            }
            Ok(parts)
        });
        let mut loaded = 0;
        for (_, of_part) in parts.await? {
            let files = files.clone();
            let events = in_background(move || events_of(&files, &of_part, span)).await?;
            loaded += u64::try_from(events.len()).unwrap_or(u64::MAX);
            self.insert(&partition.name, events).await?;
        }
        Ok((loaded, removed))
    }

    async fn insert(&self, table: &str, events: BTreeMap<Key, Event>) -> Result<(), PgError> {
        let client = self.upkeep.get().await?;
        let mut columns = EventColumns::default();
        let mut waiting = 0;
        for ((tenant, entity, observed_at, seq), event) in events {
            let row = StoredRow {
                observed_at,
                seq,
                op: event.op,
                attrs: Attrs::from_distinct(event.cells),
            };
            columns.push(tenant, entity, &row, event.batch, event.ingested_at);
            waiting += 1;
            if waiting == EVENTS_MAX {
                std::mem::take(&mut columns).insert(&client, table).await?;
                waiting = 0;
            }
        }
        if waiting > 0 {
            columns.insert(&client, table).await?;
        }
        Ok(())
    }
}

/// The events that these files have of these times, but for late ones.
fn events_of(
    files: &Files,
    of_part: &[DataFile],
    (lower, upper): (Timestamp, Timestamp),
) -> Result<BTreeMap<Key, Event>, LakeError> {
    let mut events = BTreeMap::new();
    for file in of_part {
        each_batch(files, file, |batch| {
            take(batch, (lower.as_micros(), upper.as_micros()), &mut events)
        })?;
    }
    Ok(events)
}

fn take(
    batch: &RecordBatch,
    (first, after): (i64, i64),
    events: &mut BTreeMap<Key, Event>,
) -> Result<(), Cause> {
    let column = |name: &str| {
        let column = batch.column_by_name(name);
        column.ok_or_else(|| format!("column {name} is missing"))
    };
    let (tenants, entities) = (column("tenant_id")?, column("entity_id")?);
    let (tenants, entities) = (
        tenants.as_primitive::<Int64Type>(),
        entities.as_primitive::<Int64Type>(),
    );
    let attributes = column("attribute_id")?.as_primitive::<Int64Type>();
    let kinds = column("type")?.as_string_view();
    let times = column("observed_at")?.as_primitive::<TimestampMicrosecondType>();
    let seqs = column("seq")?.as_primitive::<Int32Type>();
    let ops = column("op")?.as_string_view();
    let batches = column("batch_id")?.as_fixed_size_binary();
    let ingested = column("ingested_at")?.as_primitive::<TimestampMicrosecondType>();
    for row in 0..batch.num_rows() {
        let (time, seq) = (times.value(row), i16::try_from(seqs.value(row))?);
        if !(first..after).contains(&time) || seq >= LATE_SEQ {
            continue;
        }
        let key = (
            TenantId(tenants.value(row)),
            EntityId(entities.value(row)),
            Timestamp::from_micros(time)?,
            seq,
        );
        let event = match events.entry(key) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => none.insert(Event {
                op: op_of(ops.value(row)).ok_or("an op is none of ours")?,
                batch: BatchId(Uuid::from_slice(batches.value(row))?),
                ingested_at: Timestamp::from_micros(ingested.value(row))?,
                cells: Vec::new(),
            }),
        };
        if arrow_array::Array::is_valid(attributes, row) {
            let kind = AttributeType::parse(kinds.value(row)).ok_or("a type is none of ours")?;
            let cell = cell(batch, row, kind)?;
            event.cells.push((AttributeId(attributes.value(row)), cell));
        }
    }
    Ok(())
}
