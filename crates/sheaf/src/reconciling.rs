//! The lake of a server compared with PostgreSQL, again and again, and what that came to as metrics.

use std::time::Duration;

use sheaf_lake::reconcile::{DifferenceKind, Outcome, ReconcileRequest, Reconciler, Report};
use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::reconcile::{Run, count_hours, read_run};

use crate::serving::StopSignal;

/// Connections of it: those that count side by side, and one that says who looks.
pub(crate) const CONNECTIONS: usize = 4;
/// How often the last one is looked at: several servers take turns, and the command line looks too.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Of what did not change, so much is read again each time: a file may decay, and statistics may be lost.
const FILES_AGAIN: i64 = 10;
const PARTITION_AGAIN_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Differences that are told in the log.
const TOLD: usize = 10;

const CLEAN_AGE_SECONDS: &str = "sheaf_reconcile_clean_age_seconds";
const DIFFERENCES: &str = "sheaf_reconcile_differences";
const HOURS: &str = "sheaf_reconcile_hours";
const HOURS_DIFFERING: &str = "sheaf_reconcile_hours_differing";

/// Compares until told to stop.
pub(crate) async fn run(reconciler: Reconciler, cdc: Pool, every: Duration, mut stop: StopSignal) {
    let begun = Timestamp::now();
    // Hours are counted by looks at both sides alone: a row for each tenant and hour, which are many.
    let mut counted: Option<(Option<Timestamp>, i64)> = None;
    loop {
        let round = async {
            let now = Timestamp::now();
            match read_run(&cdc).await {
                Ok(run) => {
                    let known = counted.filter(|(ended_at, _)| *ended_at == run.ended_at);
                    let known = match known {
                        Some(known) => Some(known),
                        None => count_hours(&cdc)
                            .await
                            .ok()
                            .map(|hours| (run.ended_at, hours)),
                    };
                    counted = known;
                    show(&run, known.map(|(_, hours)| hours), now);
                    if is_due(run.ended_at, begun, every, now) {
                        compare(&reconciler).await;
                    }
                }
                Err(error) => {
                    let error = sheaf_pg::chain(&error);
                    tracing::warn!(error, "what the last reconciliation came to is unknown");
                }
            }
        };
        tokio::select! {
            () = round => {}
            () = stop.requested() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.requested() => return,
        }
    }
}

/// Whether it is time: so long after the last one, and after the server began where there was none since.
fn is_due(last: Option<Timestamp>, begun: Timestamp, every: Duration, now: Timestamp) -> bool {
    now.since(last.unwrap_or(begun)) >= every
}

async fn compare(reconciler: &Reconciler) {
    let request = ReconcileRequest {
        files_again: FILES_AGAIN,
        partition_again_after: Some(PARTITION_AGAIN_AFTER),
        differences_max: TOLD,
        ..ReconcileRequest::default()
    };
    match reconciler.run(&request).await {
        Ok(report) => tell(&report),
        Err(error) => {
            let error = sheaf_pg::chain(&error);
            tracing::warn!(error, "the lake could not be compared with PostgreSQL");
        }
    }
}

fn tell(report: &Report) {
    match report.outcome {
        Outcome::Clean => tracing::debug!(
            hours = report.work.hours,
            "the lake has what PostgreSQL has"
        ),
        Outcome::Different => tracing::error!(
            facts = report.counts.total(),
            hours_left = report.hours_left,
            archived_hours = report.archived.len(),
            damaged_files = ?report.damaged,
            first = ?report.differences,
            "the lake differs from PostgreSQL: see sheaf reconcile"
        ),
        Outcome::NotCompared(reason) => {
            tracing::info!(
                reason = reason.as_str(),
                "the lake was not compared with PostgreSQL"
            );
        }
    }
}

fn show(run: &Run, hours: Option<i64>, now: Timestamp) {
    // Unknown is not a number, and not zero.
    let age = run
        .clean_at
        .map_or(f64::NAN, |at| now.since(at).as_secs_f64());
    metrics::gauge!(CLEAN_AGE_SECONDS).set(age);
    metrics::gauge!(HOURS).set(hours.map_or(f64::NAN, |hours| hours as f64));
    metrics::gauge!(HOURS_DIFFERING).set(run.hours_differing as f64);
    for (kind, count) in DifferenceKind::ALL.into_iter().zip(run.differences) {
        metrics::gauge!(DIFFERENCES, "kind" => kind.as_str()).set(count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_so_long_after_the_last_one_or_after_the_start() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let every = Duration::from_secs(60);
        for (last, begun, now, wanted) in [
            (None, 100, 159, false),
            (None, 100, 160, true),
            (Some(30), 100, 100, true),
            (Some(90), 100, 149, false),
            (Some(90), 100, 150, true),
        ] {
            let due = is_due(last.map(at), at(begun), every, at(now));
            assert_eq!(due, wanted, "{last:?} {begun} {now}");
        }
    }
}
