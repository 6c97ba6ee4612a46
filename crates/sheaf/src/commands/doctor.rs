//! `sheaf doctor`: what a server would find wrong with its database, each thing by itself.

mod changes;
mod dead_letters;
mod reconciliation;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sheaf_model::Timestamp;
use sheaf_pg::{Fence, check_role};
use sheaf_query::{DataSource, SourcePools, Sources};
use sheaf_store::catalogue::Catalogues;
use sheaf_store::holds::{Hold, list_holds};
use sheaf_store::invariants::{self, InvariantKind, Violation};
use sheaf_store::{migrate, settings as database_settings};
use tokio::time::Instant;
use tokio_postgres::Config;

use crate::caching;
use crate::cli::DoctorArgs;
use crate::commands::{archive, partition, settings};
use crate::connect::{APP, Access, OWNER, SEARCH, UPKEEP, WRITER};
use crate::exit::say;
use crate::replicas;

/// How many documents of each tenant are compared with their history, unless all are asked for: a second or so.
const SAMPLE_DOCUMENTS: i64 = 1000;

/// A standby that takes longer answers no request either.
const STANDBY_WAIT_MAX: Duration = Duration::from_secs(10);

/// What does not hold once a part of the history was taken out: there is less of it than was acknowledged.
const OF_THE_WHOLE_HISTORY: &str = "events_are_in_the_ledger";

/// One thing that was looked at.
struct Check {
    name: Cow<'static, str>,
    outcome: Result<Finding>,
}

/// What was found where nothing is broken.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is as it should be.
    Ok(String),
    /// Somebody should look, before it is not.
    Warn(String),
}

impl Check {
    fn new(name: impl Into<Cow<'static, str>>, outcome: Result<String>) -> Check {
        Check {
            name: name.into(),
            outcome: outcome.map(Finding::Ok),
        }
    }
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
        checks.push(Check::new(name, outcome));
    }
    let outcome = check_upkeep(&access).await;
    checks.push(Check::new(UPKEEP, outcome));
    let outcome = check_schema(&access).await;
    let has_schema = outcome.is_ok();
    checks.push(Check::new("schema", outcome));
    let outcome = check_replicated_acks(&access).await;
    checks.push(Check::new("replicated acknowledgements", outcome));
    let outcome = check_holds(&access).await;
    checks.push(Check::new("xmin", outcome));
    if has_schema {
        if args.target.data_dir.is_none() {
            let (settings, _) = settings::load(&args.target.config)?;
            checks.extend(check_replicas(&access, &settings).await?);
            checks.extend(check_redis(&access, &settings).await);
            checks.extend(changes::check(&access, Some(&settings)).await?);
        } else {
            checks.extend(changes::check(&access, None).await?);
        }
        checks.push(dead_letters::check(&access).await?);
        checks.push(reconciliation::check(&access).await);
        let upkeep = access.pools().upkeep;
        let partitions = partition::check(&upkeep, Timestamp::now()).await;
        checks.push(Check::new("partitions", partitions));
        checks.push(Check::new("archive", archive::check(&upkeep).await));
        let has_whole_history = archive::has_whole_history(&upkeep).await?;
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

/// Whether a replica or a slot keeps rows from being removed for too long.
async fn check_holds(access: &Access) -> Result<String> {
    let holds = list_holds(&access.upkeep().await?).await;
    outcome_of_holds(&holds.context("what replicas and slots hold back is unknown")?)
}

fn outcome_of_holds(holds: &[Hold]) -> Result<String> {
    if let Some(hold) = sheaf_upkeep::beyond_bound(holds).first() {
        let most = sheaf_upkeep::held_max(hold.holder);
        bail!(
            "{hold}, more than {most}, and rows that nobody needs are kept for it: end the oldest transaction of the replica; \
             drop a slot that nobody uses"
        );
    }
    if holds.is_empty() {
        return Ok("no replica and no slot holds rows back".to_owned());
    }
    let held: Vec<_> = holds.iter().map(ToString::to_string).collect();
    Ok(held.join(", "))
}

/// Whether the Redis of the settings is there and would be used.
async fn check_redis(access: &Access, settings: &sheaf_config::Settings) -> Option<Check> {
    let redis = settings.redis.as_ref()?;
    let outcome = async {
        let database = database_settings::Settings::read(&access.pools().app).await?;
        caching::remote(redis)?.reach(database.system_id).await?;
        Ok("answers, and takes values".to_owned())
    };
    Some(Check::new("redis", outcome.await))
}

/// Whether each replica of the settings could answer reads.
async fn check_replicas(access: &Access, settings: &sheaf_config::Settings) -> Result<Vec<Check>> {
    let pools = access.pools();
    let database = database_settings::Settings::read(&pools.app).await?;
    let catalogues = Catalogues::new(pools.app.clone());
    let primary = SourcePools {
        app: pools.app,
        search: pools.search,
    };
    let sources = Sources::new(primary, Arc::new(database), Arc::new(catalogues));
    replicas::add(settings, &sources)?;
    let mut looks = sources.look_once().await;
    let statuses = sources.status();
    let of_replicas = statuses
        .into_iter()
        .filter(|status| status.source != DataSource::Primary);
    let checks = of_replicas.map(|status| {
        let look = looks
            .iter_mut()
            .find(|(source, _)| *source == status.source);
        let outcome = match look.and_then(|(_, error)| error.take()) {
            Some(error) => Err(error.into()),
            None if status.is_up => Ok(status.detail),
            None => Err(anyhow::Error::msg(status.detail)),
        };
        Check::new(status.source.to_string(), outcome)
    });
    Ok(checks.collect())
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
        let outcome = outcome_of(&violations, invariant.claim.to_owned());
        checks.push(Check::new(invariant.name, outcome));
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
    let outcome = outcome_of(&done.violations, claim);
    checks.push(Check::new(invariants::DOCUMENTS_ARE_THE_FOLD, outcome));
    Ok(checks)
}

fn not_compared(name: &'static str) -> Check {
    let text = "not compared, since partitions were detached from the history";
    Check::new(name, Ok(text.to_owned()))
}

fn outcome_of(violations: &[Violation], claim: String) -> Result<String> {
    match violations.first() {
        None => Ok(claim),
        Some(first) => bail!("{} counterexamples, first {first}", violations.len()),
    }
}

fn print(checks: &[Check], as_json: bool) -> Result<()> {
    let described = |check: &Check| match &check.outcome {
        Ok(Finding::Ok(detail)) => ("ok", detail.clone()),
        Ok(Finding::Warn(detail)) => ("warn", detail.clone()),
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

#[cfg(test)]
mod tests {
    use sheaf_store::holds::Holder;

    use super::*;

    #[test]
    fn what_is_held_is_told_and_fails_past_its_bound() {
        let hold = |holder, name: &str, transactions| Hold {
            holder,
            name: name.to_owned(),
            transactions,
        };
        let slot = hold(Holder::SlotCatalog, "sheaf", 2_000_000);
        let told = |holds: &[Hold]| outcome_of_holds(holds).map_err(|error| error.to_string());
        assert_eq!(
            told(&[]).as_deref(),
            Ok("no replica and no slot holds rows back")
        );
        let near = hold(Holder::Replica, "west", 1_000_000);
        let expected = "slot sheaf holds 2000000 transactions of the catalogue, replica west holds 1000000 transactions";
        assert_eq!(told(&[slot.clone(), near]).as_deref(), Ok(expected));
        let far = hold(Holder::Replica, "west", 1_000_001);
        let text = told(&[slot, far]).expect_err("it is beyond the bound");
        let expected = "replica west holds 1000001 transactions, more than 1000000, ";
        assert!(text.starts_with(expected), "{text}");
    }
}
