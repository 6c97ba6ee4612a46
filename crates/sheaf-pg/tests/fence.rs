//! Fences against a real primary with a real standby: what they prove is so, and what they do not know they do not say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::{Lsn, Position};
use sheaf_pg::cluster::StopMode;
use sheaf_pg::{Fence, FenceError, Pool, Tls};
use sheaf_testkit::{Injected, TestCluster, TestDatabase, TestStandby, wait_until};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

const WITHIN: Duration = Duration::from_secs(30);
/// Longer than a fence takes, and than settings take to be believed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Waits that are to fail.
const BRIEFLY: Duration = Duration::from_millis(300);

/// A primary that waits for the standby `s1`, a database in it, and its fence.
struct World {
    primary: Arc<TestCluster>,
    standby: TestStandby,
    fence: Fence,
    /// A superuser who waits for no standby.
    watcher: Client,
    database: TestDatabase,
}

impl World {
    async fn new() -> Result<World> {
        let primary = TestCluster::private().await?;
        let database = TestDatabase::create_in(&primary).await?;
        let standby = TestStandby::follow(&primary, "s1").await?;
        let pool = |role: &str| Pool::new(&database.config(role), 2, &Tls::none());
        let (fence, task) = Fence::new(&pool("sheaf_writer"), pool("sheaf_app"));
        tokio::spawn(task);
        let watcher = database.superuser().await?;
        watcher
            .batch_execute("SET synchronous_commit = local; CREATE TABLE marks (mark int)")
            .await?;
        primary.set("synchronous_standby_names", "s1").await?;
        Ok(World {
            primary,
            standby,
            fence,
            watcher,
            database,
        })
    }

    /// Commits as the lanes do, with local durability, and tells the position after it.
    async fn commit(&self) -> Result<Position> {
        self.watcher
            .batch_execute("INSERT INTO marks VALUES (1)")
            .await?;
        let messages = self
            .watcher
            .simple_query(
                "SELECT pg_current_wal_insert_lsn() AS lsn,
                     substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
                     system_identifier FROM pg_control_system()",
            )
            .await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.context("a row")?;
        Ok(Position {
            system_id: row.get(2).context("system id")?.parse()?,
            timeline: u32::from_str_radix(row.get(1).context("timeline")?, 16)?,
            lsn: row.get(0).context("lsn")?.parse()?,
        })
    }

    /// What a request does: commit, then the fence.
    async fn write(&self, patience: Duration) -> Result<Result<Position, FenceError>> {
        let committed = self.commit().await?;
        Ok(self.fence.wait(committed, Instant::now() + patience).await)
    }

    fn begin_wait(&self, committed: Position) -> JoinHandle<Result<Position, FenceError>> {
        let fence = self.fence.clone();
        tokio::spawn(async move { fence.wait(committed, Instant::now() + PATIENCE).await })
    }

    /// Backends of fences, and those of them that wait for a standby.
    async fn fences(&self) -> Result<(i64, Vec<i32>)> {
        fences(&self.watcher).await
    }

    /// The backend of the fence, once it waits.
    async fn hanging_fence(&self) -> Result<i32> {
        wait_until("a fence waits", WITHIN, async || {
            self.fences()
                .await
                .is_ok_and(|(_, waiting)| waiting.len() == 1)
        })
        .await;
        Ok(self.fences().await?.1[0])
    }

    /// Where the standby's disk has got to.
    async fn standby_has(&self) -> Result<Lsn> {
        let client = self.standby.superuser("postgres").await?;
        let lsn: String = client
            .query_one("SELECT pg_last_wal_receive_lsn()::text", &[])
            .await?
            .get(0);
        Ok(lsn.parse()?)
    }
}

async fn fences(watcher: &Client) -> Result<(i64, Vec<i32>)> {
    let row = watcher
        .query_one(
            "SELECT count(*), coalesce(array_agg(pid) FILTER (WHERE wait_event = 'SyncRep'), '{}')
             FROM pg_stat_activity WHERE application_name = 'sheaf fence'",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test]
async fn a_write_is_replicated_once_the_standby_has_it_and_never_while_it_is_stopped() -> Result<()>
{
    let world = World::new().await?;
    // Kept on the standby's disk is what counts; showing it is not.
    world.standby.pause_replay().await?;
    let committed = world.commit().await?;
    let passed = world
        .fence
        .wait(committed, Instant::now() + PATIENCE)
        .await?;
    assert!(passed.lsn >= committed.lsn);
    assert!(world.standby_has().await? >= committed.lsn);
    world.standby.resume_replay().await?;

    let stopped = Injected::new("standby stopped");
    world.standby.cluster().stop(StopMode::Fast).await?;
    stopped.count();
    for _ in 0..3 {
        let outcome = world.write(BRIEFLY).await?;
        assert!(matches!(outcome, Err(FenceError::TimedOut)), "{outcome:?}");
    }
    let (backends, waiting) = world.fences().await?;
    assert_eq!(
        (backends, waiting.len()),
        (1, 1),
        "a fence that hangs is used by all who come later"
    );
    let committed = world.commit().await?;
    let waiting = world.begin_wait(committed);
    world.standby.cluster().restart().await?;
    let passed = waiting.await??;
    assert!(passed.lsn >= committed.lsn);
    assert!(world.standby_has().await? >= committed.lsn);

    world.primary.cluster().restart().await?;
    let watcher = world.primary.superuser(world.database.name()).await?;
    watcher
        .batch_execute("SET synchronous_commit = local")
        .await?;
    let world = World { watcher, ..world };
    world.standby.wait_streaming(&world.primary).await?;
    world
        .write(PATIENCE)
        .await?
        .context("the fence connects again")?;
    stopped.require();
    Ok(())
}

#[tokio::test]
async fn a_cancelled_wait_proves_nothing_and_the_next_waits_again() -> Result<()> {
    let world = World::new().await?;
    let cancelled = Injected::new("wait for the standby cancelled");
    let terminated = Injected::new("wait for the standby terminated");
    world.standby.cluster().stop(StopMode::Fast).await?;
    let committed = world.commit().await?;
    // Each wait after the first is a retry, and its backend is found waiting again.
    for (function, injected) in [
        ("pg_cancel_backend", &cancelled),
        ("pg_terminate_backend", &terminated),
        ("pg_cancel_backend", &cancelled),
    ] {
        let waiting = world.begin_wait(committed);
        let pid = world.hanging_fence().await?;
        let done: bool = world
            .watcher
            .query_one(&format!("SELECT {function}($1)"), &[&pid])
            .await?
            .get(0);
        assert!(done, "{function}");
        injected.count();
        let outcome = waiting.await?;
        assert!(
            matches!(outcome, Err(FenceError::Cancelled { .. })),
            "{function}: {outcome:?}"
        );
    }
    let retried = world.fence.wait(committed, Instant::now() + BRIEFLY).await;
    assert!(matches!(retried, Err(FenceError::TimedOut)), "{retried:?}");
    world.standby.cluster().restart().await?;
    world
        .fence
        .wait(committed, Instant::now() + PATIENCE)
        .await
        .context("the standby is back")?;
    cancelled.require();
    terminated.require();
    Ok(())
}

#[tokio::test]
async fn names_that_no_standby_has_keep_waits_waiting_and_emptied_names_end_them_unproved()
-> Result<()> {
    let world = World::new().await?;
    assert!(world.fence.has_standby().await?);
    let strange = Injected::new("names of no standby");
    let emptied = Injected::new("names emptied during a wait");
    let names = "synchronous_standby_names";
    world.primary.set(names, "nosuch").await?;
    strange.count();
    // Else the fence would run again for the age of the settings alone.
    let settled = "SELECT clock_timestamp() - pg_conf_load_time() > interval '3 s'";
    wait_until(
        "the settings are old enough to be believed",
        WITHIN,
        async || {
            let row = world.watcher.query_one(settled, &[]).await;
            row.is_ok_and(|row| row.get::<_, bool>(0))
        },
    )
    .await;
    let committed = world.commit().await?;
    let waiting = world.begin_wait(committed);
    world.hanging_fence().await?;
    let outcome = world.fence.wait(committed, Instant::now() + BRIEFLY).await;
    assert!(matches!(outcome, Err(FenceError::TimedOut)), "{outcome:?}");
    // PostgreSQL answers all waiting commits as if they were replicated, without a warning.
    world.primary.set(names, "").await?;
    emptied.count();
    let outcome = waiting.await?;
    assert!(matches!(outcome, Err(FenceError::NoStandby)), "{outcome:?}");
    let outcome = world.write(PATIENCE).await?;
    assert!(matches!(outcome, Err(FenceError::NoStandby)), "{outcome:?}");
    wait_until("it is refused before it is written", WITHIN, async || {
        world.fence.has_standby().await.is_ok_and(|has| !has)
    })
    .await;
    world.primary.set(names, "s1").await?;
    wait_until("it is taken again", WITHIN, async || {
        world.fence.has_standby().await.is_ok_and(|has| has)
    })
    .await;
    let committed = world.commit().await?;
    world
        .fence
        .wait(committed, Instant::now() + PATIENCE)
        .await?;
    assert!(world.standby_has().await? >= committed.lsn);
    strange.require();
    emptied.require();
    Ok(())
}

#[tokio::test]
async fn many_waits_share_few_fences_and_a_stopped_fence_leaves_no_backend() -> Result<()> {
    const WAITS: usize = 500;
    let world = World::new().await?;
    world
        .write(PATIENCE)
        .await?
        .context("the standby is there")?;
    let committed = world.commit().await?;
    // Each fence is one transaction, and nobody else writes.
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let before: i64 = world.watcher.query_one(next, &[]).await?.get(0);
    let mut waits = JoinSet::new();
    for _ in 0..WAITS {
        let fence = world.fence.clone();
        waits.spawn(async move { fence.wait(committed, Instant::now() + PATIENCE).await });
    }
    while let Some(outcome) = waits.join_next().await {
        assert!(outcome??.lsn >= committed.lsn);
    }
    let after: i64 = world.watcher.query_one(next, &[]).await?.get(0);
    let fences_passed = after - before;
    assert!(
        (1..=20).contains(&fences_passed),
        "{fences_passed} fences for {WAITS} waits"
    );

    let stopped = Injected::new("fence dropped while it waits");
    world.standby.cluster().stop(StopMode::Fast).await?;
    let outcome = world.write(BRIEFLY).await?;
    assert!(matches!(outcome, Err(FenceError::TimedOut)), "{outcome:?}");
    world.hanging_fence().await?;
    let World {
        primary,
        standby,
        fence,
        watcher,
        database,
    } = world;
    drop(fence);
    stopped.count();
    wait_until("the backend ends", WITHIN, async || {
        fences(&watcher).await.is_ok_and(|(all, _)| all == 0)
    })
    .await;
    stopped.require();
    drop((primary, standby, database));
    Ok(())
}
