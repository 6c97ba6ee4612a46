//! One page of buckets: which buckets, then what is in them.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgTime};
use sheaf_store::TenantScope;
use sheaf_store::buckets::BucketRange;
use sheaf_store::history::HistoryOf;
use sheaf_store::snapshot::{limit_time, read_snapshot, snapshot_of};
use tokio_postgres::Row;

use super::series::Series;
use super::width::Width;
use super::{BucketItem, BucketQuery, BucketsAnswer, Fill};
use crate::answer::{Page, Read};
use crate::attempt::{Attempt, check_lineage};
use crate::consistency::{Freshness, ReadOptions};
use crate::cursor::{QueryDescription, QueryDigest};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::history::{check_range, describe_range};
use crate::reader::{Reader, STATEMENT_TIME_MAX, page_limit};

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
        let mut attempt = Attempt::first(&self.catalogues, scope).await?;
        loop {
            let result = match Series::resolve(query, attempt.catalogue()) {
                Ok(series) => {
                    let read = self.buckets_under(&series, scope, &name, range, limit, options);
                    read.await.and_then(|read| {
                        check_lineage(attempt.catalogue(), read.freshness.position)?;
                        Ok(read)
                    })
                }
                Err(error) => Err(error),
            };
            let Some(read) = attempt.judge(result).await? else {
                continue;
            };
            let Read { value, freshness } = read;
            let value = value.map(|(items, resume)| {
                let binding = self.binding(scope, digest, options);
                let next_cursor = resume.map(|start| {
                    let keyset = [Some(start.as_micros().to_string())];
                    binding.encode(&keyset).expect("a number fits a cursor")
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
        scope: &TenantScope,
        name: &EntityName,
        range: Range,
        limit: usize,
        options: &ReadOptions,
    ) -> Result<Read<Option<BucketPage>>, ReadError> {
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
        let statements = [
            limit_time(&STATEMENT_TIME_MAX),
            of.find(),
            read_snapshot(),
            match query.fill {
                Fill::None => find,
                Fill::Null => whole.find_ends(),
            },
        ];
        let rows = scope.run(&self.app, Access::Read, &statements).await?;
        let freshness = Freshness::of_primary(&snapshot_of(&rows[2], &self.settings)?, options)?;
        if rows[1].is_empty() {
            return Ok(Read {
                value: None,
                freshness,
            });
        }
        let mut starts = match query.fill {
            Fill::None => rows[3]
                .iter()
                .map(|row| row.get::<_, PgTime>("starts_at").0)
                .collect(),
            Fill::Null => range.every_start(width, &rows[3], query.descending, limit + 1),
        };
        let has_more = starts.len() > limit;
        starts.truncate(limit);
        let resume = starts.last().copied().filter(|_| has_more);
        let items = self.aggregate(series, scope, &of, range, &starts).await?;
        Ok(Read {
            value: Some((items, resume)),
            freshness,
        })
    }

    /// What is in the buckets that begin at these instants.
    async fn aggregate(
        &self,
        series: &Series<'_>,
        scope: &TenantScope,
        of: &HistoryOf,
        range: Range,
        starts: &[Timestamp],
    ) -> Result<Vec<BucketItem>, ReadError> {
        let (Some(first), Some(last)) = (starts.iter().min(), starts.iter().max()) else {
            return Ok(Vec::new());
        };
        let width = Width::new(series.query.bucket);
        let bounds = range.within(*first, width.end(*last));
        let page = BucketRange::new(of, bounds, width.as_micros(), width.origin());
        let attributes = series.aggregated();
        let rows_max = ROWS_MAX + 1;
        let statements = [
            limit_time(&STATEMENT_TIME_MAX),
            page.aggregate(&attributes, &rows_max),
        ];
        let rows = scope.run(&self.app, Access::Read, &statements).await?;
        if i64::try_from(rows[1].len()).is_ok_and(|count| count > ROWS_MAX) {
            return Err(ReadError::QueryLimit {
                detail: "aggregates of one page; name fewer attributes or ask for a smaller page",
                source: None,
            });
        }
        series.items(starts, width, &rows[1])
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
    fn digest(&self, name: &EntityName) -> QueryDigest {
        let mut description = QueryDescription::new("history in buckets");
        let attributes = self.attributes.as_deref();
        describe_range(&mut description, name, attributes, self.from, self.to);
        description.add(if self.descending { "desc" } else { "asc" });
        description.add(&self.bucket.as_micros().to_string());
        description.add(match self.fill {
            Fill::None => "none",
            Fill::Null => "null",
        });
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
