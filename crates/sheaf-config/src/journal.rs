//! The settings of those who follow changes over HTTP: what is kept for them, and how many there may be.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::ConfigError;
use crate::reader::Reader;
use crate::settings::{between, count, filled, read_span};

/// Some million events. More lets those who were away for longer go on, and takes more of the disk.
const BYTES_MAX: i64 = 1 << 30;
const BYTES_LEAST: i64 = 16 << 20;
const BYTES_MOST: i64 = 1 << 40;
/// Programs of one tenant that follow side by side. Each reads the whole journal as it is written.
const OF_TENANT_MAX: i64 = 16;
/// Each takes a connection and some hundred kilobytes.
const RUNNING_MAX: i64 = 256;
const SUBSCRIPTIONS_MOST: i64 = 10_000;
/// Longer lets a client that has stopped hold its place; shorter cuts off those whose line is away for a moment. A connection
/// that takes nothing for a minute is reset, so that longer than a bit less than that would say what never happens.
const TAKEN_WITHIN: &str = "30s";
const TAKEN_WITHIN_LEAST: &str = "1s";
const TAKEN_WITHIN_MOST: &str = "50s";

/// What is kept for those who follow changes over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesJournal {
    /// The folder of the journal; absent where nobody can follow.
    pub dir: Option<PathBuf>,
    /// The bytes that it may take.
    pub bytes_max: u64,
    /// Subscriptions of one tenant at once.
    pub of_tenant_max: usize,
    /// Subscriptions of all tenants at once.
    pub running_max: usize,
    /// How long a client may take nothing of what waits for it.
    pub taken_within: Duration,
}

impl ChangesJournal {
    pub(crate) fn read(reader: &mut Reader) -> Result<ChangesJournal, ConfigError> {
        let dir = reader.optional("changes.journal", filled)?;
        let mut number = |key: &str, default, least, most| {
            reader.value(key, count(default), |text| between(text, least, most))
        };
        let bytes_max = number(
            "changes.journal_bytes_max",
            BYTES_MAX,
            BYTES_LEAST,
            BYTES_MOST,
        )?;
        Ok(ChangesJournal {
            dir: dir.map(PathBuf::from),
            bytes_max: u64::try_from(bytes_max).expect("a count"),
            of_tenant_max: number(
                "changes.subscriptions_of_tenant_max",
                OF_TENANT_MAX,
                1,
                SUBSCRIPTIONS_MOST,
            )?,
            running_max: number(
                "changes.subscriptions_max",
                RUNNING_MAX,
                1,
                SUBSCRIPTIONS_MOST,
            )?,
            taken_within: read_span(
                reader,
                "changes.taken_within",
                TAKEN_WITHIN,
                (TAKEN_WITHIN_LEAST, TAKEN_WITHIN_MOST),
            )?,
        })
    }
}
