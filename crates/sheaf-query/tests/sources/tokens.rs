//! Reading what was written, wherever it is read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use sheaf_model::{Lsn, Position};
use sheaf_query::{ConsistencyLevel, DataSource};
use sheaf_testkit::{Injected, wait_until};

use crate::replicated::{Replicated, WITHIN, code, options, page, source};

const SESSION: ConsistencyLevel = ConsistencyLevel::Session;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_honoured_by_each_replica_for_itself() -> Result<()> {
    let all = Replicated::new().await?;
    let _west = all.replica("west").await?;
    let east = all.replica("east").await?;
    let paused = Injected::new("replay paused");
    let mut answered: BTreeMap<String, u32> = BTreeMap::new();
    let mut last = None;
    let begun = Instant::now();
    for number in 1.. {
        // The one that goes on may be held up for a while by what else this machine does.
        let is_used = answered.contains_key("replica:west");
        if number > 300 && (is_used || begun.elapsed() > WITHIN) {
            break;
        }
        if number == 100 {
            east.pause_replay().await?;
            paused.count();
        }
        let token = all.write(number).await?;
        for level in [SESSION, ConsistencyLevel::Eventual] {
            let read = all.read(level, Some(token)).await?;
            assert_eq!(read.value, number, "{:?}", read.freshness);
            assert!(read.freshness.position.lsn >= token.lsn);
            *answered
                .entry(read.freshness.source.to_string())
                .or_default() += 1;
            // What was read once stays read, whoever is asked next.
            last = last.max(Some(read.freshness.position.lsn));
            let seen = Position {
                lsn: last.expect("just set"),
                ..token
            };
            let again = all.read(level, Some(seen)).await?;
            assert!(again.value >= number, "{:?}", again.freshness);
            let is_paused = number >= 100;
            assert!(!is_paused || again.freshness.source != source("east"));
        }
    }
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!("answered by {answered:?}");
    }
    let statuses = all.reader.sources().status();
    assert!(
        answered.contains_key("replica:west"),
        "{answered:?}, {statuses:?}"
    );
    east.resume_replay().await?;
    all.wait_used("east").await;
    paused.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_the_primary_answers_every_level() -> Result<()> {
    let all = Replicated::new().await?;
    let token = all.write(7).await?;
    for level in ConsistencyLevel::ALL {
        for token in [None, Some(token)] {
            let read = all.read(level, token).await?;
            assert_eq!(read.value, 7);
            assert_eq!(read.freshness.source, DataSource::Primary);
            assert_eq!(read.freshness.level, level);
        }
    }
    // One that comes is used, and one that is taken out is not missed.
    let west = all.replica("west").await?;
    all.reader.sources().remove_replica("west");
    for _ in 0..20 {
        let read = all.read(ConsistencyLevel::Eventual, None).await?;
        assert_eq!(read.freshness.source, DataSource::Primary);
    }
    drop(west);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_future_is_waited_for_within_bounds() -> Result<()> {
    let all = Replicated::new().await?;
    let _west = all.replica("west").await?;
    let token = all.position().await?;
    let far = Position {
        lsn: Lsn(u64::MAX),
        ..token
    };
    // Where no replica is used, as for a moment on a machine that stands still, nobody comes to it: that is said at once.
    wait_until("a replica is waited for", WITHIN, async || {
        all.wait_used("west").await;
        let begun = Instant::now();
        let answered = code(all.read(SESSION, Some(far)).await);
        let waited = begun.elapsed();
        assert_eq!(answered, "token_not_reached");
        assert!(waited < Duration::from_secs(10), "{waited:?}");
        waited >= Duration::from_millis(300)
    })
    .await;
    // Those of another history are not waited for.
    let old = Position {
        timeline: token.timeline - 1,
        ..token
    };
    let foreign = Position {
        system_id: token.system_id ^ 1,
        ..token
    };
    for level in ConsistencyLevel::ALL {
        assert_eq!(code(all.read(level, Some(old)).await), "stale_timeline");
        assert_eq!(code(all.read(level, Some(foreign)).await), "invalid_token");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_later_timeline_is_refused_and_stops_nobody_who_has_none() -> Result<()> {
    let all = Replicated::new().await?;
    let _west = all.replica("west").await?;
    let token = all.write(4).await?;
    // As of a promotion that was undone: no server has it to show.
    let undone = Injected::new("token of a promotion that was undone");
    let later = Position {
        timeline: token.timeline + 1,
        ..token
    };
    for level in ConsistencyLevel::ALL {
        let begun = Instant::now();
        assert_eq!(code(all.read(level, Some(later)).await), "stale_timeline");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        undone.count();
        // What others read and write is as before, and so is what they hold.
        let number = all.read(ConsistencyLevel::Strong, None).await?.value + 1;
        let token = all.write(number).await?;
        for level in ConsistencyLevel::ALL {
            assert_eq!(all.read(level, Some(token)).await?.value, number);
        }
    }
    all.wait_used("west").await;
    undone.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_page_is_no_older_than_the_one_before() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let paused = Injected::new("replay paused between pages");
    for number in 1..=3 {
        west.pause_replay().await?;
        paused.count();
        all.write(number).await?;
        let strong = options(ConsistencyLevel::Strong, None);
        let first = all.reader.list(&all.scope, &page(1, None), &strong).await?;
        let cursor = first.value.page.next_cursor;
        assert!(cursor.is_some(), "there are two");
        let eventual = options(ConsistencyLevel::Eventual, None);
        let begun = Instant::now();
        let next = all
            .reader
            .list(&all.scope, &page(1, cursor), &eventual)
            .await?;
        assert_eq!(next.value.page.items[0].version, Some(number));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        west.resume_replay().await?;
        all.wait_used("west").await;
    }
    paused.require();
    Ok(())
}
