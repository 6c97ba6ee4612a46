//! The history: rows appended straight into their partition, and rows read back.

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use sheaf_model::{BatchId, EntityId, Op, StoredRow, TenantId, Timestamp};
use sheaf_pg::{JsonbRead, PgError, PgTime};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::catalogue::Catalogue;
use crate::stored::{StoredFault, read_attrs, write_attrs};

/// A row of history as readers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// What was reported.
    pub row: StoredRow,
    /// The request that brought it.
    pub batch: BatchId,
    /// When the server received it.
    pub ingested_at: Timestamp,
}

/// Rows already there at some instants of some entities. In the writer's transaction.
#[derive(Debug, Default)]
pub struct Instants {
    tenants: Vec<i64>,
    entities: Vec<i64>,
    times: Vec<PgTime>,
}

impl Instants {
    /// Asks for one instant of one entity.
    pub fn push(&mut self, tenant: TenantId, entity: EntityId, time: Timestamp) {
        self.tenants.push(tenant.0);
        self.entities.push(entity.0);
        self.times.push(PgTime(time));
    }

    /// Reads them; the rows of one instant come in order of seq. `catalogue_of` knows the catalogue of an entity asked about.
    pub async fn read<'c>(
        &self,
        client: &Client,
        catalogue_of: impl Fn(EntityId) -> &'c Catalogue,
    ) -> Result<Vec<(EntityId, StoredRow)>, StoredFault> {
        let sql = include_str!("../sql/events/read_instants.sql");
        self.read_by(sql, client, catalogue_of).await
    }

    /// The same of late rows.
    pub async fn read_late<'c>(
        &self,
        client: &Client,
        catalogue_of: impl Fn(EntityId) -> &'c Catalogue,
    ) -> Result<Vec<(EntityId, StoredRow)>, StoredFault> {
        let sql = include_str!("../sql/events/read_late_instants.sql");
        self.read_by(sql, client, catalogue_of).await
    }

    async fn read_by<'c>(
        &self,
        sql: &str,
        client: &Client,
        catalogue_of: impl Fn(EntityId) -> &'c Catalogue,
    ) -> Result<Vec<(EntityId, StoredRow)>, StoredFault> {
        if self.entities.is_empty() {
            return Ok(Vec::new());
        }
        let rows = client
            .query_typed(
                sql,
                &[
                    (&self.tenants, Type::INT8_ARRAY),
                    (&self.entities, Type::INT8_ARRAY),
                    (&self.times, Type::TIMESTAMPTZ_ARRAY),
                ],
            )
            .await
            .map_err(PgError::statement("reading the rows at some instants"))?;
        rows.iter()
            .map(|row| {
                let entity = EntityId(row.get("entity_id"));
                Ok((entity, row_of(row, catalogue_of(entity))?))
            })
            .collect()
    }
}

fn row_of(row: &Row, catalogue: &Catalogue) -> Result<StoredRow, StoredFault> {
    let letter: i8 = row.get("op");
    Ok(StoredRow {
        observed_at: row.get::<_, PgTime>("observed_at").0,
        seq: row.get("seq"),
        op: Op::from_letter(letter).ok_or_else(|| PgError::unreadable("reading an event", "op"))?,
        attrs: read_attrs(row.get::<_, JsonbRead<'_>>("attrs").0, catalogue)?,
    })
}

/// The row of history in a row of a [`crate::history::HistoryStep`].
pub fn history_of(row: &Row, catalogue: &Catalogue) -> Result<HistoryRow, StoredFault> {
    Ok(HistoryRow {
        row: row_of(row, catalogue)?,
        batch: BatchId(row.get("batch_id")),
        ingested_at: row.get::<_, PgTime>("ingested_at").0,
    })
}

/// The table of events that were reported for a period which was closed to writes.
pub const LATE: &str = "entity_events_late";

/// Rows on their way into one partition.
///
/// The tenant of each row comes from the request's key alone, through this encoder: partitions have no policy.
pub trait EventRows: Default {
    /// Adds a row. Rows come sorted by tenant, entity and time, so that one entity's lie together.
    fn push(
        &mut self,
        tenant: TenantId,
        entity: EntityId,
        row: &StoredRow,
        batch: BatchId,
        ingested_at: Timestamp,
    );
}

const INSERTING: &str = "inserting events into their partition";

/// A few rows, for one INSERT: it leaves in one message, and so together with other statements, where COPY waits for
/// PostgreSQL to ask for the rows.
#[derive(Debug, Default)]
pub struct EventColumns {
    tenants: Vec<i64>,
    entities: Vec<i64>,
    times: Vec<PgTime>,
    seqs: Vec<i16>,
    ops: Vec<i8>,
    batches: Vec<uuid::Uuid>,
    ingested_at: Vec<PgTime>,
    attrs: Vec<String>,
}

impl EventRows for EventColumns {
    fn push(
        &mut self,
        tenant: TenantId,
        entity: EntityId,
        row: &StoredRow,
        batch: BatchId,
        ingested_at: Timestamp,
    ) {
        let mut attrs = String::new();
        write_attrs(&row.attrs, &mut attrs);
        self.tenants.push(tenant.0);
        self.entities.push(entity.0);
        self.times.push(PgTime(row.observed_at));
        self.seqs.push(row.seq);
        self.ops.push(row.op.letter());
        self.batches.push(batch.0);
        self.ingested_at.push(PgTime(ingested_at));
        self.attrs.push(attrs);
    }
}

impl EventColumns {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Inserts the rows into the partition, or into [`LATE`], in the writer's transaction.
    pub async fn insert(&self, client: &Client, partition: &str) -> Result<(), PgError> {
        let sql = format!(
            "INSERT INTO sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs) \
             SELECT tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs::jsonb \
             FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::smallint[], $5::\"char\"[], $6::uuid[], \
               $7::timestamptz[], $8::text[]) \
               AS e (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)",
            quoted(partition)
        );
        let inserted = client
            .execute_typed(
                &sql,
                &[
                    (&self.tenants, Type::INT8_ARRAY),
                    (&self.entities, Type::INT8_ARRAY),
                    (&self.times, Type::TIMESTAMPTZ_ARRAY),
                    (&self.seqs, Type::INT2_ARRAY),
                    (&self.ops, Type::CHAR_ARRAY),
                    (&self.batches, Type::UUID_ARRAY),
                    (&self.ingested_at, Type::TIMESTAMPTZ_ARRAY),
                    (&self.attrs, Type::TEXT_ARRAY),
                ],
            )
            .await
            .map_err(PgError::statement(INSERTING))?;
        if usize::try_from(inserted) != Ok(self.tenants.len()) {
            let told = format!("{inserted} of {} rows", self.tenants.len());
            return Err(PgError::unreadable(INSERTING, told));
        }
        Ok(())
    }
}

/// Many rows, in COPY's binary form.
#[derive(Debug)]
pub struct EventCopy {
    buffer: BytesMut,
    chunks: Vec<Bytes>,
    rows: u64,
    attrs: String,
}

pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COLUMNS: i16 = 8;
/// Messages of this size keep both sides busy; larger ones only cost memory.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

impl Default for EventCopy {
    fn default() -> EventCopy {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + 4096);
        buffer.put_slice(HEADER);
        EventCopy {
            buffer,
            chunks: Vec::new(),
            rows: 0,
            attrs: String::new(),
        }
    }
}

impl EventRows for EventCopy {
    fn push(
        &mut self,
        tenant: TenantId,
        entity: EntityId,
        row: &StoredRow,
        batch: BatchId,
        ingested_at: Timestamp,
    ) {
        self.attrs.clear();
        write_attrs(&row.attrs, &mut self.attrs);
        let out = &mut self.buffer;
        out.put_i16(COLUMNS);
        put_i64(out, tenant.0);
        put_i64(out, entity.0);
        put_i64(out, PgTime(row.observed_at).wire_micros());
        out.put_i32(2);
        out.put_i16(row.seq);
        out.put_i32(1);
        out.put_i8(row.op.letter());
        out.put_i32(16);
        out.put_slice(batch.0.as_bytes());
        put_i64(out, PgTime(ingested_at).wire_micros());
        out.put_i32(i32::try_from(self.attrs.len() + 1).expect("an event is far below 2 GiB"));
        out.put_u8(1);
        out.put_slice(self.attrs.as_bytes());
        self.rows += 1;
        if self.buffer.len() >= CHUNK_BYTES {
            self.chunks.push(self.buffer.split().freeze());
        }
    }
}

impl EventCopy {
    /// Sends the rows into the partition, in the writer's transaction.
    pub async fn send(mut self, client: &Client, partition: &str) -> Result<(), PgError> {
        let step = PgError::statement("copying events into their partition");
        self.buffer.put_i16(-1);
        self.chunks.push(self.buffer.split().freeze());
        let sql = format!(
            "COPY sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs) \
             FROM STDIN (FORMAT binary)",
            quoted(partition)
        );
        let sink = client
            .copy_in::<_, Bytes>(sql.as_str())
            .await
            .map_err(&step)?;
        let mut sink = std::pin::pin!(sink);
        for chunk in self.chunks {
            sink.send(chunk).await.map_err(&step)?;
        }
        let copied = sink.finish().await.map_err(&step)?;
        if copied != self.rows {
            return Err(PgError::unreadable(
                "copying events into their partition",
                format!("{copied} of {} rows", self.rows),
            ));
        }
        Ok(())
    }
}

pub(crate) fn put_i64(out: &mut BytesMut, number: i64) {
    out.put_i32(8);
    out.put_i64(number);
}

/// An identifier in double quotes. Partition names come from the database; they are quoted all the same.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
