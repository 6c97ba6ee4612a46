//! Stopped between any two steps of a commit, the lake holds each change once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Result, ensure};
use sheaf_cdc::change::{Batch, Progress};
use sheaf_cdc::column::ColumnValue;
use sheaf_lake::{CommitStep, LakeSink};
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::steps::{Counter, kill_after, sink_to_be_killed};
use crate::world::{World, attribute, entity, event, feed, transaction};

/// A life with everything that a commit can do: new tables, files added, rows replaced, corrections noted and applied.
fn life() -> Vec<Batch> {
    let noon = "2024-02-29T12:00:00Z";
    let night = "2024-03-01T00:00:00Z";
    let schema = ColumnValue::Json("{}".to_owned());
    vec![
        transaction(
            20,
            vec![
                attribute(1, true, "m", schema.clone()),
                entity(5),
                event(5, noon, 0, Op::Patch, r#"{"1":1,"2":1.5}"#),
                event(5, night, 0, Op::Patch, r#"{"1":2}"#),
            ],
        ),
        transaction(
            30,
            vec![
                attribute(1, false, "km", ColumnValue::Unchanged),
                event(5, noon, 1, Op::Correct, r#"{"1":3}"#),
            ],
        ),
        transaction(
            40,
            vec![
                event(5, noon, 2, Op::Correct, r#"{"1":4}"#),
                event(5, noon, 3, Op::Patch, r#"{"5":true}"#),
                event(5, night, 1, Op::Delete, "{}"),
            ],
        ),
    ]
}

async fn live(sink: &mut LakeSink) -> Result<Progress> {
    feed(sink, life()).await
}

const NOON: &str = "1709208000000000";
const NIGHT: &str = "1709251200000000";

/// Everything once, what was corrected apart from what counts, and the catalogue as of its latest change.
async fn require_whole(world: &World, catalog: &str) -> Result<()> {
    let facts = world.facts(catalog).await?;
    let wanted = [
        format!("1 5 - {NIGHT} 1 delete false"),
        format!("1 5 1 {NOON} 2 correct false value_int=4"),
        format!("1 5 2 {NOON} 0 patch false value_float=1.5"),
        format!("1 5 5 {NOON} 3 patch false value_bool=true"),
    ];
    ensure!(facts == wanted, "{catalog}: {facts:?}");
    let replaced = world.replaced(catalog).await?;
    let wanted = [
        format!("1 5 1 {NOON} 0 patch false value_int=1"),
        format!("1 5 1 {NOON} 1 correct false value_int=3"),
        format!("1 5 1 {NIGHT} 0 patch false value_int=2"),
    ];
    ensure!(replaced == wanted, "{catalog}: {replaced:?}");
    ensure!(world.waiting(catalog).await? == 0, "{catalog}: some wait");
    let attributes = world.rows(catalog, "attributes").await?;
    ensure!(
        attributes.len() == 1 && attributes[0]["unit"] == "km",
        "{catalog}: {attributes:?}"
    );
    ensure!(
        world.rows(catalog, "entities").await?.len() == 1,
        "{catalog}: entities"
    );
    Ok(())
}

/// What it says that it holds is what it holds: in one of the two tables, or waiting.
async fn require_told(world: &World, catalog: &str) -> Result<()> {
    let Some(standing) =
        sheaf_store::lake::read_lake(&world.cdc(), &world.options(catalog).name).await?
    else {
        return Ok(());
    };
    if standing.tables.is_empty() {
        return Ok(());
    }
    let wanted = match standing.position.stream.map(|at| at.commit_lsn.0) {
        None => 0,
        Some(20) => 3,
        Some(30) => 4,
        Some(40) => 7,
        other => anyhow::bail!("{catalog}: {other:?}"),
    };
    let facts = world.facts(catalog).await?;
    let replaced = world.replaced(catalog).await?;
    let waiting = world.waiting(catalog).await?;
    ensure!(
        facts.len() + replaced.len() + waiting == wanted,
        "{catalog}: {:?}, {facts:?}, {replaced:?} and {waiting} that wait",
        standing.position
    );
    world.require_one_value(catalog).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_step_the_lake_holds_each_change_once() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("kill between two steps of a commit");
    let counter = Arc::new(Counter::default());
    let mut sink = world.observed("undisturbed", Arc::clone(&counter) as _)?;
    live(&mut sink).await?;
    require_whole(&world, "undisturbed").await?;
    let steps = counter.steps();
    for step in [
        CommitStep::DataFile,
        CommitStep::Manifests,
        CommitStep::ManifestList,
        CommitStep::Description,
        CommitStep::Settled,
        CommitStep::Committed,
    ] {
        assert!(steps.contains(&step), "{step:?} is among {steps:?}");
    }
    for last in 1..=steps.len() {
        let catalog = format!("killed{last}");
        kill_after(&world, &catalog, "crashes::a_process_to_be_killed", last)?;
        injected.count();
        require_told(&world, &catalog).await?;
        let mut sink = world.sink(&catalog)?;
        live(&mut sink).await?;
        require_whole(&world, &catalog).await?;
    }
    injected.require();
    Ok(())
}

/// Does nothing, but for the test above, which starts it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_to_be_killed() -> Result<()> {
    if let Some(mut sink) = sink_to_be_killed()? {
        live(&mut sink).await?;
    }
    Ok(())
}

/// A future that is dropped when it has been polled so often.
struct Dropped<F> {
    future: F,
    polls: usize,
}

impl<F: Future + Unpin> Future for Dropped<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        Pin::new(&mut self.future).poll(cx).map(Some)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_at_any_await_and_asked_again_the_lake_holds_each_change_once() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("drop of a commit in flight");
    for polls in 1.. {
        let catalog = format!("dropped{polls}");
        let mut sink = world.sink(&catalog)?;
        let future = Box::pin(live(&mut sink));
        let ended = Dropped { future, polls }.await;
        if let Some(ended) = ended {
            ended?;
            require_whole(&world, &catalog).await?;
            break;
        }
        injected.count();
        // The same sink, which has to find out what became of what it sent.
        let again = live(&mut sink).await;
        if again.is_err() {
            // A commit that was in flight arrived in between. Then that is what is found the next time.
            live(&mut sink).await?;
        }
        require_whole(&world, &catalog).await?;
    }
    injected.require();
    Ok(())
}
