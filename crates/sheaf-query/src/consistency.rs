//! Consistency levels, and the pure decision whether a source may answer.
//!
//! The primary is the only source. It is never behind itself, so that it satisfies every level and every `max_lag`;
//! what it can fail to satisfy is a token of a history that it does not have.

use sheaf_model::{Duration, Position, Timestamp};
use sheaf_store::snapshot::Snapshot;

use crate::error::ReadError;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsistencyLevel {
    /// Everything that was acknowledged before the read began.
    Strong,
    /// At least everything that the token stands for.
    Session,
    /// A few seconds behind at most.
    Eventual,
    /// Some minutes behind at most.
    Analytics,
}

impl ConsistencyLevel {
    const ALL: [ConsistencyLevel; 4] = [
        ConsistencyLevel::Strong,
        ConsistencyLevel::Session,
        ConsistencyLevel::Eventual,
        ConsistencyLevel::Analytics,
    ];

    /// The level's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            ConsistencyLevel::Strong => "strong",
            ConsistencyLevel::Session => "session",
            ConsistencyLevel::Eventual => "eventual",
            ConsistencyLevel::Analytics => "analytics",
        }
    }

    /// The level with this name.
    pub fn parse(text: &str) -> Option<ConsistencyLevel> {
        ConsistencyLevel::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
    }
}

/// What a request asks of the freshness of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// The level.
    pub level: ConsistencyLevel,
    /// A bound on the lag beside the level's own.
    pub max_lag: Option<Duration>,
    /// What the client has seen already.
    pub token: Option<Position>,
    /// The wall clock's time, by which cursors expire.
    pub now: Timestamp,
}

impl ReadOptions {
    /// The default: `strong`, or `session` when a token was sent.
    pub fn new(token: Option<Position>, now: Timestamp) -> ReadOptions {
        let level = match token {
            Some(_) => ConsistencyLevel::Session,
            None => ConsistencyLevel::Strong,
        };
        ReadOptions {
            level,
            max_lag: None,
            token,
            now,
        }
    }
}

/// Where an answer came from and how old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Which source answered.
    pub source: &'static str,
    /// How far the source was behind; zero for the primary's own current state.
    pub lag: std::time::Duration,
    /// Everything committed before this instant of the database's clock is in the answer.
    pub data_timestamp: Timestamp,
    /// The level served.
    pub level: ConsistencyLevel,
    /// Whether a cache answered.
    pub cache_hit: bool,
    /// The position that a token of this answer stands for.
    pub position: Position,
}

impl Freshness {
    /// The freshness of what was read from this snapshot of the primary, if that satisfies the request.
    pub fn of_primary(snapshot: &Snapshot, options: &ReadOptions) -> Result<Freshness, ReadError> {
        Ok(Freshness {
            source: "primary",
            lag: std::time::Duration::ZERO,
            data_timestamp: snapshot.complete_until,
            level: decide(options.level, options.token, snapshot.position)?,
            cache_hit: false,
            position: snapshot.position,
        })
    }
}

/// Whether the primary, at this position, may answer; and the level that is then served.
///
/// The level served is the one asked for, because its guarantee is what the answer was held to; the source says that
/// it is in fact fresher. A token is honoured at every level.
fn decide(
    level: ConsistencyLevel,
    token: Option<Position>,
    primary: Position,
) -> Result<ConsistencyLevel, ReadError> {
    let Some(token) = token else {
        return Ok(level);
    };
    if token.system_id != primary.system_id {
        return Err(ReadError::InvalidToken);
    }
    if token.timeline < primary.timeline {
        return Err(ReadError::StaleTimeline);
    }
    // A later timeline than the primary's: the primary is one that a failover left behind.
    if token.timeline > primary.timeline || token.lsn > primary.lsn {
        return Err(ReadError::TokenNotReached);
    }
    Ok(level)
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;

    #[test]
    fn the_primary_answers_every_level_and_refuses_a_token_that_it_cannot_honour() {
        let at = |system_id, timeline, lsn| Position {
            system_id,
            timeline,
            lsn: Lsn(lsn),
        };
        let primary = at(7, 3, 100);
        let table = [
            (None, Ok(())),
            (Some(at(7, 3, 99)), Ok(())),
            (Some(at(7, 3, 100)), Ok(())),
            (Some(at(7, 3, 101)), Err("token_not_reached")),
            (Some(at(7, 4, 1)), Err("token_not_reached")),
            (Some(at(7, 2, 1)), Err("stale_timeline")),
            (Some(at(7, 2, 101)), Err("stale_timeline")),
            (Some(at(8, 3, 1)), Err("invalid_token")),
            (Some(at(8, 2, 101)), Err("invalid_token")),
        ];
        for level in ConsistencyLevel::ALL {
            assert_eq!(ConsistencyLevel::parse(level.as_str()), Some(level));
            for (token, expected) in table {
                let decided = decide(level, token, primary);
                let expected = expected.map(|()| level);
                assert_eq!(
                    decided.map_err(|error| error.code()),
                    expected,
                    "{level:?} with {token:?}"
                );
            }
        }
    }
}
