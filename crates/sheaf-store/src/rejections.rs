//! What was refused, kept whole until the cause is mended.

mod replay;

use std::borrow::Cow;
use std::sync::Arc;

use sheaf_model::{BatchId, RefusalCode, RejectionId, Timestamp};
use sheaf_pg::{Access, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::scope::TenantScope;

pub use replay::{
    RefusedEvent, RefusedEvents, ReplaySelection, Settled, choose_refused_events, settle_rejections,
};

/// How a refused event was to be read. Kept with it, so that it can be read again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reading {
    /// As one event in JSON.
    #[default]
    Json,
    /// As one line of InfluxDB line protocol.
    LineProtocol {
        /// The unit of its timestamp: ns, us, ms, s, m or h.
        precision: Cow<'static, str>,
        /// The tags that make the id of its entity, where the request named them; else the tenant's rules decide.
        id_tags: Option<Arc<[String]>>,
    },
}

impl Reading {
    fn format(&self) -> &'static str {
        match self {
            Reading::Json => "json",
            Reading::LineProtocol { .. } => "line_protocol",
        }
    }

    fn precision(&self) -> Option<&str> {
        match self {
            Reading::Json => None,
            Reading::LineProtocol { precision, .. } => Some(precision),
        }
    }

    fn id_tags(&self) -> Option<JsonbWrite<String>> {
        match self {
            Reading::Json => None,
            Reading::LineProtocol { id_tags, .. } => id_tags.as_ref().map(|names| {
                let json = serde_json::to_string(&**names);
                JsonbWrite(json.expect("a list of texts can be written as JSON"))
            }),
        }
    }
}

/// Where the rest of an event is stored of which single values were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// The id of its entity.
    pub external_id: String,
    /// Its instant; absent until it is known, for an event that did not say when it was observed.
    pub observed_at: Option<Timestamp>,
}

/// One refusal on its way into the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRejection {
    /// The place of the event in its request, from 0.
    pub event_index: i32,
    /// The type of the entity, where it could be read.
    pub entity_type: Option<String>,
    /// The attribute or member; absent where it was the whole event.
    pub field: Option<String>,
    /// The stable code.
    pub code: RefusalCode,
    /// The reason, for people.
    pub reason: String,
    /// The event as it was sent.
    pub raw: bytes::Bytes,
    /// How it was to be read.
    pub reading: Reading,
    /// Where the rest of the event is; absent where nothing of it is stored.
    pub rest: Option<Rest>,
}

/// Refusals of one statement, by their number and by their bytes. Larger ones hold more of a request in the memory of
/// both sides at once; smaller ones take more round trips.
const ROWS_PER_STATEMENT_MAX: usize = 5_000;
const BYTES_PER_STATEMENT_MAX: usize = 8 * 1024 * 1024;
/// Bytes of events on a page, which a server holds once as bytes and once more as JSON.
const PAGE_RAW_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// Writes the refusals of one request, in its transaction. They come in order of event, which is kept once.
pub async fn insert_rejections(
    client: &Client,
    scope: &TenantScope,
    batch: BatchId,
    received_at: Timestamp,
    rejections: &[NewRejection],
) -> Result<(), PgError> {
    let ordinals = ordinals(rejections);
    let mut begin = 0;
    while begin < rejections.len() {
        let end = statement_end(rejections, &ordinals, begin);
        let (some, their_ordinals) = (&rejections[begin..end], &ordinals[begin..end]);
        insert_some(client, scope, batch, received_at, some, their_ordinals).await?;
        begin = end;
    }
    Ok(())
}

/// The place of each refusal among those of its event.
fn ordinals(rejections: &[NewRejection]) -> Vec<i32> {
    let mut ordinals: Vec<i32> = Vec::with_capacity(rejections.len());
    for (place, rejection) in rejections.iter().enumerate() {
        let same_event = place > 0 && rejections[place - 1].event_index == rejection.event_index;
        ordinals.push(if same_event {
            ordinals[place - 1] + 1
        } else {
            0
        });
    }
    ordinals
}

/// What is kept of the event with a refusal: all of it with the first one, nothing with the others.
fn kept_raw(rejection: &NewRejection, ordinal: i32) -> Option<&[u8]> {
    (ordinal == 0).then_some(rejection.raw.as_ref())
}

/// Where the statement ends whose first refusal is at `begin`; it holds at least that one.
fn statement_end(rejections: &[NewRejection], ordinals: &[i32], begin: usize) -> usize {
    let mut bytes = 0;
    for (place, rejection) in rejections.iter().enumerate().skip(begin) {
        bytes += kept_raw(rejection, ordinals[place]).map_or(0, <[u8]>::len)
            + rejection.reason.len()
            + rejection.field.as_ref().map_or(0, String::len)
            + rejection.entity_type.as_ref().map_or(0, String::len);
        let is_full = place - begin == ROWS_PER_STATEMENT_MAX || bytes > BYTES_PER_STATEMENT_MAX;
        if is_full && place > begin {
            return place;
        }
    }
    rejections.len()
}

async fn insert_some(
    client: &Client,
    scope: &TenantScope,
    batch: BatchId,
    received_at: Timestamp,
    rejections: &[NewRejection],
    ordinals: &[i32],
) -> Result<(), PgError> {
    let ids: Vec<Uuid> = rejections.iter().map(|_| RejectionId::new().0).collect();
    let indexes: Vec<i32> = rejections
        .iter()
        .map(|rejection| rejection.event_index)
        .collect();
    let types: Vec<Option<&str>> = rejections
        .iter()
        .map(|r| r.entity_type.as_deref())
        .collect();
    let fields: Vec<Option<Cow<'_, str>>> = rejections
        .iter()
        .map(|r| r.field.as_deref().map(storable))
        .collect();
    let codes: Vec<&str> = rejections.iter().map(|r| r.code.as_str()).collect();
    let reasons: Vec<Cow<'_, str>> = rejections.iter().map(|r| storable(&r.reason)).collect();
    let raws: Vec<Option<&[u8]>> = rejections
        .iter()
        .zip(ordinals)
        .map(|(rejection, ordinal)| kept_raw(rejection, *ordinal))
        .collect();
    let formats: Vec<&str> = rejections.iter().map(|r| r.reading.format()).collect();
    let precisions: Vec<Option<&str>> = rejections.iter().map(|r| r.reading.precision()).collect();
    let id_tags: Vec<Option<JsonbWrite<String>>> =
        rejections.iter().map(|r| r.reading.id_tags()).collect();
    let rests = rejections.iter().map(|r| r.rest.as_ref());
    let external_ids: Vec<Option<&str>> = rests
        .clone()
        .map(|rest| rest.map(|rest| rest.external_id.as_str()))
        .collect();
    let times: Vec<Option<PgTime>> = rests
        .map(|rest| rest.and_then(|rest| rest.observed_at).map(PgTime))
        .collect();
    client
        .execute_typed(
            include_str!("../sql/rejections/insert_rejections.sql"),
            &[
                (&scope.tenant().0, Type::INT8),
                (&batch.0, Type::UUID),
                (&PgTime(received_at), Type::TIMESTAMPTZ),
                (&ids, Type::UUID_ARRAY),
                (&indexes, Type::INT4_ARRAY),
                (&ordinals, Type::INT4_ARRAY),
                (&types, Type::TEXT_ARRAY),
                (&fields, Type::TEXT_ARRAY),
                (&codes, Type::TEXT_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
                (&raws, Type::BYTEA_ARRAY),
                (&formats, Type::TEXT_ARRAY),
                (&precisions, Type::TEXT_ARRAY),
                (&id_tags, Type::JSONB_ARRAY),
                (&external_ids, Type::TEXT_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
            ],
        )
        .await
        .map_err(PgError::statement("keeping what was refused"))
        .map(drop)
}

/// A refusal as an answer lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRejection {
    /// The place of the event in its request, from 0.
    pub event_index: i32,
    /// The attribute or member; absent where it was the whole event.
    pub field: Option<String>,
    /// The stable code.
    pub code: String,
    /// The reason, for people.
    pub reason: String,
}

/// A text that PostgreSQL can hold: a refused name may be refused for the NUL in it. The event's bytes keep it.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// What is kept of the refusals of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRejections {
    /// The first of them, in order of event.
    pub first: Vec<ListedRejection>,
    /// The very first one's event as it was sent.
    pub first_raw: Option<Vec<u8>>,
    /// How many events had anything refused.
    pub bad_events: i64,
}

/// The first refusals of a request and their extent.
pub async fn fetch_batch_rejections(
    app: &Pool,
    scope: &TenantScope,
    batch: BatchId,
    rejections_max: i64,
) -> Result<BatchRejections, PgError> {
    let tenant = scope.tenant().0;
    let list = Statement::new(
        "listing the refusals of a request",
        include_str!("../sql/rejections/list_batch_rejections.sql"),
        vec![
            (&tenant, Type::INT8),
            (&batch.0, Type::UUID),
            (&rejections_max, Type::INT8),
        ],
    );
    let count = Statement::new(
        "counting the bad events of a request",
        include_str!("../sql/rejections/count_bad_events.sql"),
        vec![(&tenant, Type::INT8), (&batch.0, Type::UUID)],
    );
    let rows = scope.run(app, Access::Read, &[list, count]).await?;
    Ok(BatchRejections {
        first: rows[0].iter().map(listed_of).collect(),
        first_raw: rows[0].first().and_then(|row| row.get("raw")),
        bad_events: rows[1].first().map_or(0, |row| row.get("bad_events")),
    })
}

fn listed_of(row: &Row) -> ListedRejection {
    ListedRejection {
        event_index: row.get("event_index"),
        field: row.get("field"),
        code: row.get("code"),
        reason: row.get("reason"),
    }
}

/// A refusal with all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its number.
    pub id: RejectionId,
    /// The request that brought it.
    pub batch: BatchId,
    /// What was refused and why.
    pub listed: ListedRejection,
    /// The event as it was sent.
    pub raw: Vec<u8>,
    /// When the request arrived.
    pub received_at: Timestamp,
    /// open, replayed or discarded.
    pub status: String,
}

/// Which refusals a page holds; what is absent leaves all through.
#[derive(Debug, Clone, Default)]
pub struct RejectionFilter {
    /// Of one request.
    pub batch: Option<BatchId>,
    /// With one code.
    pub code: Option<String>,
    /// Of entities of one type.
    pub entity_type: Option<String>,
    /// With one status.
    pub status: Option<String>,
    /// Received at or after.
    pub from: Option<Timestamp>,
    /// Received before.
    pub to: Option<Timestamp>,
    /// Older than this one: where a page goes on.
    pub before: Option<RejectionId>,
}

/// A page of refusals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectionPage {
    /// Newest first. Fewer than were asked for where their events are large.
    pub rejections: Vec<Rejection>,
    /// Whether older ones follow.
    pub has_more: bool,
}

/// A page of refusals, newest first: at most so many, and of at most 8 MiB of events unless it is a single one.
pub async fn list_rejections(
    app: &Pool,
    scope: &TenantScope,
    filter: &RejectionFilter,
    rejections_max: i64,
) -> Result<RejectionPage, PgError> {
    let tenant = scope.tenant().0;
    let (batch, before) = (filter.batch.map(|id| id.0), filter.before.map(|id| id.0));
    let (from, to) = (filter.from.map(PgTime), filter.to.map(PgTime));
    let params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&tenant, Type::INT8),
        (&batch, Type::UUID),
        (&filter.code, Type::TEXT),
        (&filter.entity_type, Type::TEXT),
        (&filter.status, Type::TEXT),
        (&from, Type::TIMESTAMPTZ),
        (&to, Type::TIMESTAMPTZ),
        (&before, Type::UUID),
        (&rejections_max, Type::INT8),
        (&PAGE_RAW_BYTES_MAX, Type::INT8),
    ];
    let sql = include_str!("../sql/rejections/list_rejections.sql");
    let rows = scope
        .run_one(
            app,
            Access::Read,
            Statement::new("listing refusals", sql, params),
        )
        .await?;
    let found: i64 = rows.first().map_or(0, |row| row.get("found"));
    let rejections: Vec<Rejection> = rows
        .iter()
        .map(|row| Rejection {
            id: RejectionId(row.get("rejection_id")),
            batch: BatchId(row.get("batch_id")),
            listed: listed_of(row),
            raw: row.get("raw"),
            received_at: row.get::<_, PgTime>("received_at").0,
            status: row.get("status"),
        })
        .collect();
    Ok(RejectionPage {
        has_more: usize::try_from(found).is_ok_and(|found| found > rejections.len()),
        rejections,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(event_index: i32, count: usize, raw: &bytes::Bytes) -> Vec<NewRejection> {
        let refusal = NewRejection {
            event_index,
            entity_type: None,
            field: None,
            code: RefusalCode::TypeMismatch,
            reason: "no".to_owned(),
            raw: raw.clone(),
            reading: Reading::Json,
            rest: None,
        };
        vec![refusal; count]
    }

    fn statements(rejections: &[NewRejection]) -> Vec<usize> {
        let ordinals = ordinals(rejections);
        let (mut ends, mut begin) = (Vec::new(), 0);
        while begin < rejections.len() {
            begin = statement_end(rejections, &ordinals, begin);
            ends.push(begin);
        }
        ends
    }

    #[test]
    fn a_statement_is_bounded_by_rows_and_by_the_bytes_that_are_kept() {
        let large = bytes::Bytes::from(vec![b'x'; 1024 * 1024]);
        assert_eq!(statements(&[]), Vec::<usize>::new());
        assert_eq!(statements(&refusals(0, 990, &large)), [990]);
        assert_eq!(
            statements(&refusals(0, 12_000, &large)),
            [5_000, 10_000, 12_000]
        );
        let many: Vec<NewRejection> = (0..15).flat_map(|at| refusals(at, 2, &large)).collect();
        assert_eq!(statements(&many), [14, 28, 30]);
        let huge = bytes::Bytes::from(vec![b'x'; BYTES_PER_STATEMENT_MAX + 1]);
        let some: Vec<NewRejection> = (0..3).flat_map(|at| refusals(at, 1, &huge)).collect();
        assert_eq!(statements(&some), [1, 2, 3]);
    }
}
