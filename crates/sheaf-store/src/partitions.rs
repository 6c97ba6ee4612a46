//! The partitions of the history: which there are, and the one that an instant needs.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
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
    /// A partition made by hand may have no instant for a bound (`MINVALUE`, `DEFAULT`, `infinity`): an error, since
    /// nothing of ours could tell what belongs in it.
    pub(crate) fn from_row(row: &Row) -> Result<Partition, PgError> {
        let name: String = row.get("partition_name");
        let bound = |column: &str| match row.try_get::<_, PgTime>(column) {
            Ok(time) => Ok(time.0),
            Err(_) => Err(PgError::unreadable(
                "reading a partition",
                format!("{column} of {name}"),
            )),
        };
        Ok(Partition {
            lower: bound("lower_bound")?,
            upper: bound("upper_bound")?,
            name,
        })
    }

    /// Whether it holds an instant.
    pub fn holds(&self, time: Timestamp) -> bool {
        self.lower <= time && time < self.upper
    }
}

/// All partitions that can be written to, in order of time.
pub async fn list_partitions(pool: &Pool) -> Result<Vec<Partition>, PgError> {
    let sql = include_str!("../sql/partitions/list_partitions.sql");
    list(pool, sql).await
}

/// All that are attached, those that are closed to writes too, in order of time.
pub async fn list_attached_partitions(pool: &Pool) -> Result<Vec<Partition>, PgError> {
    let sql = include_str!("../sql/partitions/list_attached_partitions.sql");
    list(pool, sql).await
}

/// The partitions that are closed to writes because they are being taken out, in order of time.
pub async fn list_closed_partitions(writer: &Pool) -> Result<Vec<Partition>, PgError> {
    let sql = include_str!("../sql/partitions/list_closed_partitions.sql");
    list(writer, sql).await
}

async fn list(pool: &Pool, sql: &'static str) -> Result<Vec<Partition>, PgError> {
    let client = pool.get().await?;
    let statement = Statement::new("listing partitions", sql, vec![]);
    let rows = sheaf_pg::run(&client, Access::Read, None, &[statement]).await?;
    rows[0].iter().map(Partition::from_row).collect()
}

/// The partition that holds an instant, made where it is missing, in a transaction of its own.
pub async fn ensure_partition(writer: &Pool, time: Timestamp) -> Result<Partition, PgError> {
    const STEP: &str = "making a partition";
    let time = PgTime(time);
    let client = writer.get().await?;
    let sql = include_str!("../sql/partitions/ensure_partition.sql");
    let statement = Statement::new(STEP, sql, vec![(&time, Type::TIMESTAMPTZ)]);
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    let row = first_row(&rows[0], STEP)?;
    Partition::from_row(row)
}
