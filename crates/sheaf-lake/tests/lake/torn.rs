//! A process that dies within the writing of a file: nobody ever reads the half of it, and it is removed in the end.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sheaf_cdc::change::Batch;
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{LakeSink, remove_orphans};
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::child;
use crate::world::{World, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
/// What a process gets that writes beyond the bound on its files, which is in blocks of so many bytes.
const SIGXFSZ: i32 = 25;
const BLOCK_BYTES: u64 = 512;
const LONG: i64 = 300;

/// Text that no compression makes much smaller.
fn noise(seed: i64) -> String {
    let mut state = seed.unsigned_abs() * 2 + 1;
    let mut text = String::new();
    for _ in 0..60 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.push_str(&format!("{:016x}", state ^ (state >> 29)));
    }
    text
}

/// A small commit, and one whose data file has some hundred kilobytes.
fn life() -> [Batch; 2] {
    let long = (0..LONG).map(|number| {
        let attrs = format!(r#"{{"4":"{}"}}"#, noise(number));
        event(100 + number, NOON, 0, Op::Patch, &attrs)
    });
    [
        transaction(
            20,
            vec![entity(5), event(5, NOON, 0, Op::Patch, r#"{"1":1}"#)],
        ),
        transaction(30, long.collect()),
    ]
}

async fn live(sink: &mut LakeSink) -> Result<()> {
    if sink.held().await? == Held::Nothing {
        sink.begin(position(10, 0)).await?;
    }
    sink.follow();
    for batch in life() {
        sink.apply(&batch).await?;
        sink.flush().await?;
    }
    Ok(())
}

fn files_below(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files_below(&entry.path(), found)?;
        } else {
            found.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_within_a_file_its_half_is_never_read_and_removed_when_it_is_old() -> Result<()> {
    let injected = Injected::new("kill within the writing of a file");
    let world = World::create().await?;
    let mut kinds = Vec::new();
    // Within a description, and within the groups of rows of a data file: near its begin, in its middle.
    for blocks in [1, 60, 150] {
        let catalog = format!("torn{blocks}");
        let bound = format!("ulimit -c 0; ulimit -f {blocks};");
        let test = "torn::a_process_whose_files_end_early";
        let output = child::command(&world, &catalog, test, &json!({}), &bound)?.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.signal() == Some(SIGXFSZ),
            "{:?}: {errors}",
            output.status
        );
        let mut files = Vec::new();
        files_below(&world.folder(&catalog), &mut files)?;
        let halves = files
            .iter()
            .filter(|(_, length)| *length == blocks * BLOCK_BYTES);
        let halves: Vec<&PathBuf> = halves.map(|(path, _)| path).collect();
        ensure!(halves.len() == 1, "{files:?}");
        let half = halves[0].clone();
        kinds.push(
            half.extension()
                .map(|kind| kind.to_string_lossy().into_owned()),
        );
        injected.count();
        // What there is, is what was committed before.
        let name = world.options(&catalog).name;
        let standing = sheaf_store::lake::read_lake(&world.cdc(), &name).await?;
        let position = standing.as_ref().and_then(|lake| lake.position.stream);
        match position {
            None => {}
            Some(held) => {
                ensure!(held.commit_lsn.0 == 20, "{held}");
                assert_eq!(world.facts(&catalog).await?.len(), 1);
            }
        }
        let mut sink = world.sink(&catalog)?;
        live(&mut sink).await?;
        let wanted = usize::try_from(1 + LONG)?;
        let facts = world.facts(&catalog).await?;
        assert_eq!(facts.len(), wanted);
        ensure!(half.exists(), "it may be of a commit that is being made");
        let late = SystemTime::now() + Duration::from_secs(7200);
        remove_orphans(&world.cdc(), &world.options(&catalog), Duration::ZERO, late).await?;
        ensure!(!half.exists(), "{half:?} is still there");
        assert_eq!(world.facts(&catalog).await?, facts);
    }
    assert_eq!(
        kinds,
        ["json", "parquet", "parquet"].map(|kind| Some(kind.to_owned()))
    );
    injected.require();
    Ok(())
}

/// Does nothing, but for the test above, which starts it as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_files_end_early() -> Result<()> {
    let Some((cdc, options, Value::Object(_))) = child::work()? else {
        return Ok(());
    };
    live(&mut LakeSink::new(&cdc, options)?).await
}
