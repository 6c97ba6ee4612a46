//! A slot whose log was removed: the lake begins anew, and is compared to the end.

use anyhow::{Context, Result};
use sheaf_lake::reconcile::{Outcome, ReconcileOptions, ReconcileRequest, Reconciler};
use sheaf_testkit::{Injected, TestCluster, wait_until};

use crate::streamed::{Source, WITHIN, line};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_slot_was_lost_the_lake_is_compared_and_equal() -> Result<()> {
    let lost = Injected::new("slot lost by the limit on what is held back");
    let cluster = TestCluster::private().await?;
    let source = Source::create_in(&cluster).await?;
    let lines = |first: usize| {
        let lines = (first..first + 60).map(|n| line(n, n, r#"{"a":1,"b":"x","c":2.5}"#));
        lines.collect::<Vec<_>>()
    };
    source.ingest(lines(0)).await?;
    let running = source.stream()?;
    source.require_all_once().await?;
    running.stop.send_replace(true);
    running.task.await?;
    let before = source.world.standing("sheaf").await?.position.base;
    // Nobody follows: new ones, and corrections of what the lake has.
    source.ingest(lines(60)).await?;
    let corrected = (0..20).map(|n| line(n, n, r#"{"a":7}"#));
    source.ingest(corrected.collect()).await?;
    cluster.set("max_slot_wal_keep_size", "2MB").await?;
    let client = source.world.database.superuser().await?;
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
    wait_until("the slot is lost", WITHIN, async || {
        for statement in [
            "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000))",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            source.execute(statement).await.expect("it can be written");
        }
        let row = client.query_one(status, &[&source.slot()]).await;
        row.is_ok_and(|row| row.get::<_, Option<String>>(0).as_deref() == Some("lost"))
    })
    .await;
    lost.count();
    cluster.set("max_slot_wal_keep_size", "-1").await?;
    let mut running = source.stream()?;
    let made = running.status.wait_for(|status| status.slots_made == 1);
    tokio::time::timeout(WITHIN, made).await??;
    source.ingest(lines(120)).await?;
    source.require_all_once().await?;
    let after = source.world.standing("sheaf").await?.position.base;
    assert!(after.context("it has begun")? > before.context("it had begun")?);
    let options = ReconcileOptions {
        settled_after: std::time::Duration::ZERO,
        wait_max: WITHIN,
        ..ReconcileOptions::of(&source.quick(), source.slot())
    };
    let reconciler = Reconciler::new(&source.world.cdc(), options)?;
    let whole = ReconcileRequest {
        reads_whole: true,
        ..ReconcileRequest::default()
    };
    wait_until("both sides are compared", WITHIN, async || {
        let report = reconciler.run(&whole).await.expect("both can be read");
        assert_ne!(report.outcome, Outcome::Different, "{report:?}");
        report.outcome == Outcome::Clean
    })
    .await;
    running.stop.send_replace(true);
    running.task.await?;
    lost.require();
    Ok(())
}
