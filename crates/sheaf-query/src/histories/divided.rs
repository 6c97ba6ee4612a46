//! Histories in buckets: of several entities by one statement, each over its whole range.
//!
//! A range is read whole where what stands in a bucket depends on others, so that it does not depend on the page that it is
//! on; and so it may have only so many buckets.

use std::collections::HashMap;

use sheaf_model::{EntityId, Timestamp};
use sheaf_store::history::HistoryOf;

use super::{Attempted, Filling, SeriesEntry, SeriesItem, cursor_after, cursor_within};
use crate::buckets::{
    Beside, BucketItem, Divided, Fill, Series, Tallies, WantedBeside, Width, beside,
};
use crate::cursor::Keyset;
use crate::error::ReadError;
use crate::list::Member;

/// Aggregated attributes of one statement, over all its entities and buckets.
const VALUES_MAX: usize = 100_000;

/// From an instant to another, without it; open where there is none.
type Range = (Timestamp, Option<Timestamp>);

/// How many entities are aggregated by one statement, where so many items are wanted.
pub(super) fn entities_at_once(
    attempted: &Attempted<'_>,
    series: &Series<'_>,
    items_max: usize,
) -> Result<usize, ReadError> {
    let (buckets, attributes) = (attempted.bucket_count(), series.aggregated().keys.len());
    let values = buckets.saturating_mul(attributes.max(1));
    let most = match attempted.fill() {
        // Buckets without values are none: how many there are is known once they are read.
        Fill::None => usize::MAX,
        Fill::Null | Fill::Previous | Fill::Linear if attempted.query.to.is_none() => usize::MAX,
        Fill::Null | Fill::Previous | Fill::Linear => VALUES_MAX / values,
    };
    if most == 0 {
        return Err(too_many_values());
    }
    Ok((items_max / buckets).saturating_add(1).min(most))
}

pub(super) fn too_many_values() -> ReadError {
    ReadError::QueryLimit {
        detail: "100000 buckets times attributes of one history; ask for a narrower range, wider buckets or fewer attributes",
        source: None,
    }
}

impl Attempted<'_> {
    fn width(&self) -> Width {
        let bucketing = self.query.bucketing.as_ref();
        Width::new(
            bucketing
                .expect("invariant: only buckets are divided")
                .width,
        )
    }

    fn fill(&self) -> Fill {
        self.query
            .bucketing
            .as_ref()
            .map_or(Fill::None, |buckets| buckets.fill)
    }

    fn range(&self) -> Range {
        (self.query.from, self.query.to)
    }

    /// The part of the range that the buckets of a page of one series are in, and one more bucket.
    fn range_after(&self, after: Option<Timestamp>) -> Range {
        let (width, (mut from, to)) = (self.width(), self.range());
        match self.fill() {
            // What an empty bucket holds may be told by any before it, and a line by any after it.
            Fill::Previous | Fill::Linear => return (from, to),
            Fill::None | Fill::Null => {}
        }
        if let Some(after) = after {
            from = width.end(after);
        }
        let to = match self.fill() {
            // Each bucket is an item.
            Fill::Null => to.map(|to| {
                let buckets = i64::try_from(self.limit).unwrap_or(i64::MAX);
                let micros = width.as_micros().saturating_mul(buckets.saturating_add(1));
                to.min(width.start(from).saturating_add_micros(micros))
            }),
            Fill::None | Fill::Previous | Fill::Linear => to,
        };
        (from, to)
    }

    /// Buckets between the ends of the range, an open one being now: at least one.
    fn bucket_count(&self) -> usize {
        let to = self.query.to.unwrap_or(self.options.now);
        let micros = to.as_micros().saturating_sub(self.query.from.as_micros());
        let buckets = micros.max(0) / self.width().as_micros() + 1;
        usize::try_from(buckets).unwrap_or(usize::MAX)
    }

    /// What the histories of these entities came to, by entity; all of them are entity 0 in one series. Nothing where that
    /// is too much at once.
    async fn aggregated(
        &self,
        series: &Series<'_>,
        entities: &[EntityId],
        (from, to): Range,
    ) -> Result<Option<Tallies>, ReadError> {
        let divided = Divided {
            asked: (self.source, self.scope),
            catalogue: self.catalogue,
            series,
            is_one_series: self.query.is_one_series,
            of_one: None,
        };
        let bounds = (from, to.unwrap_or(Timestamp::MAX));
        divided
            .tallies(entities, bounds, VALUES_MAX, |_| true)
            .await
    }

    /// The buckets of these entities, the first one's after a time. Tells whether they could be read at once; if not, none
    /// was added.
    pub(super) async fn add_buckets(
        &self,
        series: &Series<'_>,
        members: &[Member],
        after: Option<Timestamp>,
        filling: &mut Filling,
    ) -> Result<bool, ReadError> {
        let entities: Vec<EntityId> = members.iter().map(|member| member.entity).collect();
        let Some(tallies) = self.aggregated(series, &entities, self.range()).await? else {
            return Ok(false);
        };
        let mut before = self.before(series, members, &tallies).await?;
        for (place, member) in members.iter().enumerate() {
            let beside = before.remove(&member.entity).unwrap_or_default();
            let of = (&tallies, member.entity);
            let items = self.items(series, of, &beside, self.range())?;
            let after = after.filter(|_| place == 0);
            let new = items
                .into_iter()
                .filter(|item| after.is_none_or(|after| item.from > after));
            for item in new {
                if filling.items.len() == self.limit {
                    filling.next = filling
                        .items
                        .last()
                        .map(|last| cursor_after_item(last, member));
                    return Ok(true);
                }
                filling.items.push(SeriesItem {
                    entity: Some(member.pair()),
                    entry: SeriesEntry::Bucket(item),
                });
            }
        }
        Ok(true)
    }

    /// The items of one history in a range: those buckets that hold something, or all.
    fn items(
        &self,
        series: &Series<'_>,
        (tallies, entity): (&Tallies, EntityId),
        beside: &Beside,
        (from, to): Range,
    ) -> Result<Vec<BucketItem>, ReadError> {
        let width = self.width();
        let buckets = series.buckets(tallies, entity)?;
        let starts: Vec<Timestamp> = match self.fill() {
            Fill::None => buckets.keys().copied().collect(),
            Fill::Null | Fill::Previous | Fill::Linear => {
                // An open range ends with the last bucket that holds something.
                let last = match to {
                    Some(to) => Some(to.saturating_add_micros(-1)),
                    None => buckets.keys().next_back().copied(),
                };
                every_start(width, from, last)?
            }
        };
        series.items(&starts, width, buckets, beside)
    }

    /// What stands before the first bucket of each entity, where it matters.
    async fn before(
        &self,
        series: &Series<'_>,
        members: &[Member],
        tallies: &Tallies,
    ) -> Result<HashMap<EntityId, Beside>, ReadError> {
        let mut all = HashMap::new();
        if self.fill() != Fill::Previous {
            return Ok(all);
        }
        let width = self.width();
        let first = width.start(self.query.from);
        let mut wanted = Vec::new();
        for member in members {
            let buckets = series.buckets(tallies, member.entity)?;
            let keys = series.lacking(buckets.get(&first));
            if !keys.is_empty() {
                let tenant = self.scope.tenant();
                let of = HistoryOf::new(tenant, &member.entity_type, &member.external_id);
                let entity = member.entity;
                wanted.push(WantedBeside { entity, of, keys });
            }
        }
        if wanted.is_empty() {
            return Ok(all);
        }
        let bounds = (self.shown_from, self.query.from);
        let asked = (self.source, self.scope);
        let found = beside(asked, self.catalogue, wanted, bounds, true).await?;
        for found in series.shown_beside(found) {
            let (name, aggregates) = series.of_one_value(&found.key, &found.raw)?;
            let beside: &mut Beside = all.entry(found.entity).or_default();
            let start = width.start(found.observed_at);
            beside.before.insert(name, (start, aggregates));
        }
        Ok(all)
    }

    /// The buckets of one series of all these entities: those of the page after a bucket, and perhaps others.
    pub(super) async fn shared_buckets(
        &self,
        series: &Series<'_>,
        entities: &[EntityId],
        after: Option<Timestamp>,
    ) -> Result<Vec<BucketItem>, ReadError> {
        entities_at_once(self, series, self.limit)?;
        let range = self.range_after(after);
        let tallies = self.aggregated(series, entities, range);
        let tallies = tallies.await?.ok_or_else(too_many_values)?;
        // What precedes the range would have to be looked for in every history: a series of all begins with the range.
        let all = (&tallies, EntityId(0));
        self.items(series, all, &Beside::default(), range)
    }
}

/// Where a page begins that follows this item, the next one being of an entity.
fn cursor_after_item(last: &SeriesItem, next: &Member) -> Keyset {
    let Some((entity_type, external_id)) = &last.entity else {
        return cursor_after(next);
    };
    match last.bucket_start() {
        Some(start) if last.entity == Some(next.pair()) => cursor_within(next, start),
        // The whole of an earlier entity is on the page.
        Some(_) | None => vec![Some(external_id.clone()), Some(entity_type.clone()), None],
    }
}

fn every_start(
    width: Width,
    from: Timestamp,
    last: Option<Timestamp>,
) -> Result<Vec<Timestamp>, ReadError> {
    let mut starts = Vec::new();
    let Some(last) = last else {
        return Ok(starts);
    };
    let mut start = width.start(from);
    while start <= last && starts.last() != Some(&start) {
        if starts.len() > VALUES_MAX {
            return Err(too_many_values());
        }
        starts.push(start);
        start = width.end(start);
    }
    Ok(starts)
}

impl SeriesItem {
    pub(super) fn bucket_start(&self) -> Option<Timestamp> {
        match &self.entry {
            SeriesEntry::Bucket(bucket) => Some(bucket.from),
            SeriesEntry::Instant(_) => None,
        }
    }
}
