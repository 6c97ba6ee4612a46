//! The files at a location are of one lake, and for nobody else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use sheaf_cdc::sink::Sink;
use sheaf_lake::{LakeError, LakeOptions, LakeSink, Location, remove_orphans};
use sheaf_model::Op;
use sheaf_testkit::Injected;

use crate::world::{World, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";

async fn begun(world: &World) -> Result<LakeSink> {
    let mut sink = world.sink("sheaf")?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    let row = event(5, NOON, 0, Op::Patch, r#"{"1":1}"#);
    sink.apply(&transaction(20, vec![row])).await?;
    sink.flush().await?;
    Ok(sink)
}

/// How a sink is refused that asks for what is at its location.
async fn opened(world: &World, options: LakeOptions) -> Result<LakeError> {
    let mut sink = LakeSink::new(&world.cdc(), options)?;
    let refused = sink.held().await.err().context("it was opened")?;
    Ok(*refused
        .source
        .downcast()
        .map_err(|other| anyhow::anyhow!(other))?)
}

/// How the removal of files that nobody needs is refused, years after the last was written.
async fn swept(world: &World, options: &LakeOptions) -> Result<LakeError> {
    let late = SystemTime::now() + Duration::from_secs(1 << 28);
    let swept = remove_orphans(&world.cdc(), options, Duration::ZERO, late).await;
    swept.err().context("it was swept")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_another_lake_are_neither_used_nor_removed() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("lake of another owner");
    drop(begun(&world).await?);
    let facts = world.facts("sheaf").await?;
    // A second lake, before and after it has rows in the catalogue.
    let mut second = world.options("second");
    second.location = world.options("sheaf").location;
    for _ in 0..2 {
        let refused = opened(&world, second.clone()).await?;
        ensure!(matches!(refused, LakeError::Foreign { .. }), "{refused:?}");
        let refused = swept(&world, &second).await?;
        ensure!(matches!(refused, LakeError::Foreign { .. }), "{refused:?}");
        injected.count();
    }
    assert_eq!(world.facts("sheaf").await?, facts);
    // One whose rows in the catalogue say the same, as those of a copied database, at files that another has begun.
    let owner = world.folder("sheaf").join("sheaf-lake.owner");
    let own = std::fs::read(&owner)?;
    std::fs::write(&owner, "another")?;
    injected.count();
    let options = world.options("sheaf");
    let refused = opened(&world, options.clone()).await?;
    ensure!(matches!(refused, LakeError::Foreign { .. }), "{refused:?}");
    let refused = swept(&world, &options).await?;
    ensure!(matches!(refused, LakeError::Foreign { .. }), "{refused:?}");
    std::fs::write(&owner, own)?;
    LakeSink::new(&world.cdc(), options)?.held().await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_is_refused_at_another_place_than_its_own() -> Result<()> {
    let world = World::create().await?;
    let injected = Injected::new("moved lake");
    drop(begun(&world).await?);
    let moved = world.folder("moved");
    let copied = Command::new("cp")
        .arg("-a")
        .args([world.folder("sheaf"), moved.clone()])
        .status()?;
    ensure!(copied.success(), "{copied}");
    injected.count();
    let options = LakeOptions {
        location: Location::Folder(moved),
        ..world.options("sheaf")
    };
    let refused = opened(&world, options.clone()).await?;
    ensure!(
        matches!(refused, LakeError::Elsewhere { .. }),
        "{refused:?}"
    );
    let refused = swept(&world, &options).await?;
    ensure!(
        matches!(refused, LakeError::Elsewhere { .. }),
        "{refused:?}"
    );
    // Another way to the same folder is the same place.
    let link = world.dir.path().join("link");
    std::os::unix::fs::symlink(world.folder("sheaf"), &link)?;
    let options = LakeOptions {
        location: Location::Folder(link),
        ..world.options("sheaf")
    };
    LakeSink::new(&world.cdc(), options)?.held().await?;
    injected.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_on_the_machine_may_read_the_files() -> Result<()> {
    let world = World::create().await?;
    drop(begun(&world).await?);
    let mut seen = 0;
    require_closed(&world.folder("sheaf"), &mut seen)?;
    assert!(seen > 10, "{seen} files and folders");
    Ok(())
}

fn require_closed(path: &Path, seen: &mut u32) -> Result<()> {
    let metadata = std::fs::metadata(path)?;
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "{path:?} has {mode:o}");
    *seen += 1;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            require_closed(&entry?.path(), seen)?;
        }
    }
    Ok(())
}
