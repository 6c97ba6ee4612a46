//! Each kind of message, and whatever else may arrive.

use proptest::prelude::*;

use super::*;

/// Bytes of a message, put together by hand.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(kind: u8) -> Bytes {
        Bytes(vec![kind])
    }

    fn byte(mut self, byte: u8) -> Bytes {
        self.0.push(byte);
        self
    }

    fn u16(mut self, number: u16) -> Bytes {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Bytes {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Bytes {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn text(mut self, text: &str) -> Bytes {
        self.0.extend(text.as_bytes());
        self.byte(0)
    }

    fn value(self, kind: u8, bytes: &[u8]) -> Bytes {
        let length = u32::try_from(bytes.len()).expect("short");
        let mut with = self.byte(kind).u32(length);
        with.0.extend(bytes);
        with
    }
}

/// The key 7 and one more value.
fn row(message: Bytes) -> Bytes {
    message
        .u16(4)
        .value(b'b', &7i64.to_be_bytes())
        .value(b't', b"x")
        .byte(b'n')
        .byte(b'u')
}

fn a_row() -> Tuple<'static> {
    Tuple {
        values: vec![
            Value::Binary(&[0, 0, 0, 0, 0, 0, 0, 7]),
            Value::Text(b"x"),
            Value::Null,
            Value::Unchanged,
        ],
    }
}

fn key(message: Bytes) -> Bytes {
    message.u16(1).value(b'b', b"k")
}

fn a_key() -> Tuple<'static> {
    Tuple {
        values: vec![Value::Binary(b"k")],
    }
}

/// One message of each kind and form, with what it says.
fn table() -> Vec<(Vec<u8>, Message<'static>)> {
    let relation = Bytes::of(b'R')
        .u32(9)
        .text("sheaf")
        .text("entities")
        .byte(b'd')
        .u16(2);
    let relation = relation.byte(1).text("tenant_id").u32(20).u32(u32::MAX);
    let relation = relation.byte(0).text("entity_type").u32(25).u32(u32::MAX);
    let column = |is_key, name, type_oid| RelationColumn {
        is_key,
        name,
        type_oid,
        type_modifier: -1,
    };
    let table = vec![
        (
            Bytes::of(b'B').u64(0x2ACCA18).u64(5).u32(77),
            Message::Begin {
                commit_lsn: Lsn(0x2ACCA18),
                committed_at: 5,
                xid: 77,
            },
        ),
        (
            Bytes::of(b'C').byte(0).u64(0x2ACCA18).u64(0x2ACCA48).u64(5),
            Message::Commit {
                commit_lsn: Lsn(0x2ACCA18),
                end_lsn: Lsn(0x2ACCA48),
                committed_at: 5,
            },
        ),
        (
            Bytes::of(b'O').u64(1).text("elsewhere"),
            Message::Origin { name: "elsewhere" },
        ),
        (
            relation,
            Message::Relation(Relation {
                oid: 9,
                namespace: "sheaf",
                name: "entities",
                replica_identity: b'd',
                columns: vec![
                    column(true, "tenant_id", 20),
                    column(false, "entity_type", 25),
                ],
            }),
        ),
        (
            Bytes::of(b'Y').u32(70000).text("public").text("mood"),
            Message::Type {
                oid: 70000,
                namespace: "public",
                name: "mood",
            },
        ),
        (
            row(Bytes::of(b'I').u32(9).byte(b'N')),
            Message::Insert {
                relation: 9,
                row: a_row(),
            },
        ),
        (
            row(Bytes::of(b'U').u32(9).byte(b'N')),
            Message::Update {
                relation: 9,
                before: None,
                row: a_row(),
            },
        ),
        (
            row(key(Bytes::of(b'U').u32(9).byte(b'K')).byte(b'N')),
            Message::Update {
                relation: 9,
                before: Some(OldTuple::Key(a_key())),
                row: a_row(),
            },
        ),
        (
            row(row(Bytes::of(b'U').u32(9).byte(b'O')).byte(b'N')),
            Message::Update {
                relation: 9,
                before: Some(OldTuple::Row(a_row())),
                row: a_row(),
            },
        ),
        (
            key(Bytes::of(b'D').u32(9).byte(b'K')),
            Message::Delete {
                relation: 9,
                before: OldTuple::Key(a_key()),
            },
        ),
        (
            row(Bytes::of(b'D').u32(9).byte(b'O')),
            Message::Delete {
                relation: 9,
                before: OldTuple::Row(a_row()),
            },
        ),
        (
            Bytes::of(b'T').u32(2).byte(3).u32(9).u32(10),
            Message::Truncate {
                relations: vec![9, 10],
                cascade: true,
                restart_identity: true,
            },
        ),
        (
            Bytes::of(b'M')
                .byte(1)
                .u64(3)
                .text("sheaf")
                .u32(2)
                .byte(1)
                .byte(2),
            Message::Logical {
                transactional: true,
                lsn: Lsn(3),
                prefix: "sheaf",
                content: &[1, 2],
            },
        ),
    ];
    table
        .into_iter()
        .map(|(bytes, message)| (bytes.0, message))
        .collect()
}

#[test]
fn each_kind_of_message_reads_as_what_it_says() {
    for (bytes, message) in table() {
        assert_eq!(decode(&bytes), Ok(message), "{bytes:?}");
    }
}

#[test]
fn a_message_cut_short_anywhere_is_an_error_within_it() {
    for (bytes, message) in table() {
        for length in 0..bytes.len() {
            let fault = decode(&bytes[..length]).expect_err("it is not whole");
            assert!(
                matches!(fault.kind, FaultKind::Short(_)),
                "{message:?} cut to {length}: {fault}"
            );
            assert!(fault.at <= length && fault.length == length, "{fault}");
        }
    }
}

#[test]
fn a_message_that_goes_on_is_an_error_at_its_end() {
    for (bytes, message) in table() {
        let longer = [bytes.as_slice(), &[0, 0]].concat();
        let fault = decode(&longer).expect_err("it is too long");
        assert_eq!(fault.kind, FaultKind::Long(2), "{message:?}");
        assert_eq!(fault.at, bytes.len(), "{message:?}");
    }
}

#[test]
fn what_stands_for_nothing_known_is_named_with_its_place() {
    let unknown = |what, found| FaultKind::Unknown { what, found };
    for (bytes, at, kind) in [
        (Bytes::of(b'S'), 0, unknown("the kind of message", b'S')),
        (
            Bytes::of(b'C').byte(1),
            1,
            unknown("the flags of a commit", 1),
        ),
        (
            Bytes::of(b'I').u32(9).byte(b'K'),
            5,
            unknown("the kind of a row", b'K'),
        ),
        (
            Bytes::of(b'I').u32(9).byte(b'N').u16(1).byte(b'z'),
            8,
            unknown("the kind of a value", b'z'),
        ),
        (
            Bytes::of(b'I')
                .u32(9)
                .byte(b'N')
                .u16(1)
                .byte(b'b')
                .u32(u32::MAX),
            9,
            FaultKind::Negative {
                what: "the length of a value",
                found: -1,
            },
        ),
        (
            Bytes::of(b'U').u32(9).byte(b'X'),
            5,
            unknown("the kind of a row", b'X'),
        ),
        (
            Bytes::of(b'R').u32(9).text("s").text("t").byte(b'x'),
            9,
            unknown("the identity of rows", b'x'),
        ),
        (
            Bytes::of(b'R').u32(9).byte(0xff).byte(0),
            5,
            FaultKind::NotText("the schema of a table"),
        ),
        (
            Bytes::of(b'T').u32(1).byte(4),
            5,
            unknown("the options of a truncate", 4),
        ),
        (
            Bytes::of(b'M').byte(2),
            1,
            unknown("the flags of a message", 2),
        ),
    ] {
        let length = bytes.0.len();
        assert_eq!(decode(&bytes.0), Err(Malformed { at, length, kind }));
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_reserves_nothing_for_it() {
    let many = Bytes::of(b'T').u32(0x7fff_ffff).byte(0);
    assert!(decode(&many.0).is_err());
    let long = Bytes::of(b'M').byte(0).u64(1).text("p").u32(0x7fff_ffff);
    assert!(decode(&long.0).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    /// Beginnings that are right lead further in.
    #[test]
    fn no_change_of_a_message_is_a_panic(
        which in 0usize..13,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (mut bytes, _) = table().swap_remove(which);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(length.index(bytes.len() + 1));
        bytes.extend(more);
        if let Err(fault) = decode(&bytes) {
            prop_assert!(fault.at <= fault.length && fault.length == bytes.len());
        }
    }
}
