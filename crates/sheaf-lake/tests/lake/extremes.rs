//! The largest, smallest and longest values that are taken, from a request to readers that are not ours; and what no type can hold,
//! which is refused when it comes and is nowhere after that.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheaf_lake::reconcile::{Outcome, ReconcileOptions, ReconcileRequest, Reconciler};
use sheaf_testkit::wait_until;

use crate::readers::PYTHON;
use crate::streamed::{Source, WITHIN};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lake/extremes.py");
const KINDS: [&str; 7] = ["int", "float", "decimal", "text", "bool", "time", "json"];

/// What is written, as JSON, and what has to be found: of a float the number, of a time its microseconds.
fn taken() -> Vec<(&'static str, String, String)> {
    let same = |kind: &'static str, text: &str| (kind, text.to_owned(), text.to_owned());
    let mut taken = vec![
        same("int", "9223372036854775807"),
        same("int", "-9223372036854775808"),
        same("int", "0"),
        same("bool", "false"),
    ];
    for number in [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.1, 1e22] {
        taken.push(("float", format!("{number:e}"), number.to_bits().to_string()));
    }
    let digits = "1234567890".repeat(4);
    for text in [
        // 38 digits, 12 of them after the point, and one more on either side.
        &format!("{}.{}", &digits[..26], &digits[..12]),
        &format!("-{}.{}", &digits[..26], &digits[..12]),
        &format!("{}.{}", &digits[..27], &digits[..12]),
        &format!("{}.{}", &digits[..26], &digits[..13]),
        &format!("{digits}{digits}.{digits}"),
        "0.0000000000001",
        "0.000000000001",
        "-0.000000000001",
        "12.500",
        "99999999999999999999999999.999999999999",
        "100000000000000000000000000",
    ] {
        taken.push(same("decimal", text));
    }
    for text in [
        String::new(),
        " ".to_owned(),
        "\u{1}\u{1f}\t\r\n\"'\\".to_owned(),
        "\u{fffd}\u{10ffff}\u{202e}e\u{301}\u{1f468}\u{200d}\u{1f469}".to_owned(),
        "NaN".to_owned(),
        "__debezium_unavailable_value".to_owned(),
        "x".repeat(70 << 10),
        (0..30_000).map(|n| format!("{n:06}")).collect(),
    ] {
        taken.push(("text", Value::from(text.as_str()).to_string(), text));
    }
    for (time, micros) in [
        ("0001-01-01T00:00:00Z", "-62135596800000000"),
        ("9999-12-31T23:59:59.999999Z", "253402300799999999"),
        ("1969-12-31T23:59:59.999999Z", "-1"),
        ("2024-02-29T23:59:59.999999+14:00", "1709200799999999"),
    ] {
        taken.push(("time", format!("\"{time}\""), micros.to_owned()));
    }
    let nested = format!("{}1{}", "[".repeat(25), "]".repeat(25));
    for document in ["{}", "[]", r#"{"a":null}"#, &nested, r#""a text""#, "false"] {
        taken.push(same("json", document));
    }
    taken
}

const REFUSED: [(&str, &str); 14] = [
    ("int", "9223372036854775808"),
    ("int", "-9223372036854775809"),
    ("int", "1.5"),
    ("float", "1e400"),
    ("float", "NaN"),
    ("float", "\"Infinity\""),
    ("decimal", "1e131000"),
    ("decimal", "\"NaN\""),
    ("text", "\"a\\u0000b\""),
    ("text", "\"\\ud800\""),
    ("time", "\"294276-12-31T23:59:59Z\""),
    ("time", "\"10000-01-01T00:00:00Z\""),
    ("time", "\"infinity\""),
    ("bool", "2"),
];

fn line(id: &str, kind: &str, value: &str) -> String {
    format!(
        r#"{{"type":"thing","id":"{id}","observed_at":"2024-02-27T00:00:00Z","attributes":{{"{kind}":{value}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_extreme_is_found_by_every_reader_as_it_was_written_and_the_rest_is_refused()
-> Result<()> {
    let source = Source::create().await?;
    for kind in KINDS {
        source
            .execute(&format!(
                "INSERT INTO sheaf.attributes (tenant_id, name, type, origin, temperature, created_at)
                 SELECT tenant_id, '{kind}', '{kind}', 'declared', 'cold', now() FROM sheaf.tenants"
            ))
            .await?;
    }
    let taken = taken();
    let name = |number: usize, kind: &str| format!("{kind} {number}");
    let lines = taken.iter().enumerate();
    let lines = lines.map(|(number, (kind, value, _))| line(&name(number, kind), kind, value));
    source.ingest(lines.collect()).await?;
    let lines = REFUSED.iter().enumerate();
    let lines =
        lines.map(|(number, (kind, value))| line(&format!("refused {number}"), kind, value));
    source.ingest(lines.collect()).await?;
    let client = source.world.database.superuser().await?;
    let refused = "SELECT string_agg(event_index::text, ' ' ORDER BY batch_id, event_index) FROM
        (SELECT DISTINCT batch_id, event_index FROM sheaf.rejections) r";
    let refused: Option<String> = client.query_one(refused, &[]).await?.get(0);
    let all: Vec<String> = (0..REFUSED.len())
        .map(|number| number.to_string())
        .collect();
    assert_eq!(refused.context("some are refused")?, all.join(" "));
    let reasons = "SELECT count(*) FROM sheaf.rejections WHERE code = '' OR reason = ''";
    assert_eq!(client.query_one(reasons, &[]).await?.get::<_, i64>(0), 0);

    let running = source.stream()?;
    wait_until("all of them are in the lake", WITHIN, async || {
        let found = source.world.facts("sheaf").await;
        found.is_ok_and(|found| found.len() == taken.len())
    })
    .await;
    let letters = "SELECT count(*) FROM sheaf.dead_letters";
    assert_eq!(client.query_one(letters, &[]).await?.get::<_, i64>(0), 0);
    let wanted: BTreeMap<String, String> = taken
        .iter()
        .enumerate()
        .map(|(number, (kind, _, exact))| (name(number, kind), exact.clone()))
        .collect();
    let facts = source.world.location("sheaf", "facts").await?;
    let output = Command::new(PYTHON).args([SCRIPT, &facts]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let found: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&output.stdout)?;
    for reader in ["pyiceberg", "duckdb"] {
        let found = &found[reader];
        assert_eq!(found.len(), wanted.len(), "{reader}");
        for (name, exact) in &wanted {
            let is_json = name.starts_with("json ");
            // PostgreSQL writes documents its own way.
            let is_same = match is_json {
                true => {
                    serde_json::from_str::<Value>(&found[name])?
                        == serde_json::from_str::<Value>(exact)?
                }
                false => found[name] == *exact,
            };
            let short = |text: &str| text.chars().take(200).collect::<String>();
            assert!(
                is_same,
                "{name} by {reader}: {} and not {}",
                short(&found[name]),
                short(exact)
            );
        }
    }
    // Ours are told by their hashes on both sides.
    let options = ReconcileOptions {
        settled_after: Duration::ZERO,
        wait_max: WITHIN,
        ..ReconcileOptions::of(&source.quick(), source.slot())
    };
    let reconciler = Reconciler::new(&source.world.cdc(), options)?;
    wait_until("both sides are compared", WITHIN, async || {
        let report = reconciler.run(&ReconcileRequest::default()).await;
        let report = report.expect("both can be read");
        assert_ne!(report.outcome, Outcome::Different, "{report:?}");
        report.outcome == Outcome::Clean
    })
    .await;
    running.stop.send_replace(true);
    running.task.await?;
    Ok(())
}
