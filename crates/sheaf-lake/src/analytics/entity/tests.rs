use sheaf_model::{AttributeId, BatchId, Cell, Op, StoredRow, Value};
use uuid::Uuid;

use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("an instant")
}

fn file(first: i64, last: i64) -> Candidate {
    Candidate {
        table: LakeTable::Facts,
        file: Arc::new(KnownFile {
            location: String::new(),
            bytes: 1,
            rows: 1,
            groups: 1,
            bucket: None,
            columns: Box::new([]),
        }),
        first: at(first),
        last: at(last),
    }
}

#[test]
fn everything_is_read_up_to_where_no_later_file_begins() {
    let ranges = [(0, 5), (2, 9), (3, 4), (10, 12), (20, 20)];
    let forwards: Vec<_> = ranges
        .iter()
        .map(|(first, last)| file(*first, *last))
        .collect();
    let wanted = [None, None, Some(at(10)), Some(at(13)), Some(at(21))];
    assert_eq!(ends(&forwards, false), wanted);
    let backwards = [(20, 20), (10, 12), (2, 9), (0, 5), (3, 4)];
    let backwards: Vec<_> = backwards
        .iter()
        .map(|(first, last)| file(*first, *last))
        .collect();
    let wanted = [Some(at(20)), Some(at(10)), None, None, Some(at(0))];
    assert_eq!(ends(&backwards, true), wanted);
    assert_eq!(ends(&[], true), []);
}

fn part(entity: i64, micros: i64, seq: i16, cells: &[(i64, i64)]) -> Part {
    let cells = cells.iter().map(|(id, number)| {
        let cell = Cell::Value(Value::Int(*number));
        (AttributeId(*id), cell)
    });
    let event = HistoryRow {
        row: StoredRow {
            observed_at: at(micros),
            seq,
            op: Op::Patch,
            attrs: Attrs::from_distinct(cells.collect()),
        },
        batch: BatchId(Uuid::nil()),
        ingested_at: at(0),
    };
    (EntityId(entity), event)
}

#[test]
fn parts_of_an_event_become_one_whatever_their_order_and_none_is_there_twice() {
    let wanted = [
        part(1, 5, 0, &[(1, 10), (2, 20), (9, 90)]),
        part(1, 5, 1, &[(1, 11)]),
        part(2, 5, 0, &[(1, 12)]),
        part(1, 6, 0, &[]),
    ];
    let mut parts = vec![
        part(1, 6, 0, &[]),
        part(1, 5, 0, &[(2, 20)]),
        part(2, 5, 0, &[(1, 12)]),
        part(1, 5, 0, &[]),
        part(1, 5, 1, &[(1, 11)]),
        part(1, 5, 0, &[(9, 90)]),
        part(1, 5, 0, &[(1, 10)]),
        part(1, 5, 0, &[(2, 20)]),
    ];
    for _ in 0..parts.len() {
        parts.rotate_left(1);
        assert_eq!(whole_events(parts.clone(), false), wanted);
        let mut backwards = whole_events(parts.clone(), true);
        backwards.reverse();
        assert_eq!(backwards, wanted);
    }
}
