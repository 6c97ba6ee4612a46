//! The histories of many entities in one answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sheaf_model::{Duration, Timestamp};
use sheaf_query::filter::Expr;
use sheaf_query::{Aggregate, Bucketing, Fill, HistoriesQuery};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{SMALL_BYTES_MAX, read_json};
use crate::entities::take_filter;
use crate::freshness::{read_headers, read_options};
use crate::history::{FILLS, SeriesItemBody, aggregates};
use crate::members::{Change, Members};
use crate::page::{PageBody, check_limit};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::state::AppState;
use crate::stream::{self, Form, Source, Streams, form_of};

/// Which histories are asked for.
#[derive(Debug, ToSchema)]
pub(crate) struct HistoriesBody {
    /// Only entities of this type.
    #[schema(rename = "type")]
    entity_type: Option<String>,
    /// CQL2 as text or as JSON, on the entities as they are now.
    #[schema(value_type = Option<Object>)]
    filter: Option<Expr>,
    /// The attributes; required.
    attribute: Vec<String>,
    /// Inclusive; required.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Exclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// The width of a bucket, such as 1d; absent for plain values.
    #[schema(value_type = Option<String>)]
    bucket: Option<Duration>,
    /// avg, min, max, sum, count, first, last.
    #[schema(value_type = Option<Vec<String>>)]
    agg: Option<Vec<Aggregate>>,
    /// none, null, previous or linear.
    #[schema(value_type = Option<String>)]
    fill: Fill,
    /// entity, or all for one series of all entities.
    #[schema(value_type = Option<String>)]
    group: Group,
    /// 1 to 1000; in a stream, any number.
    limit: Option<u64>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Whose series there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Entity,
    All,
}

impl HistoriesBody {
    fn read(body: &[u8]) -> Result<HistoriesBody, Problem> {
        let mut members = Members::read(body)?;
        let time = |members: &mut Members<'_>, name: &str| {
            let change = members.take_as(name, "a time in RFC 3339 form", |text| {
                Timestamp::parse(text).ok().map(|(time, _)| time)
            });
            change.map(|change| change.apply(None))
        };
        let (from, to) = (time(&mut members, "from")?, time(&mut members, "to")?);
        let attribute: Option<Vec<String>> = members.take("attribute")?;
        let bucket = match members.take_raw("bucket") {
            None | Some("null") => None,
            Some(raw) => Some(duration(raw)?),
        };
        let agg: Option<Vec<String>> = members.take("agg")?;
        let agg = match agg {
            Some(names) => Some(aggregates(names.iter().map(String::as_str))?),
            None => None,
        };
        let fill = members.take_as("fill", FILLS, Fill::parse)?;
        if bucket.is_none() && (agg.is_some() || fill != Change::Keep) {
            let name = if agg.is_some() { "agg" } else { "fill" };
            return Err(Problem::invalid(name, "needs bucket"));
        }
        let group = members.take_as("group", "entity or all", |text| match text {
            "entity" => Some(Group::Entity),
            "all" => Some(Group::All),
            _ => None,
        })?;
        let histories = HistoriesBody {
            entity_type: members.take("type")?,
            filter: take_filter(&mut members)?,
            attribute: attribute
                .filter(|names| !names.is_empty())
                .ok_or_else(|| unbounded("attribute", "name the attributes that are wanted"))?,
            from: from.ok_or_else(|| unbounded("from", "say from when on histories are wanted"))?,
            to,
            bucket,
            agg,
            fill: fill.apply(None).unwrap_or(Fill::None),
            group: group.apply(None).unwrap_or(Group::Entity),
            limit: members.take("limit")?,
            cursor: members.take("cursor")?,
        };
        members.finish()?;
        Ok(histories)
    }
}

fn duration(raw: &str) -> Result<Duration, Problem> {
    let text = raw.trim_matches('"');
    text.parse()
        .map_err(|_| Problem::invalid("bucket", "expected a duration such as 1h"))
}

fn unbounded(member: &str, hint: &str) -> Problem {
    let mut problem = Problem::parameter(Code::UnboundedQuery, member, "is required");
    problem.hint = Some(hint.to_owned());
    problem
}

/// Query the histories of all entities that pass a filter.
#[utoipa::path(post, path = "/v1/history/query", tag = "entities", request_body = HistoriesBody,
    responses((status = 200, description = "A page, in order of id, then time; a stream where Accept asks for one", content(
        (PageBody<SeriesItemBody> = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        (Vec<u8> = "application/vnd.apache.arrow.stream")))))]
pub(crate) async fn query(
    State(state): State<Arc<AppState>>,
    State(streams): State<Arc<Streams>>,
    Caller(scope): Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    params.finish()?;
    let body = read_json(&headers, body, SMALL_BYTES_MAX).await?;
    let asked = HistoriesBody::read(&body)?;
    let limit = match form {
        Form::Page => check_limit(asked.limit)?,
        Form::Ndjson | Form::Csv | Form::Arrow => 1,
    };
    let query = HistoriesQuery {
        entity_type: asked.entity_type,
        filter: asked.filter,
        attributes: asked.attribute,
        from: asked.from,
        to: asked.to,
        bucketing: asked.bucket.map(|width| Bucketing {
            width,
            aggregates: asked.agg,
            fill: asked.fill,
        }),
        is_one_series: asked.group == Group::All,
        is_by_type: false,
        limit,
        cursor: asked.cursor,
    };
    if form != Form::Page {
        let limit = stream::check_limit(asked.limit)?;
        let source = Source::histories(query);
        return stream::respond((state, streams, scope), form, source, options, limit).await;
    }
    let read = state.reader.histories(&scope, &query, &options).await?;
    let fresh = read_headers(&read.freshness, scope.tenant(), &state);
    let items = read.value.items.into_iter();
    let page = PageBody {
        items: items
            .map(|item| SeriesItemBody::of(item.entity, item.entry))
            .collect(),
        next_cursor: read.value.next_cursor,
    };
    Ok((fresh, Json(page)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_read_without_bound_is_refused_with_the_way_out() {
        for (body, member) in [
            (r#"{"from":"2013-01-01T00:00:00Z"}"#, "attribute"),
            (
                r#"{"from":"2013-01-01T00:00:00Z","attribute":[]}"#,
                "attribute",
            ),
            (r#"{"attribute":["a"]}"#, "from"),
            (r#"{"attribute":["a"],"from":null}"#, "from"),
        ] {
            let problem = HistoriesBody::read(body.as_bytes()).expect_err(body);
            assert_eq!(problem.code, Code::UnboundedQuery, "{body}");
            assert_eq!(problem.errors[0].parameter, member, "{body}");
            assert!(problem.hint.is_some(), "{body}");
        }
    }

    #[test]
    fn members_are_read_and_nothing_is_passed_over() {
        let whole = br#"{"type":"airport","filter":"external_id IN ('JFK','LGA')","attribute":["temp"],
            "from":"2013-01-01T00:00:00Z","to":"2013-02-01T00:00:00Z","bucket":"1d","agg":["avg","avg"],"fill":"linear",
            "group":"all","limit":100,"cursor":null}"#;
        let read = HistoriesBody::read(whole).expect("whole");
        assert_eq!(read.agg, Some(vec![Aggregate::Avg]));
        assert_eq!((read.fill, read.group), (Fill::Linear, Group::All));
        assert_eq!(read.bucket, "1d".parse().ok());
        let with = |member: &str| {
            let body = format!(r#"{{"attribute":["a"],"from":"2013-01-01T00:00:00Z",{member}}}"#);
            HistoriesBody::read(body.as_bytes())
                .map(drop)
                .map_err(|problem| problem.code)
        };
        assert_eq!(with(r#""bucket":60"#), Ok(()));
        for (member, code) in [
            (r#""bucket":"x""#, Code::InvalidParameter),
            (r#""agg":["avg"]"#, Code::InvalidParameter),
            (r#""fill":"none""#, Code::InvalidParameter),
            (r#""bucket":"1h","fill":"some""#, Code::InvalidParameter),
            (r#""bucket":"1h","agg":["median"]"#, Code::InvalidAggregate),
            (r#""group":"type""#, Code::InvalidParameter),
            (r#""order":"asc""#, Code::UnknownParameter),
        ] {
            assert_eq!(with(member), Err(code), "{member}");
        }
    }
}
