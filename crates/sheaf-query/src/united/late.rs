//! What arrived late about some entities, on its way into a walk.

use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::histories::SharedPlace;
use sheaf_store::late::{self, LateEvents, LateRange, LateStep};
use sheaf_store::snapshot::limit_time;

use super::{Key, Stretch, located, range_behind};
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::source::Source;

/// Late rows that are read at once, and their bytes. There are few, mostly, and then they are read once for many steps.
const LATE_ROWS: usize = 1_000;
const LATE_BYTES: usize = 1024 * 1024;

/// What arrived late about some entities, in the order of a walk.
#[derive(Debug)]
pub(crate) struct Late {
    events: LateEvents,
    newest_first: bool,
    end: Timestamp,
    pub(super) ready: Stretch,
    is_read: bool,
}

impl Late {
    pub(crate) fn new(
        tenant: TenantId,
        entities: &[EntityId],
        newest_first: bool,
        end: Timestamp,
    ) -> Late {
        Late {
            events: LateEvents::new(tenant, entities.iter().copied()),
            newest_first,
            end,
            ready: Stretch::default(),
            is_read: false,
        }
    }

    /// Makes ready what follows a place, if nothing is. They may be read after the others: none is ever taken away.
    pub(super) async fn fetch_ahead(
        &mut self,
        (source, scope): (&Source, &TenantScope),
        catalogue: &Catalogue,
        place: Key,
        closed_before: Option<Timestamp>,
    ) -> Result<(), ReadError> {
        let range = range_behind(self.newest_first, place, self.end, closed_before);
        let is_ready = !self.ready.rows.is_empty();
        if is_ready || range.is_none() || (self.is_read && self.ready.reach.is_none()) {
            return Ok(());
        }
        self.ready = self.step((source, scope), catalogue, place).await?;
        self.is_read = true;
        Ok(())
    }

    /// Those that follow a place.
    pub(crate) async fn step(
        &self,
        (source, scope): (&Source, &TenantScope),
        catalogue: &Catalogue,
        place: Key,
    ) -> Result<Stretch, ReadError> {
        let (observed_at, entity, seq) = place;
        let place = SharedPlace {
            observed_at,
            entity,
            seq,
        };
        let number = |many: usize| i64::try_from(many).expect("a bound fits an i64");
        let bounds = (number(LATE_ROWS), number(LATE_BYTES));
        let step = LateStep::new(self.newest_first, place, self.end, bounds);
        let statements = vec![limit_time(&STATEMENT_TIME_MAX), self.events.walk(&step)];
        let rows = source.run(scope, statements).await?;
        let (stretch, _, _) = located(&rows[1], LATE_ROWS, None, catalogue)?;
        Ok(stretch)
    }
}

/// The last instant of a range at which some entities have a late row.
pub(crate) async fn last_late(
    (source, scope): (&Source, &TenantScope),
    entities: &[EntityId],
    (from, to): (Timestamp, Timestamp),
) -> Result<Option<Timestamp>, ReadError> {
    if from >= to {
        return Ok(None);
    }
    let events = LateEvents::new(scope.tenant(), entities.iter().copied());
    let range = LateRange::new(from, to);
    let statements = vec![limit_time(&STATEMENT_TIME_MAX), events.find_last(&range)];
    let rows = source.run(scope, statements).await?;
    Ok(late::last_late(&rows[1])?)
}
