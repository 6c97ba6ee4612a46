//! How far sinks are, and what their snapshots read.

use sheaf_model::{ChangePosition, Lsn, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Setting, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{SlotReader, require_lsn, timeline_in, write};
use crate::heartbeat::lsn_in;

/// How long a snapshot may wait for those who write before it lets them pass and tries again.
const WRITERS_WAIT: &str = "2s";

/// The table that a snapshot is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SnapshotStep {
    /// Tenants, as they are when they are read.
    Tenants,
    /// Attributes, as they are when they are read.
    Attributes,
    /// Names of entities that the snapshot sees.
    Entities,
    /// Events that the snapshot sees, of periods that are not archived.
    Events,
    /// Late events that it sees.
    Late,
    /// Keyframes that it sees, of periods that are not archived.
    Keyframes,
    /// It has been read.
    Done,
}

impl SnapshotStep {
    /// In their order.
    pub const ALL: [SnapshotStep; 7] = [
        SnapshotStep::Tenants,
        SnapshotStep::Attributes,
        SnapshotStep::Entities,
        SnapshotStep::Events,
        SnapshotStep::Late,
        SnapshotStep::Keyframes,
        SnapshotStep::Done,
    ];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            SnapshotStep::Tenants => "tenants",
            SnapshotStep::Attributes => "attributes",
            SnapshotStep::Entities => "entities",
            SnapshotStep::Events => "events",
            SnapshotStep::Late => "late",
            SnapshotStep::Keyframes => "keyframes",
            SnapshotStep::Done => "done",
        }
    }
}

/// Where a snapshot has come to: the last row, by the table's key, and its place among all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPlace {
    /// The table.
    pub step: SnapshotStep,
    /// The partition, from 0.
    pub range: usize,
    /// The row's tenant.
    pub tenant: i64,
    /// The row's attribute or entity.
    pub number: i64,
    /// The row's instant; absent before the first event of a partition.
    pub time: Option<Timestamp>,
    /// The row's seq.
    pub seq: i16,
    /// The place of the row in the snapshot, from 1; 0 before the first.
    pub ordinal: u64,
}

impl SnapshotPlace {
    /// Before the first row of a step or partition.
    pub fn before(step: SnapshotStep, range: usize, ordinal: u64) -> SnapshotPlace {
        SnapshotPlace {
            step,
            range,
            tenant: i64::MIN,
            number: i64::MIN,
            time: None,
            seq: -1,
            ordinal,
        }
    }
}

/// How far a sink is, as it was last stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSink {
    /// What its snapshot sees, as PostgreSQL writes it.
    pub snapshot: String,
    /// When the snapshot was taken.
    pub taken_at: Timestamp,
    /// The position before its first row.
    pub base: ChangePosition,
    /// What committed later the snapshot does not see.
    pub until: Lsn,
    /// The spans of time of the partitions that it reads.
    pub ranges: Vec<(Timestamp, Timestamp)>,
    /// How far the sink holds it.
    pub place: SnapshotPlace,
    /// How far the sink holds the stream; absent before the first change.
    pub position: Option<ChangePosition>,
}

/// How far a sink is. None where it never began.
pub async fn find_sink(cdc: &Pool, slot: &str, sink: &str) -> Result<Option<StoredSink>, PgError> {
    const STEP: &str = "reading how far a sink is";
    let sql = include_str!("../../sql/changes/find_sink.sql");
    let statement = Statement::new(STEP, sql, vec![(&slot, Type::TEXT), (&sink, Type::TEXT)]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    rows.first().map(|row| stored_sink(row, STEP)).transpose()
}

fn stored_sink(row: &Row, step: &'static str) -> Result<StoredSink, PgError> {
    let times = |column: &str| row.get::<_, Vec<PgTime>>(column);
    let (lowers, uppers) = (times("range_lowers"), times("range_uppers"));
    Ok(StoredSink {
        snapshot: row.get("snapshot"),
        taken_at: row.get::<_, PgTime>("snapshot_taken_at").0,
        base: ChangePosition::before(
            timeline_in(row, "snapshot_timeline", step)?,
            require_lsn(row, "snapshot_base", step)?,
        ),
        until: require_lsn(row, "snapshot_until", step)?,
        ranges: lowers
            .into_iter()
            .zip(uppers)
            .map(|(lower, upper)| (lower.0, upper.0))
            .collect(),
        place: SnapshotPlace {
            step: step_in(row, step)?,
            range: usize::try_from(row.get::<_, i32>("step_range"))
                .map_err(|_| PgError::unreadable(step, "step_range"))?,
            tenant: row.get("after_tenant"),
            number: row.get("after_number"),
            time: row
                .get::<_, Option<PgTime>>("after_time")
                .map(|time| time.0),
            seq: row.get("after_seq"),
            ordinal: row.get::<_, i64>("snapshot_ordinal").cast_unsigned(),
        },
        position: stream_position_in(row, step)?,
    })
}

/// The table in the column `step`.
pub(super) fn step_in(row: &Row, step: &'static str) -> Result<SnapshotStep, PgError> {
    let name: &str = row.get("step");
    let known = SnapshotStep::ALL
        .into_iter()
        .find(|known| known.as_str() == name);
    known.ok_or_else(|| PgError::unreadable(step, name))
}

/// The position in the columns `timeline`, `commit_lsn` and `ordinal`.
pub(crate) fn stream_position_in(
    row: &Row,
    step: &'static str,
) -> Result<Option<ChangePosition>, PgError> {
    let Some(commit_lsn) = lsn_in(row, "commit_lsn", step)? else {
        return Ok(None);
    };
    Ok(Some(ChangePosition {
        timeline: timeline_in(row, "timeline", step)?,
        commit_lsn,
        ordinal: row.get::<_, i64>("ordinal").cast_unsigned(),
    }))
}

/// The number that the next transaction gets, and the oldest that is running: who waits until the second has passed what the
/// first was, has waited for everybody who was in the middle of something.
pub async fn read_running(cdc: &Pool) -> Result<(i64, i64), PgError> {
    const STEP: &str = "waiting for the transactions that are running";
    let sql = include_str!("../../sql/changes/read_running.sql");
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &Statement::new(STEP, sql, vec![])).await?;
    let row = first_row(&rows, STEP)?;
    Ok((row.get("next_number"), row.get("oldest_number")))
}

/// Begins the snapshot of a sink while nobody is in the middle of writing events. False where somebody else has become the
/// slot's reader, or it has begun already. Waits for writers for a moment; [`sheaf_pg::Disposition::Retry`] is to ask again.
pub async fn begin_snapshot(
    cdc: &Pool,
    reader: &SlotReader,
    sink: &str,
    timeline: u32,
    now: Timestamp,
) -> Result<bool, PgError> {
    let (timeline, now) = (i64::from(timeline), PgTime(now));
    let step = "beginning the snapshot of a sink";
    let lock = include_str!("../../sql/changes/lock_every_bucket.sql");
    let begin = include_str!("../../sql/changes/begin_snapshot.sql");
    let statements = [
        Statement::new(step, lock, vec![]),
        Statement::new(
            step,
            begin,
            vec![
                (&reader.slot, Type::TEXT),
                (&sink, Type::TEXT),
                (&reader.reader, Type::INT8),
                (&timeline, Type::INT8),
                (&now, Type::TIMESTAMPTZ),
            ],
        ),
    ];
    let patience = Setting {
        name: "lock_timeout",
        value: WRITERS_WAIT.to_owned(),
    };
    let client = cdc.get().await?;
    let rows = sheaf_pg::run(&client, Access::Write, Some(&patience), &statements).await?;
    Ok(!rows[1].is_empty())
}

/// Begins a sink that needs no snapshot, at what the slot shows for certain. False as in [`begin_snapshot`].
pub async fn begin_without_snapshot(
    cdc: &Pool,
    reader: &SlotReader,
    sink: &str,
    timeline: u32,
    now: Timestamp,
) -> Result<bool, PgError> {
    let (timeline, now) = (i64::from(timeline), PgTime(now));
    let sql = include_str!("../../sql/changes/begin_without_snapshot.sql");
    let statement = Statement::new(
        "beginning a sink without a snapshot",
        sql,
        vec![
            (&reader.slot, Type::TEXT),
            (&sink, Type::TEXT),
            (&reader.reader, Type::INT8),
            (&timeline, Type::INT8),
            (&now, Type::TIMESTAMPTZ),
        ],
    );
    let rows = write(cdc, &[statement]).await?;
    Ok(!rows[0].is_empty())
}

/// Forgets how far the sinks are that are not among these, and gives back their names: what comes meanwhile is not held for
/// them.
pub async fn forget_other_sinks(
    cdc: &Pool,
    reader: &SlotReader,
    sinks: &[&str],
) -> Result<Vec<String>, PgError> {
    let sql = include_str!("../../sql/changes/forget_other_sinks.sql");
    let statement = Statement::new(
        "forgetting sinks that are not fed any more",
        sql,
        vec![
            (&reader.slot, Type::TEXT),
            (&reader.reader, Type::INT8),
            (&sinks, Type::TEXT_ARRAY),
        ],
    );
    let rows = write(cdc, &[statement]).await?;
    Ok(rows[0].iter().map(|row| row.get("sink_name")).collect())
}

/// Forgets how far a sink is, so that it begins anew.
pub async fn forget_sink(cdc: &Pool, reader: &SlotReader, sink: &str) -> Result<(), PgError> {
    let sql = include_str!("../../sql/changes/forget_sink.sql");
    let statement = Statement::new(
        "forgetting how far a sink is",
        sql,
        vec![
            (&reader.slot, Type::TEXT),
            (&sink, Type::TEXT),
            (&reader.reader, Type::INT8),
        ],
    );
    write(cdc, &[statement]).await?;
    Ok(())
}

/// Stores how far a sink holds its snapshot. False where it may not: somebody else has become the slot's reader, or has
/// stored more.
pub async fn store_snapshot_place(
    cdc: &Pool,
    reader: &SlotReader,
    sink: &str,
    place: &SnapshotPlace,
    now: Timestamp,
) -> Result<bool, PgError> {
    const STEP: &str = "storing how far a sink holds its snapshot";
    let range = i32::try_from(place.range).map_err(|_| PgError::unreadable(STEP, "range"))?;
    let (step, time, now) = (place.step.as_str(), place.time.map(PgTime), PgTime(now));
    let ordinal = place.ordinal.cast_signed();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&reader.slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&reader.reader, Type::INT8),
        (&step, Type::TEXT),
        (&range, Type::INT4),
        (&place.tenant, Type::INT8),
        (&place.number, Type::INT8),
        (&time, Type::TIMESTAMPTZ),
        (&place.seq, Type::INT2),
        (&ordinal, Type::INT8),
        (&now, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../../sql/changes/store_snapshot_place.sql");
    let rows = write(cdc, &[Statement::new(STEP, sql, params)]).await?;
    Ok(!rows[0].is_empty())
}

/// Stores how far a sink holds the stream. False as in [`store_snapshot_place`].
pub async fn store_position(
    cdc: &Pool,
    reader: &SlotReader,
    sink: &str,
    position: ChangePosition,
    now: Timestamp,
) -> Result<bool, PgError> {
    let (timeline, commit_lsn) = (
        i64::from(position.timeline),
        position.commit_lsn.to_string(),
    );
    let (ordinal, now) = (position.ordinal.cast_signed(), PgTime(now));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&reader.slot, Type::TEXT),
        (&sink, Type::TEXT),
        (&reader.reader, Type::INT8),
        (&timeline, Type::INT8),
        (&commit_lsn, Type::TEXT),
        (&ordinal, Type::INT8),
        (&now, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../../sql/changes/store_position.sql");
    let step = "storing how far a sink holds the stream";
    let rows = write(cdc, &[Statement::new(step, sql, params)]).await?;
    Ok(!rows[0].is_empty())
}

/// The spans of time of the partitions that are attached.
pub async fn list_ranges(cdc: &Pool) -> Result<Vec<(Timestamp, Timestamp)>, PgError> {
    let sql = include_str!("../../sql/changes/list_ranges.sql");
    let statement = Statement::new("listing the partitions of a snapshot", sql, vec![]);
    let client = cdc.get().await?;
    let rows = sheaf_pg::run_alone(&client, &statement).await?;
    let time = |row: &Row, column| row.get::<_, PgTime>(column).0;
    Ok(rows
        .iter()
        .map(|row| (time(row, "lower_bound"), time(row, "upper_bound")))
        .collect())
}

/// The next rows of a snapshot after a place, in the order of the table's key, at most so many, and no more events than take so
/// many bytes. None where the table or partition has no more.
pub async fn read_snapshot_rows(
    cdc: &Pool,
    sink: &StoredSink,
    place: &SnapshotPlace,
    rows_max: i64,
    bytes_max: i64,
) -> Result<Vec<Row>, PgError> {
    let taken_at = PgTime(sink.taken_at);
    let time = PgTime(place.time.unwrap_or(Timestamp::MIN));
    let (tenant, number) = (
        (&place.tenant as &(dyn ToSql + Sync), Type::INT8),
        (&place.number as _, Type::INT8),
    );
    let rows_max = (&rows_max as _, Type::INT8);
    let snapshot = (&sink.snapshot as _, Type::TEXT);
    let taken_at = (&taken_at as _, Type::TIMESTAMPTZ);
    let step = "reading the rows of a snapshot";
    let range = sink
        .ranges
        .get(place.range)
        .map(|(lower, upper)| (PgTime(*lower), PgTime(*upper)));
    let statement = match place.step {
        SnapshotStep::Tenants => {
            let sql = include_str!("../../sql/changes/read_tenants.sql");
            Statement::new(step, sql, vec![tenant, rows_max])
        }
        SnapshotStep::Attributes => {
            let sql = include_str!("../../sql/changes/read_attributes.sql");
            Statement::new(step, sql, vec![tenant, number, rows_max])
        }
        SnapshotStep::Entities => {
            let sql = include_str!("../../sql/changes/read_entities.sql");
            let params = vec![tenant, number, rows_max, snapshot, taken_at];
            Statement::new(step, sql, params)
        }
        SnapshotStep::Events => {
            let Some((lower, upper)) = &range else {
                return Ok(Vec::new());
            };
            let sql = include_str!("../../sql/changes/read_events.sql");
            let params = vec![
                tenant,
                number,
                (&time as _, Type::TIMESTAMPTZ),
                (&place.seq as _, Type::INT2),
                (lower as _, Type::TIMESTAMPTZ),
                (upper as _, Type::TIMESTAMPTZ),
                rows_max,
                snapshot,
                taken_at,
                (&bytes_max as _, Type::INT8),
            ];
            Statement::new(step, sql, params)
        }
        SnapshotStep::Late => {
            let sql = include_str!("../../sql/changes/read_late.sql");
            let params = vec![
                tenant,
                number,
                (&time as _, Type::TIMESTAMPTZ),
                (&place.seq as _, Type::INT2),
                rows_max,
                snapshot,
                taken_at,
                (&bytes_max as _, Type::INT8),
            ];
            Statement::new(step, sql, params)
        }
        SnapshotStep::Keyframes => {
            let sql = include_str!("../../sql/changes/read_keyframes.sql");
            let params = vec![
                tenant,
                number,
                (&time as _, Type::TIMESTAMPTZ),
                rows_max,
                snapshot,
                (&bytes_max as _, Type::INT8),
            ];
            Statement::new(step, sql, params)
        }
        SnapshotStep::Done => return Ok(Vec::new()),
    };
    let client = cdc.get().await?;
    sheaf_pg::run_alone(&client, &statement).await
}
