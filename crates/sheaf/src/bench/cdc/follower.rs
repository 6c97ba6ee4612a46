//! The process that follows, and what it has brought into the lake.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use sheaf_lake::LakeOptions;
use sheaf_store::lake::{LakeStanding, read_lake};

use super::commits::{self, Commit};
use super::{MEGABYTE, VALUES};
use crate::bench::cost::resident_bytes_max;
use crate::bench::world::World;

/// Where the lake is, in the world's place.
pub(in crate::bench) const FOLDER: &str = "lake";
const FACTS: &str = "facts";
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a build that was not optimised takes for the full scale is less.
const HOLDS_WITHIN: Duration = Duration::from_secs(1_800);
/// What a question to it may take: that of its own ten million values has them all in memory, as DuckDB has.
const QUESTION_BYTES_MAX: u64 = 1 << 30;

/// One life of it.
pub(in crate::bench) struct Follower<'a> {
    world: &'a World,
    authority: String,
    begun: Instant,
    begun_ms: u64,
    /// The facts that the lake held before.
    held: u64,
    /// The facts that PostgreSQL held.
    wanted: u64,
}

/// A lake that holds everything.
pub(in crate::bench) struct Reached {
    /// Since the process was started.
    pub(super) seconds: f64,
    /// Facts that were added since then.
    pub(super) added: u64,
    pub(super) commits: Vec<Commit>,
    begun_ms: u64,
    held: u64,
}

impl Reached {
    pub(super) fn rate(&self) -> f64 {
        self.added as f64 / self.seconds
    }

    /// Facts a second while files were full; absent where there was only one commit.
    pub(super) fn sustained(&self) -> Option<f64> {
        commits::sustained(&self.commits, self.begun_ms, self.held)
    }

    pub(super) fn bytes_per_fact(&self) -> f64 {
        commits::bytes_per_fact(&self.commits, self.begun_ms)
    }
}

impl<'a> Follower<'a> {
    pub(in crate::bench) async fn start(world: &'a World) -> Result<Follower<'a>> {
        let held = match facts_table(world).await? {
            Some(location) => total(&commits_of(&location)?),
            None => 0,
        };
        let wanted = facts_in_postgres(world).await?;
        let (begun, begun_ms) = (Instant::now(), now_ms()?);
        // A string of JSON is one of TOML.
        let folder = serde_json::to_string(&world.path(FOLDER))?;
        let config = format!(
            "[lake]\nlocation = {folder}\nquery_bytes_max = {QUESTION_BYTES_MAX}\n\
             tenant_bytes_max = {QUESTION_BYTES_MAX}\n"
        );
        let authority = world.start_second(&config).await?;
        Ok(Follower {
            world,
            authority,
            begun,
            begun_ms,
            held,
            wanted,
        })
    }

    /// Waits until the lake's committed files hold every fact that there was when it was started.
    pub(in crate::bench) async fn until_all(&self) -> Result<Reached> {
        let mut known = None;
        let mut facts = 0;
        while self.begun.elapsed() < HOLDS_WITHIN {
            let seconds = self.begun.elapsed().as_secs_f64();
            let location = facts_table(self.world).await?;
            if let Some(location) = location.filter(|now| known.as_ref() != Some(now)) {
                let commits = commits_of(&location)?;
                facts = total(&commits);
                if facts >= self.wanted {
                    return self.reached(seconds, commits);
                }
                known = Some(location);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the lake holds {facts} facts of {}", self.wanted);
    }

    fn reached(&self, seconds: f64, commits: Vec<Commit>) -> Result<Reached> {
        let facts = total(&commits);
        if facts > self.wanted {
            bail!("the lake holds {facts} facts of {}", self.wanted);
        }
        Ok(Reached {
            seconds,
            added: facts - self.held,
            commits,
            begun_ms: self.begun_ms,
            held: self.held,
        })
    }

    /// The most memory that it has needed.
    pub(super) fn megabytes_max(&self) -> Result<f64> {
        Ok(resident_bytes_max(self.world.second_pid()?)? / MEGABYTE)
    }

    /// Leaves it to serve, and tells where.
    pub(in crate::bench) fn stay(self) -> String {
        self.authority
    }

    pub(in crate::bench) async fn stop(self) -> Result<()> {
        self.world.stop_second().await
    }
}

/// The lake as it was last committed; absent before anything followed.
pub(in crate::bench) async fn standing(world: &World) -> Result<Option<LakeStanding>> {
    let name = LakeOptions::in_folder(world.path(FOLDER)).name;
    Ok(read_lake(&world.pools.app, &name).await?)
}

async fn facts_in_postgres(world: &World) -> Result<u64> {
    let row = world
        .client
        .query_one("SELECT count(*) FROM sheaf.entity_events", &[])
        .await
        .context("counting events")?;
    Ok(u64::try_from(row.get::<_, i64>(0))? * VALUES)
}

/// Where the newest description of the lake's facts is.
async fn facts_table(world: &World) -> Result<Option<String>> {
    let tables = standing(world).await?.map(|standing| standing.tables);
    let mut tables = tables.into_iter().flatten();
    let facts = tables.find(|(name, _)| name == FACTS);
    Ok(facts.map(|(_, location)| location))
}

fn commits_of(location: &str) -> Result<Vec<Commit>> {
    let path = location
        .strip_prefix("file://")
        .with_context(|| format!("{location} is no file"))?;
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    commits::read(&text)
}

fn total(commits: &[Commit]) -> u64 {
    commits.last().map_or(0, |commit| commit.total)
}

fn now_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_millis())?)
}
