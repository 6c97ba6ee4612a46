//! `sheaf dev`: everything in one process on a private PostgreSQL, with nothing to configure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sheaf_config::Roles;
use sheaf_model::{Name, Timestamp};
use sheaf_pg::cluster::{Binaries, Cluster, ClusterOptions, SUPERUSER, StopMode};
use sheaf_pg::{Pool, Tls};
use sheaf_store::keys::{self, ApiKey, KeyOwner};
use sheaf_store::migrate;
use sheaf_store::tenants::{self, TenantPolicy};
use tokio::task::JoinHandle;

use crate::changes::Following;
use crate::cli::DevArgs;
use crate::commands::{key, private};
use crate::connect::Access;
use crate::exit::{Stop, say};
use crate::serving::{self, Listeners, StopSignal};
use crate::{allocator, logging, private_file};

/// The tenant that is there from the start.
const TENANT: &str = "demo";
/// Where changes are kept for those who follow them, beside the rest.
const JOURNAL_DIR: &str = "changes-journal";
/// A server that dies again at once is not restarted faster than this.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) async fn run(args: DevArgs) -> Result<()> {
    let settings = private::settings();
    logging::begin(settings.log)?;
    allocator::settle();
    let stop = serving::stop_signal()?;
    // First, because it is what fails when another one runs.
    let http = serving::listen(args.listen).await?;
    // Whoever has taken this one is most likely another one of these, and it is not what anything depends on.
    let pgwire = match args.no_changes {
        true => None,
        false => serving::listen(args.pgwire_listen).await.ok(),
    };
    let listeners = Listeners { http, pgwire };
    let cluster = Arc::new(start_cluster(&args).await?);
    let outcome = run_on(&args, &cluster, listeners, stop).await;
    let stopped = cluster.stop(StopMode::Fast).await;
    outcome?;
    Ok(stopped?)
}

async fn start_cluster(args: &DevArgs) -> Result<Cluster> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binaries = Binaries::find(args.postgres.as_deref(), &path).map_err(|error| {
        anyhow::anyhow!(error).context(Stop::Usage(
            "looking for PostgreSQL (--postgres)".to_owned(),
        ))
    })?;
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("creating {}", args.data_dir.display()))?;
    let dir = private::cluster_dir(&args.data_dir);
    tracing::info!(version = binaries.major_version(), dir = %dir.display(), "starting postgresql");
    let options = ClusterOptions::new(binaries, dir, std::env::temp_dir());
    Ok(Cluster::start(options).await?)
}

async fn run_on(
    args: &DevArgs,
    cluster: &Arc<Cluster>,
    listeners: Listeners,
    mut stop: StopSignal,
) -> Result<()> {
    let prepared = async {
        prepare_database(cluster).await?;
        let config = |role: &str| cluster.connect_config(private::DATABASE, role);
        let mut settings = private::settings();
        settings.changes.file = args.changes_file.clone();
        let journal = args.data_dir.join(JOURNAL_DIR);
        settings.changes.journal.dir = (!args.no_changes).then_some(journal);
        let lake = private::lake(&args.data_dir);
        settings.lake = (!args.no_changes).then_some(lake);
        let access = Access::private(config, &settings);
        access.require_sound().await?;
        let pools = access.pools();
        ensure_keys(&args.data_dir, &pools).await?;
        let following = Following::of(&access, &settings);
        anyhow::Ok((settings, pools, following))
    };
    let (settings, pools, following) = tokio::select! {
        prepared = prepared => prepared?,
        () = stop.requested() => return Ok(()),
    };
    greet(args, listeners.pgwire.is_some())?;
    let mut supervisor = tokio::spawn(supervise(Arc::clone(cluster), stop.clone()));
    let outcome = tokio::select! {
        served = serving::serve(listeners, &settings, pools, following, None, stop) => served,
        failed = failure_of(&mut supervisor) => failed,
    };
    if !supervisor.is_finished() {
        if outcome.is_err() {
            supervisor.abort();
        }
        // It may be starting PostgreSQL at this moment, which must be over before PostgreSQL can be stopped.
        let _ = supervisor.await;
    }
    outcome
}

/// Returns only if supervision failed: that it ends because we stop is no reason to stop serving earlier.
async fn failure_of(supervisor: &mut JoinHandle<Result<()>>) -> Result<()> {
    match supervisor.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(error)) => Err(error),
        Err(error) => Err(error).context("supervising postgresql"),
    }
}

async fn prepare_database(cluster: &Cluster) -> Result<()> {
    let tls = Tls::none();
    let database = private::DATABASE;
    let client = tls
        .connect(&cluster.connect_config("postgres", SUPERUSER))
        .await?;
    let there = client
        .query_typed(
            "SELECT FROM pg_database WHERE datname = $1",
            &[(&database, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .context("looking for the database")?;
    if there.is_empty() {
        client
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .await
            .context("creating the database")?;
    }
    let mut client = tls
        .connect(&cluster.connect_config(database, SUPERUSER))
        .await?;
    let applied = migrate::up(&mut client).await?;
    if !applied.is_empty() {
        tracing::info!(migrations = applied.join(", "), "the schema is up to date");
    }
    Ok(())
}

/// Makes the tenant and the keys that are not there. A key counts as there if its file holds a key that the database
/// knows: either may have been removed by hand.
async fn ensure_keys(data_dir: &Path, pools: &Roles<Pool>) -> Result<()> {
    let name = Name::parse(TENANT).context("the name of the first tenant")?;
    let policy = TenantPolicy::default();
    let created = tenants::create_tenant(&pools.app, &name, &policy, Timestamp::now()).await?;
    let tenant = match created {
        Some(tenant) => tenant,
        None => {
            let tenant = tenants::fetch_tenant(&pools.app, TENANT).await?;
            tenant
                .context("the first tenant is there and is not")?
                .tenant
        }
    };
    let demo = data_dir.join("demo.key");
    let opens_demo = |owner: &KeyOwner| matches!(owner, KeyOwner::Tenant { tenant: owner, .. } if *owner == tenant);
    if !holds_good_key(&demo, pools, opens_demo).await? {
        let key = ApiKey::generate();
        key::store(&pools.app, tenant, &key::EVERYTHING, &key).await?;
        private_file::write(&demo, key.reveal())?;
    }
    let admin = data_dir.join("admin.key");
    if !holds_good_key(&admin, pools, |owner| *owner == KeyOwner::Admin).await? {
        let key = ApiKey::generate();
        keys::insert_admin_key(&pools.upkeep, &key, Timestamp::now()).await?;
        private_file::write(&admin, key.reveal())?;
    }
    Ok(())
}

async fn holds_good_key(
    path: &Path,
    pools: &Roles<Pool>,
    opens: impl Fn(&KeyOwner) -> bool,
) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let Some(key) = ApiKey::parse(&private_file::read(path)?) else {
        return Ok(false);
    };
    let stored = keys::fetch_key(&pools.app, key.id()).await?;
    Ok(stored.is_some_and(|stored| stored.admits(&key, Timestamp::now()) && opens(&stored.owner)))
}

fn greet(args: &DevArgs, has_pgwire: bool) -> Result<()> {
    let file = |name: &str| args.data_dir.join(name);
    say(&format!("sheaf is running at http://{}", args.listen))?;
    for (what, name) in [
        ("key of tenant demo", "demo.key"),
        ("admin key", "admin.key"),
    ] {
        let path = file(name);
        say(&format!(
            "{what}: {} ({})",
            private_file::read(&path)?,
            path.display()
        ))?;
    }
    let address = args.pgwire_listen;
    let told = match (has_pgwire, args.no_changes) {
        (true, _) => say(&format!(
            "questions by PostgreSQL's protocol, with that key as password: psql -h {} -p {} -U {TENANT}",
            address.ip(),
            address.port()
        )),
        (false, false) => say(&format!(
            "PostgreSQL's protocol is not served: {address} is taken; --pgwire-listen takes another"
        )),
        (false, true) => Ok(()),
    };
    Ok(told?)
}

/// Starts PostgreSQL again whenever it ends, until we stop.
async fn supervise(cluster: Arc<Cluster>, mut stop: StopSignal) -> Result<()> {
    let port = cluster.port();
    let mut pause = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = cluster.wait_exit() => ended,
            () = stop.requested() => return Ok(()),
        };
        let status = ended.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        tracing::error!(status, "postgresql ended; starting it again");
        pause = match begun.elapsed() > RESTART_PAUSE_MAX {
            true => Duration::ZERO,
            false => (pause * 2).clamp(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return Ok(()),
        }
        if let Err(error) = cluster.restart().await {
            let error = anyhow::anyhow!(error);
            tracing::error!(error = format!("{error:#}"), "postgresql does not start");
        } else if cluster.port() != port {
            // The pools know the old one.
            bail!("another program has taken port {port}; start sheaf dev again");
        }
    }
}
