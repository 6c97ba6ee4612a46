//! What callers ask of the write path, and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use sheaf_model::{BatchId, Op, Position, Timestamp};
use sheaf_pg::{Disposition, FenceError, PgError};
use sheaf_store::ledger::{Counts, Outcome};
use sheaf_store::rejections::ListedRejection;

use crate::decode::{BodyFault, Precision};

/// What an answer promises of what it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// On the primary's disk.
    #[default]
    Durable,
    /// On the disk of a synchronous standby too.
    Replicated,
    /// Received, and lost if PostgreSQL ends before it is flushed.
    Staged,
}

impl Ack {
    /// The level's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Ack::Durable => "durable",
            Ack::Replicated => "replicated",
            Ack::Staged => "staged",
        }
    }
}

/// What one bad value means for the rest of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It is refused alone.
    #[default]
    Partial,
    /// Nothing of the request is stored.
    Reject,
}

/// How a body is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyFormat {
    /// A JSON array of events.
    JsonArray,
    /// One JSON event a line.
    Ndjson,
    /// InfluxDB line protocol.
    LineProtocol {
        /// The unit of its timestamps.
        precision: Precision,
        /// The tags that make ids, where the request says so; else the tenant's rules hold.
        id_tags: Option<Vec<String>>,
    },
}

/// A request to store events.
#[derive(Debug, Clone)]
pub struct IngestRequest {
    /// The decompressed body.
    pub body: Bytes,
    /// How to read it.
    pub format: BodyFormat,
    /// What the answer must promise.
    pub ack: Ack,
    /// What a bad value means for the rest.
    pub on_error: OnError,
    /// The client's name for the request, by which a retry finds the first answer.
    pub idempotency_key: Option<String>,
    /// When it arrived.
    pub received_at: Timestamp,
}

/// What became of a request to store events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestAnswer {
    /// The request's number.
    pub batch: BatchId,
    /// What is promised.
    pub ack: String,
    /// What became of it as a whole.
    pub outcome: Outcome,
    /// Events in the request.
    pub events: i64,
    /// What they came to. Of a staged request only `values` and `refused` are known: what was staged, and what was not.
    pub counts: Counts,
    /// The first hundred refusals, in order of event.
    pub rejected: Vec<ListedRejection>,
    /// For line protocol, the first bad line as it was sent, cut to 64 bytes for quoting.
    pub first_bad_line: Option<String>,
    /// How many events had anything refused.
    pub bad_events: i64,
    /// A position of the write history that has all of it; absent for a staged request, whose flush has none yet.
    pub position: Option<Position>,
    /// Whether this is the first answer once more.
    pub replayed: bool,
    /// Values that this call itself has stored, and events that it has refused: what its sender is charged. A retry that
    /// is answered with the first answer has written what was missing.
    pub written: i64,
}

/// What must hold for an edit to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The document has this version.
    Version(i64),
    /// The entity does not exist.
    Absent,
}

/// A change of one entity: PATCH, PUT or DELETE.
#[derive(Debug, Clone)]
pub struct EditRequest {
    /// The entity's type, as sent.
    pub entity_type: String,
    /// The entity's id, as sent.
    pub external_id: String,
    /// Patch, replace or delete.
    pub op: Op,
    /// The body; empty for a delete.
    pub body: Bytes,
    /// For a delete, when it was observed.
    pub observed_at: Option<Timestamp>,
    /// What must hold.
    pub precondition: Option<Precondition>,
    /// What the answer must promise.
    pub ack: Ack,
    /// When it arrived.
    pub received_at: Timestamp,
}

/// What an edit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditAnswer {
    /// Whether the entity did not exist before.
    pub created: bool,
    /// The type in normal form.
    pub entity_type: String,
    /// The id in normal form.
    pub external_id: String,
    /// The version of the document now.
    pub version: i64,
    /// The instant of the edit.
    pub observed_at: Timestamp,
    /// Names of attributes whose values are in history only, because the document holds newer ones.
    pub superseded: Vec<String>,
    /// A position of the write history that has it.
    pub position: Position,
}

/// One fault of an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditFault {
    /// `attributes.seats`, `observed_at`, `type` or `id`.
    pub parameter: String,
    /// The code of the refusal.
    pub code: sheaf_model::RefusalCode,
    /// The reason, for people.
    pub reason: String,
}

/// Why a write was not made. Nothing of it was stored, except where a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The body as a whole cannot be read.
    #[error("reading the body")]
    Body(#[from] BodyFault),
    /// Values of an edit are bad.
    #[error("the edit has bad values")]
    Edit(Vec<EditFault>),
    /// What had to hold did not.
    #[error("the document is not as the request demands")]
    Precondition,
    /// There is no such entity to delete.
    #[error("there is no such entity")]
    NotFound,
    /// The key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The first request with this key is still running.
    #[error("a request with the same idempotency key is still running")]
    InProgress,
    /// The queue is full.
    #[error("the write queue is full")]
    Overloaded,
    /// The database has begun another lineage again and again while the request was read for the one before.
    #[error("the database continues another history than the one that the request was read for")]
    OtherLineage,
    /// The writer has stopped.
    #[error("the writer has stopped")]
    Stopped,
    /// It was to be replicated, and the primary has no synchronous standby.
    #[error("no synchronous standby is configured")]
    NoStandby,
    /// It was to be staged, and this server does not stage.
    #[error("this server does not stage")]
    NoStaging,
    /// It is stored on the primary, but not known to be replicated as it was to be. The same again waits again.
    #[error("waiting for a standby to have what was stored")]
    NotReplicated(#[from] FenceError),
    /// PostgreSQL failed; if it did at the commit, the outcome is unknown, and a retry with the same key finds it.
    #[error("writing to postgresql")]
    Postgres(#[source] Arc<PgError>),
}

impl From<PgError> for WriteError {
    fn from(error: PgError) -> WriteError {
        WriteError::Postgres(Arc::new(error))
    }
}

impl WriteError {
    /// The same error for another request of the group that it ended.
    pub(crate) fn for_another(&self) -> WriteError {
        match self {
            WriteError::Postgres(error) => WriteError::Postgres(Arc::clone(error)),
            WriteError::Stopped => WriteError::Stopped,
            // Only PostgreSQL and the lane itself end groups of several; a part's own fault ends that part.
            _ => WriteError::Overloaded,
        }
    }

    /// Whether it may be one part's doing that a group of them ended so, and the others succeed without it. A database that
    /// is away, or a lane that cannot go on, ends each alike.
    pub(crate) fn may_be_of_one_part(&self) -> bool {
        match self {
            WriteError::Postgres(error) => match error.disposition() {
                Disposition::StorageFull
                | Disposition::TimedOut
                | Disposition::Conflict
                | Disposition::Stop => true,
                Disposition::Unavailable | Disposition::Retry => false,
            },
            WriteError::Body(_)
            | WriteError::Edit(_)
            | WriteError::Precondition
            | WriteError::NotFound
            | WriteError::KeyReused
            | WriteError::OtherLineage => true,
            WriteError::InProgress
            | WriteError::Overloaded
            | WriteError::Stopped
            | WriteError::NoStandby
            | WriteError::NoStaging
            | WriteError::NotReplicated(_) => false,
        }
    }
}
