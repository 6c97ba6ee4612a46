use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sheaf_model::{Attrs, BatchId, Op, StoredRow};

use super::*;

fn row((time, entity, seq): (i64, i64, i16)) -> Located {
    let row = StoredRow {
        observed_at: at(time),
        seq,
        op: Op::Patch,
        attrs: Attrs::default(),
    };
    let history = HistoryRow {
        row,
        batch: BatchId(Default::default()),
        ingested_at: Timestamp::MIN,
    };
    (EntityId(entity), history)
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("an instant")
}

/// The rows of a side after a place, at most so many, as each side gives them.
fn given(newest_first: bool, rows: &[Key], place: Option<Key>, rows_max: usize) -> Stretch {
    let is_behind = |key: &&Key| match (place, newest_first) {
        (None, _) => true,
        (Some(place), true) => **key < place,
        (Some(place), false) => **key > place,
    };
    let mut rows: Vec<Key> = rows.iter().filter(is_behind).copied().collect();
    rows.sort_unstable();
    if newest_first {
        rows.reverse();
    }
    let is_cut = rows.len() > rows_max;
    rows.truncate(rows_max);
    Stretch {
        reach: rows.last().copied().filter(|_| is_cut),
        rows: rows
            .into_iter()
            .map(|(time, entity, seq)| row((time.as_micros(), entity.0, seq)))
            .collect(),
    }
}

proptest! {
    #[test]
    fn a_walk_through_both_meets_every_row_once_and_in_order(
        sides in btree_map((0i64..12, 1i64..4, 0i16..3), 1u8..4, 0..60),
        newest_first: bool,
        here_max in vec(1usize..9, 1..8),
        there_max in vec(1usize..9, 1..8),
        rows_max in vec(1usize..9, 1..8),
    ) {
        let of = |bit: u8| -> Vec<Key> {
            let held = sides.iter().filter(|(_, held)| *held & bit != 0);
            held.map(|((time, entity, seq), _)| (at(*time), EntityId(*entity), *seq)).collect()
        };
        let (here, there) = (of(1), of(2));
        let mut all = of(3);
        if newest_first {
            all.reverse();
        }
        let mut met = Vec::new();
        let mut place = None;
        let mut ready = Stretch::default();
        let mut is_read = false;
        for step in 0.. {
            prop_assert!(step < 200, "it goes on");
            let mut here = given(newest_first, &here, place, here_max[step % here_max.len()]);
            if ready.rows.is_empty() && !is_read {
                ready = given(newest_first, &there, place, there_max[step % there_max.len()]);
                is_read = ready.reach.is_none();
            }
            let rows_max = rows_max[step % rows_max.len()];
            let found = unite(newest_first, &mut [&mut here, &mut ready], rows_max);
            prop_assert!(found.rows.len() <= rows_max);
            met.extend(found.rows.iter().map(key_of));
            match found.reach {
                Some(reach) => place = Some(reach),
                None => break,
            }
        }
        prop_assert_eq!(met, all);
    }
}

#[test]
fn what_is_beyond_a_boundary_is_between_the_place_and_it() {
    let place = |time| (at(time), EntityId(1), 0i16);
    for (newest_first, end, from, boundary, wanted) in [
        (false, 20, 5, None, None),
        (false, 20, 5, Some(10), Some((5, 10))),
        (false, 8, 5, Some(10), Some((5, 8))),
        (false, 20, 10, Some(10), None),
        (true, 2, 15, Some(10), Some((2, 10))),
        (true, 2, 5, Some(10), Some((2, 6))),
        (true, 10, 15, Some(10), None),
        (true, 2, 5, None, None),
    ] {
        let range = range_behind(newest_first, place(from), at(end), boundary.map(at));
        let wanted = wanted.map(|(from, to)| (at(from), at(to)));
        assert_eq!(range, wanted, "{newest_first}, {end}, {from}, {boundary:?}");
    }
}

#[test]
fn the_archive_is_asked_again_where_the_boundary_has_moved_on_behind_or_ahead_of_the_walk() {
    let place = |time| (at(time), EntityId(1), 0i16);
    let times = |(from, to): (Timestamp, Timestamp)| (from.as_micros(), to.as_micros());
    let mut older = Older::new(vec![EntityId(1)], None, false, at(100));
    older.receive(Vec::new(), place(0), None, at(10));
    // The walk is past the boundary, and then that is past the walk, and what is between them in the archive alone.
    assert_eq!(older.lacking(place(12), Some(at(10))), None);
    let lacking = older.lacking(place(15), Some(at(20)));
    assert_eq!(lacking.map(times), Some((15, 20)));
    let mut older = Older::new(vec![EntityId(1)], None, true, at(0));
    older.receive(Vec::new(), place(9), None, at(10));
    let lacking = older.lacking(place(15), Some(at(20)));
    assert_eq!(lacking.map(times), Some((0, 16)));
}

#[test]
fn what_the_archive_was_read_to_holds_up_no_walk_once_the_boundary_has_moved_back() {
    let place = |time| (at(time), EntityId(1), 0i16);
    for boundary in [None, Some(at(3))] {
        let mut older = Older::new(vec![EntityId(1)], None, true, at(0));
        older.receive(Vec::new(), place(9), Some(at(6)), at(10));
        assert_eq!(older.ready.reach, Some(key_before(at(6))));
        older.forget_beyond(boundary);
        assert_eq!(older.ready.reach, None, "{boundary:?}");
    }
    let mut older = Older::new(vec![EntityId(1)], None, true, at(0));
    older.receive(Vec::new(), place(9), Some(at(6)), at(10));
    older.forget_beyond(Some(at(10)));
    assert_eq!(
        older.ready.reach,
        Some(key_before(at(6))),
        "it is where it was"
    );
}
