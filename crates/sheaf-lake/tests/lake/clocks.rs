//! Writers whose clocks differ by hours: what is later is what has the later position, and no file is taken for an old one.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheaf_cdc::change::Batch;
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::child;
use crate::world::{World, attribute, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const HOUR: i64 = 3600;
/// A library that lies about the time of day; what measures how long something takes is left as it is.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *ahead = getenv("CLOCK_AHEAD_SECONDS");
    if (clock == CLOCK_REALTIME && result == 0 && ahead) time->tv_sec += atol(ahead);
    return result;
}
"#;

/// The first so many transactions: each describes an attribute anew, corrects one value and adds another.
fn life(count: u64) -> Vec<Batch> {
    let described = |number: u64| {
        let unit = format!("unit {number}");
        attribute(101, number == 1, &unit, ColumnValue::Null)
    };
    let life = (1..=count).map(|number| {
        let entity_id = i64::try_from(number).expect("small");
        let mut rows = vec![described(number), entity(100 + entity_id)];
        let (seq, op) = match number {
            1 => (0, Op::Patch),
            _ => (i16::try_from(number - 1).expect("small"), Op::Correct),
        };
        rows.push(event(5, NOON, seq, op, &format!(r#"{{"1":{number}}}"#)));
        rows.push(event(100 + entity_id, NOON, 0, Op::Patch, r#"{"1":7}"#));
        transaction(10 + 10 * number, rows)
    });
    life.collect()
}

fn now_seconds() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_with_other_clocks_the_later_position_counts_and_no_file_is_lost() -> Result<()>
{
    let injected = Injected::new("writer whose clock is hours off");
    let world = World::create().await?;
    let (source, library) = (
        world.dir.path().join("clock.c"),
        world.dir.path().join("clock.so"),
    );
    std::fs::write(&source, SOURCE)?;
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()?;
    ensure!(compiled.success(), "{compiled}");
    let young = world.folder("sheaf").join("facts/data/young.parquet");
    for (number, ahead) in (1_u64..).zip([0, HOUR, 0, -HOUR, 3 * HOUR, -5 * HOUR, 0, 2 * HOUR]) {
        let shell = format!(
            "export LD_PRELOAD='{}' CLOCK_AHEAD_SECONDS={ahead};",
            library.display()
        );
        let test = "clocks::a_process_with_another_clock";
        let task = json!({ "transactions": number });
        let output = child::command(&world, "sheaf", test, &task, &shell)?.output()?;
        let (said, errors) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(output.status.success(), "{said}{errors}");
        let told = said
            .lines()
            .find_map(|line| line.split_once("its clock says "));
        let told: i64 = told.context(said.clone())?.1.trim().parse()?;
        let off = told - now_seconds()?;
        ensure!((off - ahead).abs() < HOUR / 2, "{off} and not {ahead}");
        if ahead != 0 {
            injected.count();
        }
        if number == 1 {
            // As one that another writer has just written.
            std::fs::write(&young, "half a file")?;
        }
        let facts = world.facts("sheaf").await?;
        let of_five = facts.iter().filter(|fact| fact.starts_with("1 5 "));
        let of_five: Vec<&String> = of_five.collect();
        ensure!(of_five.len() == 1, "{of_five:?}");
        ensure!(
            of_five[0].ends_with(&format!("value_int={number}")),
            "{of_five:?} after {number}"
        );
        assert_eq!(facts.len(), 1 + usize::try_from(number)?);
        let replaced = world.replaced("sheaf").await?;
        assert_eq!(replaced.len(), usize::try_from(number)? - 1);
        let attributes = world.rows("sheaf", "attributes").await?;
        ensure!(
            attributes.len() == 1 && attributes[0]["unit"] == format!("unit {number}"),
            "{attributes:?} after {number}"
        );
        // Each state that is kept can be read.
        world.require_one_value("sheaf").await?;
    }
    ensure!(
        young.exists(),
        "a file of this moment was taken for an old one"
    );
    injected.require();
    Ok(())
}

/// Does nothing, but for the test above, which starts it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_another_clock() -> Result<()> {
    let Some((cdc, options, task)) = child::work()? else {
        return Ok(());
    };
    let options = LakeOptions {
        sweep_every: Duration::ZERO,
        ..options
    };
    #[expect(clippy::print_stdout, reason = "whoever started it reads it")]
    {
        println!("its clock says {}", now_seconds()?);
    }
    let mut sink = LakeSink::new(&cdc, options)?;
    if sink.held().await? == Held::Nothing {
        sink.begin(position(10, 0)).await?;
    }
    sink.follow();
    for batch in life(task["transactions"].as_u64().context("a number")?) {
        sink.apply(&batch).await?;
        sink.flush().await?;
        sink.tidy().await?;
    }
    // What is due beside, among it the removal of files.
    for _ in 0..20 {
        sink.idle().await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
