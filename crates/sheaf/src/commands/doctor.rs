//! `sheaf doctor`: what a server would find wrong with its database, each thing by itself.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sheaf_model::Timestamp;
use sheaf_pg::{Fence, check_role};
use sheaf_store::invariants::{self, InvariantKind, Violation};
use sheaf_store::maintenance::list_detached;
use sheaf_store::migrate;
use tokio::time::Instant;
use tokio_postgres::Config;

use crate::cli::DoctorArgs;
use crate::commands::{partition, settings};
use crate::connect::{APP, Access, OWNER, SEARCH, UPKEEP, WRITER};
use crate::exit::say;

/// How many documents of each tenant are compared with their history, unless all are asked for: a second or so.
const SAMPLE_DOCUMENTS: i64 = 1000;

/// A standby that takes longer answers no request either.
const STANDBY_WAIT_MAX: Duration = Duration::from_secs(10);

/// What does not hold once a part of the history was taken out: there is less of it than was acknowledged.
const OF_THE_WHOLE_HISTORY: &str = "events_are_in_the_ledger";

/// One thing that was looked at.
struct Check {
    name: &'static str,
    outcome: Result<String>,
}

pub(super) async fn run(args: DoctorArgs) -> Result<()> {
    let access = settings::access(&args.target)?;
    let mut checks = Vec::new();
    for (name, config) in [
        (APP, &access.configs.app),
        (SEARCH, &access.configs.search),
        (WRITER, &access.configs.writer),
    ] {
        let outcome = check_bound(&access, config, name).await;
        checks.push(Check { name, outcome });
    }
    let outcome = check_upkeep(&access).await;
    checks.push(Check {
        name: UPKEEP,
        outcome,
    });
    let outcome = check_schema(&access).await;
    let has_schema = outcome.is_ok();
    checks.push(Check {
        name: "schema",
        outcome,
    });
    let outcome = check_replicated_acks(&access).await;
    checks.push(Check {
        name: "replicated acknowledgements",
        outcome,
    });
    if has_schema {
        let upkeep = access.pools().upkeep;
        checks.push(Check {
            name: "partitions",
            outcome: partition::check(&upkeep, Timestamp::now()).await,
        });
        let has_whole_history = list_detached(&upkeep).await?.is_empty();
        checks.extend(check_invariants(&access, args.full, has_whole_history).await?);
    }
    print(&checks, args.json)?;
    let failed = checks.iter().filter(|check| check.outcome.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}

async fn check_bound(access: &Access, config: &Config, role: &str) -> Result<String> {
    let client = access.tls.connect(config).await?;
    check_role(&client, role, OWNER).await?;
    Ok("connects, and row-level security binds it".to_owned())
}

async fn check_upkeep(access: &Access) -> Result<String> {
    access.upkeep().await?;
    Ok("connects".to_owned())
}

async fn check_schema(access: &Access) -> Result<String> {
    let status = migrate::status(&access.upkeep().await?).await?;
    match status.version {
        Some(version) if status.pending.is_empty() => Ok(format!("version {version}, the newest")),
        Some(_) | None => bail!("lacks {}; run sheaf migrate up", status.pending.join(", ")),
    }
}

/// Whether ack=replicated can be served: by waiting for a standby as a write would.
async fn check_replicated_acks(access: &Access) -> Result<String> {
    let pools = access.pools();
    let (fence, task) = Fence::new(&pools.writer, pools.app);
    let task = tokio::spawn(task);
    if !fence.has_standby().await? {
        return Ok("not served, as synchronous_standby_names is empty".to_owned());
    }
    let waited = fence.pass(Instant::now() + STANDBY_WAIT_MAX).await;
    // A wait that goes on is ended with the fence.
    drop(fence);
    task.await?;
    waited.context("ack=replicated answers 503")?;
    Ok("served, a synchronous standby confirms".to_owned())
}

/// What must hold whatever happened. The rows themselves are read only if asked for, apart from a sample of documents.
async fn check_invariants(
    access: &Access,
    full: bool,
    has_whole_history: bool,
) -> Result<Vec<Check>> {
    let client = access.upkeep().await?;
    let mut checks = Vec::new();
    for invariant in invariants::ALL {
        if invariant.kind == InvariantKind::Rows && !full {
            continue;
        }
        if !has_whole_history && invariant.name == OF_THE_WHOLE_HISTORY {
            checks.push(not_compared(invariant.name));
            continue;
        }
        let violations = invariant.check(&client).await?;
        checks.push(Check {
            name: invariant.name,
            outcome: outcome_of(&violations, invariant.claim.to_owned()),
        });
    }
    if !has_whole_history {
        checks.push(not_compared(invariants::DOCUMENTS_ARE_THE_FOLD));
        return Ok(checks);
    }
    let documents_max = if full { i64::MAX } else { SAMPLE_DOCUMENTS };
    let done = invariants::check_documents(&client, documents_max).await?;
    let claim = format!(
        "{} documents are the fold of {} rows of history",
        done.documents, done.rows
    );
    checks.push(Check {
        name: invariants::DOCUMENTS_ARE_THE_FOLD,
        outcome: outcome_of(&done.violations, claim),
    });
    Ok(checks)
}

fn not_compared(name: &'static str) -> Check {
    let text = "not compared, since partitions were detached from the history";
    Check {
        name,
        outcome: Ok(text.to_owned()),
    }
}

fn outcome_of(violations: &[Violation], claim: String) -> Result<String> {
    match violations.first() {
        None => Ok(claim),
        Some(first) => bail!("{} counterexamples, first {first}", violations.len()),
    }
}

fn print(checks: &[Check], as_json: bool) -> Result<()> {
    let described = |check: &Check| match &check.outcome {
        Ok(detail) => ("ok", detail.clone()),
        Err(error) => ("fail", format!("{error:#}")),
    };
    if as_json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                let (status, detail) = described(check);
                json!({"name": check.name, "status": status, "detail": detail})
            })
            .collect();
        say(&json!({"checks": checks}).to_string())?;
        return Ok(());
    }
    for check in checks {
        let (status, detail) = described(check);
        say(&format!("{status:<4}  {}: {detail}", check.name))?;
    }
    Ok(())
}
