//! Parquet files as they are written, and damaged ones.

use std::path::PathBuf;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

#[test]
fn decimals_keep_their_digits() {
    for (bytes, scale, text) in [
        (vec![0x04, 0xe2], 2, "12.50"),
        (vec![0xfb, 0x1e], 2, "-12.50"),
        (vec![0x05], 2, "0.05"),
        (vec![0xff], 3, "-0.001"),
        (vec![0x00], 0, "0"),
        (vec![0x80; 1], 0, "-128"),
    ] {
        let number = Decimal::from_bytes(bytes.into(), 38, scale);
        assert_eq!(decimal(&number).expect("in range"), text);
    }
}

#[test]
fn values_become_tokens() {
    for (field, unit, expected) in [
        (Field::Long(i64::MAX), None, "9223372036854775807"),
        (
            Field::Long(1_500),
            Some(TimeUnit::NANOS),
            "\"1970-01-01T00:00:00.000001Z\"",
        ),
        (Field::Double(0.1), None, "0.1"),
        (Field::Float(0.1), None, "0.10000000149011612"),
        (Field::Date(1), None, "\"1970-01-02T00:00:00Z\""),
        (Field::Str("a\"b".to_owned()), None, "\"a\\\"b\""),
    ] {
        assert_eq!(token(&field, unit).expect(expected), expected);
    }
    for field in [Field::Double(f64::NAN), Field::TimeMillis(1)] {
        assert!(token(&field, None).is_err(), "{field:?}");
    }
}

const SCHEMA: &str = "message m {
    required binary id (UTF8);
    required int64 at (TIMESTAMP(NANOS,true));
    optional int64 n;
    required double x;
    required int64 d (DECIMAL(18,2));
    required binary note (UTF8);
}";

fn roles() -> Roles {
    Roles {
        kind: "plane".to_owned(),
        id: "id".to_owned(),
        time: Some("at".to_owned()),
        observed_at: None,
        null: vec!["NA".to_owned()],
        skip: vec!["note".to_owned()],
    }
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!(
        "sheaf-columnar-{}-{name}.parquet",
        std::process::id()
    ))
}

/// Three groups of three rows; every second `n` is missing.
fn write(path: &Path) {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let file = File::create(path).expect("temp dir");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).expect("a writer");
    for group in 0..3 {
        let rows: Vec<i64> = (group * 3..group * 3 + 3).collect();
        let texts = |form: fn(i64) -> String| -> Vec<ByteArray> {
            rows.iter()
                .map(|row| form(*row).into_bytes().into())
                .collect()
        };
        let mut columns = writer.next_row_group().expect("a group");
        let mut at = 0;
        while let Some(mut column) = columns.next_column().expect("a column") {
            let numbers: Vec<i64> = match at {
                1 => rows.iter().map(|row| row * 1_000_000_500).collect(),
                2 => rows.iter().copied().filter(|row| row % 2 == 0).collect(),
                _ => rows.iter().map(|row| row * 125).collect(),
            };
            let present: Vec<i16> = rows.iter().map(|row| i16::from(row % 2 == 0)).collect();
            match at {
                0 => column.typed::<ByteArrayType>().write_batch(
                    &texts(|row| format!("e{row}")),
                    None,
                    None,
                ),
                2 => column
                    .typed::<Int64Type>()
                    .write_batch(&numbers, Some(&present), None),
                3 => {
                    let halves: Vec<f64> = numbers
                        .iter()
                        .map(|number| *number as f64 / 250.0)
                        .collect();
                    column
                        .typed::<DoubleType>()
                        .write_batch(&halves, None, None)
                }
                5 => column.typed::<ByteArrayType>().write_batch(
                    &texts(|_| "x".to_owned()),
                    None,
                    None,
                ),
                _ => column
                    .typed::<Int64Type>()
                    .write_batch(&numbers, None, None),
            }
            .expect("a batch");
            column.close().expect("a column");
            at += 1;
        }
        columns.close().expect("a group");
    }
    writer.close().expect("a file");
}

#[test]
fn rows_become_events_and_reading_goes_on_at_any_row() {
    let path = scratch("resume");
    write(&path);
    let from = |offset| {
        let position = Position {
            offset,
            line: offset + 1,
        };
        let mut columnar = Columnar::open(&path, roles(), position).expect("opens");
        let mut rows = Vec::new();
        while let Some(row) = columnar.next_row().expect("reads") {
            rows.push(row);
        }
        assert_eq!(columnar.progress(), (9, 9));
        rows
    };
    let whole = from(0);
    assert_eq!(whole.len(), 9);
    let fourth = whole[4].event.as_deref().expect("an event");
    assert_eq!(
        fourth,
        r#"{"type":"plane","id":"e4","observed_at":"1970-01-01T00:00:04.000002Z","attributes":{"n":4,"x":2.0,"d":"5.00"}}"#
    );
    let third = whole[3].event.as_deref().expect("an event");
    assert!(!third.contains("\"n\""), "{third}");
    for offset in 0..=9 {
        let at = usize::try_from(offset).expect("small");
        assert_eq!(from(offset), whole[at..], "from row {offset}");
    }
    std::fs::remove_file(&path).expect("was there");
}

#[test]
fn a_damaged_file_is_an_error_and_no_crash() {
    let path = scratch("damaged");
    write(&path);
    let good = std::fs::read(&path).expect("written");
    let mut failed = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        std::fs::write(&path, &bad).expect("temp dir");
        failed += u32::from(read_all(&path).is_err());
    }
    for length in 0..good.len() {
        std::fs::write(&path, &good[..length]).expect("temp dir");
        assert!(read_all(&path).is_err(), "cut to {length} bytes");
    }
    std::fs::remove_file(&path).expect("was there");
    assert!(failed > 0, "no damage was noticed");
}

fn read_all(path: &Path) -> Result<()> {
    let beginning = Position { offset: 0, line: 1 };
    let mut columnar = Columnar::open(path, roles(), beginning)?;
    while columnar.next_row()?.is_some() {}
    Ok(())
}
