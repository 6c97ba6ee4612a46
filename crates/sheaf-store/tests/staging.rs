//! What is staged is flushed once, and then it is durable and counted.

mod staging_world;
mod world;

use anyhow::{Context, Result, ensure};
use sheaf_model::{BatchId, EntityId, Event, Timestamp};
use sheaf_store::ledger::{EarlierRequest, fetch_request};
use sheaf_store::staging::{
    Flushed, StageOutcome, StagedState, fetch_staged_status, flush, read_backlog,
};
use sheaf_testkit::Injected;
use tokio_postgres::error::SqlState;

use staging_world::{Staging, second};

#[tokio::test]
async fn a_batch_is_staged_then_durable_and_counts_what_it_came_to() -> Result<()> {
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 2).await?;
    let one = staging.event(Some(second(1)), &[(0, "a")]);
    let batch = staging
        .stage(&[
            (entities[0], one.clone()),
            (entities[0], one),
            (entities[0], staging.event(Some(second(1)), &[(1, "b")])),
            (entities[0], staging.event(Some(second(1)), &[(1, "c")])),
            (entities[1], staging.event(None, &[(1, "b")])),
        ])
        .await?
        .batch;
    assert_eq!(staging.state(batch).await?, Some(StagedState::Staged));
    let backlog = read_backlog(&staging.writer).await?;
    assert_eq!((backlog.batches, backlog.events), (1, 5));
    assert!(backlog.oldest_seconds > 0.0, "{backlog:?}");
    let flushed = flush(&staging.writer, 1).await?;
    let expected = Flushed {
        batches: 1,
        events: 5,
        duplicates: 1,
        merged: 1,
        corrected: 1,
    };
    assert_eq!(flushed, expected, "a batch is whole, also past the bound");
    staging.confirm_all().await?;
    let status = fetch_staged_status(&staging.world.app, &staging.scope, batch)
        .await?
        .context("known")?;
    assert_eq!(status.state, StagedState::Durable);
    assert_eq!(
        (status.events, status.counts.values, status.counts.accepted),
        (5, 5, 2)
    );
    assert_eq!(
        (
            status.counts.duplicates,
            status.counts.merged,
            status.counts.corrected
        ),
        (1, 1, 1)
    );
    assert!(status.durable_at.is_some());
    assert_eq!(flush(&staging.writer, 1).await?, Flushed::default());
    assert_eq!(read_backlog(&staging.writer).await?.batches, 0);
    assert_eq!(
        staging.state(BatchId(uuid::Uuid::from_u128(7))).await?,
        None,
        "never seen"
    );
    let other = staging.world.tenant("other").await?;
    assert_eq!(
        fetch_staged_status(&staging.world.app, &other, batch).await?,
        None
    );
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_key_is_taken_while_its_batch_is_staged_and_after_its_flush() -> Result<()> {
    let staging = Staging::create().await?;
    let (world, scope) = (&staging.world, &staging.scope);
    let events = [(
        world.entities(scope, 1).await?[0],
        staging.event(None, &[(0, "a")]),
    )];
    let (batch, _) = world.stage(scope, Some("once"), &events).await?;
    let found = fetch_request(&world.app, scope, "k:once").await?;
    let Some(EarlierRequest::Staged(first)) = &found else {
        anyhow::bail!("not staged: {found:?}");
    };
    assert_eq!((first.batch, first.events, first.values), (batch, 1, 1));
    assert_eq!(
        world.stage(scope, Some("once"), &events).await?.1,
        StageOutcome::AlreadyThere
    );
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
    let again = fetch_request(&world.app, scope, "k:once").await?;
    assert_eq!(again, found, "a retry finds the same after the flush");
    assert_eq!(
        world.stage(scope, Some("once"), &events).await?.1,
        StageOutcome::AlreadyThere
    );
    assert_eq!(flush(&staging.writer, 10).await?.events, 0);
    // Taken by somebody else only after the registration: the batch is not lost for that.
    let (late, _) = world.stage(scope, Some("late"), &events).await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute("INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused, received_at, durable_at)
            VALUES (1, 'k:late', gen_random_uuid(), '', 'all_refused', 'durable', 1, 1, now(), now())")
        .await?;
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
    staging.confirm_all().await?;
    assert_eq!(staging.state(late).await?, Some(StagedState::Durable));
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_flush_makes_the_partition_that_an_event_lacks() -> Result<()> {
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let far = Timestamp::parse_date("2031-07-01")?;
    staging
        .stage(&[
            (
                entity,
                staging.event(Some(Timestamp::parse_date("1999-03-01")?), &[(0, "a")]),
            ),
            (entity, staging.event(Some(far), &[(0, "b")])),
            (entity, staging.event(None, &[(0, "c")])),
        ])
        .await?;
    assert_eq!(flush(&staging.writer, 10).await?.events, 3);
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.entity_events")
            .await?,
        3
    );
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.rejections")
            .await?,
        0
    );
    staging.assert_invariants().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushers_side_by_side_double_nothing_and_lose_nothing() -> Result<()> {
    const BATCHES: i64 = 60;
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 10).await?;
    let stage = async || -> Result<()> {
        for place in 0..BATCHES {
            let events: Vec<(EntityId, Event)> = entities
                .iter()
                .map(|entity| {
                    (
                        *entity,
                        staging.event(Some(second(place % 20)), &[(0, &place.to_string())]),
                    )
                })
                .collect();
            staging.stage(&events).await?;
        }
        Ok(())
    };
    let flush_all = async || -> Result<Flushed> {
        let mut sum = Flushed::default();
        while staging
            .world
            .count("SELECT count(*) FROM sheaf.ingest_requests")
            .await?
            < BATCHES
        {
            let flushed = flush(&staging.writer, 20).await?;
            sum.batches += flushed.batches;
            sum.events += flushed.events;
        }
        Ok(sum)
    };
    let (staged, one, two, three) = tokio::join!(stage(), flush_all(), flush_all(), flush_all());
    staged?;
    let flushers = [one?, two?, three?];
    let batches: i64 = flushers.iter().map(|flushed| flushed.batches).sum();
    let events: i64 = flushers.iter().map(|flushed| flushed.events).sum();
    assert_eq!((batches, events), (BATCHES, BATCHES * 10));
    let busy = flushers
        .iter()
        .filter(|flushed| flushed.batches > 0)
        .count();
    ensure!(busy > 1, "one flusher did everything: {flushers:?}");
    let parts = "SELECT sum(accepted + duplicates + merged + corrected + refused)::bigint FROM sheaf.ingest_parts";
    assert_eq!(staging.world.count(parts).await?, BATCHES * 10);
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.entity_values_ingest")
            .await?,
        0
    );
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_staging_table_that_has_grown_is_emptied_by_a_flush_and_loses_nothing() -> Result<()> {
    let grown = Injected::new("staging table past its bound");
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let client = staging.world.database.superuser().await?;
    // Rows that flushes have deleted take room until somebody clears it away.
    client
        .batch_execute(
            "INSERT INTO sheaf.entity_values_ingest (tenant_id, entity_id, op, batch_id, ingested_at, attrs, ordinal, bucket, value_count, value_bytes)
             SELECT 1, 1, 'p', gen_random_uuid(), now(), jsonb_build_object('1', repeat(md5(n::text), 50)), 0, 0, 1, 1
             FROM generate_series(1, 90000) n;
             DELETE FROM sheaf.entity_values_ingest",
        )
        .await?;
    let size = "SELECT pg_relation_size('sheaf.entity_values_ingest')";
    ensure!(staging.world.count(size).await? > 128 << 20);
    grown.count();
    for place in 0..3 {
        staging
            .stage(&[(entity, staging.event(Some(second(place)), &[(0, "a")]))])
            .await?;
    }
    let aside = "UPDATE sheaf.staged_batches SET flush_failures = 1, flush_after = now() + interval '1 hour'
        WHERE batch_id = (SELECT max(batch_id::text)::uuid FROM sheaf.staged_batches)";
    client.batch_execute(aside).await?;
    let flushed = flush(&staging.writer, 1).await?;
    let claim = "it cannot be emptied while a batch is put aside, and nobody is kept from it";
    assert_eq!((flushed.batches, flushed.events), (1, 1), "{claim}");
    client
        .batch_execute("UPDATE sheaf.staged_batches SET flush_failures = 0, flush_after = NULL")
        .await?;
    let flushed = flush(&staging.writer, 1).await?;
    assert_eq!(
        (flushed.batches, flushed.events),
        (2, 2),
        "alone, it takes everything"
    );
    assert_eq!(staging.world.count(size).await?, 0);
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.entity_events")
            .await?,
        3
    );
    grown.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_flush_that_is_ended_while_it_waits_keeps_no_lock_and_says_nothing() -> Result<()> {
    let ended = Injected::new("flush that waits too long");
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    staging
        .stage(&[(entity, staging.event(Some(second(1)), &[(0, "a")]))])
        .await?;
    let holder = staging.world.database.superuser().await?;
    let flusher = staging.world.database.superuser().await?;
    let locks =
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
    // For its turn, and for a bucket in its turn.
    for held in ["(24239, -5)", "(24239, bucket) FROM sheaf.bucket_writers"] {
        let lock = format!("SELECT pg_advisory_lock{held}");
        holder.batch_execute(&lock).await?;
        flusher
            .batch_execute("SET statement_timeout = '300ms'")
            .await?;
        let flushed = flusher.batch_execute("SELECT sheaf.stage_flush()").await;
        let state = flushed.as_ref().err().and_then(|error| error.code());
        assert_eq!(state, Some(&SqlState::QUERY_CANCELED), "{flushed:?}");
        ended.count();
        flusher.batch_execute("RESET statement_timeout").await?;
        let kept: i64 = flusher.query_one(locks, &[]).await?.get(0);
        assert_eq!(kept, 0, "{held}");
        holder
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await?;
    }
    assert_eq!(flush(&staging.writer, 1).await?.events, 1);
    ended.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn nothing_of_the_staging_table_counts_later() -> Result<()> {
    let staging = Staging::create().await?;
    let generated =
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'sheaf.entity_values_ingest'::regclass
        AND attnum > 0 AND (attidentity <> '' OR atthasdef)";
    assert_eq!(
        staging.world.count(generated).await?,
        0,
        "no number of its own, which would begin again at 1"
    );
    let unlogged = "SELECT count(*) FROM pg_class WHERE relnamespace = 'sheaf'::regnamespace AND relkind = 'r' AND relpersistence = 'u'
        AND relname IN ('entity_values_ingest', 'staging_canary')";
    assert_eq!(staging.world.count(unlogged).await?, 2);
    let isolation = staging.world.database.client("sheaf_writer").await?;
    let refused = isolation
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT sheaf.stage_flush()")
        .await;
    assert!(refused.is_err());
    Ok(())
}
