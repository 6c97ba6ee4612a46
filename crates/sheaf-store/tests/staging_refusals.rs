//! What a flush cannot store is kept aside, and everything else is flushed.

mod staging_world;
mod world;

use anyhow::{Context, Result};
use sheaf_model::{BatchId, EntityId, Event, Tags, Timestamp};
use sheaf_store::partitions::ensure_partition;
use sheaf_store::staging::{Flushed, StagedState, fetch_staged_status, flush, read_backlog};
use sheaf_testkit::Injected;
use tokio_postgres::Client;

use staging_world::{Staging, second};

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
async fn events_of_partitions_that_are_being_taken_out_are_kept_aside_until_they_are_back()
-> Result<()> {
    const LATE: i64 = 300;
    let closed = Injected::new("partition closed between staging and flush");
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 2).await?;
    ensure_partition(&staging.writer, Timestamp::now()).await?;
    let batch = async || -> Result<BatchId> {
        let late = |place| (entities[0], staging.event(Some(second(place)), &[(0, "a")]));
        let mut events: Vec<(EntityId, Event)> = (0..LATE).map(late).collect();
        events.push((entities[0], staging.event(None, &[(0, "b")])));
        let open = Timestamp::parse_date("1999-03-01")?;
        events.push((entities[1], staging.event(Some(open), &[(0, "c")])));
        Ok(staging.stage(&events).await?.batch)
    };
    let upkeep = staging.world.database.client("sheaf_upkeep").await?;
    let of_both = "partition_name FROM sheaf.list_attached_partitions()
        WHERE lower_bound <= '2024-03-01Z' AND '2024-03-01Z' < upper_bound OR lower_bound <= now() AND now() < upper_bound";
    let (first, second) = (batch().await?, batch().await?);
    let close = format!("SELECT sheaf.close_event_partition(partition_name, now()), {of_both}");
    assert_eq!(upkeep.query(&close, &[]).await?.len(), 2);
    closed.count();
    assert_eq!(flush(&staging.writer, 1).await?.events, LATE + 2);
    let attach = format!("SELECT sheaf.attach_event_partition(partition_name), {of_both}");
    assert_eq!(upkeep.query(&attach, &[]).await?.len(), 2);
    assert_eq!(flush(&staging.writer, 1).await?.events, LATE + 2);
    assert_eq!(flush(&staging.writer, 1).await?, Flushed::default());
    let counts = async |batch| -> Result<(i64, i64)> {
        let status = fetch_staged_status(&staging.world.app, &staging.scope, batch).await?;
        let counts = status.context("known")?.counts;
        Ok((counts.accepted, counts.refused))
    };
    let claim = "the one that is open takes its event, with a time or without";
    assert_eq!(counts(first).await?, (1, LATE + 1), "{claim}");
    assert_eq!(counts(second).await?, (LATE + 1, 0), "they are open again");
    let kept = format!(
        "SELECT count(DISTINCT event_index) FROM sheaf.rejections WHERE batch_id = '{}' AND reason LIKE '%closed to writes'",
        first.0
    );
    assert_eq!(staging.world.count(&kept).await?, LATE + 1);
    closed.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn late_events_whose_partition_was_taken_out_are_stored_in_a_new_one() -> Result<()> {
    let gone = Injected::new("partition detached between staging and flush");
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let late = |place| (entity, staging.event(Some(second(place)), &[(0, "a")]));
    let events: Vec<(EntityId, Event)> = (0..300).map(late).collect();
    staging.stage(&events).await?;
    let upkeep = staging.world.database.client("sheaf_upkeep").await?;
    let name: String = upkeep
        .query_one(
            "SELECT partition_name FROM sheaf.event_partitions WHERE lower_bound <= '2024-03-01Z' AND '2024-03-01Z' < upper_bound",
            &[],
        )
        .await?
        .get(0);
    for sql in [
        format!("SELECT sheaf.close_event_partition('{name}', now())"),
        format!("ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{name} CONCURRENTLY"),
        format!("SELECT sheaf.guard_detached_partition('{name}')"),
    ] {
        upkeep.batch_execute(&sql).await?;
    }
    gone.count();
    assert_eq!(flush(&staging.writer, 1).await?.events, 300);
    let stored = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(staging.world.count(stored).await?, 300);
    gone.require();
    staging.assert_invariants().await
}

/// Events with this text make PostgreSQL fail with a SQLSTATE.
async fn fail_at_poison(client: &Client, fault: &str) -> Result<()> {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE 'poison' USING ERRCODE = '{fault}'; END $$;
         DROP TRIGGER IF EXISTS poison ON sheaf.entity_events;
         CREATE TRIGGER poison BEFORE INSERT ON sheaf.entity_events FOR EACH ROW
            WHEN (new.attrs::text LIKE '%poison%') EXECUTE FUNCTION public.fail()"
    );
    Ok(client.batch_execute(&sql).await?)
}

const FAILURES: &str = "SELECT coalesce(max(flush_failures), 0)::bigint FROM sheaf.staged_batches WHERE status = 'staged'";
const PUT_OFF: &str = "UPDATE sheaf.staged_batches SET flush_after = now() + interval '1 hour'";
const DUE: &str = "UPDATE sheaf.staged_batches SET flush_after = now() WHERE flush_failures > 0";

#[tokio::test]
async fn a_batch_that_fails_flushes_in_any_way_is_taken_apart_and_stops_nobody() -> Result<()> {
    let poisoned = Injected::new("staged event that PostgreSQL fails at");
    let staging = Staging::create().await?;
    let (world, writer) = (&staging.world, &staging.writer);
    let entities = world.entities(&staging.scope, 3).await?;
    let client = world.database.superuser().await?;
    for fault in ["XX000", "P0001", "42P01", "0A000", "21000", "55000"] {
        fail_at_poison(&client, fault).await?;
        let event = |text| staging.event(None, &[(0, text)]);
        let bad = [
            (entities[0], event("a")),
            (entities[1], event("poison")),
            (entities[2], event("b")),
        ];
        let bad = staging.stage(&bad).await?.batch;
        let beside = staging.stage(&[(entities[0], event("c"))]).await?.batch;
        for failures in 1..=3 {
            assert_eq!(flush(writer, 100).await?, Flushed::default(), "{fault}");
            assert_eq!(world.count(FAILURES).await?, failures, "{fault}");
            poisoned.count();
            client.batch_execute(PUT_OFF).await?;
            let later = staging.stage(&[(entities[0], event("d"))]).await?.batch;
            assert_eq!(flush(writer, 100).await?.events, 1, "others go on");
            assert_eq!(
                world.count(FAILURES).await?,
                failures,
                "none before its time"
            );
            staging.confirm_all().await?;
            assert_eq!(staging.state(later).await?, Some(StagedState::Durable));
            client.batch_execute(DUE).await?;
        }
        let flushed = flush(writer, 100).await?;
        assert_eq!((flushed.batches, flushed.events), (2, 4), "{fault}");
        staging.confirm_all().await?;
        for (batch, accepted, refused) in [(bad, 2, 1), (beside, 1, 0)] {
            let status = fetch_staged_status(&world.app, &staging.scope, batch).await?;
            let status = status.context("known")?;
            let counts = (status.counts.accepted, status.counts.refused);
            assert_eq!(status.state, StagedState::Durable, "{fault}");
            assert_eq!(counts, (accepted, refused), "{fault}");
        }
        let sql = format!(
            "SELECT count(*) FROM sheaf.rejections WHERE batch_id = '{}' AND event_index = 1 AND reason LIKE '%({fault})'",
            bad.0
        );
        assert_eq!(world.count(&sql).await?, 1, "{fault}");
    }
    poisoned.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_batch_that_takes_too_long_even_by_itself_waits_and_stops_nobody() -> Result<()> {
    let slow = Injected::new("staged batch whose flush runs out of time");
    let staging = Staging::create().await?;
    let (world, writer) = (&staging.world, &staging.writer);
    let entity = world.entities(&staging.scope, 1).await?[0];
    let client = world.database.superuser().await?;
    fail_at_poison(&client, "57014").await?;
    let event = |text| [(entity, staging.event(None, &[(0, text)]))];
    let bad = staging.stage(&event("poison")).await?.batch;
    for failures in 1..=6 {
        assert_eq!(flush(writer, 100).await?, Flushed::default());
        assert_eq!(world.count(FAILURES).await?, failures);
        slow.count();
        let due = "SELECT count(*) FROM sheaf.staged_batches WHERE flush_after > staged_at + interval '250 ms' * (2 ^ (flush_failures - 1))";
        assert_eq!(world.count(due).await?, 1, "each time it waits longer");
        client.batch_execute(DUE).await?;
    }
    let backlog = read_backlog(writer).await?;
    let claim = "one that is put aside makes nobody wait";
    assert_eq!((backlog.batches, backlog.put_aside), (1, 1));
    assert_eq!(backlog.oldest_seconds, 0.0, "{claim}");
    client.batch_execute(PUT_OFF).await?;
    staging.stage(&event("c")).await?;
    assert!(read_backlog(writer).await?.oldest_seconds > 0.0);
    assert_eq!(flush(writer, 100).await?.events, 1);
    assert_eq!(staging.state(bad).await?, Some(StagedState::Staged));
    client
        .batch_execute(&format!(
            "DROP TRIGGER poison ON sheaf.entity_events; {DUE}"
        ))
        .await?;
    assert_eq!(flush(writer, 100).await?.events, 1);
    staging.confirm_all().await?;
    assert_eq!(staging.state(bad).await?, Some(StagedState::Durable));
    slow.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_database_that_is_out_of_something_fails_flushes_and_blames_no_batch() -> Result<()> {
    let out = Injected::new("database that can store nothing");
    let staging = Staging::create().await?;
    let (world, writer) = (&staging.world, &staging.writer);
    let entity = world.entities(&staging.scope, 1).await?[0];
    let client = world.database.superuser().await?;
    let event = [(entity, staging.event(None, &[(0, "poison")]))];
    let batch = staging.stage(&event).await?.batch;
    for fault in ["53100", "40P01", "55P03", "57P03"] {
        fail_at_poison(&client, fault).await?;
        assert!(flush(writer, 100).await.is_err(), "{fault}");
        assert_eq!(world.count(FAILURES).await?, 0, "{fault}");
        out.count();
    }
    client
        .batch_execute("DROP TRIGGER poison ON sheaf.entity_events")
        .await?;
    assert_eq!(flush(writer, 100).await?.events, 1);
    staging.confirm_all().await?;
    assert_eq!(staging.state(batch).await?, Some(StagedState::Durable));
    let refused = "SELECT count(*) FROM sheaf.rejections";
    assert_eq!(world.count(refused).await?, 0);
    out.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn each_fault_of_a_flush_is_blamed_on_who_can_do_something_about_it() -> Result<()> {
    let staging = Staging::create().await?;
    let client = staging.world.database.superuser().await?;
    for (fault, together, apart) in [
        ("22003", "event", "event"),
        ("23514", "event", "event"),
        ("54000", "event", "event"),
        ("XX000", "batch", "event"),
        ("42883", "batch", "event"),
        ("P0001", "batch", "event"),
        ("57014", "batch", "batch"),
        ("53200", "batch", "batch"),
        ("XX001", "batch", "batch"),
        ("08006", "database", "database"),
        ("25006", "database", "database"),
        ("40001", "database", "database"),
        ("53100", "database", "database"),
        ("55P03", "database", "database"),
        ("57P01", "database", "database"),
        ("58030", "batch", "batch"),
        ("58P01", "batch", "batch"),
        ("53400", "batch", "batch"),
    ] {
        for (is_apart, blamed) in [(false, together), (true, apart)] {
            let sql = "SELECT sheaf.blame_of_flush_fault($1, $2)";
            let row = client.query_one(sql, &[&fault, &is_apart]).await?;
            assert_eq!(row.get::<_, &str>(0), blamed, "{fault}, apart: {is_apart}");
        }
    }
    Ok(())
}
