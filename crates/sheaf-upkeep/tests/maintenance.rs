//! Work on one partition concerns that one, and no write that was acknowledged is lost by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sheaf_model::Timestamp;
use sheaf_pg::{Disposition, Pool, Tls};
use sheaf_store::invariants::{self, InvariantKind};
use sheaf_store::maintenance::{
    PartitionState, attach, detach, fetch_state, list_detached, measure_partitions, reindex, vacuum,
};
use sheaf_store::partitions::{Partition, ensure_partition, list_partitions};
use sheaf_testkit::{Injected, TestDatabase, wait_until};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const WITHIN: Duration = Duration::from_secs(30);

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time").0
}

fn pool(database: &TestDatabase, role: &str) -> Pool {
    Pool::new(&database.config(role), 4, &Tls::none())
}

async fn count(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// What is said of the history's tables, attached or not.
async fn require_sound(client: &Client) -> Result<()> {
    for invariant in invariants::ALL {
        if invariant.kind == InvariantKind::Schema {
            let mut violations = invariant.check(client).await?;
            violations.retain(|violation| violation.counterexample.contains("entity_events"));
            assert_eq!(violations, Vec::new());
        }
    }
    Ok(())
}

/// Two years of history, each with a partition of its own, and a thousand events in the first.
struct World {
    database: TestDatabase,
    upkeep: Pool,
    admin: Client,
    old: Partition,
    other: Partition,
}

impl World {
    async fn create() -> Result<World> {
        let database = TestDatabase::create().await?;
        let upkeep = pool(&database, "sheaf_upkeep");
        let old = ensure_partition(&upkeep, at("2020-05-05T00:00:00Z")).await?;
        let other = ensure_partition(&upkeep, at("2021-05-05T00:00:00Z")).await?;
        let admin = database.superuser().await?;
        for partition in [&old, &other] {
            let sql = format!(
                "INSERT INTO sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
                 SELECT 1, n, '{}', 0, 'p', gen_random_uuid(), now(), '{{\"1\":1}}' FROM generate_series(1, 1000) n",
                partition.name, partition.lower
            );
            admin.batch_execute(&sql).await?;
        }
        Ok(World {
            database,
            upkeep,
            admin,
            old,
            other,
        })
    }

    /// Writes one event after another into a partition, as a lane that remembers it, until stopped or refused.
    async fn write_into(&self, partition: &Partition, entity: i64) -> Result<Writes> {
        let client = self.database.client("sheaf_writer").await?;
        let (stop, stored) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&stored));
        let sql = format!(
            "INSERT INTO sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             VALUES (2, {entity}, timestamptz '{}' + $1 * interval '1 second', 0, 'p', gen_random_uuid(), now(), '{{}}')",
            partition.name, partition.lower
        );
        let task = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                let second = counted.load(Ordering::Relaxed) + 1;
                let params: [(&(dyn tokio_postgres::types::ToSql + Sync), _); 1] = [(
                    &f64::from(i32::try_from(second)?),
                    tokio_postgres::types::Type::FLOAT8,
                )];
                match client.query_typed(&sql, &params).await {
                    Ok(_) => counted.fetch_add(1, Ordering::Relaxed),
                    Err(error) => return Ok(Some(error)),
                };
            }
            Ok(None)
        });
        Ok(Writes { stop, stored, task })
    }

    async fn state(&self, partition: &Partition) -> Result<PartitionState> {
        let state = fetch_state(&self.upkeep, &partition.name).await?;
        state.context("it is there")
    }

    async fn detach(&self, partition: &Partition) -> Result<()> {
        let state = self.state(partition).await?;
        Ok(detach(&self.upkeep, &partition.name, state, Timestamp::now()).await?)
    }

    async fn attach(&self, partition: &Partition) -> Result<()> {
        let state = self.state(partition).await?;
        Ok(attach(&self.upkeep, &partition.name, state).await?)
    }
}

struct Writes {
    stop: Arc<AtomicBool>,
    stored: Arc<AtomicI64>,
    task: JoinHandle<Result<Option<tokio_postgres::Error>>>,
}

impl Writes {
    async fn at_least(&self, more: i64) {
        let from = self.stored.load(Ordering::Relaxed);
        wait_until("events are written", WITHIN, async || {
            self.stored.load(Ordering::Relaxed) >= from + more
        })
        .await;
    }

    /// How many were stored, and what ended it.
    async fn end(self) -> Result<(i64, Option<tokio_postgres::Error>)> {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.task.await??;
        Ok((self.stored.load(Ordering::Relaxed), outcome))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_detached_under_writers_holds_every_event_that_was_acknowledged() -> Result<()>
{
    let world = World::create().await?;
    let detached = Injected::new("partition detached under writers");
    let mut writers = Vec::new();
    for entity in 1..=4 {
        writers.push(world.write_into(&world.old, entity).await?);
    }
    let bystander = world.write_into(&world.other, 5).await?;
    for writer in &writers {
        writer.at_least(20).await;
    }
    world.detach(&world.old).await?;
    detached.count();
    let mut stored = 0;
    for writer in writers {
        let (count, refused) = writer.end().await?;
        let refused = refused.context("a writer that remembers the partition is refused")?;
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        stored += count;
    }
    bystander.at_least(20).await;
    let (others, refused) = bystander.end().await?;
    assert!(refused.is_none(), "{refused:?}");
    let kept = format!("SELECT count(*) FROM sheaf.{}", world.old.name);
    assert_eq!(count(&world.admin, &kept).await?, 1000 + stored);
    let history = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(count(&world.admin, history).await?, 1000 + others);
    assert_eq!(world.state(&world.old).await?, PartitionState::Detached);
    let listed = list_detached(&world.upkeep).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].partition, world.old);
    require_sound(&world.admin).await?;

    world.attach(&world.old).await?;
    assert_eq!(count(&world.admin, history).await?, 2000 + others + stored);
    assert_eq!(world.state(&world.old).await?, PartitionState::Attached);
    assert_eq!(list_detached(&world.upkeep).await?, Vec::new());
    assert!(list_partitions(&world.upkeep).await?.contains(&world.old));
    require_sound(&world.admin).await?;
    let writer = world.write_into(&world.old, 6).await?;
    writer.at_least(5).await;
    assert!(writer.end().await?.1.is_none());
    detached.require();
    Ok(())
}

#[tokio::test]
async fn events_of_a_detached_time_get_a_partition_of_their_own_and_the_old_one_stays_out()
-> Result<()> {
    let world = World::create().await?;
    world.detach(&world.old).await?;
    let time = at("2020-07-07T00:00:00Z");
    let made = ensure_partition(&pool(&world.database, "sheaf_writer"), time).await?;
    assert_eq!((made.lower, made.upper), (world.old.lower, world.old.upper));
    assert_eq!(made.name, format!("{}_n2", world.old.name));
    let Err(error) = world.attach(&world.old).await else {
        bail!("two partitions hold the same time");
    };
    assert!(format!("{error:?}").contains(&made.name), "{error:?}");
    // Nothing has changed: the table is whole and guarded.
    require_sound(&world.admin).await?;
    assert_eq!(world.state(&world.old).await?, PartitionState::Detached);
    world.detach(&made).await?;
    assert_eq!(list_detached(&world.upkeep).await?.len(), 2);
    world.attach(&world.old).await?;
    let history = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(count(&world.admin, history).await?, 2000);
    let drop_it = format!("DROP TABLE sheaf.{}", made.name);
    world.admin.batch_execute(&drop_it).await?;
    assert_eq!(list_detached(&world.upkeep).await?, Vec::new());
    assert_eq!(fetch_state(&world.upkeep, &made.name).await?, None);
    assert_eq!(fetch_state(&world.upkeep, "entities").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_partition_is_on_its_way_out_writes_to_its_time_are_to_be_tried_again() -> Result<()>
{
    let world = World::create().await?;
    let interrupted = Injected::new("detachment interrupted");
    let writer = pool(&world.database, "sheaf_writer");
    for put_back in [false, true] {
        // A reader of the history holds the detachment up.
        let reader = world.database.superuser().await?;
        reader
            .batch_execute("BEGIN; SELECT FROM sheaf.entity_events LIMIT 1")
            .await?;
        let (upkeep, name) = (world.upkeep.clone(), world.old.name.clone());
        let task = tokio::spawn(async move {
            detach(&upkeep, &name, PartitionState::Attached, Timestamp::now()).await
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND query LIKE '%DETACH PARTITION%' AND wait_event_type = 'Lock'";
        wait_until("the detachment waits", WITHIN, async || {
            count(&world.admin, waits).await.expect("it answers") == 1
        })
        .await;
        let listed = list_partitions(&writer).await?;
        assert!(!listed.contains(&world.old), "it takes no writes");
        let error = ensure_partition(&writer, world.old.lower)
            .await
            .expect_err("its time is taken");
        assert_eq!(error.disposition(), Disposition::Retry, "{error:?}");
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'ALTER TABLE%DETACH PARTITION%'";
        world.admin.query(cancel, &[]).await?;
        assert!(task.await?.is_err());
        interrupted.count();
        assert_eq!(world.state(&world.old).await?, PartitionState::Pending);
        reader.batch_execute("COMMIT").await?;
        if put_back {
            world.attach(&world.old).await?;
            assert_eq!(world.state(&world.old).await?, PartitionState::Attached);
        } else {
            world.detach(&world.old).await?;
            assert_eq!(world.state(&world.old).await?, PartitionState::Detached);
            require_sound(&world.admin).await?;
            world.attach(&world.old).await?;
        }
        require_sound(&world.admin).await?;
        let history = "SELECT count(*) FROM sheaf.entity_events";
        assert_eq!(count(&world.admin, history).await?, 2000);
        assert!(list_partitions(&writer).await?.contains(&world.old));
    }
    interrupted.require();
    Ok(())
}

/// Which files hold the indexes of a partition; those that are built anew get others.
async fn index_files(client: &Client, partition: &Partition) -> Result<Vec<i64>> {
    let sql = format!(
        "SELECT pg_relation_filenode(indexrelid)::bigint FROM pg_index
         WHERE indrelid = 'sheaf.{}'::regclass ORDER BY 1",
        partition.name
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reindex_and_vacuum_concern_one_partition_and_let_writers_pass() -> Result<()> {
    let world = World::create().await?;
    let left_behind = Injected::new("invalid index left behind");
    let before = (
        index_files(&world.admin, &world.old).await?,
        index_files(&world.admin, &world.other).await?,
    );
    world
        .admin
        .batch_execute(&format!(
            "CREATE INDEX left_ccnew ON sheaf.{} (seq);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sheaf.left_ccnew'::regclass",
            world.old.name
        ))
        .await?;
    left_behind.count();
    let invalid = async || -> Result<Vec<i64>> {
        let measured = measure_partitions(&world.upkeep).await?;
        Ok(measured.iter().map(|one| one.invalid_indexes).collect())
    };
    assert_eq!(invalid().await?, [1, 0]);
    let writers = [
        world.write_into(&world.old, 1).await?,
        world.write_into(&world.other, 2).await?,
    ];
    for writer in &writers {
        writer.at_least(10).await;
    }
    assert_eq!(reindex(&world.upkeep, &world.old.name).await?, 1);
    vacuum(&world.upkeep, &world.old.name).await?;
    for writer in writers {
        writer.at_least(10).await;
        let (_, refused) = writer.end().await?;
        assert!(refused.is_none(), "{refused:?}");
    }
    assert_eq!(invalid().await?, [0, 0]);
    let after = (
        index_files(&world.admin, &world.old).await?,
        index_files(&world.admin, &world.other).await?,
    );
    assert_eq!(before.1, after.1, "the other partition was left alone");
    assert_eq!(before.0.len(), after.0.len());
    assert!(
        before.0.iter().all(|file| !after.0.contains(file)),
        "every index is another: {before:?} {after:?}"
    );
    let measured = measure_partitions(&world.upkeep).await?;
    assert!(measured[0].vacuumed_at.is_some());
    assert_eq!(measured[1].vacuumed_at, None);
    assert!(measured[0].row_estimate.is_some_and(|rows| rows >= 1000));
    assert!(measured[0].index_bytes > 0 && measured[0].heap_bytes > 0);
    left_behind.require();
    Ok(())
}

#[tokio::test]
async fn a_new_partition_compresses_as_the_history_does() -> Result<()> {
    let world = World::create().await?;
    let settings = "SELECT count(*) FROM sheaf.list_attached_partitions() p
        JOIN pg_class c ON c.relname = p.partition_name
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'attrs'
        WHERE a.attcompression = 'l' AND a.attcompression = (SELECT t.attcompression
            FROM pg_attribute t WHERE t.attrelid = 'sheaf.entity_events'::regclass AND t.attname = 'attrs')";
    assert_eq!(count(&world.admin, settings).await?, 2);
    Ok(())
}
