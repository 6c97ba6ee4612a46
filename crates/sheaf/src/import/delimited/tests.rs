//! The reader of CSV against Python's, and against files that never end.

#![allow(clippy::unwrap_used, reason = "a failing step is a failing test")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// A file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Scratch {
        let file = format!("sheaf-delimited-{}-{name}.csv", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, content).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn records(name: &str, content: &[u8]) -> Vec<Record> {
    let file = Scratch::new(name, content);
    let mut table = Delimited::open(&file.0, Position { offset: 0, line: 1 }).unwrap();
    let mut all = Vec::new();
    while let Some(record) = table.next_record().unwrap() {
        all.push(record);
    }
    all
}

fn texts(record: &Record) -> Vec<String> {
    let fields = record.fields.clone().unwrap();
    fields
        .into_iter()
        .map(|field| String::from_utf8(field).unwrap())
        .collect()
}

/// Python's rows without empty ones. With a line after the text we see whether a quote was open at its end.
const REFERENCE: &str = r#"
import csv, io, json, sys
for line in sys.stdin:
    text = json.loads(line)
    rows = lambda t: [r for r in csv.reader(io.StringIO(t, newline="")) if r]
    closed = rows(text + "\nEND")[-1:] == [["END"]]
    print(json.dumps([closed, rows(text)]))
"#;

#[test]
fn random_tables_read_as_python_reads_them() {
    const CASES: usize = 2000;
    let cell = "[a,\"\r\n;' \u{0}é]{0,6}";
    let table = proptest::collection::vec(proptest::collection::vec(cell, 1..5), 1..6);
    let mut runner = TestRunner::default();
    let mut tables = Vec::new();
    while tables.len() < CASES {
        let rows = table.new_tree(&mut runner).unwrap().current();
        let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
        // Every other one is well quoted, as most real files are.
        let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
        let good: Vec<String> = rows
            .iter()
            .map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(","))
            .collect();
        tables.push(lines.join("\n"));
        tables.push(good.join(if tables.len().is_multiple_of(3) {
            "\r\n"
        } else {
            "\n"
        }));
    }
    let mut open = 0;
    for (table, (closed, expected)) in tables.iter().zip(reference(&tables)) {
        let ours = records("random", table.as_bytes());
        if closed {
            let ours: Vec<Vec<String>> = ours.iter().map(texts).collect();
            assert_eq!(ours, expected, "{table:?}");
        } else {
            open += 1;
            let bad = ours.iter().find(|record| record.fields.is_err());
            let bad = bad.unwrap_or_else(|| panic!("an open quote in {table:?} is a bad record"));
            assert_eq!(bad.fields, Err(BadRecord::OpenQuote));
        }
    }
    assert!(open > 0, "no table had an open quote");
}

fn reference(tables: &[String]) -> Vec<(bool, Vec<Vec<String>>)> {
    let mut python = Command::new("python3")
        .args(["-c", REFERENCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is the reference");
    let mut input = python.stdin.take().unwrap();
    let lines: Vec<String> = tables
        .iter()
        .map(|text| serde_json::to_string(text).unwrap())
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.join("\n").as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), tables.len());
    answers
}

#[test]
fn a_quote_that_never_ends_costs_one_line() {
    let mut content = b"id,v\n1,a\n2,\"b\n".to_vec();
    for number in 3..1000 {
        content.extend_from_slice(format!("{number},c\n").as_bytes());
    }
    let records = records("endless", &content);
    assert_eq!(records.len(), 1000);
    assert_eq!(
        records[2],
        Record {
            line: 3,
            fields: Err(BadRecord::OpenQuote)
        }
    );
    assert_eq!(
        (records[3].line, texts(&records[3])),
        (4, vec!["3".to_owned(), "c".to_owned()])
    );
    assert_eq!(records[999].line, 1000);
}

#[test]
fn a_record_without_end_is_given_up_in_bounded_memory() {
    let mut content = b"id,v\n1,\"a\n".to_vec();
    content.resize(3 * RECORD_BYTES_MAX, b'x');
    content.extend_from_slice(b"\n2,b\n");
    content.resize(content.len() + RECORD_BYTES_MAX * 2, b',');
    content.extend_from_slice(b"\n3,c\"\n4,d\n");
    let file = Scratch::new("long", &content);
    let mut table = Delimited::open(&file.0, Position { offset: 0, line: 1 }).unwrap();
    let mut outcomes = Vec::new();
    while let Some(record) = table.next_record().unwrap() {
        outcomes.push((record.line, record.fields.map(|fields| fields.len())));
        assert!(
            table.output.len() <= 4 * RECORD_BYTES_MAX,
            "{}",
            table.output.len()
        );
        assert!(
            table.ends.len() <= 4 * RECORD_BYTES_MAX,
            "{}",
            table.ends.len()
        );
        assert!(table.window.pending().len() <= 2 * RECORD_BYTES_MAX);
    }
    let too_long = Err(BadRecord::TooLong);
    let expected = [
        (1, Ok(2)),
        (2, too_long),
        (3, too_long),
        (4, Ok(2)),
        (5, too_long),
        (6, Ok(2)),
        (7, Ok(2)),
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn reading_goes_on_where_it_stopped() {
    let content = "\u{feff}id,v\r\n1,\"a\nb\"\r\n\r\n2,c\r3,d\n\n4,\"e";
    let file = Scratch::new("resume", content.as_bytes());
    let whole = records("resume-whole", content.as_bytes());
    assert_eq!(texts(&whole[0]), ["id", "v"]);
    let lines: Vec<u64> = whole.iter().map(|record| record.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 8]);
    let mut position = Position { offset: 0, line: 1 };
    for expected in &whole {
        let mut table = Delimited::open(&file.0, position).unwrap();
        assert_eq!(table.next_record().unwrap().as_ref(), Some(expected));
        position = table.position();
    }
    assert_eq!(position.offset, content.len() as u64);
}
