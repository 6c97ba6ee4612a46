//! A bucket that fails: it refuses for now or for good, takes its time, does what it was asked and does not say so, answers half.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheaf_cdc::sink::{Held, Sink};
use sheaf_export::Cell;
use sheaf_lake::analytics::{LakeReader, Question, ReaderOptions};
use sheaf_lake::{LakeError, LakeOptions, LakeSink};
use sheaf_model::{Op, TenantId};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::settings::Settings;
use sheaf_testkit::Injected;

use crate::bucket;
use crate::stand_in::Program;
use crate::world::{World, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
/// A place that fails as often as is ordered here lets whoever asks again and again through.
const ATTEMPTS_MAX: usize = 12;

fn options(world: &World, stand_in: &Program, catalog: &str) -> LakeOptions {
    LakeOptions {
        location: bucket::location(stand_in, catalog),
        ..world.options(catalog)
    }
}

/// What this fault did is counted, and that nothing that was ordered was left.
async fn total(stand_in: &Program) -> Result<u64> {
    Ok(stand_in.injected().await?.values().sum())
}

/// Each of the three requests that make a place a lake's own, done and not answered, answered with an error, or refused for now.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_meets_itself_is_no_other_lakes() -> Result<()> {
    let injected = Injected::new("conditional PUT that was done and not answered");
    let world = World::create().await?;
    let stand_in = bucket::start()?;
    for (place, fault) in ["lost", "cut", "busy"]
        .into_iter()
        .flat_map(|fault| (0..3).map(move |place| (place, fault)))
    {
        let catalog = format!("claimed-{fault}-{place}");
        let mut faults = vec![""; place];
        faults.push(fault);
        let before = total(&stand_in).await?;
        stand_in.order(&json!({ "CREATE": faults })).await?;
        let options = options(&world, &stand_in, &catalog);
        let mut sink = LakeSink::new(&world.cdc(), options.clone())?;
        let mut attempts = 0;
        // As whoever feeds it does where it fails.
        while let Err(error) = sink.held().await {
            attempts += 1;
            ensure!(attempts < ATTEMPTS_MAX, "{}", sheaf_pg::chain(&error));
            let cause = error.source.downcast_ref();
            let is_foreign = matches!(cause, Some(LakeError::Foreign { .. }));
            ensure!(
                !is_foreign,
                "{fault} at {place}: its own place is another's"
            );
        }
        ensure!(
            total(&stand_in).await? == before + 1,
            "{fault} at {place} was done"
        );
        injected.count();
        sink.begin(position(10, 0)).await?;
        let row = event(5, NOON, 0, Op::Patch, r#"{"1":30}"#);
        sink.apply(&transaction(20, vec![row])).await?;
        sink.flush().await?;
        // It is taken for that, by whoever opens it and by whoever else comes.
        let held = LakeSink::new(&world.cdc(), options.clone())?.held().await?;
        ensure!(matches!(held, Held::Until(_)), "{held:?}");
        let mut other = options;
        other.name.catalog = format!("other of {catalog}");
        let refused = LakeSink::new(&world.cdc(), other)?.held().await;
        let refused = refused.err().context("it was opened")?;
        let cause = refused.source.downcast_ref();
        ensure!(
            matches!(cause, Some(LakeError::Foreign { .. })),
            "{refused:?}"
        );
    }
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_writes_over_what_is_there_is_refused_at_the_start() -> Result<()> {
    let injected = Injected::new("store without a conditional PUT");
    let world = World::create().await?;
    let stand_in = bucket::start()?;
    stand_in.order(&json!({ "overwrites": true })).await?;
    let options = options(&world, &stand_in, "sheaf");
    for _ in 0..2 {
        let refused = LakeSink::new(&world.cdc(), options.clone())?.held().await;
        injected.count();
        let refused = refused.err().context("it was opened")?;
        let cause = refused.source.downcast_ref();
        ensure!(
            matches!(cause, Some(LakeError::Overwrites { .. })),
            "{refused:?}"
        );
        let standing = sheaf_store::lake::read_lake(&world.cdc(), &options.name).await?;
        let tables = standing.map(|standing| standing.tables);
        ensure!(
            tables.unwrap_or_default().is_empty(),
            "nothing of it is in the catalogue"
        );
    }
    // Nothing was left there either, and it can be used once it knows better.
    stand_in.order(&json!({})).await?;
    LakeSink::new(&world.cdc(), options)?.held().await?;
    injected.require();
    Ok(())
}

/// What each transaction of the life says, and the sum of what counts after each.
fn rows(number: i64) -> Vec<sheaf_cdc::change::ChangedRow> {
    let mut rows = vec![
        entity(number),
        event(number, NOON, 0, Op::Patch, &format!(r#"{{"1":{number}}}"#)),
    ];
    if number > 1 {
        // The one before is corrected, for which its file is read and written anew.
        let corrected = format!(r#"{{"1":{}}}"#, 100 * (number - 1));
        rows.push(event(number - 1, NOON, 1, Op::Correct, &corrected));
    }
    rows
}

fn sum_after(number: i64) -> i64 {
    (1..number).sum::<i64>() * 100 + number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_fails_holds_a_commit_up_and_position_and_files_stay_one() -> Result<()> {
    let failed = Injected::new("attempt that a bucket failed");
    let world = World::create().await?;
    let stand_in = bucket::start()?;
    let options = options(&world, &stand_in, "sheaf");
    let mut sink = LakeSink::new(&world.cdc(), options.clone())?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let mut number = 0_i64;
    for faults in [
        json!({"PUT": ["busy", "busy", "busy", "slow"]}),
        json!({"PUT": ["", "lost", "", "cut"]}),
        json!({"PUT": ["denied"]}),
        json!({"PUT": ["", "", "", "denied"]}),
        json!({"GET": ["busy", "busy", "cut", "slow"]}),
        json!({"GET": ["short", "", "short"]}),
        json!({"GET": ["half"]}),
        json!({"GET": ["", "half", "half"]}),
        json!({"GET": ["denied"], "PUT": ["denied", "", "denied"]}),
    ] {
        number += 1;
        let batch = transaction(10 + 10 * number.cast_unsigned(), rows(number));
        let of_before = world.standing("sheaf").await?.position;
        let before = total(&stand_in).await?;
        stand_in.order(&faults).await?;
        let mut attempts = 0;
        loop {
            // As after a start, so that everything is read again.
            let attempt = async {
                sink.held().await?;
                sink.follow();
                sink.apply(&batch).await?;
                sink.flush().await?;
                sink.tidy().await?;
                anyhow::Ok(())
            };
            match attempt.await {
                Ok(()) if world.waiting("sheaf").await? == 0 => break,
                // Work beside the stream that failed is told in the log, and done later.
                Ok(()) => failed.count(),
                Err(error) => {
                    failed.count();
                    let now = world.standing("sheaf").await?.position;
                    let is_one = now.stream == of_before.stream || now.stream == batch.last();
                    ensure!(is_one, "{now:?} after {error:#}");
                }
            }
            attempts += 1;
            ensure!(attempts < ATTEMPTS_MAX, "{faults}: it never ends");
        }
        ensure!(total(&stand_in).await? > before, "{faults} were done");
        stand_in.order(&json!({})).await?;
        let facts = world.location("sheaf", "facts").await?;
        let found = stand_in.read(&facts)?;
        assert_eq!(
            found,
            json!({"rows": number, "int": sum_after(number)}),
            "{faults}"
        );
    }
    failed.require();
    Ok(())
}

/// The sum of all values as a question has it.
pub(crate) async fn sum(reader: &LakeReader) -> Result<i64> {
    let scope = TenantScope::authenticated(TenantId(1));
    let question = Question {
        query: "SELECT entity_id, observed_at, value_int FROM facts".to_owned(),
        params: Vec::new(),
        shown: sheaf_lake::analytics::ShownFrom::default(),
    };
    let snapshot = reader.look(None).await?;
    let mut answer = reader.ask(&scope, &snapshot, question).await?;
    let mut sum = 0;
    while let Some(rows) = answer.next().await? {
        for row in rows {
            let Cell::Value(value) = &row[2] else {
                anyhow::bail!("{row:?}");
            };
            sum += serde_json::to_string(value)?.parse::<i64>()?;
        }
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_over_a_place_that_fails_is_answered_whole_or_not_at_all() -> Result<()> {
    let world = World::create().await?;
    let stand_in = bucket::start()?;
    let options = options(&world, &stand_in, "sheaf");
    let mut sink = LakeSink::new(&world.cdc(), options.clone())?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let mut wanted = 0;
    for number in 1..=6_u64 {
        let rows = (0..50).map(|n| {
            let entity = n + 50 * i64::try_from(number).unwrap_or_default();
            wanted += entity;
            event(entity, NOON, 0, Op::Patch, &format!(r#"{{"1":{entity}}}"#))
        });
        sink.apply(&transaction(10 + number, rows.collect()))
            .await?;
        sink.flush().await?;
    }
    let app = Pool::new(&world.database.config("sheaf_app"), 4, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    let (mut answered, mut refused) = (0, 0);
    for fault in ["busy", "slow", "cut", "short", "half", "denied"] {
        for place in (0..12).step_by(2) {
            let reader = ReaderOptions {
                threads: Some(2),
                ..ReaderOptions::of(&options, "slot".to_owned())
            };
            // One that remembers nothing.
            let reader = LakeReader::new(&app, Arc::clone(&settings), reader)?;
            let mut faults = vec![""; place];
            faults.push(fault);
            stand_in.order(&json!({ "GET": faults })).await?;
            match sum(&reader).await {
                Ok(found) => {
                    assert_eq!(found, wanted, "{fault} at {place}");
                    answered += 1;
                }
                Err(error) => {
                    assert!(
                        ["half", "denied", "short", "cut"].contains(&fault),
                        "{fault} at {place}: {error:#}"
                    );
                    refused += 1;
                }
            }
            stand_in.order(&json!({})).await?;
        }
    }
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!(
            "{answered} answers and {refused} refusals; injected {:?}",
            stand_in.injected().await?
        );
    }
    assert!(answered > 0 && refused > 0);
    Ok(())
}
