//! What is kept of a row is the row again.

use std::sync::Arc;

use proptest::prelude::*;
use sheaf_model::{BatchId, EntityId, Lsn, Op};
use uuid::Uuid;

use super::payload::PayloadFault;
use super::*;
use crate::change::{Catalogue, CatalogueRow, ChangedRow, EventRow};
use crate::column::ColumnValue;
use crate::pgoutput;
use crate::table::Table;

const BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

fn change(row: ChangedRow) -> Change {
    Change {
        position: ChangePosition::before(1, Lsn(7)),
        xid: 3,
        committed_at: Timestamp::MIN,
        row,
    }
}

fn event(attrs: &str) -> ChangedRow {
    ChangedRow::Event(EventRow {
        tenant: TenantId(3),
        entity: EntityId(i64::MAX),
        observed_at: Timestamp::MIN,
        seq: -1,
        op: Op::Replace,
        batch: BatchId(Uuid::from_u128(9)),
        ingested_at: Timestamp::from_micros(1).expect("a time"),
        attrs: attrs.into(),
    })
}

#[test]
fn an_event_is_the_same_event_out_of_its_letter() {
    for attrs in ["{}", r#"{"5": "a\"b\\ \u0001é", "6": 1e400, "7": null}"#] {
        let payload = payload_of(&change(event(attrs)));
        assert!(payload.is_whole);
        assert_eq!(read_payload(&payload.text, BYTES_MAX), Ok(event(attrs)));
    }
}

fn any_value() -> impl Strategy<Value = ColumnValue> {
    let time = (-10_000_000_000_000_000i64..10_000_000_000_000_000)
        .prop_map(|micros| ColumnValue::Time(Timestamp::from_micros(micros).expect("a time")));
    prop_oneof![
        Just(ColumnValue::Null),
        Just(ColumnValue::Unchanged),
        any::<bool>().prop_map(ColumnValue::Bool),
        any::<i64>().prop_map(ColumnValue::Int),
        any::<f64>()
            .prop_filter("comparable", |number| !number.is_nan())
            .prop_map(ColumnValue::Float),
        any::<String>().prop_map(ColumnValue::Text),
        any::<String>().prop_map(ColumnValue::Json),
        time,
        any::<u128>().prop_map(|number| ColumnValue::Uuid(Uuid::from_u128(number))),
        // A type that is not known.
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| ColumnValue::Other {
            type_oid: 600,
            bytes,
        }),
    ]
}

proptest! {
    #[test]
    fn a_row_of_a_catalogue_is_the_same_row_out_of_its_letter(
        values in prop::collection::vec(any_value(), 1..6),
        key in any::<i64>(),
        is_new in any::<bool>(),
    ) {
        let mut columns = vec!["attribute_id".to_owned(), "tenant_id".to_owned()];
        columns.extend((0..values.len()).map(|n| format!("x{n}")));
        let mut all = vec![ColumnValue::Int(key), ColumnValue::Int(1)];
        all.extend(values);
        let row = ChangedRow::Catalogue(CatalogueRow {
            catalogue: Catalogue::Attributes,
            is_new,
            columns: Arc::from(columns),
            values: all,
        });
        let payload = payload_of(&change(row.clone()));
        prop_assert_eq!(read_payload(&payload.text, BYTES_MAX), Ok(row));
    }

    #[test]
    fn no_text_is_a_panic(text in any::<String>()) {
        let _ = read_payload(&text, BYTES_MAX);
    }
}

#[test]
fn what_could_not_be_read_is_read_anew_and_fails_as_it_did() {
    let table = Table::new(
        "attributes".to_owned(),
        vec![
            ("tenant_id".to_owned(), 20),
            ("attribute_id".to_owned(), 20),
            ("created_at".to_owned(), 1184),
        ],
    )
    .expect("a table");
    let (number, time) = (7i64.to_be_bytes(), i64::MAX.to_be_bytes());
    let values = vec![
        pgoutput::Value::Binary(&number),
        pgoutput::Value::Null,
        pgoutput::Value::Binary(&time),
    ];
    let (payload, tenant) = payload_of_row(&table, &values, false);
    assert_eq!(tenant, Some(TenantId(7)));
    assert_eq!(
        payload.text,
        r#"{"columns":{"attribute_id":null,"created_at":{"bytes":"7fffffffffffffff","type":1184},"tenant_id":{"int":7}},"is_new":false,"table":"attributes"}"#
    );
    let fault = read_payload(&payload.text, BYTES_MAX).expect_err("still no time");
    assert_eq!(fault.reason(), LetterReason::Unreadable);
    // What a release that knows better would find in its place.
    let mended = payload.text.replace("7fffffffffffffff", "0000000000000000");
    assert!(read_payload(&mended, BYTES_MAX).is_ok());
}

#[test]
fn of_a_row_beyond_the_limit_the_beginnings_are_kept() {
    let attrs = format!(r#"{{"1":"{}"}}"#, "é".repeat(PAYLOAD_BYTES_MAX / 2));
    let payload = payload_of(&change(event(&attrs)));
    assert!(!payload.is_whole);
    assert!(payload.text.len() < 2_000, "{}", payload.text.len());
    assert!(
        payload
            .text
            .contains(r#""entity_id":{"int":9223372036854775807}"#)
    );
    let table = Table::new(
        "attributes".to_owned(),
        vec![
            ("tenant_id".to_owned(), 20),
            ("attribute_id".to_owned(), 20),
            ("schema".to_owned(), 3802),
        ],
    )
    .expect("a table");
    let (number, long) = (7i64.to_be_bytes(), attrs.as_bytes());
    let values = [&number[..], &number, long].map(pgoutput::Value::Binary);
    let (payload, tenant) = payload_of_row(&table, &values, true);
    assert!(!payload.is_whole && payload.text.len() < 2_000);
    assert_eq!(tenant, Some(TenantId(7)));
    let wanted = format!(r#""bytes_in_all":{}"#, attrs.len());
    assert!(payload.text.contains(&wanted), "{}", payload.text);
    let message = payload_of_message(&vec![1; PAYLOAD_BYTES_MAX + 1]);
    assert!(!message.is_whole && message.text.len() < 3_000);
}

#[test]
fn a_letter_is_no_row_where_it_is_too_long_or_another_thing() {
    let payload = payload_of(&change(event(r#"{"1": 5}"#)));
    let long = read_payload(&payload.text, 3).expect_err("too long");
    assert_eq!(long.reason(), LetterReason::TooLarge);
    let message = payload_of_message(b"I\0");
    let fault = read_payload(&message.text, BYTES_MAX).expect_err("no row");
    assert_eq!(fault, PayloadFault::NoRow);
    for text in [
        "",
        "[]",
        r#"{"table":"entity_events","is_new":true,"columns":{}}"#,
        r#"{"table":"elsewhere","is_new":true,"columns":{"a":{"int":1}}}"#,
        r#"{"table":"tenants","is_new":true,"columns":{"tenant_id":{"int":1.5}}}"#,
        r#"{"table":"tenants","is_new":true,"columns":{"tenant_id":{"int":1,"text":""}}}"#,
        r#"{"table":"tenants","is_new":true,"columns":{"tenant_id":{"bytes":"0","type":20}}}"#,
    ] {
        assert!(read_payload(text, BYTES_MAX).is_err(), "{text}");
    }
}

#[test]
fn reasons_have_codes_of_their_own_and_are_counted_apart() {
    let mut codes: Vec<&str> = LetterReason::ALL.map(LetterReason::as_str).to_vec();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), LetterReason::ALL.len());
    let mut counts = LetterCounts::NONE;
    counts.add(LetterReason::TooLarge);
    let counts = counts.plus(counts);
    let found: Vec<u64> = counts.each().map(|(_, count)| count).collect();
    assert_eq!(found, [0, 0, 2, 0, 0, 0, 0, 0]);
}
