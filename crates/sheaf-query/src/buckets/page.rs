//! One page of buckets: which buckets, then what is in them.

use std::collections::{BTreeMap, BTreeSet};

use sheaf_model::{AttributeId, Duration, EntityId, Timestamp};
use sheaf_pg::PgTime;
use sheaf_store::TenantScope;
use sheaf_store::archive::{Boundaries, boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::HistoryOf;
use sheaf_store::snapshot::limit_time;
use tokio_postgres::Row;

use super::beside::{WantedBeside, beside};
use super::divided::{Divided, bucket_range};
use super::fill::{Beside, Buckets, Nearest};
use super::series::Series;
use super::starts::{late_starts, starts};
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
use crate::retention::Shown;
use crate::selection::Selection;
use crate::source::Source;

/// Aggregated attributes of one page, over all its buckets.
const TALLIES_MAX: usize = 100_000;

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
        let mut attempt = Attempt::of_history(self, scope, options, cursor).await?;
        loop {
            let source = attempt.source().await?;
            let catalogue = attempt.catalogue();
            let shown = Shown::new(catalogue, options.now);
            let result = match Series::resolve(query, catalogue, &shown) {
                Ok(series) => {
                    let of = Of {
                        asked: (&source, scope),
                        catalogue,
                        series: &series,
                        history: HistoryOf::new(
                            scope.tenant(),
                            &name.entity_type,
                            &name.external_id,
                        ),
                        entity: EntityId(0),
                        shown_from: shown.first(&series.selection()),
                    };
                    of.page(range, limit).await
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
            shown_from: Timestamp::MIN,
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
}

/// Whose history is read, and how it is divided.
struct Of<'a> {
    asked: (&'a Source, &'a TenantScope),
    catalogue: &'a Catalogue,
    series: &'a Series<'a>,
    history: HistoryOf,
    entity: EntityId,
    /// Nothing before this is.
    shown_from: Timestamp,
}

impl Of<'_> {
    async fn page(
        mut self,
        mut range: Range,
        limit: usize,
    ) -> Result<Option<BucketPage>, ReadError> {
        range.shown_from = self.shown_from;
        let (source, scope) = self.asked;
        let query = self.series.query;
        let width = Width::new(query.bucket);
        let history = self.history.clone();
        let whole = bucket_range(&history, range.bounds(), width);
        let keys = self.series.keys();
        let buckets_max = i64::from(query.limit) + 1;
        let mut statements = vec![limit_time(&STATEMENT_TIME_MAX), history.find()];
        if source.archive().whole().is_none() {
            statements.push(read_boundaries());
            statements.push(match (query.fill, query.descending) {
                (Fill::None, true) => whole.find_last(&keys, &buckets_max),
                (Fill::None, false) => whole.find_first(&keys, &buckets_max),
                (Fill::Null | Fill::Previous | Fill::Linear, _) => whole.find_ends(),
            });
        }
        let rows = source.run(scope, statements).await?;
        let Some(found) = rows[1].first() else {
            return Ok(None);
        };
        self.entity = EntityId(found.get("entity_id"));
        let here: &[Row] = rows.get(3).map_or(&[], Vec::as_slice);
        let boundaries = match rows.get(2) {
            Some(rows) => boundaries_of(rows)?,
            None => Boundaries {
                closed_before: None,
                archived_before: Some(Timestamp::MAX),
            },
        };
        let mut starts = match query.fill {
            Fill::None => {
                let starts = here.iter();
                let starts = starts.map(|row| row.get::<_, PgTime>("starts_at").0);
                self.starts(starts.collect(), (range, boundaries), limit + 1)
                    .await?
            }
            Fill::Null | Fill::Previous | Fill::Linear => {
                let ends = self.ends(here, range, boundaries).await?;
                range.every_start(width, ends, query.descending, limit + 1)
            }
        };
        let has_more = starts.len() > limit;
        starts.truncate(limit);
        let resume = starts.last().copied().filter(|_| has_more);
        let items = self.aggregate(range, starts).await?;
        Ok(Some((items, resume)))
    }

    /// The part of a range that is before a boundary.
    fn older(range: Range, boundary: Option<Timestamp>) -> Option<(Timestamp, Timestamp)> {
        let (from, to) = range.bounds();
        let to = to.min(boundary?);
        (from < to).then_some((from, to))
    }

    /// The first buckets that hold something, given those that do in PostgreSQL but for late rows.
    async fn starts(
        &self,
        here: BTreeSet<Timestamp>,
        (range, boundaries): (Range, Boundaries),
        most: usize,
    ) -> Result<Vec<Timestamp>, ReadError> {
        let query = self.series.query;
        let mut all = here;
        // Newest first, those that are newer may fill the page alone.
        let is_full = |all: &BTreeSet<Timestamp>, to: Timestamp| {
            query.descending && all.len() >= most && all.iter().rev().nth(most - 1) >= Some(&to)
        };
        let selection = self.series.selection();
        let of = (self.entity, &selection, self.catalogue);
        let from = (query.descending, Width::new(query.bucket), most);
        if let Some(late) = Of::older(range, boundaries.closed_before)
            && !is_full(&all, late.1)
        {
            all.extend(late_starts(self.asked, of, late, from).await?);
        }
        if let Some(older) = Of::older(range, boundaries.archived_before)
            && !is_full(&all, older.1)
        {
            all.extend(starts(self.asked, of, older, from).await?);
        }
        let all = all.into_iter();
        Ok(match query.descending {
            true => all.rev().take(most).collect(),
            false => all.take(most).collect(),
        })
    }

    /// The first and the last instant of the history in a range, given those in PostgreSQL but for late rows.
    async fn ends(
        &self,
        here: &[Row],
        range: Range,
        boundaries: Boundaries,
    ) -> Result<Ends, ReadError> {
        let end = |column| {
            let time: Option<PgTime> = here.first()?.get(column);
            time.map(|time| time.0)
        };
        let mut first: Vec<Timestamp> = end("first_at").into_iter().collect();
        let mut last: Vec<Timestamp> = end("last_at").into_iter().collect();
        let of = (self.entity, &Selection::All, self.catalogue);
        let unit = Duration::from_micros(1).expect("invariant: a duration");
        let unit = Width::new(unit);
        // Where a bound was asked for, that end is not looked for.
        let ends = [
            (false, range.from.is_none(), &mut first),
            (true, range.to.is_none(), &mut last),
        ];
        for (newest_first, _, found) in ends.into_iter().filter(|(_, is_open, _)| *is_open) {
            let one = (newest_first, unit, 1);
            let late = Of::older(range, boundaries.closed_before);
            if let Some(late) = late {
                found.extend(late_starts(self.asked, of, late, one).await?);
            }
            let older = Of::older(range, boundaries.archived_before);
            if let Some(older) = older {
                found.extend(starts(self.asked, of, older, one).await?);
            }
        }
        Ok(Ends {
            first: first.into_iter().min(),
            last: last.into_iter().max(),
        })
    }

    /// All of the range that was asked for.
    fn bounds(&self) -> (Timestamp, Timestamp) {
        let query = self.series.query;
        let range = Range {
            from: query.from,
            to: query.to,
            shown_from: self.shown_from,
        };
        range.bounds()
    }

    fn divided(&self) -> Divided<'_> {
        Divided {
            asked: self.asked,
            catalogue: self.catalogue,
            series: self.series,
            is_one_series: false,
            of_one: Some(&self.history),
        }
    }

    /// What is in the buckets that begin at these instants.
    async fn aggregate(
        &self,
        range: Range,
        mut starts: Vec<Timestamp>,
    ) -> Result<Vec<BucketItem>, ReadError> {
        starts.sort_unstable();
        let (Some(first), Some(last)) = (starts.first(), starts.last()) else {
            return Ok(Vec::new());
        };
        let series = self.series;
        let width = Width::new(series.query.bucket);
        let (first, last) = (*first, *last);
        let page = range.within(first, width.end(last));
        let divided = self.divided();
        let entity = [self.entity];
        let tallies = divided.tallies(&entity, page, TALLIES_MAX, |_| true);
        let tallies = tallies.await?.ok_or(ReadError::QueryLimit {
            detail: "aggregates of one page; name fewer attributes or ask for a smaller page",
            source: None,
        })?;
        let buckets = series.buckets(&tallies, self.entity)?;
        let beside = self.beside((first, last), &buckets).await?;
        let mut items = series.items(&starts, width, buckets, &beside)?;
        if series.query.descending {
            items.reverse();
        }
        Ok(items)
    }

    /// The nearest buckets with values on either side of a page, where what stands in it depends on them.
    async fn beside(
        &self,
        (first, last): (Timestamp, Timestamp),
        buckets: &Buckets<'_>,
    ) -> Result<Beside, ReadError> {
        let series = self.series;
        let (from, to) = self.bounds();
        let mut beside = Beside::default();
        // What precedes the range counts for `previous` alone: a line needs a bucket of the range on either side.
        let before = match series.query.fill {
            Fill::None | Fill::Null => return Ok(beside),
            Fill::Previous => self.shown_from,
            Fill::Linear => from,
        };
        let lacking = series.lacking(buckets.get(&first));
        if !lacking.is_empty() {
            beside.before = self
                .nearest(lacking, (before, first.max(from)), true)
                .await?;
        }
        let end = Width::new(series.query.bucket).end(last);
        let lacking = series.lacking(buckets.get(&last));
        if series.query.fill == Fill::Linear && !lacking.is_empty() && end < to {
            beside.after = self.nearest(lacking, (end, to), false).await?;
        }
        Ok(beside)
    }

    /// The buckets of the range that hold the values nearest to it; a value before the range stands for itself.
    async fn nearest(
        &self,
        keys: Vec<String>,
        bounds: (Timestamp, Timestamp),
        is_last: bool,
    ) -> Result<Nearest, ReadError> {
        let series = self.series;
        let wanted = vec![WantedBeside {
            entity: self.entity,
            of: self.history.clone(),
            keys,
        }];
        let values = beside(self.asked, self.catalogue, wanted, bounds, is_last).await?;
        let (from, to) = self.bounds();
        let width = Width::new(series.query.bucket);
        let mut nearest = Nearest::new();
        let mut keys_by_start: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
        for found in series.shown_beside(values) {
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
            let divided = self.divided();
            let is_wanted = |id: AttributeId| keys.contains(&id.to_string());
            let entity = [self.entity];
            let tallies = divided.tallies(&entity, bounds, TALLIES_MAX, is_wanted);
            let tallies = tallies.await?.expect("invariant: a bucket is few");
            for (start, attributes) in series.buckets(&tallies, self.entity)? {
                for (name, aggregates) in attributes {
                    nearest.insert(name.to_owned(), (start, aggregates));
                }
            }
        }
        Ok(nearest)
    }
}

/// The first and the last instant of a history; absent where there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

/// Buckets, and the start of the one that the next page follows.
type BucketPage = (Vec<BucketItem>, Option<Timestamp>);

/// A range whose ends may be open.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    /// Nothing before this is.
    shown_from: Timestamp,
}

impl Range {
    fn bounds(&self) -> (Timestamp, Timestamp) {
        (
            self.from.unwrap_or(Timestamp::MIN).max(self.shown_from),
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
        ends: Ends,
        descending: bool,
        buckets_max: usize,
    ) -> Vec<Timestamp> {
        let from = self.from.map(|from| from.max(self.shown_from));
        let from = from.or(ends.first);
        let last = match self.to {
            Some(to) => Some(to.saturating_add_micros(-1)),
            None => ends.last,
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
