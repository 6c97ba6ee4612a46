//! `sheaf partition plan|archive|restore`: history that is left to the lake, and put back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sheaf_config::Settings;
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::archive::{
    Archive, ArchiveState, archive_again, begin_restore, count_late, fetch_boundaries,
    finish_restore, list_archives, prepare_restored,
};
use sheaf_store::maintenance::{DetachedPartition, list_detached, measure_partitions};
use sheaf_store::partitions::Partition;
use sheaf_store::settings as database_settings;
use sheaf_upkeep::{ArchiveLake, Step, advance};
use tokio::time::Instant;

use crate::archiving::{ArchivingLake, is_due};
use crate::cli::TargetArgs;
use crate::commands::settings;
use crate::connect::Access;
use crate::exit::{Stop, say};
use crate::lake;

/// How often the lake is looked at while it is waited for. It is committed every few seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The way to a database, and its settings.
struct Target {
    settings: Settings,
    upkeep: Pool,
    lake: ArchivingLake,
}

impl Target {
    async fn of(target: &TargetArgs) -> Result<Target> {
        let (access, settings): (Access, Settings) = settings::target(target)?;
        let pools = access.pools();
        let database = Arc::new(database_settings::Settings::read(&pools.app).await?);
        let settings_of_lake = settings.lake.as_ref();
        let settings_of_lake = settings_of_lake.context(Stop::Usage(
            "there is no lake: set lake.location, where a server writes it".to_owned(),
        ))?;
        let slot = &settings.changes.slot;
        let lake = lake::archive(settings_of_lake, slot, &pools.upkeep, &database)?;
        Ok(Target {
            lake: ArchivingLake(lake),
            upkeep: pools.upkeep,
            settings,
        })
    }
}

/// Shows what is archived, what is on its way, and what is due.
pub(super) async fn plan(target: &TargetArgs, as_json: bool) -> Result<()> {
    let target = Target::of(target).await?;
    let now = Timestamp::now();
    let after = target.settings.archive.after;
    let boundaries = fetch_boundaries(&target.upkeep).await?;
    let archives = list_archives(&target.upkeep).await?;
    let (late, _) = count_late(&target.upkeep).await?;
    let view = target.lake.look().await?;
    let mut attached = measure_partitions(&target.upkeep).await?;
    attached.retain(|one| {
        archives
            .iter()
            .all(|archive| archive.partition != one.partition)
    });
    let due = |partition: &Partition| is_due(partition, after, now);
    let answer = json!({
        "closed_before": boundaries.closed_before,
        "archived_before": boundaries.archived_before,
        "after_seconds": after.map(|after| after.as_secs()),
        "late_events": late,
        "lake_covers": view.covered.map(|covered| covered.to_string()),
        "archives": archives.iter().map(described).collect::<Vec<Value>>(),
        "next": attached.iter().filter(|one| due(&one.partition)).map(|one| json!({
            "name": one.partition.name,
            "from": one.partition.lower,
            "to": one.partition.upper,
            "rows": one.row_estimate,
            "bytes": one.heap_bytes + one.index_bytes,
        })).collect::<Vec<Value>>(),
    });
    if as_json {
        return Ok(say(&answer.to_string())?);
    }
    let time = |time: Option<Timestamp>| time.map_or("nothing".to_owned(), |time| time.to_string());
    say(&format!(
        "read from the lake before: {}; closed to writes before: {}; late events: {late}",
        time(boundaries.archived_before),
        time(boundaries.closed_before)
    ))?;
    if view.covered.is_none() {
        say("the lake does not follow, so that nothing can be archived now")?;
    }
    for archive in &archives {
        let why = archive.failure.as_ref();
        let why = why.map_or(String::new(), |(why, at)| {
            format!("; failed at {at}: {why}")
        });
        say(&format!(
            "{:<40} {}{why}",
            archive.partition.name,
            archive.state.as_str()
        ))?;
    }
    for one in attached.iter().filter(|one| due(&one.partition)) {
        say(&format!("{:<40} due", one.partition.name))?;
    }
    if after.is_none() {
        say("none is archived by itself: archive.after is not set")?;
    }
    Ok(())
}

fn described(archive: &Archive) -> Value {
    let digest = archive.digest.as_ref();
    json!({
        "name": archive.partition.name,
        "from": archive.partition.lower,
        "to": archive.partition.upper,
        "state": archive.state.as_str(),
        "keyframes": archive.keyframes,
        "events": digest.map(|digest| digest.events),
        "facts": digest.map(|digest| digest.facts),
        "digest": digest.map(|digest| digest.sum.clone()),
        "closed_at": archive.closed_at,
        "dropped_at": archive.dropped_at,
        "failure": archive.failure.as_ref().map(|(why, _)| why),
    })
}

/// Archives the oldest partition, to its end. Killed anywhere and run again it goes on, and so does a running server.
pub(super) async fn archive(target: &TargetArgs, name: &str, wait: Duration) -> Result<()> {
    let target = Target::of(target).await?;
    let begun = Instant::now();
    require_next(&target.upkeep, name).await?;
    archive_again(&target.upkeep, name).await?;
    loop {
        let now = Timestamp::now();
        let wanted = |partition: &Partition| partition.name == name && partition.upper <= now;
        let step = advance(&target.upkeep, &target.lake, wanted, now).await;
        let step = step.with_context(|| {
            format!("{name} is still in PostgreSQL; run sheaf partition archive again to go on")
        })?;
        if let Some(archive) = find(&target.upkeep, name).await?
            && archive.state == ArchiveState::Dropped
        {
            return Ok(say(&described(&archive).to_string())?);
        }
        match step {
            Step::Nothing | Step::Wait if begun.elapsed() >= wait => {
                let seconds = wait.as_secs();
                anyhow::bail!(
                    "the lake does not hold what was written by then, after {seconds} s: does a server run that follows changes? \
                     Run sheaf partition archive again to go on; sheaf partition plan shows where it is"
                );
            }
            Step::Nothing | Step::Wait => tokio::time::sleep(LOOK_EVERY).await,
            _ => {}
        }
    }
}

async fn find(upkeep: &Pool, name: &str) -> Result<Option<Archive>> {
    let archives = list_archives(upkeep).await?;
    let mut archives = archives.into_iter();
    Ok(archives.find(|archive| archive.partition.name == name))
}

/// The partition that has to be archived before this one, where there is one on its way or restored.
fn first_before<'a>(archives: &'a [Archive], name: &str) -> Option<&'a str> {
    let is_dropped = |archive: &&Archive| {
        archive.partition.name == name && archive.state == ArchiveState::Dropped
    };
    if archives.iter().any(|archive| is_dropped(&archive)) {
        return None;
    }
    let mut archives = archives.iter();
    let going = archives.find(|archive| archive.state != ArchiveState::Dropped)?;
    Some(going.partition.name.as_str()).filter(|going| *going != name)
}

/// Whether a partition is the one that can be archived: the one on its way, or the oldest, which has ended.
async fn require_next(upkeep: &Pool, name: &str) -> Result<()> {
    let archives = list_archives(upkeep).await?;
    if let Some(first) = first_before(&archives, name) {
        let text = format!("{first} is being archived, or was restored; it is first");
        return Err(Stop::Usage(text).into());
    }
    if archives
        .iter()
        .any(|archive| archive.partition.name == name)
    {
        return Ok(());
    }
    let attached = measure_partitions(upkeep).await?;
    let oldest = attached.first().map(|one| &one.partition);
    let Some(found) = attached.iter().find(|one| one.partition.name == name) else {
        return Err(Stop::NotFound(format!("the history has no partition {name:?}")).into());
    };
    if found.partition.upper > Timestamp::now() {
        let upper = found.partition.upper;
        let text = format!("{name} takes writes until {upper}; it cannot be archived before");
        return Err(Stop::Usage(text).into());
    }
    match oldest {
        Some(oldest) if oldest.name != name => {
            let text = format!("{} is older and has to be archived first", oldest.name);
            Err(Stop::Usage(text).into())
        }
        _ => Ok(()),
    }
}

/// Puts the partition that was archived last back, from where it is read again. It stays closed to writes.
pub(super) async fn restore(target: &TargetArgs, name: &str) -> Result<()> {
    let target = Target::of(target).await?;
    let upkeep = &target.upkeep;
    let restoring = begin_restore(upkeep).await?;
    let restoring = restoring.context(Stop::Usage(
        "another sheaf partition restore is at work".to_owned(),
    ))?;
    let archive = find(upkeep, name).await?;
    let archive =
        archive.with_context(|| Stop::NotFound(format!("no partition {name:?} was archived")))?;
    if archive.state == ArchiveState::Dropped {
        require_newest(upkeep, &archive).await?;
        load(&target, &archive).await?;
        // What was compared is what is put back.
        restoring.require().await?;
    }
    finish_restore(upkeep, name, Timestamp::now()).await?;
    restoring.release().await?;
    Ok(say(&json!({"name": name, "restored": true}).to_string())?)
}

/// Whether a partition is the one that can be put back: what is archived is all before one instant, which does not move meanwhile.
async fn require_newest(upkeep: &Pool, archive: &Archive) -> Result<()> {
    let archives = list_archives(upkeep).await?;
    let is_going = |other: &&Archive| {
        let is_here = matches!(other.state, ArchiveState::Dropped | ArchiveState::Restored);
        other.partition.lower > archive.partition.lower && !is_here
    };
    if let Some(going) = archives.iter().find(is_going) {
        let text = format!("{} is being archived", going.partition.name);
        return Err(Stop::Usage(text).into());
    }
    let before = fetch_boundaries(upkeep).await?.archived_before;
    if before == Some(archive.partition.upper) {
        return Ok(());
    }
    let before = before.map_or("nothing".to_owned(), |before| before.to_string());
    let text = format!("the partition that ends at {before} was archived last, and is first");
    Err(Stop::Usage(text).into())
}

/// Brings what the lake holds of a partition back into a table, and compares it with what the partition had.
async fn load(target: &Target, archive: &Archive) -> Result<()> {
    let (partition, lake) = (&archive.partition, &target.lake.0);
    anyhow::ensure!(
        prepare_restored(&target.upkeep, &partition.name).await?,
        "{} is not what it was a moment ago: look at sheaf partition plan",
        partition.name
    );
    let (events, removed) = lake.load(partition).await?;
    let loaded = lake.digest_partition(&partition.name).await?;
    let digest = archive.digest.as_ref();
    let digest = digest.context("what the partition came to when it was dropped")?;
    // Of what is older than it is kept, the lake has the last values alone.
    let sum = format!("{:032x}", (loaded.digest + removed).sum);
    let is_whole = i64::try_from(events) == Ok(digest.events);
    anyhow::ensure!(
        (is_whole || removed.facts > 0) && sum == digest.sum,
        "the lake gave {events} events in {} facts with hashes that sum up to {sum}, and the partition had {} in {} with {}; \
         reads go on from the lake",
        loaded.digest.facts,
        digest.events,
        digest.facts,
        digest.sum
    );
    Ok(())
}

/// Whether everything that was acknowledged is in the history, in PostgreSQL or in the lake.
pub(super) async fn has_whole_history(upkeep: &Pool) -> Result<bool> {
    let archives = list_archives(upkeep).await?;
    let detached = list_detached(upkeep).await?;
    let is_archived = |one: &DetachedPartition| {
        archives
            .iter()
            .any(|archive| archive.partition == one.partition)
    };
    Ok(detached.iter().all(is_archived))
}

/// What of the history is archived, in words, and whether anything stops it.
pub(super) async fn check(upkeep: &Pool) -> Result<String> {
    let archives = list_archives(upkeep).await?;
    if archives.is_empty() {
        return Ok("nothing is archived".to_owned());
    }
    let (late, last_at) = count_late(upkeep).await?;
    let boundaries = fetch_boundaries(upkeep).await?;
    let mut going = archives
        .iter()
        .filter(|archive| archive.state != ArchiveState::Dropped);
    if let Some((name, (why, at))) = going
        .clone()
        .find_map(|archive| Some((&archive.partition.name, archive.failure.as_ref()?)))
    {
        anyhow::bail!("the archive of {name} failed at {at}: {why}");
    }
    let way = going.next().map_or(String::new(), |archive| {
        format!(", {} is {}", archive.partition.name, archive.state.as_str())
    });
    let before = boundaries
        .archived_before
        .map_or("nothing".to_owned(), |before| {
            format!("everything before {before}")
        });
    let last = last_at.map_or(String::new(), |at| format!(", the last at {at}"));
    Ok(format!(
        "{before} is read from the lake{way}; {late} late events{last}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_waits_for_older_ones_that_are_on_their_way_or_restored() {
        use ArchiveState::{Closed, Dropped, Restored};
        let archives = |states: &[ArchiveState]| -> Vec<Archive> {
            let numbered = states.iter().zip(["p0", "p1", "p2"]);
            numbered
                .map(|(state, name)| Archive {
                    partition: Partition {
                        name: name.to_owned(),
                        lower: Timestamp::MIN,
                        upper: Timestamp::MAX,
                    },
                    state: *state,
                    keyframes: 0,
                    digest: None,
                    awaited: None,
                    closed_at: Timestamp::MIN,
                    verified_at: None,
                    dropped_at: None,
                    failure: None,
                })
                .collect()
        };
        for (states, name, first) in [
            (&[][..], "p0", None),
            (&[Dropped, Closed], "p1", None),
            (&[Dropped, Closed], "p2", Some("p1")),
            (&[Dropped, Restored], "p1", None),
            (&[Restored, Restored], "p0", None),
            (&[Restored, Restored], "p1", Some("p0")),
            // What is done is shown.
            (&[Dropped, Restored], "p0", None),
        ] {
            let archives = archives(states);
            assert_eq!(first_before(&archives, name), first, "{states:?} {name}");
        }
    }
}
