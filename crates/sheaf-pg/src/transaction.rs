//! Transactions in one round trip: BEGIN, the settings, the statements and COMMIT leave together.
//!
//! Only unnamed statements are used, and every setting ends with its transaction, so that all of it survives a
//! pooler that hands each transaction another connection.

use futures::future::{join, join_all};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::PgError;

/// One statement with its typed parameters.
pub struct Statement<'a> {
    /// What it attempts, for its error.
    pub step: &'static str,
    /// The SQL, with `$1` and so on.
    pub sql: &'a str,
    /// The parameters. Types are said here, so that nothing has to be prepared.
    pub params: Vec<(&'a (dyn ToSql + Sync), Type)>,
}

impl<'a> Statement<'a> {
    /// A statement with its parameters.
    pub fn new(
        step: &'static str,
        sql: &'a str,
        params: Vec<(&'a (dyn ToSql + Sync), Type)>,
    ) -> Statement<'a> {
        Statement { step, sql, params }
    }
}

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads from one snapshot.
    Read,
    /// Writes; each statement sees what was committed before it.
    Write,
}

/// A setting that holds for one transaction.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// Its value.
    pub value: String,
}

/// Reads from one snapshot, and in front of it, on the same connection, one statement of its own: what it finds was so
/// before the snapshot was taken. All of it still leaves together.
pub async fn run_after(
    client: &Client,
    before: &Statement<'_>,
    setting: Option<&Setting<'_>>,
    statements: &[Statement<'_>],
) -> Result<(Vec<Row>, Vec<Vec<Row>>), PgError> {
    let transaction = run(client, Access::Read, setting, statements);
    let (before, rows) = join(run_alone(client, before), transaction).await;
    Ok((before?, rows?))
}

/// Runs one statement that is a transaction by itself.
pub async fn run_alone(client: &Client, statement: &Statement<'_>) -> Result<Vec<Row>, PgError> {
    client
        .query_typed(statement.sql, &statement.params)
        .await
        .map_err(PgError::statement(statement.step))
}

/// The row of a statement that gives one.
pub fn first_row<'a>(rows: &'a [Row], step: &'static str) -> Result<&'a Row, PgError> {
    rows.first()
        .ok_or_else(|| PgError::unreadable(step, "no row"))
}

/// Runs the statements in one transaction and gives back the rows of each. If one fails, nothing was done.
pub async fn run(
    client: &Client,
    access: Access,
    setting: Option<&Setting<'_>>,
    statements: &[Statement<'_>],
) -> Result<Vec<Vec<Row>>, PgError> {
    // Every future is polled once before any is awaited, so that all messages leave in this order. All are awaited
    // even if one fails: the COMMIT then acts as ROLLBACK, and the connection is at rest when it goes back.
    let before = begin(client, access, setting);
    let queries = join_all(
        statements
            .iter()
            .map(|statement| run_alone(client, statement)),
    );
    let commit = async {
        client
            .batch_execute("COMMIT")
            .await
            .map_err(PgError::statement("committing a transaction"))
    };
    let ((before, rows), committed) = join(join(before, queries), commit).await;
    before?;
    let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
    committed?;
    Ok(rows)
}

/// Runs the statements in one transaction that writes, and commits it only where `holds` says so of their rows; else
/// nothing was done. Two round trips. Whoever may be dropped meanwhile brings an [`Unfinished`](crate::Unfinished) connection.
pub async fn run_if(
    client: &Client,
    setting: Option<&Setting<'_>>,
    statements: &[Statement<'_>],
    holds: impl FnOnce(&[Vec<Row>]) -> Result<(), PgError>,
) -> Result<Vec<Vec<Row>>, PgError> {
    let queries = statements
        .iter()
        .map(|statement| run_alone(client, statement));
    // As in [`run`]: all of it leaves in this order.
    let (begun, rows) = join(begin(client, Access::Write, setting), join_all(queries)).await;
    let rows = begun.and_then(|()| rows.into_iter().collect::<Result<Vec<_>, _>>());
    let judged = rows.and_then(|rows| holds(&rows).map(|()| rows));
    let end = if judged.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    let rows = judged?;
    ended.map_err(PgError::statement("committing a transaction"))?;
    Ok(rows)
}

async fn begin(
    client: &Client,
    access: Access,
    setting: Option<&Setting<'_>>,
) -> Result<(), PgError> {
    let begin = match access {
        Access::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        // On this disk before it is answered, whatever the server's default; a standby that is away stops nobody. Who
        // wants one to have it passes a fence.
        Access::Write => "BEGIN; SET LOCAL synchronous_commit = local",
    };
    let setting_value = setting.map(|setting| (setting.name, setting.value.as_str()));
    let (begun, set) = join(client.batch_execute(begin), set(client, setting_value)).await;
    begun.map_err(PgError::statement("beginning a transaction"))?;
    set
}

async fn set(client: &Client, setting: Option<(&str, &str)>) -> Result<(), PgError> {
    let Some((name, value)) = setting else {
        return Ok(());
    };
    client
        .query_typed(
            "SELECT set_config($1, $2, true)",
            &[(&name, Type::TEXT), (&value, Type::TEXT)],
        )
        .await
        .map_err(PgError::statement("setting the tenant of a transaction"))?;
    Ok(())
}
