//! An entity's history in buckets of time: which buckets hold something, and what it comes to.

use sheaf_model::Timestamp;
use sheaf_pg::{PgTime, Statement};
use tokio_postgres::types::{ToSql, Type};

use crate::history::HistoryOf;

/// A range of an entity's history, and the buckets that it is divided into.
#[derive(Debug)]
pub struct BucketRange<'a> {
    of: &'a HistoryOf,
    from: PgTime,
    to: PgTime,
    width_micros: i64,
    origin: PgTime,
}

impl<'a> BucketRange<'a> {
    /// The range `[from, to)`, in buckets of a width, one of which begins at `origin`.
    pub fn new(
        of: &'a HistoryOf,
        (from, to): (Timestamp, Timestamp),
        width_micros: i64,
        origin: Timestamp,
    ) -> BucketRange<'a> {
        BucketRange {
            of,
            from: PgTime(from),
            to: PgTime(to),
            width_micros,
            origin: PgTime(origin),
        }
    }

    /// The first and the last instant of the range that have a row: one row of `first_at` and `last_at`, or nulls.
    pub fn find_ends(&self) -> Statement<'_> {
        let mut params = self.of.parameters();
        params.push((&self.from, Type::TIMESTAMPTZ));
        params.push((&self.to, Type::TIMESTAMPTZ));
        Statement::new(
            "finding the ends of an entity's history",
            include_str!("../sql/history/find_range.sql"),
            params,
        )
    }

    /// The first buckets that hold a row, or one that names a key; each is a row of `starts_at`.
    pub fn find_first<'b>(
        &'b self,
        keys: &'b Option<Vec<String>>,
        buckets_max: &'b i64,
    ) -> Statement<'b> {
        let sql = include_str!("../sql/history/find_buckets.sql");
        self.find(sql, keys, buckets_max)
    }

    /// The last buckets that do, newest first.
    pub fn find_last<'b>(
        &'b self,
        keys: &'b Option<Vec<String>>,
        buckets_max: &'b i64,
    ) -> Statement<'b> {
        let sql = include_str!("../sql/history/find_buckets_backwards.sql");
        self.find(sql, keys, buckets_max)
    }

    fn find<'b>(
        &'b self,
        sql: &'b str,
        keys: &'b Option<Vec<String>>,
        buckets_max: &'b i64,
    ) -> Statement<'b> {
        let mut params = self.parameters();
        params.push((keys, Type::TEXT_ARRAY));
        params.push((buckets_max, Type::INT8));
        Statement::new("finding the buckets of an entity's history", sql, params)
    }

    /// The aggregates of these attributes in each bucket of the range, at most `rows_max` of them.
    pub fn aggregate<'b>(
        &'b self,
        attributes: &'b AggregatedAttributes,
        rows_max: &'b i64,
    ) -> Statement<'b> {
        let mut params = self.parameters();
        params.push((&attributes.keys, Type::TEXT_ARRAY));
        params.push((&attributes.types, Type::TEXT_ARRAY));
        params.push((&attributes.ends, Type::BOOL));
        params.push((rows_max, Type::INT8));
        params.push((&attributes.shown_from, Type::TIMESTAMPTZ_ARRAY));
        Statement::new(
            "aggregating an entity's history",
            include_str!("../sql/history/aggregate_buckets.sql"),
            params,
        )
    }

    fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let mut params = self.of.parameters();
        params.push((&self.from, Type::TIMESTAMPTZ));
        params.push((&self.to, Type::TIMESTAMPTZ));
        params.push((&self.width_micros, Type::INT8));
        params.push((&self.origin, Type::TIMESTAMPTZ));
        params
    }
}

/// The attributes that are aggregated.
#[derive(Debug, Default)]
pub struct AggregatedAttributes {
    /// Their numbers, as keys of rows.
    pub keys: Vec<String>,
    /// Their types, in the same order.
    pub types: Vec<&'static str>,
    /// From when on each is, in the same order.
    pub shown_from: Vec<PgTime>,
    /// Whether the first and last values are wanted.
    pub ends: bool,
}
