use sheaf_model::{AttributeId, BatchId, Cell, Op, StoredRow, Value};
use uuid::Uuid;

use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("an instant")
}

fn file(first: i64, last: i64) -> Candidate {
    Candidate {
        of: 0,
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

fn excerpt(instants: std::ops::Range<i64>, cut: Option<i64>) -> Excerpt {
    Excerpt {
        parts: instants.map(|micros| part(1, micros, 0, &[])).collect(),
        cut: cut.map(at),
        bytes: 0,
    }
}

#[test]
fn what_was_cut_off_of_one_file_is_not_there_whatever_others_say() {
    // Each order of two files that say something of the same instants, and are cut at different ones.
    let forwards = [(0..40, 40), (0..70, 70)];
    let backwards = [(61..100, 60), (31..100, 30)];
    for (newest_first, files, reached) in [(false, forwards, 40), (true, backwards, 61)] {
        for is_reversed in [false, true] {
            let mut files = files.clone();
            if is_reversed {
                files.reverse();
            }
            let [(one, first_cut), (other, second_cut)] = files;
            let span = Span {
                from: at(0),
                to: at(100),
                newest_first,
            };
            let mut gathering = Gathering::new(span, 1_000);
            assert!(!gathering.take(&excerpt(one, Some(first_cut)), None));
            let end = if newest_first { at(0) } else { at(100) };
            assert!(gathering.take(&excerpt(other, Some(second_cut)), Some(end)));
            let read = gathering.read;
            assert_eq!(read.reached, Some(at(reached)));
            let there = if newest_first { 61..100 } else { 0..40 };
            assert_eq!(read.events.len(), there.count());
        }
    }
}

#[test]
fn parts_of_many_files_are_bounded_and_the_first_instants_are_there_whole() {
    for newest_first in [false, true] {
        let span = Span {
            from: at(0),
            to: at(20_000),
            newest_first,
        };
        let mut gathering = Gathering::new(span, usize::MAX);
        let end = if newest_first { at(0) } else { at(20_000) };
        for file in 0..20 {
            let end = (file == 19).then_some(end);
            assert_eq!(gathering.take(&excerpt(0..20_000, None), end), file == 19);
            assert!(!are_many(&gathering.parts), "after {file}");
        }
        let read = gathering.read;
        let reached = read.reached.expect("there is more");
        let there = read.events.len();
        let times = read
            .events
            .iter()
            .map(|(_, event)| event.row.observed_at.as_micros());
        let wanted: Vec<i64> = match newest_first {
            true => (reached.as_micros()..20_000).rev().collect(),
            false => (0..reached.as_micros()).collect(),
        };
        assert_eq!(times.collect::<Vec<_>>(), wanted);
        assert!(there > 1_000, "{there} are too few");
    }
}
