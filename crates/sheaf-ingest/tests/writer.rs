//! The write path against a real PostgreSQL: what is acknowledged is there, once, and the documents are the fold.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestRequest, OnError, Precondition, WriteError, Writer,
};
use sheaf_model::{AttributeType, Limits, Name, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::ledger::Outcome;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::TestDatabase;

struct World {
    database: TestDatabase,
    writer: Writer,
    scope: TenantScope,
}

async fn world() -> Result<World> {
    let database = TestDatabase::create().await?;
    let pool = |role: &str| Pool::new(&database.config(role), 4, &Tls::none());
    let app = pool("sheaf_app");
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let name = Name::parse("acme")?;
    let tenant: TenantId = create_tenant(&app, &name, &TenantPolicy::default(), Timestamp::now())
        .await?
        .context("a new name")?;
    let (writer, _lane) = Writer::start(
        app,
        pool("sheaf_writer"),
        settings,
        catalogues,
        Limits::DEFAULT,
    );
    Ok(World {
        database,
        writer,
        scope: TenantScope::authenticated(tenant),
    })
}

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

async fn count(world: &World, sql: &str) -> Result<i64> {
    let client = world.database.superuser().await?;
    Ok(client.query_one(sql, &[]).await?.get(0))
}

const FLIGHT: &str = r#"{"type":"plane","id":"N1","observed_at":"2013-01-01T10:17:00Z","attributes":{"dep_delay":2,"dest":"IAH"}}"#;

#[tokio::test]
async fn a_batch_is_stored_once_and_its_repetition_is_a_duplicate() -> Result<()> {
    let world = world().await?;
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
    assert_eq!(
        count(&world, "SELECT count(*) FROM sheaf.entity_events").await?,
        4
    );
    assert_eq!(
        count(&world, "SELECT count(*) FROM sheaf.rejections").await?,
        2
    );
    Ok(())
}

#[tokio::test]
async fn the_same_key_gets_the_first_answer_and_another_body_is_refused() -> Result<()> {
    let world = world().await?;
    let mut request = ndjson(&[FLIGHT, "nonsense"]);
    request.idempotency_key = Some("once".into());
    let first = world.writer.ingest(&world.scope, request.clone()).await?;
    let mut again = world.writer.ingest(&world.scope, request.clone()).await?;
    assert!(again.replayed && !first.replayed);
    again.replayed = false;
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
async fn all_or_nothing_stores_nothing_when_one_value_is_bad() -> Result<()> {
    let world = world().await?;
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
        assert_eq!(
            count(&world, &format!("SELECT count(*) FROM sheaf.{table}")).await?,
            0,
            "{table}"
        );
    }
    assert_eq!(
        count(&world, "SELECT count(*) FROM sheaf.rejections").await?,
        1
    );
    Ok(())
}

#[tokio::test]
async fn edits_count_versions_keep_conditions_and_name_what_is_superseded() -> Result<()> {
    let world = world().await?;
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
    let world = world().await?;
    let lines = |value: i64| -> Vec<String> {
        let text = "x".repeat(200);
        (0..3_000)
            .map(|n| format!(r#"{{"type":"t","id":"e{n}","observed_at":"2013-01-0{value}T00:00:00Z","attributes":{{"a":{value},"b":"{text}"}}}}"#))
            .collect()
    };
    let body = |lines: &[String]| ndjson(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    world.writer.ingest(&world.scope, body(&lines(1))).await?;
    // Another server declares an attribute; this one still remembers the version before.
    let app = Pool::new(&world.database.config("sheaf_app"), 1, &Tls::none());
    let attribute = NewAttribute {
        name: "c".into(),
        kind: AttributeType::Int,
        temperature: Temperature::Hot,
    };
    declare_attribute(
        &app,
        &world.scope,
        &attribute,
        &Description::default(),
        Timestamp::now(),
    )
    .await?;
    let ingest = world.writer.ingest(&world.scope, body(&lines(2)));
    let answer = tokio::time::timeout(std::time::Duration::from_secs(60), ingest).await??;
    assert_eq!(answer.counts.accepted, 3_000);
    Ok(())
}
