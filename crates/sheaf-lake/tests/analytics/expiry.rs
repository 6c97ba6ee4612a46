//! Questions whose state of the lake is not kept any more.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sheaf_cdc::conformance::{position, transaction};
use sheaf_cdc::sink::Sink;
use sheaf_lake::analytics::QueryError;
use sheaf_lake::{LakeSink, remove_orphans};
use sheaf_testkit::Injected;

use crate::world::{OWN, World, ask, catalogues, row_of, rows};

/// Commits, each a file at least: far more than are read ahead of whoever takes the rows.
const COMMITS: u64 = 60;
const ALL: &str = "SELECT entity_id, observed_at, value_int FROM facts";

/// Everything anew, each event committed alone.
async fn fill(world: &World, sink: &mut LakeSink, from: u64) -> Result<()> {
    sink.begin(position(from, 0)).await?;
    sink.apply(&transaction(from + 1, catalogues(OWN, world.other)))
        .await?;
    let own = world.events.iter().filter(|event| event.tenant == OWN);
    for (number, event) in (2..).zip(own).take(usize::try_from(COMMITS)?) {
        sink.apply(&transaction(from + number, vec![row_of(event)]))
            .await?;
        sink.flush().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_files_are_removed_is_told_to_ask_again() -> Result<()> {
    let removed = Injected::new("file that is removed under a question");
    let world = World::create().await?;
    let mut options = world.options("sheaf");
    options.retention.snapshots_age = Duration::ZERO;
    options.retention.snapshots_min = 1;
    // Files that became one would be read before they are removed.
    options.join_commits = u32::MAX;
    let mut sink = LakeSink::new(&world.pool("sheaf_cdc"), options.clone())?;
    sink.held().await?;
    fill(&world, &mut sink, 1_000).await?;
    let reader = world.reader("sheaf").await?;
    let before = reader.look(None).await?;
    let mut answer = ask(&reader, &before, OWN, ALL, &[]).await?;
    let first = answer.next().await?.context("rows")?;
    assert!(!first.is_empty());
    // Everything is written anew, what was before is not kept, and its files are old.
    fill(&world, &mut sink, 2_000).await?;
    let late = SystemTime::now() + Duration::from_secs(7200);
    let cdc = world.pool("sheaf_cdc");
    let orphans = remove_orphans(&cdc, &options, Duration::ZERO, late).await?;
    assert!(orphans.removed >= COMMITS, "{orphans:?}");
    for _ in 0..orphans.removed {
        removed.count();
    }
    let stopped = loop {
        match answer.next().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("files that are not there were read"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(stopped, QueryError::Superseded { .. }),
        "{stopped:?}"
    );
    // Nor does a question begin with that state, whether what it consists of is remembered or not.
    for reader in [&reader, &world.reader("sheaf").await?] {
        let asked = async {
            let mut answer = ask(reader, &before, OWN, ALL, &[]).await?;
            while answer.next().await?.is_some() {}
            Ok(())
        };
        let refused: Result<(), QueryError> = asked.await;
        assert!(
            matches!(refused, Err(QueryError::Superseded { .. })),
            "{refused:?}"
        );
    }
    let (_, again) = rows(&reader, OWN, ALL, &[]).await?;
    // Each event has four facts.
    assert_eq!(again.len(), usize::try_from(4 * COMMITS)?);
    removed.require();
    Ok(())
}
