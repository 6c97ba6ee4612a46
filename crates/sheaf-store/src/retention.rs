//! What retention takes out of the lake: up to where it may, and what it has. As `sheaf_cdc`.

use sheaf_model::Timestamp;
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::lake::{LakeName, LakeStanding, standing_of, standing_statements};
use crate::reconcile::{FactSum, sum_in};

/// Up to where facts of an attribute may be gone from the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionBoundary {
    /// The tenant.
    pub tenant: i64,
    /// The attribute; absent for rows of events that name none.
    pub attribute: Option<i64>,
    /// What was observed before this, in microseconds since 1970.
    pub before: i64,
}

/// What was taken out of an hour of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// The tenant.
    pub tenant: i64,
    /// Whole hours since 1970.
    pub hour: i64,
    /// Whether the events had arrived after their period was closed.
    pub is_late: bool,
    /// The facts, of both tables.
    pub all: FactSum,
    /// Those of them that were hidden.
    pub hidden: FactSum,
}

/// Notes up to where facts may be taken out, by the policies and a moment, before any is.
pub async fn note_retentions(
    cdc: &Pool,
    now: Timestamp,
) -> Result<Vec<RetentionBoundary>, PgError> {
    let sql = include_str!("../sql/retention/note_retentions.sql");
    let now = now.as_micros();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&now, Type::INT8)];
    let statement = Statement::new("noting how long facts are kept", sql, params);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(rows[0].iter().map(boundary_of).collect())
}

/// Up to where facts may have been taken out until now.
pub async fn list_retentions(cdc: &Pool) -> Result<Vec<RetentionBoundary>, PgError> {
    let sql = include_str!("../sql/retention/list_retentions.sql");
    let statement = Statement::new("reading how long facts were kept", sql, vec![]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    Ok(rows.iter().map(boundary_of).collect())
}

fn boundary_of(row: &Row) -> RetentionBoundary {
    RetentionBoundary {
        tenant: row.get("tenant_id"),
        attribute: Some(row.get("attribute_id")).filter(|number| *number != 0),
        before: row.get("before"),
    }
}

/// Takes what was taken out of so many hours into account where both sides are compared. Gives back how many there were.
pub async fn count_removals(cdc: &Pool, hours_max: i64) -> Result<i64, PgError> {
    const STEP: &str = "counting what retention took out of the lake";
    let sql = include_str!("../sql/retention/count_removals.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&hours_max, Type::INT8)];
    let client = cdc.get().await?;
    let statement = Statement::new(STEP, sql, params);
    let rows = sheaf_pg::run(&client, Access::Write, None, &[statement]).await?;
    Ok(first_row(&rows[0], STEP)?.get("hours"))
}

/// A lake as it was last committed, and what retention has taken out of it of a span of whole hours, but for late facts: both of one
/// moment.
pub async fn read_lake_and_removals(
    pool: &Pool,
    lake: &LakeName,
    (from, to): (Timestamp, Timestamp),
) -> Result<(Option<LakeStanding>, FactSum), PgError> {
    const STEP: &str = "reading what retention took out of the lake";
    let (from, to) = (PgTime(from), PgTime(to));
    let sql = include_str!("../sql/retention/sum_removals.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ)];
    let [position, tables] = standing_statements(lake);
    let statements = [position, tables, Statement::new(STEP, sql, params)];
    let client = pool.get().await?;
    let rows = sheaf_pg::run(&client, Access::Read, None, &statements).await?;
    let row = first_row(&rows[2], STEP)?;
    let removed = sum_in(row, "facts", "sum", STEP)?;
    Ok((standing_of(&rows[0], &rows[1])?, removed))
}

/// The parameters of the statements that are a part of the lake's commit.
pub(crate) struct RemovalColumns {
    tenants: Vec<i64>,
    hours: Vec<i64>,
    are_late: Vec<bool>,
    facts: Vec<i64>,
    sums: Vec<String>,
    hidden_facts: Vec<i64>,
    hidden_sums: Vec<String>,
    clears: bool,
    archived_before: Option<PgTime>,
}

impl RemovalColumns {
    pub(crate) fn new(
        removed: &[Removal],
        clears: bool,
        archived_before: Option<Timestamp>,
    ) -> RemovalColumns {
        let each = || removed.iter();
        RemovalColumns {
            tenants: each().map(|one| one.tenant).collect(),
            hours: each().map(|one| one.hour).collect(),
            are_late: each().map(|one| one.is_late).collect(),
            facts: each().map(|one| one.all.facts).collect(),
            sums: each().map(|one| one.all.sum.to_string()).collect(),
            hidden_facts: each().map(|one| one.hidden.facts).collect(),
            hidden_sums: each().map(|one| one.hidden.sum.to_string()).collect(),
            clears,
            archived_before: archived_before.map(PgTime),
        }
    }

    /// Those of them that have anything to do.
    pub(crate) fn statements(&self) -> Vec<Statement<'_>> {
        const STEP: &str = "storing what retention took out of the lake";
        let mut statements = Vec::new();
        if self.clears {
            let sql = include_str!("../sql/retention/clear_removals.sql");
            let params: Vec<(&(dyn ToSql + Sync), Type)> =
                vec![(&self.archived_before, Type::TIMESTAMPTZ)];
            statements.push(Statement::new(STEP, sql, params));
        }
        if !self.tenants.is_empty() {
            let sql = include_str!("../sql/retention/add_removals.sql");
            let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
                (&self.tenants, Type::INT8_ARRAY),
                (&self.hours, Type::INT8_ARRAY),
                (&self.are_late, Type::BOOL_ARRAY),
                (&self.facts, Type::INT8_ARRAY),
                (&self.sums, Type::TEXT_ARRAY),
                (&self.hidden_facts, Type::INT8_ARRAY),
                (&self.hidden_sums, Type::TEXT_ARRAY),
            ];
            statements.push(Statement::new(STEP, sql, params));
        }
        statements
    }
}
