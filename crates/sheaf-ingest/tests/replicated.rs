//! Acknowledged as replicated means that a standby has it: through the whole write path, against a real standby.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestAnswer, IngestRequest, OnError, WriteError, Writer,
};
use sheaf_model::{Limits, Lsn, Name, Op, Timestamp};
use sheaf_pg::cluster::StopMode;
use sheaf_pg::{FenceError, Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{Injected, TestCluster, TestDatabase, TestStandby, wait_until};

const WITHIN: Duration = Duration::from_secs(30);

struct World {
    primary: Arc<TestCluster>,
    database: TestDatabase,
    writer: Writer,
    scope: TenantScope,
}

impl World {
    /// On a primary without standbys.
    async fn new() -> Result<World> {
        let primary = TestCluster::private().await?;
        let database = TestDatabase::create_in(&primary).await?;
        let pool = |role: &str| Pool::new(&database.config(role), 4, &Tls::none());
        let app = pool("sheaf_app");
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let policy = TenantPolicy::default();
        let name = Name::parse("acme")?;
        let tenant = create_tenant(&app, &name, &policy, Timestamp::now()).await?;
        let (writer, _tasks) = Writer::start(
            app,
            pool("sheaf_writer"),
            settings,
            catalogues,
            Limits::DEFAULT,
        );
        Ok(World {
            primary,
            database,
            writer,
            scope: TenantScope::authenticated(tenant.context("a new name")?),
        })
    }

    async fn ingest(
        &self,
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
        self.writer.ingest(&self.scope, request).await
    }

    async fn edit(&self, ack: Ack) -> Result<(), WriteError> {
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
        self.writer.edit(&self.scope, request).await.map(drop)
    }
}

async fn received(standby: &TestStandby) -> Result<Lsn> {
    let client = standby.superuser("postgres").await?;
    let row = client
        .query_one("SELECT pg_last_wal_receive_lsn()::text", &[])
        .await?;
    Ok(row.get::<_, &str>(0).parse()?)
}

fn timed_out<T>(outcome: &Result<T, WriteError>) -> bool {
    matches!(
        outcome,
        Err(WriteError::NotReplicated(FenceError::TimedOut))
    )
}

#[tokio::test]
async fn nothing_is_written_where_no_standby_could_have_it() -> Result<()> {
    let world = World::new().await?;
    let refused = Injected::new("no synchronous standby");
    let outcome = world.ingest(Ack::Replicated, Some("key"), "seats").await;
    assert!(matches!(outcome, Err(WriteError::NoStandby)), "{outcome:?}");
    refused.count();
    let outcome = world.edit(Ack::Replicated).await;
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
    let world = World::new().await?;
    let standby = TestStandby::follow(&world.primary, "s1").await?;
    world.primary.set("synchronous_standby_names", "s1").await?;
    wait_until("replicated writes are served", WITHIN, async || {
        world.ingest(Ack::Replicated, None, "seats").await.is_ok()
    })
    .await;
    let answer = world
        .ingest(Ack::Replicated, Some("first"), "speed")
        .await?;
    assert_eq!(answer.ack, "replicated");
    let position = answer.position.context("it is stored")?;
    assert!(received(&standby).await? >= position.lsn);
    world.edit(Ack::Replicated).await?;

    let stopped = Injected::new("standby stopped");
    standby.cluster().stop(StopMode::Fast).await?;
    stopped.count();
    let (stored, edited, repeated) = tokio::join!(
        world.ingest(Ack::Replicated, Some("second"), "range"),
        world.edit(Ack::Replicated),
        world.ingest(Ack::Replicated, None, "seats"),
    );
    assert!(timed_out(&stored), "{stored:?}");
    assert!(timed_out(&edited), "{edited:?}");
    assert!(timed_out(&repeated), "all are duplicates: {repeated:?}");
    // Who did not ask for a standby does not wait for one, with a new attribute and a new entity neither.
    let durable = world.ingest(Ack::Durable, None, "engines").await?;
    assert_eq!(durable.counts.accepted, 1);
    world.edit(Ack::Durable).await?;

    let retried = world.ingest(Ack::Replicated, Some("second"), "range");
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
