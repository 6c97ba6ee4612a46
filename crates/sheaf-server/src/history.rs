//! An entity's history: instants, rows, or buckets of time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sheaf_model::{BatchId, Duration, Timestamp, Value};
use sheaf_query::{
    Aggregate, AggregateValue, BucketItem, BucketQuery, Fill, HistoryItem, HistoryQuery,
};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::entities::require_json;
use crate::freshness::{read_headers, read_options};
use crate::page::{respond, take_limit};
use crate::params::{Params, Segments};
use crate::problem::{Code, Problem};
use crate::state::AppState;
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

/// Show an entity's history, raw or in buckets of time.
#[utoipa::path(get, path = "/v1/entities/{type}/{id}/history", tag = "entities",
    params(("type" = String, Path), ("id" = String, Path),
        ("attribute" = Option<String>, Query, description = "Attributes, as a comma list; absent: all"),
        ("from" = Option<String>, Query, description = "Inclusive"), ("to" = Option<String>, Query, description = "Exclusive"),
        ("order" = Option<String>, Query, description = "asc or desc"),
        ("corrections" = Option<bool>, Query, description = "One item a row, with what was corrected"),
        ("bucket" = Option<String>, Query, description = "The width of a bucket, such as 1h"),
        ("agg" = Option<String>, Query, description = "avg, min, max, sum, count, first, last, as a comma list"),
        ("fill" = Option<String>, Query, description = "none or null"),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "A page; in buckets, see BucketsBody", body = HistoryBody)))]
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    Caller(scope): Caller,
    Segments((entity_type, id)): Segments<(String, String)>,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    require_json(&headers)?;
    let options = read_options(&mut params, &headers, scope.tenant(), &state)?;
    let query = match params.take_as("bucket", "a duration such as 1h", |text| text.parse().ok())? {
        None => Query::Raw(raw_query(&mut params)?),
        Some(bucket) => Query::Buckets(bucket_query(&mut params, bucket)?),
    };
    params.finish()?;
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
            .map(|text| aggregates(&text))
            .transpose()?,
        fill: params
            .take_as(
                "fill",
                "none or null; previous and linear are not served by this version",
                Fill::parse,
            )?
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

fn aggregates(text: &str) -> Result<Vec<Aggregate>, Problem> {
    let mut aggregates = Vec::new();
    for name in text.split(',') {
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
            aggregates("avg, max,avg").expect("known"),
            [Aggregate::Avg, Aggregate::Max]
        );
        assert_eq!(
            aggregates("median").expect_err("unknown").code,
            Code::InvalidAggregate
        );
    }
}
