//! Around every request: its id, its deadline, its metrics, its line in the log, and the form of its error.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use crate::influx;
use crate::problem::{Code, Problem, chain};
use crate::remainder::Remainder;
use crate::state::Bounds;

/// The counter of requests by route, method and status.
pub const REQUESTS_TOTAL: &str = "sheaf_http_requests_total";
/// The histogram of the seconds that requests took, by route and method.
pub const REQUEST_SECONDS: &str = "sheaf_http_request_duration_seconds";
const PANICS_TOTAL: &str = "sheaf_http_panics_total";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of path and query. A filter at its bound, percent-encoded, fits.
const URI_BYTES_MAX: usize = 60 * 1024;
/// Bytes of all headers together.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The outermost layer.
pub(crate) async fn observe(
    State(bounds): State<Bounds>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("unmatched", MatchedPath::as_str).to_owned();
    let id = sheaf_model::crockford(Uuid::now_v7().as_u128());
    let span = tracing::info_span!("request", request_id = id, method, route);
    let (request, remainder) = Remainder::lend(request, bounds.body_pace);
    let deadline = bounds.deadline_of(&route);
    let response = answer(deadline, request, next).instrument(span).await;
    let mut response = finish(response, id, method, &route);
    if !remainder.drain().await {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let status = response.status().as_u16().to_string();
    let seconds = started.elapsed().as_secs_f64();
    metrics::counter!(REQUESTS_TOTAL, "route" => route.clone(), "method" => method, "status" => status).increment(1);
    metrics::histogram!(REQUEST_SECONDS, "route" => route, "method" => method).record(seconds);
    response
}

/// Runs the handler, within bounds.
async fn answer(deadline: Duration, request: Request, next: Next) -> Response {
    if request
        .uri()
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > URI_BYTES_MAX)
    {
        return Problem::new(Code::UriTooLong, format!("at most {URI_BYTES_MAX} bytes"))
            .into_response();
    }
    if header_bytes(request.headers()) > HEADER_BYTES_MAX {
        return Problem::new(
            Code::HeadersTooLarge,
            format!("at most {HEADER_BYTES_MAX} bytes"),
        )
        .into_response();
    }
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(deadline, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            metrics::counter!(PANICS_TOTAL).increment(1);
            Problem::internal(Panicked).into_response()
        }
        Err(_) => Problem::new(
            Code::Overloaded,
            format!("the deadline of {deadline:?} passed; the outcome of a write is unknown"),
        )
        .into_response(),
    }
}

#[derive(Debug)]
struct Panicked;

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a handler panicked; the panic itself is on standard error")
    }
}

impl std::error::Error for Panicked {}

/// Writes the problem in the form of its route, logs it, and names the request.
fn finish(response: Response, own_id: String, method: &'static str, route: &str) -> Response {
    let problem = problem_of(&response);
    // A refused batch is known by its own number, so that its retry gets the same bytes.
    let batch = problem.as_ref().and_then(|problem| problem.batch.as_ref());
    let id = batch.map_or(own_id, |batch| batch.request_id());
    let mut response = match &problem {
        Some(problem) => {
            log(problem, &id, method, route);
            written(problem, response, &id, route)
        }
        None => response,
    };
    let headers = response.headers_mut();
    headers.insert(
        REQUEST_ID,
        HeaderValue::from_str(&id).expect("base 32 is a header value"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The problem that a response is about, also where the framework made it.
fn problem_of(response: &Response) -> Option<Problem> {
    if let Some(problem) = response.extensions().get::<Problem>() {
        return Some(problem.clone());
    }
    let status = response.status();
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let has_own_form = kind.is_some_and(|kind| kind.contains("json"));
    (!has_own_form && (status.is_client_error() || status.is_server_error()))
        .then(|| Problem::of_status(status))
}

/// The response with the problem as its body, and its other headers kept.
fn written(problem: &Problem, response: Response, id: &str, route: &str) -> Response {
    let (parts, _) = response.into_parts();
    let mut written = match influx::Dialect::of_route(route) {
        Some(dialect) => dialect.problem(problem),
        None => {
            let mut json = Json(problem.body(id)).into_response();
            let kind = HeaderValue::from_static("application/problem+json");
            json.headers_mut().insert(header::CONTENT_TYPE, kind);
            json
        }
    };
    *written.status_mut() = StatusCode::from_u16(problem.code.status()).unwrap_or(parts.status);
    for (name, value) in &parts.headers {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            written.headers_mut().append(name, value.clone());
        }
    }
    written
}

/// One line a failed request. Never a value, never a key.
fn log(problem: &Problem, request_id: &str, method: &str, route: &str) {
    let (status, code) = (problem.code.status(), problem.code.as_str());
    let cause = problem.cause.as_ref().map(|cause| chain(cause.as_ref()));
    let cause = cause.as_deref().unwrap_or("");
    match status {
        500 | 507 => tracing::error!(
            request_id,
            method,
            route,
            status,
            code,
            cause,
            "a request failed"
        ),
        503 => tracing::warn!(
            request_id,
            method,
            route,
            status,
            code,
            cause,
            "a request could not be served"
        ),
        _ => tracing::info!(
            request_id,
            method,
            route,
            status,
            code,
            "a request was refused"
        ),
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// The method as a label: of a bounded set.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::Service;

    use super::*;
    use crate::ingest;

    async fn panics() -> &'static str {
        panic!("a fault that a test injects")
    }

    async fn hangs() -> &'static str {
        std::future::pending().await
    }

    async fn answer_of(path: &str) -> (StatusCode, HeaderMap, serde_json::Value) {
        let bounds = Bounds {
            deadline: Duration::from_millis(50),
            events_deadline: Duration::from_millis(51),
            ..Bounds::default()
        };
        let mut router = Router::new()
            .route("/panics", get(panics))
            .route("/hangs", get(hangs))
            .route(influx::V2_PATH, get(panics))
            .route(ingest::PATH, get(hangs))
            .route(influx::V1_PATH, get(hangs))
            .route("/fine", get(async || "fine"))
            .layer(from_fn_with_state(bounds, observe));
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let Ok(response) = router.call(request).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 10_000).await.expect("in memory");
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        (parts.status, parts.headers, json)
    }

    #[tokio::test]
    async fn a_panic_is_one_requests_error_and_says_nothing_of_its_cause() {
        let (status, headers, body) = answer_of("/panics").await;
        assert_eq!(
            (status.as_u16(), body["code"].as_str()),
            (500, Some("internal"))
        );
        assert_eq!(
            body["request_id"].as_str(),
            headers.get(REQUEST_ID).and_then(|id| id.to_str().ok())
        );
        assert!(
            !body.to_string().contains("a fault that a test injects"),
            "{body}"
        );
        let (status, _, body) = answer_of(influx::V2_PATH).await;
        assert_eq!(
            (status.as_u16(), body["code"].as_str()),
            (500, Some("internal error"))
        );
        assert_eq!(answer_of("/fine").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_cut_off_at_the_deadline_of_its_route() {
        let sentence =
            |time| format!("the deadline of {time} passed; the outcome of a write is unknown");
        for (path, time) in [("/hangs", "50ms"), (ingest::PATH, "51ms")] {
            let (status, headers, body) = answer_of(path).await;
            assert_eq!(
                (status.as_u16(), body["code"].as_str()),
                (503, Some("overloaded")),
                "{path}"
            );
            assert_eq!(body["detail"], sentence(time), "{path}");
            assert!(headers.contains_key(header::RETRY_AFTER), "{path}");
        }
        let (status, headers, body) = answer_of(influx::V1_PATH).await;
        assert_eq!(status.as_u16(), 503);
        let error = body["error"].as_str().expect("version 1's form");
        assert!(error.ends_with(&sentence("51ms")), "{error}");
        assert!(headers.contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn only_bodies_of_events_have_the_longer_deadline() {
        let bounds = Bounds::default();
        for route in [ingest::PATH, influx::V1_PATH, influx::V2_PATH] {
            assert_eq!(
                bounds.deadline_of(route),
                Duration::from_secs(120),
                "{route}"
            );
        }
        for route in [
            "/v1/entities/search",
            "/v1/ingest/batches/{id}",
            "unmatched",
        ] {
            assert_eq!(
                bounds.deadline_of(route),
                Duration::from_secs(30),
                "{route}"
            );
        }
    }
}
