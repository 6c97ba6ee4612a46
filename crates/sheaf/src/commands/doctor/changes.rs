//! The change stream as `sheaf doctor` sees it: what it follows, how much log that holds back, and who is behind.

use std::time::Duration;

use anyhow::{Result, anyhow};
use sheaf_cdc::retention::{Pressure, RETAINED_BYTES_MAX, Retention};
use sheaf_cdc::slot::{MadeBecause, SlotDecision, decide};
use sheaf_config::{Changes, Settings};
use sheaf_pg::check_role;
use sheaf_store::changes::{
    ListedSink, ListedSlot, Publication, PublicationLook, SlotLook, SnapshotStep, list_sinks,
    list_slots, look_at_publication, look_at_slot,
};

use super::{Check, Finding};
use crate::changes;
use crate::connect::{Access, CDC, OWNER};

/// A sink that works stores every second how far it is, and may take a minute for one thing before it has failed.
const STILL_MAX: Duration = Duration::from_secs(120);

/// Who is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follower {
    /// Servers with these settings.
    Servers,
    /// `sheaf dev`, while it runs.
    Dev,
    /// Nobody who is known.
    Nobody,
}

/// Looks at all of it. Without settings it is the database of `sheaf dev`.
pub(super) async fn check(access: &Access, settings: Option<&Settings>) -> Result<Vec<Check>> {
    let follower = match settings {
        None => Follower::Dev,
        Some(settings) if changes::is_taken(settings) => Follower::Servers,
        Some(_) => Follower::Nobody,
    };
    let upkeep = access.pools().upkeep;
    let slot = settings.map_or(Changes::SLOT, |settings| &settings.changes.slot);
    let look = look_at_slot(&upkeep, slot).await?;
    let slots = list_slots(&upkeep).await?;
    if follower != Follower::Servers
        && look.slot.is_none()
        && look.remembered.is_none()
        && slots.is_empty()
    {
        let told = "nobody follows the changes, and no slot holds log for them".to_owned();
        return Ok(vec![Check::new("changes", Ok(told))]);
    }
    let mut checks = Vec::new();
    let mut add = |name: String, outcome| {
        let name = name.into();
        checks.push(Check { name, outcome });
    };
    if follower == Follower::Servers {
        add(CDC.to_owned(), check_follower(access).await);
    }
    let publication = look_at_publication(&upkeep).await?;
    let is_followed = look.slot.as_ref().is_some_and(|slot| slot.is_active);
    add(
        "change publication".to_owned(),
        of_publication(
            &publication,
            look.remembered.is_some() || look.slot.is_some(),
        ),
    );
    add("change slot".to_owned(), of_slot(slot, &look, follower));
    if let Some(found) = &look.slot {
        let retention = Retention {
            retained_bytes: found.retained_bytes,
            keep_bytes_max: look.keep_bytes_max,
            safe_bytes: found.safe_bytes,
        };
        add("change log".to_owned(), of_log(slot, retention));
    }
    let sinks = list_sinks(&upkeep, slot).await?;
    for sink in &sinks {
        let name = format!("change sink {}", sink.name);
        add(name, Ok(of_sink(sink, is_followed)));
    }
    // Those of other settings than these are fed by somebody with others.
    if let Some(settings) = settings
        && is_followed
        && follower == Follower::Servers
    {
        let has_cache = settings.cache.bytes_max > 0;
        for name in changes::sink_names(&settings.changes, settings.lake.as_ref(), has_cache) {
            if sinks.iter().all(|sink| sink.name != name) {
                add(format!("change sink {name}"), Ok(of_absent_sink()));
            }
        }
    }
    add("change slots".to_owned(), Ok(of_other_slots(slot, &slots)));
    Ok(checks)
}

async fn check_follower(access: &Access) -> Result<Finding> {
    let client = access.tls.connect(&access.cdc).await?;
    check_role(&client, CDC, OWNER).await?;
    Ok(Finding::Ok("connects".to_owned()))
}

/// Whoever follows mends it within seconds: found otherwise, nobody does, or somebody changes it again and again.
fn of_publication(look: &PublicationLook, is_made: bool) -> Result<Finding> {
    if !look.is_there && !is_made {
        let text = "there is none yet; whoever follows first makes it";
        return Ok(Finding::Ok(text.to_owned()));
    }
    let faults = match (look.is_there, look.faults.is_empty()) {
        (true, true) => {
            let text = "has the tables and options that the change stream needs";
            return Ok(Finding::Ok(text.to_owned()));
        }
        (true, false) => look.faults.join(", "),
        (false, _) => "it is missing".to_owned(),
    };
    Err(anyhow!(
        "{faults}: what commits meanwhile is shown to no sink. Whoever follows mends it, and every sink begins anew with a \
         snapshot; start a server with [changes] if none follows"
    ))
}

fn of_slot(name: &str, look: &SlotLook, follower: Follower) -> Result<Finding> {
    match decide(look, Publication::Unchanged) {
        SlotDecision::Busy => Ok(Finding::Ok(format!("{name} is followed"))),
        SlotDecision::Follow => Ok(match follower {
            Follower::Servers => Finding::Warn(format!(
                "{name} shows everything, and nobody follows it: PostgreSQL keeps its log until a server with [changes] does"
            )),
            Follower::Dev => Finding::Ok(format!("{name} is followed while sheaf dev runs")),
            Follower::Nobody => Finding::Warn(format!(
                "nobody follows {name}, and PostgreSQL keeps its log: start a server with [changes], or SELECT \
                 pg_drop_replication_slot('{name}')"
            )),
        }),
        SlotDecision::Make(MadeBecause::First) => {
            let text = format!("{name} is made by whoever follows first");
            Ok(match follower {
                Follower::Servers => Finding::Warn(text),
                Follower::Dev | Follower::Nobody => Finding::Ok(text),
            })
        }
        SlotDecision::Make(because) => Err(anyhow!(
            "{name} cannot be followed: {}. Whoever follows makes it anew, and every sink begins anew with a snapshot; start a \
             server with [changes] if none follows",
            because.as_str()
        )),
        SlotDecision::Standby => Err(anyhow!("the server takes no writes, and is not followed")),
        SlotDecision::Foreign => Err(anyhow!(
            "{name} is a slot of something else: give changes.slot another name"
        )),
    }
}

fn of_log(slot: &str, retention: Retention) -> Result<Finding> {
    let bytes_max = retention.bytes_max(RETAINED_BYTES_MAX);
    let held = amount(retention.retained_bytes);
    let told = format!(
        "{slot} holds back {held} of log, of {} at most",
        megabytes(bytes_max)
    );
    let behind = "see which sink is behind, and that somebody follows";
    match retention.pressure(RETAINED_BYTES_MAX) {
        Pressure::None => Ok(Finding::Ok(told)),
        Pressure::Unknown => Ok(Finding::Warn(told)),
        Pressure::Alarm => Ok(Finding::Warn(format!("{told}: {behind}"))),
        Pressure::GiveUp => Err(anyhow!(
            "{told}: {behind}. Sinks that fail are given up, and begin anew. If nobody is to follow: SELECT \
             pg_drop_replication_slot('{slot}')"
        )),
    }
}

fn of_sink(sink: &ListedSink, is_followed: bool) -> Finding {
    let is_whole = sink.step == SnapshotStep::Done;
    let place = match sink.position {
        Some(position) => format!("holds the stream up to {position}"),
        None => "holds nothing of the stream yet".to_owned(),
    };
    let snapshot = if is_whole {
        String::new()
    } else {
        let (rows, table) = (sink.snapshot_rows, sink.step.as_str());
        format!(", {rows} rows of its snapshot, which is in {table}")
    };
    let told = format!(
        "{place}{snapshot}, {} behind the furthest",
        megabytes(sink.behind_bytes)
    );
    let lacks = sink.behind_bytes > 0 || !is_whole;
    // Where nobody follows, all stand still, and the slot tells of it.
    if is_followed && lacks && sink.still_for > STILL_MAX {
        let seconds = sink.still_for.as_secs();
        return Finding::Warn(format!(
            "{told}, and has taken nothing for {seconds} s: the log of the server that follows says why it fails"
        ));
    }
    Finding::Ok(told)
}

fn of_absent_sink() -> Finding {
    let text = "holds nothing: it was given up because it held back too much log, or has not begun. It begins with a snapshot once \
                it works; the log of the server that follows says why it does not";
    Finding::Warn(text.to_owned())
}

/// Those that hold log for nobody, whoever made them.
fn of_other_slots(followed: &str, slots: &[ListedSlot]) -> Finding {
    let unread = slots
        .iter()
        .filter(|slot| slot.name != followed && !slot.is_active);
    let told: Vec<String> = unread
        .map(|slot| {
            let held = amount(slot.retained_bytes);
            let origin = if slot.is_ours {
                "was made for changes"
            } else {
                "is of this database"
            };
            let name = &slot.name;
            format!(
                "{name} {origin}, holds back {held} of log and is read by nobody: SELECT pg_drop_replication_slot('{name}') \
                 unless something is to read it"
            )
        })
        .collect();
    if told.is_empty() {
        return Finding::Ok("no other slot waits for a reader".to_owned());
    }
    Finding::Warn(told.join("; "))
}

fn amount(bytes: Option<i64>) -> String {
    bytes.map_or("an unknown amount".to_owned(), megabytes)
}

fn megabytes(bytes: i64) -> String {
    format!("{} MB", bytes.max(0).cast_unsigned().div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
