//! Which lineage a transaction reads and writes: what numbers that are remembered must have been learned on.

use sheaf_model::Lineage;
use sheaf_pg::{Access, PgError, Pool, Setting, Statement, Unfinished, first_row, run, run_if};
use tokio_postgres::{Client, Row};

const STEP: &str = "reading the lineage of a transaction";

/// Reads the lineage of a transaction, anywhere in it.
pub fn read_lineage<'a>() -> Statement<'a> {
    Statement::new(
        STEP,
        include_str!("../sql/settings/read_lineage.sql"),
        vec![],
    )
}

/// The lineage in a row that has its columns; none on a standby.
pub fn lineage_of(row: &Row) -> Result<Option<Lineage>, PgError> {
    let Some(timeline) = row.get::<_, Option<&str>>("timeline") else {
        return Ok(None);
    };
    let timeline = u32::from_str_radix(timeline, 16);
    Ok(Some(Lineage {
        system_id: row.get::<_, i64>("system_id").cast_unsigned(),
        timeline: timeline.map_err(|_| PgError::unreadable(STEP, "timeline"))?,
    }))
}

/// The lineage of the transaction that is open on this connection; none on a standby.
pub async fn fetch_lineage(client: &Client) -> Result<Option<Lineage>, PgError> {
    let statement = read_lineage();
    let rows = client
        .query_typed(statement.sql, &statement.params)
        .await
        .map_err(PgError::statement(STEP))?;
    let row = first_row(&rows, STEP)?;
    lineage_of(row)
}

/// The lineage of a server, where no promotion has left it behind; none on a standby.
pub async fn fetch_current_lineage(pool: &Pool) -> Result<Option<Lineage>, PgError> {
    let client = pool.get().await?;
    let rows = run(&client, Access::Read, None, &[read_lineage()]).await?;
    let lineage = lineage_of(first_row(&rows[0], STEP)?)?;
    if let Some(lineage) = lineage {
        pool.newest_timeline().require(lineage)?;
    }
    Ok(lineage)
}

/// The rows of one statement that reads, where the server is a primary that no promotion has left behind.
pub(crate) async fn read_current(
    pool: &Pool,
    statement: Statement<'_>,
) -> Result<Vec<Row>, PgError> {
    let client = pool.get().await?;
    let statements = [statement, read_lineage()];
    let mut rows = run(&client, Access::Read, None, &statements).await?;
    require_current(pool, &rows[1])?;
    Ok(rows.swap_remove(0))
}

/// The rows of one statement that writes. It is committed only where the server is a primary that no promotion has left
/// behind: what is written to any other is lost, and must not be told as done.
pub(crate) async fn write_current(
    pool: &Pool,
    setting: Option<&Setting<'_>>,
    statement: Statement<'_>,
) -> Result<Vec<Row>, PgError> {
    let client = Unfinished::new(pool.get().await?);
    let statements = [statement, read_lineage()];
    let holds = |rows: &[Vec<Row>]| require_current(pool, &rows[1]);
    let mut rows = run_if(&client, setting, &statements, holds).await?;
    client.rest();
    Ok(rows.swap_remove(0))
}

fn require_current(pool: &Pool, read: &[Row]) -> Result<(), PgError> {
    let row = first_row(read, STEP)?;
    let lineage = lineage_of(row)?.ok_or(PgError::NotPrimary {
        step: STEP,
        why: "a standby",
    })?;
    pool.newest_timeline().require(lineage)
}
