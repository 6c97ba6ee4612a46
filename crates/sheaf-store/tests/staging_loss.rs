//! What is lost is said to be lost, whatever took it, and nothing else is.

mod staging_world;
mod world;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use sheaf_model::BatchId;
use sheaf_pg::cluster::Cluster;
use sheaf_store::staging::{Flushed, StageOutcome, StagedState, detect_loss, flush, mark_lost};
use sheaf_testkit::{Injected, ScratchDir, TestCluster, TestDatabase, TestStandby, wait_until};
use tokio_postgres::config::Host;

use staging_world::{Staging, WITHIN, second, wait_for_loss};
use world::World;

#[tokio::test]
async fn a_batch_that_lacks_rows_is_lost_and_never_durable() -> Result<()> {
    let staging = Staging::create().await?;
    let entities = staging.world.entities(&staging.scope, 2).await?;
    let event = staging.event(Some(second(1)), &[(0, "a")]);
    let short = staging
        .stage(&[(entities[0], event.clone()), (entities[1], event.clone())])
        .await?
        .batch;
    let whole = staging.stage(&[(entities[0], event)]).await?.batch;
    let client = staging.world.database.superuser().await?;
    client
        .execute(
            "DELETE FROM sheaf.entity_values_ingest WHERE batch_id = $1 AND ordinal = 1",
            &[&short.0],
        )
        .await?;
    let flushed = flush(&staging.writer, 10).await?;
    assert_eq!((flushed.batches, flushed.events), (1, 1));
    staging.confirm_all().await?;
    assert_eq!(staging.state(short).await?, Some(StagedState::Lost));
    assert_eq!(staging.state(whole).await?, Some(StagedState::Durable));
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_restart_keeps_what_is_staged_and_it_is_flushed_once() -> Result<()> {
    let restarted = Injected::new("clean restart with staged batches");
    let cluster = TestCluster::private_durable().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let flushed = staging
        .stage(&[(entity, staging.event(Some(second(1)), &[(0, "a")]))])
        .await?
        .batch;
    flush(&staging.writer, 10).await?;
    let waiting = staging
        .stage(&[(entity, staging.event(Some(second(2)), &[(0, "b")]))])
        .await?
        .batch;
    cluster.cluster().restart().await?;
    restarted.count();
    wait_until("it answers again", WITHIN, async || {
        detect_loss(&staging.writer).await.is_ok()
    })
    .await;
    let epoch = detect_loss(&staging.writer).await?;
    assert_eq!((epoch.epoch, epoch.batches_lost), (1, 0));
    assert_eq!(staging.state(waiting).await?, Some(StagedState::Staged));
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
    assert_eq!(flush(&staging.writer, 10).await?, Flushed::default());
    staging.confirm_all().await?;
    for batch in [flushed, waiting] {
        assert_eq!(staging.state(batch).await?, Some(StagedState::Durable));
    }
    assert_eq!(
        staging
            .world
            .count("SELECT count(*) FROM sheaf.entity_events")
            .await?,
        2
    );
    restarted.require();
    staging.assert_invariants().await
}

/// Staged batches in every stage of their way, and then every process of PostgreSQL dies: what each batch is said to be
/// is what its rows show, and what was once said to be durable stays.
#[tokio::test]
async fn after_a_backend_is_killed_every_batch_is_what_its_rows_show() -> Result<()> {
    const ROUNDS: i64 = 6;
    let killed = Injected::new("backend killed with staged batches");
    let cluster = TestCluster::private_durable().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let mut journal: BTreeMap<BatchId, Option<StagedState>> = BTreeMap::new();
    let (mut lost, mut durable) = (0, 0);
    for round in 0..ROUNDS {
        let mut staged = Vec::new();
        for place in 0..12 {
            let at = Some(second(round * 100 + place));
            staged.push(
                staging
                    .stage(&[(entity, staging.event(at, &[(0, "a")]))])
                    .await?,
            );
            if place == 3 {
                flush(&staging.writer, 100).await?;
                // In half of the rounds it is confirmed, in the others the kill may come before the disk.
                if round % 2 == 0 {
                    staging.confirm_all().await?;
                }
            }
        }
        for batch in &staged {
            journal.insert(batch.batch, staging.state(batch.batch).await?);
        }
        let victim = staging.world.database.superuser().await?;
        let pid: i32 = victim
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .get(0);
        cluster.kill_backend(pid).await?;
        killed.count();
        wait_until("the connection ends", WITHIN, async || victim.is_closed()).await;
        wait_until("it answers again", WITHIN, async || {
            staging.world.count("SELECT 1::bigint").await.is_ok()
        })
        .await;
        // Before anybody has said so, no batch is said to be there that is not.
        let unsaid = staging.state(staged[11].batch).await?;
        ensure!(
            matches!(unsaid, Some(StagedState::Lost | StagedState::Unknown)),
            "{unsaid:?}"
        );
        let found = wait_for_loss(&staging).await?;
        assert_eq!(found, round + 2, "the epoch after this loss");
        mark_lost(&staging.writer, &staged).await?;
        assert_eq!(flush(&staging.writer, 100).await?, Flushed::default());
        staging.confirm_all().await?;
        for (batch, said) in &journal {
            let sql = format!(
                "SELECT count(*) FROM sheaf.entity_events WHERE batch_id = '{}'",
                batch.0
            );
            let is_stored = staging.world.count(&sql).await? > 0;
            let state = staging.state(*batch).await?;
            let expected = if is_stored {
                StagedState::Durable
            } else {
                StagedState::Lost
            };
            assert_eq!(state, Some(expected), "{batch} in round {round}");
            ensure!(
                is_stored || *said != Some(StagedState::Durable),
                "{batch} was said to be durable"
            );
            lost += i64::from(!is_stored);
            durable += i64::from(is_stored);
        }
    }
    ensure!(lost > 0 && durable > 0, "{lost} lost, {durable} durable");
    killed.require();
    staging.assert_invariants().await
}

#[tokio::test]
async fn a_batch_whose_registration_was_lost_too_is_unknown_and_nothing_can_be_staged_unnoticed()
-> Result<()> {
    let staging = Staging::create().await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let events = [(entity, staging.event(None, &[(0, "a")]))];
    let batch = staging.stage(&events).await?;
    // What a recovery does: the rows, the canary and the last registrations are gone.
    let client = staging.world.database.superuser().await?;
    client
        .batch_execute("TRUNCATE sheaf.entity_values_ingest, sheaf.staging_canary; DELETE FROM sheaf.staged_batches")
        .await?;
    let (_, unnoticed) = staging.world.stage(&staging.scope, None, &events).await?;
    assert_eq!(unnoticed, StageOutcome::LossUnnoticed);
    assert_eq!(detect_loss(&staging.writer).await?.epoch, 2);
    assert_eq!(
        staging.state(batch.batch).await?,
        Some(StagedState::Unknown)
    );
    mark_lost(&staging.writer, std::slice::from_ref(&batch)).await?;
    assert_eq!(staging.state(batch.batch).await?, Some(StagedState::Lost));
    // Staged after the loss, it is none of it.
    let after = staging.stage(&events).await?;
    mark_lost(&staging.writer, std::slice::from_ref(&after)).await?;
    assert_eq!(staging.state(after.batch).await?, Some(StagedState::Staged));
    assert_eq!(flush(&staging.writer, 10).await?.events, 1);
    staging.assert_invariants().await
}

/// What a primary that is lost had acknowledged: what its standby has of it stays, and what was only staged is lost.
#[tokio::test]
async fn a_promoted_standby_has_lost_what_was_staged_says_so_and_goes_on() -> Result<()> {
    let failed_over = Injected::new("failover with staged batches");
    let cluster = TestCluster::private_durable().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let standby = TestStandby::follow(&cluster, "second").await?;
    let event = |place| [(entity, staging.event(Some(second(place)), &[(0, "a")]))];
    let confirmed = staging.stage(&event(1)).await?.batch;
    flush(&staging.writer, 10).await?;
    staging.confirm_all().await?;
    let flushed = staging.stage(&event(2)).await?.batch;
    flush(&staging.writer, 10).await?;
    let mut waiting = Vec::new();
    for place in 3..20 {
        waiting.push(staging.stage(&event(place)).await?);
    }
    let registered = "SELECT count(*) FROM sheaf.staged_batches WHERE status = 'staged'";
    let follower = standby.superuser(staging.world.database.name()).await?;
    wait_until("the standby has the registrations", WITHIN, async || {
        let row = follower.query_one(registered, &[]).await;
        row.is_ok_and(|row| row.get::<_, i64>(0) == 17)
    })
    .await;
    cluster.cluster().kill9().await?;
    standby.promote().await?;
    // Whoever asks for the primary is led to the standby.
    let socket = |of: &Cluster| of.socket_dir().join(format!(".s.PGSQL.{}", of.port()));
    std::fs::remove_file(socket(cluster.cluster()))?;
    std::os::unix::fs::symlink(socket(standby.cluster()), socket(cluster.cluster()))?;
    failed_over.count();
    wait_until("it answers again", WITHIN, async || {
        staging.world.count("SELECT 1::bigint").await.is_ok()
    })
    .await;
    let unsaid = staging.state(waiting[0].batch).await?;
    assert_eq!(unsaid, Some(StagedState::Lost), "before anybody says so");
    let (_, unnoticed) = staging
        .world
        .stage(&staging.scope, None, &event(30))
        .await?;
    assert_eq!(unnoticed, StageOutcome::LossUnnoticed);
    wait_until("the loss is found", WITHIN, async || {
        detect_loss(&staging.writer).await.is_ok()
    })
    .await;
    assert_eq!(detect_loss(&staging.writer).await?.epoch, 2);
    let after = staging.stage(&event(40)).await?.batch;
    assert_eq!(flush(&staging.writer, 100).await?.events, 1);
    assert_eq!(staging.state(after).await?, Some(StagedState::Staged));
    staging.confirm_all().await?;
    for batch in [confirmed, flushed, after] {
        assert_eq!(staging.state(batch).await?, Some(StagedState::Durable));
    }
    for batch in &waiting {
        let state = staging.state(batch.batch).await?;
        assert_eq!(state, Some(StagedState::Lost));
    }
    let events = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(staging.world.count(events).await?, 3);
    failed_over.require();
    staging.assert_invariants().await
}

/// A database as a dump, in another cluster.
async fn restored(of: &TestDatabase) -> Result<TestDatabase> {
    // The roles are the cluster's.
    TestDatabase::create().await?;
    let restored = TestDatabase::create_empty().await?;
    let arguments = |config: &tokio_postgres::Config| -> Result<Vec<String>> {
        let Some(Host::Unix(directory)) = config.get_hosts().first() else {
            anyhow::bail!("the cluster of tests listens on a socket");
        };
        let port = config.get_ports().first().context("a port")?;
        let user = config.get_user().context("a user")?;
        let name = config.get_dbname().context("a database")?;
        let directory = directory.display();
        let ways = [
            ("--host", directory.to_string()),
            ("--port", port.to_string()),
            ("--username", user.to_owned()),
            ("--dbname", name.to_owned()),
        ];
        let ways = ways.into_iter();
        Ok(ways
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect())
    };
    let dump = ScratchDir::new("dump")?;
    let file = dump.path().join("dump.sql");
    for (program, database, extra) in [
        ("pg_dump", of, vec!["--schema", "sheaf", "--file"]),
        (
            "psql",
            &restored,
            vec!["-qX", "-v", "ON_ERROR_STOP=1", "--file"],
        ),
    ] {
        let config = database.superuser_config();
        let mut command = tokio::process::Command::new(program);
        if let Some(password) = config.get_password() {
            command.env("PGPASSWORD", String::from_utf8_lossy(password).as_ref());
        }
        let command = command.args(arguments(&config)?).args(extra).arg(&file);
        let output = command.output().await.context(program)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program}: {said}");
    }
    Ok(restored)
}

#[tokio::test]
async fn in_another_cluster_a_dump_has_lost_what_was_staged_and_keeps_what_was_flushed()
-> Result<()> {
    let moved = Injected::new("dump with staged batches in another cluster");
    let cluster = TestCluster::private().await?;
    let staging = Staging::of(World::of(TestDatabase::create_in(&cluster).await?)?).await?;
    let entity = staging.world.entities(&staging.scope, 1).await?[0];
    let event = |place| [(entity, staging.event(Some(second(place)), &[(0, "a")]))];
    let confirmed = staging.stage(&event(1)).await?.batch;
    flush(&staging.writer, 10).await?;
    staging.confirm_all().await?;
    let flushed = staging.stage(&event(2)).await?.batch;
    flush(&staging.writer, 10).await?;
    let waiting = staging.stage(&event(3)).await?.batch;
    let world = World::of(restored(&staging.world.database).await?)?;
    moved.count();
    let there = Staging {
        writer: world.pool("sheaf_writer", 4),
        world,
        ..staging
    };
    let said = async |batch| there.state(batch).await;
    for round in ["before anybody says so", "afterwards"] {
        assert_eq!(
            said(confirmed).await?,
            Some(StagedState::Durable),
            "{round}"
        );
        assert_eq!(said(flushed).await?, Some(StagedState::Durable), "{round}");
        assert_eq!(said(waiting).await?, Some(StagedState::Lost), "{round}");
        detect_loss(&there.writer).await?;
    }
    assert_eq!(detect_loss(&there.writer).await?.epoch, 2);
    let after = there
        .stage(&[(entity, there.event(Some(second(4)), &[(0, "a")]))])
        .await?
        .batch;
    assert_eq!(flush(&there.writer, 100).await?.events, 1);
    assert_eq!(said(after).await?, Some(StagedState::Staged));
    there.confirm_all().await?;
    assert_eq!(said(after).await?, Some(StagedState::Durable));
    assert_eq!(said(waiting).await?, Some(StagedState::Lost));
    let events = "SELECT count(*) FROM sheaf.entity_events";
    assert_eq!(there.world.count(events).await?, 3);
    moved.require();
    there.assert_invariants().await
}
