//! Events that replace what an earlier one of their instant says, and wait until the files that have it are rewritten.

use sheaf_model::{BatchId, ChangePosition, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::LakeName;
use crate::retention::Removal;

/// What names an event, in the order in which those that wait are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrectionKey {
    /// The instant.
    pub observed_at: Timestamp,
    /// The tenant.
    pub tenant: TenantId,
    /// The entity.
    pub entity: EntityId,
    /// Its place among the events of the instant.
    pub seq: i16,
}

impl CorrectionKey {
    /// Before every other.
    pub const FIRST: CorrectionKey = CorrectionKey {
        observed_at: Timestamp::MIN,
        tenant: TenantId(i64::MIN),
        entity: EntityId(i64::MIN),
        seq: i16::MIN,
    };

    /// What names the event of a row.
    pub(crate) fn of_row(row: &Row) -> CorrectionKey {
        CorrectionKey {
            observed_at: row.get::<_, PgTime>("observed_at").0,
            tenant: TenantId(row.get("tenant_id")),
            entity: EntityId(row.get("entity_id")),
            seq: row.get("seq"),
        }
    }
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeCorrection {
    /// What names it.
    pub key: CorrectionKey,
    /// What it does.
    pub op: Op,
    /// The request that brought it.
    pub batch: BatchId,
    /// When the server received it.
    pub ingested_at: Timestamp,
    /// Its attributes in their stored form.
    pub attrs: Box<str>,
}

impl LakeCorrection {
    /// The event that a row of `entity_events`, or of a table with its columns, is.
    pub(crate) fn of_row(row: &Row, step: &'static str) -> Result<LakeCorrection, PgError> {
        let op = Op::from_letter(row.get("op")).ok_or_else(|| PgError::unreadable(step, "op"))?;
        Ok(LakeCorrection {
            key: CorrectionKey::of_row(row),
            op,
            batch: BatchId(row.get("batch_id")),
            ingested_at: row.get::<_, PgTime>("ingested_at").0,
            attrs: row.get::<_, String>("attrs").into(),
        })
    }
}

/// What a commit of a lake does to the events that wait.
#[derive(Debug, Clone, Default)]
pub struct CorrectionsChange {
    /// None that waited before does any more: the lake begins anew.
    pub clears: bool,
    /// Of a lake that begins anew: history before this it keeps, since that is archived. Where another is by now the commit fails.
    pub archived_before: Option<Timestamp>,
    /// They wait from now on.
    pub added: Vec<LakeCorrection>,
    /// None of the added was committed before this; absent where the lake was said to cover them already.
    pub held_until: Option<ChangePosition>,
    /// They are in the tables.
    pub applied: Vec<CorrectionKey>,
    /// They were asked to be put right, and are.
    pub repaired: Vec<CorrectionKey>,
    /// What retention takes out.
    pub removed: Vec<Removal>,
}

/// The columns of keys, as statements take them.
pub(crate) struct KeyColumns {
    tenants: Vec<i64>,
    entities: Vec<i64>,
    times: Vec<PgTime>,
    seqs: Vec<i16>,
}

impl KeyColumns {
    pub(crate) fn new(keys: impl Iterator<Item = CorrectionKey> + Clone) -> KeyColumns {
        KeyColumns {
            tenants: keys.clone().map(|key| key.tenant.0).collect(),
            entities: keys.clone().map(|key| key.entity.0).collect(),
            times: keys.clone().map(|key| PgTime(key.observed_at)).collect(),
            seqs: keys.map(|key| key.seq).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    pub(crate) fn params(&self) -> [(&(dyn ToSql + Sync), Type); 4] {
        [
            (&self.tenants, Type::INT8_ARRAY),
            (&self.entities, Type::INT8_ARRAY),
            (&self.times, Type::TIMESTAMPTZ_ARRAY),
            (&self.seqs, Type::INT2_ARRAY),
        ]
    }
}

/// The parameters of the statements that a change is.
pub(super) struct ChangeColumns<'a> {
    lake: &'a LakeName,
    clears: bool,
    archived_before: Option<PgTime>,
    added: KeyColumns,
    ops: Vec<i8>,
    batches: Vec<Uuid>,
    ingested: Vec<PgTime>,
    attrs: Vec<&'a str>,
    applied: KeyColumns,
    now: PgTime,
    held_timeline: Option<i64>,
    held_lsn: Option<String>,
}

impl<'a> ChangeColumns<'a> {
    pub(super) fn new(
        lake: &'a LakeName,
        change: &'a CorrectionsChange,
        now: Timestamp,
    ) -> ChangeColumns<'a> {
        let added = || change.added.iter();
        ChangeColumns {
            lake,
            clears: change.clears,
            archived_before: change.archived_before.map(PgTime),
            added: KeyColumns::new(added().map(|waits| waits.key)),
            ops: added().map(|waits| waits.op.letter()).collect(),
            batches: added().map(|waits| waits.batch.0).collect(),
            ingested: added().map(|waits| PgTime(waits.ingested_at)).collect(),
            attrs: added().map(|waits| &*waits.attrs).collect(),
            applied: KeyColumns::new(change.applied.iter().copied()),
            now: PgTime(now),
            held_timeline: change.held_until.map(|at| i64::from(at.timeline)),
            held_lsn: change.held_until.map(|at| at.commit_lsn.to_string()),
        }
    }

    /// Those of them that have anything to do.
    pub(super) fn statements(&self) -> Vec<Statement<'_>> {
        const STEP: &str = "storing which corrections wait";
        let catalog = (&self.lake.catalog as &(dyn ToSql + Sync), Type::TEXT);
        let mut statements = Vec::new();
        if self.clears {
            let sql = include_str!("../../sql/lake/clear_corrections.sql");
            statements.push(Statement::new(STEP, sql, vec![catalog.clone()]));
            let sql = include_str!("../../sql/lake/require_archived_before.sql");
            let params: Vec<(&(dyn ToSql + Sync), Type)> =
                vec![(&self.archived_before, Type::TIMESTAMPTZ)];
            statements.push(Statement::new(STEP, sql, params));
        }
        if !self.applied.is_empty() {
            let sql = include_str!("../../sql/lake/remove_corrections.sql");
            let mut params = vec![catalog.clone()];
            params.extend(self.applied.params());
            statements.push(Statement::new(STEP, sql, params));
        }
        if !self.added.is_empty() {
            let sql = include_str!("../../sql/lake/add_corrections.sql");
            let mut params = vec![catalog];
            params.extend(self.added.params());
            params.extend([
                (&self.ops as _, Type::CHAR_ARRAY),
                (&self.batches as _, Type::UUID_ARRAY),
                (&self.ingested as _, Type::TIMESTAMPTZ_ARRAY),
                (&self.attrs as _, Type::TEXT_ARRAY),
                (&self.now as _, Type::TIMESTAMPTZ),
                (&self.held_timeline as _, Type::INT8),
                (&self.held_lsn as _, Type::TEXT),
            ]);
            statements.push(Statement::new(STEP, sql, params));
        }
        statements
    }
}

/// How many events wait, and since when the first of them, by the writer's clock.
pub async fn count_corrections(
    cdc: &Pool,
    lake: &LakeName,
) -> Result<(u64, Option<Timestamp>), PgError> {
    const STEP: &str = "counting the corrections that wait";
    let sql = include_str!("../../sql/lake/count_corrections.sql");
    let statement = Statement::new(STEP, sql, vec![(&lake.catalog, Type::TEXT)]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let row = rows
        .first()
        .ok_or_else(|| PgError::unreadable(STEP, "no row"))?;
    let oldest_at: Option<PgTime> = row.get("oldest_at");
    Ok((
        row.get::<_, i64>("waiting").cast_unsigned(),
        oldest_at.map(|time| time.0),
    ))
}

/// The instants of these entities of which events wait.
pub async fn find_corrections(
    cdc: &Pool,
    lake: &LakeName,
    instants: &[(TenantId, EntityId, Timestamp)],
) -> Result<Vec<(TenantId, EntityId, Timestamp)>, PgError> {
    let tenants: Vec<i64> = instants.iter().map(|(tenant, ..)| tenant.0).collect();
    let entities: Vec<i64> = instants.iter().map(|(_, entity, _)| entity.0).collect();
    let times: Vec<PgTime> = instants.iter().map(|(.., time)| PgTime(*time)).collect();
    let sql = include_str!("../../sql/lake/find_corrections.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lake.catalog, Type::TEXT),
        (&tenants, Type::INT8_ARRAY),
        (&entities, Type::INT8_ARRAY),
        (&times, Type::TIMESTAMPTZ_ARRAY),
    ];
    let statement = Statement::new("finding the corrections that wait", sql, params);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let instant = |row: &Row| {
        (
            TenantId(row.get("tenant_id")),
            EntityId(row.get("entity_id")),
            row.get::<_, PgTime>("observed_at").0,
        )
    };
    Ok(rows.iter().map(instant).collect())
}

/// The events that wait after one, in the order of their keys: so many at most, and of so many bytes, but one at least.
pub async fn list_corrections(
    cdc: &Pool,
    lake: &LakeName,
    after: CorrectionKey,
    rows_max: i64,
    bytes_max: i64,
) -> Result<Vec<LakeCorrection>, PgError> {
    const STEP: &str = "reading the corrections that wait";
    let sql = include_str!("../../sql/lake/list_corrections.sql");
    let time = PgTime(after.observed_at);
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lake.catalog, Type::TEXT),
        (&time, Type::TIMESTAMPTZ),
        (&after.tenant.0, Type::INT8),
        (&after.entity.0, Type::INT8),
        (&after.seq, Type::INT2),
        (&rows_max, Type::INT8),
        (&bytes_max, Type::INT8),
    ];
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, params)).await?;
    rows.iter()
        .map(|row| LakeCorrection::of_row(row, STEP))
        .collect()
}
