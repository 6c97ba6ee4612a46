//! An entity's history: instants, rows, or buckets of time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_model::{BatchId, Duration, Timestamp, Value};
use sheaf_query::{
    Aggregate, AggregateValue, BucketItem, BucketQuery, Fill, HistoryItem, HistoryQuery,
    SeriesEntry,
};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::freshness::{read_headers, read_options};
use crate::page::{respond, take_limit};
use crate::params::{Params, Segments};
use crate::problem::{Code, Problem};
use crate::state::AppState;
use crate::stream::{self, Form, Of, Source, Streams, form_of};
use crate::wire::Named;

/// A page of an entity's history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryBody {
    /// The entity's type.
    #[serde(rename = "type")]
    entity_type: String,
    /// Its id.
    id: String,
    /// The items.
    items: Vec<HistoryItemBody>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// What was observed at one instant, or one row of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HistoryItemBody {
    /// The instant.
    #[schema(value_type = String, format = DateTime)]
    observed_at: Timestamp,
    /// When it arrived.
    #[schema(value_type = String, format = DateTime)]
    ingested_at: Timestamp,
    /// Attributes that are not named were removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replaced: bool,
    /// The entity was deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// Values by name; null was removed.
    #[schema(value_type = Object)]
    attributes: Named<Option<Value>>,
    /// The row's place in its instant, where items are rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i16>,
    /// The request that brought the row, where items are rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    batch_id: Option<BatchId>,
}

/// A page of an entity's history in buckets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BucketsBody {
    /// The entity's type.
    #[serde(rename = "type")]
    entity_type: String,
    /// Its id.
    id: String,
    /// The width of a bucket.
    bucket: String,
    /// The buckets.
    items: Vec<BucketBody>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// The aggregates of one bucket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BucketBody {
    /// The first instant of the bucket.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// The first instant after it.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// By attribute, by aggregate.
    #[schema(value_type = Object)]
    attributes: Named<Named<AggregateValue>>,
}

/// An entry of a history that says whose it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SeriesItemBody {
    /// The entity's type; absent in one series of all entities.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    entity_type: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// What was observed at one instant, or a bucket.
    #[serde(flatten)]
    entry: EntryBody,
}

/// What was observed at one instant, or the aggregates of a bucket.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EntryBody {
    /// One instant.
    Instant(HistoryItemBody),
    /// A bucket.
    Bucket(BucketBody),
}

impl SeriesItemBody {
    pub(crate) fn of(entity: Option<(String, String)>, entry: SeriesEntry) -> SeriesItemBody {
        let (entity_type, id) = entity.unzip();
        SeriesItemBody {
            entity_type,
            id,
            entry: match entry {
                SeriesEntry::Instant(item) => EntryBody::Instant(item_of(item)),
                SeriesEntry::Bucket(bucket) => EntryBody::Bucket(bucket_of(bucket)),
            },
        }
    }
}

/// What stands for buckets without values, as errors say it.
pub(crate) const FILLS: &str = "none, null, previous or linear";

/// Show an entity's history, raw or in buckets of time. What was archived is read from the lake and joined with the rest:
/// X-Data-Source then names both, as in `primary,lake`.
#[utoipa::path(get, path = "/v1/entities/{type}/{id}/history", tag = "entities",
    params(("type" = String, Path), ("id" = String, Path),
        ("attribute" = Option<String>, Query, description = "Attributes, as a comma list; absent: all"),
        ("from" = Option<String>, Query, description = "Inclusive"), ("to" = Option<String>, Query, description = "Exclusive"),
        ("order" = Option<String>, Query, description = "asc or desc"),
        ("corrections" = Option<bool>, Query, description = "One item a row, with what was corrected"),
        ("bucket" = Option<String>, Query, description = "The width of a bucket, such as 1h"),
        ("agg" = Option<String>, Query, description = "avg, min, max, sum, count, first, last, as a comma list"),
        ("fill" = Option<String>, Query, description = "What stands for buckets without values: none, null, previous (what the last bucket with values came to, before the first one of the range the last value) or linear (between buckets of the range, for numbers); the last two need attribute"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; in a stream, any number"), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page; in buckets, see BucketsBody; a stream of all of them where Accept asks for one", content(
        (HistoryBody = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        (Vec<u8> = "application/vnd.apache.arrow.stream")))))]
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    State(streams): State<Arc<Streams>>,
    Caller(scope): Caller,
    Segments((entity_type, id)): Segments<(String, String)>,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let form = form_of(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let stream_limit = match form {
        Form::Page => None,
        Form::Ndjson | Form::Csv | Form::Arrow => stream::take_limit(&mut params)?,
    };
    let query = match params.take_as("bucket", "a duration such as 1h", |text| text.parse().ok())? {
        None => Query::Raw(raw_query(&mut params)?),
        Some(bucket) => Query::Buckets(bucket_query(&mut params, bucket)?),
    };
    params.finish()?;
    if form != Form::Page {
        let of = Of { entity_type, id };
        let source = match query {
            Query::Raw(query) => Source::History(of, query),
            Query::Buckets(query) => Source::Buckets(of, query),
        };
        let whose = (state, streams, scope);
        return stream::respond(whose, form, source, options, stream_limit).await;
    }
    let tenant = scope.tenant();
    match query {
        Query::Raw(query) => {
            let read = state
                .reader
                .history(&scope, &entity_type, &id, &query, &options)
                .await?;
            let fresh = read_headers(&read.freshness, tenant, &state);
            let Some(history) = read.value else {
                return Ok((fresh, Problem::not_found()).into_response());
            };
            let body = HistoryBody {
                entity_type: history.entity_type,
                id: history.external_id,
                items: history.page.items.into_iter().map(item_of).collect(),
                next_cursor: history.page.next_cursor,
            };
            Ok(respond(&uri, fresh, &body, body.next_cursor.as_deref()))
        }
        Query::Buckets(query) => {
            let read = state
                .reader
                .history_buckets(&scope, &entity_type, &id, &query, &options)
                .await?;
            let fresh = read_headers(&read.freshness, tenant, &state);
            let Some(history) = read.value else {
                return Ok((fresh, Problem::not_found()).into_response());
            };
            let body = BucketsBody {
                entity_type: history.entity_type,
                id: history.external_id,
                bucket: history.bucket.to_string(),
                items: history.page.items.into_iter().map(bucket_of).collect(),
                next_cursor: history.page.next_cursor,
            };
            Ok(respond(&uri, fresh, &body, body.next_cursor.as_deref()))
        }
    }
}

enum Query {
    Raw(HistoryQuery),
    Buckets(BucketQuery),
}

fn raw_query(params: &mut Params) -> Result<HistoryQuery, Problem> {
    for name in ["agg", "fill"] {
        if params.take(name)?.is_some() {
            return Err(Problem::invalid(name, "needs bucket"));
        }
    }
    Ok(HistoryQuery {
        attributes: params.take_names("attribute")?,
        from: params.take_time("from")?,
        to: params.take_time("to")?,
        descending: descending(params)?,
        limit: take_limit(params)?,
        cursor: params.take("cursor")?,
        corrections: params.take_bool("corrections")?,
    })
}

fn bucket_query(params: &mut Params, bucket: Duration) -> Result<BucketQuery, Problem> {
    if params.take_bool("corrections")? {
        return Err(Problem::invalid(
            "corrections",
            "cannot stand beside bucket",
        ));
    }
    Ok(BucketQuery {
        attributes: params.take_names("attribute")?,
        from: params.take_time("from")?,
        to: params.take_time("to")?,
        descending: descending(params)?,
        limit: take_limit(params)?,
        cursor: params.take("cursor")?,
        bucket,
        aggregates: params
            .take("agg")?
            .map(|text| aggregates(text.split(',')))
            .transpose()?,
        fill: params
            .take_as("fill", FILLS, Fill::parse)?
            .unwrap_or(Fill::None),
    })
}

fn descending(params: &mut Params) -> Result<bool, Problem> {
    let order = params.take_as("order", "asc or desc", |text| match text {
        "asc" => Some(false),
        "desc" => Some(true),
        _ => None,
    })?;
    Ok(order.unwrap_or(false))
}

/// Aggregates by their names; each stands once.
pub(crate) fn aggregates<'a>(
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<Aggregate>, Problem> {
    let mut aggregates = Vec::new();
    for name in names {
        let aggregate = Aggregate::parse(name.trim()).ok_or_else(|| {
            Problem::parameter(
                Code::InvalidAggregate,
                "agg",
                "expected avg, min, max, sum, count, first or last",
            )
        })?;
        if !aggregates.contains(&aggregate) {
            aggregates.push(aggregate);
        }
    }
    Ok(aggregates)
}

fn item_of(item: HistoryItem) -> HistoryItemBody {
    HistoryItemBody {
        observed_at: item.observed_at,
        ingested_at: item.ingested_at,
        replaced: item.replaced,
        deleted: item.deleted,
        attributes: Named(item.attributes),
        seq: item.row.map(|row| row.seq),
        batch_id: item.row.map(|row| row.batch),
    }
}

fn bucket_of(item: BucketItem) -> BucketBody {
    let attributes = item.attributes.into_iter().map(|(name, aggregates)| {
        let aggregates = aggregates
            .into_iter()
            .map(|(aggregate, value)| (aggregate.as_str().to_owned(), value));
        (name, Named(aggregates.collect()))
    });
    BucketBody {
        from: item.from,
        to: item.to,
        attributes: Named(attributes.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_buckets_alone_is_refused_without_them() {
        let refused = |query: &str| {
            raw_query(&mut Params::parse(query).expect("a query"))
                .map(drop)
                .map_err(|problem| problem.code)
        };
        assert_eq!(refused("from=2013-01-01T00:00:00Z&order=desc"), Ok(()));
        for query in [
            "agg=avg",
            "fill=none",
            "order=up",
            "from=yesterday",
            "limit=0",
        ] {
            assert_eq!(refused(query), Err(Code::InvalidParameter), "{query}");
        }
    }

    #[test]
    fn aggregates_are_named_and_each_stands_once() {
        assert_eq!(
            aggregates("avg, max,avg".split(',')).expect("known"),
            [Aggregate::Avg, Aggregate::Max]
        );
        assert_eq!(
            aggregates(["median"].into_iter())
                .expect_err("unknown")
                .code,
            Code::InvalidAggregate
        );
    }
}
