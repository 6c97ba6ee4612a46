//! What a REST catalogue loses, delays, refuses or does for somebody else, and a writer that ends anywhere: each change is in the lake
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{CommitObserver, CommitStep, LakeError, LakeSink};
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::rest::{NOON, RestWorld, SinkFault, life, live, live_on};
use crate::steps::Counter;
use crate::world::{event, position, transaction};

/// Ends a commit after so many steps, and nothing of what it had in hand is put back.
struct Stopper {
    steps: AtomicUsize,
    last: usize,
}

impl CommitObserver for Stopper {
    fn passed(&self, _: CommitStep) {
        let steps = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(steps < self.last, "the commit is stopped here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_after_any_step_the_lake_holds_each_change_once() -> Result<()> {
    let world = RestWorld::create().await?;
    let injected = Injected::new("stop between two steps of a commit by a REST catalogue");
    let counter = Arc::new(Counter::default());
    live(&mut world.observed("undisturbed", Arc::clone(&counter) as _)?).await?;
    world.require_whole("undisturbed").await?;
    let steps = counter.steps();
    for step in [
        CommitStep::DataFile,
        CommitStep::Manifests,
        CommitStep::ManifestList,
        CommitStep::Settled,
        CommitStep::Table,
        CommitStep::Committed,
    ] {
        assert!(steps.contains(&step), "{step:?} is among {steps:?}");
    }
    assert!(
        !steps.contains(&CommitStep::Description),
        "the catalogue writes it"
    );
    for (place, step) in steps.iter().enumerate() {
        // What is written before the first table is changed nobody knows of: a few of these steps stand for all.
        let is_known = matches!(step, CommitStep::Table | CommitStep::Committed);
        let before = steps[..place].iter().filter(|other| *other == step);
        if !is_known && before.count() >= 2 {
            continue;
        }
        let catalog = format!("stopped{place}");
        let stopper = Stopper {
            steps: AtomicUsize::new(0),
            last: place + 1,
        };
        let mut sink = world.observed(&catalog, Arc::new(stopper))?;
        let stopped = tokio::spawn(async move { live(&mut sink).await }).await;
        ensure!(
            !matches!(stopped, Ok(Ok(()))),
            "{step:?} {place}: it was not stopped"
        );
        injected.count();
        live(&mut world.sink(&catalog)?).await?;
        world.require_whole(&catalog).await?;
    }
    injected.require();
    Ok(())
}

/// What becomes of a request that the lake does not fail by.
const FAULTS: [&str; 6] = ["busy", "lost", "cut", "late", "slow", "conflict"];

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_or_late_is_looked_for_and_nothing_is_done_twice() -> Result<()> {
    let world = RestWorld::create().await?;
    live(&mut world.sink("undisturbed")?).await?;
    let undisturbed = states(&world, "undisturbed").await?;
    for (table, faults) in [("facts", &FAULTS[..]), ("facts_corrected", &FAULTS[1..4])] {
        for fault in faults {
            let catalog = format!("{fault}_{table}");
            let order = format!("{fault}:{table}");
            world.catalogue.order(&json!([&order, &order])).await?;
            let mut sink = world.sink(&catalog)?;
            let faults = live_on(&mut sink).await?;
            ensure!(faults.is_empty(), "{catalog}: {faults:?}");
            world.require_whole(&catalog).await?;
            assert_eq!(states(&world, &catalog).await?, undisturbed, "{catalog}");
        }
    }
    let done = world.catalogue.injected().await?;
    for fault in FAULTS {
        let injected = Injected::new("fault of a REST catalogue");
        for _ in 0..done.get(fault).copied().unwrap_or_default() {
            injected.count();
        }
        injected.require();
    }
    ensure!(
        done.contains_key("arrived") || done.contains_key("arrived in vain"),
        "{done:?}"
    );
    Ok(())
}

/// How many states each table has had.
async fn states(world: &RestWorld, catalog: &str) -> Result<BTreeMap<&'static str, i64>> {
    let mut states = BTreeMap::new();
    for table in ["attributes", "entities", "facts", "facts_corrected"] {
        let location = world.world.location(catalog, table).await?;
        let path = location.strip_prefix("file://").context("a file")?;
        let described: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let number = described["last-sequence-number"].as_i64();
        states.insert(table, number.context("a number")?);
    }
    Ok(states)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_catalogue_refuses_nothing_is_said_to_be_held() -> Result<()> {
    let world = RestWorld::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    world.catalogue.order(&json!(["denied:facts"])).await?;
    let fault = live(&mut sink).await.expect_err("it is refused");
    let cause = fault.cause().context("of the lake")?;
    ensure!(matches!(cause, LakeError::Catalog { .. }), "{cause:?}");
    // Refused in the middle: the commit is made, and the rest is done by whoever opens the lake.
    world.catalogue.order(&json!(["denied:entities"])).await?;
    live(&mut sink).await.expect_err("it is refused");
    let standing = world.world.standing("sheaf").await?;
    assert_eq!(standing.position.stream, None);
    assert_eq!(
        world.world.facts("sheaf").await?.len(),
        0,
        "readers of ours see all of it or nothing"
    );
    live(&mut sink).await?;
    world.require_whole("sheaf").await?;
    assert_eq!(world.catalogue.injected().await?.get("denied"), Some(&2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_commits_and_the_other_has_changed_nothing() -> Result<()> {
    let world = RestWorld::create().await?;
    let (mut first, mut second) = (world.sink("sheaf")?, world.sink("sheaf")?);
    first.held().await?;
    first.begin(position(10, 0)).await?;
    second.held().await?;
    let [names, rest] = life().try_into().map_err(|_| anyhow::anyhow!("two"))?;
    first.apply(&names).await?;
    second.apply(&names).await?;
    first.flush().await?;
    let refused = SinkFault::from(second.flush().await.expect_err("the other was faster"));
    let cause = refused.cause().context("of the lake")?;
    ensure!(matches!(cause, LakeError::Overtaken { .. }), "{cause:?}");
    let Held::Until(held) = second.held().await? else {
        anyhow::bail!("it has begun");
    };
    assert_eq!(held.stream, Some(position(20, 3)));
    // The one that was refused goes on, and the one that was first is refused in its turn.
    second.apply(&rest).await?;
    second.flush().await?;
    first.apply(&rest).await?;
    first.flush().await.expect_err("the other was faster");
    live(&mut first).await?;
    world.require_whole("sheaf").await?;
    // Both at once, for long.
    for round in 0..5u64 {
        let op = if round == 0 { Op::Patch } else { Op::Correct };
        let batch = transaction(
            100 + round,
            vec![event(9, NOON, i16::try_from(round)?, op, r#"{"5":true}"#)],
        );
        let flush = async |sink: &mut LakeSink| {
            for _ in 0..10 {
                let flushed = async {
                    sink.held().await?;
                    sink.follow();
                    sink.apply(&batch).await?;
                    sink.flush().await
                };
                if flushed.await.is_ok() {
                    return Ok(());
                }
            }
            anyhow::bail!("round {round}: never")
        };
        let (one, other) = tokio::join!(flush(&mut first), flush(&mut second));
        one?;
        other?;
    }
    first.held().await?;
    first.tidy().await?;
    let counted = |facts: Vec<String>| facts.iter().filter(|fact| fact.starts_with("1 9 ")).count();
    let facts = world.world.facts("sheaf").await?;
    assert_eq!(counted(facts), 1);
    assert_eq!(counted(world.world.replaced("sheaf").await?), 4);
    world.world.require_one_value("sheaf").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_commits_is_gone_on_from() -> Result<()> {
    let world = RestWorld::create().await?;
    // Before the facts: the lake is opened again. Between the tables: the same is done to what is there now.
    for (order, opened_again) in [
        ("appends:facts", 1),
        ("rewrites:facts", 1),
        ("appends:facts_corrected", 0),
        ("appends:entities", 0),
        // A file that was to be replaced is gone: the lake begins anew.
        ("rewrites:attributes", 1),
    ] {
        let catalog = order.replace(':', "_");
        let mut sink = world.sink(&catalog)?;
        sink.held().await?;
        sink.begin(position(10, 0)).await?;
        let [names, _] = life().try_into().map_err(|_| anyhow::anyhow!("two"))?;
        sink.apply(&names).await?;
        sink.flush().await?;
        world.catalogue.order(&json!([order])).await?;
        let faults = live_on(&mut sink).await?;
        assert_eq!(faults.len(), opened_again, "{order}: {faults:?}");
        for fault in &faults {
            let cause = fault.cause().context("of the lake")?;
            ensure!(matches!(cause, LakeError::Overtaken { .. }), "{cause:?}");
        }
        world.require_whole(&catalog).await?;
    }
    let found = world.catalogue.read("appends_facts_corrected")?;
    assert_eq!(found["pyiceberg"]["facts"], json!([3, 11]));
    assert_eq!(found["duckdb"]["facts_corrected"], json!([2, 4]));
    let done = world.catalogue.injected().await?;
    let injected = Injected::new("commit of somebody else");
    for _ in 0..done["appends"] + done["rewrites"] {
        injected.count();
    }
    assert_eq!(injected.total(), 5);
    injected.require();
    Ok(())
}
