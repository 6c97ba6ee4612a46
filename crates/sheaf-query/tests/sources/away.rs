//! A primary that is away: its replicas answer what they may for as long as their age allows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sheaf_pg::Disposition;
use sheaf_pg::cluster::StopMode;
use sheaf_query::filter::parse_text;
use sheaf_query::{ConsistencyLevel, Lag, ReadOptions};
use sheaf_store::keys::{ApiKey, KeyScope, insert_key};
use sheaf_testkit::{Injected, wait_until};

use crate::replicated::{Replicated, WITHIN, code, list_as, options, page, read_as, source};
use crate::world::now;

const EVENTUAL: ConsistencyLevel = ConsistencyLevel::Eventual;
/// How old answers get while this is looked at: a replica that had nothing new for a second stood still once.
const AGE: Duration = Duration::from_secs(10);

fn within(lag: &str) -> ReadOptions {
    let mut options = options(EVENTUAL, None);
    options.max_lag = Some(lag.parse().expect("a span"));
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_answer_without_the_primary_until_they_are_too_old() -> Result<()> {
    let all = Replicated::new().await?;
    // Of this one nothing is remembered when the primary goes.
    let other = all.world.tenant("other").await?;
    let key = ApiKey::generate();
    insert_key(
        &all.world.app,
        &all.scope,
        &key,
        &[KeyScope::Read],
        now(),
        None,
    )
    .await?;
    let west = all.replica("west").await?;
    let token = all.write(7).await?;
    west.wait_caught_up(&all.primary).await?;
    wait_until("the replica has the token", WITHIN, async || {
        let read = all.read(ConsistencyLevel::Session, Some(token)).await;
        read.is_ok_and(|read| read.freshness.source == source("west"))
    })
    .await;

    let stopped = Injected::new("primary stopped");
    all.primary.cluster().stop(StopMode::Immediate).await?;
    stopped.count();
    let stopped_at = Instant::now();
    let (mut reads, mut oldest) = (0, Duration::ZERO);
    while oldest < AGE {
        let asked_at = Instant::now();
        let read = read_as(&all.reader, &all.scope, &within("1h")).await?;
        assert_eq!(read.freshness.source, source("west"));
        assert_eq!(read.value, 7);
        let Lag::Measured(lag) = read.freshness.lag else {
            panic!("its last beat against the clock says it");
        };
        // No less than for how long the primary has been away.
        assert!(lag >= asked_at.duration_since(stopped_at), "{lag:?}");
        let took = asked_at.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        oldest = lag;
        reads += 1;
        let listed = list_as(&all.reader, &all.scope, &within("1h")).await?;
        assert_eq!(listed, source("west"));
    }
    assert!(reads > 10, "{reads}");
    // A name that no catalogue has is asked for anew, and so is the catalogue of a tenant that was not read before.
    let mut named = page(10, None);
    named.filter = Some(parse_text("nothing = 1")?);
    let listed = all.reader.list(&all.scope, &named, &within("1h")).await;
    assert_eq!(code(listed), "unknown_attribute");
    named.filter = Some(parse_text("hot_int = 1")?);
    let listed = all.reader.list(&other.scope, &named, &within("1h")).await?;
    assert_eq!(listed.freshness.source, source("west"));
    assert!(listed.value.page.items.is_empty());

    let session = options(ConsistencyLevel::Session, Some(token));
    let read = read_as(&all.reader, &all.scope, &session).await?;
    assert_eq!(read.freshness.source, source("west"));
    for (asked, expected) in [
        (within("3s"), "lag_exceeded"),
        (options(EVENTUAL, None), "lag_exceeded"),
        (
            options(ConsistencyLevel::Strong, None),
            "database_unavailable",
        ),
        (
            options(ConsistencyLevel::Session, None),
            "database_unavailable",
        ),
    ] {
        let read = read_as(&all.reader, &all.scope, &asked).await;
        assert_eq!(code(read), expected, "{asked:?}");
    }

    // Keys are believed of a replica for twenty seconds, and of none that is older.
    let sources = all.reader.sources();
    let found = sources.fetch_key(key.id()).await?.context("the key")?;
    assert!(found.admits(&key, now()));
    // One that no replica has may be newer than what they have: nobody is told that it is none.
    let unknown = sources.fetch_key(ApiKey::generate().id()).await;
    let unknown = unknown.err().context("it may be a key")?;
    assert_eq!(unknown.disposition(), Disposition::Unavailable);
    wait_until("no replica is near enough for keys", WITHIN, async || {
        sources.fetch_key(key.id()).await.is_err()
    })
    .await;
    let for_keys = stopped_at.elapsed();
    assert!(for_keys > Duration::from_secs(15), "{for_keys:?}");
    let read = read_as(&all.reader, &all.scope, &within("1h")).await?;
    assert_eq!(read.freshness.source, source("west"));

    all.primary.cluster().restart().await?;
    wait_until("the primary is back", WITHIN, async || {
        all.read(ConsistencyLevel::Strong, None).await.is_ok()
            && sources.fetch_key(key.id()).await.is_ok()
    })
    .await;
    all.wait_used("west").await;
    stopped.require();
    Ok(())
}
