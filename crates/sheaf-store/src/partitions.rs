//! The partitions of the history: which there are, and the one that an instant needs.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its table in schema `sheaf`.
    pub name: String,
    /// The first instant that it holds.
    pub lower: Timestamp,
    /// The first instant after it.
    pub upper: Timestamp,
}

impl Partition {
    fn from_row(row: &Row) -> Partition {
        Partition {
            name: row.get("partition_name"),
            lower: row.get::<_, PgTime>("lower_bound").0,
            upper: row.get::<_, PgTime>("upper_bound").0,
        }
    }

    /// Whether it holds an instant.
    pub fn holds(&self, time: Timestamp) -> bool {
        self.lower <= time && time < self.upper
    }
}

/// All partitions in order of time.
pub async fn list_partitions(pool: &Pool) -> Result<Vec<Partition>, PgError> {
    let sql = include_str!("../sql/partitions/list_partitions.sql");
    let client = pool.get().await?;
    let statement = Statement::new("listing partitions", sql, vec![]);
    let rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
    Ok(rows[0].iter().map(Partition::from_row).collect())
}

/// The partition that holds an instant, made where it is missing, in a transaction of its own.
pub async fn ensure_partition(writer: &Pool, time: Timestamp) -> Result<Partition, PgError> {
    const STEP: &str = "making a partition";
    let time = PgTime(time);
    let client = writer.get().await?;
    let sql = include_str!("../sql/partitions/ensure_partition.sql");
    let statement = Statement::new(STEP, sql, vec![(&time, Type::TIMESTAMPTZ)]);
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    rows[0]
        .first()
        .map(Partition::from_row)
        .ok_or_else(|| PgError::unreadable(STEP, "no row"))
}
