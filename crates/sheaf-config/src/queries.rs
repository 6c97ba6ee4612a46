//! The settings of questions over the lake: what they may take.

use std::time::Duration;

use crate::error::ConfigError;
use crate::reader::Reader;
use crate::settings::{between, count, read_span};

const MEGABYTE: i64 = 1 << 20;
/// Groups of a million members, or a sort of as many rows. More lets one question take it from the others; less refuses joins sooner.
const QUERY_BYTES_MAX: i64 = 256 * MEGABYTE;
/// Two large questions of a tenant, or many small ones.
const TENANT_BYTES_MAX: i64 = 512 * MEGABYTE;
/// Beside the documents that a server remembers and what it writes: what a machine of four gigabytes has to spare.
const QUERIES_BYTES_MAX: i64 = 1_024 * MEGABYTE;
/// Less than a small question needs.
const BYTES_LEAST: i64 = MEGABYTE;
const BYTES_MOST: i64 = 1 << 40;
/// Some minutes of decoding with all processors: what is more is stopped before it begins.
const QUERY_ROWS_MAX: i64 = 2_000_000_000;
const QUERY_ROWS_MOST: i64 = 1_000_000_000_000;
/// Less than any request may take, so that whoever asked is told why.
const QUERY_DEADLINE: &str = "25s";
const QUERY_DEADLINE_LEAST: &str = "100ms";

/// What questions over the lake may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queries {
    /// Memory of one.
    pub query_bytes_max: usize,
    /// Memory of all that a tenant asks at once.
    pub tenant_bytes_max: usize,
    /// Memory of all.
    pub all_bytes_max: usize,
    /// Rows that one may decode.
    pub rows_max: u64,
    /// How long one may be computed.
    pub deadline: Duration,
}

impl Queries {
    pub(crate) fn read(reader: &mut Reader) -> Result<Queries, ConfigError> {
        let mut number = |key: &str, default, least, most| {
            reader.value(key, count(default), |text| between(text, least, most))
        };
        let mut bytes = |key, default| number(key, default, BYTES_LEAST, BYTES_MOST);
        let query_bytes_max = bytes("lake.query_bytes_max", QUERY_BYTES_MAX)?;
        let tenant_bytes_max = bytes("lake.tenant_bytes_max", TENANT_BYTES_MAX)?;
        let all_bytes_max = bytes("lake.queries_bytes_max", QUERIES_BYTES_MAX)?;
        let rows_max = number("lake.query_rows_max", QUERY_ROWS_MAX, 1, QUERY_ROWS_MOST)?;
        Ok(Queries {
            query_bytes_max,
            tenant_bytes_max,
            all_bytes_max,
            rows_max: u64::try_from(rows_max).expect("a count"),
            deadline: read_span(
                reader,
                "lake.query_deadline",
                QUERY_DEADLINE,
                (QUERY_DEADLINE_LEAST, QUERY_DEADLINE),
            )?,
        })
    }

    /// Where nobody said anything.
    pub(crate) fn standard() -> Queries {
        Queries {
            query_bytes_max: count(QUERY_BYTES_MAX),
            tenant_bytes_max: count(TENANT_BYTES_MAX),
            all_bytes_max: count(QUERIES_BYTES_MAX),
            rows_max: QUERY_ROWS_MAX.unsigned_abs(),
            deadline: Duration::from_secs(25),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_where_nobody_said_anything_is_the_standard() {
        let mut reader = Reader::new(None, []).expect("no sources");
        let read = Queries::read(&mut reader).expect("defaults");
        assert_eq!(read, Queries::standard());
    }
}
