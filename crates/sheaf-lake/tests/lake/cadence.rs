//! When the lake is committed.

use std::time::Duration;

use anyhow::Result;
use sheaf_cdc::sink::Sink;
use sheaf_lake::LakeSink;
use sheaf_model::Op;

use crate::world::{World, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_waits_while_nothing_follows_and_is_committed_at_the_end() -> Result<()> {
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let begun = world.standing("sheaf").await?;
    for lsn in [20, 30] {
        let row = event(5, NOON, 0, Op::Patch, r#"{"1":1}"#);
        sink.apply(&transaction(lsn, vec![row])).await?;
        assert_eq!(sink.idle().await?.stream, None);
    }
    assert_eq!(world.standing("sheaf").await?, begun);
    assert_eq!(sink.flush().await?.stream, Some(position(30, 1)));
    let number = world.standing("sheaf").await?.position.number;
    assert_eq!(number, begun.position.number + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_long_enough_is_committed_once_and_nothing_makes_no_commit() -> Result<()> {
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    options.pending_age_max = Duration::from_millis(1);
    options.join_commits = 1;
    options.corrections_age_max = Duration::ZERO;
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let row = event(5, NOON, 0, Op::Patch, r#"{"1":1}"#);
    let mut held = sink.apply(&transaction(20, vec![row])).await?;
    while held.stream.is_none() {
        held = sink.idle().await?;
    }
    let standing = world.standing("sheaf").await?;
    for _ in 0..20 {
        sink.idle().await?;
    }
    sink.tidy().await?;
    sink.flush().await?;
    assert_eq!(world.standing("sheaf").await?, standing);
    Ok(())
}
