//! The heartbeat: as often from many servers as from one, and whatever the clock does.

use std::time::{Duration, Instant};

use anyhow::Result;
use sheaf_pg::{Pool, Tls};
use sheaf_store::heartbeat::{beat, look};
use sheaf_testkit::{TestDatabase, wait_until};
use sheaf_upkeep::{BEAT_EVERY, keep_beating};
use tokio::sync::watch;
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(60);

fn upkeep(database: &TestDatabase) -> Pool {
    Pool::new(&database.config("sheaf_upkeep"), 1, &Tls::none())
}

#[tokio::test]
async fn several_servers_beat_as_often_as_one_and_no_index_grows_by_it() -> Result<()> {
    let database = TestDatabase::create().await?;
    let (stop, stopped) = watch::channel(false);
    let begun = Instant::now();
    let mut hearts = JoinSet::new();
    for _ in 0..4 {
        hearts.spawn(keep_beating(upkeep(&database), stopped.clone()));
    }
    let client = database.superuser().await?;
    let counts = async || {
        let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'replication_heartbeat'";
        let row = client.query_one(sql, &[]).await.expect("the counts");
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    wait_until("there were a dozen beats", WITHIN, async || {
        counts().await.0 >= 12
    })
    .await;
    let beats = u32::try_from(counts().await.0)?;
    let elapsed = begun.elapsed();
    stop.send_replace(true);
    while hearts.join_next().await.is_some() {}
    // One at the start and then one each beat; a tick may come a little before its time.
    let most = 1 + elapsed.as_millis() / (BEAT_EVERY.as_millis() * 4 / 5);
    assert!(u128::from(beats) <= most, "{beats} beats in {elapsed:?}");
    let (all, hot) = counts().await;
    assert_eq!(all, hot, "no beat touches an index");
    Ok(())
}

#[tokio::test]
async fn a_beat_tells_the_primarys_clock_and_timeline_and_the_future_stops_no_heart() -> Result<()>
{
    let database = TestDatabase::create().await?;
    let upkeep = upkeep(&database);
    let reader = database.client("sheaf_app").await?;
    assert_eq!(look(&reader).await?.beat, None, "nobody has beaten so far");
    let hour = Duration::from_secs(3_600);
    beat(&upkeep, hour).await?;
    let seen = look(&reader).await?;
    let first = seen.beat.expect("one has beaten");
    assert_eq!(first.timeline, 1);
    assert!(first.at <= seen.clock);
    beat(&upkeep, hour).await?;
    assert_eq!(
        look(&reader).await?.beat,
        Some(first),
        "a moment ago is enough"
    );
    let superuser = database.superuser().await?;
    for change in ["beat_at = beat_at + interval '1 year'", "timeline = 7"] {
        let sql = format!("UPDATE sheaf.replication_heartbeat SET {change}");
        superuser.batch_execute(&sql).await?;
        beat(&upkeep, hour).await?;
        let seen = look(&reader).await?;
        let beat = seen.beat.expect("it beats on");
        assert_eq!(beat.timeline, 1, "{change}");
        assert!(first.at < beat.at && beat.at <= seen.clock, "{change}");
    }
    Ok(())
}
