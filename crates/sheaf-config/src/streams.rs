//! The settings of streams: how many there may be, and how long their pages may take.

use std::time::Duration;

use crate::error::ConfigError;
use crate::reader::Reader;
use crate::settings::{between, count, read_span};

/// What a program exports side by side. More let one tenant take more of the database's time from the others.
const OF_TENANT_MAX: i64 = 4;
/// Each holds a page of some megabytes while its client reads: sixteen are a few hundred at the worst.
const RUNNING_MAX: i64 = 16;
const STREAMS_MOST: i64 = 10_000;
/// Half of `database.search_connections` by default, so that whoever asks for one page never waits behind exports alone. More
/// make exports faster and everything else slower.
const READING_MAX: i64 = 4;
const READING_MOST: i64 = 1_000;
/// Three times what a statement may take, as a request may. Longer lets a slow page keep other streams waiting; shorter cuts
/// off streams of filters that are slow.
const PAGE_DEADLINE: &str = "30s";
const PAGE_DEADLINE_LEAST: &str = "1s";
const PAGE_DEADLINE_MOST: &str = "10m";

/// Streams: answers that are all pages of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Of one tenant at once.
    pub of_tenant_max: usize,
    /// Of all tenants at once.
    pub running_max: usize,
    /// Pages that they read at once, of which one tenant reads at most half.
    pub reading_max: usize,
    /// How long a page may take once it is its turn.
    pub page_deadline: Duration,
}

impl Streams {
    pub(crate) fn read(reader: &mut Reader) -> Result<Streams, ConfigError> {
        let mut number = |key: &str, default, most| {
            reader.value(key, count(default), |text| between(text, 1, most))
        };
        Ok(Streams {
            of_tenant_max: number("streams.of_tenant_max", OF_TENANT_MAX, STREAMS_MOST)?,
            running_max: number("streams.running_max", RUNNING_MAX, STREAMS_MOST)?,
            reading_max: number("streams.reading_max", READING_MAX, READING_MOST)?,
            page_deadline: read_span(
                reader,
                "streams.page_deadline",
                PAGE_DEADLINE,
                (PAGE_DEADLINE_LEAST, PAGE_DEADLINE_MOST),
            )?,
        })
    }
}
