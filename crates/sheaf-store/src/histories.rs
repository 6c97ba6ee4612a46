//! The histories of several entities at once, and single values beside a range of them.

use sheaf_model::{EntityId, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::buckets::AggregatedAttributes;

/// A range of the histories of some entities of a tenant.
#[derive(Debug)]
pub struct HistoriesOf {
    tenant: i64,
    entities: Vec<i64>,
    from: PgTime,
    to: PgTime,
}

/// The buckets that a range is divided into.
#[derive(Debug, Clone, Copy)]
pub struct Division {
    width_micros: i64,
    origin: PgTime,
}

impl Division {
    /// Buckets of a width, one of which begins at `origin`.
    pub fn new(width_micros: i64, origin: Timestamp) -> Division {
        Division {
            width_micros,
            origin: PgTime(origin),
        }
    }
}

/// A row's place in the histories of several entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPlace {
    /// The instant.
    pub observed_at: Timestamp,
    /// The entity.
    pub entity: EntityId,
    /// The number within the entity's instant; also one that no row has.
    pub seq: i16,
}

impl HistoriesOf {
    /// The histories of these entities in `[from, to)`.
    pub fn new(
        tenant: TenantId,
        entities: impl IntoIterator<Item = EntityId>,
        (from, to): (Timestamp, Timestamp),
    ) -> HistoriesOf {
        HistoriesOf {
            tenant: tenant.0,
            entities: entities.into_iter().map(|entity| entity.0).collect(),
            from: PgTime(from),
            to: PgTime(to),
        }
    }

    /// The aggregates of these attributes in each bucket of each entity, or of all entities together, which are then
    /// entity 0; at most `rows_max` of them.
    pub fn aggregate<'a>(
        &'a self,
        division: &'a Division,
        attributes: &'a AggregatedAttributes,
        is_one_series: &'a bool,
        rows_max: &'a i64,
    ) -> Statement<'a> {
        let mut params = self.parameters();
        params.push((&self.from, Type::TIMESTAMPTZ));
        params.push((&self.to, Type::TIMESTAMPTZ));
        params.push((&division.width_micros, Type::INT8));
        params.push((&division.origin, Type::TIMESTAMPTZ));
        params.push((&attributes.keys, Type::TEXT_ARRAY));
        params.push((&attributes.types, Type::TEXT_ARRAY));
        params.push((&attributes.ends, Type::BOOL));
        params.push((is_one_series, Type::BOOL));
        params.push((rows_max, Type::INT8));
        params.push((&attributes.shown_from, Type::TIMESTAMPTZ_ARRAY));
        Statement::new(
            "aggregating the histories of entities",
            include_str!("../sql/history/aggregate_histories.sql"),
            params,
        )
    }

    /// The rows of a walk in order of time, then entity, at most `rows_max`; those that are whole go to
    /// [`crate::events::history_of`], and their `entity_id` says whose they are. See [`crate::history::is_whole`].
    pub fn walk<'a>(
        &'a self,
        walk: &'a SharedWalk,
        keys: &'a Vec<String>,
        (rows_max, bytes_max): (&'a i64, &'a i64),
    ) -> Statement<'a> {
        let mut params = self.parameters();
        params.push((&walk.observed_at, Type::TIMESTAMPTZ));
        params.push((&walk.entity, Type::INT8));
        params.push((&walk.seq, Type::INT2));
        params.push((&walk.until, Type::TIMESTAMPTZ));
        params.push((keys, Type::TEXT_ARRAY));
        params.push((rows_max, Type::INT8));
        params.push((bytes_max, Type::INT8));
        Statement::new(
            "walking the histories of entities",
            include_str!("../sql/history/walk_histories.sql"),
            params,
        )
    }

    fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![
            (&self.tenant, Type::INT8),
            (&self.entities, Type::INT8_ARRAY),
        ]
    }
}

/// One step through the histories of several entities: what comes after a place, before an instant.
#[derive(Debug)]
pub struct SharedWalk {
    observed_at: PgTime,
    entity: i64,
    seq: i16,
    until: PgTime,
}

impl SharedWalk {
    /// The step from a place to an instant, without it.
    pub fn new(after: SharedPlace, until: Timestamp) -> SharedWalk {
        SharedWalk {
            observed_at: PgTime(after.observed_at),
            entity: after.entity.0,
            seq: after.seq,
            until: PgTime(until),
        }
    }
}

/// Attributes of entities of which one value within a range is wanted.
#[derive(Debug)]
pub struct ValuesBeside {
    tenant: i64,
    entities: Vec<i64>,
    keys: Vec<String>,
    from: PgTime,
    to: PgTime,
}

/// One value of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueBeside {
    /// Whose.
    pub entity: EntityId,
    /// Of which attribute, by its key in rows.
    pub key: String,
    /// When.
    pub observed_at: Timestamp,
    /// The value as JSON.
    pub raw: String,
}

impl ValuesBeside {
    /// Of these attributes of these entities in `[from, to)`.
    pub fn new(
        tenant: TenantId,
        wanted: impl IntoIterator<Item = (EntityId, String)>,
        (from, to): (Timestamp, Timestamp),
    ) -> ValuesBeside {
        let (entities, keys) = wanted
            .into_iter()
            .map(|(entity, key)| (entity.0, key))
            .unzip();
        ValuesBeside {
            tenant: tenant.0,
            entities,
            keys,
            from: PgTime(from),
            to: PgTime(to),
        }
    }

    /// Asks for the last value of each.
    pub fn find_last(&self) -> Statement<'_> {
        self.find(include_str!("../sql/history/find_values_before.sql"))
    }

    /// Asks for the first value of each.
    pub fn find_first(&self) -> Statement<'_> {
        self.find(include_str!("../sql/history/find_values_after.sql"))
    }

    fn find<'a>(&'a self, sql: &'a str) -> Statement<'a> {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.tenant, Type::INT8),
            (&self.entities, Type::INT8_ARRAY),
            (&self.keys, Type::TEXT_ARRAY),
            (&self.from, Type::TIMESTAMPTZ),
            (&self.to, Type::TIMESTAMPTZ),
        ];
        Statement::new("finding values beside a range", sql, params)
    }
}

/// The values that were found.
pub fn values_beside(rows: &[Row]) -> Result<Vec<ValueBeside>, PgError> {
    let found = rows.iter().filter_map(|row| {
        let found: Option<&str> = row.get("found");
        found.map(|text| value_beside(row, text))
    });
    found.collect()
}

fn value_beside(row: &Row, text: &str) -> Result<ValueBeside, PgError> {
    const STEP: &str = "reading a value beside a range";
    let (micros, raw) = text
        .split_once(' ')
        .ok_or_else(|| PgError::unreadable(STEP, "no time"))?;
    let observed_at = micros
        .parse()
        .ok()
        .and_then(|micros| Timestamp::from_micros(micros).ok())
        .ok_or_else(|| PgError::unreadable(STEP, micros))?;
    Ok(ValueBeside {
        entity: EntityId(row.get("entity_id")),
        key: row.get("key"),
        observed_at,
        raw: raw.to_owned(),
    })
}
