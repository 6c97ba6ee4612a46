//! `sheaf partition`: work on one partition of the history at a time, as `sheaf_upkeep`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::interval::read_interval;
use sheaf_store::maintenance::{
    self, DetachedPartition, MeasuredPartition, PartitionState, list_detached, measure_partitions,
};

use crate::cli::PartitionCommand;
use crate::commands::{archive, settings};
use crate::exit::{Stop, say};

pub(super) async fn run(command: PartitionCommand) -> Result<()> {
    match command {
        PartitionCommand::List { json, target } => {
            list(&settings::access(&target)?.pools().upkeep, json).await
        }
        PartitionCommand::Reindex { name, target } => {
            let upkeep = settings::access(&target)?.pools().upkeep;
            attached(&upkeep, &name).await?;
            let invalid = maintenance::reindex(&upkeep, &name).await?;
            let answer = json!({"name": name, "reindexed": true, "invalid_dropped": invalid});
            Ok(say(&answer.to_string())?)
        }
        PartitionCommand::Vacuum { name, target } => {
            let upkeep = settings::access(&target)?.pools().upkeep;
            attached(&upkeep, &name).await?;
            maintenance::vacuum(&upkeep, &name).await?;
            Ok(say(&json!({"name": name, "vacuumed": true}).to_string())?)
        }
        PartitionCommand::Detach {
            name,
            forget,
            target,
        } => detach(&settings::access(&target)?.pools().upkeep, &name, forget).await,
        PartitionCommand::Attach { name, target } => {
            let upkeep = settings::access(&target)?.pools().upkeep;
            let state = require_state(&upkeep, &name).await?;
            maintenance::attach(&upkeep, &name, state)
                .await
                .with_context(|| {
                    format!("{name} stays as it was; where events of its time were written since, their partition holds it")
                })?;
            Ok(say(&json!({"name": name, "attached": true}).to_string())?)
        }
        PartitionCommand::Plan { json, target } => archive::plan(&target, json).await,
        PartitionCommand::Archive { name, wait, target } => {
            archive::archive(&target, &name, Duration::from_secs(wait)).await
        }
        PartitionCommand::Restore { name, target } => archive::restore(&target, &name).await,
    }
}

/// Whether the history has partitions for what comes next, and all of them usable, in words.
pub(super) async fn check(upkeep: &Pool, now: Timestamp) -> Result<String> {
    let decided = read_interval(upkeep).await?;
    let measured = measure_partitions(upkeep).await?;
    let detached = list_detached(upkeep).await?.len();
    if let Some(broken) = measured.iter().find(|one| one.invalid_indexes > 0) {
        let name = &broken.partition.name;
        bail!("{name} has an invalid index; run sheaf partition reindex {name}");
    }
    if measured.is_empty() {
        return Ok("none yet; a running server makes them".to_owned());
    }
    let attached = measured.len();
    let open = measured.into_iter().filter(|one| one.accepts_writes);
    let open: Vec<_> = open.map(|one| one.partition).collect();
    let reached = sheaf_upkeep::reach(&open, now);
    if reached < now.saturating_add_micros(sheaf_upkeep::alarm_micros(decided.bounded)) {
        bail!(
            "there is none for {reached}; a running server makes them ahead, and a write the one that it lacks"
        );
    }
    let (interval, asked) = (decided.bounded.as_str(), decided.interval.as_str());
    if decided.is_bounded() {
        let most = decided.attached_max;
        bail!(
            "{attached} of at most {most} are attached, so that new ones hold a {interval} each where the rate asks for a {asked}: \
             detach old ones with sheaf partition detach; up to 400, a larger max_locks_per_transaction allows more"
        );
    }
    Ok(format!(
        "{attached} attached without a gap until {reached}, new ones hold a {interval} each, {detached} detached"
    ))
}

async fn require_state(upkeep: &Pool, name: &str) -> Result<PartitionState> {
    let state = maintenance::fetch_state(upkeep, name).await?;
    Ok(state.ok_or_else(|| not_found(name))?)
}

fn not_found(name: &str) -> Stop {
    Stop::NotFound(format!("the history has no partition {name:?}"))
}

async fn attached(upkeep: &Pool, name: &str) -> Result<MeasuredPartition> {
    let partitions = measure_partitions(upkeep).await?;
    let found = partitions
        .into_iter()
        .find(|measured| measured.partition.name == name);
    Ok(found.ok_or_else(|| not_found(name))?)
}

async fn detach(upkeep: &Pool, name: &str, forget: bool) -> Result<()> {
    let now = Timestamp::now();
    let state = require_state(upkeep, name).await?;
    if state == PartitionState::Attached {
        let partition = attached(upkeep, name).await?;
        refuse_unless_past(&partition, forget, now)?;
    }
    maintenance::detach(upkeep, name, state, now)
        .await
        .with_context(|| {
            format!("{name} may be closed to writes; run sheaf partition detach again to go on, or attach to undo it")
        })?;
    Ok(say(&json!({"name": name, "detached": true}).to_string())?)
}

/// Whether a partition may be taken out: never one that now or a later instant belongs to, and no other without being
/// told that its history goes.
fn refuse_unless_past(
    measured: &MeasuredPartition,
    forget: bool,
    now: Timestamp,
) -> Result<(), Stop> {
    let partition = &measured.partition;
    let name = &partition.name;
    if partition.upper > now {
        let upper = partition.upper;
        let text = format!("{name} takes writes until {upper}; it cannot be detached before");
        return Err(Stop::Usage(text));
    }
    if forget {
        return Ok(());
    }
    let rows = measured.row_estimate.map_or_else(
        || "an unknown number of".to_owned(),
        |rows| format!("about {rows}"),
    );
    Err(Stop::Usage(format!(
        "history would lose {rows} events observed from {} to {}: reads at those times answer as if they had never been \
         reported, and a repeated one would be stored again; documents keep their values. The table stays until somebody \
         drops it, and sheaf partition attach {name} puts it back while nothing of its time has been written since. \
         Repeat with --forget",
        partition.lower, partition.upper
    )))
}

async fn list(upkeep: &Pool, as_json: bool) -> Result<()> {
    let interval = read_interval(upkeep).await?;
    let partitions = measure_partitions(upkeep).await?;
    let detached = list_detached(upkeep).await?;
    let is_out = |one: &&DetachedPartition| {
        let name = &one.partition.name;
        !partitions.iter().any(|other| other.partition.name == *name)
    };
    let detached: Vec<&DetachedPartition> = detached.iter().filter(is_out).collect();
    if as_json {
        let answer = json!({
            "interval": interval.bounded.as_str(),
            "asked_by_rate": interval.interval.as_str(),
            "attached_max": interval.attached_max,
            "reason": interval.reason,
            "decided_at": interval.decided_at,
            "partitions": partitions.iter().map(described).collect::<Vec<Value>>(),
            "detached": detached.iter().map(|one| json!({
                "name": one.partition.name,
                "from": one.partition.lower,
                "to": one.partition.upper,
                "rows": one.row_estimate,
                "closed_at": one.closed_at,
            })).collect::<Vec<Value>>(),
        });
        return Ok(say(&answer.to_string())?);
    }
    say(&format!(
        "new partitions hold a {}, the rate asks for a {}: {}",
        interval.bounded.as_str(),
        interval.interval.as_str(),
        interval.reason
    ))?;
    say(&format!(
        "{:<40} {:<27} {:<27} {:>14} {:>9} {:>9}  VACUUMED",
        "NAME", "FROM", "TO", "ROWS", "HEAP MB", "INDEX MB"
    ))?;
    for one in &partitions {
        say(&line(one))?;
    }
    for one in detached {
        say(&format!(
            "{:<40} {:<27} {:<27} {:>14}  detached",
            one.partition.name,
            one.partition.lower.to_string(),
            one.partition.upper.to_string(),
            rows(one.row_estimate),
        ))?;
    }
    Ok(())
}

fn described(one: &MeasuredPartition) -> Value {
    json!({
        "name": one.partition.name,
        "from": one.partition.lower,
        "to": one.partition.upper,
        "accepts_writes": one.accepts_writes,
        "rows": one.row_estimate,
        "heap_bytes": one.heap_bytes,
        "index_bytes": one.index_bytes,
        "invalid_indexes": one.invalid_indexes,
        "vacuumed_at": one.vacuumed_at,
    })
}

fn line(one: &MeasuredPartition) -> String {
    let vacuumed = one
        .vacuumed_at
        .map_or_else(|| "never".to_owned(), |time| time.to_string());
    let mut line = format!(
        "{:<40} {:<27} {:<27} {:>14} {:>9} {:>9}  {vacuumed}",
        one.partition.name,
        one.partition.lower.to_string(),
        one.partition.upper.to_string(),
        rows(one.row_estimate),
        megabytes(one.heap_bytes),
        megabytes(one.index_bytes),
    );
    if !one.accepts_writes {
        line.push_str("  closed to writes");
    }
    if one.invalid_indexes > 0 {
        line.push_str("  an index is invalid: reindex it");
    }
    line
}

fn rows(estimate: Option<i64>) -> String {
    estimate.map_or_else(|| "unknown".to_owned(), |rows| format!("~{rows}"))
}

fn megabytes(bytes: i64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use sheaf_store::partitions::Partition;

    use super::*;

    #[test]
    fn only_a_past_partition_may_be_detached_and_only_with_the_word_for_it() {
        let at = |text: &str| Timestamp::parse(text).expect("a time").0;
        let measured = |rows| MeasuredPartition {
            partition: Partition {
                name: "entity_events_20240501_20240601".to_owned(),
                lower: at("2024-05-01T00:00:00Z"),
                upper: at("2024-06-01T00:00:00Z"),
            },
            accepts_writes: true,
            row_estimate: rows,
            heap_bytes: 0,
            index_bytes: 0,
            invalid_indexes: 0,
            vacuumed_at: None,
        };
        for (now, rows, forget, expected) in [
            (
                "2024-05-31T23:59:59Z",
                Some(7),
                true,
                Some("takes writes until 2024-06-01"),
            ),
            (
                "2024-04-01T00:00:00Z",
                Some(0),
                true,
                Some("takes writes until 2024-06-01"),
            ),
            ("2024-06-01T00:00:00Z", Some(7), true, None),
            (
                "2024-06-01T00:00:00Z",
                Some(7),
                false,
                Some("about 7 events"),
            ),
            (
                "2024-06-01T00:00:00Z",
                None,
                false,
                Some("an unknown number of events"),
            ),
        ] {
            let said = refuse_unless_past(&measured(rows), forget, at(now))
                .err()
                .map(|stop| stop.to_string());
            let is_expected = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected),
                (said, expected) => said.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{now} {rows:?} {forget}: {said:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_tenths_of_a_megabyte() {
        for (bytes, shown) in [
            (0, "0.0"),
            (99_999, "0.0"),
            (150_000, "0.1"),
            (12_345_678, "12.3"),
        ] {
            assert_eq!(megabytes(bytes), shown);
        }
    }
}
