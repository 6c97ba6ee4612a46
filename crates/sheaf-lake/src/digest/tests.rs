use std::sync::Arc;

use sheaf_cdc::change::EventRow;
use sheaf_model::{BatchId, EntityId, Op, Timestamp};
use sheaf_pg::{Pool, Tls};
use uuid::Uuid;

use super::*;
use crate::data_file::encode;
use crate::facts::NamedFacts;
use crate::names::Names;
use crate::schema::LakeTable;
use crate::stored_file::StoredFile;

const KINDS: [(i64, AttributeType); 7] = [
    (1, AttributeType::Int),
    (2, AttributeType::Float),
    (3, AttributeType::Decimal),
    (4, AttributeType::Text),
    (5, AttributeType::Bool),
    (6, AttributeType::Time),
    (7, AttributeType::Json),
];

/// Names that were never asked for: everything is learned.
fn names() -> Names {
    let nowhere = Pool::new(
        &"host=/nowhere user=nobody".parse().expect("a config"),
        1,
        &Tls::none(),
    );
    let mut names = Names::new(nowhere);
    for (id, kind) in KINDS {
        names.learn_attribute(TenantId(1), AttributeId(id), "a name", kind);
    }
    names
}

fn event(attrs: &str) -> EventRow {
    EventRow {
        tenant: TenantId(1),
        entity: EntityId(8),
        observed_at: Timestamp::from_micros(1_700_000_000_000_000).expect("a time"),
        seq: 3,
        op: Op::Patch,
        batch: BatchId(Uuid::from_u128(77)),
        ingested_at: Timestamp::from_micros(1_700_000_000_500_000).expect("a time"),
        attrs: attrs.into(),
    }
}

fn pending(events: &[EventRow], names: &Names) -> Pending {
    let mut pending = Pending::default();
    for event in events {
        pending.push_event(event, names).expect("it is good");
    }
    pending
}

fn of_events(events: &[EventRow]) -> Vec<Digested> {
    let names = names();
    let mut found = Vec::new();
    let kind = |tenant, id| names.kind(tenant, id);
    digest_pending(&pending(events, &names), kind, |_, fact| found.push(fact));
    found
}

/// The same facts as rows: as they are made into columns, and as they are read from a file.
fn of_rows(events: &[EventRow]) -> [Vec<Digested>; 2] {
    let names = names();
    let pending = pending(events, &names);
    let places: Vec<u32> = (0..).take(pending.facts.len()).collect();
    let entities = vec![None; pending.events.len()];
    let facts = NamedFacts::new(pending, entities, &names);
    let schema = LakeTable::Facts.arrow_schema().expect("columns");
    let batch = facts.columns(&schema, &places).expect("columns");
    let digests = |batch: &RecordBatch| {
        let mut found = Vec::new();
        digest_rows(batch, |row, fact| {
            assert_eq!(row, found.len());
            found.push(fact);
        })
        .expect("all columns");
        found
    };
    let encoded = encode(
        LakeTable::Facts,
        &schema,
        std::iter::once(Ok(batch.clone())),
    );
    let stored = StoredFile::open("a file", encoded.expect("a file").bytes.into()).expect("a file");
    let rows = stored.rows().expect("rows");
    let read = rows.flat_map(|batch| digests(&batch.expect("a part")));
    [digests(&batch), read.collect()]
}

/// What values there are, extremes included.
fn extremes() -> Vec<EventRow> {
    let long = "z".repeat(9000);
    let mut events: Vec<EventRow> = [
        "{}".to_owned(),
        format!(r#"{{"1":{}}}"#, i64::MAX),
        format!(r#"{{"1":{}}}"#, i64::MIN),
        r#"{"1":0}"#.to_owned(),
        r#"{"2":0.1}"#.to_owned(),
        r#"{"2":-1.7976931348623157e308}"#.to_owned(),
        r#"{"2":5e-324}"#.to_owned(),
        r#"{"3":-0.000000000001}"#.to_owned(),
        r#"{"3":12.50}"#.to_owned(),
        format!(r#"{{"3":{}}}"#, "9".repeat(26)),
        format!(r#"{{"3":{}}}"#, "9".repeat(27)),
        format!(r#"{{"3":0.{}1}}"#, "0".repeat(12)),
        r#"{"4":""}"#.to_owned(),
        r#"{"4":"ä𝄞 \\ \" \n"}"#.to_owned(),
        format!(r#"{{"4":"{long}"}}"#),
        r#"{"5":true}"#.to_owned(),
        r#"{"5":false}"#.to_owned(),
        r#"{"6":"0001-01-01T00:00:00Z"}"#.to_owned(),
        r#"{"6":"9999-12-31T23:59:59.999999Z"}"#.to_owned(),
        r#"{"7":{}}"#.to_owned(),
        r#"{"7":{"a":[1,null,"x"]}}"#.to_owned(),
        r#"{"1":null}"#.to_owned(),
        r#"{"7":null,"4":"text","1":5}"#.to_owned(),
    ]
    .iter()
    .map(|attrs| event(attrs))
    .collect();
    for op in [Op::Replace, Op::Delete, Op::Correct] {
        events.push(EventRow { op, ..event("{}") });
        let attrs = r#"{"1":5}"#;
        events.push(EventRow { op, ..event(attrs) });
    }
    for observed_at in [Timestamp::MIN, Timestamp::MAX] {
        let plain = event(r#"{"1":5}"#);
        events.push(EventRow {
            observed_at,
            ..plain
        });
    }
    events.push(EventRow {
        seq: i16::MAX,
        entity: EntityId(i64::MAX),
        batch: BatchId(Uuid::max()),
        ..event(r#"{"1":5}"#)
    });
    events
}

#[test]
fn both_sides_give_the_same_digest_of_the_same_facts() {
    for event in extremes() {
        let said = of_events(std::slice::from_ref(&event));
        assert!(!said.is_empty(), "{event:?}");
        let [columns, file] = of_rows(std::slice::from_ref(&event));
        assert_eq!(columns, said, "{event:?}");
        assert_eq!(file, said, "{event:?} from a file");
    }
    let events = extremes();
    let said = of_events(&events);
    let [columns, file] = of_rows(&events);
    assert_eq!(columns, said);
    assert_eq!(file, said);
}

#[test]
fn facts_that_differ_in_anything_have_other_digests() {
    let plain = || event(r#"{"1":5}"#);
    let later = |micros| Timestamp::from_micros(micros).expect("a time");
    let others = [
        plain(),
        event(r#"{"1":6}"#),
        event(r#"{"2":5}"#),
        event(r#"{"3":5}"#),
        event(r#"{"3":5.0}"#),
        event(r#"{"4":"5"}"#),
        event(r#"{"7":"5"}"#),
        event(r#"{"7":5}"#),
        event(r#"{"1":null}"#),
        event(r#"{"2":null}"#),
        event("{}"),
        event(r#"{"5":true}"#),
        event(r#"{"6":"1970-01-01T00:00:00.000005Z"}"#),
        EventRow {
            entity: EntityId(9),
            ..plain()
        },
        EventRow { seq: 2, ..plain() },
        EventRow {
            op: Op::Correct,
            ..plain()
        },
        EventRow {
            batch: BatchId(Uuid::from_u128(78)),
            ..plain()
        },
        EventRow {
            observed_at: later(1_700_000_000_000_001),
            ..plain()
        },
        EventRow {
            ingested_at: later(1_700_000_000_500_001),
            ..plain()
        },
    ];
    let mut seen: Vec<(Digest, &EventRow)> = Vec::new();
    for other in &others {
        let said = of_events(std::slice::from_ref(other));
        assert_eq!(said.len(), 1, "{other:?}");
        let digest = said[0].digest;
        assert_eq!(digest.facts, 1);
        if let Some((_, same)) = seen.iter().find(|(known, _)| *known == digest) {
            panic!("{same:?} and {other:?} have the same digest");
        }
        seen.push((digest, other));
    }
}

#[test]
fn sums_tell_two_of_a_fact_from_none_and_do_not_depend_on_the_order() {
    let events = extremes();
    let mut reversed = extremes();
    reversed.reverse();
    let sum = |events: &[EventRow]| {
        let facts = of_events(events).into_iter();
        facts.fold(Digest::default(), |sum, fact| sum + fact.digest)
    };
    let whole = sum(&events);
    assert_eq!(whole, sum(&reversed));
    let twice = [event(r#"{"1":5}"#), event(r#"{"1":5}"#)];
    assert_ne!(sum(&twice).sum, 0);
    assert_eq!(sum(&twice).without(sum(&twice[..1])), sum(&twice[1..]));
    assert_eq!(whole.without(whole), Digest::default());
}

#[test]
fn a_digest_is_the_same_for_ever_as_it_is_stored() {
    let said = of_events(&[event(r#"{"1":5}"#)]);
    assert_eq!(said[0].digest.facts, 1);
    assert_eq!(
        said[0].digest.sum,
        339_604_209_988_018_590_666_175_568_893_498_792_600
    );
}

#[test]
fn hours_begin_on_the_hour_before_1970_too() {
    for (micros, hour) in [
        (0, 0),
        (HOUR_MICROS - 1, 0),
        (HOUR_MICROS, 1),
        (-1, -1),
        (-HOUR_MICROS, -1),
        (-HOUR_MICROS - 1, -2),
    ] {
        assert_eq!(hour_of(micros), hour, "{micros}");
    }
}

#[test]
fn a_file_that_lacks_a_column_is_told() {
    let names = names();
    let pending = pending(&[event(r#"{"1":5}"#)], &names);
    let facts = NamedFacts::new(pending, vec![None], &names);
    let schema = LakeTable::Facts.arrow_schema().expect("columns");
    let batch = facts.columns(&schema, &[0]).expect("columns");
    let fields = schema.fields().iter().zip(batch.columns());
    let fields = fields.filter(|(field, _)| field.name() != "removed");
    let (fields, columns): (Vec<_>, Vec<_>) = fields
        .map(|(field, column)| (Arc::clone(field), Arc::clone(column)))
        .unzip();
    let schema = Arc::new(arrow_schema::Schema::new(fields));
    let batch = RecordBatch::try_new(schema, columns).expect("columns");
    let failed = digest_rows(&batch, |_, _| ()).expect_err("a column is missing");
    assert_eq!(failed.to_string(), "column removed is missing");
}
