//! Why a read is not answered. Not found is no error: it is an answer that holds nothing.

use sheaf_model::AttributeId;
use sheaf_pg::{Disposition, PgError};
use sheaf_store::stored::StoredFault;

use crate::archive::ArchiveError;
use crate::filter::FilterError;

/// A read that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The filter cannot be answered.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A name that the tenant's catalogue does not have.
    #[error("unknown attribute {name:?}")]
    UnknownAttribute {
        /// The parameter that names it.
        parameter: &'static str,
        /// The name.
        name: String,
    },
    /// A parameter whose value cannot be served.
    #[error("{parameter}: {detail}")]
    InvalidParameter {
        /// Which.
        parameter: &'static str,
        /// What is wrong, in a safe sentence.
        detail: String,
    },
    /// An aggregate that an attribute's type does not have.
    #[error("{detail}")]
    InvalidAggregate {
        /// Which, and what the type has.
        detail: String,
    },
    /// A cursor that is none of ours, is over an hour old, or belongs to another tenant or query.
    #[error("the cursor is invalid, expired, or of another query")]
    InvalidCursor,
    /// A token of another database.
    #[error("the consistency token is not of this database")]
    InvalidToken,
    /// A token of a timeline that a failover has ended, so that what it stands for may be gone.
    #[error("the consistency token is of a timeline before the last failover")]
    StaleTimeline,
    /// A token of a later timeline than any that a source has shown.
    #[error(
        "the consistency token is of a timeline that this database is not on: of a promotion that was undone, or that this server has not seen yet"
    )]
    LaterTimeline,
    /// A token of a position that no source has reached that can be asked.
    #[error("no source has reached the position of the consistency token")]
    TokenNotReached {
        /// What was wrong with the primary, where something was.
        #[source]
        source: Option<PgError>,
    },
    /// No source that can be asked is as fresh as the request wants it.
    #[error("no source is within the lag that the request allows")]
    LagExceeded {
        /// What was wrong with the primary, where something was.
        #[source]
        source: Option<PgError>,
    },
    /// The primary reads as much in place of replicas as it may.
    #[error("the primary answers as many reads in place of replicas as it may")]
    PrimaryCrowded,
    /// A replica turned out not to fit while it was read; another source is asked then.
    #[error("the replica {replica} does not fit: {why}")]
    Unfit {
        /// Which.
        replica: std::sync::Arc<str>,
        /// Why not.
        why: &'static str,
    },
    /// The query ran into its time limit or another bound.
    #[error("the query needs more than its limit: {detail}")]
    QueryLimit {
        /// Which bound, and the way out.
        detail: &'static str,
        /// What PostgreSQL said, where it did.
        #[source]
        source: Option<PgError>,
    },
    /// The query would read without bound.
    #[error("{detail}")]
    Unbounded {
        /// What would be read, in a safe sentence.
        detail: String,
        /// The way out.
        hint: String,
    },
    /// The catalogue changed under the read more often than it was tried again.
    #[error("the attribute catalogue changed while it was read")]
    CatalogueChanged,
    /// The catalogue that was read with lacks an attribute that is named by number in what was read.
    #[error("the catalogue lacks attribute {0}")]
    MissingAttribute(AttributeId),
    /// History that is in the archive could not be read there.
    #[error("a part of this history is in the archive, which cannot be read now")]
    Archive(#[source] ArchiveError),
    /// PostgreSQL failed, or the way to it.
    #[error(transparent)]
    Postgres(PgError),
}

impl ReadError {
    /// The code that clients get.
    pub fn code(&self) -> &'static str {
        match self {
            ReadError::Filter(error) => error.code(),
            ReadError::UnknownAttribute { .. } => "unknown_attribute",
            ReadError::InvalidParameter { .. } => "invalid_parameter",
            ReadError::InvalidAggregate { .. } => "invalid_aggregate",
            ReadError::InvalidCursor => "invalid_cursor",
            ReadError::InvalidToken => "invalid_token",
            ReadError::StaleTimeline | ReadError::LaterTimeline => "stale_timeline",
            ReadError::TokenNotReached { .. } => "token_not_reached",
            ReadError::LagExceeded { .. } => "lag_exceeded",
            ReadError::PrimaryCrowded => "overloaded",
            // Another source is asked first, and the primary never is unfit.
            ReadError::Unfit { .. } => "internal",
            ReadError::QueryLimit { .. } => "query_limit",
            ReadError::Unbounded { .. } => "unbounded_query",
            ReadError::CatalogueChanged => "overloaded",
            // Where only a newer catalogue was needed, the read was tried again with it.
            ReadError::MissingAttribute(_) => "internal",
            ReadError::Archive(error) => match error {
                // Looked at anew, the state was not there either.
                ArchiveError::Unavailable { .. } | ArchiveError::Superseded { .. } => {
                    "archive_unavailable"
                }
                ArchiveError::Damaged { .. } => "internal",
                ArchiveError::Limit { .. } => "query_limit",
            },
            ReadError::Postgres(error) => match error.disposition() {
                Disposition::Unavailable => "database_unavailable",
                Disposition::Retry => "overloaded",
                Disposition::StorageFull => "storage_full",
                Disposition::TimedOut => "query_limit",
                Disposition::Conflict | Disposition::Stop => "internal",
            },
        }
    }

    /// Whether the same read may be answered later although nobody changes it.
    pub fn passes_by_itself(&self) -> bool {
        match self {
            ReadError::TokenNotReached { .. }
            | ReadError::LagExceeded { .. }
            | ReadError::PrimaryCrowded
            | ReadError::Unfit { .. }
            | ReadError::QueryLimit { .. }
            | ReadError::CatalogueChanged => true,
            ReadError::Archive(error) => !matches!(error, ArchiveError::Damaged { .. }),
            ReadError::Postgres(error) => match error.disposition() {
                Disposition::Unavailable
                | Disposition::Retry
                | Disposition::StorageFull
                | Disposition::TimedOut => true,
                Disposition::Conflict | Disposition::Stop => false,
            },
            ReadError::Filter(_)
            | ReadError::UnknownAttribute { .. }
            | ReadError::InvalidParameter { .. }
            | ReadError::InvalidAggregate { .. }
            | ReadError::InvalidCursor
            | ReadError::InvalidToken
            | ReadError::StaleTimeline
            | ReadError::LaterTimeline
            | ReadError::Unbounded { .. }
            | ReadError::MissingAttribute(_) => false,
        }
    }

    pub(crate) fn parameter(parameter: &'static str, detail: impl Into<String>) -> ReadError {
        ReadError::InvalidParameter {
            parameter,
            detail: detail.into(),
        }
    }
}

impl From<PgError> for ReadError {
    fn from(error: PgError) -> ReadError {
        match error.disposition() {
            Disposition::TimedOut => ReadError::QueryLimit {
                detail: "time; narrow the filter, the range or the page",
                source: Some(error),
            },
            Disposition::Unavailable
            | Disposition::Retry
            | Disposition::StorageFull
            | Disposition::Conflict
            | Disposition::Stop => ReadError::Postgres(error),
        }
    }
}

impl From<StoredFault> for ReadError {
    fn from(fault: StoredFault) -> ReadError {
        match fault {
            StoredFault::UnknownAttribute(id) => ReadError::MissingAttribute(id),
            StoredFault::Broken(error) => error.into(),
        }
    }
}
