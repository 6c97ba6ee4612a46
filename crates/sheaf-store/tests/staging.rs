//! What is staged is flushed once, or lost and said to be.

mod world;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use sheaf_model::{
    AttributeId, AttributeType, Attrs, BatchId, Cell, EntityId, Event, Op, Tags, Timestamp, Value,
};
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{Description, NewAttribute, Temperature, declare_attribute};
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::ledger::{EarlierRequest, fetch_request};
use sheaf_store::partitions::ensure_partition;
use sheaf_store::staging::{
    Flushed, StageOutcome, StagedBatch, StagedState, confirm, detect_loss, fetch_staged_status,
    flush, mark_lost, read_backlog,
};
use sheaf_testkit::{Injected, TestCluster, TestDatabase, wait_until};

use world::World;

const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// A tenant with two int attributes.
struct Staging {
    world: World,
    scope: TenantScope,
    writer: Pool,
    attributes: Vec<AttributeId>,
}

impl Staging {
    async fn create() -> Result<Staging> {
        Self::of(World::create().await?).await
    }

    async fn of(world: World) -> Result<Staging> {
        let scope = world.tenant("acme").await?;
        for name in ["one", "other"] {
            let new = NewAttribute {
                name: name.into(),
                kind: AttributeType::Text,
                temperature: Temperature::Hot,
            };
            declare_attribute(
                &world.app,
                &scope,
                &new,
                &Description::default(),
                Timestamp::now(),
            )
            .await?;
        }
        let client = world.database.superuser().await?;
        let rows = client
            .query("SELECT attribute_id FROM sheaf.attributes ORDER BY 1", &[])
            .await?;
        let writer = world.pool("sheaf_writer", 4);
        ensure_partition(&writer, second(0)).await?;
        Ok(Staging {
            attributes: rows.iter().map(|row| AttributeId(row.get(0))).collect(),
            world,
            scope,
            writer,
        })
    }

    fn event(&self, at: Option<Timestamp>, cells: &[(usize, &str)]) -> Event {
        let cells = cells.iter().map(|(place, text)| {
            (
                self.attributes[*place],
                Cell::Value(Value::Text((*text).to_owned())),
            )
        });
        Event {
            observed_at: at,
            op: Op::Patch,
            attrs: Attrs::from_distinct(cells.collect()),
            tags: Tags::None,
        }
    }

    async fn stage(&self, events: &[(EntityId, Event)]) -> Result<StagedBatch> {
        match self.world.stage(&self.scope, None, events).await?.1 {
            StageOutcome::Staged(staged) => Ok(staged),
            StageOutcome::AlreadyThere | StageOutcome::LossUnnoticed => anyhow::bail!("not staged"),
        }
    }

    async fn state(&self, batch: BatchId) -> Result<Option<StagedState>> {
        let status = fetch_staged_status(&self.world.app, &self.scope, batch).await?;
        Ok(status.map(|status| status.state))
    }

    /// Until everything that has committed is confirmed.
    async fn confirm_all(&self) -> Result<()> {
        let seen = confirm(&self.writer).await?.seen_at;
        wait_until("the flush is on disk", WITHIN, async || {
            confirm(&self.writer)
                .await
                .is_ok_and(|now| Some(now.confirmed_at) > seen)
        })
        .await;
        Ok(())
    }

    async fn assert_invariants(&self) -> Result<()> {
        let upkeep = self.world.database.client("sheaf_upkeep").await?;
        assert_eq!(check(&upkeep).await?, Vec::new());
        assert_eq!(
            check_documents(&upkeep, i64::MAX).await?.violations,
            Vec::new()
        );
        Ok(())
    }
}

fn second(place: i64) -> Timestamp {
    Timestamp::parse_date("2024-03-01")
        .expect("a date")
        .saturating_add_micros(place * 1_000_000)
}

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
async fn an_event_that_the_database_refuses_is_kept_aside_and_the_others_are_flushed() -> Result<()>
{
    let poisoned = Injected::new("staged event that the database refuses");
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 40).await?;
    let events: Vec<(EntityId, Event)> = entities
        .iter()
        .map(|entity| (*entity, staging.event(Some(second(1)), &[(0, "a")])))
        .collect();
    let bad = staging.stage(&events).await?.batch;
    let good = staging
        .stage(&[(entities[0], staging.event(Some(second(2)), &[(0, "b")]))])
        .await?
        .batch;
    let client = staging.world.database.superuser().await?;
    for change in ["op = 'x'", "entity_id = -1", "attrs = '[1]'"] {
        let ordinal = poisoned.total() * 7 + 3;
        let sql = format!(
            "UPDATE sheaf.entity_values_ingest SET {change} WHERE batch_id = $1 AND ordinal = {ordinal}"
        );
        assert_eq!(client.execute(&sql, &[&bad.0]).await?, 1);
        poisoned.count();
    }
    let flushed = flush(&staging.writer, i32::MAX).await?;
    assert_eq!((flushed.batches, flushed.events), (2, 41));
    assert_eq!(
        flush(&staging.writer, i32::MAX).await?,
        Flushed::default(),
        "nothing is tried again"
    );
    let status = fetch_staged_status(&staging.world.app, &staging.scope, bad)
        .await?
        .context("known")?;
    assert_eq!(
        (status.counts.accepted, status.counts.refused, status.events),
        (37, 3, 40)
    );
    let status = fetch_staged_status(&staging.world.app, &staging.scope, good)
        .await?
        .context("known")?;
    assert_eq!((status.counts.accepted, status.counts.refused), (1, 0));
    let kept = client
        .query("SELECT event_index, reason, convert_from(raw, 'UTF8') FROM sheaf.rejections WHERE batch_id = $1 ORDER BY 1", &[&bad.0])
        .await?;
    let indexes: Vec<i32> = kept.iter().map(|row| row.get(0)).collect();
    assert_eq!(indexes, [3, 10, 17]);
    let (reason, raw): (String, String) = (kept[0].get(1), kept[0].get(2));
    assert!(reason.contains("23514"), "{reason}");
    assert!(
        raw.contains(r#""attributes": {"one": "a"}"#) && raw.contains(r#""type": "thing""#),
        "{raw}"
    );
    poisoned.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_document_that_would_grow_past_its_bound_refuses_the_event() -> Result<()> {
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let (half, text) = ("h".repeat(9 << 20), "small");
    let batch = staging
        .stage(&[
            (entity, staging.event(Some(second(1)), &[(0, &half)])),
            (entity, staging.event(Some(second(2)), &[(1, &half)])),
            (entity, staging.event(Some(second(3)), &[(1, text)])),
        ])
        .await?
        .batch;
    flush(&staging.writer, 10).await?;
    let status = fetch_staged_status(&staging.world.app, &staging.scope, batch)
        .await?
        .context("known")?;
    assert_eq!((status.counts.accepted, status.counts.refused), (2, 1));
    let code =
        "SELECT count(*) FROM sheaf.rejections WHERE code = 'quota_exceeded' AND event_index = 1";
    assert_eq!(staging.world.count(code).await?, 1);
    staging.assert_invariants().await
}

#[tokio::test]
async fn lines_whose_tags_beside_the_id_differ_are_two_series_and_the_second_is_refused()
-> Result<()> {
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let line = |at: i64, cells: &[(usize, &str)]| {
        let event = staging.event(Some(second(at)), cells);
        (
            entity,
            Event {
                tags: Tags::Beside(vec![staging.attributes[0]]),
                ..event
            },
        )
    };
    let batch = staging
        .stage(&[
            line(1, &[(0, "eu"), (1, "x")]),
            line(1, &[(0, "us"), (1, "y")]),
            line(1, &[(0, "eu"), (1, "z")]),
            line(2, &[(0, "us")]),
        ])
        .await?
        .batch;
    flush(&staging.writer, 10).await?;
    let late = staging
        .stage(&[line(1, &[(0, "us"), (1, "y")])])
        .await?
        .batch;
    flush(&staging.writer, 10).await?;
    for (batch, accepted, corrected, refused) in [(batch, 2, 1, 1), (late, 0, 0, 1)] {
        let status = fetch_staged_status(&staging.world.app, &staging.scope, batch)
            .await?
            .context("known")?;
        let counts = status.counts;
        assert_eq!(
            (counts.accepted, counts.corrected, counts.refused),
            (accepted, corrected, refused)
        );
    }
    let named =
        "SELECT count(*) FROM sheaf.rejections WHERE code = 'series_conflict' AND field = 'one'";
    assert_eq!(staging.world.count(named).await?, 2);
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

#[tokio::test]
async fn an_event_of_a_partition_that_is_being_taken_out_is_kept_aside() -> Result<()> {
    let closed = Injected::new("partition closed between staging and flush");
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let batch = staging
        .stage(&[
            (entity, staging.event(Some(second(1)), &[(0, "a")])),
            (entity, staging.event(None, &[(0, "b")])),
        ])
        .await?
        .batch;
    let upkeep = staging.world.database.client("sheaf_upkeep").await?;
    let sql =
        "SELECT sheaf.close_event_partition(partition_name, now()) FROM sheaf.event_partitions
        WHERE lower_bound <= '2024-03-01Z' AND '2024-03-01Z' < upper_bound";
    assert_eq!(upkeep.query(sql, &[]).await?.len(), 1);
    closed.count();
    assert_eq!(flush(&staging.writer, 10).await?.events, 2);
    assert_eq!(flush(&staging.writer, 10).await?, Flushed::default());
    let status = fetch_staged_status(&staging.world.app, &staging.scope, batch)
        .await?
        .context("known")?;
    assert_eq!((status.counts.accepted, status.counts.refused), (1, 1));
    let kept = "SELECT count(*) FROM sheaf.rejections WHERE event_index = 0 AND reason LIKE '%closed to writes'";
    assert_eq!(staging.world.count(kept).await?, 1);
    closed.require();
    Ok(())
}

#[tokio::test]
async fn a_batch_that_lacks_rows_is_lost_and_never_durable() -> Result<()> {
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 2).await?;
    let event = staging.event(Some(second(1)), &[(0, "a")]);
    let short = staging
        .stage(&[(entities[0], event.clone()), (entities[1], event.clone())])
        .await?
        .batch;
    let whole = staging.stage(&[(entities[0], event)]).await?.batch;
    let client = staging.world.database.superuser().await?;
    client
        .execute(
            "DELETE FROM sheaf.entity_values_ingest WHERE batch_id = $1 AND ordinal = 1",
            &[&short.0],
        )
        .await?;
    let flushed = flush(&staging.writer, 10).await?;
    assert_eq!((flushed.batches, flushed.events), (1, 1));
    staging.confirm_all().await?;
    assert_eq!(staging.state(short).await?, Some(StagedState::Lost));
    assert_eq!(staging.state(whole).await?, Some(StagedState::Durable));
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
async fn a_restart_keeps_what_is_staged_and_it_is_flushed_once() -> Result<()> {
    let restarted = Injected::new("clean restart with staged batches");
    let cluster = TestCluster::private_durable().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let flushed = staging
        .stage(&[(entity, staging.event(Some(second(1)), &[(0, "a")]))])
        .await?
        .batch;
    flush(&staging.writer, 10).await?;
    let waiting = staging
        .stage(&[(entity, staging.event(Some(second(2)), &[(0, "b")]))])
        .await?
        .batch;
    cluster.cluster().restart().await?;
    restarted.count();
    wait_until("it answers again", WITHIN, async || {
        detect_loss(&staging.writer).await.is_ok()
    })
    .await;
    let epoch = detect_loss(&staging.writer).await?;
    assert_eq!((epoch.epoch, epoch.batches_lost), (1, 0));
    assert_eq!(staging.state(waiting).await?, Some(StagedState::Staged));
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
    assert_eq!(flush(&staging.writer, 10).await?, Flushed::default());
    staging.confirm_all().await?;
    for batch in [flushed, waiting] {
        assert_eq!(staging.state(batch).await?, Some(StagedState::Durable));
    }
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.entity_events")
            .await?,
        2
    );
    restarted.require();
    staging.assert_invariants().await
}

/// Staged batches in every stage of their way, and then every process of PostgreSQL dies: what each batch is said to be
/// is what its rows show, and what was once said to be durable stays.
#[tokio::test]
async fn after_a_backend_is_killed_every_batch_is_what_its_rows_show() -> Result<()> {
    const ROUNDS: i64 = 6;
    let killed = Injected::new("backend killed with staged batches");
    let cluster = TestCluster::private_durable().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let mut journal: BTreeMap<BatchId, Option<StagedState>> = BTreeMap::new();
    let (mut lost, mut durable) = (0, 0);
    for round in 0..ROUNDS {
        let mut staged = Vec::new();
        for place in 0..12 {
            let at = Some(second(round * 100 + place));
            staged.push(
                staging
                    .stage(&[(entity, staging.event(at, &[(0, "a")]))])
                    .await?,
            );
            if place == 3 {
                flush(&staging.writer, 100).await?;
                // In half of the rounds it is confirmed, in the others the kill may come before the disk.
                if round % 2 == 0 {
                    staging.confirm_all().await?;
                }
            }
        }
        for batch in &staged {
            journal.insert(batch.batch, staging.state(batch.batch).await?);
        }
        let victim = staging.world.database.superuser().await?;
        let pid: i32 = victim
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .get(0);
        cluster.kill_backend(pid).await?;
        killed.count();
        wait_until("the connection ends", WITHIN, async || victim.is_closed()).await;
        wait_until("it answers again", WITHIN, async || {
            staging.world.count("SELECT 1::bigint").await.is_ok()
        })
        .await;
        // Before anybody has said so, no batch is said to be there that is not.
        let unsaid = staging.state(staged[11].batch).await?;
        ensure!(
            matches!(unsaid, Some(StagedState::Lost | StagedState::Unknown)),
            "{unsaid:?}"
        );
        let found = wait_for_loss(&staging).await?;
        assert_eq!(found, round + 2, "the epoch after this loss");
        mark_lost(&staging.writer, &staged).await?;
        assert_eq!(flush(&staging.writer, 100).await?, Flushed::default());
        staging.confirm_all().await?;
        for (batch, said) in &journal {
            let sql = format!(
                "SELECT count(*) FROM sheaf.entity_events WHERE batch_id = '{}'",
                batch.0
            );
            let is_stored = staging.world.count(&sql).await? > 0;
            let state = staging.state(*batch).await?;
            let expected = if is_stored {
                StagedState::Durable
            } else {
                StagedState::Lost
            };
            assert_eq!(state, Some(expected), "{batch} in round {round}");
            ensure!(
                is_stored || *said != Some(StagedState::Durable),
                "{batch} was said to be durable"
            );
            lost += i64::from(!is_stored);
            durable += i64::from(is_stored);
        }
    }
    ensure!(lost > 0 && durable > 0, "{lost} lost, {durable} durable");
    killed.require();
    staging.assert_invariants().await
}

async fn wait_for_loss(staging: &Staging) -> Result<i64> {
    wait_until("the loss is found", WITHIN, async || {
        detect_loss(&staging.writer).await.is_ok()
    })
    .await;
    Ok(detect_loss(&staging.writer).await?.epoch)
}

#[tokio::test]
async fn a_batch_whose_registration_was_lost_too_is_unknown_and_nothing_can_be_staged_unnoticed()
-> Result<()> {
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let events = [(entity, staging.event(None, &[(0, "a")]))];
    let batch = staging.stage(&events).await?;
    // What a recovery does: the rows, the canary and the last registrations are gone.
    let client = staging.world.database.superuser().await?;
    client
        .batch_execute("TRUNCATE sheaf.entity_values_ingest, sheaf.staging_canary; DELETE FROM sheaf.staged_batches")
        .await?;
    let (_, unnoticed) = staging.world.stage(&staging.scope, None, &events).await?;
    assert_eq!(unnoticed, StageOutcome::LossUnnoticed);
    assert_eq!(detect_loss(&staging.writer).await?.epoch, 2);
    assert_eq!(
        staging.state(batch.batch).await?,
        Some(StagedState::Unknown)
    );
    mark_lost(&staging.writer, std::slice::from_ref(&batch)).await?;
    assert_eq!(staging.state(batch.batch).await?, Some(StagedState::Lost));
    // Staged after the loss, it is none of it.
    let after = staging.stage(&events).await?;
    mark_lost(&staging.writer, std::slice::from_ref(&after)).await?;
    assert_eq!(staging.state(after.batch).await?, Some(StagedState::Staged));
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
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
    let flushed = flush(&staging.writer, 1).await?;
    assert_eq!(
        (flushed.batches, flushed.events),
        (3, 3),
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
