//! Whether the lake was found to have what PostgreSQL has.

use std::time::Duration;

use anyhow::{Result, bail};
use sheaf_model::Timestamp;
use sheaf_store::reconcile::{Run, read_run};

use super::{Check, Finding};
use crate::connect::Access;

/// Several times as long as a server lets it be by default.
const CLEAN_WITHIN: Duration = Duration::from_secs(86_400);

pub(super) async fn check(access: &Access) -> Check {
    let run = read_run(&access.pools().upkeep).await;
    Check {
        name: "reconciliation".into(),
        outcome: run
            .map_err(Into::into)
            .and_then(|run| finding(&run, Timestamp::now())),
    }
}

fn finding(run: &Run, now: Timestamp) -> Result<Finding> {
    let (Some(ended_at), Some(outcome)) = (run.ended_at, run.outcome.as_deref()) else {
        let text = "the lake was never compared with PostgreSQL; sheaf reconcile does";
        return Ok(Finding::Ok(text.to_owned()));
    };
    if outcome == "different" {
        let facts: i64 = run.differences.iter().sum();
        bail!(
            "the lake differs from PostgreSQL in {facts} facts, as of {ended_at}: see sheaf reconcile, and --repair of it"
        );
    }
    let Some(clean_at) = run.clean_at else {
        return Ok(Finding::Warn(format!(
            "the lake could not be compared with PostgreSQL, last tried {ended_at}"
        )));
    };
    if now.since(clean_at) > CLEAN_WITHIN {
        return Ok(Finding::Warn(format!(
            "the lake was last found to have what PostgreSQL has at {clean_at}; sheaf reconcile compares them"
        )));
    }
    Ok(Finding::Ok(format!(
        "the lake has what PostgreSQL has, as of {clean_at}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_fails_and_what_nobody_knows_is_a_warning() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).expect("a time");
        let run = |outcome: &str, clean_at: Option<i64>| Run {
            ended_at: Some(at(1_000)),
            outcome: Some(outcome.to_owned()),
            clean_at: clean_at.map(at),
            ..Run::default()
        };
        let is_ok = |run: &Run, now| matches!(finding(run, at(now)), Ok(Finding::Ok(_)));
        let is_warning = |run: &Run, now| matches!(finding(run, at(now)), Ok(Finding::Warn(_)));
        assert!(is_ok(&Run::default(), 1_000));
        assert!(is_ok(&run("clean", Some(1_000)), 1_500));
        assert!(is_warning(&run("clean", Some(1_000)), 1_000 + 86_401));
        assert!(is_warning(&run("not_compared", None), 1_500));
        assert!(finding(&run("different", Some(500)), at(1_500)).is_err());
    }
}
