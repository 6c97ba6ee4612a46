//! Work on one partition of the history: measured, indexed anew, vacuumed, taken out and put back. As `sheaf_upkeep`.
//!
//! It has no opinion on whether a partition may be taken out; whoever asks decides.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::events::quoted;
use crate::partitions::Partition;

/// A partition with its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredPartition {
    /// Its name and bounds.
    pub partition: Partition,
    /// Whether lanes may write to it: not while it is taken out.
    pub accepts_writes: bool,
    /// About how many events it holds; absent where nobody has counted since the statistics were lost.
    pub row_estimate: Option<i64>,
    /// The table with its large values.
    pub heap_bytes: i64,
    /// All its indexes.
    pub index_bytes: i64,
    /// Indexes that an interrupted rebuild has left behind.
    pub invalid_indexes: i64,
    /// When it was last vacuumed, by whomever.
    pub vacuumed_at: Option<Timestamp>,
}

/// A partition that was taken out, or is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedPartition {
    /// Its name and bounds.
    pub partition: Partition,
    /// About how many events it holds; absent where that was not known.
    pub row_estimate: Option<i64>,
    /// When it was closed to writes.
    pub closed_at: Timestamp,
}

/// Where a partition is on its way out of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionState {
    /// Part of it.
    Attached,
    /// Detaching it was interrupted; it can only be ended.
    Pending,
    /// A table by itself.
    Detached,
}

/// The attached partitions with their sizes, in order of time.
pub async fn measure_partitions(upkeep: &Pool) -> Result<Vec<MeasuredPartition>, PgError> {
    let sql = include_str!("../sql/partitions/measure_partitions.sql");
    let rows = ask(upkeep, "measuring partitions", sql, vec![]).await?;
    let measured = rows.iter().map(|row| {
        Ok(MeasuredPartition {
            partition: Partition::from_row(row)?,
            accepts_writes: row.get("accepts_writes"),
            row_estimate: row.get("row_estimate"),
            heap_bytes: row.get("heap_bytes"),
            index_bytes: row.get("index_bytes"),
            invalid_indexes: row.get("invalid_indexes"),
            vacuumed_at: row
                .get::<_, Option<PgTime>>("vacuumed_at")
                .map(|time| time.0),
        })
    });
    measured.collect()
}

/// The partitions that were taken out and whose tables are still there, in order of time.
pub async fn list_detached(upkeep: &Pool) -> Result<Vec<DetachedPartition>, PgError> {
    let sql = include_str!("../sql/partitions/list_detached_partitions.sql");
    let rows = ask(upkeep, "listing detached partitions", sql, vec![]).await?;
    let detached = rows.iter().map(|row| {
        Ok(DetachedPartition {
            partition: Partition::from_row(row)?,
            row_estimate: row.get("row_estimate"),
            closed_at: row.get::<_, PgTime>("closed_at").0,
        })
    });
    detached.collect()
}

/// Where the partition of this name is; absent where there is none.
pub async fn fetch_state(upkeep: &Pool, name: &str) -> Result<Option<PartitionState>, PgError> {
    let sql = include_str!("../sql/partitions/find_partition_state.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    let rows = ask(upkeep, "finding a partition", sql, params).await?;
    Ok(rows.first().map(
        |row| match (row.get("is_attached"), row.get("is_pending")) {
            (true, false) => PartitionState::Attached,
            (true, true) => PartitionState::Pending,
            (false, _) => PartitionState::Detached,
        },
    ))
}

/// Builds its indexes anew while others read and write, after removing what an interrupted attempt has left. Gives back
/// how many such indexes there were.
pub async fn reindex(upkeep: &Pool, name: &str) -> Result<usize, PgError> {
    const STEP: &str = "building the indexes of a partition anew";
    let sql = include_str!("../sql/partitions/list_invalid_indexes.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    let left = ask(
        upkeep,
        "listing the invalid indexes of a partition",
        sql,
        params,
    )
    .await?;
    for row in &left {
        let index = quoted(row.get("index_name"));
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS sheaf.{index}");
        execute(upkeep, "dropping an invalid index", &sql).await?;
    }
    let sql = format!("REINDEX TABLE CONCURRENTLY sheaf.{}", quoted(name));
    execute(upkeep, STEP, &sql).await?;
    Ok(left.len())
}

/// Vacuums and analyzes it while others read and write.
pub async fn vacuum(upkeep: &Pool, name: &str) -> Result<(), PgError> {
    let sql = format!("VACUUM (ANALYZE) sheaf.{}", quoted(name));
    execute(upkeep, "vacuuming a partition", &sql).await
}

/// Takes it out of the history: closes it to writes, waits for everybody who writes to it, and leaves it as a guarded table
/// of its own. Run again after an interruption it goes on; [`attach`] puts the partition back at any point.
pub async fn detach(
    upkeep: &Pool,
    name: &str,
    state: PartitionState,
    now: Timestamp,
) -> Result<(), PgError> {
    let (table, now) = (quoted(name), PgTime(now));
    match state {
        PartitionState::Attached => {
            // A lane that remembers the partition is refused from here on. One that got its lock before is waited for,
            // and everything that it wrote is in the table.
            let sql = include_str!("../sql/partitions/close_partition.sql");
            let params: Params<'_> = vec![(&name, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
            change(upkeep, "closing a partition to writes", sql, params).await?;
            let sql = format!(
                "ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{table} CONCURRENTLY"
            );
            execute(upkeep, "detaching a partition", &sql).await?;
        }
        PartitionState::Pending => finish_detach(upkeep, &table).await?,
        PartitionState::Detached => {}
    }
    let sql = include_str!("../sql/partitions/guard_partition.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    change(upkeep, "guarding a detached partition", sql, params)
        .await
        .map(drop)
}

/// Puts it back and opens it to writes. Fails, with nothing changed, where other partitions hold its time by now.
pub async fn attach(upkeep: &Pool, name: &str, state: PartitionState) -> Result<(), PgError> {
    match state {
        PartitionState::Pending => finish_detach(upkeep, &quoted(name)).await?,
        PartitionState::Attached | PartitionState::Detached => {}
    }
    let sql = include_str!("../sql/partitions/attach_partition.sql");
    let params: Params<'_> = vec![(&name, Type::TEXT)];
    change(upkeep, "attaching a partition", sql, params)
        .await
        .map(drop)
}

pub(crate) async fn finish_detach(upkeep: &Pool, table: &str) -> Result<(), PgError> {
    let sql = format!("ALTER TABLE sheaf.entity_events DETACH PARTITION sheaf.{table} FINALIZE");
    execute(upkeep, "ending an interrupted detachment", &sql).await
}

pub(crate) type Params<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

async fn ask(
    upkeep: &Pool,
    step: &'static str,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, PgError> {
    let client = upkeep.get().await?;
    let statement = Statement::new(step, sql, params);
    let mut rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
    Ok(rows.remove(0))
}

pub(crate) async fn change(
    upkeep: &Pool,
    step: &'static str,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, PgError> {
    let client = upkeep.get().await?;
    let statement = Statement::new(step, sql, params);
    let mut rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(rows.remove(0))
}

/// One statement outside any transaction: those that let others pass run in none.
async fn execute(upkeep: &Pool, step: &'static str, sql: &str) -> Result<(), PgError> {
    let client = upkeep.get().await?;
    client
        .batch_execute(sql)
        .await
        .map_err(PgError::statement(step))
}
