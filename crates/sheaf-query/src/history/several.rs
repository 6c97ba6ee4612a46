//! The instants of several entities' histories, each from its beginning in a range.
//!
//! The first step of each is asked for together with those of the others: one round trip for many short histories. A
//! history that goes on is walked alone. Nothing beyond a step of each is in memory beside the items.

use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogue;
use sheaf_store::history::{HistoryOf, HistoryStep, Place};
use sheaf_store::snapshot::limit_time;

use super::{Collector, HistoryItem, HistoryQuery, Progress, STEP_ROWS_MAX, STEP_ROWS_MIN};
use crate::entity_name::EntityName;
use crate::error::ReadError;
use crate::reader::STATEMENT_TIME_MAX;
use crate::selection::Selection;
use crate::source::Source;

/// Items of one history.
pub(crate) struct Instants {
    pub(crate) items: Vec<HistoryItem>,
    /// From where the rest of it is to be asked for; absent where there is none.
    pub(crate) resume: Option<Place>,
}

/// At most so many items of all these histories together, in their order; those that were not come to are not in
/// the answer. Each goes on from its place.
pub(crate) async fn instants_of(
    (source, scope): (&Source, &TenantScope),
    catalogue: &Catalogue,
    histories: &[(EntityName, Place)],
    query: &HistoryQuery,
    items_max: usize,
) -> Result<Vec<Instants>, ReadError> {
    let selection = Selection::resolve_attributes(query.attributes.as_deref(), catalogue)?;
    let keys = selection.keys();
    let rows_max = (items_max + 1).clamp(STEP_ROWS_MIN, STEP_ROWS_MAX);
    let step_rows = i64::try_from(rows_max).expect("some hundred rows fit an i64");
    let (direction, end) = (query.direction(), query.end());
    let all_of: Vec<HistoryOf> = histories
        .iter()
        .map(|(name, _)| HistoryOf::new(scope.tenant(), &name.entity_type, &name.external_id))
        .collect();
    let steps: Vec<HistoryStep<'_>> = all_of
        .iter()
        .zip(histories)
        .map(|(of, (_, place))| {
            HistoryStep::new(of, direction, *place, end, keys.as_ref(), step_rows)
        })
        .collect();
    let mut statements = vec![limit_time(&STATEMENT_TIME_MAX)];
    statements.extend(steps.iter().map(HistoryStep::statement));
    let rows = source.run(scope, statements).await?;
    let (mut found, mut left) = (Vec::new(), items_max);
    for ((of, first_rows), (_, place)) in all_of.iter().zip(&rows[1..]).zip(histories) {
        let mut progress = Progress {
            collector: Collector::new(catalogue, selection.clone(), query),
            place: *place,
            limit: left,
            steps: 0,
            bytes: 0,
            is_end: false,
        };
        let mut is_done = progress.take(first_rows, rows_max, catalogue)?;
        while !is_done {
            let place = progress.place;
            let step = HistoryStep::new(of, direction, place, end, keys.as_ref(), step_rows);
            let statements = vec![limit_time(&STATEMENT_TIME_MAX), step.statement()];
            let rows = source.run(scope, statements).await?;
            is_done = progress.take(&rows[1], rows_max, catalogue)?;
        }
        let (items, resume) = progress.collector.into_page(left, progress.is_end);
        left -= items.len();
        let is_cut = resume.is_some();
        found.push(Instants { items, resume });
        if is_cut || left == 0 {
            break;
        }
    }
    Ok(found)
}
