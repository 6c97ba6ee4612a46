//! How the sources are, for people and metrics.

use std::time::Instant;

use sheaf_store::heartbeat::Part;

use super::breaker::Breaker;
use super::registry::Sources;
use super::view::{Heart, Seen};
use crate::consistency::{DataSource, Lag};

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Which.
    pub source: DataSource,
    /// Whether it answers, and is what it is taken for: a primary of the newest timeline, a replica of that one.
    pub is_up: bool,
    /// How far it is behind.
    pub lag: Lag,
    /// `closed`, `open` or `half-open`.
    pub breaker: &'static str,
    /// What else is known, for people.
    pub detail: String,
}

impl Sources {
    /// How each source is, the primary first.
    pub fn status(&self) -> Vec<SourceStatus> {
        let now = Instant::now();
        let (heart, newest) = (self.heart(), self.newest().get());
        let mut all = vec![primary(
            self.primary_seen(),
            self.primary_breaker(),
            heart,
            now,
        )];
        for replica in self.replicas().iter() {
            let known = (replica.seen(), replica.breaker());
            let source = DataSource::Replica(replica.name.clone());
            all.push(self.of_replica(source, known, heart, newest, now));
        }
        all
    }

    fn of_replica(
        &self,
        source: DataSource,
        (seen, breaker): (Option<Seen>, Breaker),
        heart: Heart,
        newest: Option<u32>,
        now: Instant,
    ) -> SourceStatus {
        let seen = seen.filter(|seen| !seen.is_lost(now));
        let beat = seen.as_ref().and_then(|seen| seen.look.beat);
        let lag = heart.lag(beat, now);
        let fault = match &seen {
            None => Some("does not answer"),
            Some(seen) if seen.look.system_id != self.settings.system_id => {
                Some("is of another cluster")
            }
            Some(seen) => match seen.look.part {
                Part::Primary { .. } => Some("is no replica, it takes writes"),
                Part::Standby { replayed: None } => Some("has replayed nothing"),
                Part::Standby { .. } if beat.is_none() => Some("shows no heartbeat"),
                Part::Standby { .. } if beat.map(|beat| beat.timeline) != newest => {
                    Some("is on another timeline than the primary")
                }
                Part::Standby { .. } if seen.is_stalled(heart) => Some("stands still"),
                Part::Standby { .. } => None,
            },
        };
        let detail = match (fault, lag) {
            (Some(fault), _) => fault.to_owned(),
            (None, Lag::Measured(_)) => format!("{lag} s behind"),
            (None, Lag::Unknown) => {
                "the heartbeat has stopped, how far it is behind is unknown".to_owned()
            }
        };
        SourceStatus {
            source,
            is_up: fault.is_none(),
            lag: if fault.is_some() { Lag::Unknown } else { lag },
            breaker: breaker.as_str(),
            detail,
        }
    }
}

fn primary(seen: Option<Seen>, breaker: Breaker, heart: Heart, now: Instant) -> SourceStatus {
    let is_up = seen.is_some_and(|seen| !seen.is_lost(now));
    let (lag, detail) = match (is_up, heart) {
        (false, _) => (Lag::Unknown, "does not answer as the primary"),
        (true, Heart::Beating(_)) => (Lag::Measured(std::time::Duration::ZERO), "answers"),
        (true, Heart::Stopped | Heart::Unknown) => (
            Lag::Measured(std::time::Duration::ZERO),
            "answers, and its heartbeat has stopped",
        ),
    };
    SourceStatus {
        source: DataSource::Primary,
        is_up,
        lag,
        breaker: breaker.as_str(),
        detail: detail.to_owned(),
    }
}
