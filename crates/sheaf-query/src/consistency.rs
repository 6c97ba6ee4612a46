//! Consistency levels: what a request asks of the freshness of its answer, and what an answer says of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration as Span;

use sheaf_model::{Duration, Position, Timestamp};
use sheaf_store::snapshot::Snapshot;

use crate::error::ReadError;

/// How old an `eventual` answer may be where the request does not say: what a person who has just changed something
/// and looks again would put down to a slow page.
const EVENTUAL_LAG_MAX: Span = Span::from_secs(3);
/// How old an `analytics` answer may be where the request does not say: figures over days do not change by minutes.
const ANALYTICS_LAG_MAX: Span = Span::from_secs(300);

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
    /// Every level, strictest first.
    pub const ALL: [ConsistencyLevel; 4] = [
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

    /// Whether anybody but the primary may answer, whose answer is held to the lag and the token. A session that names no
    /// position may have written anything, and only the primary has that for certain.
    pub(crate) fn may_be_behind(self, has_token: bool) -> bool {
        match self {
            ConsistencyLevel::Strong => false,
            ConsistencyLevel::Session => has_token,
            ConsistencyLevel::Eventual | ConsistencyLevel::Analytics => true,
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
    /// A bound on the lag, in place of the level's own.
    pub max_lag: Option<Duration>,
    /// What the client has seen already. Honoured at every level.
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

    /// How old the answer of a source that is behind may be; absent where nothing bounds it.
    pub fn lag_max(&self) -> Option<Span> {
        let asked = self.max_lag.map(|span| {
            let micros = u64::try_from(span.as_micros()).expect("invariant: spans are above zero");
            Span::from_micros(micros)
        });
        match self.level {
            ConsistencyLevel::Strong => Some(Span::ZERO),
            ConsistencyLevel::Session => asked,
            ConsistencyLevel::Eventual => Some(asked.unwrap_or(EVENTUAL_LAG_MAX)),
            ConsistencyLevel::Analytics => Some(asked.unwrap_or(ANALYTICS_LAG_MAX)),
        }
    }
}

/// Which source answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// The primary.
    Primary,
    /// The replica with this name.
    Replica(Arc<str>),
    /// The cache in this process.
    Cache,
    /// The cache that servers share.
    Redis,
    /// The lake.
    Lake,
    /// Another source, and the lake for what is before the boundary of the history or the history alone.
    WithLake(Arc<DataSource>),
}

/// As `X-Data-Source` has it.
impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataSource::Primary => f.write_str("primary"),
            DataSource::Replica(name) => write!(f, "replica:{name}"),
            DataSource::Cache => f.write_str("cache"),
            DataSource::Redis => f.write_str("redis"),
            DataSource::Lake => f.write_str("lake"),
            DataSource::WithLake(other) => write!(f, "{other},lake"),
        }
    }
}

/// How far a source was behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// At most so far; zero for the primary's own current state.
    Measured(Span),
    /// Nobody can say: it is not a small one.
    Unknown,
}

/// As `X-Data-Lag-Seconds` has it.
impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lag::Measured(span) => write!(f, "{:.3}", span.as_secs_f64()),
            Lag::Unknown => f.write_str("unknown"),
        }
    }
}

/// Where an answer came from and how old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Which source answered.
    pub source: DataSource,
    /// How far the source was behind.
    pub lag: Lag,
    /// Everything committed before this instant of the database's clock is in the answer.
    pub data_timestamp: Timestamp,
    /// The level served. It is the one asked for, because its guarantee is what the answer was held to; the source and
    /// the lag say where it is in fact fresher.
    pub level: ConsistencyLevel,
    /// Whether a cache answered.
    pub cache_hit: bool,
    /// The position that a token of this answer stands for.
    pub position: Position,
}

impl Freshness {
    /// The freshness of what was read from this snapshot of the primary, if that satisfies the request.
    pub(crate) fn of_primary(
        snapshot: &Snapshot,
        options: &ReadOptions,
    ) -> Result<Freshness, ReadError> {
        judge_primary(options.token, snapshot.position)?;
        Ok(Freshness {
            source: DataSource::Primary,
            lag: Lag::Measured(Span::ZERO),
            data_timestamp: snapshot.complete_until,
            level: options.level,
            cache_hit: false,
            position: snapshot.position,
        })
    }
}

/// Whether the primary, at this position, may answer. It is never behind itself, so that it satisfies every level and every
/// bound; what it can fail to satisfy is a token of a history that it does not have.
fn judge_primary(token: Option<Position>, primary: Position) -> Result<(), ReadError> {
    let Some(token) = token else {
        return Ok(());
    };
    if token.system_id != primary.system_id {
        return Err(ReadError::InvalidToken);
    }
    if token.timeline < primary.timeline {
        return Err(ReadError::StaleTimeline);
    }
    // Of a promotion that was undone, or that no source has shown to this server. Either way the primary cannot have it.
    if token.timeline > primary.timeline {
        return Err(ReadError::LaterTimeline);
    }
    if token.lsn > primary.lsn {
        return Err(ReadError::TokenNotReached { source: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sheaf_model::Lsn;

    use super::*;

    #[test]
    fn the_primary_refuses_a_token_that_it_cannot_honour_and_nothing_else() {
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
            (Some(at(7, 4, 1)), Err("stale_timeline")),
            (Some(at(7, 4, 101)), Err("stale_timeline")),
            (Some(at(7, 2, 1)), Err("stale_timeline")),
            (Some(at(7, 2, 101)), Err("stale_timeline")),
            (Some(at(8, 3, 1)), Err("invalid_token")),
            (Some(at(8, 2, 101)), Err("invalid_token")),
        ];
        for (token, expected) in table {
            let judged = judge_primary(token, primary).map_err(|error| error.code());
            assert_eq!(judged, expected, "{token:?}");
        }
    }

    #[test]
    fn each_level_has_its_bound_and_a_request_may_give_another() {
        let seconds = |seconds| Some(Span::from_secs(seconds));
        for (level, asked, bound) in [
            (ConsistencyLevel::Strong, None, seconds(0)),
            (ConsistencyLevel::Strong, Some("1h"), seconds(0)),
            (ConsistencyLevel::Session, None, None),
            (ConsistencyLevel::Session, Some("2s"), seconds(2)),
            (ConsistencyLevel::Eventual, None, seconds(3)),
            (ConsistencyLevel::Eventual, Some("1m"), seconds(60)),
            (ConsistencyLevel::Analytics, None, seconds(300)),
            (ConsistencyLevel::Analytics, Some("1s"), seconds(1)),
        ] {
            let mut options = ReadOptions::new(None, Timestamp::MIN);
            options.level = level;
            options.max_lag = asked.map(|text| text.parse().expect("a span"));
            assert_eq!(options.lag_max(), bound, "{level:?} with {asked:?}");
            assert_eq!(ConsistencyLevel::parse(level.as_str()), Some(level));
        }
        assert_eq!(ConsistencyLevel::parse("total"), None);
    }

    #[test]
    fn what_is_unknown_is_not_zero() {
        assert_eq!(Lag::Unknown.to_string(), "unknown");
        assert_eq!(Lag::Measured(Span::ZERO).to_string(), "0.000");
        assert_eq!(
            Lag::Measured(Span::from_micros(12_400)).to_string(),
            "0.012"
        );
        let replica = DataSource::Replica("west".into());
        assert_eq!(replica.to_string(), "replica:west");
        let both = DataSource::WithLake(Arc::new(replica));
        assert_eq!(both.to_string(), "replica:west,lake");
    }
}
