//! The HTTP side of a running server: from pools to answers, until it is told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;
use sheaf_cache::Cache;
use sheaf_config::{Limits as TenantLimits, Roles, Settings, StagingPolicy as Policy};
use sheaf_ingest::{Admission, Rates, Staging, StagingOptions, StagingPolicy, TenantRates, Writer};
use sheaf_model::{Limits, Name};
use sheaf_pg::Pool;
use sheaf_query::Reader;
use sheaf_server::{
    AppState, Bounds, Check, CheckStatus, LakeArchive, ReadinessCheck, StreamBounds,
    SubscriptionBounds,
};
use sheaf_store as store;
use sheaf_store::catalogue::Catalogues;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::archiving::{self, ArchivingLake};
use crate::caching;
use crate::changes::{self, Following};
use crate::descriptors::connections_max;
use crate::instruments::{self, ping};
use crate::lake;
use crate::pgwire;
use crate::replicas::{self, SettingsFile};

/// How long background work may take to end after the last request, which itself may take 20 s. Service managers
/// kill after 30 s.
const REST_MAX: Duration = Duration::from_secs(5);

/// Connections of the staged mode beside those of the flushers: one that watches, two that stage, which takes two
/// milliseconds a batch.
const STAGING_CONNECTIONS: usize = 3;

/// Connections to the admin address: a few machines that collect metrics.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Bytes of request bodies in memory, of those that are being received and those that are being stored. One tenant may
/// hold half. Less refuses more of many large bodies at once; more lets them take the memory of everything else.
const BODY_BYTES_MAX: usize = 256 << 20;

/// Told once, when the process shall end.
#[derive(Clone)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// For whoever waits for it in another way.
    pub(crate) fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Returns when the process shall end.
    pub(crate) async fn requested(&mut self) {
        // The sender lives as long as the process; if not, then it ends.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Listens for SIGTERM and SIGINT from now on. A second signal ends the process at once.
pub(crate) fn stop_signal() -> Result<StopSignal> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                // What was acknowledged is stored; the next start recovers.
                std::process::exit(1);
            }
            tracing::info!("stopping; a second signal ends at once");
        }
    });
    Ok(StopSignal(receiver))
}

/// Takes the address, before anything says that it is served.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

/// Where clients connect.
pub(crate) struct Listeners {
    /// By HTTP.
    pub(crate) http: TcpListener,
    /// By PostgreSQL's protocol, where that is served.
    pub(crate) pgwire: Option<TcpListener>,
}

/// Serves until told to stop, then lets running requests and background work finish. Replicas are those of the settings,
/// and of their file where it changes.
pub(crate) async fn serve(
    listeners: Listeners,
    settings: &Settings,
    pools: Roles<Pool>,
    following: Option<Following>,
    file: Option<SettingsFile>,
    mut stop: StopSignal,
) -> Result<()> {
    let database = store::settings::Settings::read(&pools.app).await?;
    let metrics = instruments::install()?;
    let mut background = JoinSet::new();
    let upkeep = pools.upkeep.clone();
    let wake = Arc::new(Notify::new());
    background.spawn(sheaf_upkeep::run(
        upkeep,
        sheaf_upkeep::Options {
            bucket_count: database.bucket_count,
            partition_memory_percent: u32::try_from(settings.partitions.memory_percent)
                .expect("a percentage"),
            idempotency_horizon: settings.ingest.idempotency_horizon,
        },
        Arc::clone(&wake),
        stop.0.clone(),
    ));
    background.spawn(instruments::condense(metrics.clone(), stop.clone()));
    // Told to stop only after the last request. That may be staged, and the flushers end after a last flush; and until then
    // replicas and the cache are used, which needs the heart, the watch and what is heard from Redis.
    let (drained, until_drained) = watch::channel(false);
    background.spawn(sheaf_upkeep::keep_beating(
        pools.upkeep.clone(),
        until_drained.clone(),
    ));
    let database = Arc::new(database);
    let cached = caching::cache(settings, &database, &until_drained)?;
    let mut feed = None;
    if let Some(following) = following {
        let cache = cached.as_ref().map(|(cache, _)| cache);
        let followed = changes::follow(
            following,
            &database,
            cache,
            pools.app.newest_timeline(),
            &stop,
        )
        .await?;
        for task in followed.tasks {
            background.spawn(task);
        }
        feed = followed.feed;
    }
    if let Some(address) = settings.server.admin_listen {
        let (listener, mut stop) = (listen(address).await?, stop.clone());
        let router = admin_router(metrics.clone());
        background.spawn(async move {
            sheaf_server::serve(listener, router, ADMIN_CONNECTIONS_MAX, stop.requested()).await;
        });
    }
    let (staging, flushers) = staging(settings, &pools, &database, &until_drained);
    let (mut state, lanes) = state(settings, &pools, metrics, database, staging, wake, cached)?;
    state.changes = feed;
    if let Some(settings_of_lake) = &settings.lake {
        let slot = &settings.changes.slot;
        let reader = lake::reader(settings_of_lake, slot, &pools.app, &state.settings)?;
        let (watched, mut until_drained) = (reader.clone(), until_drained.clone());
        background.spawn(async move {
            tokio::select! {
                () = watched.watch() => {}
                _ = until_drained.wait_for(|is_drained| *is_drained) => {}
            }
        });
        state.reader = state
            .reader
            .with_archive(Arc::new(LakeArchive(reader.clone())));
        state.lake = Some(reader);
        let archive = lake::archive(settings_of_lake, slot, &pools.upkeep, &state.settings)?;
        background.spawn(archiving::run(
            pools.upkeep.clone(),
            ArchivingLake(archive),
            settings.archive.after,
            stop.clone(),
        ));
    }
    let sources = Arc::clone(state.reader.sources());
    replicas::add(settings, &sources)?;
    background.spawn(Arc::clone(&sources).watch(until_drained));
    if let Some(file) = file {
        let following = replicas::follow(file, settings.clone(), sources, stop.clone());
        background.spawn(async move {
            if let Err(error) = following.await {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration is not followed"
                );
            }
        });
    }
    for task in lanes.into_iter().chain(flushers) {
        background.spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "a lane or a flusher has failed");
            }
        });
    }
    let bounds = pgwire::bounds(&settings.pgwire)?;
    let beside = listeners
        .pgwire
        .as_ref()
        .map_or(0, |_| bounds.connections_max);
    let (router, questions) = sheaf_server::router_and_pgwire(state, bounds);
    let mut stop_questions = stop.clone();
    let served_questions = async {
        if let Some(listener) = listeners.pgwire {
            let stopped = stop_questions.requested();
            sheaf_server::serve_pgwire(listener, questions, stopped).await;
        }
    };
    let connections_max = connections_max(beside);
    let served = sheaf_server::serve(listeners.http, router, connections_max, stop.requested());
    tokio::join!(served, served_questions);
    drained.send_replace(true);
    let rest = async { while background.join_next().await.is_some() {} };
    if tokio::time::timeout(REST_MAX, rest).await.is_err() {
        tracing::warn!(seconds = REST_MAX.as_secs(), "background work was cut off");
    }
    Ok(())
}

/// What is served to whoever can reach the admin address.
fn admin_router(metrics: PrometheusHandle) -> axum::Router {
    let render = move || std::future::ready(metrics.render());
    axum::Router::new().route("/metrics", axum::routing::get(render))
}

/// The staged mode, and its tasks. Its connections are its own: lanes must not wait for flushes, nor these for them.
fn staging(
    settings: &Settings,
    pools: &Roles<Pool>,
    database: &Arc<store::settings::Settings>,
    stop: &watch::Receiver<bool>,
) -> (Staging, Vec<JoinHandle<()>>) {
    let settings = &settings.staging;
    let options = StagingOptions {
        flushers: settings.flushers,
        flush_every: settings.flush_every,
        age_max: settings.age_max,
        policy: match settings.policy {
            Policy::Refuse => StagingPolicy::Refuse,
            Policy::Durable => StagingPolicy::TurnDurable,
        },
        ..StagingOptions::default()
    };
    let writer = pools.writer.beside(options.flushers + STAGING_CONNECTIONS);
    Staging::start(writer, Arc::clone(database), options, stop)
}

/// What the routes need, and the tasks that write.
fn state(
    settings: &Settings,
    pools: &Roles<Pool>,
    metrics: PrometheusHandle,
    database: Arc<store::settings::Settings>,
    staging: Staging,
    wake_upkeep: Arc<Notify>,
    cached: Option<(Cache, Vec<JoinHandle<()>>)>,
) -> Result<(AppState, Vec<JoinHandle<()>>)> {
    let limits = Limits {
        body_bytes_max: settings.server.body_bytes_max,
        ..Limits::DEFAULT
    };
    let catalogues = Arc::new(Catalogues::new(pools.app.clone()));
    let (writer, mut tasks) = Writer::start(
        pools.app.clone(),
        pools.writer.clone(),
        Arc::clone(&database),
        Arc::clone(&catalogues),
        limits,
    );
    let writer = writer.staging_through(staging);
    let mut reader = Reader::new(
        pools.app.clone(),
        pools.search.clone(),
        Arc::clone(&database),
        Arc::clone(&catalogues),
    );
    let mut readiness = [&pools.app, &pools.search, &pools.writer]
        .map(readiness_of)
        .to_vec();
    if let Some((cache, kept)) = cached {
        tasks.extend(kept);
        readiness.extend(caching::readiness(&cache));
        writer.tell(Arc::new(caching::Commits(cache.clone())));
        reader = reader.remembering(cache);
    }
    let state = AppState {
        app: pools.app.clone(),
        settings: database,
        catalogues,
        admission: admission(settings)?,
        writer,
        reader,
        lake: None,
        changes: None,
        wake_upkeep,
        metrics,
        readiness,
        limits,
        bounds: Bounds {
            streams: StreamBounds {
                of_tenant_max: settings.streams.of_tenant_max,
                running_max: settings.streams.running_max,
                reading_max: settings.streams.reading_max,
                page_deadline: settings.streams.page_deadline,
            },
            subscriptions: SubscriptionBounds {
                of_tenant_max: settings.changes.journal.of_tenant_max,
                running_max: settings.changes.journal.running_max,
                taken_within: settings.changes.journal.taken_within,
                ..SubscriptionBounds::default()
            },
            ..Bounds::default()
        },
    };
    Ok((state, tasks))
}

/// Who may write when. Room for two of the largest bodies of one tenant, whatever their bound is.
fn admission(settings: &Settings) -> Result<Admission> {
    let mut by_tenant = BTreeMap::new();
    for (name, limits) in &settings.tenants {
        let name = Name::parse(name)
            .with_context(|| format!("reading the name of the section tenants.{name:?}"))?;
        by_tenant.insert(name.into_string(), rates_of(limits));
    }
    let rates = Rates {
        default: rates_of(&settings.limits),
        by_tenant,
    };
    let body_bytes_max = BODY_BYTES_MAX.max(4 * settings.server.body_bytes_max);
    Ok(Admission::new(rates, body_bytes_max))
}

fn rates_of(limits: &TenantLimits) -> TenantRates {
    let rate = |number: usize| u64::try_from(number).ok().and_then(NonZeroU64::new);
    let requests = u32::try_from(limits.requests_concurrent).ok();
    TenantRates {
        values_per_second: limits.values_per_second.and_then(rate),
        bytes_per_second: limits.bytes_per_second.and_then(rate),
        requests_concurrent: requests
            .and_then(NonZeroU32::new)
            .expect("invariant: the settings bound it from both sides"),
    }
}

/// Whether a pool has a connection that answers.
fn readiness_of(pool: &Pool) -> ReadinessCheck {
    let pool = pool.clone();
    Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            let (status, detail) = match ping(&pool).await {
                Ok(()) => (CheckStatus::Ok, "answers".to_owned()),
                Err(error) => (CheckStatus::Fail, error.to_string()),
            };
            Check {
                name: pool.role().to_owned(),
                status,
                detail,
            }
        })
    })
}
