//! Events that were reported for a time which was closed to writes, as readers walk them beside the others.

use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Statement, first_row};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::histories::SharedPlace;

/// The late events of some entities.
#[derive(Debug)]
pub struct LateEvents {
    tenant: i64,
    entities: Vec<i64>,
}

/// One step through them: those between a place and an instant, at most `rows_max`.
#[derive(Debug)]
pub struct LateStep {
    newest_first: bool,
    observed_at: PgTime,
    entity: i64,
    seq: i16,
    end: PgTime,
    rows_max: i64,
    bytes_max: i64,
}

impl LateStep {
    /// The step from a place (exclusive) to an instant: exclusive forwards, inclusive with the newest first.
    pub fn new(
        newest_first: bool,
        place: SharedPlace,
        end: Timestamp,
        (rows_max, bytes_max): (i64, i64),
    ) -> LateStep {
        LateStep {
            newest_first,
            observed_at: PgTime(place.observed_at),
            entity: place.entity.0,
            seq: place.seq,
            end: PgTime(end),
            rows_max,
            bytes_max,
        }
    }
}

impl LateEvents {
    /// Those of these entities.
    pub fn new(tenant: TenantId, entities: impl IntoIterator<Item = EntityId>) -> LateEvents {
        LateEvents {
            tenant: tenant.0,
            entities: entities.into_iter().map(|entity| entity.0).collect(),
        }
    }

    /// A step, whose rows are as those of [`crate::histories::HistoriesOf::walk`].
    pub fn walk<'a>(&'a self, step: &'a LateStep) -> Statement<'a> {
        let sql = match step.newest_first {
            true => include_str!("../sql/history/walk_late_backwards.sql"),
            false => include_str!("../sql/history/walk_late_forwards.sql"),
        };
        let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.tenant, Type::INT8),
            (&self.entities, Type::INT8_ARRAY),
            (&step.observed_at, Type::TIMESTAMPTZ),
            (&step.entity, Type::INT8),
            (&step.seq, Type::INT2),
            (&step.end, Type::TIMESTAMPTZ),
            (&step.rows_max, Type::INT8),
            (&step.bytes_max, Type::INT8),
        ];
        Statement::new("walking late events", sql, params)
    }

    /// Asks for the last instant of a range that has one; see [`last_late`].
    pub fn find_last<'a>(&'a self, range: &'a LateRange) -> Statement<'a> {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.tenant, Type::INT8),
            (&self.entities, Type::INT8_ARRAY),
            (&range.from, Type::TIMESTAMPTZ),
            (&range.to, Type::TIMESTAMPTZ),
        ];
        let sql = include_str!("../sql/history/find_last_late.sql");
        Statement::new(LAST, sql, params)
    }
}

const LAST: &str = "finding the last late event";

/// From an instant to another, without it.
#[derive(Debug)]
pub struct LateRange {
    from: PgTime,
    to: PgTime,
}

impl LateRange {
    /// From an instant to another, without it.
    pub fn new(from: Timestamp, to: Timestamp) -> LateRange {
        LateRange {
            from: PgTime(from),
            to: PgTime(to),
        }
    }
}

/// The instant in the rows of [`LateEvents::find_last`]; absent where there is none.
pub fn last_late(rows: &[Row]) -> Result<Option<Timestamp>, PgError> {
    let row = first_row(rows, LAST)?;
    let at: Option<PgTime> = row.get("last_at");
    Ok(at.map(|at| at.0))
}
