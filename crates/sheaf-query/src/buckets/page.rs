//! One page of buckets: which buckets, then what is in them.

use std::collections::BTreeMap;

use sheaf_model::{EntityId, Timestamp};
use sheaf_pg::PgTime;
use sheaf_store::TenantScope;
use sheaf_store::buckets::BucketRange;
use sheaf_store::histories::{ValuesBeside, values_beside};
use sheaf_store::history::HistoryOf;
use sheaf_store::snapshot::limit_time;
use tokio_postgres::Row;

use super::fill::{Beside, Buckets, Nearest};
use super::series::Series;
use super::width::Width;
use super::{BucketItem, BucketQuery, BucketsAnswer, Fill};
use crate::answer::{Page, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::cursor::{QueryDescription, QueryDigest};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::history::{check_range, describe_range};
use crate::reader::{Reader, STATEMENT_TIME_MAX, page_limit};
use crate::source::Source;

/// Aggregated attributes of one page, over all its buckets.
const ROWS_MAX: i64 = 100_000;

impl Reader {
    /// A page of an entity's history in buckets. Nothing for an entity that never had an event.
    pub async fn history_buckets(
        &self,
        scope: &TenantScope,
        entity_type: &str,
        external_id: &str,
        query: &BucketQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<BucketsAnswer>>, ReadError> {
        let limit = page_limit(query.limit)?;
        check_range(query.from, query.to)?;
        let name = EntityName::canonical(entity_type, external_id);
        let digest = query.digest(&name);
        let range = self.bucket_range(scope, digest, query, options)?;
        let cursor = query.cursor.as_deref();
        let mut attempt = Attempt::resumed(self, scope, options, cursor).await?;
        loop {
            let source = attempt.source().await?;
            let result = match Series::resolve(query, attempt.catalogue()) {
                Ok(series) => {
                    self.buckets_under(&series, &source, scope, &name, range, limit)
                        .await
                }
                Err(error) => Err(error),
            };
            let Some(read) = attempt.judge(source, result).await? else {
                continue;
            };
            let Read { value, freshness } = read;
            let value = value.map(|(items, resume)| {
                let binding = self.binding(scope, digest, options);
                let next_cursor = resume.map(|start| {
                    let keyset = vec![Some(start.as_micros().to_string())];
                    let seen = self.sources.kept_in_cursor(freshness.position);
                    let cursor = binding.encode_seen(keyset, seen);
                    cursor.expect("a number and a position fit a cursor")
                });
                BucketsAnswer {
                    entity_type: name.entity_type,
                    external_id: name.external_id,
                    bucket: query.bucket,
                    page: Page { items, next_cursor },
                }
            });
            return Ok(Read { value, freshness });
        }
    }

    /// The range that is left for this page.
    fn bucket_range(
        &self,
        scope: &TenantScope,
        digest: QueryDigest,
        query: &BucketQuery,
        options: &ReadOptions,
    ) -> Result<Range, ReadError> {
        let mut range = Range {
            from: query.from,
            to: query.to,
        };
        let Some(text) = &query.cursor else {
            return Ok(range);
        };
        let keyset = self.binding(scope, digest, options).decode(text, 1)?;
        let last = match keyset.as_slice() {
            [Some(micros)] => micros
                .parse()
                .ok()
                .and_then(|micros| Timestamp::from_micros(micros).ok()),
            _ => None,
        };
        let last = last.ok_or(ReadError::InvalidCursor)?;
        if query.descending {
            range.to = Some(last);
        } else {
            range.from = Some(Width::new(query.bucket).end(last));
        }
        Ok(range)
    }

    async fn buckets_under(
        &self,
        series: &Series<'_>,
        source: &Source,
        scope: &TenantScope,
        name: &EntityName,
        range: Range,
        limit: usize,
    ) -> Result<Option<BucketPage>, ReadError> {
        let of = HistoryOf::new(scope.tenant(), &name.entity_type, &name.external_id);
        let query = series.query;
        let width = Width::new(query.bucket);
        let whole = BucketRange::new(&of, range.bounds(), width.as_micros(), width.origin());
        let keys = series.keys();
        let buckets_max = i64::from(query.limit) + 1;
        let find = if query.descending {
            whole.find_last(&keys, &buckets_max)
        } else {
            whole.find_first(&keys, &buckets_max)
        };
        let statements = vec![
            limit_time(&STATEMENT_TIME_MAX),
            of.find(),
            match query.fill {
                Fill::None => find,
                Fill::Null | Fill::Previous | Fill::Linear => whole.find_ends(),
            },
        ];
        let rows = source.run(scope, statements).await?;
        if rows[1].is_empty() {
            return Ok(None);
        }
        let mut starts = match query.fill {
            Fill::None => rows[2]
                .iter()
                .map(|row| row.get::<_, PgTime>("starts_at").0)
                .collect(),
            Fill::Null | Fill::Previous | Fill::Linear => {
                range.every_start(width, &rows[2], query.descending, limit + 1)
            }
        };
        let has_more = starts.len() > limit;
        starts.truncate(limit);
        let resume = starts.last().copied().filter(|_| has_more);
        let entity = EntityId(rows[1][0].get("entity_id"));
        let of = Of {
            source,
            scope,
            entity,
            history: &of,
        };
        let items = self.aggregate(series, &of, range, starts).await?;
        Ok(Some((items, resume)))
    }

    /// What is in the buckets that begin at these instants.
    async fn aggregate(
        &self,
        series: &Series<'_>,
        of: &Of<'_>,
        range: Range,
        mut starts: Vec<Timestamp>,
    ) -> Result<Vec<BucketItem>, ReadError> {
        starts.sort_unstable();
        let (Some(first), Some(last)) = (starts.first(), starts.last()) else {
            return Ok(Vec::new());
        };
        let width = Width::new(series.query.bucket);
        let (first, last) = (*first, *last);
        let page = BucketRange::new(
            of.history,
            range.within(first, width.end(last)),
            width.as_micros(),
            width.origin(),
        );
        let attributes = series.aggregated();
        let rows_max = ROWS_MAX + 1;
        let statements = vec![
            limit_time(&STATEMENT_TIME_MAX),
            page.aggregate(&attributes, &rows_max),
        ];
        let rows = of.source.run(of.scope, statements).await?;
        if i64::try_from(rows[1].len()).is_ok_and(|count| count > ROWS_MAX) {
            return Err(ReadError::QueryLimit {
                detail: "aggregates of one page; name fewer attributes or ask for a smaller page",
                source: None,
            });
        }
        let buckets = series.buckets(width, &rows[1])?;
        let beside = self.beside(series, of, (first, last), &buckets).await?;
        let mut items = series.items(&starts, width, buckets, &beside)?;
        if series.query.descending {
            items.reverse();
        }
        Ok(items)
    }

    /// The nearest buckets with values on either side of a page, where what stands in it depends on them.
    async fn beside(
        &self,
        series: &Series<'_>,
        of: &Of<'_>,
        (first, last): (Timestamp, Timestamp),
        buckets: &Buckets<'_>,
    ) -> Result<Beside, ReadError> {
        let (from, to) = series.query.bounds();
        let mut beside = Beside::default();
        // What precedes the range counts for `previous` alone: a line needs a bucket of the range on either side.
        let before = match series.query.fill {
            Fill::None | Fill::Null => return Ok(beside),
            Fill::Previous => Timestamp::MIN,
            Fill::Linear => from,
        };
        let lacking = series.lacking(buckets.get(&first));
        if !lacking.is_empty() {
            let (values, is_last) = (of.values(lacking, (before, first.max(from))), true);
            beside.before = self.nearest(series, of, &values, is_last).await?;
        }
        let end = Width::new(series.query.bucket).end(last);
        let lacking = series.lacking(buckets.get(&last));
        if series.query.fill == Fill::Linear && !lacking.is_empty() && end < to {
            let (values, is_last) = (of.values(lacking, (end, to)), false);
            beside.after = self.nearest(series, of, &values, is_last).await?;
        }
        Ok(beside)
    }

    /// The buckets of the range that hold these values; a value before the range stands for itself.
    async fn nearest(
        &self,
        series: &Series<'_>,
        of: &Of<'_>,
        values: &ValuesBeside,
        is_last: bool,
    ) -> Result<Nearest, ReadError> {
        let statement = if is_last {
            values.find_last()
        } else {
            values.find_first()
        };
        let statements = vec![limit_time(&STATEMENT_TIME_MAX), statement];
        let rows = of.source.run(of.scope, statements).await?;
        let (from, to) = series.query.bounds();
        let width = Width::new(series.query.bucket);
        let mut nearest = Nearest::new();
        let mut keys_by_start: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
        for found in values_beside(&rows[1])? {
            let start = width.start(found.observed_at);
            if found.observed_at >= from {
                keys_by_start.entry(start).or_default().push(found.key);
            } else {
                let (name, aggregates) = series.of_one_value(&found.key, &found.raw)?;
                nearest.insert(name, (start, aggregates));
            }
        }
        for (start, keys) in keys_by_start {
            let bounds = (start.max(from), width.end(start).min(to));
            let bucket = BucketRange::new(of.history, bounds, width.as_micros(), width.origin());
            let attributes = series.aggregated_where(|attribute| {
                let key = attribute.id.to_string();
                keys.contains(&key)
            });
            let statements = vec![
                limit_time(&STATEMENT_TIME_MAX),
                bucket.aggregate(&attributes, &ROWS_MAX),
            ];
            let rows = of.source.run(of.scope, statements).await?;
            for (start, attributes) in series.buckets(width, &rows[1])? {
                for (name, aggregates) in attributes {
                    nearest.insert(name.to_owned(), (start, aggregates));
                }
            }
        }
        Ok(nearest)
    }
}

/// Whose history is read.
struct Of<'a> {
    source: &'a Source,
    scope: &'a TenantScope,
    entity: EntityId,
    history: &'a HistoryOf,
}

impl Of<'_> {
    fn values(&self, keys: Vec<String>, bounds: (Timestamp, Timestamp)) -> ValuesBeside {
        let wanted = keys.into_iter().map(|key| (self.entity, key));
        ValuesBeside::new(self.scope.tenant(), wanted, bounds)
    }
}

/// Buckets, and the start of the one that the next page follows.
type BucketPage = (Vec<BucketItem>, Option<Timestamp>);

/// A range whose ends may be open.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Range {
    fn bounds(&self) -> (Timestamp, Timestamp) {
        (
            self.from.unwrap_or(Timestamp::MIN),
            self.to.unwrap_or(Timestamp::MAX),
        )
    }

    /// The part of the range that lies between two instants.
    fn within(&self, first: Timestamp, end: Timestamp) -> (Timestamp, Timestamp) {
        let (from, to) = self.bounds();
        (from.max(first), to.min(end))
    }

    /// Buckets from one end to the other, with or without values. An open end is where the history has its own.
    fn every_start(
        &self,
        width: Width,
        ends: &[Row],
        descending: bool,
        buckets_max: usize,
    ) -> Vec<Timestamp> {
        let end = |column| {
            let row = ends.first()?;
            let time: Option<PgTime> = row.get(column);
            time.map(|time| time.0)
        };
        let from = self.from.or_else(|| end("first_at"));
        let last = match self.to {
            Some(to) => Some(to.saturating_add_micros(-1)),
            None => end("last_at"),
        };
        let (Some(from), Some(last)) = (from, last) else {
            return Vec::new();
        };
        if last < from {
            return Vec::new();
        }
        let (first, last) = (width.start(from), width.start(last));
        let (mut start, step) = if descending {
            (last, -width.as_micros())
        } else {
            (first, width.as_micros())
        };
        let mut starts = Vec::new();
        // A step past the first or last instant of all stays where it is.
        while (first..=last).contains(&start)
            && starts.last() != Some(&start)
            && starts.len() < buckets_max
        {
            starts.push(start);
            start = start.saturating_add_micros(step);
        }
        starts
    }
}

impl BucketQuery {
    /// The range, its open ends as far out as there are times.
    pub(crate) fn bounds(&self) -> (Timestamp, Timestamp) {
        let range = Range {
            from: self.from,
            to: self.to,
        };
        range.bounds()
    }

    fn digest(&self, name: &EntityName) -> QueryDigest {
        let mut description = QueryDescription::new("history in buckets");
        let attributes = self.attributes.as_deref();
        describe_range(&mut description, name, attributes, self.from, self.to);
        description.add(if self.descending { "desc" } else { "asc" });
        description.add(&self.bucket.as_micros().to_string());
        description.add(self.fill.as_str());
        description.add(if self.aggregates.is_some() {
            "these"
        } else {
            "default"
        });
        let aggregates = self.aggregates.as_deref().unwrap_or_default();
        description.add_list(aggregates.iter().map(|aggregate| aggregate.as_str()));
        description.digest()
    }
}
