//! Events as they are read to be compared, late ones among them.

use std::pin::Pin;

use futures::TryStreamExt;
use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Pool, Reading, Statement};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream};

use super::{Moment, Span, read};
use crate::lake::{CorrectionKey, LakeCorrection, LakeFeed, LakeName};

/// What names an event.
pub type EventKey = CorrectionKey;

/// An instant of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// The tenant.
    pub tenant: TenantId,
    /// The entity.
    pub entity: EntityId,
    /// The instant.
    pub observed_at: Timestamp,
}

/// An event, and when it was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// The event.
    pub event: LakeCorrection,
    /// Whether it was then.
    pub was_counted: bool,
    /// Whether it is now.
    pub is_counted: bool,
}

/// The events of a span of time after one, in the order of the table's key, that were received before a cutoff and that are visible
/// at a moment, whenever they are read: so many at most, and of so many bytes, but one at least.
pub async fn read_range(
    cdc: &Pool,
    span: Span,
    after: CorrectionKey,
    (moment, cutoff): (&Moment, Timestamp),
    rows_max: i64,
    bytes_max: i64,
) -> Result<Vec<LakeCorrection>, PgError> {
    const STEP: &str = "reading the events of a partition";
    let (time, lower, upper) = (
        PgTime(after.observed_at),
        PgTime(span.lower),
        PgTime(span.upper),
    );
    let (taken_at, cutoff) = (PgTime(moment.taken_at), PgTime(cutoff));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&after.tenant.0, Type::INT8),
        (&after.entity.0, Type::INT8),
        (&time, Type::TIMESTAMPTZ),
        (&after.seq, Type::INT2),
        (&lower, Type::TIMESTAMPTZ),
        (&upper, Type::TIMESTAMPTZ),
        (&rows_max, Type::INT8),
        (&moment.snapshot, Type::TEXT),
        (&taken_at, Type::TIMESTAMPTZ),
        (&cutoff, Type::TIMESTAMPTZ),
        (&bytes_max, Type::INT8),
    ];
    let sql = include_str!("../../sql/reconcile/read_range.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    rows.iter()
        .map(|row| LakeCorrection::of_row(row, STEP))
        .collect()
}

/// Events on their way: as they are taken.
pub struct NewEvents {
    rows: Pin<Box<RowStream>>,
    reading: Option<Reading>,
    step: &'static str,
}

impl std::fmt::Debug for NewEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewEvents")
    }
}

impl NewEvents {
    async fn begin(
        cdc: &Pool,
        step: &'static str,
        sql: &str,
        params: Vec<(&(dyn ToSql + Sync), Type)>,
    ) -> Result<NewEvents, PgError> {
        let reading = Reading::begin(cdc).await?;
        let rows = reading.query_typed_raw(sql, params).await;
        Ok(NewEvents {
            rows: Box::pin(rows.map_err(PgError::statement(step))?),
            reading: Some(reading),
            step,
        })
    }

    /// The next one, with whether its instant may have others; none at the end.
    pub async fn next(&mut self) -> Result<Option<(LakeCorrection, bool)>, PgError> {
        let row = self.rows.try_next().await;
        match row.map_err(PgError::statement(self.step))? {
            Some(row) => Ok(Some((
                LakeCorrection::of_row(&row, self.step)?,
                row.get("has_others"),
            ))),
            None => {
                if let Some(reading) = self.reading.take() {
                    reading.rest();
                }
                Ok(None)
            }
        }
    }
}

/// The events of a span of time that count now and did not then, in no order. They were received since an instant.
pub async fn read_new(
    cdc: &Pool,
    span: Span,
    (then, then_cutoff): (&str, Timestamp),
    (now, now_cutoff): (&Moment, Timestamp),
    since: Timestamp,
) -> Result<NewEvents, PgError> {
    let (lower, upper) = (PgTime(span.lower), PgTime(span.upper));
    let (then_cutoff, now_cutoff, since) = (PgTime(then_cutoff), PgTime(now_cutoff), PgTime(since));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lower, Type::TIMESTAMPTZ),
        (&upper, Type::TIMESTAMPTZ),
        (&then, Type::TEXT),
        (&then_cutoff, Type::TIMESTAMPTZ),
        (&now.snapshot, Type::TEXT),
        (&now_cutoff, Type::TIMESTAMPTZ),
        (&since, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../../sql/reconcile/read_new.sql");
    NewEvents::begin(cdc, "reading the new events of a partition", sql, params).await
}

/// The events of a tenant of a span of time that were received before a cutoff, as they are now, in the order of the key.
pub async fn read_hour(
    cdc: &Pool,
    tenant: TenantId,
    span: Span,
    cutoff: Timestamp,
) -> Result<NewEvents, PgError> {
    let (lower, upper, cutoff) = (PgTime(span.lower), PgTime(span.upper), PgTime(cutoff));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&tenant.0, Type::INT8),
        (&lower, Type::TIMESTAMPTZ),
        (&upper, Type::TIMESTAMPTZ),
        (&cutoff, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../../sql/reconcile/read_hour.sql");
    NewEvents::begin(cdc, "reading the events of an hour", sql, params).await
}

/// The events of some instants, in the order of their keys, each with whether it counted then and does now: as of a moment and a
/// cutoff. Without one, all do.
pub async fn read_instants(
    cdc: &Pool,
    instants: &[Instant],
    then: Option<(&str, Timestamp, Timestamp)>,
    now: Option<(&Moment, Timestamp)>,
) -> Result<Vec<KeptEvent>, PgError> {
    const STEP: &str = "reading the events of instants";
    let tenants: Vec<i64> = instants.iter().map(|at| at.tenant.0).collect();
    let entities: Vec<i64> = instants.iter().map(|at| at.entity.0).collect();
    let times: Vec<PgTime> = instants.iter().map(|at| PgTime(at.observed_at)).collect();
    let snapshots = (
        then.map(|(snapshot, ..)| snapshot),
        now.map(|(moment, _)| moment.snapshot.as_str()),
    );
    let taken = (
        then.map(|(_, taken_at, _)| PgTime(taken_at)),
        now.map(|(moment, _)| PgTime(moment.taken_at)),
    );
    let cutoffs = (
        then.map(|(.., cutoff)| PgTime(cutoff)),
        now.map(|(_, cutoff)| PgTime(cutoff)),
    );
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&tenants, Type::INT8_ARRAY),
        (&entities, Type::INT8_ARRAY),
        (&times, Type::TIMESTAMPTZ_ARRAY),
        (&snapshots.0, Type::TEXT),
        (&taken.0, Type::TIMESTAMPTZ),
        (&cutoffs.0, Type::TIMESTAMPTZ),
        (&snapshots.1, Type::TEXT),
        (&taken.1, Type::TIMESTAMPTZ),
        (&cutoffs.1, Type::TIMESTAMPTZ),
    ];
    let sql = include_str!("../../sql/reconcile/read_instants.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    let kept = |row: &Row| {
        Ok(KeptEvent {
            event: LakeCorrection::of_row(row, STEP)?,
            was_counted: row.get("was_counted"),
            is_counted: row.get("is_counted"),
        })
    };
    rows.iter().map(kept).collect()
}

/// The corrections of some instants that wait until the lake's files are written anew, in the order of their keys.
pub async fn read_waiting(
    cdc: &Pool,
    lake: &LakeName,
    instants: &[Instant],
) -> Result<Vec<LakeCorrection>, PgError> {
    const STEP: &str = "reading the corrections of instants that wait";
    let tenants: Vec<i64> = instants.iter().map(|at| at.tenant.0).collect();
    let entities: Vec<i64> = instants.iter().map(|at| at.entity.0).collect();
    let times: Vec<PgTime> = instants.iter().map(|at| PgTime(at.observed_at)).collect();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&lake.catalog, Type::TEXT),
        (&tenants, Type::INT8_ARRAY),
        (&entities, Type::INT8_ARRAY),
        (&times, Type::TIMESTAMPTZ_ARRAY),
    ];
    let sql = include_str!("../../sql/reconcile/read_waiting.sql");
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    rows.iter()
        .map(|row| LakeCorrection::of_row(row, STEP))
        .collect()
}

/// The events of some tenants that a sink lacks because they wait as letters.
pub async fn find_letters(
    cdc: &Pool,
    feed: &LakeFeed,
    tenants: &[i64],
) -> Result<Vec<EventKey>, PgError> {
    let sql = include_str!("../../sql/reconcile/find_letters.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&feed.slot, Type::TEXT),
        (&feed.sink, Type::TEXT),
        (&tenants, Type::INT8_ARRAY),
    ];
    let step = "finding the events that wait as letters";
    let rows = read(cdc, &Statement::new(step, sql, params)).await?;
    let key = |row: &Row| {
        Some(EventKey {
            tenant: TenantId(row.get::<_, Option<i64>>("tenant_id")?),
            entity: EntityId(row.get::<_, Option<i64>>("entity_id")?),
            observed_at: row.get::<_, Option<PgTime>>("observed_at")?.0,
            seq: row.get::<_, Option<i16>>("seq")?,
        })
    };
    Ok(rows.iter().filter_map(key).collect())
}
