//! The interval of new partitions: what it can be, what was decided last, and another decision.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::types::Type;

const HOUR_MICROS: i64 = 3_600_000_000;

/// How wide the partitions near now are. Those of sparse old times are wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartitionInterval {
    /// From one full hour to the next.
    Hour,
    /// A quarter of a day, from midnight on.
    SixHours,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// A month of the calendar.
    Month,
}

impl PartitionInterval {
    /// All of them, narrowest first.
    pub const ALL: [PartitionInterval; 5] = [
        PartitionInterval::Hour,
        PartitionInterval::SixHours,
        PartitionInterval::Day,
        PartitionInterval::Week,
        PartitionInterval::Month,
    ];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            PartitionInterval::Hour => "hour",
            PartitionInterval::SixHours => "six_hours",
            PartitionInterval::Day => "day",
            PartitionInterval::Week => "week",
            PartitionInterval::Month => "month",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<PartitionInterval> {
        PartitionInterval::ALL
            .into_iter()
            .find(|interval| interval.as_str() == name)
    }

    /// Its length; a month's is that of the longest.
    pub fn micros_max(self) -> i64 {
        let hours = match self {
            PartitionInterval::Hour => 1,
            PartitionInterval::SixHours => 6,
            PartitionInterval::Day => 24,
            PartitionInterval::Week => 7 * 24,
            PartitionInterval::Month => 31 * 24,
        };
        hours * HOUR_MICROS
    }
}

/// What was decided last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalDecision {
    /// Its number.
    pub decision: i64,
    /// The interval that was decided.
    pub interval: PartitionInterval,
    /// The interval that new partitions near now get: a wider one where too many are attached.
    pub bounded: PartitionInterval,
    /// How many partitions are attached.
    pub attached: i64,
    /// How many the server has room for.
    pub attached_max: i64,
    /// Why, for people.
    pub reason: String,
    /// When; absent for the interval that a database begins with.
    pub decided_at: Option<Timestamp>,
    /// The memory that the server shares among its connections (`shared_buffers`).
    pub shared_bytes: i64,
}

/// Another interval, with what it was decided from.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInterval {
    /// The interval.
    pub interval: PartitionInterval,
    /// Why, for people.
    pub reason: String,
    /// The rate that was measured.
    pub rows_per_second: f64,
    /// What the indexes of a row took.
    pub index_bytes_per_row: f64,
    /// What the indexes of the newest partition may take.
    pub memory_bytes: i64,
}

impl IntervalDecision {
    /// Whether the number of partitions decides on new ones, and not the rate.
    pub fn is_bounded(&self) -> bool {
        self.bounded != self.interval
    }
}

/// Reads what was decided last, and what comes of it.
pub async fn read_interval(upkeep: &Pool) -> Result<IntervalDecision, PgError> {
    const STEP: &str = "reading the interval of partitions";
    let sql = include_str!("../sql/partitions/read_interval.sql");
    let client = upkeep.get().await?;
    let statement = Statement::new(STEP, sql, vec![]);
    let rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
    let row = first_row(&rows[0], STEP)?;
    let interval = |column: &str| {
        let name: &str = row.get(column);
        PartitionInterval::parse(name).ok_or_else(|| PgError::unreadable(STEP, name))
    };
    Ok(IntervalDecision {
        decision: row.get("decision"),
        interval: interval("interval_name")?,
        bounded: interval("bounded_name")?,
        attached: row.get("attached"),
        attached_max: row.get("attached_max"),
        reason: row.get("reason"),
        decided_at: row
            .get::<_, Option<PgTime>>("decided_at")
            .map(|time| time.0),
        shared_bytes: row.get("shared_bytes"),
    })
}

/// Records another decision. False where another server has decided since `seen`.
pub async fn decide_interval(
    upkeep: &Pool,
    seen: &IntervalDecision,
    new: &NewInterval,
    now: Timestamp,
) -> Result<bool, PgError> {
    let sql = include_str!("../sql/partitions/decide_interval.sql");
    let client = upkeep.get().await?;
    let (name, now) = (new.interval.as_str(), PgTime(now));
    let params: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> = vec![
        (&seen.decision, Type::INT8),
        (&name, Type::TEXT),
        (&new.reason, Type::TEXT),
        (&new.rows_per_second, Type::FLOAT8),
        (&new.index_bytes_per_row, Type::FLOAT8),
        (&new.memory_bytes, Type::INT8),
        (&now, Type::TIMESTAMPTZ),
    ];
    let statement = Statement::new("deciding on the interval of partitions", sql, params);
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(!rows[0].is_empty())
}
