//! The settings of the staged mode.

use std::fmt;
use std::time::Duration;

use crate::error::{ConfigError, ValueFault};
use crate::reader::Reader;
use crate::settings::{between, count, read_span};

/// The time whose staged events a crash takes. Ten flushes: shorter refuses requests for a moment's delay, longer loses
/// more.
const STAGING_AGE_MAX: &str = "1s";
const STAGING_AGE_LEAST: &str = "100ms";
const STAGING_AGE_MOST: &str = "1h";
/// One keeps up with one or two clients; a flush takes half a second of processor time for 10,000 events, so that more than
/// half of the processors leave nothing for lanes and reads.
const STAGING_FLUSHERS: i64 = 2;
const STAGING_FLUSHERS_MAX: i64 = 64;
/// Each flush costs a transaction whatever is in it: shorter makes more of them, longer makes events readable later.
const STAGING_FLUSH_EVERY: &str = "100ms";
const STAGING_FLUSH_EVERY_LEAST: &str = "10ms";
const STAGING_FLUSH_EVERY_MOST: &str = "1m";

/// The staged mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staging {
    /// How long the oldest staged batch may wait before no more are staged.
    pub age_max: Duration,
    /// What becomes of them then.
    pub policy: StagingPolicy,
    /// How many workers flush side by side.
    pub flushers: usize,
    /// How long batches gather before a flush.
    pub flush_every: Duration,
}

/// What becomes of requests that are to be staged while the flushes are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagingPolicy {
    /// They are refused.
    Refuse,
    /// They are stored durably.
    Durable,
}

impl Staging {
    pub(crate) fn read(reader: &mut Reader) -> Result<Staging, ConfigError> {
        Ok(Staging {
            age_max: read_span(
                reader,
                "staging.age_max",
                STAGING_AGE_MAX,
                (STAGING_AGE_LEAST, STAGING_AGE_MOST),
            )?,
            policy: reader.value("staging.policy", StagingPolicy::Refuse, policy)?,
            flushers: reader.value("staging.flushers", count(STAGING_FLUSHERS), |text| {
                between(text, 1, STAGING_FLUSHERS_MAX)
            })?,
            flush_every: read_span(
                reader,
                "staging.flush_every",
                STAGING_FLUSH_EVERY,
                (STAGING_FLUSH_EVERY_LEAST, STAGING_FLUSH_EVERY_MOST),
            )?,
        })
    }
}

fn policy(text: &str) -> Result<StagingPolicy, ValueFault> {
    match text {
        "refuse" => Ok(StagingPolicy::Refuse),
        "durable" => Ok(StagingPolicy::Durable),
        _ => Err(ValueFault::Word("refuse, durable")),
    }
}

impl fmt::Display for StagingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StagingPolicy::Refuse => "refuse",
            StagingPolicy::Durable => "durable",
        })
    }
}
