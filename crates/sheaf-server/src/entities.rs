//! Reading entities: one, or a list that passes a filter.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_query::filter::{Expr, parse_json, parse_text};
use sheaf_query::{
    CountMode, EntityAnswer, EntityQuery, FacetQuery, ListAnswer, ListQuery, Read, ReadOptions,
    SortKey,
};
use sheaf_store::TenantScope;
use utoipa::ToSchema;

use crate::auth::{ByAdmin, Caller};
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::explain::{ExplainBody, explain};
use crate::facets::{SpreadBody, facets_body, facets_of_body, facets_of_text};
use crate::freshness::{read_headers, read_options};
use crate::members::{Change, Members};
use crate::page::{check_limit, respond, take_limit};
use crate::params::{Params, Segments, sort_keys};
use crate::problem::Problem;
use crate::state::AppState;
use crate::stream::{self, Form, Source, Streams, form_of};
use crate::wire::{EntityBody, Named};

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
    let name = (entity_type.as_str(), id.as_str());
    let reader = &state.reader;
    let (fresh, answer) = if as_of.is_none() && query == EntityQuery::default() {
        let read = reader
            .entity_encoded(&scope, name, &options, encoded)
            .await?;
        let fresh = read_headers(&read.freshness, scope.tenant(), &state);
        let answer = read.value.map(|entity| (Some(entity.version), entity.body));
        (fresh, answer)
    } else {
        let read = match as_of {
            None => {
                reader
                    .entity(&scope, name.0, name.1, &query, &options)
                    .await?
            }
            Some(at) => {
                reader
                    .entity_as_of(&scope, name.0, name.1, at, &query, &options)
                    .await?
            }
        };
        let fresh = read_headers(&read.freshness, scope.tenant(), &state);
        let answer = read.value.map(|entity| {
            let version = entity.version;
            (version, EntityBody::of(entity, as_of).to_bytes())
        });
        (fresh, answer)
    };
    let Some((version, body)) = answer else {
        return Ok((fresh, Problem::not_found()).into_response());
    };
    let tag = version.map(etag);
    let is_known = tag.as_ref().is_some_and(|tag| matches_any(&headers, tag));
    let mut response = if is_known {
        (StatusCode::NOT_MODIFIED, fresh).into_response()
    } else {
        (fresh, [(header::CONTENT_TYPE, JSON)], body).into_response()
    };
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An entity with all its values, as it is remembered and sent.
fn encoded(entity: EntityAnswer) -> Bytes {
    EntityBody::of(entity, None).to_bytes()
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
    /// How the values of attributes are spread over all that match, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, SpreadBody>>)]
    facets: Option<Named<SpreadBody>>,
    /// How the list is answered, where an administrator asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<ExplainBody>,
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
        ("facets" = Option<String>, Query, description = "How values are spread over all that match: name[:N] for the N most frequent, name:histogram:<width or duration>; at most 10, as a comma list"),
        ("explain" = Option<bool>, Query, description = "How the list is answered; for administrators"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; in a stream, any number"), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page; a stream of all of them where Accept asks for one", content(
        (ListBody = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        (Vec<u8> = "application/vnd.apache.arrow.stream")))))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    State(streams): State<Arc<Streams>>,
    Caller(scope): Caller,
    by_admin: ByAdmin,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let facets = match params.take("facets")? {
        None => Vec::new(),
        Some(text) => facets_of_text(&text)?,
    };
    let explains = params.take_bool("explain")?;
    let filter = params.take_filter()?;
    let sort = match params.take("sort")? {
        None => Vec::new(),
        Some(text) => sort_keys(&text).map_err(|detail| Problem::invalid("sort", detail))?,
    };
    let stream_limit = match form {
        Form::Page => None,
        Form::Ndjson | Form::Csv | Form::Arrow => stream::take_limit(&mut params)?,
    };
    let query = ListQuery {
        entity_type: params.take("type")?,
        filter,
        sort: sort
            .into_iter()
            .map(|(name, descending)| SortKey { name, descending })
            .collect(),
        select: params.take_names("select")?,
        limit: match form {
            Form::Page => take_limit(&mut params)?,
            Form::Ndjson | Form::Csv | Form::Arrow => 1,
        },
        cursor: params.take("cursor")?,
        count: params
            .take_as("count", COUNTS, CountMode::parse)?
            .unwrap_or(CountMode::None),
        facets,
    };
    params.finish()?;
    if form != Form::Page {
        let asked = (form, options, stream_limit);
        return stream_list((state, streams, scope), asked, query, explains).await;
    }
    let explanation = match explains {
        true => Some(explain(&state, by_admin, &scope, &query, &options).await?),
        false => None,
    };
    let read = state.reader.list(&scope, &query, &options).await?;
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    let source = read.freshness.source.to_string();
    let mut body = body_of(read);
    body.explain = explanation.map(|explanation| ExplainBody::of(explanation, source));
    Ok(respond(&uri, fresh, &body, body.next_cursor.as_deref()))
}

fn body_of(read: Read<ListAnswer>) -> ListBody {
    let ListAnswer {
        page,
        count,
        facets,
    } = read.value;
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
        facets: facets_body(facets),
        explain: None,
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
    /// 1 to 1000; in a stream, any number.
    limit: Option<u64>,
    /// Where the page before ended.
    cursor: Option<String>,
    /// none, estimate or exact.
    #[schema(value_type = Option<String>)]
    count: CountMode,
    /// By name, {"top":3} for the most frequent values, {"histogram":100} or {"histogram":"1d"} for intervals.
    #[schema(value_type = Option<Object>)]
    facets: Vec<FacetQuery>,
}

impl SearchBody {
    fn read(body: &[u8]) -> Result<SearchBody, Problem> {
        let mut members = Members::read(body)?;
        let facets = facets_of_body(&mut members)?;
        let filter = take_filter(&mut members)?;
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
            facets,
        };
        members.finish()?;
        Ok(search)
    }
}

/// Takes a filter in either form: text is a string, JSON an object.
pub(crate) fn take_filter(members: &mut Members<'_>) -> Result<Option<Expr>, Problem> {
    match members.take_raw("filter") {
        None | Some("null") => Ok(None),
        Some(raw) if raw.starts_with('"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw)
                .map_err(|fault| Problem::invalid("filter", fault.to_string()))?;
            Ok(Some(parse_text(&text)?))
        }
        Some(raw) => Ok(Some(parse_json(raw)?)),
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
    params(("explain" = Option<bool>, Query, description = "How the list is answered; for administrators")),
    responses((status = 200, description = "A page; a stream of all of them where Accept asks for one", content(
        (ListBody = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        (Vec<u8> = "application/vnd.apache.arrow.stream")))))]
pub(crate) async fn search(
    State(state): State<Arc<AppState>>,
    State(streams): State<Arc<Streams>>,
    Caller(scope): Caller,
    by_admin: ByAdmin,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let explains = params.take_bool("explain")?;
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let search = SearchBody::read(&body)?;
    let query = ListQuery {
        entity_type: search.entity_type,
        filter: search.filter,
        sort: search.sort,
        select: search.select,
        limit: match form {
            Form::Page => check_limit(search.limit)?,
            Form::Ndjson | Form::Csv | Form::Arrow => 1,
        },
        cursor: search.cursor,
        count: search.count,
        facets: search.facets,
    };
    if form != Form::Page {
        let asked = (form, options, stream::check_limit(search.limit)?);
        return stream_list((state, streams, scope), asked, query, explains).await;
    }
    let explanation = match explains {
        true => Some(explain(&state, by_admin, &scope, &query, &options).await?),
        false => None,
    };
    let read = state.reader.list(&scope, &query, &options).await?;
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    let source = read.freshness.source.to_string();
    let mut body = body_of(read);
    body.explain = explanation.map(|explanation| ExplainBody::of(explanation, source));
    Ok((fresh, Json(body)).into_response())
}

/// Streams a list. What is said of all that match belongs to a page.
async fn stream_list(
    whose: (Arc<AppState>, Arc<Streams>, TenantScope),
    (form, options, limit): (Form, ReadOptions, Option<u64>),
    query: ListQuery,
    explains: bool,
) -> Result<Response, Problem> {
    stream::refuse_of_pages("count", query.count != CountMode::None)?;
    stream::refuse_of_pages("facets", !query.facets.is_empty())?;
    stream::refuse_of_pages("explain", explains)?;
    stream::respond(whose, form, Source::list(query), options, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

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
            (&br#"{"facets":["a"]}"#[..], Code::MalformedJson),
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
