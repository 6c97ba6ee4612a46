//! A read as it is asked and answered: an entity by name, what a source says of it, and what is said to the reader.

use std::time::Duration;

use bytes::Bytes;
use sheaf_model::{EntityId, Lsn, Position, TenantId, Timestamp};

use crate::sampler::Sample;
use crate::value::{Origin, Value};

/// An entity by name.
#[derive(Debug, Clone, Copy)]
pub struct EntityName<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type, in its canonical spelling.
    pub entity_type: &'a str,
    /// Its id within the type, in its canonical spelling.
    pub external_id: &'a str,
}

/// What a source was found to say of an entity.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whether the primary said it: what was acknowledged before it was asked is then in it.
    pub is_primary: bool,
    /// The entity; none where the name has no number.
    pub entity: Option<EntityId>,
    /// The version of its document; 0 where there never was one.
    pub version: i64,
    /// The answer; none where it is not found.
    pub body: Option<Bytes>,
    /// A position that covers everything that was seen.
    pub position: Position,
    /// What the source had reached before its snapshot was taken: every commit whose token is below was seen. None where
    /// that is unknown.
    pub covers: Option<Lsn>,
    /// How far the source was behind when it was asked; none where that is unknown.
    pub lag: Option<Duration>,
    /// Everything committed before this was seen.
    pub data_timestamp: Timestamp,
}

/// An answer from memory.
#[derive(Debug)]
pub struct Answer {
    /// What it says, and how fresh that is.
    pub value: Value,
    /// Which memory.
    pub origin: Origin,
    /// How old it is.
    pub lag: Duration,
    /// There where the answer is to be compared with the primary.
    pub sample: Option<Sample>,
}

/// How a read was answered.
#[derive(Debug)]
pub enum Reading<T> {
    /// From memory.
    Remembered(Box<Answer>),
    /// By asking a source.
    Asked {
        /// What it said.
        answer: T,
        /// What a token of the answer stands for: everything that it shows, and the token that the read came with.
        position: Position,
    },
}
