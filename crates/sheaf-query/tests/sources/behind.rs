//! Replicas that are behind, also those that do not know it.

use std::time::{Duration, Instant};

use anyhow::Result;
use sheaf_query::{ConsistencyLevel, DataSource, Lag};
use sheaf_testkit::{Injected, wait_until};

use crate::replicated::{Replicated, WITHIN, source};

const ANALYTICS: ConsistencyLevel = ConsistencyLevel::Analytics;
const EVENTUAL: ConsistencyLevel = ConsistencyLevel::Eventual;

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_how_far_it_is_behind_and_unknown_once_the_heart_has_stopped() -> Result<()>
{
    let mut all = Replicated::new().await?;
    let replica = all.replica("west").await?;
    let delayed = Injected::new("replay two seconds late");
    replica.set("recovery_min_apply_delay", Some("2s")).await?;
    let told = async || {
        let read = all.read(ANALYTICS, None).await.ok()?;
        match (read.freshness.source, read.freshness.lag) {
            (DataSource::Replica(_), Lag::Measured(lag)) => Some(lag),
            _ => None,
        }
    };
    let two = Duration::from_secs(2);
    wait_until("it is two seconds behind", WITHIN, async || {
        told().await.is_some_and(|lag| lag >= two)
    })
    .await;
    delayed.count();
    // Told within 0.3 s, where this machine lets it be measured.
    wait_until("it says so", WITHIN, async || {
        let lag = told().await;
        lag.is_some_and(|lag| lag.abs_diff(two) < Duration::from_millis(300))
    })
    .await;
    // What an answer holds is never older than it says.
    for number in 1..=30 {
        let written_at = Instant::now();
        let token = all.write(number).await?;
        let read = all.read(EVENTUAL, None).await?;
        if read.value < number && number > 1 {
            let since = written_at.elapsed();
            assert_ne!(read.freshness.source, DataSource::Primary);
            assert!(matches!(read.freshness.lag, Lag::Measured(_)), "{since:?}");
            assert!(read.freshness.position.lsn < token.lsn);
        }
    }
    delayed.require();

    replica.set("recovery_min_apply_delay", None).await?;
    all.wait_used("west").await;
    let stopped = Injected::new("heart stopped");
    all.stop_heart();
    stopped.count();
    wait_until("no lag is known any more", WITHIN, async || {
        let read = all.read(EVENTUAL, None).await;
        read.is_ok_and(|read| read.freshness.source == DataSource::Primary)
    })
    .await;
    let read = all.read(ANALYTICS, None).await?;
    assert_eq!(
        read.freshness.source,
        DataSource::Primary,
        "however large the bound"
    );
    let token = all.write(100).await?;
    replica.wait_caught_up(&all.primary).await?;
    wait_until("a token is enough", WITHIN, async || {
        let read = all.read(ConsistencyLevel::Session, Some(token)).await;
        let read = read.expect("the primary has it");
        assert_eq!(read.value, 100);
        read.freshness.source == source("west") && read.freshness.lag == Lag::Unknown
    })
    .await;
    stopped.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_receives_nothing_is_left_although_it_has_replayed_all_it_got() -> Result<()>
{
    let all = Replicated::new().await?;
    let replica = all.replica("west").await?;
    let cut = Injected::new("link cut");
    replica.cut_link().await?;
    let cut_at = Instant::now();
    cut.count();
    all.write(5).await?;
    let written_at = Instant::now();
    let mut is_left = false;
    while !is_left {
        let asked_at = Instant::now();
        let read = all.read(EVENTUAL, None).await?;
        is_left = read.freshness.source == DataSource::Primary;
        if read.value == 5 {
            continue;
        }
        assert_eq!(read.freshness.source, source("west"));
        let stale = asked_at.duration_since(written_at);
        assert!(
            stale < Duration::from_secs(3),
            "older than eventual: {stale:?}"
        );
        let Lag::Measured(lag) = read.freshness.lag else {
            panic!("the heart beats");
        };
        assert!(
            lag >= stale,
            "{stale:?} and more behind, and it says {lag:?}"
        );
    }
    assert!(
        cut_at.elapsed() < Duration::from_secs(4),
        "{:?}",
        cut_at.elapsed()
    );
    for _ in 0..20 {
        assert_eq!(all.read(EVENTUAL, None).await?.value, 5);
    }
    replica.mend_link(&all.primary).await?;
    all.wait_used("west").await;
    assert_eq!(all.read(EVENTUAL, None).await?.value, 5);
    cut.require();
    Ok(())
}
