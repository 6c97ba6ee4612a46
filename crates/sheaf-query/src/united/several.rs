//! A walk through the histories of several entities, in order of time, then entity, oldest first.

use sheaf_model::{AttributeId, AttributeType, EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::archive::{boundaries_of, read_boundaries};
use sheaf_store::catalogue::Catalogue;
use sheaf_store::histories::{HistoriesOf, SharedPlace, SharedWalk};
use sheaf_store::snapshot::limit_time;

use super::{Key, Late, Older, Stretch, bytes_of, key_before, located, more_bytes, unite};
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::source::Source;

/// A walk through the histories of several entities.
pub(crate) struct SeveralWalk<'a> {
    asked: (&'a Source, &'a TenantScope),
    catalogue: &'a Catalogue,
    of: HistoriesOf,
    keys: Vec<String>,
    end: Timestamp,
    older: Older,
    late: Late,
    boundary: Option<Timestamp>,
}

/// A step of it.
pub(crate) struct SeveralStep {
    pub(crate) stretch: Stretch,
    /// What its rows took.
    pub(crate) bytes: usize,
    /// Whether there were as many rows as were asked for.
    pub(crate) is_full: bool,
}

impl<'a> SeveralWalk<'a> {
    /// Of what may matter to some attributes between two instants.
    pub(crate) fn new(
        asked: (&'a Source, &'a TenantScope),
        catalogue: &'a Catalogue,
        entities: &[EntityId],
        attributes: Vec<(AttributeId, AttributeType)>,
        range: (Timestamp, Timestamp),
    ) -> SeveralWalk<'a> {
        let tenant = asked.1.tenant();
        SeveralWalk {
            asked,
            catalogue,
            of: HistoriesOf::new(tenant, entities.iter().copied(), range),
            keys: attributes.iter().map(|(id, _)| id.to_string()).collect(),
            end: range.1,
            late: Late::new(tenant, entities, false, range.1),
            older: Older::new(entities.to_vec(), Some(attributes), false, range.1),
            boundary: None,
        }
    }

    /// The step from a place on. What is read of PostgreSQL ends at an instant, if the walk does not before.
    pub(crate) async fn step(
        &mut self,
        place: Key,
        until: Timestamp,
        (rows_max, bytes_max): (usize, usize),
    ) -> Result<SeveralStep, ReadError> {
        let (source, scope) = self.asked;
        let (mut here, mut bytes, mut is_full) = (Stretch::default(), 0, false);
        let mut boundary = Some(Timestamp::MAX);
        if source.archive().whole().is_none() {
            // Before the boundary there are no rows here but those that are on their way out.
            let until = match self.boundary {
                Some(boundary) if place.0 < boundary => until.min(boundary),
                _ => until,
            };
            let (observed_at, entity, seq) = place;
            let walk = SharedWalk::new(
                SharedPlace {
                    observed_at,
                    entity,
                    seq,
                },
                until,
            );
            let number = |many: usize| i64::try_from(many).expect("a bound fits an i64");
            let bounds = (number(rows_max), number(bytes_max));
            let statements = vec![
                limit_time(&STATEMENT_TIME_MAX),
                read_boundaries(),
                self.of.walk(&walk, &self.keys, (&bounds.0, &bounds.1)),
            ];
            let rows = source.run(scope, statements).await?;
            let boundaries = boundaries_of(&rows[1])?;
            boundary = boundaries.archived_before;
            (here, bytes, is_full) = located(&rows[2], rows_max, None, self.catalogue)?;
            if !is_full && until < self.end {
                here.reach = Some(key_before(until));
            }
            let closed_before = boundaries.closed_before;
            self.late
                .fetch_ahead(self.asked, self.catalogue, place, closed_before)
                .await?;
        }
        self.boundary = boundary;
        self.older
            .fetch_ahead(self.asked, place, boundary, rows_max)
            .await?;
        let known: usize = here.rows.iter().map(bytes_of).sum();
        let sides = &mut [&mut here, &mut self.late.ready, &mut self.older.ready];
        let stretch = unite(false, sides, rows_max);
        bytes += more_bytes(&stretch, known);
        Ok(SeveralStep {
            is_full: is_full || stretch.rows.len() >= rows_max,
            stretch,
            bytes,
        })
    }
}
