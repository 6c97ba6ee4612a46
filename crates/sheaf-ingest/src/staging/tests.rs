//! The staged mode on a database of its own.

use sheaf_model::{Attrs, EntityId, Event, Name, Op, Tags};
use sheaf_pg::Tls;
use sheaf_pg::cluster::Cluster;
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::{Injected, TestCluster, TestDatabase, TestStandby, wait_until};

use std::sync::atomic::{AtomicU64, Ordering};

use sheaf_store::lineage::fetch_lineage;

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
        World::start_in(database, policy).await
    }

    async fn start_in(database: TestDatabase, policy: StagingPolicy) -> World {
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
        // None while PostgreSQL is away: then it cannot be staged either.
        let lineage = match self.staging.inner.writer.get().await {
            Ok(client) => fetch_lineage(&client).await.unwrap_or_default(),
            Err(_) => None,
        };
        let entry = LedgerEntry {
            buckets: vec![bucket],
            lineage,
            ..LedgerEntry::new(self.scope.tenant(), batch, "staged", 1, now)
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

#[tokio::test]
async fn a_partition_that_is_closed_and_opened_again_is_seen_without_a_restart() {
    let closed = Injected::new("partition closed while its events are staged");
    let world = World::start(StagingPolicy::Refuse).await;
    assert!(world.stage().await.1.is_ok());
    let upkeep = world.database.client("sheaf_upkeep").await;
    let upkeep = upkeep.expect("a connection");
    let now = "partition_name FROM sheaf.list_attached_partitions() WHERE lower_bound <= now() AND now() < upper_bound";
    let close = format!("SELECT sheaf.close_event_partition(partition_name, now()), {now}");
    upkeep.batch_execute(&close).await.expect("it is closed");
    closed.count();
    let mut between = Vec::new();
    wait_until("nothing more is staged into it", WITHIN, async || {
        let (batch, answer) = world.stage().await;
        between.push(batch);
        matches!(answer, Ok(StagedAnswer::TurnDurable))
    })
    .await;
    let refused = between.pop();
    let attach = format!("SELECT sheaf.attach_event_partition(partition_name), {now}");
    upkeep.batch_execute(&attach).await.expect("it is open");
    let (after, answer) = world.stage().await;
    assert!(answer.is_ok(), "{answer:?}");
    for batch in between.into_iter().chain([after]) {
        wait_until(
            "what was staged is flushed, or refused",
            WITHIN,
            async || world.state(batch).await == Some(StagedState::Durable),
        )
        .await;
    }
    assert_eq!(world.state(refused.expect("the last")).await, None);
    closed.require();
}

/// Counts what we log as a warning or an error on this thread, which all tasks of a test run on.
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("sheaf_ingest")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn after_a_failover_what_was_staged_is_lost_and_the_workers_go_on_without_a_storm_of_errors()
{
    let failed_over = Injected::new("failover under a server that stages");
    let warnings = Arc::new(AtomicU64::new(0));
    let _counted = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let cluster = TestCluster::private_durable().await.expect("a primary");
    let database = TestDatabase::create_in(&cluster).await.expect("a database");
    let world = World::start_in(database, StagingPolicy::Refuse).await;
    let standby = TestStandby::follow(&cluster, "second").await;
    let standby = standby.expect("a standby");
    let (before, answer) = world.stage().await;
    assert!(answer.is_ok(), "{answer:?}");
    wait_until("the first is durable", WITHIN, async || {
        world.state(before).await == Some(StagedState::Durable)
    })
    .await;
    let follower = standby.superuser(world.database.name()).await;
    let follower = follower.expect("a connection");
    wait_until("the standby has the first", WITHIN, async || {
        let rows = follower.query_one("SELECT count(*) FROM sheaf.entity_events", &[]);
        rows.await.is_ok_and(|row| row.get::<_, i64>(0) == 1)
    })
    .await;
    let holder = world.database.superuser().await.expect("a connection");
    holder
        .batch_execute("SELECT pg_advisory_lock(24239, b) FROM generate_series(0, 63) b")
        .await
        .expect("the locks");
    let (waiting, answer) = world.stage().await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(world.state(waiting).await, Some(StagedState::Staged));
    let began_at = Instant::now();
    cluster.cluster().kill9().await.expect("the primary dies");
    assert!(world.stage().await.1.is_err(), "there is no primary");
    standby.promote().await.expect("the standby is promoted");
    // Whoever asks for the primary is led to the standby.
    let socket = |of: &Cluster| of.socket_dir().join(format!(".s.PGSQL.{}", of.port()));
    std::fs::remove_file(socket(cluster.cluster())).expect("the socket of the primary");
    std::os::unix::fs::symlink(socket(standby.cluster()), socket(cluster.cluster()))
        .expect("a way to the standby");
    failed_over.count();
    wait_until("the batch is told to be lost", WITHIN, async || {
        world.state(waiting).await == Some(StagedState::Lost)
    })
    .await;
    let mut after = waiting;
    wait_until("staging goes on", WITHIN, async || {
        let (batch, answer) = world.stage().await;
        after = batch;
        answer.is_ok()
    })
    .await;
    wait_until("what is staged then is durable", WITHIN, async || {
        world.state(after).await == Some(StagedState::Durable)
    })
    .await;
    let (warned, seconds) = (
        warnings.load(Ordering::Relaxed),
        began_at.elapsed().as_secs(),
    );
    // Three workers, each of which waits a second after a failure; and the loss itself.
    assert!(
        warned <= 3 * (seconds + 2) + 1,
        "{warned} warnings in {seconds} s"
    );
    assert_eq!(world.state(before).await, Some(StagedState::Durable));
    assert_eq!(world.state(waiting).await, Some(StagedState::Lost));
    assert_eq!(world.rows().await, 2);
    failed_over.require();
}
