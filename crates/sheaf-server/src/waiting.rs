//! What is served while there is no database yet: the process lives, is not ready, and whoever wants anything else is told
//! to come back.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, get};

use crate::observe::observe;
use crate::problem::{Code, Problem};
use crate::state::Bounds;
use crate::{influx, service};

/// The interface of a server that has to wait for its database.
pub fn waiting_router() -> Router {
    Router::new()
        .route("/healthz", get(service::healthz))
        .route("/readyz", get(not_ready))
        // Named, because their clients expect errors in another form.
        .route(influx::V1_PATH, any(unavailable))
        .route(influx::V2_PATH, any(unavailable))
        .fallback(unavailable)
        .layer(from_fn_with_state(Bounds::default(), observe))
}

async fn not_ready() -> (StatusCode, Response) {
    let detail = "the database has not been reached since the start";
    (
        StatusCode::SERVICE_UNAVAILABLE,
        service::not_ready("primary", detail),
    )
}

async fn unavailable() -> Problem {
    Problem::new(Code::DatabaseUnavailable, "the database cannot be reached")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, header};
    use tower::Service;

    use super::*;

    async fn asked(path: &str) -> (u16, Option<String>, serde_json::Value) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let Ok(response) = waiting_router().call(request).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 10_000).await.expect("in memory");
        let later = parts.headers.get(header::RETRY_AFTER);
        (
            parts.status.as_u16(),
            later.map(|value| value.to_str().expect("digits").to_owned()),
            serde_json::from_slice(&bytes).expect("JSON"),
        )
    }

    #[tokio::test]
    async fn it_lives_is_not_ready_and_sends_everybody_else_away_for_a_while() {
        let (status, _, body) = asked("/healthz").await;
        assert_eq!((status, body["status"].as_str()), (200, Some("ok")));
        let (status, _, body) = asked("/readyz").await;
        assert_eq!((status, body["status"].as_str()), (503, Some("not_ready")));
        assert_eq!(body["checks"][0]["status"], "fail");
        for path in ["/v1/entities/a/b", "/v1/ingest", "/anything"] {
            let (status, later, body) = asked(path).await;
            let code = body["code"].as_str();
            assert_eq!(
                (status, code),
                (503, Some("database_unavailable")),
                "{path}"
            );
            assert!(later.is_some(), "{path}");
        }
    }

    #[tokio::test]
    async fn clients_of_influxdb_are_told_in_their_form() {
        let (status, later, body) = asked(influx::V2_PATH).await;
        assert_eq!((status, body["code"].as_str()), (503, Some("unavailable")));
        assert!(later.is_some());
        assert!(asked(influx::V1_PATH).await.2["error"].is_string());
    }
}
