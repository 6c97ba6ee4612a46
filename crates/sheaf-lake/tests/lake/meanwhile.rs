//! Both sides compared while something happens to them: nothing is told that is not so, and nothing is put right that is gone.

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_lake::reconcile::{NotCompared, Outcome, ReconcileOptions, Reconciler};
use sheaf_model::Timestamp;
use sheaf_store::reconcile::{LakeRepair, read_moment};
use sheaf_testkit::{Injected, TestCluster, wait_until};

use crate::reconciling::{
    ATTRIBUTES, Partition27, ask, events_of, lines, options, plant, reconciler, repairing,
    require_clean, settle,
};
use crate::streamed::{Source, WITHIN, line};

const WRITE_BY_HAND: &str = "INSERT INTO sheaf.entity_events
    SELECT tenant_id, entity_id, observed_at + interval '1 microsecond', seq, op, batch_id, ingested_at, attrs
    FROM sheaf.entity_events ORDER BY observed_at LIMIT 1";
const HOURS_THAT_DIFFER: &str = "SELECT count(*) FROM sheaf.reconciled_hours WHERE differs";

async fn count(source: &Source, sql: &str) -> Result<i64> {
    let client = source.world.database.superuser().await?;
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_out_of_the_lake_of_a_period_that_goes_away_meanwhile() -> Result<()> {
    let injected = Injected::new("partition detached while both sides are compared");
    let source = Source::create().await?;
    source.ingest(lines(0, 60)).await?;
    let running = source.stream()?;
    let reconciler = reconciler(&source)?;
    settle(&reconciler).await?;
    let client = source.world.database.superuser().await?;
    let events = events_of(&source, source.scope.tenant().0, "t3").await?;
    let others = events_of(&source, source.scope.tenant().0, "t6").await?;
    let facts = async || anyhow::Ok(source.world.rows("sheaf", "facts").await?.len());
    assert_eq!(facts().await?, 600);
    // One that came after it was found not to be there is not taken out.
    let base = source.world.standing("sheaf").await?.position.base;
    let removal = LakeRepair {
        key: events[0].key,
        event: None,
        base: base.context("it has begun")?,
        asked_at: Timestamp::now(),
    };
    ask(&source, vec![removal.clone()]).await?;
    assert_eq!(facts().await?, 600, "the event is there");
    plant(&source, vec![(events[0].key, None)]).await?;
    assert_eq!(facts().await?, 590, "asked for otherwise it is taken out");
    // Its hour differs now, and is looked into once the lake has come as far.
    running.stop.send_replace(true);
    running.task.await?;
    source.ingest(vec![line(500, 1, ATTRIBUTES)]).await?;
    let comparing = tokio::spawn(async move { reconciler.run(&repairing()).await });
    wait_until("both sides are counted", WITHIN, async || {
        count(&source, HOURS_THAT_DIFFER)
            .await
            .is_ok_and(|count| count > 0)
    })
    .await;
    let partition = Partition27::find(&client).await?;
    partition.detach(&source).await?;
    assert!(!comparing.is_finished(), "the lake is waited for");
    injected.count();
    let running = source.stream()?;
    let report = comparing.await??;
    let wanted = Outcome::NotCompared(NotCompared::Detached);
    assert_eq!(report.outcome, wanted, "{report:?}");
    assert_eq!(report.repaired, None);
    // Nor is it, where it was asked for before that.
    let removal = LakeRepair {
        key: others[0].key,
        ..removal
    };
    let before = facts().await?;
    ask(&source, vec![removal]).await?;
    assert_eq!(facts().await?, before);
    running.stop.send_replace(true);
    running.task.await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_at_a_moment_are_transactions_that_have_ended_with_all_their_parts()
-> Result<()> {
    let injected = Injected::new("subtransaction that ended in a transaction that goes on");
    let source = Source::create().await?;
    source.ingest(lines(0, 3)).await?;
    let mut client = source.world.database.superuser().await?;
    let mut writing = client.transaction().await?;
    let part = writing.savepoint("part").await?;
    part.batch_execute(WRITE_BY_HAND).await?;
    part.commit().await?;
    injected.count();
    // Numbers of transactions pass that of the part, which a snapshot takes for one that has ended.
    source.ingest(lines(3, 1)).await?;
    let cdc = source.world.cdc();
    let at_once = read_moment(&cdc, Duration::ZERO).await?;
    assert!(!at_once.snapshot.ends_with(':'), "{}", at_once.snapshot);
    let waiting = tokio::spawn(async move { read_moment(&cdc, WITHIN).await });
    let looked = read_moment(&source.world.cdc(), Duration::ZERO).await?;
    assert!(!waiting.is_finished(), "{looked:?}");
    writing.commit().await?;
    let moment = waiting.await??;
    let bounds: Vec<&str> = moment.snapshot.split(':').collect();
    assert_eq!((bounds[0], bounds[2]), (bounds[1], ""), "{moment:?}");
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_log_and_seen_by_nobody_yet_is_not_told_to_be_extra() -> Result<()> {
    let injected = Injected::new("commit that waits for a standby");
    let cluster = TestCluster::private().await?;
    let source = Source::create_in(&cluster).await?;
    // Of all, the write by hand alone waits for standbys.
    let name = source.world.database.name();
    source
        .execute(&format!(
            "ALTER DATABASE {name} SET synchronous_commit = local"
        ))
        .await?;
    source.ingest(lines(0, 30)).await?;
    let running = source.stream()?;
    let patient = reconciler(&source)?;
    settle(&patient).await?;
    let impatient = ReconcileOptions {
        wait_max: Duration::from_secs(10),
        ..options(&source)
    };
    let impatient = Reconciler::new(&source.world.cdc(), impatient)?;
    cluster.set("synchronous_standby_names", "absent").await?;
    let client = source.world.database.superuser().await?;
    client.batch_execute("SET synchronous_commit = on").await?;
    let waits = tokio::spawn(async move { client.batch_execute(WRITE_BY_HAND).await });
    wait_until("the lake has it", WITHIN, async || {
        let facts = source.world.rows("sheaf", "facts").await;
        facts.is_ok_and(|facts| facts.len() == 310)
    })
    .await;
    assert!(!waits.is_finished(), "nobody sees it yet");
    injected.count();
    let report = impatient.run(&repairing()).await?;
    let wanted = Outcome::NotCompared(NotCompared::Running);
    assert_eq!(report.outcome, wanted, "{report:?}");
    assert_eq!(report.repaired, None);
    cluster.set("synchronous_standby_names", "").await?;
    waits.await??;
    require_clean(&patient, "it is seen").await?;
    running.stop.send_replace(true);
    running.task.await?;
    injected.require();
    Ok(())
}
