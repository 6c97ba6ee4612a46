//! The original way of writing, rebuilt in tables of the benchmark's own: one writer, ids known, one row a value by text
//! COPY into an unlogged staging table, and a flush with asynchronous commit beside it. No documents, no HTTP.
//!
//! The texts are made before anything is timed, and a flush takes whatever is staged as soon as the one before has
//! ended: both are kinder than what they stand for.

use std::fmt::Write as _;

use anyhow::Result;
use hyper::body::Bytes;

use super::generators::{Event, Workload};
use super::load::Done;
use super::staging::{self, Text};
use crate::bench::world::World;

/// Events of one COPY.
const BATCH: u64 = 5_000;

const TABLES: &str = "
CREATE UNLOGGED TABLE IF NOT EXISTS bench.original_staging (
    tenant_id bigint NOT NULL, entity_id bigint NOT NULL, attribute_id bigint NOT NULL, observed_at timestamptz NOT NULL,
    value_int bigint, value_float double precision, value_decimal numeric, value_text text, value_bool boolean,
    value_time timestamptz, value_json jsonb, ingested_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS bench.original_values (
    LIKE bench.original_staging, PRIMARY KEY (tenant_id, entity_id, attribute_id, observed_at)
) PARTITION BY RANGE (observed_at);
CREATE TABLE IF NOT EXISTS bench.original_values_all PARTITION OF bench.original_values DEFAULT;
CREATE INDEX IF NOT EXISTS original_values_attribute ON bench.original_values (tenant_id, attribute_id, observed_at);
CREATE INDEX IF NOT EXISTS original_values_observed_at ON bench.original_values USING brin (observed_at);
TRUNCATE bench.original_staging";

const FLUSH: &str = "
WITH taken AS (DELETE FROM bench.original_staging RETURNING *)
INSERT INTO bench.original_values SELECT * FROM taken ON CONFLICT DO NOTHING";

/// The COPY texts of a range of events, after tables for them are there. The history keeps what earlier rounds wrote, as
/// ours does.
pub(super) async fn prepare(
    world: &World,
    workload: &Workload,
    range: std::ops::Range<u64>,
) -> Result<Vec<Text>> {
    world.client.batch_execute(TABLES).await?;
    let mut texts = Vec::new();
    let mut text = String::new();
    let mut event = Event::default();
    let mut values = 0;
    for index in range.clone() {
        workload.fill(index, &mut event);
        let time = sheaf_model::Timestamp::from_micros(event.micros)?;
        for (place, value) in &event.fields {
            let (entity, value) = (event.entity, *value as f64 / 100.0);
            let _ = writeln!(text, "1\t{entity}\t{place}\t{time}\t{value}");
        }
        values += event.fields.len();
        if (index + 1 - range.start).is_multiple_of(BATCH) || index + 1 == range.end {
            texts.push(Text {
                text: Bytes::from(std::mem::take(&mut text)),
                values: std::mem::take(&mut values) as f64,
            });
        }
    }
    Ok(texts)
}

/// Writes them, and ends when everything is flushed.
pub(super) async fn write(world: &World, texts: Vec<Text>) -> Result<Done> {
    let copy = "COPY bench.original_staging (tenant_id, entity_id, attribute_id, observed_at, value_float) FROM STDIN";
    staging::write(world, texts, copy, Some(FLUSH)).await
}
