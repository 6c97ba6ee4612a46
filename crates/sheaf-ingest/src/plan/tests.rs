//! The plan against the fold: whatever the grouping, documents are the fold of the rows.

use proptest::prelude::*;
use sheaf_model::{Cell, Value, fold_rows};

use super::*;

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("a small time")
}

fn attrs(cells: &[(i64, i64)]) -> Attrs {
    let distinct: BTreeMap<i64, i64> = cells.iter().copied().collect();
    Attrs::from_distinct(
        distinct
            .into_iter()
            .map(|(id, value)| (AttributeId(id), Cell::Value(Value::Int(value))))
            .collect(),
    )
}

fn event(entity: i64, at: Option<i64>, op: Op, cells: &[(i64, i64)]) -> GroupEvent {
    let event = Event {
        observed_at: at.map(time),
        op,
        attrs: attrs(cells),
        tags: Tags::None,
    };
    GroupEvent {
        index: 0,
        tenant: TenantId(1),
        entity: EntityId(entity),
        event,
    }
}

/// A database of rows and documents that plans are applied to.
#[derive(Default)]
struct Database {
    series_tags: HashSet<AttributeId>,
    rows: BTreeMap<(EntityId, Timestamp, i16), StoredRow>,
    documents: Documents,
}

impl Database {
    fn commit(&mut self, events: Vec<GroupEvent>, now: i64) -> GroupPlan {
        self.commit_parts(&[(events, now)])
    }

    fn commit_parts(&mut self, parts: &[(Vec<GroupEvent>, i64)]) -> GroupPlan {
        // The catalogue marks a tag beside an id before the line is stored.
        let beside = parts.iter().flat_map(|(events, _)| events);
        self.series_tags
            .extend(beside.flat_map(|event| match &event.event.tags {
                Tags::Beside(tags) => tags.clone(),
                Tags::Series(_) | Tags::None => Vec::new(),
            }));
        let series_tags = self.series_tags.clone();
        let parts: Vec<GroupPart<'_>> = parts
            .iter()
            .map(|(events, now)| GroupPart {
                events,
                series_tags: &series_tags,
                now: time(*now),
            })
            .collect();
        let (timed, to_read) = time_events(&parts, &self.documents);
        let stored: StoredInstants = to_read
            .into_iter()
            .map(|(_, entity, at)| {
                let rows = self.rows.range((entity, at, 0)..=(entity, at, i16::MAX));
                ((entity, at), rows.map(|(_, row)| row.clone()).collect())
            })
            .collect();
        let plan = plan_group(&parts, timed, self.documents.clone(), stored, None);
        for PlannedRow { entity, row, .. } in &plan.rows {
            let taken = self
                .rows
                .insert((*entity, row.observed_at, row.seq), row.clone());
            assert_eq!(taken, None, "a key was given twice");
        }
        for planned in &plan.documents {
            self.documents
                .insert(planned.stored.entity, planned.stored.clone());
        }
        plan
    }

    fn assert_documents_are_folds(&self) {
        for (entity, stored) in &self.documents {
            let rows = self
                .rows
                .iter()
                .filter(|((of, _, _), _)| of == entity)
                .map(|(_, row)| row);
            let mut folded = fold_rows(rows);
            folded.version = stored.document.version;
            assert_eq!(stored.document, folded);
        }
    }
}

fn total(part: &PlannedPart) -> usize {
    let Counts {
        accepted,
        duplicates,
        merged,
        corrected,
        refused,
        ..
    } = part.counts;
    usize::try_from(accepted + duplicates + merged + corrected + refused).expect("a count")
}

fn any_event() -> impl Strategy<Value = GroupEvent> {
    let op = prop_oneof![5 => Just(Op::Patch), 1 => Just(Op::Replace), 1 => Just(Op::Delete)];
    let at = prop::option::weighted(0.9, 0i64..5);
    let cells = prop::collection::vec((0i64..4, 0i64..3), 0..4);
    (0i64..3, at, op, cells).prop_map(|(entity, at, op, cells)| {
        let cells = if op == Op::Delete { Vec::new() } else { cells };
        event(entity, at, op, &cells)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn documents_are_the_fold_of_the_rows_whatever_the_grouping(
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(any_event(), 1..4), 1..4), 1..6)
    ) {
        let mut database = Database::default();
        for (place, group) in groups.into_iter().enumerate() {
            let events: Vec<usize> = group.iter().map(Vec::len).collect();
            let now = 2 + i64::try_from(place).expect("few");
            let parts: Vec<_> = group.into_iter().map(|part| (part, now)).collect();
            let plan = database.commit_parts(&parts);
            let counted: Vec<usize> = plan.parts.iter().map(total).collect();
            prop_assert_eq!(counted, events);
            prop_assert!(plan.rows.is_sorted_by_key(|planned| (planned.entity, planned.row.observed_at, planned.row.seq)));
            database.assert_documents_are_folds();
        }
    }

    #[test]
    fn a_group_of_parts_stores_what_its_parts_would_one_after_the_other(
        parts in prop::collection::vec(prop::collection::vec(any_event(), 1..4), 1..5)
    ) {
        let (mut grouped, mut alone) = (Database::default(), Database::default());
        let parts: Vec<_> = parts.into_iter().map(|part| (part, 2)).collect();
        let plan = grouped.commit_parts(&parts);
        for (place, part) in parts.iter().enumerate() {
            let single = alone.commit_parts(std::slice::from_ref(part));
            prop_assert_eq!(plan.parts[place].counts, single.parts[0].counts);
        }
        prop_assert_eq!(&grouped.rows, &alone.rows);
        for (entity, stored) in &grouped.documents {
            let mut one = alone.documents[entity].document.clone();
            one.version = stored.document.version;
            prop_assert_eq!(&stored.document, &one);
        }
    }
}

#[test]
fn events_without_a_time_come_one_microsecond_apart_after_the_newest() {
    let mut database = Database::default();
    database.commit(vec![event(1, Some(50), Op::Patch, &[(1, 1)])], 10);
    let plan = database.commit(
        vec![
            event(1, None, Op::Patch, &[(1, 2)]),
            event(1, None, Op::Patch, &[(1, 2)]),
        ],
        10,
    );
    let times: Vec<i64> = plan
        .rows
        .iter()
        .map(|planned| planned.row.observed_at.as_micros())
        .collect();
    assert_eq!(times, [51, 52]);
    assert_eq!(plan.parts[0].counts.accepted, 2);
}

fn tagged(at: i64, tags: Tags, cells: &[(i64, i64)]) -> GroupEvent {
    let mut tagged = event(1, Some(at), Op::Patch, cells);
    tagged.event.tags = tags;
    tagged
}

#[test]
fn a_series_is_named_once_and_again_after_a_delete_and_with_late_events() {
    let mut database = Database::default();
    let series = || Tags::Series(attrs(&[(9, 9)]).into());
    let names = |plan: &GroupPlan| plan.rows[0].row.attrs.get(AttributeId(9)).is_some();
    assert!(
        names(&database.commit(vec![tagged(10, series(), &[(1, 1)])], 0)),
        "the first event"
    );
    assert!(
        !names(&database.commit(vec![tagged(11, series(), &[(1, 2)])], 0)),
        "a later event"
    );
    assert!(
        names(&database.commit(vec![tagged(5, series(), &[(1, 0)])], 0)),
        "a late event"
    );
    database.commit(vec![event(1, Some(12), Op::Delete, &[])], 0);
    assert!(
        names(&database.commit(vec![tagged(13, series(), &[(1, 3)])], 0)),
        "the first after a delete"
    );
    database.assert_documents_are_folds();
}

#[test]
fn a_line_sent_again_finds_itself() {
    let mut database = Database::default();
    let series = || Tags::Series(attrs(&[(9, 9)]).into());
    let lines = || {
        (10..14)
            .map(|at| tagged(at, series(), &[(1, at)]))
            .collect::<Vec<_>>()
    };
    database.commit(lines(), 0);
    let again = database.commit(lines(), 0);
    assert_eq!(again.parts[0].counts.duplicates, 4);
    assert!(
        again.rows.is_empty()
            && again
                .documents
                .iter()
                .all(|planned| !planned.change.written)
    );
}

#[test]
fn lines_of_one_request_conflict_in_either_order() {
    for order in [[true, false], [false, true]] {
        let mut database = Database::default();
        let lines = order.map(|has_tag| match has_tag {
            true => tagged(10, Tags::Beside(vec![AttributeId(9)]), &[(1, 1), (9, 1)]),
            false => tagged(10, Tags::Beside(vec![]), &[(1, 99)]),
        });
        let plan = database.commit(lines.to_vec(), 0);
        assert_eq!(plan.parts[0].refusals.len(), 1, "{order:?}");
    }
}

#[test]
fn a_document_that_would_grow_without_bound_refuses_the_event_alone() {
    let mut database = Database::default();
    let large = |id: i64| {
        let mut large = event(1, Some(id), Op::Patch, &[]);
        let text = "x".repeat(1_000_000);
        large.event.attrs =
            Attrs::from_distinct(vec![(AttributeId(id), Cell::Value(Value::Text(text)))]);
        large
    };
    let plan = database.commit((1..=20).map(large).collect(), 0);
    let part = &plan.parts[0];
    assert_eq!(
        (part.counts.refused, part.refusals[0].2.code),
        (4, RefusalCode::QuotaExceeded)
    );
}

#[test]
fn two_series_in_one_entity_and_instant_are_a_conflict_and_no_correction() {
    let mut database = Database::default();
    let beside = || Tags::Beside(vec![AttributeId(9)]);
    database.commit(vec![tagged(10, beside(), &[(1, 1), (9, 1)])], 0);
    let plan = database.commit(vec![tagged(10, beside(), &[(1, 1), (9, 2)])], 0);
    assert_eq!(
        plan.parts[0].refusals[0].2.code,
        RefusalCode::SeriesConflict
    );
    assert!(plan.rows.is_empty());
    let plan = database.commit(vec![tagged(10, beside(), &[(1, 5), (9, 1)])], 0);
    assert_eq!(plan.parts[0].counts.corrected, 1);
}
