//! The instants of several entities' histories, each from its beginning in a range.
//!
//! The first step of each is asked for together with those of the others: one round trip for many short histories. A
//! history that goes on is walked alone. Nothing beyond a step of each is in memory beside the items.

use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::{HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;

use super::{
    Collector, HistoryItem, HistoryQuery, PAGE_BYTES_MAX, Progress, STEP_BYTES_MAX, STEP_ROWS_MAX,
    STEP_ROWS_MIN, bytes_of,
};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::selection::Selection;
use crate::source::Source;

/// What is left of a page.
pub(crate) struct Room {
    pub(crate) items: usize,
    /// Bytes of rows that were read for it.
    pub(crate) bytes_read: usize,
}

impl Room {
    pub(crate) fn is_used_up(&self) -> bool {
        self.items == 0 || self.bytes_read > PAGE_BYTES_MAX
    }
}

/// Items of one history.
pub(crate) struct Instants {
    pub(crate) items: Vec<HistoryItem>,
    /// From where the rest of it is to be asked for; absent where there is none.
    pub(crate) resume: Option<Place>,
}

/// The items of all these histories together that there is room for, in their order; those that were not come to are not in
/// the answer. Each goes on from its place.
pub(crate) async fn instants_of(
    (source, scope): (&Source, &TenantScope),
    catalogue: &Catalogue,
    histories: &[(EntityName, Place)],
    query: &HistoryQuery,
    room: &mut Room,
) -> Result<Vec<Instants>, ReadError> {
    let selection = Selection::resolve_attributes(query.attributes.as_deref(), catalogue)?;
    let keys = selection.keys();
    let rows_max = (room.items + 1).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX);
    // The first steps are in memory together, and together they need not be more than fills the page.
    let first_rows_max = (rows_max / histories.len().max(1)).max(STEP_ROWS_MIN);
    let (step_rows, first_step_rows) = (rows_of(rows_max), rows_of(first_rows_max));
    let (direction, end) = (query.direction(), query.end());
    let all_of: Vec<HistoryOf> = histories
        .iter()
        .map(|(name, _)| HistoryOf::new(scope.tenant(), &name.entity_type, &name.external_id))
        .collect();
    let steps: Vec<HistoryStep<'_>> = all_of
        .iter()
        .zip(histories)
        .map(|(of, (_, place))| {
            let keys = keys.as_ref();
            let step = HistoryStep::new(of, direction, *place, end, keys, first_step_rows);
            step.of_bytes(bytes_of(STEP_BYTES_MAX / histories.len()))
        })
        .collect();
    let mut statements = vec![limit_time(&STATEMENT_TIME_MAX)];
    statements.extend(steps.iter().map(HistoryStep::statement));
    let rows = source.run(scope, statements).await?;
    let mut found = Vec::new();
    for ((of, first_rows), (_, place)) in all_of.iter().zip(&rows[1..]).zip(histories) {
        let mut progress = Progress {
            collector: Collector::new(catalogue, selection.clone(), query),
            place: *place,
            limit: room.items,
            steps: 0,
            bytes: room.bytes_read,
            is_end: false,
        };
        let mut is_done = progress.take(first_rows, first_rows_max, catalogue)?;
        while !is_done {
            let place = progress.place;
            let step = HistoryStep::new(of, direction, place, end, keys.as_ref(), step_rows);
            let step = step.of_bytes(bytes_of(STEP_BYTES_MAX));
            let statements = vec![limit_time(&STATEMENT_TIME_MAX), step.statement()];
            let rows = source.run(scope, statements).await?;
            is_done = progress.take(&rows[1], rows_max, catalogue)?;
        }
        room.bytes_read = progress.bytes;
        let (items, resume) = progress.collector.into_page(room.items, progress.is_end);
        room.items -= items.len();
        let is_cut = resume.is_some();
        found.push(Instants { items, resume });
        if is_cut || room.is_used_up() {
            break;
        }
    }
    Ok(found)
}

fn rows_of(rows: usize) -> i64 {
    i64::try_from(rows).expect("some hundred rows fit an i64")
}
