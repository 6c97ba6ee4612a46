//! What `sheaf doctor` says of what is followed, and of every harm that is done to it.

use anyhow::Result;
use sheaf_testkit::{Injected, TestCluster, wait_until};

use crate::support::{Configured, FOLLOWING, WITHIN, database_in};

#[tokio::test]
async fn doctor_tells_what_is_wrong_with_what_is_followed() -> Result<()> {
    let cluster = TestCluster::private().await?;
    let database = database_in(&cluster).await?;
    let superuser = database.superuser().await?;
    let configured = Configured::new("doctor", &database)?;
    configured.write("")?;
    configured.require_doctor("changes", "ok", "nobody follows")?;
    configured.write_following("")?;
    configured.require_doctor("change slot", "warn", "made by whoever follows first")?;
    configured.require_doctor("change publication", "ok", "none yet")?;

    let harmed = Injected::new("harm to what is followed");
    let (mut process, _) = configured.serve().await?;
    configured.wait_for_metric(FOLLOWING).await;
    wait_until("the sink streams", WITHIN, async || {
        let found = configured.doctor("change sink file").expect("it is there");
        found.0 == "ok" && !found.1.contains("snapshot")
    })
    .await;
    for (name, part) in [
        ("sheaf_cdc", "connects"),
        ("change publication", "tables and options"),
        ("change slot", "sheaf_changes is followed"),
        ("change log", "MB of log, of 16384 MB at most"),
        ("change slots", "no other slot"),
    ] {
        configured.require_doctor(name, "ok", part)?;
    }
    let ended = configured.sheaf(&["doctor"])?;
    assert!(ended.status.success(), "{ended:?}");

    assert!(process.sigterm(WITHIN).await?.success());
    configured.require_doctor("change slot", "warn", "nobody follows it")?;
    for (alter, told) in [
        (
            "ALTER PUBLICATION sheaf_events DROP TABLE sheaf.entity_events",
            "sheaf.entity_events is not published",
        ),
        (
            "ALTER PUBLICATION sheaf_events ADD TABLE sheaf.rejections",
            "sheaf.rejections is published",
        ),
        (
            "ALTER PUBLICATION sheaf_events SET (publish = 'insert, update, delete')",
            "deletes are published",
        ),
        (
            "ALTER PUBLICATION sheaf_events SET (publish = 'insert')",
            "updates are not published",
        ),
        (
            "ALTER PUBLICATION sheaf_events SET (publish_via_partition_root = false)",
            "partitions are published by themselves",
        ),
        (
            "ALTER PUBLICATION sheaf_events SET TABLE sheaf.attributes (tenant_id, attribute_id), sheaf.entities,
                sheaf.entity_events, sheaf.replication_heartbeat, sheaf.tenants",
            "sheaf.attributes is published in part",
        ),
        (
            "ALTER PUBLICATION sheaf_events ADD TABLES IN SCHEMA public",
            "schema public is published",
        ),
        ("DROP PUBLICATION sheaf_events", "it is missing"),
    ] {
        superuser.batch_execute(alter).await?;
        harmed.count();
        configured.require_doctor("change publication", "fail", told)?;
        let ended = configured.sheaf(&["doctor"])?;
        assert!(!ended.status.success(), "{ended:?}");
        // What is told is what whoever follows would mend.
        let mended = superuser
            .query_one("SELECT sheaf.ensure_change_publication()", &[])
            .await?;
        assert_ne!(mended.get::<_, &str>(0), "unchanged", "{alter}");
        configured.require_doctor("change publication", "ok", "tables and options")?;
    }
    // The slot is not remembered since it lacks what was not published; nor is one that has another name.
    configured.require_doctor("change slot", "fail", "every sink begins anew")?;
    let other = "SELECT pg_create_logical_replication_slot('other', 'pgoutput')";
    superuser.batch_execute(other).await?;
    configured.require_doctor("change slots", "warn", "other is of this database")?;
    superuser
        .batch_execute("SELECT pg_drop_replication_slot('other')")
        .await?;

    // Made anew, and dropped.
    let (mut process, _) = configured.serve().await?;
    configured.wait_for_metric(FOLLOWING).await;
    configured.require_doctor("change slot", "ok", "is followed")?;
    assert!(process.sigterm(WITHIN).await?.success());
    superuser
        .batch_execute("SELECT pg_drop_replication_slot('sheaf_changes')")
        .await?;
    harmed.count();
    configured.require_doctor("change slot", "fail", "it was dropped")?;

    // Log that is held back, of what the server lets slots hold.
    let (mut process, _) = configured.serve().await?;
    configured.wait_for_metric(FOLLOWING).await;
    assert!(process.sigterm(WITHIN).await?.success());
    cluster.set("max_slot_wal_keep_size", "64MB").await?;
    for (megabytes, status) in [(20, "warn"), (40, "fail")] {
        let noise = format!(
            "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000)) FROM generate_series(1, {megabytes})"
        );
        superuser.batch_execute(&noise).await?;
        // What is only in memory yet is not held back.
        superuser.batch_execute("SELECT pg_switch_wal()").await?;
        harmed.count();
        configured.require_doctor("change log", status, "of 48 MB at most")?;
    }
    harmed.require();
    Ok(())
}
