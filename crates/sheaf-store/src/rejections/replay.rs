//! Refused events on their way back: chosen oldest first, and settled once what they hold is stored.

use std::borrow::Cow;
use std::sync::Arc;

use sheaf_model::{BatchId, Lineage, Refusal, RefusalCode, RejectionId, Timestamp};
use sheaf_pg::{Access, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Reading, Rest};
use crate::scope::TenantScope;

/// Which open refusals are to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplaySelection {
    /// These.
    Ids(Vec<RejectionId>),
    /// Those of one request.
    Batch(BatchId),
    /// Those with one code.
    Code(RefusalCode),
}

/// A refused event with what is open of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEvent {
    /// The event as it was sent.
    pub raw: Vec<u8>,
    /// The request that brought it.
    pub batch: BatchId,
    /// Its place there, from 0.
    pub event_index: i32,
    /// The type of its entity, where it could be read.
    pub entity_type: Option<String>,
    /// How it is to be read; absent where it was refused before that was kept.
    pub reading: Option<Reading>,
    /// When its request arrived.
    pub received_at: Timestamp,
    /// Where the rest of it is; absent where nothing of it is stored.
    pub rest: Option<Rest>,
    /// What is open of it, in order: the refusal's number and the attribute, if it is of one.
    pub open: Vec<(RejectionId, Option<String>)>,
    /// Why the first of these was refused.
    pub refusal: Refusal,
}

/// Some refused events, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusedEvents {
    /// The events.
    pub events: Vec<RefusedEvent>,
    /// Where others follow, the last refusal of these.
    pub last: Option<RejectionId>,
}

/// Bytes of events that are chosen together: they are decoded and stored as one request.
const CHOSEN_RAW_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// The oldest of the selected refusals after one, at most so many, with their events whole.
pub async fn choose_refused_events(
    app: &Pool,
    scope: &TenantScope,
    selection: &ReplaySelection,
    after: Option<RejectionId>,
    rejections_max: i64,
) -> Result<RefusedEvents, PgError> {
    let tenant = scope.tenant().0;
    let (ids, batch, code) = match selection {
        ReplaySelection::Ids(ids) => (Some(ids.iter().map(|id| id.0).collect()), None, None),
        ReplaySelection::Batch(batch) => (None, Some(batch.0), None),
        ReplaySelection::Code(code) => (None, None, Some(code.as_str())),
    };
    let ids: Option<Vec<Uuid>> = ids;
    let after = after.map(|id| id.0);
    let choose = Statement::new(
        "choosing refused events",
        include_str!("../../sql/rejections/choose_refused_events.sql"),
        vec![
            (&tenant, Type::INT8),
            (&ids, Type::UUID_ARRAY),
            (&batch, Type::UUID),
            (&code, Type::TEXT),
            (&after, Type::UUID),
            (&rejections_max, Type::INT8),
            (&CHOSEN_RAW_BYTES_MAX, Type::INT8),
        ],
    );
    let rows = scope.run_one(app, Access::Read, choose).await?;
    let mut events = rows
        .iter()
        .map(refused_event_of)
        .collect::<Result<Vec<_>, _>>()?;
    find_rests(app, scope, &mut events).await?;
    let has_more = rows.last().is_some_and(|row| {
        let (found, events_found): (i64, i64) = (row.get("found"), row.get("events"));
        found > rejections_max || usize::try_from(events_found).is_ok_and(|all| all > rows.len())
    });
    let last = rows.last().filter(|_| has_more);
    Ok(RefusedEvents {
        events,
        last: last.map(|row| RejectionId(row.get("last_id"))),
    })
}

fn refused_event_of(row: &Row) -> Result<RefusedEvent, PgError> {
    let ids: Vec<Uuid> = row.get("open_ids");
    let fields: Vec<Option<String>> = row.get("open_fields");
    let external_id: Option<String> = row.get("external_id");
    let observed_at: Option<PgTime> = row.get("observed_at");
    let code: &str = row.get("code");
    let code = RefusalCode::parse(code)
        .ok_or_else(|| PgError::unreadable("reading a refused event", code))?;
    Ok(RefusedEvent {
        raw: row.get("raw"),
        batch: BatchId(row.get("batch_id")),
        event_index: row.get("event_index"),
        entity_type: row.get("entity_type"),
        reading: reading_of(row)?,
        received_at: row.get::<_, PgTime>("received_at").0,
        rest: external_id.map(|external_id| Rest {
            external_id,
            observed_at: observed_at.map(|time| time.0),
        }),
        open: ids.into_iter().map(RejectionId).zip(fields).collect(),
        refusal: Refusal::new(code, row.get::<_, String>("reason")),
    })
}

fn reading_of(row: &Row) -> Result<Option<Reading>, PgError> {
    const STEP: &str = "reading a refused event";
    let precision: Option<String> = row.get("precision");
    match (row.get::<_, Option<&str>>("format"), precision) {
        (None, _) => Ok(None),
        (Some("json"), None) => Ok(Some(Reading::Json)),
        (Some("line_protocol"), Some(precision)) => {
            let names: Option<&str> = row.get("id_tags");
            let id_tags: Option<Vec<String>> = names
                .map(serde_json::from_str)
                .transpose()
                .map_err(|_| PgError::unreadable(STEP, "the names of its id's tags"))?;
            Ok(Some(Reading::LineProtocol {
                precision: Cow::Owned(precision),
                id_tags: id_tags.map(Arc::from),
            }))
        }
        (Some(format), _) => Err(PgError::unreadable(STEP, format)),
    }
}

/// Fills in when events were observed that did not say so: at the one instant that their request brought their entity
/// in the minute after it arrived. Where there are several it stays unknown.
async fn find_rests(
    app: &Pool,
    scope: &TenantScope,
    events: &mut [RefusedEvent],
) -> Result<(), PgError> {
    let (mut batches, mut received) = (Vec::<Uuid>::new(), Vec::<PgTime>::new());
    let (mut types, mut ids) = (Vec::<String>::new(), Vec::<String>::new());
    let mut untimed: Vec<&mut Rest> = Vec::new();
    for event in events {
        let (Some(rest), Some(entity_type)) = (&mut event.rest, &event.entity_type) else {
            continue;
        };
        if rest.observed_at.is_some() {
            continue;
        }
        batches.push(event.batch.0);
        received.push(PgTime(event.received_at));
        types.push(entity_type.clone());
        ids.push(rest.external_id.clone());
        untimed.push(rest);
    }
    if untimed.is_empty() {
        return Ok(());
    }
    let tenant = scope.tenant().0;
    let find = Statement::new(
        "finding the rest of refused events",
        include_str!("../../sql/rejections/find_rests.sql"),
        vec![
            (&tenant, Type::INT8),
            (&batches, Type::UUID_ARRAY),
            (&received, Type::TIMESTAMPTZ_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&ids, Type::TEXT_ARRAY),
        ],
    );
    let rows = scope.run_one(app, Access::Read, find).await?;
    for (rest, row) in untimed.into_iter().zip(&rows) {
        rest.observed_at = row.get::<_, Option<PgTime>>("observed_at").map(|at| at.0);
    }
    Ok(())
}

/// What became of an open refusal whose event was stored by a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The refusal.
    pub id: RejectionId,
    /// Whether what it refused is stored now; else it stays open.
    pub is_done: bool,
    /// The id of the entity that holds its event.
    pub external_id: String,
    /// The event's instant.
    pub observed_at: Timestamp,
}

/// Marks what a replay has stored on a lineage. Twice is the same as once; on another lineage nothing is marked, and the
/// answer is no.
pub async fn settle_rejections(
    app: &Pool,
    scope: &TenantScope,
    lineage: Lineage,
    settled: &[Settled],
) -> Result<bool, PgError> {
    if settled.is_empty() {
        return Ok(true);
    }
    let system_id = lineage.system_id.cast_signed();
    let timeline = format!("{:08X}", lineage.timeline);
    let tenant = scope.tenant().0;
    let ids: Vec<Uuid> = settled.iter().map(|one| one.id.0).collect();
    let done: Vec<bool> = settled.iter().map(|one| one.is_done).collect();
    let external_ids: Vec<&str> = settled.iter().map(|one| one.external_id.as_str()).collect();
    let times: Vec<PgTime> = settled.iter().map(|one| PgTime(one.observed_at)).collect();
    let settle = Statement::new(
        "settling refusals",
        include_str!("../../sql/rejections/settle_rejections.sql"),
        vec![
            (&tenant, Type::INT8),
            (&ids, Type::UUID_ARRAY),
            (&done, Type::BOOL_ARRAY),
            (&external_ids, Type::TEXT_ARRAY),
            (&times, Type::TIMESTAMPTZ_ARRAY),
            (&system_id, Type::INT8),
            (&timeline, Type::TEXT),
        ],
    );
    let rows = scope.run_one(app, Access::Write, settle).await?;
    Ok(!rows.is_empty())
}
