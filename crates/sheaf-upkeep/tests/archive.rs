//! An archive that is given up at any moment goes on, and at none is a row where nobody reads it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_model::{ChangePosition, Lsn, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::archive::{ArchiveDigest, ArchiveState, fetch_boundaries, list_archives};
use sheaf_store::partitions::{Partition, ensure_partition};
use sheaf_testkit::{Injected, TestDatabase};
use sheaf_upkeep::{ArchiveError, ArchiveLake, Compared, LakeView, Step, advance};
use tokio_postgres::{Client, Error};

const EVENTS: i64 = 300;
const YEARS: std::ops::Range<i32> = 2010..2013;

/// A lake that holds a copy, and says what it is told to.
struct Copy {
    admin: Client,
    is_wrong: AtomicBool,
}

impl ArchiveLake for Copy {
    type Error = Error;

    async fn look(&self) -> Result<LakeView, Error> {
        let position = |lsn| ChangePosition::before(1, Lsn(lsn));
        Ok(LakeView {
            catalog: "sheaf".to_owned(),
            base: Some(position(1)),
            covered: Some(position(u64::MAX)),
        })
    }

    async fn compare(&self, partition: &Partition) -> Result<Compared, Error> {
        let digest = async |table: &str| {
            let sql = format!(
                "SELECT count(*), coalesce(md5(string_agg(e::text, ',' ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq)), '')
                 FROM {table} e WHERE e.observed_at >= '{}' AND e.observed_at < '{}'",
                partition.lower, partition.upper
            );
            let row = self.admin.query_one(&sql, &[]).await?;
            Ok::<_, Error>((row.get::<_, i64>(0), row.get::<_, String>(1)))
        };
        let here = digest(&format!("sheaf.{}", partition.name)).await?;
        let there = digest("public.lake").await?;
        if here != there || self.is_wrong.load(Ordering::Relaxed) {
            return Ok(Compared::Different("a row differs".to_owned()));
        }
        Ok(Compared::Equal(ArchiveDigest {
            events: here.0,
            facts: here.0,
            sum: here.1,
        }))
    }
}

struct World {
    database: TestDatabase,
    upkeep: Pool,
    admin: Client,
    lake: Copy,
}

impl World {
    async fn create() -> Result<World> {
        let database = TestDatabase::create().await?;
        let upkeep = Pool::new(&database.config("sheaf_upkeep"), 4, &Tls::none());
        let admin = database.superuser().await?;
        for year in YEARS {
            let time = Timestamp::parse(&format!("{year}-05-05T00:00:00Z"))?.0;
            let partition = ensure_partition(&upkeep, time).await?;
            let sql = format!(
                "INSERT INTO sheaf.{} (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
                 SELECT 1, n % 50, '{}'::timestamptz + n * interval '1 hour', 0, 'p', gen_random_uuid(), now(), '{{\"1\":1}}'
                 FROM generate_series(1, {EVENTS}) n",
                partition.name, partition.lower
            );
            admin.batch_execute(&sql).await?;
        }
        admin
            .batch_execute(
                "CREATE TABLE public.lake AS SELECT * FROM sheaf.entity_events;
                 INSERT INTO sheaf.lake_positions (catalog_name, base_timeline, base_lsn, committed_at) VALUES ('sheaf', 1, '0/1', now())",
            )
            .await?;
        let lake = Copy {
            admin: database.superuser().await?,
            is_wrong: AtomicBool::new(false),
        };
        Ok(World {
            database,
            upkeep,
            admin,
            lake,
        })
    }

    async fn step(&self) -> Result<Step, ArchiveError<Error>> {
        advance(&self.upkeep, &self.lake, |_| true, Timestamp::now()).await
    }

    /// What reads see of the years: what is before the boundary from the lake, and the rest here, in one snapshot.
    async fn require_whole(&self) -> Result<()> {
        let sql = "WITH b AS (SELECT coalesce(archived_before, '-infinity') AS before FROM sheaf.history_boundaries)
            SELECT (SELECT count(*) FROM public.lake l, b WHERE l.observed_at < b.before)
                + (SELECT count(*) FROM sheaf.entity_events e, b WHERE e.observed_at >= b.before)";
        let count: i64 = self.admin.query_one(sql, &[]).await?.get(0);
        let years = i64::from(YEARS.end - YEARS.start);
        ensure!(count == EVENTS * years, "{count} events are read");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_given_up_at_any_moment_goes_on_and_nothing_is_ever_nowhere()
-> Result<()> {
    let given_up = Injected::new("step of an archive given up");
    let world = World::create().await?;
    let mut within = Duration::from_micros(200);
    loop {
        // Longer each time it was given up, so that each step is met by moments of it and comes to its end.
        match tokio::time::timeout(within, world.step()).await {
            Ok(Ok(Step::Nothing)) => break,
            Ok(Ok(_)) => within = Duration::from_micros(200),
            // What was given up may hold a lock for a moment.
            Ok(Err(ArchiveError::Postgres(_))) => within *= 2,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                given_up.count();
                within = within * 5 / 4;
            }
        }
        world.require_whole().await?;
    }
    let archives = list_archives(&world.upkeep).await?;
    assert_eq!(archives.len(), 3);
    for archive in &archives {
        assert_eq!(archive.state, ArchiveState::Dropped, "{archive:?}");
        let digest = archive.digest.as_ref().context("compared")?;
        assert_eq!(digest.events, EVENTS);
        assert_eq!(archive.keyframes, 50);
    }
    let keyframes = "SELECT count(*) FROM sheaf.entity_keyframes";
    let keyframes: i64 = world.admin.query_one(keyframes, &[]).await?.get(0);
    assert_eq!(keyframes, 50, "the newest of each entity");
    let boundaries = fetch_boundaries(&world.upkeep).await?;
    assert_eq!(
        boundaries.archived_before,
        Some(archives[2].partition.upper)
    );
    given_up.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_archive_at_once_do_each_step_once() -> Result<()> {
    let world = World::create().await?;
    let other = Copy {
        admin: world.database.superuser().await?,
        is_wrong: AtomicBool::new(false),
    };
    let pool = Pool::new(&world.database.config("sheaf_upkeep"), 4, &Tls::none());
    let run = async |pool: &Pool, lake: &Copy| -> Result<()> {
        loop {
            match advance(pool, lake, |_| true, Timestamp::now()).await {
                Ok(Step::Nothing) => return Ok(()),
                // The other one was faster, and has the table or has dropped it.
                Ok(_) | Err(ArchiveError::Postgres(_) | ArchiveError::Lake(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    let checked = async {
        for _ in 0..20 {
            world.require_whole().await?;
        }
        anyhow::Ok(())
    };
    let (one, two, checked) =
        futures::join!(run(&world.upkeep, &world.lake), run(&pool, &other), checked);
    one?;
    two?;
    checked?;
    let archives = list_archives(&world.upkeep).await?;
    let states: Vec<ArchiveState> = archives.iter().map(|archive| archive.state).collect();
    assert_eq!(states, [ArchiveState::Dropped; 3]);
    world.require_whole().await
}

#[tokio::test]
async fn a_lake_that_is_not_the_same_stops_the_archive_and_says_why() -> Result<()> {
    let wrong = Injected::new("lake that differs");
    let world = World::create().await?;
    world.lake.is_wrong.store(true, Ordering::Relaxed);
    let error = loop {
        match world.step().await {
            Ok(step) => assert_ne!(step, Step::Nothing),
            Err(error) => break error,
        }
    };
    wrong.count();
    assert!(matches!(error, ArchiveError::Different { .. }), "{error}");
    let archives = list_archives(&world.upkeep).await?;
    assert_eq!(archives[0].state, ArchiveState::Keyframed);
    let (why, _) = archives[0].failure.as_ref().context("it is noted")?;
    assert!(why.contains("a row differs"), "{why}");
    assert_eq!(fetch_boundaries(&world.upkeep).await?.archived_before, None);
    world.require_whole().await?;
    // Once it is right, it goes on.
    world.lake.is_wrong.store(false, Ordering::Relaxed);
    while world.step().await? != Step::Nothing {}
    let archives = list_archives(&world.upkeep).await?;
    assert!(archives.iter().all(|archive| archive.failure.is_none()));
    assert_eq!(archives.len(), 3);
    wrong.require();
    Ok(())
}

#[tokio::test]
async fn what_was_compared_long_ago_is_compared_again_before_it_is_dropped() -> Result<()> {
    let wrong = Injected::new("lake that is damaged after it was verified");
    let world = World::create().await?;
    let state = async || -> Result<ArchiveState> {
        let archives = list_archives(&world.upkeep).await?;
        Ok(archives.first().context("it was begun")?.state)
    };
    world.step().await?;
    while state().await? != ArchiveState::Verified {
        world.step().await?;
    }
    // As where the server was stopped then.
    let before = "UPDATE sheaf.partition_archives SET verified_at = verified_at - interval '1 hour' WHERE state = 'verified'";
    world.admin.batch_execute(before).await?;
    world.lake.is_wrong.store(true, Ordering::Relaxed);
    wrong.count();
    let error = world.step().await.expect_err("the lake differs");
    assert!(matches!(error, ArchiveError::Different { .. }), "{error}");
    assert_eq!(state().await?, ArchiveState::Verified, "it is there");
    world.lake.is_wrong.store(false, Ordering::Relaxed);
    assert_eq!(world.step().await?, Step::Verify);
    assert_eq!(world.step().await?, Step::Drop);
    world.require_whole().await?;
    wrong.require();
    Ok(())
}
