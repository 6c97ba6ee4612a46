//! The archive: where history is that PostgreSQL holds no more, and where questions are asked that are too large for it.
//!
//! What it is and how it is read, whoever implements [`Archive`] knows. Events before the boundary of the database are read from it
//! and joined with those that are still here; at level `analytics` all of a history is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration as Span;

use sheaf_model::{Document, EntityId, Position, Timestamp};
use sheaf_store::TenantScope;
use sheaf_store::history::{EventsAsked, EventsRead};

use crate::consistency::{DataSource, Freshness, Lag, ReadOptions};
use crate::error::ReadError;

/// How long a token is waited for. The archive is some seconds behind, and an idle one is moved on every ten.
pub(crate) const TOKEN_WAIT_MAX: Span = Span::from_secs(15);

/// What an archive gives, once it does.
pub type ArchiveFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ArchiveError>> + Send + 'a>>;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read, or this server has none.
    #[error("the archive cannot be read")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is needed of it is damaged, and stays so until somebody puts it back.
    #[error("what is needed of the archive is damaged")]
    Damaged {
        /// What, and where.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state that was looked at is not kept any more.
    #[error("the state of the archive that the read began with is not kept any more")]
    Superseded {
        /// What is gone.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was asked for takes more than it may.
    #[error("the archive would need more than it may have")]
    Limit {
        /// What.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An archive.
pub trait Archive: fmt::Debug + Send + Sync {
    /// The archive as it is now; where a token is given, once it covers that, or as it is after so long.
    fn look(&self, token: Option<Position>, at_most: Span) -> ArchiveFuture<'_, Arc<dyn Archived>>;
}

/// An archive as of one moment.
pub trait Archived: fmt::Debug + Send + Sync {
    /// How far it is.
    fn standing(&self) -> ArchiveStanding;

    /// Events of some entities.
    fn events<'a>(
        &'a self,
        scope: &'a TenantScope,
        asked: EventsAsked,
    ) -> ArchiveFuture<'a, EventsRead>;

    /// The last keyframe of an entity that says what its events before some instant come to, that instant being no later than this.
    fn keyframe<'a>(
        &'a self,
        scope: &'a TenantScope,
        entity: EntityId,
        until: Timestamp,
    ) -> ArchiveFuture<'a, Option<Keyframe>>;
}

/// What the events of an entity before an instant come to, but for some that arrived late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyframe {
    /// The instant.
    pub at: Timestamp,
    /// What they come to.
    pub document: Document,
}

/// How far an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveStanding {
    /// A position that it covers.
    pub position: Position,
    /// Everything that was committed before this instant of the database's clock is there; absent where nobody can say.
    pub complete_until: Option<Timestamp>,
    /// How far it is behind the database's clock; absent where nobody can say.
    pub lag: Option<Span>,
    /// Whether it covers the token that was asked for.
    pub covers_token: bool,
}

impl ArchiveStanding {
    /// The freshness of what is read from it alone, where that satisfies the request.
    pub(crate) fn freshness(&self, options: &ReadOptions) -> Option<Freshness> {
        let lag = self.lag.filter(|_| self.covers_token)?;
        let is_within = options.lag_max().is_none_or(|max| lag <= max);
        let data_timestamp = self.complete_until.filter(|_| is_within)?;
        Some(Freshness {
            source: DataSource::Lake,
            lag: Lag::Measured(lag),
            data_timestamp,
            level: options.level,
            cache_hit: false,
            position: self.position,
        })
    }
}

/// There is no archive here, and there is history that is nowhere else.
#[derive(Debug, thiserror::Error)]
#[error("this server is configured without the lake that history was archived to")]
struct NoArchive;

impl ArchiveError {
    pub(crate) fn none() -> ArchiveError {
        ArchiveError::Unavailable {
            source: Box::new(NoArchive),
        }
    }
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> ReadError {
        ReadError::Archive(error)
    }
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;
    use crate::consistency::ConsistencyLevel;

    #[test]
    fn an_archive_answers_alone_where_it_is_known_to_be_fresh_enough_and_to_cover_the_token() {
        let position = Position {
            system_id: 7,
            timeline: 1,
            lsn: Lsn(9),
        };
        let standing = |lag, covers_token| ArchiveStanding {
            position,
            complete_until: Some(Timestamp::MIN),
            lag,
            covers_token,
        };
        let seconds = |seconds| Some(Span::from_secs(seconds));
        let mut options = ReadOptions::new(None, Timestamp::MIN);
        options.level = ConsistencyLevel::Analytics;
        for (standing, asked, answers) in [
            (standing(seconds(300), true), None, true),
            (standing(seconds(301), true), None, false),
            (standing(seconds(301), true), Some("1h"), true),
            (standing(seconds(5), true), Some("4s"), false),
            (standing(seconds(5), false), None, false),
            (standing(None, true), Some("1h"), false),
        ] {
            options.max_lag = asked.map(|text| text.parse().expect("a span"));
            let freshness = standing.freshness(&options);
            assert_eq!(freshness.is_some(), answers, "{standing:?}, {asked:?}");
            let freshness = freshness.map(|freshness| freshness.position);
            assert_eq!(freshness, answers.then_some(position));
        }
    }
}
