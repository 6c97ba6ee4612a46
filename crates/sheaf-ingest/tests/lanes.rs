//! Several lanes and several servers on one database: everything is there once, and the documents are the fold.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

mod world;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestRequest, OnError, Precondition, WriteError,
};
use sheaf_model::{Op, Timestamp};
use sheaf_testkit::wait_until;
use world::World;

const WITHIN: Duration = Duration::from_secs(60);

/// One event of each of `entities`, at `second`.
fn lines(entities: std::ops::Range<usize>, second: usize, value: usize) -> String {
    let line = |entity: usize| {
        format!(
            r#"{{"type":"device","id":"d{entity}","observed_at":"2024-01-01T00:{:02}:{:02}Z","attributes":{{"a":{value},"b":{entity}}}}}"#,
            second / 60,
            second % 60
        )
    };
    entities.map(line).collect::<Vec<_>>().join("\n")
}

fn request(body: String, key: Option<&str>) -> IngestRequest {
    IngestRequest {
        body: Bytes::from(body),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key: key.map(str::to_owned),
        received_at: Timestamp::now(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_a_request_are_written_by_several_lanes_and_answered_as_one() -> Result<()> {
    let world = World::create(true).await?;
    let body = format!("nonsense\n{}", lines(0..300, 0, 1));
    let answer = world
        .writer
        .ingest(&world.scope, request(body.clone(), Some("k")))
        .await?;
    assert_eq!(
        (answer.events, answer.counts.accepted, answer.counts.refused),
        (301, 300, 1)
    );
    assert_eq!(
        world
            .text("SELECT count(DISTINCT batch_id)::text FROM sheaf.entity_events")
            .await?,
        "1"
    );
    let parts = world
        .text("SELECT count(*)::text FROM sheaf.ingest_parts")
        .await?;
    assert_eq!(parts, "3", "one of each lane");
    let mut again = world
        .writer
        .ingest(&world.scope, request(body, Some("k")))
        .await?;
    assert!(again.replayed);
    // Only an answer to line protocol quotes it.
    again.first_bad_line = None;
    assert_eq!(again.written, 0, "a repetition costs nothing");
    (again.replayed, again.position) = (false, answer.position);
    again.written = answer.written;
    assert_eq!(again, answer);
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_writes_the_parts_that_are_missing_and_no_others() -> Result<()> {
    let world = World::create(true).await?;
    let body = lines(0..300, 0, 1);
    let first = world
        .writer
        .ingest(&world.scope, request(body.clone(), Some("k")))
        .await?;
    // As if the lane of the first part had not come to its commit.
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "CREATE TEMP TABLE lost AS SELECT p.buckets, p.accepted FROM sheaf.ingest_parts p ORDER BY p.bucket LIMIT 1;
             DELETE FROM sheaf.ingest_parts WHERE bucket = (SELECT buckets[1] FROM lost)",
        )
        .await?;
    let settings = sheaf_store::settings::Settings::read(&world.app).await?;
    let buckets: Vec<i32> = client
        .query_one("SELECT buckets FROM lost", &[])
        .await?
        .get(0);
    let accepted: i32 = client
        .query_one("SELECT accepted FROM lost", &[])
        .await?
        .get(0);
    let mut removed = 0;
    for row in client
        .query("SELECT entity_id FROM sheaf.entities", &[])
        .await?
    {
        let entity = sheaf_model::EntityId(row.get(0));
        if buckets.contains(&settings.bucket(world.scope.tenant(), entity)) {
            removed += client
                .execute(
                    "DELETE FROM sheaf.entity_events WHERE entity_id = $1",
                    &[&entity.0],
                )
                .await?;
            client
                .execute(
                    "DELETE FROM sheaf.entity_jsonb WHERE entity_id = $1",
                    &[&entity.0],
                )
                .await?;
        }
    }
    client
        .batch_execute("UPDATE sheaf.bucket_writers SET written_by = NULL")
        .await?;
    println!("injected lost_part: {removed}");
    assert_eq!(removed, u64::from(accepted.unsigned_abs()));
    assert!(removed > 0);
    let mut again = world
        .writer
        .ingest(&world.scope, request(body, Some("k")))
        .await?;
    let claim = "what it has written costs, and no more";
    assert_eq!(again.written, 2 * i64::from(accepted), "{claim}");
    (again.replayed, again.position) = (false, first.position);
    again.written = first.written;
    assert_eq!(again, first, "the answer is composed from all parts");
    assert_eq!(
        world
            .text("SELECT count(*)::text FROM sheaf.entity_events")
            .await?,
        "300"
    );
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_call_has_stored_is_counted_and_its_retry_counts_the_rest() -> Result<()> {
    let world = World::create(true).await?;
    let client = world.database.superuser().await?;
    world
        .writer
        .ingest(&world.scope, request(lines(0..300, 0, 1), None))
        .await?;
    client
        .batch_execute(
            "CREATE SEQUENCE public.injected; GRANT USAGE ON SEQUENCE public.injected TO PUBLIC;
             CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM nextval('public.injected');
                RAISE 'no room' USING ERRCODE = 'disk_full';
             END $$;
             DO $$ DECLARE entity bigint := (SELECT entity_id FROM sheaf.entities WHERE external_id = 'd7'); BEGIN
                EXECUTE format('CREATE TRIGGER fill BEFORE UPDATE ON sheaf.entity_jsonb FOR EACH ROW
                    WHEN (OLD.entity_id = %s) EXECUTE FUNCTION public.fill()', entity);
             END $$",
        )
        .await?;
    let body = lines(0..300, 1, 2);
    let mut counted = 0;
    let write = request(body.clone(), Some("k"));
    let failed = world
        .writer
        .ingest_counting(&world.scope, write, &mut counted)
        .await;
    assert!(failed.is_err(), "{failed:?}");
    let injected = "SELECT last_value::text FROM public.injected";
    println!("injected disk_full: {}", world.text(injected).await?);
    assert!(counted > 0 && counted < 600, "{counted} of a part of it");
    client
        .batch_execute("DROP TRIGGER fill ON sheaf.entity_jsonb")
        .await?;
    let again = world
        .writer
        .ingest(&world.scope, request(body, Some("k")))
        .await?;
    assert_eq!((again.counts.accepted, counted + again.written), (300, 600));
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_write_the_same_entities_without_losing_a_document() -> Result<()> {
    let world = World::create(true).await?;
    let other = world.another_writer().await?;
    let both = [&world.writer, &other];
    // What both write at the same second meets; who is second corrects or repeats.
    let writes = (0..60).map(|at| {
        let body = lines(0..200, at / 2, at % 3);
        both[at % 2].ingest(&world.scope, request(body, None))
    });
    let answers = try_join_all(writes).await?;
    let events: i64 = answers.iter().map(|answer| answer.counts.accepted).sum();
    assert_eq!(events, 200 * 30);
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_on_two_servers_at_once_is_written_once() -> Result<()> {
    let world = World::create(true).await?;
    let other = world.another_writer().await?;
    for round in 0..20 {
        let key = format!("k{round}");
        let body = lines(0..100, round, round);
        let (one, two) = futures::join!(
            world
                .writer
                .ingest(&world.scope, request(body.clone(), Some(&key))),
            other.ingest(&world.scope, request(body, Some(&key))),
        );
        let (one, two) = (one?, two?);
        assert_eq!(one.batch, two.batch);
        assert_eq!((one.counts, two.counts.accepted), (two.counts, 100));
        let changed = lines(0..100, round, round + 1);
        let refused = other
            .ingest(&world.scope, request(changed, Some(&key)))
            .await;
        assert!(matches!(refused, Err(WriteError::KeyReused)), "{refused:?}");
    }
    assert_eq!(
        world
            .text("SELECT count(*)::text FROM sheaf.entity_events")
            .await?,
        "2000"
    );
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_at_once_is_the_same_although_its_last_event_is_just_ahead() -> Result<()>
{
    let world = World::create(true).await?;
    let other = world.another_writer().await?;
    let known = request(lines(0..61, 0, 1), None);
    world.writer.ingest(&world.scope, known).await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "SELECT pg_advisory_lock(hashtextextended('k:k', 1)); BEGIN;
             SELECT pg_advisory_xact_lock(24239, bucket) FROM sheaf.bucket_writers",
        )
        .await?;
    let now = Timestamp::now();
    let ahead_max = sheaf_store::tenants::TenantPolicy::default().observed_at_ahead_max_micros;
    let ahead = format!(
        r#"{{"type":"device","id":"d60","observed_at":"{}","attributes":{{"a":1}}}}"#,
        now.saturating_add_micros(ahead_max)
    );
    let body = format!("{}\n{ahead}", lines(0..60, 1, 1));
    let at = |micros| IngestRequest {
        received_at: now.saturating_add_micros(micros),
        ..request(body.clone(), Some("k"))
    };
    let waiting = async |expected: i64| {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let count = client.query_one(sql, &[]).await;
        count.is_ok_and(|row| row.get::<_, i64>(0) == expected)
    };
    let is_ended = AtomicBool::new(false);
    let opener = other.ingest(&world.scope, at(1));
    let second = async {
        wait_until("the first waits for its key", WITHIN, async || {
            waiting(1).await
        })
        .await;
        let ended = world.writer.ingest(&world.scope, at(-1)).await;
        is_ended.store(true, Ordering::Relaxed);
        ended
    };
    let release = async {
        wait_until("both wait for their key", WITHIN, async || waiting(2).await).await;
        let unlock = "SELECT pg_advisory_unlock(hashtextextended('k:k', 1))";
        client.query(unlock, &[]).await?;
        wait_until("both write, or one has ended", WITHIN, async || {
            is_ended.load(Ordering::Relaxed) || waiting(6).await
        })
        .await;
        client.batch_execute("COMMIT").await
    };
    let (first, second, released) = futures::join!(opener, second, release);
    released?;
    println!("injected second_meets_first_half_written: 1");
    let (first, second) = (first?, second?);
    assert_eq!(first.batch, second.batch);
    assert_eq!((first.counts, first.counts.accepted), (second.counts, 61));
    world.assert_consistent().await
}

#[tokio::test]
async fn a_document_that_was_written_behind_a_lanes_back_is_read_again() -> Result<()> {
    let world = World::create(true).await?;
    world
        .writer
        .ingest(&world.scope, request(lines(0..5, 1, 1), None))
        .await?;
    // As a server of the version before writes, which does not say that it has.
    let client = world.database.superuser().await?;
    let changed = client
        .batch_execute(
            "INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, observed_at + interval '1 s', 0, 'p', batch_id,
                 ingested_at, attrs FROM sheaf.entity_events;
             UPDATE sheaf.ingest_requests SET events = 2 * events;
             UPDATE sheaf.ingest_parts SET accepted = 2 * accepted;
             UPDATE sheaf.entity_jsonb SET version = version + 1, newest = newest + interval '1 s'",
        )
        .await;
    changed?;
    println!("injected write_behind_the_back: 5");
    let answer = world
        .writer
        .ingest(&world.scope, request(lines(0..5, 3, 7), None))
        .await?;
    assert_eq!(answer.counts.accepted, 5);
    assert_eq!(
        world
            .text("SELECT min(version)::text FROM sheaf.entity_jsonb")
            .await?,
        "3"
    );
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_dies_under_load_costs_no_request_its_answer() -> Result<()> {
    let world = World::create(true).await?;
    let client = world.database.superuser().await?;
    let mut killed = 0;
    let mut stored = 0;
    for round in 0..30 {
        let write = world
            .writer
            .ingest(&world.scope, request(lines(0..200, round, round), None));
        let kill = async {
            tokio::task::yield_now().await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE usename = 'sheaf_writer' AND datname = current_database() AND state = 'active'";
            // A backend is at work for a moment only.
            for _ in 0..50 {
                let terminated: i64 = client.query_one(sql, &[]).await?.get(0);
                if terminated > 0 {
                    return Ok(terminated);
                }
            }
            Ok::<i64, anyhow::Error>(0)
        };
        let (answer, terminated) = futures::join!(write, kill);
        killed += terminated?;
        stored += answer?.counts.accepted;
    }
    println!("injected backend_killed: {killed}");
    assert!(
        killed > 0,
        "no backend was at work when one was to be killed"
    );
    assert_eq!(stored, 200 * 30);
    assert_eq!(
        world
            .text("SELECT count(*)::text FROM sheaf.entity_events")
            .await?,
        "6000"
    );
    world.assert_consistent().await
}

fn edit(body: String, precondition: Option<Precondition>) -> EditRequest {
    EditRequest {
        entity_type: "device".into(),
        external_id: "d0".into(),
        op: Op::Patch,
        body: Bytes::from(body),
        observed_at: None,
        precondition,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_edits_with_one_condition_that_come_at_once_one_is_made() -> Result<()> {
    let world = World::create(true).await?;
    for round in 0..10 {
        let body = |at: usize| format!(r#"{{"attributes":{{"a":{}}}}}"#, round * 100 + at);
        let first = world.writer.edit(&world.scope, edit(body(0), None)).await?;
        let condition = Some(Precondition::Version(first.version));
        let edits = (1..20).map(|at| world.writer.edit(&world.scope, edit(body(at), condition)));
        let mut made = 0;
        for outcome in join_all(edits).await {
            match outcome {
                Ok(answer) => {
                    made += 1;
                    assert_eq!(answer.version, first.version + 1);
                }
                Err(WriteError::Precondition) => {}
                Err(error) => return Err(error.into()),
            }
        }
        assert_eq!(made, 1);
    }
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_one_entity_that_come_at_once_are_all_there_and_one_created_it() -> Result<()> {
    let world = World::create(true).await?;
    let edits = (0..60).map(|at| {
        let body = format!(r#"{{"attributes":{{"a{at}":{at},"last":{at}}}}}"#);
        world.writer.edit(&world.scope, edit(body, None))
    });
    let answers = try_join_all(edits).await?;
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    let times: HashSet<Timestamp> = answers.iter().map(|answer| answer.observed_at).collect();
    assert_eq!(times.len(), 60, "each has an instant of its own");
    assert_eq!(
        world
            .text("SELECT cardinality(present)::text FROM sheaf.entity_jsonb")
            .await?,
        "61"
    );
    world.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_given_up_at_any_moment_is_completed_by_its_retry() -> Result<()> {
    let world = World::create(true).await?;
    let mut given_up = 0;
    for round in 0..60 {
        let key = format!("k{round}");
        let body = format!("nonsense\n{}", lines(0..60, round, round));
        let write = || {
            world
                .writer
                .ingest(&world.scope, request(body.clone(), Some(&key)))
        };
        let moment = std::time::Duration::from_micros(150 * u64::try_from(round)?);
        given_up += usize::from(tokio::time::timeout(moment, write()).await.is_err());
        let answer = write().await?;
        let stored = answer.counts.accepted + answer.counts.duplicates;
        assert_eq!((stored, answer.counts.refused), (60, 1), "round {round}");
        assert_eq!(answer.rejected.len(), 1, "round {round}");
    }
    println!("injected request_given_up: {given_up}");
    assert!(given_up > 0, "every request ended before it was given up");
    assert_eq!(
        world
            .text("SELECT count(*)::text FROM sheaf.entity_events")
            .await?,
        "3600"
    );
    assert_eq!(
        world
            .text("SELECT count(*)::text FROM sheaf.rejections")
            .await?,
        "60"
    );
    world.assert_consistent().await
}
