//! An entity's history: what was observed, instant by instant, or row by row.
//!
//! Rows are read in steps until a page is full, so that a page costs bounded memory whatever its rows hold. The rows of
//! one instant are never divided between two items.

use sheaf_model::{BatchId, Timestamp, Value};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::{HistoryOf, Place};

use crate::answer::{Page, Read};
use crate::attempt::Attempt;
use crate::consistency::ReadOptions;
use crate::cursor::{QueryDescription, QueryDigest};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::{Reader, page_limit};
use crate::retention::Shown;
use crate::selection::Selection;
use crate::source::Source;
use crate::united::{self, Step};

mod collector;
mod several;

use collector::Collector;
pub(crate) use collector::{item_of_instant, named};
pub(crate) use several::{OneOf, Room, instants_of};

/// Rows of one step: at most so many are in memory beside the page's items.
const STEP_ROWS_MAX: usize = 250;
/// A smaller step would ask several times for one corrected instant.
const STEP_ROWS_MIN: usize = 16;
/// Steps of one page; then the page ends early, with a cursor. Reached only where instants were corrected many times.
const STEPS_MAX: usize = 64;
/// Bytes of the rows of one step, beyond which the rest of them are asked for again. Smaller makes more round trips of
/// histories with wide rows; a row itself is at most a quarter of it.
pub(crate) const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of rows, as text, after which a page ends early.
pub(crate) const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is wanted of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The attributes; absent for all.
    pub attributes: Option<Vec<String>>,
    /// The first instant.
    pub from: Option<Timestamp>,
    /// The first instant after the range.
    pub to: Option<Timestamp>,
    /// Newest first.
    pub descending: bool,
    /// Items of a page, 1 to 1,000.
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// One item a row, with what was corrected; else one an instant, with corrections applied.
    pub corrections: bool,
}

/// A page of an entity's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryAnswer {
    /// The entity's type, in its canonical spelling.
    pub entity_type: String,
    /// Its id, in its canonical spelling.
    pub external_id: String,
    /// The items.
    pub page: Page<HistoryItem>,
}

/// What was observed at one instant, or one row of it.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryItem {
    /// The instant.
    pub observed_at: Timestamp,
    /// When the (last) row arrived.
    pub ingested_at: Timestamp,
    /// Nothing older shows through: attributes not named were removed.
    pub replaced: bool,
    /// The entity was deleted.
    pub deleted: bool,
    /// The attributes in order of name; absent values were removed.
    pub attributes: Vec<(String, Option<Value>)>,
    /// Which row it is, where items are rows.
    pub row: Option<RowSource>,
}

/// Which row of its instant an item is, and who brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSource {
    /// The row's place among those of its instant.
    pub seq: i16,
    /// The request that brought it.
    pub batch: BatchId,
}

impl Reader {
    /// A page of an entity's history. Nothing for an entity that never had an event; a deleted one has its history.
    pub async fn history(
        &self,
        scope: &TenantScope,
        entity_type: &str,
        external_id: &str,
        query: &HistoryQuery,
        options: &ReadOptions,
    ) -> Result<Read<Option<HistoryAnswer>>, ReadError> {
        let limit = page_limit(query.limit)?;
        check_range(query.from, query.to)?;
        let name = EntityName::canonical(entity_type, external_id);
        let digest = query.digest(&name);
        let walk = Walk {
            name,
            digest,
            start: self.start(scope, digest, query, options)?,
            limit,
        };
        let cursor = query.cursor.as_deref();
        let mut attempt = Attempt::of_history(self, scope, options, cursor).await?;
        loop {
            let source = attempt.source().await?;
            let catalogue = attempt.catalogue();
            let result = self
                .history_under(catalogue, &source, scope, &walk, query, options)
                .await;
            if let Some(answer) = attempt.judge(source, result).await? {
                return Ok(answer);
            }
        }
    }

    async fn history_under(
        &self,
        catalogue: &Catalogue,
        source: &Source,
        scope: &TenantScope,
        walk: &Walk,
        query: &HistoryQuery,
        options: &ReadOptions,
    ) -> Result<Option<HistoryAnswer>, ReadError> {
        let selection = Selection::resolve_attributes(query.attributes.as_deref(), catalogue)?;
        let name = &walk.name;
        let of = HistoryOf::new(scope.tenant(), &name.entity_type, &name.external_id);
        let bounds = (
            (walk.limit + 1).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX),
            STEP_BYTES_MAX,
        );
        let shown = Shown::new(catalogue, options.now);
        let shown_from = shown.first(&selection);
        let (start, end) = match query.descending {
            true => (walk.start, query.end().max(shown_from)),
            false if walk.start.observed_at < shown_from => {
                (Place::before(shown_from), query.end())
            }
            false => (walk.start, query.end()),
        };
        let towards = (query.descending, end);
        let mut rows = united::Walk::new((source, scope), catalogue, of, &selection, towards)?;
        rows.older.with_requests = query.corrections;
        let Some(first) = rows.first(start, bounds).await? else {
            return Ok(None);
        };
        let collector = Collector::new(catalogue, (selection, &shown), query);
        let mut progress = Progress::new(collector, walk.limit);
        let mut next = progress.take(first)?;
        while let Some(place) = next {
            next = progress.take(rows.step(place, bounds).await?)?;
        }
        let (items, resume) = progress.collector.into_page(walk.limit, progress.is_end);
        let next_cursor = resume.map(|place| {
            let keyset = vec![
                Some(place.observed_at.as_micros().to_string()),
                Some(place.seq.to_string()),
            ];
            let binding = self.binding(scope, walk.digest, options);
            let cursor = binding.encode_seen(keyset, source.kept_in_cursor());
            cursor.expect("two numbers and a position fit a cursor")
        });
        Ok(Some(HistoryAnswer {
            entity_type: name.entity_type.clone(),
            external_id: name.external_id.clone(),
            page: Page { items, next_cursor },
        }))
    }

    /// Where a page begins: at the start of the range, or after the place in the cursor.
    fn start(
        &self,
        scope: &TenantScope,
        digest: QueryDigest,
        query: &HistoryQuery,
        options: &ReadOptions,
    ) -> Result<Place, ReadError> {
        let Some(text) = &query.cursor else {
            return Ok(match query.descending {
                true => Place::before(query.to.unwrap_or(Timestamp::MAX)),
                false => Place::before(query.from.unwrap_or(Timestamp::MIN)),
            });
        };
        let keyset = self.binding(scope, digest, options).decode(text, 2)?;
        place_in(&keyset).ok_or(ReadError::InvalidCursor)
    }
}

fn place_in(keyset: &[Option<String>]) -> Option<Place> {
    let [Some(micros), Some(seq)] = keyset else {
        return None;
    };
    Some(Place {
        observed_at: Timestamp::from_micros(micros.parse().ok()?).ok()?,
        seq: seq.parse().ok()?,
    })
}

/// A walk of one page, apart from the catalogue.
struct Walk {
    name: EntityName,
    digest: QueryDigest,
    start: Place,
    limit: usize,
}

/// How far a walk has come.
struct Progress<'a> {
    collector: Collector<'a>,
    limit: usize,
    steps: usize,
    bytes: usize,
    is_end: bool,
}

impl<'a> Progress<'a> {
    fn new(collector: Collector<'a>, limit: usize) -> Progress<'a> {
        Progress {
            collector,
            limit,
            steps: 0,
            bytes: 0,
            is_end: false,
        }
    }

    /// Takes a step; tells where the next one begins, unless the page is done.
    fn take(&mut self, step: Step) -> Result<Option<Place>, ReadError> {
        self.bytes += step.bytes;
        self.steps += 1;
        for (_, row) in step.rows {
            self.collector.push(row)?;
        }
        if step.next.is_none() {
            self.collector.finish()?;
            self.is_end = true;
        }
        let is_full = self.collector.item_count() > self.limit;
        let is_long = self.steps >= STEPS_MAX || self.bytes > PAGE_BYTES_MAX;
        let is_done = is_full || (is_long && self.collector.closed().is_some());
        Ok(step.next.filter(|_| !is_done))
    }
}

impl HistoryQuery {
    /// Where the walk ends.
    fn end(&self) -> Timestamp {
        if self.descending {
            self.from.unwrap_or(Timestamp::MIN)
        } else {
            self.to.unwrap_or(Timestamp::MAX)
        }
    }

    fn digest(&self, name: &EntityName) -> QueryDigest {
        let mut description = QueryDescription::new("history");
        describe_range(
            &mut description,
            name,
            self.attributes.as_deref(),
            self.from,
            self.to,
        );
        description.add(if self.descending { "desc" } else { "asc" });
        description.add(if self.corrections { "rows" } else { "instants" });
        description.digest()
    }
}

/// Describes what both forms of history have in common.
pub(crate) fn describe_range(
    description: &mut QueryDescription,
    name: &EntityName,
    attributes: Option<&[String]>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) {
    description.add(&name.entity_type);
    description.add(&name.external_id);
    description.add(if attributes.is_some() { "these" } else { "all" });
    description.add_list(attributes.unwrap_or_default().iter().map(String::as_str));
    for bound in [from, to] {
        let micros = bound.map(|time| time.as_micros().to_string());
        description.add_option(micros.as_deref());
    }
}

pub(crate) fn check_range(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), ReadError> {
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(ReadError::parameter("to", "a time before from"))
        }
        (_, _) => Ok(()),
    }
}
