//! Transactions as they come, and as they must not.

use sheaf_model::Op;

use super::*;
use crate::change::{Catalogue, ChangedRow};
use crate::column::ColumnValue;
use crate::pgoutput::{OldTuple, Relation, RelationColumn, Value};

const ROW_BYTES_MAX: usize = 10_000;
const EVENTS: [(&str, u32); 8] = [
    ("tenant_id", 20),
    ("entity_id", 20),
    ("observed_at", 1184),
    ("seq", 21),
    ("op", 18),
    ("batch_id", 2950),
    ("ingested_at", 1184),
    ("attrs", 3802),
];

fn relation(oid: u32, name: &'static str, columns: &[(&'static str, u32)]) -> Message<'static> {
    let columns = columns.iter().map(|(name, type_oid)| RelationColumn {
        is_key: false,
        name,
        type_oid: *type_oid,
        type_modifier: -1,
    });
    Message::Relation(Relation {
        oid,
        namespace: "sheaf",
        name,
        replica_identity: b'd',
        columns: columns.collect(),
    })
}

fn begin(commit_lsn: u64) -> Message<'static> {
    Message::Begin {
        commit_lsn: Lsn(commit_lsn),
        committed_at: 0,
        xid: 7,
    }
}

fn commit(commit_lsn: u64) -> Message<'static> {
    Message::Commit {
        commit_lsn: Lsn(commit_lsn),
        end_lsn: Lsn(commit_lsn + 8),
        committed_at: 0,
    }
}

fn event() -> Tuple<'static> {
    Tuple {
        values: vec![
            Value::Binary(&[0, 0, 0, 0, 0, 0, 0, 3]),
            Value::Binary(&[0, 0, 0, 0, 0, 0, 0, 4]),
            Value::Binary(&[0; 8]),
            Value::Binary(&[0, 1]),
            Value::Binary(b"p"),
            Value::Binary(&[9; 16]),
            Value::Binary(&[0; 8]),
            Value::Binary(b"\x01{\"5\": 1.5}"),
        ],
    }
}

fn insert(relation: u32, row: Tuple<'static>) -> Message<'static> {
    Message::Insert { relation, row }
}

/// An assembly that knows the events' table as number 1.
fn ready() -> Assembly {
    let mut assembly = Assembly::new(2, ROW_BYTES_MAX);
    let step = assembly.take(&relation(1, "entity_events", &EVENTS));
    assert_eq!(step, Ok(Step::Nothing));
    assembly
}

#[test]
fn each_row_has_the_position_of_its_transaction_and_its_place_in_it() {
    let mut assembly = ready();
    let mut positions = Vec::new();
    for commit_lsn in [100, 200] {
        assembly.take(&begin(commit_lsn)).expect("it begins");
        for _ in 0..3 {
            let step = assembly.take(&insert(1, event())).expect("a row");
            let Step::Change(change) = step else {
                panic!("{step:?}")
            };
            positions.push(change.position.to_string());
        }
        let step = assembly.take(&commit(commit_lsn)).expect("it ends");
        assert!(
            matches!(step, Step::Committed { end_lsn, .. } if end_lsn == Lsn(commit_lsn + 8)),
            "{step:?}"
        );
    }
    assert_eq!(
        positions,
        [
            "2:0/64:1", "2:0/64:2", "2:0/64:3", "2:0/C8:1", "2:0/C8:2", "2:0/C8:3"
        ]
    );
}

#[test]
fn an_event_reads_as_it_was_written() {
    let mut assembly = ready();
    assembly.take(&begin(100)).expect("it begins");
    let step = assembly.take(&insert(1, event())).expect("a row");
    let Step::Change(change) = step else {
        panic!("{step:?}")
    };
    let ChangedRow::Event(event) = change.row else {
        panic!("{change:?}")
    };
    assert_eq!(change.xid, 7);
    assert_eq!((event.tenant.0, event.entity.0, event.seq), (3, 4, 1));
    assert_eq!(event.op, Op::Patch);
    assert_eq!(event.observed_at.to_string(), "2000-01-01T00:00:00Z");
    assert_eq!(&*event.attrs, r#"{"5": 1.5}"#);
}

#[test]
fn a_column_that_is_added_or_moved_changes_nothing_for_those_that_are_needed() {
    let mut assembly = ready();
    let mut columns = EVENTS.to_vec();
    columns.rotate_left(3);
    columns.insert(2, ("further", 25));
    let mut row = event();
    row.values.rotate_left(3);
    row.values.insert(2, Value::Null);
    assembly.take(&begin(100)).expect("it begins");
    let before = assembly.take(&insert(1, event())).expect("a row");
    assembly
        .take(&relation(1, "entity_events", &columns))
        .expect("another form");
    let after = assembly.take(&insert(1, row)).expect("a row");
    let (Step::Change(before), Step::Change(after)) = (before, after) else {
        panic!("two changes")
    };
    assert_eq!(before.row, after.row);
}

#[test]
fn a_row_of_a_catalogue_has_the_columns_of_its_table_and_keeps_what_was_not_sent() {
    let mut assembly = Assembly::new(1, ROW_BYTES_MAX);
    let columns = [("tenant_id", 20), ("attribute_id", 20), ("schema", 3802)];
    assembly
        .take(&relation(4, "attributes", &columns))
        .expect("a table");
    assembly.take(&begin(100)).expect("it begins");
    let key = Value::Binary(&[0, 0, 0, 0, 0, 0, 0, 3]);
    let step = assembly.take(&Message::Update {
        relation: 4,
        before: Some(OldTuple::Key(Tuple { values: vec![] })),
        row: Tuple {
            values: vec![key, key, Value::Unchanged],
        },
    });
    let Ok(Step::Change(change)) = step else {
        panic!("{step:?}")
    };
    let ChangedRow::Catalogue(row) = change.row else {
        panic!("{change:?}")
    };
    assert_eq!((row.catalogue, row.is_new), (Catalogue::Attributes, false));
    assert_eq!(row.get("attribute_id"), Some(&ColumnValue::Int(3)));
    assert_eq!(row.get("schema"), Some(&ColumnValue::Unchanged));
    assert_eq!(row.get("name"), None);
}

#[test]
fn heartbeats_are_told_and_rows_of_others_and_deletes_take_a_place_and_are_not() {
    let mut assembly = ready();
    let beat = [("only_row", 16), ("beat_at", 1184), ("timeline", 20)];
    assembly
        .take(&relation(2, "replication_heartbeat", &beat))
        .expect("a table");
    assembly
        .take(&relation(3, "else", &[("a", 20)]))
        .expect("a table");
    assembly.take(&begin(100)).expect("it begins");
    let row = Tuple {
        values: vec![Value::Binary(&[1]), Value::Binary(&[0; 8]), Value::Null],
    };
    let step = assembly.take(&Message::Update {
        relation: 2,
        before: None,
        row,
    });
    assert!(matches!(step, Ok(Step::Beat(_))), "{step:?}");
    let other = Tuple {
        values: vec![Value::Null],
    };
    assert_eq!(assembly.take(&insert(3, other)), Ok(Step::Nothing));
    let gone = Message::Delete {
        relation: 1,
        before: OldTuple::Key(Tuple { values: vec![] }),
    };
    assert_eq!(assembly.take(&gone), Ok(Step::Ignored));
    let emptied = Message::Truncate {
        relations: vec![1],
        cascade: false,
        restart_identity: false,
    };
    assert_eq!(assembly.take(&emptied), Ok(Step::Ignored));
    let step = assembly.take(&insert(1, event())).expect("a row");
    assert!(
        matches!(&step, Step::Change(change) if change.position.ordinal == 5),
        "{step:?}"
    );
}

#[test]
fn messages_that_do_not_fit_together_are_an_error() {
    assert_eq!(
        ready().take(&insert(1, event())),
        Err(AssemblyFault::Outside("a row"))
    );
    assert_eq!(
        ready().take(&commit(100)),
        Err(AssemblyFault::Outside("an end"))
    );
    let mut assembly = ready();
    assembly.take(&begin(100)).expect("it begins");
    assert!(matches!(
        assembly.take(&begin(200)),
        Err(AssemblyFault::Within(_))
    ));
    assert!(matches!(
        assembly.take(&insert(9, event())),
        Err(AssemblyFault::UnknownTable { oid: 9, .. })
    ));
    assert!(matches!(
        assembly.take(&commit(101)),
        Err(AssemblyFault::OtherEnd { .. })
    ));
    let mut assembly = ready();
    assembly.take(&begin(100)).expect("it begins");
    assembly.take(&commit(100)).expect("it ends");
    assert!(matches!(
        assembly.take(&begin(100)),
        Err(AssemblyFault::Backwards { .. })
    ));
}

/// The row that step puts aside.
fn unreadable(step: Result<Step, AssemblyFault>) -> Unreadable {
    match step {
        Ok(Step::Unreadable(row)) => row,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_row_that_is_none_of_ours_is_put_aside_with_its_position_and_the_next_one_is_read() {
    let long: &'static [u8] = Box::leak(vec![b' '; ROW_BYTES_MAX].into_boxed_slice());
    for (place, value, reason, tenant) in [
        (0, Value::Null, LetterReason::Unreadable, None),
        (
            2,
            Value::Binary(&[0x7f; 8][..]),
            LetterReason::Unreadable,
            Some(3),
        ),
        (4, Value::Binary(b"x"), LetterReason::Unreadable, Some(3)),
        (
            5,
            Value::Text(b"00000000-0000-0000-0000-000000000000"),
            LetterReason::Unreadable,
            Some(3),
        ),
        (7, Value::Unchanged, LetterReason::Unreadable, Some(3)),
        (7, Value::Binary(long), LetterReason::TooLarge, Some(3)),
    ] {
        let mut assembly = ready();
        assembly.take(&begin(100)).expect("it begins");
        let mut row = event();
        row.values[place] = value;
        let found = unreadable(assembly.take(&insert(1, row)));
        assert_eq!(found.position.to_string(), "2:0/64:1");
        assert_eq!((found.reason, found.xid), (reason, 7), "{}", found.detail);
        assert_eq!(found.tenant.map(|tenant| tenant.0), tenant, "{place}");
        assert!(found.payload.is_whole && found.payload.text.contains("entity_id"));
        let next = assembly.take(&insert(1, event())).expect("a row");
        let Step::Change(next) = next else {
            panic!("{next:?}")
        };
        assert_eq!(next.position.to_string(), "2:0/64:2");
    }
}

#[test]
fn a_row_with_another_number_of_values_is_put_aside() {
    let mut assembly = ready();
    assembly.take(&begin(100)).expect("it begins");
    let mut row = event();
    row.values.truncate(3);
    let found = unreadable(assembly.take(&insert(1, row)));
    assert_eq!(found.reason, LetterReason::Unreadable);
    assert!(
        found.detail.contains("3 values for 8 columns"),
        "{}",
        found.detail
    );
}

#[test]
fn a_table_without_what_is_needed_is_an_error() {
    let mut assembly = Assembly::new(1, ROW_BYTES_MAX);
    let fault = assembly.take(&relation(1, "entity_events", &EVENTS[1..]));
    assert!(matches!(fault, Err(AssemblyFault::Table(_))), "{fault:?}");
}

#[test]
fn a_heartbeat_that_cannot_be_read_is_nothing_that_a_sink_lacks() {
    let mut assembly = ready();
    let beat = [("beat_at", 1184)];
    let step = assembly.take(&relation(2, "replication_heartbeat", &beat));
    assert_eq!(step, Ok(Step::Nothing));
    assembly.take(&begin(100)).expect("it begins");
    let values = vec![Value::Binary(&[0x7f; 8])];
    let step = assembly.take(&insert(2, Tuple { values }));
    assert_eq!(step, Ok(Step::Nothing));
}

#[test]
fn a_message_that_is_cut_short_is_put_aside_where_it_is_a_row_and_an_error_elsewhere() {
    let cut = |bytes: &'static [u8]| {
        let fault = crate::pgoutput::decode(bytes).expect_err("it is cut short");
        (bytes, fault)
    };
    let mut assembly = ready();
    let (insert_cut, fault) = cut(b"I\0\0\0\x01N\0\x08b");
    assert_eq!(
        assembly.take_malformed(insert_cut, fault),
        Err(fault),
        "outside"
    );
    assembly.take(&begin(100)).expect("it begins");
    let step = assembly.take_malformed(insert_cut, fault);
    let Ok(Step::Unreadable(found)) = step else {
        panic!("{step:?}")
    };
    assert_eq!(found.position.to_string(), "2:0/64:1");
    assert_eq!(found.reason, LetterReason::Malformed);
    assert_eq!(found.payload.text, r#"{"message":"49000000014e000862"}"#);
    // What was deleted is told to nobody, but has its place.
    let (delete_cut, fault) = cut(b"D\0\0");
    assert_eq!(
        assembly.take_malformed(delete_cut, fault),
        Ok(Step::Ignored)
    );
    for bytes in [&b"C\0"[..], b"R\0", b"?", b""] {
        let (bytes, fault) = cut(bytes);
        assert_eq!(assembly.take_malformed(bytes, fault), Err(fault));
    }
    let next = assembly.take(&insert(1, event())).expect("a row");
    let Step::Change(next) = next else {
        panic!("{next:?}")
    };
    assert_eq!(next.position.to_string(), "2:0/64:3");
}
