//! What histories come to in buckets, wherever their rows are: those that PostgreSQL holds it counts itself, and those of the archive
//! are counted here.

use sheaf_model::{AttributeId, EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::archive::{Boundaries, boundaries_of, read_boundaries};
use sheaf_store::buckets::BucketRange;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::histories::{Division, HistoriesOf};
use sheaf_store::history::HistoryOf;
use sheaf_store::snapshot::limit_time;
use tokio_postgres::Row;

use super::series::Series;
use super::tally::Tallies;
use super::width::Width;
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::source::Source;
use crate::united::{InstantRows, Located, SeveralWalk, key_before, last_late};

/// Rows of a step through what is counted here, and their bytes. More need more memory and fewer steps.
pub(super) const STEP_ROWS: usize = 4_096;
pub(super) const STEP_BYTES: usize = 4 * 1024 * 1024;
/// How often the boundary of the history may move while it is read.
pub(super) const BOUNDARIES_MAX: usize = 4;

/// Histories that are divided into buckets.
pub(crate) struct Divided<'a> {
    pub(crate) asked: (&'a Source, &'a TenantScope),
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) series: &'a Series<'a>,
    /// All entities are one.
    pub(crate) is_one_series: bool,
    /// Whose history it is, where it is that of one entity: PostgreSQL is asked for it by its name.
    pub(crate) of_one: Option<&'a HistoryOf>,
}

/// From an instant to another, without it.
pub(super) type Range = (Timestamp, Timestamp);

impl Divided<'_> {
    fn width(&self) -> Width {
        Width::new(self.series.query.bucket)
    }

    /// What the histories of some entities come to, each for itself or together as entity 0. Nothing where that is more than so
    /// many tallies.
    pub(crate) async fn tallies(
        &self,
        entities: &[EntityId],
        range: Range,
        most: usize,
        is_wanted: impl Fn(AttributeId) -> bool,
    ) -> Result<Option<Tallies>, ReadError> {
        let (source, _) = self.asked;
        let wanted: Vec<_> = self
            .series
            .kinds()
            .filter(|(id, _)| is_wanted(*id))
            .collect();
        let known = wanted.iter().map(|(id, kind)| {
            let shown_from = self.series.shown.from(*id);
            (*id, (*kind, shown_from))
        });
        let mut tallies = Tallies::new(self.width(), known, self.is_one_series);
        let (mut split, mut rows) = (range.1, Vec::new());
        if source.archive().whole().is_none() {
            (split, rows) = self.here(entities, range, most, &is_wanted).await?;
            if rows.len() > most {
                return Ok(None);
            }
        }
        if range.0 < split {
            let range = (range.0, split);
            let mut walk = SeveralWalk::new(self.asked, self.catalogue, entities, wanted, range);
            let mut instants = InstantRows::default();
            let mut next = Some(key_before(range.0));
            while let Some(place) = next {
                let step = walk.step(place, range.1, (STEP_ROWS, STEP_BYTES)).await?;
                for row in step.stretch.rows {
                    add(&mut tallies, &instants.push(row));
                }
                if tallies.len() > most {
                    return Ok(None);
                }
                next = step.stretch.reach;
            }
            add(&mut tallies, &instants.finish());
        }
        let entity_of = |row: &Row| match (self.of_one, entities.first()) {
            (Some(_), Some(entity)) => *entity,
            _ => EntityId(row.get("entity_id")),
        };
        tallies.add_rows(entity_of, split, &rows)?;
        Ok((tallies.len() <= most).then_some(tallies))
    }

    /// What PostgreSQL says of its part of a range, and where that part begins.
    async fn here(
        &self,
        entities: &[EntityId],
        (from, to): Range,
        most: usize,
        is_wanted: &impl Fn(AttributeId) -> bool,
    ) -> Result<(Timestamp, Vec<Row>), ReadError> {
        let (source, scope) = self.asked;
        let width = self.width();
        let division = Division::new(width.as_micros(), width.origin());
        let attributes = self
            .series
            .aggregated_where(|attribute| is_wanted(attribute.id));
        let rows_max = i64::try_from(most.saturating_add(1)).unwrap_or(i64::MAX);
        let mut split = from;
        for _ in 0..BOUNDARIES_MAX {
            let of = HistoriesOf::new(scope.tenant(), entities.iter().copied(), (split, to));
            let one = self.of_one.map(|of| bucket_range(of, (split, to), width));
            let aggregate = match &one {
                Some(one) => one.aggregate(&attributes, &rows_max),
                None => of.aggregate(&division, &attributes, &self.is_one_series, &rows_max),
            };
            let statements = vec![
                limit_time(&STATEMENT_TIME_MAX),
                read_boundaries(),
                aggregate,
            ];
            let mut rows = source.run(scope, statements).await?;
            let boundaries = boundaries_of(&rows[1])?;
            let next = split_of(self.asked, entities, (split, to), &boundaries).await?;
            if next == split {
                return Ok((split, rows.pop().unwrap_or_default()));
            }
            split = next;
            if split == to {
                return Ok((split, Vec::new()));
            }
        }
        Err(ReadError::CatalogueChanged)
    }
}

/// Where the part of a range begins that PostgreSQL can answer alone: after what was archived, and after the last late row.
pub(super) async fn split_of(
    asked: (&Source, &TenantScope),
    entities: &[EntityId],
    (from, to): Range,
    boundaries: &Boundaries,
) -> Result<Timestamp, ReadError> {
    // A range that ends before its history is shown from is none.
    let archived = boundaries.archived_before.unwrap_or(from);
    let archived = archived.min(to).max(from);
    let Some(closed_before) = boundaries.closed_before else {
        return Ok(archived);
    };
    let late = last_late(asked, entities, (archived, closed_before.min(to))).await?;
    let late = late.map(|last| last.saturating_add_micros(1).min(to));
    Ok(late.unwrap_or(archived))
}

fn add(tallies: &mut Tallies, rows: &[Located]) {
    if let Some((entity, first)) = rows.first() {
        let at = first.row.observed_at;
        tallies.add_instant(*entity, at, rows.iter().map(|(_, history)| &history.row));
    }
}

/// The bounds of a bucket's part of a range, as PostgreSQL is asked for them.
pub(super) fn bucket_range<'h>(of: &'h HistoryOf, range: Range, width: Width) -> BucketRange<'h> {
    BucketRange::new(of, range, width.as_micros(), width.origin())
}
