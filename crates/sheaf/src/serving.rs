//! The HTTP side of a running server: from pools to answers, until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;
use sheaf_config::{Roles, Settings};
use sheaf_ingest::Writer;
use sheaf_model::Limits;
use sheaf_pg::Pool;
use sheaf_query::Reader;
use sheaf_server::{AppState, Bounds, Check, CheckStatus, ReadinessCheck};
use sheaf_store as store;
use sheaf_store::catalogue::Catalogues;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::instruments::{self, ping};

/// How long background work may take to end after the last request, which itself may take 20 s. Service managers
/// kill after 30 s.
const REST_MAX: Duration = Duration::from_secs(5);

/// Told once, when the process shall end.
#[derive(Clone)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
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

/// Serves until told to stop, then lets running requests and background work finish.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: &Settings,
    pools: Roles<Pool>,
    mut stop: StopSignal,
) -> Result<()> {
    let database = store::settings::Settings::read(&pools.app).await?;
    let metrics = instruments::install()?;
    let mut background = JoinSet::new();
    let upkeep = pools.upkeep.clone();
    let wake = Arc::new(Notify::new());
    background.spawn(sheaf_upkeep::run(
        upkeep,
        database.bucket_count,
        Arc::clone(&wake),
        stop.0.clone(),
    ));
    background.spawn(instruments::condense(metrics.clone(), stop.clone()));
    background.spawn(instruments::watch_primary(pools.app.clone(), stop.clone()));
    if let Some(address) = settings.server.admin_listen {
        let (listener, mut stop) = (listen(address).await?, stop.clone());
        let router = admin_router(metrics.clone());
        background.spawn(async move {
            sheaf_server::serve(listener, router, stop.requested()).await;
        });
    }
    let (state, lane) = state(settings, &pools, metrics, Arc::new(database), wake);
    background.spawn(async move {
        if let Err(error) = lane.await {
            tracing::error!(%error, "the task that writes has failed");
        }
    });
    sheaf_server::serve(listener, sheaf_server::router(state), stop.requested()).await;
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

/// What the routes need, and the task that writes.
fn state(
    settings: &Settings,
    pools: &Roles<Pool>,
    metrics: PrometheusHandle,
    database: Arc<store::settings::Settings>,
    wake_upkeep: Arc<Notify>,
) -> (AppState, JoinHandle<()>) {
    let limits = Limits {
        body_bytes_max: settings.server.body_bytes_max,
        ..Limits::DEFAULT
    };
    let catalogues = Arc::new(Catalogues::new(pools.app.clone()));
    let (writer, lane) = Writer::start(
        pools.app.clone(),
        pools.writer.clone(),
        Arc::clone(&database),
        Arc::clone(&catalogues),
        limits,
    );
    let reader = Reader::new(
        pools.app.clone(),
        pools.search.clone(),
        Arc::clone(&database),
        Arc::clone(&catalogues),
    );
    let readiness = [&pools.app, &pools.search, &pools.writer].map(readiness_of);
    let state = AppState {
        app: pools.app.clone(),
        settings: database,
        catalogues,
        writer,
        reader,
        wake_upkeep,
        metrics,
        readiness: readiness.into(),
        limits,
        bounds: Bounds::default(),
    };
    (state, lane)
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
