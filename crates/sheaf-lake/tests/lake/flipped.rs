//! A data file in which a bit is another one than was written: no answer is made of it, wherever the bit is.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sheaf_cdc::sink::Sink;
use sheaf_lake::analytics::{LakeReader, ReaderOptions};
use sheaf_model::Op;
use sheaf_pg::{Pool, Tls};
use sheaf_store::settings::Settings;
use sheaf_testkit::Injected;

use crate::faulty_bucket::sum;
use crate::world::{World, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const ENTITIES: i64 = 3_000;
/// Bits that are flipped, one at a time, from the begin of the file to its end.
const PLACES: usize = 150;

/// The one data file of the facts, which is longer than a block.
fn data_file(world: &World) -> Result<PathBuf> {
    let mut files = std::fs::read_dir(world.folder("sheaf").join("facts/data"))?;
    let file = files.next().context("a file")??.path();
    ensure!(files.next().is_none(), "one file");
    ensure!(file.metadata()?.len() > 3 * 8192, "it has several blocks");
    Ok(file)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_made_of_a_file_with_a_flipped_bit() -> Result<()> {
    let injected = Injected::new("flipped bit in a data file");
    let world = World::create().await?;
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let mut rows = vec![entity(1)];
    // As little alike as numbers are that no compression makes much smaller.
    let value = |number: i64| number.wrapping_mul(6_364_136_223_846_793_005) >> 20;
    rows.extend((1..=ENTITIES).map(|number| {
        let attrs = format!(r#"{{"1":{}}}"#, value(number));
        event(number, NOON, 0, Op::Patch, &attrs)
    }));
    sink.apply(&transaction(20, rows)).await?;
    sink.flush().await?;
    let wanted: i64 = (1..=ENTITIES).map(value).sum();
    let app = Pool::new(&world.database.config("sheaf_app"), 4, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    // Each remembers nothing of those before.
    let asked = async || {
        let options = ReaderOptions::of(&world.options("sheaf"), "slot".to_owned());
        let reader = LakeReader::new(&app, Arc::clone(&settings), options)?;
        sum(&reader).await
    };
    assert_eq!(asked().await?, wanted);

    let file = data_file(&world)?;
    let written = std::fs::read(&file)?;
    let last = written.len() - 1;
    let (mut refused, mut unread) = (0, 0);
    for place in 0..=PLACES {
        let at = place * last / PLACES;
        let mut flipped = written.clone();
        flipped[at] ^= 1 << (place % 8);
        std::fs::write(&file, &flipped)?;
        injected.count();
        match asked().await {
            // Where columns are that the question does not ask for.
            Ok(found) => {
                assert_eq!(found, wanted, "byte {at} of {last}");
                unread += 1;
            }
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("not those that were written"), "{error}");
                refused += 1;
            }
        }
    }
    ensure!(refused > PLACES / 4, "{refused} refused, {unread} answered");

    // Whoever writes it anew reads all of it: a correction waits, and loses nothing.
    for (seq, at) in (1..).zip([5, last / 2, last - 20]) {
        let mut flipped = written.clone();
        flipped[at] ^= 4;
        std::fs::write(&file, &flipped)?;
        injected.count();
        let row = event(1, NOON, seq, Op::Correct, r#"{"1":10}"#);
        let lsn = 30 + u64::from(seq.unsigned_abs());
        sink.apply(&transaction(lsn, vec![row])).await?;
        sink.flush().await?;
        let _ = sink.tidy().await;
        ensure!(
            world.waiting("sheaf").await? > 0,
            "byte {at}: it was written anew"
        );
    }
    std::fs::write(&file, &written)?;
    // As after a start, so that what failed is not waited for.
    sink.held().await?;
    sink.follow();
    sink.flush().await?;
    sink.tidy().await?;
    assert_eq!(world.waiting("sheaf").await?, 0);
    assert_eq!(asked().await?, wanted - value(1) + 10);
    injected.require();
    Ok(())
}
