//! The histories of all entities that pass a filter: each for itself, or all as one series.
//!
//! The filter is on the documents as they are now. Entities come in order of id, and what is read of their histories lies
//! between two instants, so that partitions beside the range are never opened. A page reads until it is full or has met
//! so many entities; one series has to be made of all of them at once, and so of no more than that many.

use sheaf_model::{Duration, Name, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::Place;

use crate::answer::{Page, Read};
use crate::attempt::Attempt;
use crate::buckets::{Aggregate, BucketItem, BucketQuery, Fill, Series};
use crate::consistency::ReadOptions;
use crate::cursor::{Keyset, QueryDescription, QueryDigest};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::filter::{Expr, TypedExpr};
use crate::history::{HistoryItem, HistoryQuery, OneOf, Room, check_range, instants_of};
use crate::list::{Member, MembersOf, property};
use crate::reader::{Reader, page_limit, type_filter};
use crate::retention::Shown;
use crate::selection::Selection;
use crate::source::Source;

mod divided;
mod place;
mod shared;
mod upcoming;

use place::{Start, cursor_after, cursor_within, shared_place};
pub use upcoming::Upcoming;

/// Entities that one page may meet. Their histories are bounded by the range; their number is bounded here.
const ENTITIES_MAX: usize = 10_000;
/// Histories that are asked for in one round trip.
const ENTITIES_AT_ONCE: usize = 64;

/// What is wanted of the histories.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoriesQuery {
    /// Only entities of this type.
    pub entity_type: Option<String>,
    /// Only entities whose document passes this filter now.
    pub filter: Option<Expr>,
    /// The attributes; at least one.
    pub attributes: Vec<String>,
    /// The first instant.
    pub from: Timestamp,
    /// The first instant after the range.
    pub to: Option<Timestamp>,
    /// In buckets; absent for plain values.
    pub bucketing: Option<Bucketing>,
    /// All entities as one series, or each for itself.
    pub is_one_series: bool,
    /// Entities by type, then id, which is an order with an index also where no type is given; else by id, then type.
    pub is_by_type: bool,
    /// Items of a page, 1 to 1,000.
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// How values are put in buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucketing {
    /// The width of a bucket.
    pub width: Duration,
    /// The aggregates; absent for the mean of numbers and the count of everything else.
    pub aggregates: Option<Vec<Aggregate>>,
    /// What stands for a bucket without values.
    pub fill: Fill,
}

/// One entry of the histories.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesItem {
    /// Whose, by type and id; absent in one series of all.
    pub entity: Option<(String, String)>,
    /// What.
    pub entry: SeriesEntry,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq)]
pub enum SeriesEntry {
    /// What was observed at one instant.
    Instant(HistoryItem),
    /// What a bucket came to.
    Bucket(BucketItem),
}

/// One attempt at a page.
struct Attempted<'a> {
    source: &'a Source,
    scope: &'a TenantScope,
    query: &'a HistoriesQuery,
    options: &'a ReadOptions,
    catalogue: &'a Catalogue,
    members: MembersOf<'a>,
    limit: usize,
    /// From when on each attribute is.
    shown: Shown,
    /// Nothing before this is.
    shown_from: Timestamp,
}

/// A page that is being filled.
#[derive(Default)]
struct Filling {
    items: Vec<SeriesItem>,
    /// Bytes of rows that were read for it.
    bytes_read: usize,
    /// Where the next page begins, once the page is known to end before the end.
    next: Option<Keyset>,
}

impl Reader {
    /// A page of the histories of the entities that pass a filter, in order of the entity, then time; of one series, in
    /// order of time.
    pub async fn histories(
        &self,
        scope: &TenantScope,
        query: &HistoriesQuery,
        options: &ReadOptions,
    ) -> Result<Read<Page<SeriesItem>>, ReadError> {
        let mut upcoming = Upcoming::default();
        self.histories_on(scope, query, options, &mut upcoming)
            .await
    }

    /// The same page for someone who reads all pages one after the other and keeps what is upcoming.
    pub async fn histories_on(
        &self,
        scope: &TenantScope,
        query: &HistoriesQuery,
        options: &ReadOptions,
        upcoming: &mut Upcoming,
    ) -> Result<Read<Page<SeriesItem>>, ReadError> {
        let limit = page_limit(query.limit)?;
        check_range(Some(query.from), query.to)?;
        if query.attributes.is_empty() {
            return Err(ReadError::parameter("attribute", "name at least one"));
        }
        let entity_type = type_filter(query.entity_type.as_deref())?;
        let binding = self.binding(scope, query.digest(), options);
        let keyset = match &query.cursor {
            Some(text) => Some(binding.decode(text, 3)?),
            None => None,
        };
        let cursor = query.cursor.as_deref();
        let mut attempt = Attempt::of_history(self, scope, options, cursor).await?;
        loop {
            let source = attempt.source().await?;
            let catalogue = attempt.catalogue();
            let shown = Shown::new(catalogue, options.now);
            let names = Some(query.attributes.as_slice());
            let result = match Selection::resolve_attributes(names, catalogue) {
                Ok(selection) => {
                    let shown_from = shown.first(&selection);
                    let query = HistoriesQuery {
                        from: query.from.max(shown_from),
                        ..query.clone()
                    };
                    let attempted = Attempted::resolve(
                        (&source, scope, catalogue),
                        &query,
                        entity_type.as_ref(),
                        options,
                        (limit, shown, shown_from),
                    );
                    match attempted {
                        Ok(attempted) => attempted.page(keyset.as_ref(), upcoming).await,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            let Some(Read { value, freshness }) = attempt.judge(source, result).await? else {
                upcoming.clear();
                continue;
            };
            let seen = self.sources.kept_in_cursor(freshness.position);
            let next_cursor = value.next.map(|keyset| {
                let cursor = binding.encode_seen(keyset, seen);
                cursor.expect("two names and a position fit a cursor")
            });
            return Ok(Read {
                value: Page {
                    items: value.items,
                    next_cursor,
                },
                freshness,
            });
        }
    }
}

impl<'a> Attempted<'a> {
    fn resolve(
        (source, scope, catalogue): (&'a Source, &'a TenantScope, &'a Catalogue),
        query: &'a HistoriesQuery,
        entity_type: Option<&'a Name>,
        options: &'a ReadOptions,
        (limit, shown, shown_from): (usize, Shown, Timestamp),
    ) -> Result<Attempted<'a>, ReadError> {
        let filter = match &query.filter {
            Some(expr) => Some(TypedExpr::resolve(expr, &|name| property(name, catalogue))?),
            None => None,
        };
        Ok(Attempted {
            source,
            scope,
            query,
            options,
            catalogue,
            members: MembersOf {
                entity_type: entity_type.map(Name::as_str),
                filter,
                is_by_type: query.is_by_type,
            },
            limit,
            shown,
            shown_from,
        })
    }

    async fn page(
        &self,
        keyset: Option<&Keyset>,
        upcoming: &mut Upcoming,
    ) -> Result<Filling, ReadError> {
        let buckets = self.query.bucketing.as_ref().map(|bucketing| BucketQuery {
            attributes: Some(self.query.attributes.clone()),
            from: Some(self.query.from),
            to: self.query.to,
            descending: false,
            limit: self.query.limit,
            cursor: None,
            bucket: bucketing.width,
            aggregates: bucketing.aggregates.clone(),
            fill: bucketing.fill,
        });
        let series = match &buckets {
            Some(query) => Some(Series::resolve(query, self.catalogue, &self.shown)?),
            None => None,
        };
        let mut filling = Filling::default();
        match (&series, self.query.is_one_series) {
            (_, true) => {
                let place = keyset.map(shared_place).transpose()?;
                let all = self.of_series(upcoming).await?;
                self.fill_shared(series.as_ref(), all, place, &mut filling)
                    .await?;
            }
            (series, false) => {
                let start = keyset.map(Start::read).transpose()?;
                self.fill_each(series.as_ref(), start, upcoming, &mut filling)
                    .await?;
            }
        }
        Ok(filling)
    }

    /// Entity after entity, until the page is full.
    async fn fill_each(
        &self,
        series: Option<&Series<'_>>,
        start: Option<Start>,
        upcoming: &mut Upcoming,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        upcoming.begin(start.as_ref());
        let mut resumed = start.as_ref().filter(|start| start.is_within());
        let (mut met, mut at_once, mut most) = (0, 1, ENTITIES_AT_ONCE);
        if let Some(series) = series {
            at_once = divided::entities_at_once(self, series, self.limit)?;
            most = most.min(divided::entities_at_once(self, series, usize::MAX)?);
        }
        loop {
            if upcoming.is_used_up() {
                self.find_upcoming(upcoming, start.as_ref()).await?;
            }
            at_once = at_once.min(most);
            let members = upcoming.peek(at_once);
            let Some(last) = members.last() else {
                return Ok(());
            };
            let after = resumed
                .filter(|start| start.is_of(&members[0]))
                .and_then(|start| start.time);
            match series {
                Some(series) => {
                    if !self.add_buckets(series, members, after, filling).await? {
                        if members.len() == 1 {
                            return Err(divided::too_many_values());
                        }
                        (at_once, most) = (1, 1);
                        continue;
                    }
                }
                None => self.add_instants(members, after, filling).await?,
            }
            resumed = None;
            met += members.len();
            let (end, count) = (cursor_after(last), members.len());
            upcoming.advance(count);
            if filling.next.is_some() || upcoming.is_at_end() {
                return Ok(());
            }
            if self.room(filling).is_used_up() || met >= ENTITIES_MAX {
                filling.next = Some(end);
                return Ok(());
            }
            // Few items so far: the next round trip may as well bring more entities.
            at_once *= 2;
        }
    }

    /// What is left of the page.
    fn room(&self, filling: &Filling) -> Room {
        Room {
            items: self.limit.saturating_sub(filling.items.len()),
            bytes_read: filling.bytes_read,
        }
    }

    /// The instants of these entities, the first one's after a time.
    async fn add_instants(
        &self,
        members: &[Member],
        after: Option<Timestamp>,
        filling: &mut Filling,
    ) -> Result<(), ReadError> {
        let query = HistoryQuery {
            attributes: Some(self.query.attributes.clone()),
            from: Some(self.query.from),
            to: self.query.to,
            descending: false,
            limit: self.query.limit,
            cursor: None,
            corrections: false,
        };
        let mut histories = Vec::with_capacity(members.len());
        for (place, member) in members.iter().enumerate() {
            let begin = match after {
                Some(time) if place == 0 && time >= self.query.from => Place::after(time),
                Some(_) | None => Place::before(self.query.from),
            };
            histories.push(OneOf {
                name: member.name(),
                entity: member.entity,
                place: begin,
            });
        }
        let mut left = &histories[..];
        let mut names = members.iter();
        let mut room = self.room(filling);
        while !left.is_empty() && !room.is_used_up() {
            let asked = (self.source, self.scope);
            let found = instants_of(
                asked,
                self.catalogue,
                left,
                (&query, &self.shown),
                &mut room,
            )
            .await?;
            filling.bytes_read = room.bytes_read;
            left = &left[found.len()..];
            for (instants, member) in found.into_iter().zip(names.by_ref()) {
                let items = instants.items.into_iter();
                filling.items.extend(items.map(|item| SeriesItem {
                    entity: Some(member.pair()),
                    entry: SeriesEntry::Instant(item),
                }));
                if let Some(place) = instants.resume {
                    filling.next = Some(cursor_within(member, place.observed_at));
                    return Ok(());
                }
            }
        }
        if !left.is_empty() {
            let done = members.len() - left.len();
            filling.next = Some(cursor_after(&members[done - 1]));
        }
        Ok(())
    }
}

impl Member {
    fn pair(&self) -> (String, String) {
        (self.entity_type.clone(), self.external_id.clone())
    }

    fn name(&self) -> EntityName {
        EntityName {
            entity_type: self.entity_type.clone(),
            external_id: self.external_id.clone(),
        }
    }
}

impl HistoriesQuery {
    fn digest(&self) -> QueryDigest {
        let mut description = QueryDescription::new("histories");
        description.add_option(self.entity_type.as_deref());
        let filter = self.filter.as_ref().map(Expr::to_text);
        description.add_option(filter.as_deref());
        description.add_list(self.attributes.iter().map(String::as_str));
        for bound in [Some(self.from), self.to] {
            let micros = bound.map(|time| time.as_micros().to_string());
            description.add_option(micros.as_deref());
        }
        description.add(if self.is_one_series { "all" } else { "entity" });
        description.add(if self.is_by_type { "type" } else { "id" });
        if let Some(bucketing) = &self.bucketing {
            description.add(&bucketing.width.as_micros().to_string());
            description.add(bucketing.fill.as_str());
            let aggregates = bucketing.aggregates.as_deref();
            description.add(if aggregates.is_some() {
                "these"
            } else {
                "default"
            });
            let aggregates = aggregates.unwrap_or_default();
            description.add_list(aggregates.iter().map(|aggregate| aggregate.as_str()));
        }
        description.digest()
    }
}
