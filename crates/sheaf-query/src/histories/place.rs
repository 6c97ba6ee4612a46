//! Where a page of histories begins, and the keyset that says so.

use sheaf_model::{EntityId, Timestamp};

use crate::cursor::Keyset;
use crate::error::ReadError;
use crate::list::{Member, MembersFrom};

/// Where a page begins: inside the history of an entity, or after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    external_id: String,
    entity_type: String,
    /// What the page before ended with; absent where it ended with the whole entity.
    pub(super) time: Option<Timestamp>,
}

pub(super) fn cursor_within(member: &Member, time: Timestamp) -> Keyset {
    vec![
        Some(member.external_id.clone()),
        Some(member.entity_type.clone()),
        Some(time.as_micros().to_string()),
    ]
}

pub(super) fn cursor_after(member: &Member) -> Keyset {
    vec![
        Some(member.external_id.clone()),
        Some(member.entity_type.clone()),
        None,
    ]
}

fn time_in(text: &str) -> Option<Timestamp> {
    Timestamp::from_micros(text.parse().ok()?).ok()
}

/// Where a page of one series begins: after an instant, an entity and a row.
pub(super) fn shared_place(keyset: &Keyset) -> Result<(Timestamp, EntityId, i16), ReadError> {
    let place = match keyset.as_slice() {
        [Some(time), Some(entity), Some(seq)] => time_in(time)
            .zip(entity.parse().ok().map(EntityId))
            .zip(seq.parse().ok())
            .map(|((time, entity), seq)| (time, entity, seq)),
        _ => None,
    };
    place.ok_or(ReadError::InvalidCursor)
}

impl Start {
    pub(super) fn read(keyset: &Keyset) -> Result<Start, ReadError> {
        let [Some(external_id), Some(entity_type), time] = keyset.as_slice() else {
            return Err(ReadError::InvalidCursor);
        };
        let time = match time {
            Some(text) => Some(time_in(text).ok_or(ReadError::InvalidCursor)?),
            None => None,
        };
        Ok(Start {
            external_id: external_id.clone(),
            entity_type: entity_type.clone(),
            time,
        })
    }

    /// Whether a part of this entity's history is still wanted.
    pub(super) fn is_within(&self) -> bool {
        self.time.is_some()
    }

    pub(super) fn members_from(&self) -> MembersFrom {
        MembersFrom {
            external_id: self.external_id.clone(),
            entity_type: self.entity_type.clone(),
            is_inclusive: self.is_within(),
        }
    }

    pub(super) fn is_of(&self, member: &Member) -> bool {
        self.external_id == member.external_id && self.entity_type == member.entity_type
    }
}

impl MembersFrom {
    pub(super) fn after(member: &Member) -> MembersFrom {
        MembersFrom {
            external_id: member.external_id.clone(),
            entity_type: member.entity_type.clone(),
            is_inclusive: false,
        }
    }
}
