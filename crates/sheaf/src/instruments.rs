//! What `/metrics` shows: which instruments there are from the start, and the ones that no request moves.
//!
//! A counter that is missing until its first event cannot be told from one that was never there, and its first step is
//! lost to `rate()`. So everything whose first value is known is registered before the first request.

use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sheaf_ingest::instruments::{
    DOCUMENTS_TOTAL, EVENTS_TOTAL, GROUP_EVENTS, LATE_EVENTS_TOTAL, QUEUE_EVENTS, REJECTIONS_TOTAL,
    STAGING_LOSSES_TOTAL, STAGING_REFUSED_TOTAL, STAGING_TURNED_DURABLE_TOTAL, STEP_SECONDS,
    VALUES_TOTAL,
};
use sheaf_lake::instruments::{
    CORRECTIONS_WAITING, RETENTION_FACTS_TOTAL, SQL_MEMORY_BYTES, SQL_QUESTIONS_TOTAL, SQL_RESULTS,
    SQL_RUNNING, SQL_SCANNED_BYTES_TOTAL, SQL_SECONDS, SQL_WAITING,
};
use sheaf_model::RefusalCode;
use sheaf_pg::{PgError, Pool};
use sheaf_query::{SOURCE_BREAKER, SOURCE_LAG_SECONDS, SOURCE_UP};
use sheaf_server::{CONNECTIONS, QUESTIONS_TOTAL, REQUEST_SECONDS, REQUESTS_TOTAL};

use crate::serving::StopSignal;

/// A read by key takes a millisecond, and every request ends within 30 s. Three bounds a decade keep a quantile that is
/// estimated from them within a factor of 2.5; each more is a further series for every route and method.
const REQUEST_SECONDS_BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// A step of a small write takes a tenth of a millisecond, and a transaction whose steps take seconds is one to look
/// at, however many they are.
const STEP_SECONDS_BOUNDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// A group is one edit or up to a few thousand events; what single parts add to that is rare.
const GROUP_EVENTS_BOUNDS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];
/// A small question takes some milliseconds, and all end within half a minute.
const SQL_SECONDS_BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const CONDENSE_EVERY: Duration = Duration::from_secs(5);

/// Begins to count. The primary has just answered.
pub(crate) fn install() -> Result<PrometheusHandle> {
    let bounds = |name: &str| Matcher::Full(name.to_owned());
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(bounds(REQUEST_SECONDS), &REQUEST_SECONDS_BOUNDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(bounds(STEP_SECONDS), &STEP_SECONDS_BOUNDS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(bounds(GROUP_EVENTS), &GROUP_EVENTS_BOUNDS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(bounds(SQL_SECONDS), &SQL_SECONDS_BOUNDS)
        })
        .and_then(PrometheusBuilder::install_recorder)
        .context("beginning to count")?;
    register();
    Ok(metrics)
}

fn register() {
    // Which other routes, methods and statuses there will be is not known; these there will.
    metrics::counter!(REQUESTS_TOTAL, "route" => "/metrics", "method" => "GET", "status" => "200")
        .absolute(0);
    let _ = metrics::histogram!(REQUEST_SECONDS, "route" => "/metrics", "method" => "GET");
    for result in ["accepted", "duplicate", "merged", "corrected", "refused"] {
        metrics::counter!(EVENTS_TOTAL, "result" => result).absolute(0);
    }
    metrics::counter!(VALUES_TOTAL).absolute(0);
    metrics::counter!(sheaf_upkeep::INTERVAL_CHANGES_TOTAL).absolute(0);
    metrics::counter!(sheaf_upkeep::ARCHIVE_FAILURES_TOTAL).absolute(0);
    metrics::counter!(LATE_EVENTS_TOTAL).absolute(0);
    for code in RefusalCode::ALL {
        metrics::counter!(REJECTIONS_TOTAL, "code" => code.as_str()).absolute(0);
    }
    for from in ["remembered", "read"] {
        metrics::counter!(DOCUMENTS_TOTAL, "from" => from).absolute(0);
    }
    metrics::gauge!(QUEUE_EVENTS).set(0.0);
    for counter in [
        STAGING_LOSSES_TOTAL,
        STAGING_REFUSED_TOTAL,
        STAGING_TURNED_DURABLE_TOTAL,
    ] {
        metrics::counter!(counter).absolute(0);
    }
    metrics::gauge!(CONNECTIONS).set(0.0);
    for result in [
        "answered",
        "refused",
        "limited",
        "cancelled",
        "left",
        "failed",
    ] {
        metrics::counter!(QUESTIONS_TOTAL, "result" => result).absolute(0);
    }
    for result in SQL_RESULTS {
        metrics::counter!(SQL_QUESTIONS_TOTAL, "result" => result).absolute(0);
    }
    metrics::counter!(SQL_SCANNED_BYTES_TOTAL).absolute(0);
    metrics::counter!(RETENTION_FACTS_TOTAL).absolute(0);
    for gauge in [
        SQL_RUNNING,
        SQL_WAITING,
        SQL_MEMORY_BYTES,
        CORRECTIONS_WAITING,
    ] {
        metrics::gauge!(gauge).set(0.0);
    }
    // The primary has just answered; from now on the watch tells.
    metrics::gauge!(SOURCE_UP, "source" => "primary").set(1.0);
    metrics::gauge!(SOURCE_LAG_SECONDS, "source" => "primary").set(0.0);
    for (state, is_it) in [("closed", 1.0), ("half-open", 0.0), ("open", 0.0)] {
        metrics::gauge!(SOURCE_BREAKER, "source" => "primary", "state" => state).set(is_it);
    }
}

/// Whether a connection of the pool answers.
pub(crate) async fn ping(pool: &Pool) -> Result<(), PgError> {
    let client = pool.get().await?;
    let asked = client.query_typed("SELECT 1", &[]).await;
    asked.map_err(PgError::statement("asking for an answer"))?;
    Ok(())
}

/// Folds what was measured into its buckets, which otherwise happens only when somebody asks for it.
pub(crate) async fn condense(metrics: PrometheusHandle, mut stop: StopSignal) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(CONDENSE_EVERY) => metrics.run_upkeep(),
            () = stop.requested() => return,
        }
    }
}
