//! Reading entities: one, or a list that passes a filter.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_query::filter::{Expr, parse_json, parse_text};
use sheaf_query::{CountMode, EntityQuery, ListAnswer, ListQuery, Read, SortKey};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::freshness::{read_headers, read_options};
use crate::members::{Change, Members};
use crate::page::{check_limit, respond, take_limit};
use crate::params::{Params, Segments, sort_keys};
use crate::problem::{Code, Problem};
use crate::state::AppState;
use crate::wire::EntityBody;

/// Show an entity, as it is or as it was.
#[utoipa::path(get, path = "/v1/entities/{type}/{id}", tag = "entities",
    params(("type" = String, Path), ("id" = String, Path),
        ("select" = Option<String>, Query, description = "Attributes, as a comma list"),
        ("times" = Option<bool>, Query, description = "Whether since when each value holds"),
        ("as_of" = Option<String>, Query, description = "The entity as it was at this time")),
    responses((status = 200, description = "The entity", body = EntityBody),
        (status = 304, description = "It is as If-None-Match says")))]
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Segments((entity_type, id)): Segments<(String, String)>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let as_of = params.take_time("as_of")?;
    let query = EntityQuery {
        select: params.take_names("select")?,
        times: params.take_bool("times")?,
    };
    params.finish()?;
    let read = match as_of {
        None => {
            state
                .reader
                .entity(&scope, &entity_type, &id, &query, &options)
                .await?
        }
        Some(at) => {
            state
                .reader
                .entity_as_of(&scope, &entity_type, &id, at, &query, &options)
                .await?
        }
    };
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    let Some(entity) = read.value else {
        return Ok((fresh, Problem::not_found()).into_response());
    };
    let tag = entity.version.map(etag);
    let is_known = tag.as_ref().is_some_and(|tag| matches_any(&headers, tag));
    let mut response = if is_known {
        (StatusCode::NOT_MODIFIED, fresh).into_response()
    } else {
        (fresh, Json(EntityBody::of(entity, as_of))).into_response()
    };
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// A version as an entity tag.
pub(crate) fn etag(version: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("a number is a header value")
}

/// Whether `If-None-Match` names this tag; compared weakly, as RFC 9110 says for it.
fn matches_any(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value.split(',').map(str::trim).any(|given| {
                given == "*" || given.trim_start_matches("W/").as_bytes() == tag.as_bytes()
            })
        })
}

/// A page of entities.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListBody {
    /// The entities, in order.
    items: Vec<EntityBody>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
    /// How many match in all, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<CountBody>,
}

/// How many entities match.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountBody {
    /// `exact` or `estimate`.
    kind: &'static str,
    /// How many.
    value: i64,
}

const COUNTS: &str = "none, estimate or exact";

/// List entities that pass a filter.
#[utoipa::path(get, path = "/v1/entities", tag = "entities",
    params(("type" = Option<String>, Query, description = "Only entities of this type"),
        ("filter" = Option<String>, Query, description = "CQL2, such as seats >= 100"),
        ("filter-lang" = Option<String>, Query, description = "cql2-text or cql2-json"),
        ("sort" = Option<String>, Query, description = "Names as a comma list, - before those that come greatest first"),
        ("select" = Option<String>, Query, description = "Attributes, as a comma list"),
        ("count" = Option<String>, Query, description = "none, estimate or exact"),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page", body = ListBody)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    require_json(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    refuse_unserved(params.take("facets")?.as_deref(), "facets")?;
    refuse_unserved(
        params
            .take("explain")?
            .as_deref()
            .filter(|text| *text != "false"),
        "explain",
    )?;
    let is_json = params.take_as("filter-lang", "cql2-text or cql2-json", |text| match text {
        "cql2-text" => Some(false),
        "cql2-json" => Some(true),
        _ => None,
    })?;
    let filter = match params.take("filter")? {
        None => None,
        Some(text) if is_json.unwrap_or(false) => Some(parse_json(&text)?),
        Some(text) => Some(parse_text(&text)?),
    };
    let sort = match params.take("sort")? {
        None => Vec::new(),
        Some(text) => sort_keys(&text).map_err(|detail| Problem::invalid("sort", detail))?,
    };
    let query = ListQuery {
        entity_type: params.take("type")?,
        filter,
        sort: sort
            .into_iter()
            .map(|(name, descending)| SortKey { name, descending })
            .collect(),
        select: params.take_names("select")?,
        limit: take_limit(&mut params)?,
        cursor: params.take("cursor")?,
        count: params
            .take_as("count", COUNTS, CountMode::parse)?
            .unwrap_or(CountMode::None),
    };
    params.finish()?;
    let read = state.reader.list(&scope, &query, &options).await?;
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    let body = body_of(read);
    Ok(respond(&uri, fresh, &body, body.next_cursor.as_deref()))
}

fn body_of(read: Read<ListAnswer>) -> ListBody {
    let ListAnswer { page, count } = read.value;
    ListBody {
        items: page
            .items
            .into_iter()
            .map(|entity| EntityBody::of(entity, None))
            .collect(),
        next_cursor: page.next_cursor,
        count: count.map(|count| CountBody {
            kind: count.kind.as_str(),
            value: count.value,
        }),
    }
}

/// What a list is asked for in a body.
#[derive(Debug, ToSchema)]
pub(crate) struct SearchBody {
    /// Only entities of this type.
    #[schema(rename = "type")]
    entity_type: Option<String>,
    /// CQL2 as text or as JSON.
    #[schema(value_type = Option<Object>)]
    filter: Option<Expr>,
    /// Each element is one name as it is, unquoted, with - before it where the greatest comes first.
    #[schema(value_type = Option<Vec<String>>)]
    sort: Vec<SortKey>,
    /// The attributes of each entity; each element is one name as it is, unquoted.
    select: Option<Vec<String>>,
    /// 1 to 1000.
    limit: Option<u32>,
    /// Where the page before ended.
    cursor: Option<String>,
    /// none, estimate or exact.
    #[schema(value_type = Option<String>)]
    count: CountMode,
}

impl SearchBody {
    fn read(body: &[u8]) -> Result<SearchBody, Problem> {
        let mut members = Members::read(body)?;
        refuse_unserved(
            members.take_raw("facets").filter(|raw| *raw != "null"),
            "facets",
        )?;
        let filter = match members.take_raw("filter") {
            None | Some("null") => None,
            Some(raw) if raw.starts_with('"') => {
                let text: Cow<'_, str> = serde_json::from_str(raw)
                    .map_err(|fault| Problem::invalid("filter", fault.to_string()))?;
                Some(parse_text(&text)?)
            }
            Some(raw) => Some(parse_json(raw)?),
        };
        let keys: Vec<String> = members.take("sort")?.unwrap_or_default();
        let count = match members.take_as("count", COUNTS, CountMode::parse)? {
            Change::Keep | Change::Clear => CountMode::None,
            Change::Set(count) => count,
        };
        let search = SearchBody {
            entity_type: members.take("type")?,
            filter,
            sort: keys.into_iter().map(sort_key).collect(),
            select: members.take("select")?,
            limit: members.take("limit")?,
            cursor: members.take("cursor")?,
            count,
        };
        members.finish()?;
        Ok(search)
    }
}

/// One key of an order. In a body it stands alone, so that there is nothing to quote.
fn sort_key(key: String) -> SortKey {
    match key.strip_prefix('-') {
        Some(name) => SortKey {
            name: name.to_owned(),
            descending: true,
        },
        None => SortKey {
            name: key,
            descending: false,
        },
    }
}

/// List entities that pass a filter given in a body.
#[utoipa::path(post, path = "/v1/entities/search", tag = "entities", request_body = SearchBody,
    responses((status = 200, description = "A page", body = ListBody)))]
pub(crate) async fn search(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_json(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let search = SearchBody::read(&body)?;
    let query = ListQuery {
        entity_type: search.entity_type,
        filter: search.filter,
        sort: search.sort,
        select: search.select,
        limit: check_limit(search.limit)?,
        cursor: search.cursor,
        count: search.count,
    };
    let read = state.reader.list(&scope, &query, &options).await?;
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    Ok((fresh, Json(body_of(read))).into_response())
}

/// A part of the interface that this version does not answer. To pass over it would be to answer another question.
fn refuse_unserved(given: Option<&str>, parameter: &str) -> Result<(), Problem> {
    match given {
        None => Ok(()),
        Some(_) => Err(Problem::invalid(parameter, "is not served by this version")),
    }
}

/// Lists and histories are JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .filter(|range| !range.is_empty())
        .peekable();
    let is_json = ranges.peek().is_none()
        || ranges.any(|range| matches!(range, "*/*" | "application/*" | "application/json"));
    if is_json {
        Ok(())
    } else {
        Err(Problem::new(
            Code::NotAcceptable,
            "the answer is application/json",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    #[test]
    fn an_entity_that_the_client_has_is_not_sent_again() {
        for (value, expected) in [
            ("\"7\"", true),
            ("W/\"7\"", true),
            ("\"6\", \"7\"", true),
            ("*", true),
            ("\"8\"", false),
            ("7", false),
        ] {
            assert_eq!(
                matches_any(&headers(header::IF_NONE_MATCH, value), &etag(7)),
                expected,
                "{value}"
            );
        }
        assert!(!matches_any(&HeaderMap::new(), &etag(7)));
    }

    #[test]
    fn only_json_is_served() {
        for (value, expected) in [
            ("*/*", true),
            ("text/html, application/json;q=0.9", true),
            ("text/csv", false),
            ("application/x-ndjson", false),
        ] {
            assert_eq!(
                require_json(&headers(header::ACCEPT, value)).is_ok(),
                expected,
                "{value}"
            );
        }
        assert!(require_json(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_search_reads_both_forms_of_a_filter_and_refuses_what_it_lacks() {
        let text = SearchBody::read(
            br#"{"type":"plane","filter":"seats >= 100","sort":["-seats"," a,\"b\""],"select":[" a,\"b\""]}"#,
        )
        .expect("a search");
        let json = SearchBody::read(
            br#"{"filter":{"op":">=","args":[{"property":"seats"},100]},"limit":2}"#,
        )
        .expect("a search");
        assert!(text.filter.is_some() && json.filter.is_some());
        let keys = text
            .sort
            .iter()
            .map(|key| (key.name.as_str(), key.descending));
        assert_eq!(
            keys.collect::<Vec<_>>(),
            [("seats", true), (r#" a,"b""#, false)]
        );
        assert_eq!(text.select, Some(vec![r#" a,"b""#.to_owned()]));
        for (body, code) in [
            (
                &br#"{"facets":{"a":{"top":3}}}"#[..],
                Code::InvalidParameter,
            ),
            (br#"{"sort":"a,b"}"#, Code::InvalidParameter),
            (br#"{"select":"a,b"}"#, Code::InvalidParameter),
            (br#"{"count":"some"}"#, Code::InvalidParameter),
            (br#"{"typ":"plane"}"#, Code::UnknownParameter),
            (br#"{"filter":"seats >="}"#, Code::InvalidFilter),
            (br#"[]"#, Code::MalformedJson),
        ] {
            assert_eq!(SearchBody::read(body).expect_err("refused").code, code);
        }
    }
}
