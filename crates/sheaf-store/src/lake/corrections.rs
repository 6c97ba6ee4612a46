//! Events that replace what an earlier one of their instant says, and wait until the files that have it are rewritten.

use sheaf_model::{BatchId, ChangePosition, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Statement};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::LakeName;

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

/// What a commit of a lake does to the events that wait.
#[derive(Debug, Clone, Default)]
pub struct CorrectionsChange {
    /// None that waited before does any more: the lake begins anew.
    pub clears: bool,
    /// They wait from now on.
    pub added: Vec<LakeCorrection>,
    /// None of the added was committed before this; absent where the lake was said to cover them already.
    pub held_until: Option<ChangePosition>,
    /// They are in the tables.
    pub applied: Vec<CorrectionKey>,
}

/// The columns of keys, as statements take them.
struct KeyColumns {
    tenants: Vec<i64>,
    entities: Vec<i64>,
    times: Vec<PgTime>,
    seqs: Vec<i16>,
}

impl KeyColumns {
    fn new(keys: impl Iterator<Item = CorrectionKey>) -> KeyColumns {
        let mut columns = KeyColumns {
            tenants: Vec::new(),
            entities: Vec::new(),
            times: Vec::new(),
            seqs: Vec::new(),
        };
        for key in keys {
            columns.tenants.push(key.tenant.0);
            columns.entities.push(key.entity.0);
            columns.times.push(PgTime(key.observed_at));
            columns.seqs.push(key.seq);
        }
        columns
    }
}

/// The parameters of the statements that a change is.
pub(super) struct ChangeColumns<'a> {
    lake: &'a LakeName,
    clears: bool,
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
        }
        if !self.applied.seqs.is_empty() {
            let sql = include_str!("../../sql/lake/remove_corrections.sql");
            let params = vec![
                catalog.clone(),
                (&self.applied.tenants as _, Type::INT8_ARRAY),
                (&self.applied.entities as _, Type::INT8_ARRAY),
                (&self.applied.times as _, Type::TIMESTAMPTZ_ARRAY),
                (&self.applied.seqs as _, Type::INT2_ARRAY),
            ];
            statements.push(Statement::new(STEP, sql, params));
        }
        if !self.added.seqs.is_empty() {
            let sql = include_str!("../../sql/lake/add_corrections.sql");
            let params = vec![
                catalog,
                (&self.added.tenants as _, Type::INT8_ARRAY),
                (&self.added.entities as _, Type::INT8_ARRAY),
                (&self.added.times as _, Type::TIMESTAMPTZ_ARRAY),
                (&self.added.seqs as _, Type::INT2_ARRAY),
                (&self.ops as _, Type::CHAR_ARRAY),
                (&self.batches as _, Type::UUID_ARRAY),
                (&self.ingested as _, Type::TIMESTAMPTZ_ARRAY),
                (&self.attrs as _, Type::TEXT_ARRAY),
                (&self.now as _, Type::TIMESTAMPTZ),
                (&self.held_timeline as _, Type::INT8),
                (&self.held_lsn as _, Type::TEXT),
            ];
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
    let instant = |row: &tokio_postgres::Row| {
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
    let correction = |row: &tokio_postgres::Row| {
        let op = Op::from_letter(row.get("op")).ok_or_else(|| PgError::unreadable(STEP, "op"))?;
        Ok(LakeCorrection {
            key: CorrectionKey {
                observed_at: row.get::<_, PgTime>("observed_at").0,
                tenant: TenantId(row.get("tenant_id")),
                entity: EntityId(row.get("entity_id")),
                seq: row.get("seq"),
            },
            op,
            batch: BatchId(row.get("batch_id")),
            ingested_at: row.get::<_, PgTime>("ingested_at").0,
            attrs: row.get::<_, String>("attrs").into(),
        })
    };
    rows.iter().map(correction).collect()
}
