//! The replicas of a running server: those of the configuration, also after its file has changed.
//!
//! Only this section is read again. A file that cannot be read, or be valid, changes nothing and is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sheaf_config::{Database, DatabaseUrl, Settings};
use sheaf_query::{SourcePools, Sources};
use tokio::signal::unix::{SignalKind, signal};

use crate::connect::Access;
use crate::serving::StopSignal;

/// How often the file is looked at: it is one call of the operating system, and who changes it waits no longer.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reads the settings anew.
pub(crate) type Reread = Box<dyn Fn() -> Result<Settings> + Send + Sync>;

/// The file that the settings came from.
pub(crate) struct SettingsFile {
    pub(crate) path: PathBuf,
    pub(crate) reread: Reread,
}

/// What a file looks like from outside.
type Mark = Option<(SystemTime, u64)>;

/// The pools of a replica: reached as the primary is, at another address.
fn pools_of(database: &Database, url: &DatabaseUrl) -> Result<SourcePools> {
    let database = Database {
        url: url.clone(),
        ..database.clone()
    };
    let pools = Access::to(&database)?.pools();
    Ok(SourcePools {
        app: pools.app,
        search: pools.search,
    })
}

/// Adds the replicas of the settings.
pub(crate) fn add(settings: &Settings, sources: &Sources) -> Result<()> {
    change(
        &settings.database,
        &BTreeMap::new(),
        &settings.replicas,
        sources,
    )
}

/// Makes these replicas of those.
fn change(
    database: &Database,
    before: &BTreeMap<String, DatabaseUrl>,
    after: &BTreeMap<String, DatabaseUrl>,
    sources: &Sources,
) -> Result<()> {
    let mut added = Vec::new();
    for (name, url) in after {
        if before.get(name) != Some(url) {
            let pools = pools_of(database, url)
                .with_context(|| format!("reading how the replica {name} is reached"))?;
            added.push((name, url, pools));
        }
    }
    for (name, url, pools) in added {
        tracing::info!(replica = name, %url, "a replica may answer reads");
        sources.add_replica(name, pools);
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        tracing::info!(replica = name, "a replica is taken out");
        sources.remove_replica(name);
    }
    Ok(())
}

/// Follows the file until told to stop.
pub(crate) async fn follow(
    file: SettingsFile,
    settings: Settings,
    sources: Arc<Sources>,
    mut stop: StopSignal,
) -> Result<()> {
    let mut asked = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let database = settings.database;
    let mut replicas = settings.replicas;
    let mut mark = mark_of(&file.path).await;
    loop {
        let is_asked = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => false,
            _ = asked.recv() => true,
            () = stop.requested() => return Ok(()),
        };
        let seen = mark_of(&file.path).await;
        if !is_asked && seen == mark {
            continue;
        }
        mark = seen;
        let changed = (file.reread)().and_then(|settings| {
            change(&database, &replicas, &settings.replicas, &sources)?;
            Ok(settings.replicas)
        });
        match changed {
            Ok(now) => replicas = now,
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the configuration was changed and cannot be used; the replicas stay as they are"
            ),
        }
    }
}

async fn mark_of(path: &Path) -> Mark {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
