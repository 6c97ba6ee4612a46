//! The lake's own rows: where its tables are, how far the change stream is in them, what waits to be corrected, and what the
//! numbers in events mean. As `sheaf_cdc`.

mod corrections;

use sheaf_model::{AttributeId, AttributeType, ChangePosition, EntityId, TenantId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::heartbeat::lsn_in;
use crate::reconcile::RepairColumns;
use crate::retention::RemovalColumns;
use crate::settings::Settings;
use crate::snapshot::{Snapshot, read_snapshot, snapshot_of};

pub(crate) use corrections::KeyColumns;
pub use corrections::{
    CorrectionKey, CorrectionsChange, LakeCorrection, count_corrections, find_corrections,
    list_corrections,
};

/// Which lake: its tables are found by this in every SQL catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeName {
    /// The catalogue.
    pub catalog: String,
    /// The namespace of its tables.
    pub namespace: String,
}

/// How far the change stream is in a lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LakePosition {
    /// How many commits there were.
    pub number: i64,
    /// The position before the first row of the snapshot that it began with; absent before any.
    pub base: Option<ChangePosition>,
    /// The place of the last row of the snapshot that it holds; 0 for none.
    pub snapshot: u64,
    /// The last change of the stream that it holds; absent for none.
    pub stream: Option<ChangePosition>,
}

/// A lake as it was last committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeStanding {
    /// How far it is.
    pub position: LakePosition,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Its tables, and where the newest metadata of each is.
    pub tables: Vec<(String, String)>,
}

impl LakeStanding {
    /// Where the newest metadata of a table is; absent where it has none.
    pub fn location(&self, table: &str) -> Option<&str> {
        let known = self.tables.iter().find(|(name, _)| name == table);
        known.map(|(_, location)| location.as_str())
    }
}

/// A table that a commit changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwappedTable {
    /// Its name.
    pub name: String,
    /// Where its metadata was when the commit was begun; absent for a new table.
    pub from: Option<String>,
    /// Where it is after.
    pub to: String,
}

/// Makes the rows of a lake that has none, which is then known by this number.
pub async fn begin_lake(
    cdc: &Pool,
    lake: &LakeName,
    location: &str,
    owner: &str,
    now: Timestamp,
) -> Result<(), PgError> {
    let step = "making the rows of the lake";
    let now = PgTime(now);
    let position = include_str!("../sql/lake/begin_lake.sql");
    let namespace = include_str!("../sql/lake/begin_namespace.sql");
    let statements = [
        Statement::new(
            step,
            position,
            vec![(&lake.catalog, Type::TEXT), (&now, Type::TIMESTAMPTZ)],
        ),
        Statement::new(
            step,
            namespace,
            vec![
                (&lake.catalog, Type::TEXT),
                (&lake.namespace, Type::TEXT),
                (&location, Type::TEXT),
                (&owner, Type::TEXT),
            ],
        ),
    ];
    let client = cdc.get().await?;
    sheaf_pg::run(&client, Access::Write, None, &statements).await?;
    Ok(())
}

/// The number that a lake is known by among those who use its location. None where it was never begun.
pub async fn read_owner(cdc: &Pool, lake: &LakeName) -> Result<Option<String>, PgError> {
    let sql = include_str!("../sql/lake/read_owner.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&lake.catalog, Type::TEXT), (&lake.namespace, Type::TEXT)];
    let statement = Statement::new("reading whose lake it is", sql, params);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    Ok(rows.first().map(|row| row.get("owner")))
}

/// What a lake was last committed as: position and tables of one moment. None where it was never begun.
pub async fn read_lake(cdc: &Pool, lake: &LakeName) -> Result<Option<LakeStanding>, PgError> {
    let client = cdc.get().await?;
    let rows = sheaf_pg::run(&client, Access::Read, None, &standing_statements(lake)).await?;
    standing_of(&rows[0], &rows[1])
}

const STANDING: &str = "reading how far the lake is";

pub(crate) fn standing_statements(lake: &LakeName) -> [Statement<'_>; 2] {
    let position = include_str!("../sql/lake/read_position.sql");
    let tables = include_str!("../sql/lake/list_tables.sql");
    [
        Statement::new(STANDING, position, vec![(&lake.catalog, Type::TEXT)]),
        Statement::new(
            STANDING,
            tables,
            vec![(&lake.catalog, Type::TEXT), (&lake.namespace, Type::TEXT)],
        ),
    ]
}

pub(crate) fn standing_of(
    position: &[Row],
    tables: &[Row],
) -> Result<Option<LakeStanding>, PgError> {
    const STEP: &str = STANDING;
    let Some(row) = position.first() else {
        return Ok(None);
    };
    let base = position_in(row, "base_timeline", "base_lsn", STEP)?;
    let mut stream = position_in(row, "timeline", "commit_lsn", STEP)?;
    if let Some(stream) = &mut stream {
        stream.ordinal = row.get::<_, i64>("ordinal").cast_unsigned();
    }
    Ok(Some(LakeStanding {
        position: LakePosition {
            number: row.get("commit_number"),
            base,
            snapshot: row.get::<_, i64>("snapshot_ordinal").cast_unsigned(),
            stream,
        },
        committed_at: row.get::<_, PgTime>("committed_at").0,
        tables: tables
            .iter()
            .map(|row| (row.get("table_name"), row.get("metadata_location")))
            .collect(),
    }))
}

/// How a lake is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFeed {
    /// The slot that it is fed from.
    pub slot: String,
    /// Its name among the sinks of that slot.
    pub sink: String,
}

/// How far a sink is fed whose snapshot has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// The position before the first row of that snapshot.
    pub base: ChangePosition,
    /// Everything that was committed before this is in the sink.
    pub until: ChangePosition,
}

/// A lake and what there is beside it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeLook {
    /// As it was last committed; absent where it was never begun.
    pub standing: Option<LakeStanding>,
    /// How far it is fed; absent while its snapshot goes on, and where nobody feeds it.
    pub followed: Option<Followed>,
    /// Beyond this there are corrections that its tables do not have yet; absent where none waits.
    pub held_until: Option<ChangePosition>,
    /// How far the database itself is.
    pub now: Snapshot,
}

/// Looks at a lake, as `sheaf_app`.
pub async fn look_at_lake(
    app: &Pool,
    lake: &LakeName,
    feed: &LakeFeed,
    settings: &Settings,
) -> Result<LakeLook, PgError> {
    const STEP: &str = FED;
    let [position, tables] = standing_statements(lake);
    let followed = followed_statement(feed);
    let held = include_str!("../sql/lake/read_held_until.sql");
    let held = Statement::new(STEP, held, vec![(&lake.catalog, Type::TEXT)]);
    let statements = [position, tables, followed, held, read_snapshot()];
    let client = app.get().await?;
    let rows = sheaf_pg::run(&client, Access::Read, None, &statements).await?;
    Ok(LakeLook {
        standing: standing_of(&rows[0], &rows[1])?,
        followed: followed_of(&rows[2])?,
        held_until: match rows[3].first() {
            Some(row) => position_in(row, "timeline", "lsn", STEP)?,
            None => None,
        },
        now: snapshot_of(&rows[4], settings)?,
    })
}

/// A lake and how far it is fed, at one moment, as `sheaf_cdc`.
pub async fn read_fed(
    cdc: &Pool,
    lake: &LakeName,
    feed: &LakeFeed,
) -> Result<(Option<LakeStanding>, Option<Followed>), PgError> {
    let [position, tables] = standing_statements(lake);
    let statements = [position, tables, followed_statement(feed)];
    let client = cdc.get().await?;
    let rows = sheaf_pg::run(&client, Access::Read, None, &statements).await?;
    Ok((standing_of(&rows[0], &rows[1])?, followed_of(&rows[2])?))
}

const FED: &str = "reading how far the lake is fed";

fn followed_statement(feed: &LakeFeed) -> Statement<'_> {
    let sql = include_str!("../sql/lake/read_followed.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&feed.slot, Type::TEXT), (&feed.sink, Type::TEXT)];
    Statement::new(FED, sql, params)
}

fn followed_of(rows: &[Row]) -> Result<Option<Followed>, PgError> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let gone = |what: &'static str| move || PgError::unreadable(FED, what);
    let base = position_in(row, "base_timeline", "base_lsn", FED)?;
    let until = position_in(row, "timeline", "promised_lsn", FED)?;
    Ok(Some(Followed {
        base: base.ok_or_else(gone("base_lsn"))?,
        until: until.ok_or_else(gone("promised_lsn"))?,
    }))
}

pub(crate) fn position_in(
    row: &Row,
    timeline: &str,
    lsn: &str,
    step: &'static str,
) -> Result<Option<ChangePosition>, PgError> {
    let Some(lsn) = lsn_in(row, lsn, step)? else {
        return Ok(None);
    };
    let number: Option<i64> = row.get(timeline);
    let timeline = number.and_then(|number| u32::try_from(number).ok());
    let timeline = timeline.ok_or_else(|| PgError::unreadable(step, "timeline"))?;
    Ok(Some(ChangePosition::before(timeline, lsn)))
}

/// Commits a lake, and which corrections wait, from exactly the commit that is numbered in `position`, or not at all: then the
/// error is [`sheaf_pg::Disposition::Retry`], and what is there now has to be read again. Gives back the number of the commit.
pub async fn commit_lake(
    cdc: &Pool,
    lake: &LakeName,
    position: &LakePosition,
    tables: &[SwappedTable],
    corrections: &CorrectionsChange,
    now: Timestamp,
) -> Result<i64, PgError> {
    const STEP: &str = "committing the lake";
    let repairs = RepairColumns::new(lake, corrections.clears, &corrections.repaired);
    let removals = RemovalColumns::new(
        &corrections.removed,
        corrections.clears,
        corrections.archived_before,
    );
    let corrections = corrections::ChangeColumns::new(lake, corrections, now);
    let timeline = |position: Option<ChangePosition>| position.map(|at| i64::from(at.timeline));
    let lsn = |position: Option<ChangePosition>| position.map(|at| at.commit_lsn.to_string());
    let (base_timeline, base_lsn) = (timeline(position.base), lsn(position.base));
    let (stream_timeline, stream_lsn) = (timeline(position.stream), lsn(position.stream));
    let ordinal = position.stream.map(|at| at.ordinal.cast_signed());
    let (snapshot, now) = (position.snapshot.cast_signed(), PgTime(now));
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let from: Vec<Option<&str>> = tables.iter().map(|table| table.from.as_deref()).collect();
    let to: Vec<&str> = tables.iter().map(|table| table.to.as_str()).collect();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lake.catalog, Type::TEXT),
        (&lake.namespace, Type::TEXT),
        (&position.number, Type::INT8),
        (&base_timeline, Type::INT8),
        (&base_lsn, Type::TEXT),
        (&snapshot, Type::INT8),
        (&stream_timeline, Type::INT8),
        (&stream_lsn, Type::TEXT),
        (&ordinal, Type::INT8),
        (&now, Type::TIMESTAMPTZ),
        (&names, Type::TEXT_ARRAY),
        (&from, Type::TEXT_ARRAY),
        (&to, Type::TEXT_ARRAY),
    ];
    let sql = include_str!("../sql/lake/commit_lake.sql");
    let client = cdc.get().await?;
    // The position first: its row is what other writers wait for.
    let mut statements = vec![Statement::new(STEP, sql, params)];
    statements.append(&mut corrections.statements());
    statements.append(&mut repairs.statements());
    statements.append(&mut removals.statements());
    let rows = sheaf_pg::run(&client, Access::Write, None, &statements).await?;
    let row = rows[0]
        .first()
        .ok_or_else(|| PgError::unreadable(STEP, "no row"))?;
    Ok(row.get("commit_number"))
}

/// What an attribute is called and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAttribute {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its number.
    pub attribute: AttributeId,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: AttributeType,
}

/// What attributes are called and what they hold. Numbers that do not exist are left out.
pub async fn name_attributes(
    cdc: &Pool,
    attributes: &[(TenantId, AttributeId)],
) -> Result<Vec<NamedAttribute>, PgError> {
    const STEP: &str = "reading what attributes are called";
    let numbers = attributes.iter().map(|(tenant, id)| (tenant.0, id.0));
    let sql = include_str!("../sql/lake/name_attributes.sql");
    let rows = read_numbered(cdc, STEP, sql, numbers).await?;
    let attribute = |row: &Row| {
        let kind: &str = row.get("type");
        Ok(NamedAttribute {
            tenant: TenantId(row.get("tenant_id")),
            attribute: AttributeId(row.get("attribute_id")),
            name: row.get("name"),
            kind: AttributeType::parse(kind).ok_or_else(|| PgError::unreadable(STEP, kind))?,
        })
    };
    rows.iter().map(attribute).collect()
}

/// What an entity is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEntity {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its number.
    pub entity: EntityId,
    /// Its type.
    pub entity_type: String,
    /// Its id within that.
    pub external_id: String,
}

/// What entities are called. Numbers that do not exist are left out.
pub async fn name_entities(
    cdc: &Pool,
    entities: &[(TenantId, EntityId)],
) -> Result<Vec<NamedEntity>, PgError> {
    let numbers = entities.iter().map(|(tenant, id)| (tenant.0, id.0));
    let sql = include_str!("../sql/lake/name_entities.sql");
    let rows = read_numbered(cdc, "reading what entities are called", sql, numbers).await?;
    let entity = |row: &Row| NamedEntity {
        tenant: TenantId(row.get("tenant_id")),
        entity: EntityId(row.get("entity_id")),
        entity_type: row.get("entity_type"),
        external_id: row.get("external_id"),
    };
    Ok(rows.iter().map(entity).collect())
}

async fn read_numbered(
    cdc: &Pool,
    step: &'static str,
    sql: &str,
    numbers: impl Iterator<Item = (i64, i64)>,
) -> Result<Vec<Row>, PgError> {
    let (tenants, numbers): (Vec<i64>, Vec<i64>) = numbers.unzip();
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&tenants, Type::INT8_ARRAY), (&numbers, Type::INT8_ARRAY)];
    let client = cdc.get().await?;
    sheaf_pg::run_alone(&client, &Statement::new(step, sql, params)).await
}
