//! The staged mode on a database of its own.

use sheaf_model::{Attrs, EntityId, Event, Name, Op, Tags};
use sheaf_pg::Tls;
use sheaf_store::ledger::Outcome;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{Injected, TestDatabase, wait_until};

use super::*;

const WITHIN: Duration = Duration::from_secs(20);

struct World {
    database: TestDatabase,
    app: Pool,
    scope: TenantScope,
    entity: EntityId,
    staging: Staging,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    async fn start(policy: StagingPolicy) -> World {
        let database = TestDatabase::create().await.expect("a database");
        let app = Pool::new(&database.config("sheaf_app"), 2, &Tls::none());
        let writer = Pool::new(&database.config("sheaf_writer"), 6, &Tls::none());
        let name = Name::parse("acme").expect("a name");
        let policy_of_tenant = TenantPolicy::default();
        let tenant = create_tenant(&app, &name, &policy_of_tenant, Timestamp::now())
            .await
            .expect("a tenant");
        let client = database.superuser().await.expect("a connection");
        let sql = "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
            VALUES (1, 'thing', 'one', now()) RETURNING entity_id";
        let row = client.query_one(sql, &[]).await.expect("an entity");
        let settings = Arc::new(Settings::read(&app).await.expect("settings"));
        let (stop, stopped) = watch::channel(false);
        let options = StagingOptions {
            policy,
            ..StagingOptions::default()
        };
        let (staging, tasks) = Staging::start(writer, settings, options, &stopped);
        World {
            database,
            app,
            scope: TenantScope::authenticated(tenant.expect("a new name")),
            entity: EntityId(row.get(0)),
            staging,
            stop,
            tasks,
        }
    }

    async fn stage(&self) -> (BatchId, Result<StagedAnswer, WriteError>) {
        let (batch, now) = (BatchId::new(), Timestamp::now());
        let event = Event {
            observed_at: Some(now),
            op: Op::Patch,
            attrs: Attrs::default(),
            tags: Tags::None,
        };
        let events = [GroupEvent {
            index: 0,
            tenant: self.scope.tenant(),
            entity: self.entity,
            event,
        }];
        let bucket = self
            .staging
            .inner
            .settings
            .bucket(self.scope.tenant(), self.entity);
        let entry = LedgerEntry {
            tenant: self.scope.tenant(),
            request_key: batch.to_string(),
            batch,
            request_hash: Vec::new(),
            outcome: Outcome::Stored,
            ack: "staged",
            events: 1,
            refused: 0,
            received_at: now,
            durable_at: now,
            buckets: vec![bucket],
        };
        let answer = self.staging.stage(&self.scope, &entry, &events, &[]).await;
        (batch, answer)
    }

    async fn state(&self, batch: BatchId) -> Option<StagedState> {
        let status = self.staging.status(&self.app, &self.scope, batch).await;
        status.ok().flatten().map(|status| status.state)
    }

    async fn rows(&self) -> i64 {
        let client = self.database.superuser().await.expect("a connection");
        let sql = "SELECT count(*) FROM sheaf.entity_events";
        client.query_one(sql, &[]).await.expect("a count").get(0)
    }
}

#[tokio::test]
async fn what_is_staged_becomes_durable_by_itself_and_the_rest_at_the_stop() {
    let world = World::start(StagingPolicy::Refuse).await;
    let (batch, answer) = world.stage().await;
    assert_eq!(answer.expect("staged"), StagedAnswer::Staged { values: 0 });
    wait_until("the batch is durable", WITHIN, async || {
        world.state(batch).await == Some(StagedState::Durable)
    })
    .await;
    let (last, _) = world.stage().await;
    world.stop.send(true).expect("the workers listen");
    for task in world.tasks {
        task.await.expect("a worker ends");
    }
    let client = world.database.superuser().await.expect("a connection");
    let sql = "SELECT count(*) FROM sheaf.ingest_requests WHERE batch_id = $1";
    let row = client.query_one(sql, &[&last.0]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 1, "flushed before the end");
}

#[tokio::test]
async fn nothing_is_staged_behind_flushes_that_are_stuck() {
    let stuck = Injected::new("flush that waits for a bucket's lock");
    for policy in [StagingPolicy::Refuse, StagingPolicy::TurnDurable] {
        let world = World::start(policy).await;
        let holder = world.database.superuser().await.expect("a connection");
        holder
            .batch_execute(
                "BEGIN; SELECT pg_advisory_xact_lock(24239, b) FROM generate_series(0, 63) b",
            )
            .await
            .expect("the locks");
        stuck.count();
        let (batch, answer) = world.stage().await;
        assert!(matches!(answer, Ok(StagedAnswer::Staged { .. })));
        wait_until("no more is staged", WITHIN, async || {
            match (policy, world.stage().await.1) {
                (StagingPolicy::Refuse, Err(WriteError::Overloaded))
                | (StagingPolicy::TurnDurable, Ok(StagedAnswer::TurnDurable)) => true,
                (_, answer) => !matches!(answer, Ok(StagedAnswer::Staged { .. })),
            }
        })
        .await;
        assert_eq!(world.rows().await, 0);
        assert_eq!(world.state(batch).await, Some(StagedState::Staged));
        holder.batch_execute("ROLLBACK").await.expect("the end");
        wait_until("it is staged again", WITHIN, async || {
            matches!(world.stage().await.1, Ok(StagedAnswer::Staged { .. }))
        })
        .await;
        wait_until("the batch is durable", WITHIN, async || {
            world.state(batch).await == Some(StagedState::Durable)
        })
        .await;
    }
    stuck.require();
}

#[tokio::test]
async fn a_batch_that_a_loss_took_with_its_registration_is_told_to_be_lost() {
    let lost = Injected::new("loss of staged rows and registrations");
    let world = World::start(StagingPolicy::Refuse).await;
    let holder = world.database.superuser().await.expect("a connection");
    holder
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(24239, b) FROM generate_series(0, 63) b",
        )
        .await
        .expect("the locks");
    let (batch, answer) = world.stage().await;
    assert!(answer.is_ok());
    // What a recovery does to a batch that was staged a moment before; no flush can have taken it, but one may wait.
    let client = world.database.superuser().await.expect("a connection");
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND usename = 'sheaf_writer';
             BEGIN; LOCK sheaf.entity_values_ingest IN ACCESS EXCLUSIVE MODE;
             DELETE FROM sheaf.staged_batches; TRUNCATE sheaf.entity_values_ingest, sheaf.staging_canary; COMMIT",
        )
        .await
        .expect("the loss");
    lost.count();
    holder.batch_execute("ROLLBACK").await.expect("the end");
    wait_until("the batch is told to be lost", WITHIN, async || {
        world.state(batch).await == Some(StagedState::Lost)
    })
    .await;
    wait_until("it is written down", WITHIN, async || {
        let status = fetch_staged_status(&world.app, &world.scope, batch).await;
        status.is_ok_and(|status| status.is_some_and(|s| s.state == StagedState::Lost))
    })
    .await;
    let (after, answer) = world.stage().await;
    assert!(answer.is_ok());
    wait_until("staging goes on", WITHIN, async || {
        world.state(after).await == Some(StagedState::Durable)
    })
    .await;
    assert_eq!(world.rows().await, 1);
    lost.require();
}
