//! What both sides of the change stream were found to hold, and what is asked to be put right. As `sheaf_cdc`.

mod events;
mod files;
mod repairs;

use std::time::Duration;

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio::time::{Instant as Moments, sleep};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::changes::read_running;
use crate::heartbeat::lsn_in;

pub use events::{
    EventKey, Instant, KeptEvent, NewEvents, find_letters, read_hour, read_instants, read_new,
    read_range, read_waiting,
};
pub use files::{CountedFile, add_files, list_files, list_oldest_files, remove_files, touch_files};
pub(crate) use repairs::RepairColumns;
pub use repairs::{LakeRepair, ask_for_repairs, count_repairs, list_repairs};

/// How often it is asked who runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many facts, and the sum of their hashes without what exceeds 128 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FactSum {
    /// How many; negative where some are taken away.
    pub facts: i64,
    /// The sum.
    pub sum: u128,
}

/// What was counted of an hour of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HourSums {
    /// The tenant.
    pub tenant: i64,
    /// Whole hours since 1970.
    pub hour: i64,
    /// The facts of PostgreSQL's events.
    pub events: FactSum,
    /// Those of them that others hide.
    pub events_hidden: FactSum,
    /// The facts of the lake.
    pub lake: FactSum,
    /// Those of them that are hidden there.
    pub lake_hidden: FactSum,
}

/// Which transactions are counted at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// As PostgreSQL writes it.
    pub snapshot: String,
    /// When it was taken, by the database's clock.
    pub taken_at: Timestamp,
    /// All of them were committed before this.
    pub position: ChangePosition,
}

/// Where the rows of a partition are, and what the statistics say was done to them and to late events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Another one after a truncate or rewrite.
    pub file_node: i64,
    /// Rows that were inserted.
    pub rows_added: i64,
    /// Rows that were updated or deleted.
    pub rows_changed: i64,
    /// Late events that were inserted.
    pub late_added: i64,
    /// Late events that were updated or deleted.
    pub late_changed: i64,
}

/// A span of time that a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first instant.
    pub lower: Timestamp,
    /// The first one after it.
    pub upper: Timestamp,
}

impl Span {
    /// Whether an instant is in it.
    pub fn has(&self, at: Timestamp) -> bool {
        self.lower <= at && at < self.upper
    }
}

/// As of what a partition was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Which transactions were.
    pub snapshot: String,
    /// When that was taken.
    pub taken_at: Timestamp,
    /// Events that were received before this.
    pub cutoff: Timestamp,
    /// What there was to know of it before.
    pub counters: Counters,
    /// When it was last read whole.
    pub read_whole_at: Timestamp,
}

/// A partition as it was last counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedRange {
    /// What it holds.
    pub span: Span,
    /// Absent where counting it did not come to its end.
    pub counted: Option<Counted>,
}

/// What a look at both sides came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// When it ended; absent before the first.
    pub ended_at: Option<Timestamp>,
    /// `clean`, `different` or `not_compared`.
    pub outcome: Option<String>,
    /// When both sides were last found equal.
    pub clean_at: Option<Timestamp>,
    /// Events that were received before this were compared.
    pub cutoff: Option<Timestamp>,
    /// Hours of tenants in which something differs.
    pub hours_differing: i64,
    /// Facts that the lake lacks, that only it has, that it has otherwise, that count there and are hidden, that are hidden there
    /// and count.
    pub differences: [i64; 5],
    /// The descriptions of the tables all of whose files are counted.
    pub settled_tables: Option<Vec<String>>,
}

/// Which transactions have ended, of those that have begun by now. Those that run are given so long to end.
pub async fn read_moment(cdc: &Pool, ends_within: Duration) -> Result<Moment, PgError> {
    const STEP: &str = "reading which transactions have ended";
    let sql = include_str!("../sql/reconcile/begin_moment.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    let (next_number, taken_at): (i64, Timestamp) =
        (row.get("next_number"), time_in(row, "taken_at"));
    let deadline = Moments::now() + ends_within;
    while Moments::now() < deadline && read_running(cdc).await?.1 < next_number {
        sleep(LOOK_EVERY).await;
    }
    let sql = include_str!("../sql/reconcile/read_moment.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&next_number, Type::INT8)];
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    let row = first_row(&rows, STEP)?;
    let lsn = lsn_in(row, "lsn", STEP)?.ok_or_else(|| PgError::unreadable(STEP, "lsn"))?;
    let timeline: &str = row.get("timeline");
    let timeline = u32::from_str_radix(timeline, 16);
    let timeline = timeline.map_err(|_| PgError::unreadable(STEP, "timeline"))?;
    Ok(Moment {
        snapshot: row.get("snapshot"),
        taken_at,
        position: ChangePosition::before(timeline, lsn),
    })
}

/// The partitions that are attached and stay so, and how many late events were inserted.
pub async fn list_partitions(cdc: &Pool) -> Result<(Vec<(Span, Counters)>, i64), PgError> {
    const STEP: &str = "listing the partitions and what was done to them";
    let sql = include_str!("../sql/reconcile/list_partitions.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, vec![])).await?;
    let late = first_row(&rows, STEP)?.get("late_added");
    // Nothing is known of one that was just dropped.
    let partition = |row: &Row| counters_in(row).map(|counters| (span_in(row), counters));
    Ok((rows.iter().filter_map(partition).collect(), late))
}

/// The times of partitions that were taken out of the history.
pub async fn list_gone(cdc: &Pool) -> Result<Vec<Span>, PgError> {
    let sql = include_str!("../sql/reconcile/list_gone.sql");
    let step = "listing the partitions that are gone";
    let rows = read(cdc, &Statement::new(step, sql, vec![])).await?;
    Ok(rows.iter().map(span_in).collect())
}

/// The times of which the history has all events that there are: their partitions are attached, and not on their way out.
pub async fn list_held(cdc: &Pool) -> Result<Vec<Span>, PgError> {
    let sql = include_str!("../sql/reconcile/list_held.sql");
    let step = "listing the times that the history has";
    let rows = read(cdc, &Statement::new(step, sql, vec![])).await?;
    Ok(rows.iter().map(span_in).collect())
}

/// What was counted of the lake from an hour on and before another, of all tenants, with what retention took out of it.
pub async fn sum_lake_hours(cdc: &Pool, hours: (i64, i64)) -> Result<FactSum, PgError> {
    const STEP: &str = "summing up hours of the lake";
    let sql = include_str!("../sql/reconcile/sum_lake_hours.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&hours.0, Type::INT8), (&hours.1, Type::INT8)];
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    let row = first_row(&rows, STEP)?;
    sum_in(row, "facts", "sum", STEP)
}

/// The partitions as they were last counted.
pub async fn list_ranges(cdc: &Pool) -> Result<Vec<CountedRange>, PgError> {
    const STEP: &str = "reading which partitions were counted";
    let sql = include_str!("../sql/reconcile/list_ranges.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, vec![])).await?;
    let range = |row: &Row| {
        let is_counted = row.get::<_, &str>("state") == "counted";
        let counted = is_counted.then(|| {
            Ok(Counted {
                snapshot: row.get("snapshot"),
                taken_at: time_in(row, "taken_at"),
                cutoff: time_in(row, "cutoff"),
                counters: counters_in(row).ok_or_else(|| PgError::unreadable(STEP, "counters"))?,
                read_whole_at: time_in(row, "read_whole_at"),
            })
        });
        Ok(CountedRange {
            span: span_in(row),
            counted: counted.transpose()?,
        })
    };
    rows.iter().map(range).collect()
}

/// Begins to count a partition from nothing: what was counted of these hours is forgotten.
pub async fn begin_range(cdc: &Pool, span: Span, hours: (i64, i64)) -> Result<(), PgError> {
    const STEP: &str = "beginning to count a partition";
    let (lower, upper) = (PgTime(span.lower), PgTime(span.upper));
    let statements = [
        Statement::new(
            STEP,
            include_str!("../sql/reconcile/begin_range.sql"),
            vec![(&lower, Type::TIMESTAMPTZ), (&upper, Type::TIMESTAMPTZ)],
        ),
        Statement::new(
            STEP,
            include_str!("../sql/reconcile/clear_hours.sql"),
            vec![(&hours.0, Type::INT8), (&hours.1, Type::INT8)],
        ),
    ];
    write(cdc, &statements).await
}

/// Adds to what was counted of hours, each hour of a tenant once.
pub async fn add_hours(cdc: &Pool, hours: &[HourSums]) -> Result<(), PgError> {
    if hours.is_empty() {
        return Ok(());
    }
    write(cdc, &[HourColumns::new(hours).statement()]).await
}

/// Adds to what was counted of hours, and says as of what the partition is counted now, in one transaction.
pub async fn end_range(
    cdc: &Pool,
    span: Span,
    hours: &[HourSums],
    counted: &Counted,
    is_whole: bool,
) -> Result<(), PgError> {
    let lower = PgTime(span.lower);
    let (taken_at, cutoff) = (PgTime(counted.taken_at), PgTime(counted.cutoff));
    let counters = &counted.counters;
    let end = Statement::new(
        "storing as of what a partition is counted",
        include_str!("../sql/reconcile/end_range.sql"),
        vec![
            (&lower, Type::TIMESTAMPTZ),
            (&counted.snapshot, Type::TEXT),
            (&taken_at, Type::TIMESTAMPTZ),
            (&cutoff, Type::TIMESTAMPTZ),
            (&counters.file_node, Type::INT8),
            (&counters.rows_added, Type::INT8),
            (&counters.rows_changed, Type::INT8),
            (&counters.late_added, Type::INT8),
            (&counters.late_changed, Type::INT8),
            (&is_whole, Type::BOOL),
        ],
    );
    let columns = HourColumns::new(hours);
    let mut statements = Vec::new();
    if !hours.is_empty() {
        statements.push(columns.statement());
    }
    statements.push(end);
    write(cdc, &statements).await
}

/// The hours whose sides differ by what was counted, after one: so many at most.
pub async fn list_differing(
    cdc: &Pool,
    after: (i64, i64),
    rows_max: i64,
) -> Result<Vec<(i64, i64)>, PgError> {
    let sql = include_str!("../sql/reconcile/list_differing.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&after.0, Type::INT8),
        (&after.1, Type::INT8),
        (&rows_max, Type::INT8),
    ];
    let rows = read(
        cdc,
        &Statement::new("listing hours that differ", sql, params),
    )
    .await?;
    let hour = |row: &Row| (row.get("tenant_id"), row.get("hour"));
    Ok(rows.iter().map(hour).collect())
}

/// What was counted of some hours of tenants. Those of which nothing was are left out.
pub async fn read_hours(cdc: &Pool, hours: &[(i64, i64)]) -> Result<Vec<HourSums>, PgError> {
    const STEP: &str = "reading what was counted of hours";
    let (tenants, hours): (Vec<i64>, Vec<i64>) = hours.iter().copied().unzip();
    let sql = include_str!("../sql/reconcile/read_hours.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&tenants, Type::INT8_ARRAY), (&hours, Type::INT8_ARRAY)];
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    let sum = |row: &Row, facts: &str, sum: &str| sum_in(row, facts, sum, STEP);
    let hour = |row: &Row| {
        Ok(HourSums {
            tenant: row.get("tenant_id"),
            hour: row.get("hour"),
            events: sum(row, "events_facts", "events_sum")?,
            events_hidden: sum(row, "events_hidden_facts", "events_hidden_sum")?,
            lake: sum(row, "lake_facts", "lake_sum")?,
            lake_hidden: sum(row, "lake_hidden_facts", "lake_hidden_sum")?,
        })
    };
    rows.iter().map(hour).collect()
}

/// How many hours of tenants are compared.
pub async fn count_hours(cdc: &Pool) -> Result<i64, PgError> {
    const STEP: &str = "counting the hours that are compared";
    let sql = include_str!("../sql/reconcile/count_hours.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, vec![])).await?;
    Ok(first_row(&rows, STEP)?.get("hours"))
}

/// What the last look at both sides came to.
pub async fn read_run(cdc: &Pool) -> Result<Run, PgError> {
    const STEP: &str = "reading what the last reconciliation came to";
    let sql = include_str!("../sql/reconcile/read_run.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    let time = |name| row.get::<_, Option<PgTime>>(name).map(|time| time.0);
    Ok(Run {
        ended_at: time("ended_at"),
        outcome: row.get("outcome"),
        clean_at: time("clean_at"),
        cutoff: time("cutoff"),
        hours_differing: row.get("hours_differing"),
        differences: ["missing", "extra", "changed", "shown", "hidden"].map(|name| row.get(name)),
        settled_tables: row.get("settled_tables"),
    })
}

/// Remembers what a look at both sides came to. One that could not compare them takes back nothing of what was found before.
pub async fn store_run(
    cdc: &Pool,
    ended_at: Timestamp,
    outcome: &str,
    cutoff: Timestamp,
    hours_differing: i64,
    differences: [i64; 5],
) -> Result<(), PgError> {
    let (ended_at, cutoff) = (PgTime(ended_at), PgTime(cutoff));
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&ended_at, Type::TIMESTAMPTZ),
        (&outcome, Type::TEXT),
        (&cutoff, Type::TIMESTAMPTZ),
        (&hours_differing, Type::INT8),
    ];
    params.extend(differences.iter().map(|count| (count as _, Type::INT8)));
    let sql = include_str!("../sql/reconcile/store_run.sql");
    let step = "storing what a reconciliation came to";
    write(cdc, &[Statement::new(step, sql, params)]).await
}

/// Remembers the tables all of whose files are counted; none where there are others.
pub async fn settle_tables(cdc: &Pool, tables: Option<&[&str]>) -> Result<(), PgError> {
    let sql = include_str!("../sql/reconcile/settle_tables.sql");
    let statement = Statement::new(
        "storing which tables are counted",
        sql,
        vec![(&tables, Type::TEXT_ARRAY)],
    );
    write(cdc, &[statement]).await
}

/// Becomes the one who looks at both sides for so many seconds, or stays it. False where somebody else is.
pub async fn claim_run(cdc: &Pool, runner: Uuid, seconds: i64) -> Result<bool, PgError> {
    let sql = include_str!("../sql/reconcile/claim_run.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&runner, Type::UUID), (&seconds, Type::INT8)];
    let statement = Statement::new("claiming the reconciliation", sql, params);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(!rows[0].is_empty())
}

/// Lets somebody else look at both sides.
pub async fn release_run(cdc: &Pool, runner: Uuid) -> Result<(), PgError> {
    let sql = include_str!("../sql/reconcile/release_run.sql");
    let step = "ending the reconciliation";
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&runner, Type::UUID)];
    write(cdc, &[Statement::new(step, sql, params)]).await
}

/// The parameters of the statement that adds to hours.
struct HourColumns {
    tenants: Vec<i64>,
    hours: Vec<i64>,
    facts: [Vec<i64>; 4],
    sums: [Vec<String>; 4],
}

impl HourColumns {
    fn new(hours: &[HourSums]) -> HourColumns {
        let sides =
            |hour: &HourSums| [hour.events, hour.events_hidden, hour.lake, hour.lake_hidden];
        let column = |side: usize| hours.iter().map(move |hour| sides(hour)[side]);
        HourColumns {
            tenants: hours.iter().map(|hour| hour.tenant).collect(),
            hours: hours.iter().map(|hour| hour.hour).collect(),
            facts: [0, 1, 2, 3].map(|side| column(side).map(|sum| sum.facts).collect()),
            sums: [0, 1, 2, 3].map(|side| column(side).map(|sum| sum.sum.to_string()).collect()),
        }
    }

    fn statement(&self) -> Statement<'_> {
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.tenants, Type::INT8_ARRAY),
            (&self.hours, Type::INT8_ARRAY),
        ];
        for (facts, sums) in self.facts.iter().zip(&self.sums) {
            params.push((facts, Type::INT8_ARRAY));
            params.push((sums, Type::TEXT_ARRAY));
        }
        let sql = include_str!("../sql/reconcile/add_hours.sql");
        Statement::new("storing what was counted of hours", sql, params)
    }
}

fn time_in(row: &Row, column: &str) -> Timestamp {
    row.get::<_, PgTime>(column).0
}

pub(crate) fn sum_in(
    row: &Row,
    facts: &str,
    sum: &str,
    step: &'static str,
) -> Result<FactSum, PgError> {
    let text: &str = row.get(sum);
    Ok(FactSum {
        facts: row.get(facts),
        sum: text.parse().map_err(|_| PgError::unreadable(step, text))?,
    })
}

fn span_in(row: &Row) -> Span {
    Span {
        lower: time_in(row, "lower_bound"),
        upper: time_in(row, "upper_bound"),
    }
}

fn counters_in(row: &Row) -> Option<Counters> {
    Some(Counters {
        file_node: row.get::<_, Option<i64>>("file_node")?,
        rows_added: row.get::<_, Option<i64>>("rows_added")?,
        rows_changed: row.get::<_, Option<i64>>("rows_changed")?,
        late_added: row.get::<_, Option<i64>>("late_added")?,
        late_changed: row.get::<_, Option<i64>>("late_changed")?,
    })
}

async fn read(cdc: &Pool, statement: &Statement<'_>) -> Result<Vec<Row>, PgError> {
    let client = cdc.get().await?;
    sheaf_pg::run_alone(&client, statement).await
}

async fn write(cdc: &Pool, statements: &[Statement<'_>]) -> Result<(), PgError> {
    let client = cdc.get().await?;
    sheaf_pg::run(&client, Access::Write, None, statements).await?;
    Ok(())
}
