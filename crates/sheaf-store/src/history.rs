//! An entity's history as readers walk it: from one row on, forwards or backwards, a bounded number of rows at a time.

use sheaf_model::{AttributeId, AttributeType, EntityId, TenantId, Timestamp};
use sheaf_pg::{PgTime, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::events::HistoryRow;

/// Events of entities that are not read from PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsAsked {
    /// Of which entities.
    pub entities: Vec<EntityId>,
    /// What of them; absent for everything. Events that replace, delete, or are not the first of their instant are given in any
    /// case, with the rest of what they say left out.
    pub attributes: Option<Vec<(AttributeId, AttributeType)>>,
    /// From this instant on.
    pub from: Timestamp,
    /// Up to this instant, without it.
    pub to: Timestamp,
    /// The newest first.
    pub newest_first: bool,
    /// How many are enough. There are more where others are stored beside them.
    pub enough: usize,
    /// Whether it matters which request brought each. Where it does not, none is named: the ids of requests take as much to read as
    /// everything else.
    pub with_requests: bool,
}

/// Events of entities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsRead {
    /// In order of their instant, their entity and their place in the instant; the other way round with the newest first.
    pub events: Vec<(EntityId, HistoryRow)>,
    /// How far was read, if not to the end of what was asked for: the events of the instants before this one are all there; with
    /// the newest first, those of this instant and later ones.
    pub reached: Option<Timestamp>,
}

/// Whose history it is, as parameters of statements.
#[derive(Debug, Clone)]
pub struct HistoryOf {
    tenant: i64,
    entity_type: String,
    external_id: String,
}

impl HistoryOf {
    /// The entity with this name.
    pub fn new(tenant: TenantId, entity_type: &str, external_id: &str) -> HistoryOf {
        HistoryOf {
            tenant: tenant.0,
            entity_type: entity_type.to_owned(),
            external_id: external_id.to_owned(),
        }
    }

    /// Whether it ever had an event: then there is one row.
    pub fn find(&self) -> Statement<'_> {
        Statement::new(
            "finding an entity that has had an event",
            include_str!("../sql/history/find_seen_entity.sql"),
            self.parameters(),
        )
    }

    /// The first parameters of every statement on a history.
    pub(crate) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![
            (&self.tenant, Type::INT8),
            (&self.entity_type, Type::TEXT),
            (&self.external_id, Type::TEXT),
        ]
    }
}

/// Which rows a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forwards,
    /// Newest first.
    Backwards,
    /// Newest first, and only rows that name an attribute beside the keys, or replace or delete.
    ToFloor,
}

/// A row's place in its history. Rows beside it have other numbers, so that `seq` can also be one that no row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The instant.
    pub observed_at: Timestamp,
    /// The number within the instant.
    pub seq: i16,
}

impl Place {
    /// Before every row of an instant.
    pub fn before(observed_at: Timestamp) -> Place {
        Place {
            observed_at,
            seq: -1,
        }
    }

    /// After every row of an instant.
    pub fn after(observed_at: Timestamp) -> Place {
        Place {
            observed_at,
            seq: i16::MAX,
        }
    }
}

/// One step of a walk: the rows between a place and an instant, at most `rows_max` of them.
#[derive(Debug)]
pub struct HistoryStep<'a> {
    of: &'a HistoryOf,
    direction: Direction,
    observed_at: PgTime,
    seq: i16,
    end: PgTime,
    keys: Option<&'a Vec<String>>,
    rows_max: i64,
    bytes_max: i64,
}

impl<'a> HistoryStep<'a> {
    /// The step from a place (exclusive) to an instant: exclusive forwards, inclusive backwards.
    pub fn new(
        of: &'a HistoryOf,
        direction: Direction,
        place: Place,
        end: Timestamp,
        keys: Option<&'a Vec<String>>,
        rows_max: i64,
    ) -> HistoryStep<'a> {
        HistoryStep {
            of,
            direction,
            observed_at: PgTime(place.observed_at),
            seq: place.seq,
            end: PgTime(end),
            keys,
            rows_max,
            bytes_max: i64::MAX,
        }
    }

    /// The same step, whose rows hold no more than about so many bytes together; those beyond are not whole. A walk to the
    /// floor has no such bound.
    pub fn of_bytes(self, bytes_max: i64) -> HistoryStep<'a> {
        HistoryStep { bytes_max, ..self }
    }

    /// Where it ends.
    pub fn end(&self) -> Timestamp {
        self.end.0
    }

    /// The statement, for a reader's transaction; its rows go to [`crate::events::history_of`], those that are whole.
    pub fn statement(&self) -> Statement<'_> {
        let sql = match self.direction {
            Direction::Forwards => include_str!("../sql/history/walk_forwards.sql"),
            Direction::Backwards => include_str!("../sql/history/walk_backwards.sql"),
            Direction::ToFloor => include_str!("../sql/history/walk_to_floor.sql"),
        };
        let mut params = self.of.parameters();
        params.push((&self.observed_at, Type::TIMESTAMPTZ));
        params.push((&self.seq, Type::INT2));
        params.push((&self.end, Type::TIMESTAMPTZ));
        params.push((&self.keys, Type::TEXT_ARRAY));
        params.push((&self.rows_max, Type::INT8));
        match self.direction {
            Direction::Forwards | Direction::Backwards => {
                params.push((&self.bytes_max, Type::INT8));
            }
            Direction::ToFloor => {}
        }
        Statement::new("walking an entity's history", sql, params)
    }
}

/// Whether a row of a step has come with what it holds. One that is not whole, and what follows it, is to be asked for again.
pub fn is_whole(row: &Row) -> bool {
    row.get("is_whole")
}
