//! What an edit costs by hand: tables like ours, and one transaction on them through prepared statements.

use anyhow::Result;
use sheaf_model::BatchId;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::load::Client;
use crate::bench::world::World;

/// Entities that are edited in turn: so many that nobody edits one while another reads it back.
pub(super) const ENTITIES: u64 = 1_000;

/// Tables with the columns, keys, checks and indexes of ours, and a document for each entity.
pub(super) async fn create_tables(world: &World) -> Result<()> {
    Ok(world
        .client
        .batch_execute(
            "DROP TABLE IF EXISTS bench.events, bench.documents, bench.requests, bench.parts;
             CREATE TABLE bench.events (LIKE sheaf.entity_events INCLUDING ALL);
             CREATE TABLE bench.documents (LIKE sheaf.entity_jsonb INCLUDING ALL) WITH (fillfactor = 70);
             CREATE TABLE bench.requests (LIKE sheaf.ingest_requests INCLUDING ALL);
             ALTER TABLE bench.requests ADD FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id);
             CREATE TABLE bench.parts (LIKE sheaf.ingest_parts INCLUDING ALL);
             INSERT INTO bench.documents (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs,
                present, times)
                SELECT 1, n, 1, now(), false, now(), '{}',
                    '{\"1\":1.5,\"2\":2.5,\"3\":3.5,\"4\":4.5,\"5\":5.5,\"6\":6.5,\"7\":7.5,\"8\":8.5,\"9\":9.5,\"10\":0}',
                    '{1,2,3,4,5,6,7,8,9,10}',
                    (SELECT jsonb_object_agg(attribute, 1356998400000000) FROM generate_series(1, 9) attribute)
                FROM generate_series(0, 999) n;
             ANALYZE bench.documents",
        )
        .await?)
}

const INSERT_EVENT: &str = "INSERT INTO bench.events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs) \
     VALUES (1, $1, clock_timestamp(), 0, 'p', $3, now(), jsonb_build_object('10', $2::float8))";

/// Merges the value into the document and gives it back, as the answer to an edit has it. The times of the other values
/// stay; the newest needs none.
const UPSERT_DOCUMENT: &str = "INSERT INTO bench.documents AS d (tenant_id, entity_id, version, newest, deleted, updated_at, \
        hot_attrs, cold_attrs, present, times) \
     VALUES (1, $1, 1, now(), false, now(), '{}', jsonb_build_object('10', $2::float8), '{10}', '{}') \
     ON CONFLICT (tenant_id, entity_id) DO UPDATE SET version = d.version + 1, newest = excluded.newest, \
        updated_at = excluded.updated_at, cold_attrs = d.cold_attrs || excluded.cold_attrs, \
        times = d.times - '10' \
     RETURNING version, newest, updated_at, hot_attrs::text, cold_attrs::text, times::text";

const INSERT_REQUEST: &str = "INSERT INTO bench.requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, \
        refused, received_at, durable_at, buckets) \
     VALUES (1, $1, $3, '', 'stored', 'durable', 1, 0, now(), clock_timestamp(), ARRAY[$2::integer])";

const INSERT_PART: &str = "INSERT INTO bench.parts (tenant_id, request_key, bucket, value_count, accepted, duplicates, merged, \
        corrected, refused, buckets) VALUES (1, $1, $2, 1, 1, 0, 0, 0, 0, ARRAY[$2::integer])";

/// A transaction of one INSERT.
pub(super) struct Inserter {
    client: tokio_postgres::Client,
    insert: Statement,
}

pub(super) async fn inserters(world: &World, connections: usize) -> Result<Vec<Inserter>> {
    let mut inserters = Vec::new();
    for _ in 0..connections {
        let client = world.superuser().await?;
        let insert = client.prepare(INSERT_EVENT).await?;
        inserters.push(Inserter { client, insert });
    }
    Ok(inserters)
}

impl Client for Inserter {
    async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
        let (entity, value) = (i64::try_from(ticket % ENTITIES)?, ticket as f64);
        let batch = BatchId::new();
        self.client
            .execute(&self.insert, &[&entity, &value, &batch.0])
            .await?;
        Ok(Some(1.0))
    }
}

/// An edit as one durable transaction by hand: the document merged and given back, its event, and the two rows of the
/// ledger, which is all that an edit over HTTP leaves in PostgreSQL and tells its client.
///
/// It is not slower than it has to be: statements are prepared, the merge is one statement that needs no lock and no
/// reading beforehand, and everything from BEGIN to COMMIT leaves at once, so that a transaction is one round trip and one
/// flush of the log. It is not faster than it may be: the tables have the columns, keys, checks and indexes of ours, so
/// that each row costs the same log and the same index entries. What it leaves out is what is no work of PostgreSQL: HTTP,
/// keys, types, late events, conditions.
///
/// One connection shares no flush with another, and waits for each: where other programs use the disk or the processors it
/// loses several times more than the case does, which flatters the case. Only on a quiet machine is their ratio a figure.
pub(super) struct Hand {
    client: tokio_postgres::Client,
    upsert: Statement,
    insert: Statement,
    request: Statement,
    part: Statement,
}

pub(super) async fn by_hand(world: &World, connections: usize) -> Result<Vec<Hand>> {
    let mut hands = Vec::new();
    for _ in 0..connections {
        let client = world.superuser().await?;
        hands.push(Hand {
            upsert: client.prepare(UPSERT_DOCUMENT).await?,
            insert: client.prepare(INSERT_EVENT).await?,
            request: client.prepare(INSERT_REQUEST).await?,
            part: client.prepare(INSERT_PART).await?,
            client,
        });
    }
    Ok(hands)
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

impl Client for Hand {
    async fn act(&mut self, ticket: u64) -> Result<Option<f64>> {
        let (entity, value) = (i64::try_from(ticket % ENTITIES)?, ticket as f64);
        let bucket = i32::try_from(ticket % ENTITIES)?;
        let batch = BatchId::new();
        let key = batch.to_string();
        let client = &self.client;
        let changed: [Parameter<'_>; 3] = [&entity, &value, &batch.0];
        let ledger: [Parameter<'_>; 3] = [&key, &bucket, &batch.0];
        tokio::try_join!(
            client.batch_execute("BEGIN"),
            client.query(&self.upsert, &changed[..2]),
            client.execute(&self.insert, &changed),
            client.execute(&self.request, &ledger),
            client.execute(&self.part, &ledger[..2]),
            client.batch_execute("COMMIT"),
        )?;
        Ok(Some(1.0))
    }
}
