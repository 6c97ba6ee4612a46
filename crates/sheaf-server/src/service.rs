//! How the server itself is: alive, ready, measured.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use serde::Serialize;
use sheaf_query::DataSource;
use utoipa::ToSchema;

use crate::state::{AppState, Check, CheckStatus, ReadinessCheck};

/// How long one readiness check may take. A balancer asks every few seconds and gives up after about as long.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// The process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthBody {
    status: &'static str,
}

/// Say that the process lives.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "Alive", body = HealthBody)))]
pub(crate) async fn healthz() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

/// Whether requests should be sent here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadyBody {
    /// `ready` or `not_ready`.
    status: &'static str,
    checks: Vec<Check>,
}

/// Say whether requests should be sent here.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, description = "Ready", body = ReadyBody), (status = 503, description = "Not ready", body = ReadyBody)))]
pub(crate) async fn readyz(State(state): State<Arc<AppState>>) -> Response {
    let mut checks = join_all(state.readiness.iter().map(within_time)).await;
    checks.extend(replicas(&state));
    let is_ready = checks.iter().all(|check| check.status != CheckStatus::Fail);
    let (code, status) = if is_ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (code, Json(ReadyBody { status, checks })).into_response()
}

/// The body of an answer to `/readyz` for whom one thing is known to be missing.
pub(crate) fn not_ready(name: &str, detail: &str) -> Response {
    let check = Check {
        name: name.to_owned(),
        status: CheckStatus::Fail,
        detail: detail.to_owned(),
    };
    let body = ReadyBody {
        status: "not_ready",
        checks: vec![check],
    };
    Json(body).into_response()
}

/// How the replicas are. Without any of them the primary answers, so that none is missed.
fn replicas(state: &AppState) -> impl Iterator<Item = Check> {
    let statuses = state.reader.sources().status();
    let replicas = statuses
        .into_iter()
        .filter(|status| status.source != DataSource::Primary);
    replicas.map(|status| Check {
        name: status.source.to_string(),
        status: if status.is_up && status.breaker == "closed" {
            CheckStatus::Ok
        } else {
            CheckStatus::Warn
        },
        detail: status.detail,
    })
}

async fn within_time(check: &ReadinessCheck) -> Check {
    tokio::time::timeout(CHECK_MAX, check())
        .await
        .unwrap_or_else(|_| Check {
            name: "deadline".to_owned(),
            status: CheckStatus::Fail,
            detail: format!("a check did not end within {} s", CHECK_MAX.as_secs()),
        })
}

/// Print the metrics in the text form of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, description = "Metrics", body = String)))]
pub(crate) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, state.metrics.render()).into_response()
}
