//! Staged events on their way into their table, in COPY's binary form.

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use sheaf_model::{Attrs, BatchId, EntityId, Event, Tags, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime};
use tokio_postgres::Client;

use crate::events::{CHUNK_BYTES, HEADER, put_i64};
use crate::stored::write_attrs;

/// The events of one request. The tenant of each row comes from the request's key alone, through this encoder: the table
/// has no policy.
#[derive(Debug)]
pub struct StagedCopy {
    tenant: TenantId,
    batch: BatchId,
    ingested_at: Timestamp,
    buffer: BytesMut,
    chunks: Vec<Bytes>,
    rows: u64,
    values: i64,
    text: String,
}

const COLUMNS: i16 = 13;
const STEP: &str = "copying staged events";

impl StagedCopy {
    /// None yet.
    pub fn new(tenant: TenantId, batch: BatchId, ingested_at: Timestamp) -> StagedCopy {
        let mut buffer = BytesMut::with_capacity(4096);
        buffer.put_slice(HEADER);
        StagedCopy {
            tenant,
            batch,
            ingested_at,
            buffer,
            chunks: Vec::new(),
            rows: 0,
            values: 0,
            text: String::new(),
        }
    }

    /// Adds an event; `index` is its place in the request.
    pub fn push(&mut self, index: i32, entity: EntityId, bucket: i32, event: &Event) {
        let value_bytes: usize = event
            .attrs
            .iter()
            .map(|(_, cell)| cell.stored_bytes())
            .sum();
        let value_count = i32::try_from(event.attrs.len()).unwrap_or(i32::MAX);
        self.buffer.put_i16(COLUMNS);
        put_i64(&mut self.buffer, self.tenant.0);
        put_i64(&mut self.buffer, entity.0);
        match event.observed_at {
            Some(time) => put_i64(&mut self.buffer, PgTime(time).wire_micros()),
            None => self.buffer.put_i32(NULL),
        }
        self.buffer.put_i32(1);
        self.buffer.put_i8(event.op.letter());
        self.buffer.put_i32(16);
        self.buffer.put_slice(self.batch.0.as_bytes());
        put_i64(&mut self.buffer, PgTime(self.ingested_at).wire_micros());
        self.put_attrs(&event.attrs);
        put_i32(&mut self.buffer, index);
        put_i32(&mut self.buffer, bucket);
        put_i32(&mut self.buffer, value_count);
        put_i32(
            &mut self.buffer,
            i32::try_from(value_bytes).unwrap_or(i32::MAX),
        );
        match &event.tags {
            Tags::Series(tags) => self.put_attrs(tags),
            Tags::None | Tags::Beside(_) => self.buffer.put_i32(NULL),
        }
        match &event.tags {
            Tags::Beside(tags) => put_array(&mut self.buffer, tags.iter().map(|tag| tag.0)),
            Tags::None | Tags::Series(_) => self.buffer.put_i32(NULL),
        }
        self.rows += 1;
        self.values += i64::from(value_count);
        if self.buffer.len() >= CHUNK_BYTES {
            self.chunks.push(self.buffer.split().freeze());
        }
    }

    fn put_attrs(&mut self, attrs: &Attrs) {
        self.text.clear();
        write_attrs(attrs, &mut self.text);
        let bytes = i32::try_from(self.text.len() + 1).expect("an event is far below 2 GiB");
        self.buffer.put_i32(bytes);
        self.buffer.put_u8(1);
        self.buffer.put_slice(self.text.as_bytes());
    }

    /// How many events there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How many values they name.
    pub fn values(&self) -> i64 {
        self.values
    }

    /// Sends them, in the transaction that registers their batch.
    pub(super) async fn send(mut self, client: &Client) -> Result<(), PgError> {
        let step = PgError::statement(STEP);
        self.buffer.put_i16(-1);
        self.chunks.push(self.buffer.split().freeze());
        let sql = "COPY sheaf.entity_values_ingest (tenant_id, entity_id, observed_at, op, batch_id, ingested_at, attrs, \
                   ordinal, bucket, value_count, value_bytes, series, beside) FROM STDIN (FORMAT binary)";
        let sink = client.copy_in::<_, Bytes>(sql).await.map_err(&step)?;
        let mut sink = std::pin::pin!(sink);
        for chunk in self.chunks {
            sink.send(chunk).await.map_err(&step)?;
        }
        let copied = sink.finish().await.map_err(&step)?;
        if copied != self.rows {
            let what = format!("{copied} of {} rows", self.rows);
            return Err(PgError::unreadable(STEP, what));
        }
        Ok(())
    }
}

const NULL: i32 = -1;

fn put_i32(out: &mut BytesMut, number: i32) {
    out.put_i32(4);
    out.put_i32(number);
}

/// A `bigint[]`: one dimension from 1, no nulls.
fn put_array(out: &mut BytesMut, numbers: impl ExactSizeIterator<Item = i64>) {
    const INT8: i32 = 20;
    let count = i32::try_from(numbers.len()).expect("tags of one event are few");
    if count == 0 {
        out.put_i32(12);
        out.put_i32(0);
        out.put_i32(0);
        out.put_i32(INT8);
        return;
    }
    out.put_i32(20 + 12 * count);
    for head in [1, 0, INT8, count, 1] {
        out.put_i32(head);
    }
    for number in numbers {
        put_i64(out, number);
    }
}
