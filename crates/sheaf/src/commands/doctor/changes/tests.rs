use sheaf_model::{ChangePosition, Lineage, Lsn};
use sheaf_store::changes::{RememberedSlot, ServerSlot};

use super::*;

/// How it is told, and a part of what is.
fn told(found: Result<Finding>) -> (&'static str, String) {
    match found {
        Ok(Finding::Ok(text)) => ("ok", text),
        Ok(Finding::Warn(text)) => ("warn", text),
        Err(error) => ("fail", format!("{error:#}")),
    }
}

fn require(found: Result<Finding>, status: &str, part: &str) {
    let found = told(found);
    assert!(
        found.0 == status && found.1.contains(part),
        "{found:?} is not {status} with {part}"
    );
}

#[test]
fn a_publication_fails_where_it_shows_less_or_more_than_it_should() {
    let look = |is_there, faults: &[&str]| PublicationLook {
        is_there,
        faults: faults.iter().map(ToString::to_string).collect(),
    };
    require(of_publication(&look(true, &[]), true), "ok", "needs");
    require(of_publication(&look(false, &[]), false), "ok", "none yet");
    require(of_publication(&look(false, &[]), true), "fail", "missing");
    let faults = ["deletes are published", "tenants is not published"];
    let found = of_publication(&look(true, &faults), true);
    require(
        found,
        "fail",
        "deletes are published, tenants is not published: ",
    );
}

fn slot() -> SlotLook {
    SlotLook {
        system_id: 7,
        timeline: Some(1),
        keep_bytes_max: None,
        slot: Some(ServerSlot {
            plugin: Some("pgoutput".to_owned()),
            is_of_this_database: true,
            is_active: true,
            wal_status: Some("reserved".to_owned()),
            confirmed: Some(Lsn(500)),
            safe_bytes: None,
            retained_bytes: Some(0),
        }),
        remembered: Some(RememberedSlot {
            lineage: Lineage {
                system_id: 7,
                timeline: 1,
            },
            begins_at: Lsn(100),
            promised: Lsn(500),
        }),
    }
}

#[test]
fn a_slot_fails_where_what_was_written_cannot_be_shown_any_more() {
    let found = |follower, change: &dyn Fn(&mut SlotLook)| {
        let mut look = slot();
        change(&mut look);
        of_slot("sheaf", &look, follower)
    };
    use Follower::{Dev, Nobody, Servers};
    let server = |look: &mut SlotLook, change: &dyn Fn(&mut ServerSlot)| {
        change(look.slot.as_mut().expect("it is there"));
    };
    require(found(Servers, &|_| ()), "ok", "is followed");
    let unread = |look: &mut SlotLook| server(look, &|slot| slot.is_active = false);
    require(
        found(Servers, &unread),
        "warn",
        "until a server with [changes] does",
    );
    require(
        found(Nobody, &unread),
        "warn",
        "pg_drop_replication_slot('sheaf')",
    );
    require(found(Dev, &unread), "ok", "while sheaf dev runs");
    let dropped = |look: &mut SlotLook| look.slot = None;
    require(found(Servers, &dropped), "fail", "it was dropped");
    let never = |look: &mut SlotLook| {
        (look.slot, look.remembered) = (None, None);
    };
    require(found(Servers, &never), "warn", "whoever follows first");
    require(found(Nobody, &never), "ok", "whoever follows first");
    let lost = |look: &mut SlotLook| {
        server(look, &|slot| {
            slot.is_active = false;
            slot.wal_status = Some("lost".to_owned());
        });
    };
    require(found(Servers, &lost), "fail", "had removed log");
    let foreign = |look: &mut SlotLook| server(look, &|slot| slot.plugin = None);
    require(found(Servers, &foreign), "fail", "changes.slot");
    let standby = |look: &mut SlotLook| look.timeline = None;
    require(found(Servers, &standby), "fail", "takes no writes");
}

#[test]
fn log_that_is_held_back_warns_from_a_quarter_on_and_fails_at_the_most() {
    let held = |retained_bytes| Retention {
        retained_bytes,
        ..Retention::default()
    };
    let gib = |gib: i64| Some(gib << 30);
    require(
        of_log("s", held(gib(3))),
        "ok",
        "3072 MB of log, of 16384 MB",
    );
    require(of_log("s", held(gib(4))), "warn", "which sink is behind");
    require(of_log("s", held(gib(16))), "fail", "are given up");
    require(of_log("s", held(None)), "warn", "an unknown amount");
}

#[test]
fn a_sink_that_lacks_something_and_stands_still_is_told() {
    let sink = |step, behind_bytes, still_s| ListedSink {
        name: "file".to_owned(),
        step,
        snapshot_rows: 12,
        position: Some(ChangePosition {
            timeline: 1,
            commit_lsn: Lsn(200),
            ordinal: 3,
        }),
        behind_bytes,
        still_for: Duration::from_secs(still_s),
    };
    let (done, events) = (SnapshotStep::Done, SnapshotStep::Events);
    for (step, behind, still, is_followed, status, part) in [
        (done, 0, 3600, true, "ok", "up to 1:0/C8:3, 0 MB behind"),
        (done, 5 << 20, 10, true, "ok", "5 MB behind"),
        (
            done,
            1,
            121,
            true,
            "warn",
            "1 MB behind the furthest, and has taken nothing for 121 s",
        ),
        (done, 1, 121, false, "ok", "1 MB behind"),
        (
            events,
            0,
            1,
            true,
            "ok",
            "12 rows of its snapshot, which is in events",
        ),
        (events, 0, 121, true, "warn", "taken nothing"),
    ] {
        let found = of_sink(&sink(step, behind, still), is_followed);
        require(Ok(found), status, part);
    }
    require(Ok(of_absent_sink()), "warn", "given up");
}

#[test]
fn slots_that_nobody_reads_are_told_and_others_are_not() {
    let slot = |name: &str, is_active, is_ours| ListedSlot {
        name: name.to_owned(),
        is_active,
        retained_bytes: Some(1),
        is_ours,
    };
    let none = [slot("ours", false, true), slot("read", true, false)];
    require(Ok(of_other_slots("ours", &none)), "ok", "no other slot");
    let some = [slot("old", false, true), slot("strange", false, false)];
    let found = of_other_slots("ours", &some);
    require(
        Ok(found),
        "warn",
        "old was made for changes, holds back 1 MB",
    );
    let found = of_other_slots("ours", &some);
    require(Ok(found), "warn", "strange is of this database");
}
