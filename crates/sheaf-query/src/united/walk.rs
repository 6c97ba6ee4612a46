//! A walk through the history of one entity, in either direction.

use std::collections::VecDeque;

use sheaf_model::{EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::archive::{Boundaries, boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::{Direction, HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;
use tokio_postgres::Row;

use super::{
    Late, Located, Older, Stretch, attributes_of, bytes_of, key_before, key_of, located,
    more_bytes, unite,
};
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::selection::Selection;
use crate::source::Source;

/// A step of a walk.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) rows: VecDeque<Located>,
    /// What they took.
    pub(crate) bytes: usize,
    /// Where the next step begins; absent at the end.
    pub(crate) next: Option<Place>,
}

/// A walk through the history of one entity.
pub(crate) struct Walk<'a> {
    asked: (&'a Source, &'a TenantScope),
    catalogue: &'a Catalogue,
    of: HistoryOf,
    newest_first: bool,
    end: Timestamp,
    keys: Option<Vec<String>>,
    pub(crate) older: Older,
    late: Late,
    /// Where the boundary was a moment ago.
    boundary: Option<Timestamp>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        asked: (&'a Source, &'a TenantScope),
        catalogue: &'a Catalogue,
        of: HistoryOf,
        selection: &Selection,
        (newest_first, end): (bool, Timestamp),
    ) -> Result<Walk<'a>, ReadError> {
        let attributes = attributes_of(selection, catalogue)?;
        Ok(Walk {
            asked,
            catalogue,
            of,
            newest_first,
            end,
            keys: selection.keys(),
            older: Older::new(Vec::new(), attributes, newest_first, end),
            late: Late::new(asked.1.tenant(), &[], newest_first, end),
            boundary: None,
        })
    }

    /// Whose history it is.
    pub(crate) fn is_of(&mut self, entity: EntityId) {
        self.older.entities = vec![entity];
        let tenant = self.asked.1.tenant();
        self.late = Late::new(tenant, &[entity], self.newest_first, self.end);
    }

    fn entity(&self) -> EntityId {
        let entity = self.older.entities.first();
        *entity.expect("invariant: it is known whose history is walked")
    }

    /// Whether all of it is read from the archive.
    fn is_elsewhere(&self) -> bool {
        self.asked.0.archive().whole().is_some()
    }

    /// The first step, where there is such an entity. It finds out which that is.
    pub(crate) async fn first(
        &mut self,
        place: Place,
        (rows_max, bytes_max): (usize, usize),
    ) -> Result<Option<Step>, ReadError> {
        let (source, scope) = self.asked;
        let of = self.of.clone();
        let step = self.statement(&of, place, (rows_max, bytes_max));
        let end_here = step.end();
        let mut statements = vec![limit_time(&STATEMENT_TIME_MAX), of.find()];
        if !self.is_elsewhere() {
            statements.extend([read_boundaries(), step.statement()]);
        }
        let rows = source.run(scope, statements).await?;
        let Some(found) = rows[1].first() else {
            return Ok(None);
        };
        self.is_of(EntityId(found.get("entity_id")));
        let read = match rows.get(2..) {
            Some([boundaries, rows]) => Some((rows.as_slice(), boundaries_of(boundaries)?)),
            _ => None,
        };
        let step = self.complete(place, end_here, (rows_max, read)).await?;
        Ok(Some(step))
    }

    /// A step from a place on.
    pub(crate) async fn step(
        &mut self,
        place: Place,
        (rows_max, bytes_max): (usize, usize),
    ) -> Result<Step, ReadError> {
        if self.is_elsewhere() {
            return self.complete(place, self.end, (rows_max, None)).await;
        }
        let (source, scope) = self.asked;
        let of = self.of.clone();
        let step = self.statement(&of, place, (rows_max, bytes_max));
        let end_here = step.end();
        let statements = vec![
            limit_time(&STATEMENT_TIME_MAX),
            read_boundaries(),
            step.statement(),
        ];
        let rows = source.run(scope, statements).await?;
        let read = Some((rows[2].as_slice(), boundaries_of(&rows[1])?));
        self.complete(place, end_here, (rows_max, read)).await
    }

    /// The step as PostgreSQL is asked for it: before the boundary, where it has no rows but those that are on their way out, up to
    /// that.
    pub(crate) fn statement<'s>(
        &'s self,
        of: &'s HistoryOf,
        place: Place,
        (rows_max, bytes_max): (usize, usize),
    ) -> HistoryStep<'s> {
        let direction = match self.newest_first {
            true => Direction::Backwards,
            false => Direction::Forwards,
        };
        let end = match self.boundary {
            Some(boundary) if !self.newest_first && place.observed_at < boundary => {
                self.end.min(boundary)
            }
            _ => self.end,
        };
        let number = |many: usize| i64::try_from(many).expect("a bound fits an i64");
        let step = HistoryStep::new(
            of,
            direction,
            place,
            end,
            self.keys.as_ref(),
            number(rows_max),
        );
        step.of_bytes(number(bytes_max))
    }

    /// Joins what PostgreSQL gave, where it was asked, with what the archive has.
    pub(crate) async fn complete(
        &mut self,
        place: Place,
        end_here: Timestamp,
        (rows_max, read): (usize, Option<(&[Row], Boundaries)>),
    ) -> Result<Step, ReadError> {
        let entity = self.entity();
        let (mut here, mut bytes) = (Stretch::default(), 0);
        let from = (place.observed_at, entity, place.seq);
        self.boundary = Some(Timestamp::MAX);
        if let Some((rows, boundaries)) = read {
            self.boundary = boundaries.archived_before;
            let is_cut;
            (here, bytes, is_cut) = located(rows, rows_max, Some(entity), self.catalogue)?;
            if !is_cut && end_here != self.end {
                here.reach = Some(key_before(end_here));
            }
            if self.goes_before(&here, boundaries.closed_before) {
                let closed_before = boundaries.closed_before;
                self.late
                    .fetch_ahead(self.asked, self.catalogue, from, closed_before)
                    .await?;
            }
        }
        self.older.forget_beyond(self.boundary);
        if let Some(boundary) = self.boundary
            && self.newest_first
            && self.end < boundary
            && (place.observed_at, place.seq) > (boundary, -1)
            && self.goes_before(&here, self.boundary)
            && !self.is_elsewhere()
        {
            // A page may be full before the archive has to be asked.
            here.rows
                .retain(|located| key_of(located) > key_before(boundary));
            here.reach = Some(key_before(boundary));
        } else if self.goes_before(&here, self.boundary) {
            let boundary = self.boundary;
            self.older
                .fetch_ahead(self.asked, from, boundary, rows_max)
                .await?;
        }
        let known: usize = here.rows.iter().map(bytes_of).sum();
        let sides = &mut [&mut here, &mut self.late.ready, &mut self.older.ready];
        let together = unite(self.newest_first, sides, rows_max);
        bytes += more_bytes(&together, known);
        let next = together
            .reach
            .map(|(observed_at, _, seq)| Place { observed_at, seq });
        Ok(Step {
            rows: together.rows,
            bytes,
            next,
        })
    }

    /// Whether what is before a boundary may come into it: backwards, once what is here goes beyond.
    fn goes_before(&self, here: &Stretch, boundary: Option<Timestamp>) -> bool {
        let reach = here.reach.filter(|_| self.newest_first);
        let pair = reach.zip(boundary);
        pair.is_none_or(|((reach, _, _), boundary)| reach < boundary)
    }
}
