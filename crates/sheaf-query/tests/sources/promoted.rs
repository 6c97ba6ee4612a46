//! A failover that the reader was not told of.

use std::time::Duration;

use anyhow::Result;
use sheaf_model::{Lsn, Position};
use sheaf_query::{ConsistencyLevel, DataSource};
use sheaf_testkit::{Injected, wait_until};

use crate::replicated::{Replicated, WITHIN, code, read_with};

const STRONG: ConsistencyLevel = ConsistencyLevel::Strong;
const SESSION: ConsistencyLevel = ConsistencyLevel::Session;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_promotion_the_old_primary_answers_nothing_and_old_tokens_are_refused() -> Result<()>
{
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let promoted = Injected::new("replica promoted");
    // These the replica never gets, and the new history lacks them.
    west.cut_link().await?;
    let lost = all.write(99).await?;
    let waiting = {
        let (reader, scope) = (all.reader.clone(), all.scope.clone());
        let far = Position {
            lsn: Lsn(lost.lsn.0 + (1 << 40)),
            ..lost
        };
        tokio::spawn(async move { read_with(&reader, &scope, SESSION, Some(far)).await })
    };
    west.promote().await?;
    promoted.count();
    let waited = waiting.await?;
    assert!(
        [
            "token_not_reached",
            "stale_timeline",
            "database_unavailable"
        ]
        .contains(&code(waited)),
        "a promoted replica has not reached the token"
    );
    wait_until("the promotion is seen", WITHIN, async || {
        code(all.read(STRONG, None).await) == "database_unavailable"
    })
    .await;
    for level in ConsistencyLevel::ALL {
        let refused = code(all.read(level, Some(lost)).await);
        assert_eq!(refused, "stale_timeline", "{level:?}");
        let refused = code(all.read(level, None).await);
        assert_eq!(refused, "database_unavailable", "{level:?}");
    }

    // A server that begins now, over the new primary: tokens of the old history are none of its.
    let reader = all.another_reader(west.cluster()).await?;
    let read = read_with(&reader, &all.scope, STRONG, None).await?;
    assert_ne!(read.value, 99, "what was lost is not there");
    assert_eq!(read.freshness.source, DataSource::Primary);
    assert_eq!(read.freshness.position.timeline, lost.timeline + 1);
    for level in ConsistencyLevel::ALL {
        let refused = read_with(&reader, &all.scope, level, Some(lost)).await;
        assert_eq!(code(refused), "stale_timeline", "{level:?}");
    }
    // The old primary, taken for a replica of the new one, is none.
    let old = all.pools(all.primary.cluster());
    reader.sources().add_replica("old", old);
    let mut looks = 0;
    wait_until("it was looked at", Duration::from_secs(30), async || {
        looks += 1;
        let status = reader.sources().status();
        looks > 20 && status.iter().any(|status| !status.is_up)
    })
    .await;
    for level in [ConsistencyLevel::Eventual, ConsistencyLevel::Analytics] {
        let read = read_with(&reader, &all.scope, level, None).await?;
        assert_eq!(read.freshness.source, DataSource::Primary);
        assert_ne!(read.value, 99);
    }
    promoted.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_comes_back_is_known_by_its_promoted_replica() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let came_back = Injected::new("old primary came back");
    west.promote().await?;
    // A server that begins now and was left with the old address.
    let reader = all.another_reader(all.primary.cluster()).await?;
    let pools = all.pools(west.cluster());
    reader.sources().add_replica("west", pools);
    came_back.count();
    wait_until("the old primary is refused", WITHIN, async || {
        code(read_with(&reader, &all.scope, STRONG, None).await) == "database_unavailable"
    })
    .await;
    came_back.require();
    Ok(())
}
