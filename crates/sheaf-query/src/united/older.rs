//! What the archive has of some entities, on its way into a walk.

use sheaf_model::{AttributeId, AttributeType, EntityId, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::history::EventsAsked;

use super::{Key, Located, Stretch, key_before, key_of, range_behind};
use crate::error::ReadError;
use crate::source::Source;

/// What the archive has of some entities, in the order of a walk.
#[derive(Debug)]
pub(crate) struct Older {
    pub(super) entities: Vec<EntityId>,
    attributes: Option<Vec<(AttributeId, AttributeType)>>,
    newest_first: bool,
    /// Where the walk ends: without that instant forwards, and with it backwards.
    end: Timestamp,
    pub(crate) ready: Stretch,
    /// Whether it matters which request brought a row.
    pub(crate) with_requests: bool,
    /// Up to which boundary it was read; absent where nothing was.
    read_up_to: Option<Timestamp>,
}

impl Older {
    pub(crate) fn new(
        entities: Vec<EntityId>,
        attributes: Option<Vec<(AttributeId, AttributeType)>>,
        newest_first: bool,
        end: Timestamp,
    ) -> Older {
        Older {
            entities,
            attributes,
            newest_first,
            end,
            ready: Stretch::default(),
            with_requests: false,
            read_up_to: None,
        }
    }

    /// Makes ready what follows a place, if nothing is: about as many rows as are enough.
    pub(crate) async fn fetch_ahead(
        &mut self,
        (source, scope): (&Source, &TenantScope),
        place: Key,
        boundary: Option<Timestamp>,
        enough: usize,
    ) -> Result<(), ReadError> {
        let Some((from, to)) = self.lacking(place, boundary) else {
            return Ok(());
        };
        let state = source.archive().older(to).await?;
        let asked = EventsAsked {
            entities: self.entities.clone(),
            attributes: self.attributes.clone(),
            from,
            to,
            newest_first: self.newest_first,
            enough,
            with_requests: self.with_requests,
        };
        let read = state.events(scope, asked).await?;
        self.receive(read.events, place, read.reached, to);
        Ok(())
    }

    /// What has to be read so that what follows a place is ready; nothing where it is, or where the archive has none of it.
    pub(super) fn lacking(
        &mut self,
        place: Key,
        boundary: Option<Timestamp>,
    ) -> Option<(Timestamp, Timestamp)> {
        let has_moved = |read: Timestamp| boundary.is_some_and(|to| read < to && read < place.0);
        if self.newest_first && self.read_up_to.is_some_and(has_moved) {
            // Between where it was and where it is now, nothing was read.
            self.forget();
        }
        let is_read = self.read_up_to.is_some() && self.ready.reach.is_none();
        if is_read || !self.ready.rows.is_empty() {
            return None;
        }
        let range = range_behind(self.newest_first, place, self.end, boundary);
        if range.is_none() {
            // The boundary may move on before the next step, and then there is something.
            self.forget();
        }
        range
    }

    /// Where the boundary has moved back, PostgreSQL has what was still to come from here.
    pub(super) fn forget_beyond(&mut self, boundary: Option<Timestamp>) {
        if self.newest_first && self.ready.rows.is_empty() && self.read_up_to > boundary {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.ready = Stretch::default();
        self.read_up_to = None;
    }

    /// Takes what was read of the archive up to a boundary.
    pub(crate) fn receive(
        &mut self,
        events: Vec<Located>,
        place: Key,
        reached: Option<Timestamp>,
        boundary: Timestamp,
    ) {
        let newest_first = self.newest_first;
        let is_behind = |located: &Located| match newest_first {
            true => key_of(located) < place,
            false => key_of(located) > place,
        };
        // Forwards, what follows the boundary was not read.
        let end = (!newest_first && boundary < self.end).then_some(boundary);
        self.ready = Stretch {
            rows: events.into_iter().filter(is_behind).collect(),
            reach: reached.or(end).map(key_before),
        };
        self.read_up_to = Some(boundary);
    }
}
