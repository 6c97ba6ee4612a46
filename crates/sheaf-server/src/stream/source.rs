//! What a stream is of: a query whose pages are asked for one after the other.

use sheaf_query::{
    BucketQuery, HistoriesQuery, HistoryQuery, ListQuery, Read, ReadError, ReadOptions, Reader,
    SeriesEntry, SortKey, Upcoming,
};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;

use super::row::{Item, Layout};
use crate::problem::Problem;

/// Items of one page of a stream. More save round trips and hold more memory: a page of documents is cut at 8 MiB anyway.
const ITEMS_MAX: u64 = 1_000;

/// A query and where its next page begins.
pub(crate) enum Source {
    List(ListQuery, Steps),
    History(Of, HistoryQuery),
    Buckets(Of, BucketQuery),
    Histories(HistoriesQuery, Upcoming),
}

/// How the next pages of a list are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// What matches is found, and then ordered: for the first page, of which nobody knows how many follow.
    Found,
    /// By walking on in the order.
    Walked,
    /// As the first: to walk on took too long.
    FoundAgain,
}

/// Whose history.
pub(crate) struct Of {
    pub(crate) entity_type: String,
    pub(crate) id: String,
}

/// Whether an index of names is in this order.
fn is_of_the_name(key: &SortKey) -> bool {
    matches!(key.name.as_str(), "entity_type" | "external_id") && !key.descending
}

/// Items of the series of one entity.
fn of_one<T>(entity: &(String, String), items: Vec<T>, entry: fn(T) -> SeriesEntry) -> Vec<Item> {
    let items = items.into_iter();
    let item = |item| Item::series(Some(entity.clone()), entry(item));
    items.map(item).collect()
}

impl Source {
    /// A list. Without an order of its own or one type, it comes in the order of types, then ids, which has an index.
    pub(crate) fn list(mut query: ListQuery) -> Source {
        if query.sort.is_empty() && query.entity_type.is_none() && query.cursor.is_none() {
            query.sort.push(SortKey {
                name: "entity_type".to_owned(),
                descending: false,
            });
        }
        Source::List(query, Steps::Found)
    }

    /// Histories of many. Without one type, entities come in the same order as in a list.
    pub(crate) fn histories(mut query: HistoriesQuery) -> Source {
        query.is_by_type = query.entity_type.is_none() && query.cursor.is_none();
        Source::Histories(query, Upcoming::default())
    }

    /// The next page, of no more items than are wanted. Nothing where there is no such entity.
    pub(crate) async fn next(
        &mut self,
        reader: &Reader,
        scope: &TenantScope,
        options: &ReadOptions,
        left: Option<u64>,
    ) -> Result<Option<Read<Vec<Item>>>, ReadError> {
        let limit = left.map_or(ITEMS_MAX, |left| left.clamp(1, ITEMS_MAX));
        let limit = u32::try_from(limit).expect("invariant: at most some hundreds");
        match self {
            Source::List(query, steps) => {
                query.limit = limit;
                let read = match steps {
                    Steps::Found | Steps::FoundAgain => reader.list(scope, query, options).await?,
                    Steps::Walked => match reader.list_on(scope, query, options).await {
                        Err(ReadError::QueryLimit { .. }) => {
                            *steps = Steps::FoundAgain;
                            reader.list(scope, query, options).await?
                        }
                        read => read?,
                    },
                };
                if *steps == Steps::Found && query.sort.iter().all(is_of_the_name) {
                    *steps = Steps::Walked;
                }
                query.cursor = read.value.page.next_cursor;
                let items = read.value.page.items.into_iter().map(Item::entity);
                Ok(Some(Read {
                    value: items.collect(),
                    freshness: read.freshness,
                }))
            }
            Source::History(of, query) => {
                query.limit = limit;
                let read = reader.history(scope, &of.entity_type, &of.id, query, options);
                let Read { value, freshness } = read.await?;
                let Some(answer) = value else {
                    return Ok(None);
                };
                query.cursor = answer.page.next_cursor;
                let entity = (answer.entity_type, answer.external_id);
                let value = of_one(&entity, answer.page.items, SeriesEntry::Instant);
                Ok(Some(Read { value, freshness }))
            }
            Source::Buckets(of, query) => {
                query.limit = limit;
                let read = reader.history_buckets(scope, &of.entity_type, &of.id, query, options);
                let Read { value, freshness } = read.await?;
                let Some(answer) = value else {
                    return Ok(None);
                };
                query.cursor = answer.page.next_cursor;
                let entity = (answer.entity_type, answer.external_id);
                let value = of_one(&entity, answer.page.items, SeriesEntry::Bucket);
                Ok(Some(Read { value, freshness }))
            }
            Source::Histories(query, upcoming) => {
                query.limit = limit;
                let read = reader.histories_on(scope, query, options, upcoming).await?;
                query.cursor = read.value.next_cursor;
                let items = read.value.items.into_iter();
                let items = items.map(|item| Item::series(item.entity, item.entry));
                Ok(Some(Read {
                    value: items.collect(),
                    freshness: read.freshness,
                }))
            }
        }
    }

    /// Whether the page that was read last is the last one.
    pub(crate) fn is_at_end(&self) -> bool {
        let cursor = match self {
            Source::List(query, _) => &query.cursor,
            Source::History(_, query) => &query.cursor,
            Source::Buckets(_, query) => &query.cursor,
            Source::Histories(query, _) => &query.cursor,
        };
        cursor.is_none()
    }

    /// The columns of a file.
    pub(crate) fn layout(&self, catalogue: &Catalogue) -> Result<Layout, Problem> {
        match self {
            Source::List(query, _) => Layout::of_entities(query.select.as_deref(), catalogue),
            Source::History(_, query) => {
                let rows = query.corrections;
                Layout::of_instants(true, query.attributes.as_deref(), rows, catalogue)
            }
            Source::Buckets(_, query) => {
                let asked = query.aggregates.as_deref();
                Layout::of_buckets(
                    true,
                    query.attributes.as_deref(),
                    asked,
                    query.fill,
                    catalogue,
                )
            }
            Source::Histories(query, _) => {
                let (is_each, names) = (!query.is_one_series, Some(query.attributes.as_slice()));
                match &query.bucketing {
                    None => Layout::of_instants(is_each, names, false, catalogue),
                    Some(bucketing) => {
                        let asked = bucketing.aggregates.as_deref();
                        Layout::of_buckets(is_each, names, asked, bucketing.fill, catalogue)
                    }
                }
            }
        }
    }
}
