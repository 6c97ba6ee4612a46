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
        let has_moved = |read: Timestamp| boundary.is_some_and(|to| read < to && read < place.0);
        if self.newest_first && self.read_up_to.is_some_and(has_moved) {
            // Between where it was and where it is now, nothing was read.
            self.ready = Stretch::default();
            self.read_up_to = None;
        }
        let is_read = self.read_up_to.is_some() && self.ready.reach.is_none();
        if is_read || !self.ready.rows.is_empty() {
            return Ok(());
        }
        let range = range_behind(self.newest_first, place, self.end, boundary);
        let Some((from, to)) = range else {
            self.ready.reach = None;
            return Ok(());
        };
        let state = match source.archive().whole() {
            Some(state) => state.clone(),
            None => source.archive().older(to).await?,
        };
        let asked = EventsAsked {
            entities: self.entities.clone(),
            attributes: self.attributes.clone(),
            from,
            to,
            newest_first: self.newest_first,
            enough,
        };
        let read = state.events(scope, asked).await?;
        self.receive(read.events, place, read.reached, to);
        Ok(())
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
