//! What the writer of the lake is asked to put right.

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{read, write};
use crate::lake::{CorrectionKey, KeyColumns, LakeCorrection, LakeName, position_in};

/// An event that the lake has to have as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeRepair {
    /// What names it.
    pub key: CorrectionKey,
    /// The event; absent where the lake has to have none.
    pub event: Option<LakeCorrection>,
    /// Which lake is meant: the position that its snapshot bears.
    pub base: ChangePosition,
    /// When it is asked for.
    pub asked_at: Timestamp,
}

/// Asks the writer of a lake to put events right, all of one lake and asked for at once.
pub async fn ask_for_repairs(
    cdc: &Pool,
    lake: &LakeName,
    repairs: &[LakeRepair],
) -> Result<(), PgError> {
    let Some(first) = repairs.first() else {
        return Ok(());
    };
    let keys = KeyColumns::new(repairs.iter().map(|repair| repair.key));
    let events = || repairs.iter().map(|repair| repair.event.as_ref());
    let ops: Vec<Option<i8>> = events().map(|e| Some(e?.op.letter())).collect();
    let batches: Vec<Option<Uuid>> = events().map(|e| Some(e?.batch.0)).collect();
    let ingested: Vec<Option<PgTime>> = events().map(|e| Some(PgTime(e?.ingested_at))).collect();
    let attrs: Vec<Option<&str>> = events().map(|e| Some(&*e?.attrs)).collect();
    let (timeline, lsn) = (
        i64::from(first.base.timeline),
        first.base.commit_lsn.to_string(),
    );
    let asked_at = PgTime(first.asked_at);
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&lake.catalog, Type::TEXT)];
    params.extend(keys.params());
    params.extend([
        (&ops as _, Type::CHAR_ARRAY),
        (&batches as _, Type::UUID_ARRAY),
        (&ingested as _, Type::TIMESTAMPTZ_ARRAY),
        (&attrs as _, Type::TEXT_ARRAY),
        (&timeline as _, Type::INT8),
        (&lsn as _, Type::TEXT),
        (&asked_at as _, Type::TIMESTAMPTZ),
    ]);
    let sql = include_str!("../../sql/reconcile/ask_for_repairs.sql");
    write(cdc, &[Statement::new("asking for repairs", sql, params)]).await
}

/// How many repairs of a lake wait.
pub async fn count_repairs(cdc: &Pool, lake: &LakeName) -> Result<i64, PgError> {
    const STEP: &str = "counting the repairs that wait";
    let sql = include_str!("../../sql/reconcile/count_repairs.sql");
    let statement = Statement::new(STEP, sql, vec![(&lake.catalog, Type::TEXT)]);
    let rows = read(cdc, &statement).await?;
    Ok(first_row(&rows, STEP)?.get("waiting"))
}

/// The next repairs that wait, in the order of their instants: so many at most, and of so many bytes, but one at least.
pub async fn list_repairs(
    cdc: &Pool,
    lake: &LakeName,
    rows_max: i64,
    bytes_max: i64,
) -> Result<Vec<LakeRepair>, PgError> {
    const STEP: &str = "reading the repairs that wait";
    let sql = include_str!("../../sql/reconcile/list_repairs.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lake.catalog, Type::TEXT),
        (&rows_max, Type::INT8),
        (&bytes_max, Type::INT8),
    ];
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    rows.iter().map(|row| repair_of(row, STEP)).collect()
}

fn repair_of(row: &Row, step: &'static str) -> Result<LakeRepair, PgError> {
    let key = CorrectionKey::of_row(row);
    let event = row.get::<_, Option<i8>>("op");
    let event = event.map(|_| LakeCorrection::of_row(row, step));
    let base = position_in(row, "base_timeline", "base_lsn", step)?;
    Ok(LakeRepair {
        key,
        event: event.transpose()?,
        base: base.ok_or_else(|| PgError::unreadable(step, "base_lsn"))?,
        asked_at: row.get::<_, PgTime>("asked_at").0,
    })
}

/// The parameters of the statements by which a commit of a lake forgets repairs.
pub(crate) struct RepairColumns<'a> {
    lake: &'a LakeName,
    clears: bool,
    done: KeyColumns,
}

impl<'a> RepairColumns<'a> {
    /// All of them where the lake begins anew, else these.
    pub(crate) fn new(
        lake: &'a LakeName,
        clears: bool,
        done: &[CorrectionKey],
    ) -> RepairColumns<'a> {
        RepairColumns {
            lake,
            clears,
            done: KeyColumns::new(done.iter().copied()),
        }
    }

    /// Those of them that have anything to do.
    pub(crate) fn statements(&self) -> Vec<Statement<'_>> {
        const STEP: &str = "storing which repairs are done";
        let catalog = (&self.lake.catalog as &(dyn ToSql + Sync), Type::TEXT);
        if self.clears {
            let sql = include_str!("../../sql/reconcile/clear_repairs.sql");
            return vec![Statement::new(STEP, sql, vec![catalog])];
        }
        if self.done.is_empty() {
            return Vec::new();
        }
        let sql = include_str!("../../sql/reconcile/remove_repairs.sql");
        let mut params = vec![catalog];
        params.extend(self.done.params());
        vec![Statement::new(STEP, sql, params)]
    }
}
