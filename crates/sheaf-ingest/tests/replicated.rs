//! Acknowledged as replicated means that a standby has it: through the whole write path, against a real standby.

mod world;

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestAnswer, IngestRequest, OnError, WriteError,
};
use sheaf_model::{Op, Timestamp};
use sheaf_pg::FenceError;
use sheaf_pg::cluster::StopMode;
use sheaf_testkit::{Injected, TestCluster, TestStandby, wait_until};

use world::{World, received};

const WITHIN: Duration = Duration::from_secs(30);

async fn ingest(
    world: &World,
    ack: Ack,
    key: Option<&str>,
    attribute: &str,
) -> Result<IngestAnswer, WriteError> {
    let event = format!(
        r#"{{"type":"plane","id":"{attribute}","observed_at":"2013-01-01T10:17:00Z","attributes":{{"{attribute}":2}}}}"#
    );
    let request = IngestRequest {
        body: Bytes::from(event),
        format: BodyFormat::Ndjson,
        ack,
        on_error: OnError::Partial,
        idempotency_key: key.map(str::to_owned),
        received_at: Timestamp::now(),
    };
    world.writer.ingest(&world.scope, request).await
}

async fn edit(world: &World, ack: Ack) -> Result<(), WriteError> {
    let request = EditRequest {
        entity_type: "plane".into(),
        external_id: "N1".into(),
        op: Op::Patch,
        body: Bytes::from(r#"{"attributes":{"seats":149}}"#),
        observed_at: None,
        precondition: None,
        ack,
        received_at: Timestamp::now(),
    };
    world.writer.edit(&world.scope, request).await.map(drop)
}

fn timed_out<T>(outcome: &Result<T, WriteError>) -> bool {
    matches!(
        outcome,
        Err(WriteError::NotReplicated(FenceError::TimedOut))
    )
}

#[tokio::test]
async fn nothing_is_written_where_no_standby_could_have_it() -> Result<()> {
    let primary = TestCluster::private().await?;
    let world = World::create_in(&primary, true).await?;
    let refused = Injected::new("no synchronous standby");
    let outcome = ingest(&world, Ack::Replicated, Some("key"), "seats").await;
    assert!(matches!(outcome, Err(WriteError::NoStandby)), "{outcome:?}");
    refused.count();
    let outcome = edit(&world, Ack::Replicated).await;
    assert!(matches!(outcome, Err(WriteError::NoStandby)), "{outcome:?}");
    refused.count();
    let client = world.database.superuser().await?;
    for table in [
        "attributes",
        "entities",
        "entity_jsonb",
        "entity_events",
        "ingest_requests",
    ] {
        let sql = format!("SELECT count(*) FROM sheaf.{table}");
        let rows: i64 = client.query_one(&sql, &[]).await?.get(0);
        assert_eq!(rows, 0, "{table}");
    }
    refused.require();
    Ok(())
}

#[tokio::test]
async fn a_write_waits_for_the_standby_and_so_does_each_of_its_repetitions() -> Result<()> {
    let primary = TestCluster::private().await?;
    let world = World::create_in(&primary, true).await?;
    let standby = TestStandby::follow(&primary, "s1").await?;
    primary.set("synchronous_standby_names", "s1").await?;
    wait_until("replicated writes are served", WITHIN, async || {
        ingest(&world, Ack::Replicated, None, "seats").await.is_ok()
    })
    .await;
    let answer = ingest(&world, Ack::Replicated, Some("first"), "speed").await?;
    assert_eq!(answer.ack, "replicated");
    let position = answer.position.context("it is stored")?;
    assert!(received(&standby).await? >= position.lsn);
    edit(&world, Ack::Replicated).await?;

    let stopped = Injected::new("standby stopped");
    standby.cluster().stop(StopMode::Fast).await?;
    stopped.count();
    let (stored, edited, repeated) = tokio::join!(
        ingest(&world, Ack::Replicated, Some("second"), "range"),
        edit(&world, Ack::Replicated),
        ingest(&world, Ack::Replicated, None, "seats"),
    );
    assert!(timed_out(&stored), "{stored:?}");
    assert!(timed_out(&edited), "{edited:?}");
    assert!(timed_out(&repeated), "all are duplicates: {repeated:?}");
    // Who did not ask for a standby does not wait for one, with a new attribute and a new entity neither.
    let durable = ingest(&world, Ack::Durable, None, "engines").await?;
    assert_eq!(durable.counts.accepted, 1);
    edit(&world, Ack::Durable).await?;

    let retried = ingest(&world, Ack::Replicated, Some("second"), "range");
    let back = async {
        standby.cluster().restart().await?;
        anyhow::Ok(())
    };
    let (retried, back) = tokio::join!(retried, back);
    back?;
    let retried = retried?;
    assert!(retried.replayed);
    assert_eq!(
        (retried.counts.accepted, retried.ack.as_str()),
        (1, "replicated")
    );
    let position = retried.position.context("it is stored")?;
    assert!(received(&standby).await? >= position.lsn);
    stopped.require();
    Ok(())
}
