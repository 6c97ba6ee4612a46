//! `sheaf reconcile`: whether the lake has what PostgreSQL has, and documents what their events say.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sheaf_config::{Lake, Settings};
use sheaf_lake::reconcile::{
    Difference, DifferenceKind, NotCompared, Outcome, ReconcileOptions, ReconcileRequest, Report,
};
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::invariants::{DocumentCheck, check_documents};
use sheaf_store::tenants::fetch_tenant;

use crate::cli::ReconcileArgs;
use crate::commands::settings;
use crate::connect::Access;
use crate::exit::{Stop, say};
use crate::lake;

/// One that reads and stores for each of what is counted side by side, and some that ask beside.
const CONNECTIONS: usize = 8;
const HOUR_MICROS: i64 = 3_600_000_000;

pub(super) async fn run(args: ReconcileArgs) -> Result<()> {
    let (access, settings): (Access, Settings) = settings::target(&args.target)?;
    let request = request(&args, &access).await?;
    let settings_of_lake = settings.lake.as_ref().context(Stop::Usage(
        "there is no lake: set lake.location, where a server writes it".to_owned(),
    ))?;
    let report = compare(
        &args,
        &access,
        settings_of_lake,
        &settings.changes.slot,
        &request,
    );
    let report = report.await?;
    let documents = match args.documents {
        true => Some(check_documents(&access.upkeep().await?, i64::MAX).await?),
        false => None,
    };
    if args.json {
        say(&described(&report, documents.as_ref()).to_string())?;
    } else {
        for line in lines(&report, documents.as_ref()) {
            say(&line)?;
        }
    }
    verdict(&report, documents.as_ref())
}

async fn compare(
    args: &ReconcileArgs,
    access: &Access,
    settings: &Lake,
    slot: &str,
    request: &ReconcileRequest,
) -> Result<Report> {
    let cdc = Pool::new(&access.cdc, CONNECTIONS, &access.tls);
    let options = |options: ReconcileOptions| ReconcileOptions {
        settled_after: Duration::from_secs(args.settled_after),
        wait_max: Duration::from_secs(args.wait),
        ..options
    };
    let reconciler = lake::reconciler(settings, slot, &cdc, options)?;
    let report = reconciler.run(request).await;
    report.context("comparing the lake with PostgreSQL")
}

async fn request(args: &ReconcileArgs, access: &Access) -> Result<ReconcileRequest> {
    let tenant = match &args.tenant {
        None => None,
        Some(name) => {
            let found = fetch_tenant(&access.pools().app, name).await?;
            let found =
                found.ok_or_else(|| Stop::NotFound(format!("there is no tenant {name:?}")))?;
            Some(found.tenant.0)
        }
    };
    Ok(ReconcileRequest {
        reads_whole: args.full,
        tenant,
        from: instant(args.from.as_deref(), "--from")?,
        until: instant(args.to.as_deref(), "--to")?,
        repairs_max: if args.repair {
            ReconcileRequest::REPAIRS_MAX
        } else {
            0
        },
        differences_max: args.limit,
        ..ReconcileRequest::default()
    })
}

fn instant(text: Option<&str>, argument: &str) -> Result<Option<Timestamp>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let read = Timestamp::parse(text).map(|(time, _)| time);
    let read = read.or_else(|_| Timestamp::parse_date(text));
    let usage = || Stop::Usage(format!("{argument}: {text:?} is no instant and no day"));
    Ok(Some(read.with_context(usage)?))
}

/// What the command ends with.
fn verdict(report: &Report, documents: Option<&DocumentCheck>) -> Result<()> {
    if documents.is_some_and(|checked| !checked.violations.is_empty()) {
        let text = "documents differ from their events".to_owned();
        return Err(Stop::Different(text).into());
    }
    if let Outcome::NotCompared(reason) = report.outcome {
        return Err(Stop::NotCompared(format!("not compared: {}", reason.as_str())).into());
    }
    let is_repaired = report.repaired.is_some_and(|repaired| repaired.left == 0)
        && report.archived.is_empty()
        && report.hours_left == 0;
    if report.outcome == Outcome::Different && !is_repaired {
        let text = "the lake differs from PostgreSQL".to_owned();
        return Err(Stop::Different(text).into());
    }
    Ok(())
}

fn shown(difference: &Difference) -> Value {
    let key = &difference.key;
    json!({
        "kind": difference.kind.as_str(),
        "tenant_id": key.tenant,
        "entity_id": key.entity,
        "attribute_id": key.attribute,
        "observed_at": time_of(key.observed_at),
        "seq": key.seq,
    })
}

fn time_of(micros: i64) -> String {
    let time = Timestamp::from_micros(micros);
    time.map_or_else(|_| micros.to_string(), |time| time.to_string())
}

fn described(report: &Report, documents: Option<&DocumentCheck>) -> Value {
    let counts = DifferenceKind::ALL.map(|kind| (kind.as_str().to_owned(), report.counts.of(kind)));
    let archived = report.archived.iter();
    let reason = match report.outcome {
        Outcome::NotCompared(reason) => Some(reason.as_str()),
        Outcome::Clean | Outcome::Different => None,
    };
    let work = &report.work;
    json!({
        "outcome": report.outcome.as_str(),
        "reason": reason,
        "received_before": report.cutoff,
        "differences": counts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "facts": report.differences.iter().map(shown).collect::<Vec<_>>(),
        "damaged_files": report.damaged,
        "archived_hours": archived
            .map(|hour| json!({"tenant_id": hour.tenant, "hour": time_of(hour.hour.saturating_mul(HOUR_MICROS))}))
            .collect::<Vec<_>>(),
        "hours_left": report.hours_left,
        "periods_unknown": report.periods_unknown,
        "letters": report.letters,
        "repaired": report.repaired.map(|repaired| json!({"events": repaired.asked, "facts_left": repaired.left})),
        "read": {
            "partitions_whole": work.partitions_whole,
            "partitions_new": work.partitions_new,
            "events": work.events,
            "unreadable": work.unreadable,
            "files": work.files,
            "files_gone": work.files_gone,
            "facts": work.facts,
            "decayed": work.decayed,
            "hours": work.hours,
            "hours_drilled": work.hours_drilled,
        },
        "documents": documents.map(|checked| json!({
            "documents": checked.documents,
            "events": checked.rows,
            "violations": checked.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
    })
}

fn lines(report: &Report, documents: Option<&DocumentCheck>) -> Vec<String> {
    let work = &report.work;
    let mut lines = vec![match report.outcome {
        Outcome::Clean => format!(
            "clean: {} hours of tenants are equal, of what was received before {}",
            work.hours, report.cutoff
        ),
        Outcome::Different => {
            let each = DifferenceKind::ALL
                .map(|kind| format!("{} {}", report.counts.of(kind), kind.as_str()));
            format!(
                "different: {} facts, of what was received before {}",
                each.join(", "),
                report.cutoff
            )
        }
        Outcome::NotCompared(reason) => format!("not compared: {}", reason.as_str()),
    }];
    if matches!(
        report.outcome,
        Outcome::NotCompared(NotCompared::NoLake | NotCompared::Busy)
    ) {
        return lines;
    }
    lines.push(format!(
        "read {} events of {} partitions and {} facts of {} files; looked into {} hours",
        work.events,
        work.partitions_whole + work.partitions_new,
        work.facts,
        work.files,
        work.hours_drilled
    ));
    for difference in &report.differences {
        let key = &difference.key;
        let attribute = key.attribute;
        let attribute = attribute.map_or_else(|| "none".to_owned(), |number| number.to_string());
        lines.push(format!(
            "{}: tenant {} entity {} attribute {attribute} at {} seq {}",
            difference.kind.as_str(),
            key.tenant,
            key.entity,
            time_of(key.observed_at),
            key.seq
        ));
    }
    let told = report.differences.len() as u64;
    if report.counts.total() > told {
        lines.push(format!("and {} more facts", report.counts.total() - told));
    }
    if report.counts.of(DifferenceKind::Changed) > 0 {
        lines.push(
            "which side of a changed fact is right cannot be known; --repair takes PostgreSQL's"
                .to_owned(),
        );
    }
    for hour in &report.archived {
        lines.push(format!(
            "archived: tenant {} hour {}: the lake is not what it was when PostgreSQL had it",
            hour.tenant,
            time_of(hour.hour.saturating_mul(HOUR_MICROS))
        ));
    }
    for location in &report.damaged {
        lines.push(format!(
            "damaged: {location}: put back what was written there; until then nothing is put right"
        ));
    }
    if report.hours_left > 0 {
        lines.push(format!(
            "{} more hours differ, too many for one time",
            report.hours_left
        ));
    }
    if report.periods_unknown > 0 {
        lines.push(format!(
            "{} periods were given away before they were counted, and are not compared",
            report.periods_unknown
        ));
    }
    if report.letters > 0 {
        lines.push(format!(
            "{} facts wait as dead letters: see GET /v1/dead-letters",
            report.letters
        ));
    }
    if work.decayed > 0 {
        lines.push(format!("{} files are not what they were", work.decayed));
    }
    if let Some(repaired) = &report.repaired {
        lines.push(format!(
            "put right {} events; {} facts differ still",
            repaired.asked, repaired.left
        ));
    }
    if let Some(checked) = documents {
        lines.push(format!(
            "{} documents compared with {} events: {} differ",
            checked.documents,
            checked.rows,
            checked.violations.len()
        ));
        lines.extend(checked.violations.iter().map(ToString::to_string));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use sheaf_lake::reconcile::{DifferenceCounts, Repaired, Work};
    use sheaf_store::invariants::Violation;

    fn report(outcome: Outcome, repaired: Option<Repaired>) -> Report {
        Report {
            outcome,
            cutoff: Timestamp::MIN,
            counts: DifferenceCounts::default(),
            differences: Vec::new(),
            damaged: BTreeSet::new(),
            archived: Vec::new(),
            hours_left: 0,
            periods_unknown: 0,
            letters: 0,
            repaired,
            work: Work::default(),
        }
    }

    #[test]
    fn it_ends_with_what_is_known_to_differ_before_what_nobody_knows() {
        let violation = Violation {
            invariant: "documents_are_folds",
            counterexample: "another value".to_owned(),
        };
        let wrong = DocumentCheck {
            violations: vec![violation],
            ..DocumentCheck::default()
        };
        let right = DocumentCheck::default();
        let repaired = |left| Some(Repaired { asked: 2, left });
        let behind = Outcome::NotCompared(NotCompared::Behind);
        for (claim, outcome, repaired, documents, wanted) in [
            ("equal", Outcome::Clean, None, &right, None),
            ("different", Outcome::Different, None, &right, Some("5")),
            ("put right", Outcome::Different, repaired(0), &right, None),
            (
                "put right in part",
                Outcome::Different,
                repaired(1),
                &right,
                Some("5"),
            ),
            ("not compared", behind, None, &right, Some("6")),
            ("documents", Outcome::Clean, None, &wrong, Some("5")),
            ("documents alone", behind, None, &wrong, Some("5")),
            (
                "documents still",
                Outcome::Different,
                repaired(0),
                &wrong,
                Some("5"),
            ),
        ] {
            let verdict = verdict(&report(outcome, repaired), Some(documents));
            let code = verdict.err().map(|error| match error.downcast_ref() {
                Some(Stop::Different(_)) => "5",
                Some(Stop::NotCompared(_)) => "6",
                other => panic!("{claim}: {other:?}"),
            });
            assert_eq!(code, wanted, "{claim}");
        }
    }
}
