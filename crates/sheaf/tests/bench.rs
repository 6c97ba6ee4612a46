//! The benchmarks run as a whole, on next to no data: every case measures something and says it in the form that is
//! documented.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheaf_testkit::ScratchDir;

/// What `scripts/bootstrap.sh --test` installs DuckDB into.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/venv/bin/python");

fn bench(dir: &ScratchDir, suite: &str, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_sheaf"))
        .args(["bench", suite])
        .args(arguments)
        .env("TMPDIR", dir.path())
        .output()?)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn check(line: &Value, suite: &str) -> Result<()> {
    for member in ["suite", "case", "measure", "unit"] {
        ensure!(line[member].is_string(), "no {member} in {line}");
    }
    ensure!(line["suite"] == suite, "another suite in {line}");
    ensure!(line["value"].is_number(), "no value in {line}");
    ensure!(
        line["better"] == "higher" || line["better"] == "lower",
        "no better in {line}"
    );
    let has = |member: &str| line.get(member).is_some();
    ensure!(
        has("baseline") == has("baseline_value") && has("baseline") == has("ratio"),
        "half a baseline in {line}"
    );
    ensure!(
        has("bar") == has("pass"),
        "a bar without an outcome in {line}"
    );
    ensure!(
        has("baseline") || !has("bar"),
        "a bar without a baseline in {line}"
    );
    Ok(())
}

#[test]
fn every_case_runs_and_each_line_has_its_members() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let (json, svg) = (dir.path().join("out.json"), dir.path().join("svg"));
    let (json_text, svg_text) = (json.display().to_string(), svg.display().to_string());
    let output = bench(
        &dir,
        "ingest",
        &["--scale", "tiny", "--json", &json_text, "--svg", &svg_text],
    )?;
    let shown = text(&output);
    ensure!(!shown.contains("FAILED"), "a case failed:\n{shown}");
    let mut cases = BTreeSet::new();
    for line in std::fs::read_to_string(&json)?.lines() {
        let line: Value = serde_json::from_str(line).context("a line is one object")?;
        check(&line, "ingest")?;
        cases.insert(line["case"].as_str().unwrap_or_default().to_owned());
    }
    let all = [
        "ndjson",
        "line_protocol",
        "original",
        "agents",
        "one_value",
        "wide_documents",
        "sparse",
        "hot_few",
        "text_ids",
        "late_duplicate",
        "two_servers",
        "single_edit",
        "edit_clients",
        "growth",
        "memory",
        "fairness",
        "staged",
    ];
    ensure!(
        cases.iter().map(String::as_str).eq(BTreeSet::from(all)),
        "measured: {cases:?}\n{shown}"
    );
    for case in ["ndjson", "single_edit", "growth", "memory"] {
        let picture = std::fs::read_to_string(svg.join(format!("{case}.svg")))?;
        ensure!(picture.ends_with("</svg>\n"), "{case} is no whole picture");
    }
    let left = std::fs::read_dir(dir.path())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("sheaf-bench-"));
    ensure!(left.is_none(), "{left:?} was left behind");
    Ok(())
}

#[test]
fn filters_are_measured_against_the_wide_table() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let json = dir.path().join("out.json");
    let json_text = json.display().to_string();
    let cases = ["--case", "filters", "--case", "neighbours"];
    let arguments = [&cases[..], &["--scale", "tiny", "--json", &json_text]].concat();
    let shown = text(&bench(&dir, "read", &arguments)?);
    ensure!(!shown.contains("FAILED"), "a case failed:\n{shown}");
    let mut measured = BTreeSet::new();
    for line in std::fs::read_to_string(&json)?.lines() {
        let line: Value = serde_json::from_str(line).context("a line is one object")?;
        check(&line, "read")?;
        measured.insert(line["case"].as_str().unwrap_or_default().to_owned());
    }
    let all = [
        "cold_sparse",
        "neighbours",
        "range_and_sort",
        "selective",
        "selective_here_and_common_elsewhere",
        "three_hot_attributes",
        "two_hot_attributes",
    ];
    ensure!(
        measured.iter().map(String::as_str).eq(all),
        "measured: {measured:?}\n{shown}"
    );
    Ok(())
}

#[test]
fn following_is_measured_until_the_lake_holds_everything() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let json = dir.path().join("out.json");
    let json_text = json.display().to_string();
    let output = bench(&dir, "cdc", &["--scale", "tiny", "--json", &json_text])?;
    let shown = text(&output);
    ensure!(!shown.contains("FAILED"), "a case failed:\n{shown}");
    let mut measured = BTreeSet::new();
    for line in std::fs::read_to_string(&json)?.lines() {
        let line: Value = serde_json::from_str(line).context("a line is one object")?;
        check(&line, "cdc")?;
        ensure!(
            line["value"].as_f64() > Some(0.0),
            "nothing was measured: {line}"
        );
        let of = |member: &str| line[member].as_str().unwrap_or_default().to_owned();
        measured.insert(format!("{} {}", of("case"), of("measure")));
    }
    let all = [
        "bytes_per_fact facts_files",
        "lag_under_ingest durable_values",
        "lag_under_ingest follower_resident_max",
        "lag_under_ingest lag_max",
        "lag_under_ingest lag_p50",
        "lag_under_ingest lag_p99",
        "lag_under_ingest paced_request_p99",
        "lag_under_ingest paced_values",
        "memory follower_resident_max",
        "memory resident_max",
        "reconcile all",
        "reconcile three_differences",
        "reconcile unchanged",
        "stream_to_lake follower_resident_max",
        "stream_to_lake postgres_cpu",
        "stream_to_lake server_cpu",
        "stream_to_lake snapshot",
        "stream_to_lake stream",
    ];
    ensure!(
        measured.iter().map(String::as_str).eq(all),
        "measured: {measured:?}\n{shown}"
    );
    Ok(())
}

#[test]
fn questions_are_measured_against_engines_that_answer_the_same() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let json = dir.path().join("out.json");
    let json_text = json.display().to_string();
    let arguments = ["--scale", "tiny", "--json", &json_text, "--python", PYTHON];
    let shown = text(&bench(&dir, "analytics", &arguments)?);
    ensure!(!shown.contains("FAILED"), "a case failed:\n{shown}");
    let mut measured: BTreeSet<String> = BTreeSet::new();
    for line in std::fs::read_to_string(&json)?.lines() {
        let line: Value = serde_json::from_str(line).context("a line is one object")?;
        check(&line, "analytics")?;
        let of = |member: &str| line[member].as_str().unwrap_or("-").to_owned();
        measured.insert(format!("{} {}", of("measure"), of("baseline")));
    }
    let questions = [
        "mean_per_hour_and_attribute",
        "top_entities",
        "distribution",
        "join_with_current",
        "distinct_counts",
    ];
    let against = ["duckdb", "postgres"];
    let mut all: BTreeSet<String> = questions
        .iter()
        .flat_map(|question| against.map(|baseline| format!("{question} {baseline}")))
        .collect();
    all.extend(["geometric_mean duckdb", "of_a_new_entity -", "warm -"].map(str::to_owned));
    ensure!(measured == all, "measured: {measured:?}\n{shown}");
    Ok(())
}

#[test]
fn a_baseline_that_is_not_installed_fails_and_is_not_passed_over() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let none = dir.path().join("no_python").display().to_string();
    let arguments = ["--scale", "tiny", "--case", "questions", "--python", &none];
    let output = bench(&dir, "analytics", &arguments)?;
    let shown = text(&output);
    ensure!(!output.status.success(), "{shown}");
    ensure!(
        shown.contains("scripts/bootstrap.sh --test installs it"),
        "{shown}"
    );
    Ok(())
}

#[test]
fn an_unknown_case_is_refused_with_the_known_ones_before_anything_starts() -> Result<()> {
    let dir = ScratchDir::new("bench")?;
    let output = bench(&dir, "ingest", &["--case", "ndjson", "--case", "ndjsn"])?;
    let shown = text(&output);
    ensure!(output.status.code() == Some(2), "{shown}");
    ensure!(
        shown.contains("there is no case ndjsn; the suite has ndjson, line_protocol"),
        "{shown}"
    );
    Ok(())
}
