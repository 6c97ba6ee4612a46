//! The fold against its definition: random histories in random orders, and the cases that once surprised.

use proptest::prelude::*;

use super::*;

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("a small time")
}

fn attrs(cells: &[(i64, Option<i64>)]) -> Attrs {
    let mut distinct = BTreeMap::new();
    for (id, value) in cells {
        let cell = value.map_or(Cell::Removed, |number| Cell::Value(Value::Int(number)));
        distinct.insert(AttributeId(*id), cell);
    }
    Attrs::from_distinct(distinct.into_iter().collect())
}

/// History and document of one entity, kept as the write path keeps them.
#[derive(Default)]
struct Entity {
    rows: BTreeMap<(Timestamp, i16), StoredRow>,
    document: Document,
}

impl Entity {
    /// One group of events in order of commit: rows appended, then their fold merged.
    fn commit(&mut self, group: &[(i64, Op, Attrs)]) -> Vec<Appended> {
        let mut appended = Vec::new();
        let mut fresh = BTreeMap::new();
        for (at, op, attrs) in group {
            let at = time(*at);
            let there: Vec<StoredRow> = self
                .rows
                .range((at, 0)..=(at, i16::MAX))
                .map(|(_, row)| row.clone())
                .collect();
            let outcome = append(&there, at, *op, attrs.clone());
            if let Appended::New(row) | Appended::Merged(row) | Appended::Corrected(row) = &outcome
            {
                self.rows.insert((at, row.seq), row.clone());
                fresh.insert((at, row.seq), row.clone());
            }
            appended.push(outcome);
        }
        let fresh: Vec<&StoredRow> = fresh.values().collect();
        merge_rows(&mut self.document, &fresh);
        appended
    }

    /// The document and the fold of the history agree in everything but the version, and in removals older than
    /// the floor, which nobody needs.
    fn assert_is_fold(&self) {
        let mut folded = fold_rows(self.rows.values());
        folded.version = self.document.version;
        assert_eq!(self.document, folded);
    }
}

fn an_event(instants: i64) -> impl Strategy<Value = (i64, Op, Attrs)> {
    let op = prop_oneof![6 => Just(Op::Patch), 1 => Just(Op::Replace), 1 => Just(Op::Delete)];
    let cells = prop::collection::vec((0i64..4, prop::option::weighted(0.8, 0i64..3)), 0..4);
    (0..instants, op, cells).prop_map(|(at, op, cells)| {
        let attrs = if op == Op::Delete {
            Attrs::default()
        } else {
            attrs(&cells)
        };
        (at, op, attrs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_document_is_the_fold_of_the_events(
        groups in prop::collection::vec(prop::collection::vec(an_event(5), 1..4), 1..8)
    ) {
        let mut entity = Entity::default();
        for group in &groups {
            entity.commit(group);
            entity.assert_is_fold();
        }
    }

    #[test]
    fn distinct_instants_give_one_document_in_any_order(
        events in prop::collection::vec(an_event(1), 1..8),
        seed in any::<prop::sample::Index>(),
    ) {
        let distinct: Vec<_> = events.iter().enumerate().map(|(at, (_, op, attrs))| {
            (i64::try_from(at).expect("few events"), *op, attrs.clone())
        }).collect();
        let mut in_order = Entity::default();
        for event in &distinct {
            in_order.commit(std::slice::from_ref(event));
        }
        let mut shuffled = distinct.clone();
        shuffled.rotate_left(seed.index(distinct.len()));
        shuffled.reverse();
        let mut out_of_order = Entity::default();
        out_of_order.commit(&shuffled);
        in_order.document.version = 0;
        out_of_order.document.version = 0;
        prop_assert_eq!(in_order.document, out_of_order.document);
    }

    #[test]
    fn a_repeated_event_is_a_duplicate(events in prop::collection::vec(an_event(3), 1..6)) {
        let mut entity = Entity::default();
        for event in &events {
            entity.commit(std::slice::from_ref(event));
            let before = entity.document.clone();
            let again = entity.commit(std::slice::from_ref(event));
            prop_assert_eq!(again, vec![Appended::Duplicate]);
            prop_assert_eq!(&entity.document, &before);
        }
    }
}

#[test]
fn a_value_that_flips_back_is_two_corrections() {
    let mut entity = Entity::default();
    let outcomes = entity.commit(&[
        (1, Op::Patch, attrs(&[(1, Some(1))])),
        (1, Op::Patch, attrs(&[(1, Some(2))])),
        (1, Op::Patch, attrs(&[(1, Some(1))])),
        (1, Op::Patch, attrs(&[(2, Some(9))])),
    ]);
    assert!(matches!(outcomes[0], Appended::New(_)));
    assert!(
        matches!(&outcomes[1], Appended::Corrected(row) if row.seq == 1 && row.op == Op::Correct)
    );
    assert!(matches!(&outcomes[2], Appended::Corrected(row) if row.seq == 2));
    assert!(matches!(&outcomes[3], Appended::Merged(row) if row.seq == 3 && row.op == Op::Patch));
    entity.assert_is_fold();
}

#[test]
fn a_late_value_never_brings_back_what_was_removed_after_it() {
    let mut entity = Entity::default();
    entity.commit(&[(1, Op::Patch, attrs(&[(1, Some(1))]))]);
    entity.commit(&[(5, Op::Patch, attrs(&[(1, None)]))]);
    entity.commit(&[(3, Op::Patch, attrs(&[(1, Some(3))]))]);
    assert_eq!(entity.document.values().count(), 0);
    entity.commit(&[(7, Op::Delete, Attrs::default())]);
    entity.commit(&[(6, Op::Patch, attrs(&[(1, Some(6))]))]);
    assert!(!entity.document.exists());
    entity.commit(&[(8, Op::Patch, attrs(&[(2, Some(8))]))]);
    assert!(entity.document.exists());
    assert_eq!(entity.document.values().count(), 1);
    entity.assert_is_fold();
}

#[test]
fn an_unchanged_document_is_not_written() {
    let mut document = Document::default();
    let row = StoredRow {
        observed_at: time(1),
        seq: 0,
        op: Op::Patch,
        attrs: attrs(&[(1, Some(1))]),
    };
    let group = fold_rows([&row]);
    assert_eq!(
        merge(&mut document, group.clone()).changed,
        [AttributeId(1)]
    );
    let again = merge(&mut document, group);
    assert_eq!((again.written, document.version), (false, 1));
}

#[test]
fn an_event_without_a_time_comes_after_the_newest() {
    assert_eq!(time_after(time(10), Some(time(3))), time(10));
    assert_eq!(time_after(time(10), Some(time(10))), time(11));
    assert_eq!(time_after(time(10), None), time(10));
}

#[test]
fn a_replace_by_the_same_values_changes_times_and_no_value() {
    let mut document = Document::default();
    let row = |at, op, cells: &[(i64, Option<i64>)]| StoredRow {
        observed_at: time(at),
        seq: 0,
        op,
        attrs: attrs(cells),
    };
    merge(
        &mut document,
        fold_rows([&row(1, Op::Patch, &[(1, Some(1)), (2, Some(2))])]),
    );
    let same = merge(
        &mut document,
        fold_rows([&row(2, Op::Replace, &[(1, Some(1)), (2, Some(2))])]),
    );
    assert_eq!(
        (same.written, same.changed, same.presence_changed),
        (true, vec![], false)
    );
    let fewer = merge(
        &mut document,
        fold_rows([&row(3, Op::Replace, &[(1, Some(1))])]),
    );
    assert_eq!(
        (fewer.changed, fewer.presence_changed),
        (vec![AttributeId(2)], true)
    );
}
