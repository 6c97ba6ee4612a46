//! The write path against a real PostgreSQL: what is acknowledged is there, once, and the documents are the fold.

#![allow(
    clippy::print_stdout,
    reason = "a fault that was injected is told to whoever runs the test"
)]

mod world;

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::join_all;
use sheaf_ingest::decode::Precision;
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestRequest, OnError, Precondition, WriteError,
};
use sheaf_model::{AttributeType, Op, Timestamp};
use sheaf_store::ledger::Outcome;
use sheaf_testkit::wait_until;
use world::World;

fn ndjson(lines: &[&str]) -> IngestRequest {
    IngestRequest {
        body: Bytes::from(lines.join("\n")),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key: None,
        received_at: Timestamp::now(),
    }
}

fn edit(op: Op, body: &str) -> EditRequest {
    EditRequest {
        entity_type: "plane".into(),
        external_id: "N1".into(),
        op,
        body: Bytes::copy_from_slice(body.as_bytes()),
        observed_at: None,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    }
}

async fn count(world: &World, table: &str) -> Result<String> {
    let sql = format!("SELECT count(*)::text FROM sheaf.{table}");
    world.text(&sql).await
}

/// Waits until so many lanes wait for the locks of buckets.
async fn wait_for_lanes(world: &World, lanes: usize) {
    let waiting = "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("the lanes wait", Duration::from_secs(60), async || {
        let count = world.text(waiting).await;
        count.is_ok_and(|count| count == lanes.to_string())
    })
    .await;
}

const FLIGHT: &str = r#"{"type":"plane","id":"N1","observed_at":"2013-01-01T10:17:00Z","attributes":{"dep_delay":2,"dest":"IAH"}}"#;

#[tokio::test]
async fn a_batch_is_stored_once_and_its_repetition_is_a_duplicate() -> Result<()> {
    let world = World::create(true).await?;
    let bad =
        r#"{"type":"plane","observed_at":"2013-01-01T10:17:00Z","attributes":{"dep_delay":2}}"#;
    let mismatched = r#"{"type":"plane","id":"N2","observed_at":"2013-01-01T10:17:00Z","attributes":{"dep_delay":"late","dest":"JFK"}}"#;
    let first = world
        .writer
        .ingest(&world.scope, ndjson(&[FLIGHT, bad, mismatched]))
        .await?;
    assert_eq!(
        (first.events, first.counts.accepted, first.counts.refused),
        (3, 2, 1)
    );
    assert_eq!(first.rejected.len(), 2);
    assert_eq!(first.rejected[0].code, "missing_id");
    assert_eq!(
        (
            first.rejected[1].field.as_deref(),
            first.rejected[1].code.as_str()
        ),
        (Some("dep_delay"), "type_mismatch")
    );
    let again = world.writer.ingest(&world.scope, ndjson(&[FLIGHT])).await?;
    assert_eq!((again.counts.accepted, again.counts.duplicates), (0, 1));
    let merged = FLIGHT.replace("\"dest\":\"IAH\"", "\"carrier\":\"UA\"");
    assert_eq!(
        world
            .writer
            .ingest(&world.scope, ndjson(&[&merged]))
            .await?
            .counts
            .merged,
        1
    );
    let corrected = FLIGHT.replace("2,", "3,");
    assert_eq!(
        world
            .writer
            .ingest(&world.scope, ndjson(&[&corrected]))
            .await?
            .counts
            .corrected,
        1
    );
    assert_eq!(count(&world, "entity_events").await?, "4");
    assert_eq!(count(&world, "rejections").await?, "2");
    Ok(())
}

#[tokio::test]
async fn the_same_key_gets_the_first_answer_and_another_body_is_refused() -> Result<()> {
    let world = World::create(true).await?;
    let mut request = ndjson(&[FLIGHT, "nonsense"]);
    request.idempotency_key = Some("once".into());
    let first = world.writer.ingest(&world.scope, request.clone()).await?;
    let mut again = world.writer.ingest(&world.scope, request.clone()).await?;
    assert!(again.replayed && !first.replayed);
    (again.replayed, again.written) = (false, first.written);
    again.position = first.position;
    again.first_bad_line = first.first_bad_line.clone();
    assert_eq!(again, first);
    request.body = Bytes::from_static(b"{}");
    assert!(matches!(
        world.writer.ingest(&world.scope, request).await,
        Err(WriteError::KeyReused)
    ));
    Ok(())
}

#[tokio::test]
async fn a_request_with_a_key_that_stored_nothing_is_answered_so_again() -> Result<()> {
    let world = World::create(true).await?;
    let lines = |site: &str| IngestRequest {
        format: BodyFormat::LineProtocol {
            precision: Precision::Seconds,
            id_tags: Some(vec!["host".to_owned()]),
        },
        idempotency_key: Some(site.to_owned()),
        ..ndjson(&[&format!("cpu,host=a,site={site} n=1i 1357020000")])
    };
    let first = world.writer.ingest(&world.scope, lines("x")).await?;
    assert_eq!(first.outcome, Outcome::Stored);
    // Only what is stored tells that this is another series.
    let refused = world.writer.ingest(&world.scope, lines("y")).await?;
    assert_eq!(
        (refused.outcome, refused.counts.refused, refused.written),
        (Outcome::AllRefused, 1, 1)
    );
    let again = world.writer.ingest(&world.scope, lines("y")).await?;
    assert_eq!(
        (again.outcome, again.counts.refused, again.written),
        (Outcome::AllRefused, 1, 0)
    );
    assert!(again.replayed);
    let mut same = lines("y");
    (same.on_error, same.idempotency_key) = (OnError::Reject, None);
    let rejected = world.writer.ingest(&world.scope, same).await?;
    assert_eq!(rejected.outcome, Outcome::BatchRefused);
    Ok(())
}

#[tokio::test]
async fn what_waited_is_durable_when_it_is_written_and_not_when_it_came() -> Result<()> {
    let world = World::create(true).await?;
    world.writer.ingest(&world.scope, ndjson(&[FLIGHT])).await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(24239, bucket) FROM sheaf.bucket_writers",
        )
        .await?;
    let release = async {
        wait_for_lanes(&world, 1).await;
        let released_at = "SELECT clock_timestamp()::text";
        let released_at: String = client.query_one(released_at, &[]).await?.get(0);
        client.batch_execute("COMMIT").await?;
        anyhow::Ok(released_at)
    };
    let write = world.writer.ingest(&world.scope, ndjson(&[FLIGHT]));
    let (written, released_at) = futures::join!(write, release);
    let (batch, released_at) = (written?.batch.0, released_at?);
    let sql = format!(
        "SELECT (durable_at >= '{released_at}' AND durable_at <= clock_timestamp())::text
         FROM sheaf.ingest_requests WHERE batch_id = '{batch}'"
    );
    assert_eq!(world.text(&sql).await?, "true");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_has_no_room_fails_its_own_request_and_no_other_of_its_group() -> Result<()> {
    one_of_a_group_fails("disk_full").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_waits_in_vain_fails_its_own_request_and_no_other_of_its_group() -> Result<()> {
    one_of_a_group_fails("lock_not_available").await
}

/// Writes a group of which one part meets a fault of PostgreSQL.
async fn one_of_a_group_fails(fault: &str) -> Result<()> {
    const ENTITIES: usize = 30;
    let world = World::create(true).await?;
    let event = |entity: usize, second: usize| {
        format!(
            r#"{{"type":"device","id":"d{entity}","observed_at":"2024-01-01T00:00:0{second}Z","attributes":{{"a":1}}}}"#
        )
    };
    let all: Vec<String> = (0..ENTITIES).map(|entity| event(entity, 0)).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    world.writer.ingest(&world.scope, ndjson(&all)).await?;
    let client = world.database.superuser().await?;
    client
        .batch_execute(&format!(
            "CREATE SEQUENCE public.injected; GRANT USAGE ON SEQUENCE public.injected TO PUBLIC;
             CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM nextval('public.injected');
                RAISE 'injected' USING ERRCODE = '{fault}';
             END $$;
             DO $$ DECLARE entity bigint := (SELECT entity_id FROM sheaf.entities WHERE external_id = 'd7'); BEGIN
                EXECUTE format('CREATE TRIGGER fill BEFORE UPDATE ON sheaf.entity_jsonb FOR EACH ROW
                    WHEN (OLD.entity_id = %s) EXECUTE FUNCTION public.fill()', entity);
             END $$;
             BEGIN; SELECT pg_advisory_xact_lock(24239, bucket) FROM sheaf.bucket_writers",
        ))
        .await?;
    let bodies: Vec<String> = (0..ENTITIES).map(|entity| event(entity, 1)).collect();
    let writes = bodies
        .iter()
        .map(|body| world.writer.ingest(&world.scope, ndjson(&[body])));
    // What comes while the lanes wait for the first parts becomes groups.
    let release = async {
        wait_for_lanes(&world, 3).await;
        client.batch_execute("COMMIT").await
    };
    let (answers, released) = futures::join!(join_all(writes), release);
    released?;
    let failed: Vec<usize> = (0..ENTITIES).filter(|at| answers[*at].is_err()).collect();
    assert_eq!(failed, [7], "{:?}", answers[7]);
    let injected = "SELECT last_value::text FROM public.injected";
    let injected: i64 = world.text(injected).await?.parse()?;
    println!("injected {fault}: {injected}");
    assert!(injected > 1, "once in its group, and once alone");
    client
        .batch_execute("DROP TRIGGER fill ON sheaf.entity_jsonb")
        .await?;
    world.assert_consistent().await
}

#[tokio::test]
async fn all_or_nothing_stores_nothing_when_one_value_is_bad() -> Result<()> {
    let world = World::create(true).await?;
    let mut request = ndjson(&[FLIGHT, "nonsense"]);
    request.on_error = OnError::Reject;
    let answer = world.writer.ingest(&world.scope, request).await?;
    assert_eq!(
        (
            answer.outcome,
            answer.counts.refused,
            answer.counts.accepted
        ),
        (Outcome::BatchRefused, 2, 0)
    );
    for table in ["entity_events", "entities", "attributes", "entity_jsonb"] {
        assert_eq!(count(&world, table).await?, "0", "{table}");
    }
    assert_eq!(count(&world, "rejections").await?, "1");
    Ok(())
}

#[tokio::test]
async fn edits_count_versions_keep_conditions_and_name_what_is_superseded() -> Result<()> {
    let world = World::create(true).await?;
    let patch = edit(Op::Patch, r#"{"attributes":{"seats":149,"model":"737"}}"#);
    let first = world.writer.edit(&world.scope, patch).await?;
    assert_eq!((first.created, first.version), (true, 1));
    let late = edit(
        Op::Patch,
        r#"{"attributes":{"seats":1},"observed_at":"2013-01-01T00:00:00Z"}"#,
    );
    let late = world.writer.edit(&world.scope, late).await?;
    assert_eq!(
        (late.created, late.superseded),
        (false, vec!["seats".to_owned()])
    );
    let mut conditional = edit(Op::Replace, r#"{"attributes":{"seats":150}}"#);
    conditional.precondition = Some(Precondition::Version(9));
    assert!(matches!(
        world.writer.edit(&world.scope, conditional.clone()).await,
        Err(WriteError::Precondition)
    ));
    conditional.precondition = Some(Precondition::Version(late.version));
    let replaced = world.writer.edit(&world.scope, conditional).await?;
    assert!(replaced.observed_at > first.observed_at);
    let bad = edit(
        Op::Patch,
        r#"{"attributes":{"seats":"many","model":"747"}}"#,
    );
    let Err(WriteError::Edit(faults)) = world.writer.edit(&world.scope, bad).await else {
        panic!("a bad value was taken");
    };
    assert_eq!(faults[0].parameter, "attributes.seats");
    assert!(
        world
            .writer
            .edit(&world.scope, edit(Op::Delete, ""))
            .await
            .is_ok()
    );
    assert!(matches!(
        world.writer.edit(&world.scope, edit(Op::Delete, "")).await,
        Err(WriteError::NotFound)
    ));
    let mut absent = edit(Op::Patch, r#"{"attributes":{"seats":2}}"#);
    absent.precondition = Some(Precondition::Absent);
    assert!(world.writer.edit(&world.scope, absent).await?.created);
    Ok(())
}

#[tokio::test]
async fn a_catalogue_that_another_server_changed_is_read_anew_under_many_documents() -> Result<()> {
    let world = World::create(true).await?;
    let lines = |value: i64| -> Vec<String> {
        let text = "x".repeat(200);
        (0..3_000)
            .map(|n| format!(r#"{{"type":"t","id":"e{n}","observed_at":"2013-01-0{value}T00:00:00Z","attributes":{{"a":{value},"b":"{text}"}}}}"#))
            .collect()
    };
    let body = |lines: &[String]| ndjson(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    world.writer.ingest(&world.scope, body(&lines(1))).await?;
    // Another server declares an attribute; this one still remembers the version before.
    world.declare("c", AttributeType::Int).await?;
    let ingest = world.writer.ingest(&world.scope, body(&lines(2)));
    let answer = tokio::time::timeout(std::time::Duration::from_secs(60), ingest).await??;
    assert_eq!(answer.counts.accepted, 3_000);
    Ok(())
}
