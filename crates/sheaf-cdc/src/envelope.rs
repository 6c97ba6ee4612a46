//! A change as a JSON object in the form of Debezium's connector for PostgreSQL, for whoever reads that form already.
//!
//! Differences that a reader may meet: `source` has our position and, besides, how far everything before is held, since a line
//! is also what a file remembers itself by; times are texts, as Debezium's `ZonedTimestamp`; `ts_ms` is when the transaction was
//! committed, so that a change is the same line whenever it is written.

use serde_json::{Value, json};
use sheaf_model::ChangePosition;

use crate::change::{Catalogue, Change, ChangedRow, EVENTS, Origin, Progress};
use crate::column::{ColumnValue, hex};

/// What Debezium puts for a long value that was not sent because it did not change.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// One line, without its end. `progress` is what is held with this change.
pub fn line(change: &Change, origin: Origin, progress: &Progress) -> String {
    let (table, is_new, after) = match &change.row {
        ChangedRow::Event(event) => (EVENTS, true, event.columns()),
        ChangedRow::Catalogue(row) => {
            let columns = row.columns.iter().cloned().zip(row.values.iter().cloned());
            (row.catalogue.table(), row.is_new, columns.collect())
        }
    };
    let after = after.into_iter();
    let after = after.map(|(name, value)| (name, column(value))).collect();
    let op = match (origin, is_new) {
        (Origin::Snapshot, _) => "r",
        (Origin::Stream, true) => "c",
        (Origin::Stream, false) => "u",
    };
    let ts_ms = change.committed_at.as_micros().div_euclid(1000);
    let source = json!({
        "connector": "postgresql",
        "name": "sheaf",
        "ts_ms": ts_ms,
        "snapshot": match origin { Origin::Snapshot => "true", Origin::Stream => "false" },
        "schema": "sheaf",
        "table": table,
        "txId": match origin { Origin::Snapshot => None, Origin::Stream => Some(change.xid) },
        "lsn": change.position.commit_lsn.0,
        "position": change.position.to_string(),
        "base": progress.base.to_string(),
        "snapshot_rows": progress.snapshot,
        "stream_position": progress.stream.map(|position| position.to_string()),
    });
    json!({"before": null, "after": Value::Object(after), "source": source, "op": op, "ts_ms": ts_ms}).to_string()
}

/// What comes before everything when it comes anew: for each table a line that it is empty, with its end. Whoever keeps what he was
/// told before of another base lets go of it.
pub fn begin_lines(base: ChangePosition) -> String {
    let catalogues = [
        Catalogue::Tenants,
        Catalogue::Attributes,
        Catalogue::Entities,
        Catalogue::Keyframes,
    ];
    let tables = catalogues.map(Catalogue::table);
    let mut lines = String::new();
    for table in tables.into_iter().chain([EVENTS]) {
        let source = json!({
            "connector": "postgresql",
            "name": "sheaf",
            "snapshot": "true",
            "schema": "sheaf",
            "table": table,
            "position": base.to_string(),
            "base": base.to_string(),
            "snapshot_rows": 0,
            "stream_position": null,
        });
        let line = json!({"before": null, "after": null, "source": source, "op": "t"});
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

/// What a file holds, as its last line says it.
pub fn progress_of(line: &str) -> Option<Progress> {
    let line: Value = serde_json::from_str(line).ok()?;
    let source = line.get("source")?;
    let stream = match source.get("stream_position")? {
        Value::Null => None,
        position => Some(position.as_str()?.parse().ok()?),
    };
    Some(Progress {
        base: source.get("base")?.as_str()?.parse().ok()?,
        snapshot: source.get("snapshot_rows")?.as_u64()?,
        stream,
    })
}

fn column(value: ColumnValue) -> Value {
    match value {
        ColumnValue::Null => Value::Null,
        ColumnValue::Unchanged => json!(UNAVAILABLE),
        ColumnValue::Bool(value) => json!(value),
        ColumnValue::Int(value) => json!(value),
        ColumnValue::Float(value) => json!(value),
        // `jsonb` is a text in JSON, as numbers of any size are kept by no JSON number of every reader.
        ColumnValue::Text(text) | ColumnValue::Json(text) => json!(text),
        ColumnValue::Time(value) => json!(value.to_string()),
        ColumnValue::Uuid(value) => json!(value.to_string()),
        ColumnValue::Other { bytes, .. } => json!(hex(&bytes)),
    }
}
