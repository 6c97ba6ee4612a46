//! Replicas that fail: what they cannot answer others do, and they are not asked in vain for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use sheaf_pg::cluster::StopMode;
use sheaf_pg::{Pool, Tls};
use sheaf_query::{ConsistencyLevel, DataSource, SourcePools};
use sheaf_testkit::{Injected, wait_until};
use tokio::net::TcpListener;

use crate::replicated::{Replicated, WITHIN, source};

const EVENTUAL: ConsistencyLevel = ConsistencyLevel::Eventual;

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_under_reads_costs_none_of_them() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let killed = Injected::new("replica killed");
    all.write(3).await?;
    west.wait_caught_up(&all.primary).await?;
    let reads = async {
        let mut answered = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let read = all.read(EVENTUAL, None).await?;
            assert_eq!(read.value, 3);
            match read.freshness.source {
                DataSource::Primary => answered.1 += 1,
                _ => answered.0 += 1,
            }
        }
        anyhow::Ok(answered)
    };
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        west.cluster().stop(StopMode::Immediate).await?;
        killed.count();
        anyhow::Ok(())
    };
    let (answered, stopped) = tokio::join!(reads, kill);
    stopped?;
    let (by_replica, by_primary) = answered?;
    assert!(
        by_replica > 0 && by_primary > 0,
        "{by_replica}, {by_primary}"
    );
    west.cluster().restart().await?;
    all.wait_used("west").await;
    killed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_the_replay_cancels_is_answered_by_another_source() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let conflicts = Injected::new("recovery conflict");
    west.set("max_standby_streaming_delay", Some("0")).await?;
    // Reads of the replica take a while from now on, those of the primary do not.
    all.world
        .superuser
        .batch_execute(
            "CREATE OR REPLACE FUNCTION sheaf.current_tenant() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
             BEGIN
                IF pg_is_in_recovery() THEN PERFORM pg_sleep(3); END IF;
                RETURN nullif(current_setting('sheaf.tenant_id', true), '')::bigint;
             END $$",
        )
        .await?;
    all.write(8).await?;
    west.wait_caught_up(&all.primary).await?;
    let cancelled = async {
        let on_replica = west.superuser(all.world.database.name()).await?;
        wait_until("the replica reads", WITHIN, async || {
            let reading = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            let row = on_replica.query_one(reading, &[]).await;
            row.is_ok_and(|row| row.get::<_, i64>(0) > 0)
        })
        .await;
        // The replay of this lock cannot wait for the read.
        all.world
            .superuser
            .batch_execute("BEGIN; LOCK TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE; COMMIT")
            .await?;
        wait_until("the read is cancelled", WITHIN, async || {
            let sql =
                "SELECT sum(confl_lock + confl_snapshot)::bigint FROM pg_stat_database_conflicts";
            let row = on_replica.query_one(sql, &[]).await;
            row.is_ok_and(|row| row.get::<_, Option<i64>>(0) > Some(0))
        })
        .await;
        conflicts.count();
        anyhow::Ok(())
    };
    let (read, cancelled) = tokio::join!(all.read(EVENTUAL, None), cancelled);
    cancelled?;
    let read = read?;
    assert_eq!(read.value, 8);
    assert_eq!(read.freshness.source, DataSource::Primary);
    let statuses = all.reader.sources().status();
    assert!(
        statuses.iter().all(|status| status.breaker == "closed"),
        "a conflict says nothing against a replica: {statuses:?}"
    );
    conflicts.require();
    Ok(())
}

/// Takes connections and ends them, and counts.
async fn refuse_connections() -> Result<(u16, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok((port, count))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_fails_its_reads_is_asked_five_times_and_then_rarely() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let refused = Injected::new("connection refused");
    // It answers whoever looks at it, and no list.
    let (port, count) = refuse_connections().await?;
    let mut nowhere = tokio_postgres::Config::new();
    nowhere.host("127.0.0.1").port(port).user("sheaf_search");
    let app = all.pools(west.cluster()).app;
    let search = Pool::new(&nowhere, 4, &Tls::none());
    let broken = SourcePools { app, search };
    all.reader.sources().add_replica("west", broken);
    wait_until("it fails", WITHIN, async || {
        let listed = all.list(EVENTUAL).await;
        assert_eq!(listed.expect("the primary answers"), DataSource::Primary);
        count.load(Ordering::Relaxed) >= 5
    })
    .await;
    // Twenty at once, again and again for two seconds: it opened for one second, and then for two.
    let begun = Instant::now();
    let mut lists = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let answers = (0..20).map(|_| {
            let reader = all.reader.clone();
            let scope = all.scope.clone();
            tokio::spawn(
                async move { crate::replicated::list_with(&reader, &scope, EVENTUAL).await },
            )
        });
        for answer in answers.collect::<Vec<_>>() {
            assert_eq!(answer.await??, DataSource::Primary);
            lists += 1;
        }
    }
    let attempts = count.load(Ordering::Relaxed);
    assert!(
        lists > 40 && (5..=8).contains(&attempts),
        "{attempts} of {lists}"
    );
    refused.count();
    // With its lists it is well again after a while.
    let whole = all.pools(west.cluster());
    all.reader.sources().add_replica("west", whole);
    wait_until("it answers lists", WITHIN, async || {
        all.list(EVENTUAL)
            .await
            .is_ok_and(|by| by == source("west"))
    })
    .await;
    refused.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_in_place_of_replicas_leave_the_primary_to_others() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    west.cluster().stop(StopMode::Immediate).await?;
    let lost = Injected::new("replica lost");
    lost.count();
    // Every read of the primary takes a while, and its pool has four connections.
    all.world
        .superuser
        .batch_execute(
            "CREATE OR REPLACE FUNCTION sheaf.current_tenant() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
             BEGIN
                PERFORM pg_sleep(0.2);
                RETURN nullif(current_setting('sheaf.tenant_id', true), '')::bigint;
             END $$",
        )
        .await?;
    let reads = (0..60).map(|_| {
        let (reader, scope) = (all.reader.clone(), all.scope.clone());
        tokio::spawn(async move {
            let read = crate::replicated::read_with(&reader, &scope, EVENTUAL, None).await;
            crate::replicated::code(read)
        })
    });
    let reads: Vec<_> = reads.collect();
    let begun = Instant::now();
    all.read(ConsistencyLevel::Strong, None).await?;
    let strong = begun.elapsed();
    let mut codes = std::collections::BTreeMap::new();
    for read in reads {
        *codes.entry(read.await?).or_insert(0) += 1;
    }
    assert!(
        codes["answered"] > 0 && codes["overloaded"] > 0,
        "{codes:?}"
    );
    assert_eq!(codes["answered"] + codes["overloaded"], 60, "{codes:?}");
    assert!(strong < Duration::from_secs(5), "{strong:?}");
    lost.require();
    Ok(())
}
