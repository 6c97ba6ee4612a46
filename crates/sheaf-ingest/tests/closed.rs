//! Events of a period that is being taken out of the history: refused alone, and stored once it is back.

mod world;

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::join_all;
use sheaf_ingest::{Ack, BodyFormat, EditRequest, IngestRequest, OnError, WriteError};
use sheaf_model::{Op, RefusalCode, Timestamp};
use sheaf_store::ledger::Outcome;
use sheaf_testkit::{Injected, wait_until};
use world::World;

fn event(entity: usize, year: usize) -> String {
    format!(
        r#"{{"type":"device","id":"d{entity}","observed_at":"{year}-05-01T00:00:00Z","attributes":{{"a":1}}}}"#
    )
}

fn request(body: String, on_error: OnError) -> IngestRequest {
    IngestRequest {
        body: Bytes::from(body),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error,
        idempotency_key: None,
        received_at: Timestamp::now(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_closed_period_are_refused_alone_and_stored_once_it_is_open() -> Result<()> {
    const ENTITIES: usize = 30;
    let closed = Injected::new("partition closed under a group");
    let world = World::create(true).await?;
    let all: Vec<String> = (0..ENTITIES).map(|entity| event(entity, 2010)).collect();
    let (scope, writer) = (&world.scope, &world.writer);
    let everything = request(all.join("\n"), OnError::Partial);
    writer.ingest(scope, everything).await?;
    let upkeep = world.database.client("sheaf_upkeep").await?;
    let of_2010 = "partition_name FROM sheaf.list_attached_partitions() WHERE lower_bound <= '2010-05-01Z' AND '2010-05-01Z' < upper_bound";
    let close = format!("SELECT sheaf.close_event_partition(partition_name, now()), {of_2010}");
    assert_eq!(upkeep.query(&close, &[]).await?.len(), 1);
    closed.count();

    let client = world.database.superuser().await?;
    client
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(24239, bucket) FROM sheaf.bucket_writers",
        )
        .await?;
    // What comes while the lanes wait for the first parts becomes groups.
    let writes = (0..ENTITIES).map(|entity| {
        let year = if entity == 7 { 2010 } else { 2020 };
        let late = event(entity, year).replace("-01T00:00:00Z", "-02T00:00:00Z");
        writer.ingest(scope, request(late, OnError::Partial))
    });
    let release = async {
        let waiting =
            "SELECT (count(*) >= 3)::text FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        wait_until("the lanes wait", Duration::from_secs(60), async || {
            world.text(waiting).await.is_ok_and(|is| is == "true")
        })
        .await;
        client.batch_execute("COMMIT").await
    };
    let (answers, released) = futures::join!(join_all(writes), release);
    released?;
    for (entity, answer) in answers.into_iter().enumerate() {
        let answer = answer.with_context(|| format!("entity {entity}"))?;
        let counts = (answer.counts.accepted, answer.counts.refused);
        if entity != 7 {
            assert_eq!(counts, (1, 0), "{entity}");
            continue;
        }
        assert_eq!((answer.outcome, counts), (Outcome::AllRefused, (0, 1)));
        let refused = &answer.rejected[0];
        assert_eq!(refused.code, RefusalCode::SchemaViolation.as_str());
        assert_eq!(
            refused.reason,
            "the period of the event is closed to writes"
        );
    }
    let both = || [event(40, 2010), event(41, 2020)].join("\n");
    let whole = writer
        .ingest(scope, request(both(), OnError::Reject))
        .await?;
    let counts = (whole.counts.accepted, whole.counts.refused);
    assert_eq!((whole.outcome, counts), (Outcome::BatchRefused, (0, 2)));
    let edit = |observed_at: &str| EditRequest {
        entity_type: "device".into(),
        external_id: "d0".into(),
        op: Op::Patch,
        body: Bytes::from(format!(
            r#"{{"observed_at":"{observed_at}","attributes":{{"a":2}}}}"#
        )),
        observed_at: None,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    };
    let refused = writer.edit(scope, edit("2010-05-03T00:00:00Z")).await;
    assert!(matches!(refused, Err(WriteError::Edit(_))), "{refused:?}");
    writer.edit(scope, edit("2020-05-03T00:00:00Z")).await?;

    let attach = format!("SELECT sheaf.attach_event_partition(partition_name), {of_2010}");
    assert_eq!(upkeep.query(&attach, &[]).await?.len(), 1);
    let stored = writer
        .ingest(scope, request(both(), OnError::Reject))
        .await?;
    assert_eq!(
        (stored.outcome, stored.counts.accepted),
        (Outcome::Stored, 2)
    );
    closed.require();
    world.assert_consistent().await
}
