//! What is remembered of an entity: the answer as it is sent, and what is known of how fresh it is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sheaf_model::{EntityId, Lsn, Position, TenantId, Timestamp};

/// What a source said of one entity, in the form in which it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which entity. None where the name has no number: nothing was ever written under it.
    pub entity: Option<EntityId>,
    /// The version of its document; 0 where there never was one.
    pub version: i64,
    /// The answer; none where the entity is not found, because it was never written or was deleted.
    pub body: Option<Bytes>,
    /// A position that covers everything that the answer shows: what its token stands for. The earliest at which it is known
    /// to have been the same, so that a token is not newer than what its client has seen.
    pub position: Position,
    /// Every commit whose token is below this was seen. It was reached by the source before the read began, which a position
    /// that was read afterwards was not: what is committed between a snapshot and that position is below it and not seen.
    pub covers: Option<Lsn>,
    /// Everything committed before this instant of the database's clock was seen.
    pub data_timestamp: Timestamp,
}

impl Value {
    /// Which of two values of one entity is newer: the version, then how much was seen.
    pub(crate) fn age_order(&self) -> (i64, Option<Lsn>) {
        (self.version, self.covers)
    }
}

/// Where a remembered value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This server's memory.
    Memory,
    /// Redis.
    Redis,
}

impl Origin {
    /// The source's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Memory => "cache",
            Origin::Redis => "redis",
        }
    }
}

/// A value with what this server knows of the read that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) value: Value,
    /// Before it was asked for.
    pub(crate) began: Instant,
    /// How old it was then.
    pub(crate) lag: Duration,
    /// Which announcements of writes had been made by then.
    pub(crate) turn: u64,
    /// Whether the primary was asked, so that everything announced by then is in it.
    pub(crate) is_exact: bool,
}

impl Held {
    /// How old it is now.
    pub(crate) fn lag_at(&self, now: Instant) -> Duration {
        self.lag + now.saturating_duration_since(self.began)
    }
}
