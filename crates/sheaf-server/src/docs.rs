//! The documentation that the server carries: the OpenAPI document, a page to try it, and what each error means. The
//! page needs no other host.

use std::sync::Arc;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use sheaf_model::RefusalCode;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use crate::problem::{CODES, Problem};

/// `validatorUrl` is null because the page would otherwise show the document to a public validator.
const PAGE: &str = r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sheaf</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script></body></html>
"##;
const START: &str = r##"SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true });
"##;
/// Scripts and styles from this server alone; the page's own icons are inline.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// The OpenAPI document, made once.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) Arc<OpenApi>);

/// Show the OpenAPI document of this server.
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "OpenAPI 3.1")))]
pub(crate) async fn openapi(axum::Extension(document): axum::Extension<Document>) -> Response {
    Json(document.0.as_ref()).into_response()
}

/// Show a page to try the interface.
#[utoipa::path(get, path = "/docs", tag = "service", responses((status = 200, description = "A page", content_type = "text/html")))]
pub(crate) async fn page() -> Response {
    let policy = [(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    )];
    (policy, Html(PAGE)).into_response()
}

/// Serve a part of that page.
#[utoipa::path(get, path = "/docs/assets/{file}", tag = "service", params(("file" = String, Path)),
    responses((status = 200, description = "A file")))]
pub(crate) async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    const CACHED: (HeaderName, HeaderValue) = (
        header::CACHE_CONTROL,
        HeaderValue::from_static("max-age=86400"),
    );
    if file == "start.js" {
        return Ok((
            [
                CACHED,
                (
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("text/javascript"),
                ),
            ],
            START,
        )
            .into_response());
    }
    let found = utoipa_swagger_ui::serve(&file, Arc::new(Config::from("/openapi.json")))
        .ok()
        .flatten();
    let found = found.ok_or_else(Problem::not_found)?;
    let kind = HeaderValue::from_str(&found.content_type).map_err(Problem::internal)?;
    let mut response = (
        [CACHED, (header::CONTENT_TYPE, kind)],
        found.bytes.into_owned(),
    )
        .into_response();
    if found.gzpipped {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Explain the code of an error or of a refusal.
#[utoipa::path(get, path = "/docs/errors/{code}", tag = "service", params(("code" = String, Path)),
    responses((status = 200, description = "A page", content_type = "text/html")))]
pub(crate) async fn error(Path(code): Path<String>) -> Result<Response, Problem> {
    let text = explanation(&code).ok_or_else(Problem::not_found)?;
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{code}</title>\n{text}\n</html>\n"
    );
    Ok(Html(page).into_response())
}

fn explanation(code: &str) -> Option<String> {
    let mut text = String::new();
    if let Some(row) = CODES.iter().find(|row| row.name == code) {
        text.push_str(&format!(
            "<h1>{code}</h1><p>HTTP {}: {}.</p><p>{}</p>",
            row.status,
            row.title,
            escaped(row.explanation)
        ));
    }
    if let Some(refusal) = RefusalCode::parse(code) {
        text.push_str(&format!(
            "<h1>{code}</h1><p>A value or event was refused.</p><p>{}</p>",
            escaped(refusal_text(refusal))
        ));
    }
    (!text.is_empty()).then_some(text)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// What a refusal means.
fn refusal_text(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::MalformedJson => "The event, line or value is not JSON of the expected shape.",
        RefusalCode::MalformedLine => "The line is not line protocol.",
        RefusalCode::MissingType => "The event names no type of entity.",
        RefusalCode::MissingId => {
            "The event names no entity, or the line lacks a tag that makes its id."
        }
        RefusalCode::InvalidName => {
            "A name is empty, longer than 255 bytes, or holds control characters."
        }
        RefusalCode::ReservedName => {
            "The name means the entity itself and cannot name an attribute."
        }
        RefusalCode::UnknownAttribute => {
            "The tenant refuses attributes that its catalogue lacks. Declare it first."
        }
        RefusalCode::TypeMismatch => "The value is of another type than its attribute.",
        RefusalCode::NumberNotExact => {
            "The attribute's type cannot hold the number exactly, and numbers are never rounded."
        }
        RefusalCode::OutOfRange => "The number or time is beyond what the attribute's type holds.",
        RefusalCode::InvalidText => "The text holds NUL or half a surrogate pair.",
        RefusalCode::SchemaViolation => "The value does not satisfy the attribute's JSON Schema.",
        RefusalCode::TimeOutOfRange => {
            "The event was observed outside the times that the tenant accepts."
        }
        RefusalCode::TooManyAttributes => "The event has more attributes than one may have.",
        RefusalCode::ValueTooLarge => {
            "The value, id or event is larger than it may be, or nested too deep."
        }
        RefusalCode::DuplicateKey => {
            "A name stands twice in one object or line; which one counts is not for the server to guess."
        }
        RefusalCode::SeriesConflict => {
            "Two lines of one entity and instant differ in tags that are not part of its id."
        }
        RefusalCode::QuotaExceeded => {
            "The tenant has as many attributes as it may have, or the document of the entity is as large as it may be. The \
             other values of the same event are stored."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_and_others_are_not() {
        let refusals = RefusalCode::ALL.map(RefusalCode::as_str);
        for code in CODES.iter().map(|row| row.name).chain(refusals) {
            assert!(
                explanation(code).is_some_and(|text| text.len() > 60),
                "{code}"
            );
        }
        assert_eq!(explanation("<script>"), None);
    }

    #[test]
    fn the_page_names_no_other_host() {
        for text in [PAGE, START] {
            assert!(!text.contains("//"), "{text}");
        }
        for file in ["swagger-ui.css", "swagger-ui-bundle.js"] {
            let found = utoipa_swagger_ui::serve(file, Arc::new(Config::from("/openapi.json")));
            assert!(
                found.is_ok_and(|found| found.is_some()),
                "{file} is not in the executable"
            );
        }
    }
}
