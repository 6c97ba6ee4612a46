//! A change as a JSON object in the form of Debezium's connector for PostgreSQL, for whoever reads that form already.
//!
//! Differences that a reader may meet: `source` has our position and, besides, how far everything before is held, since a line
//! is also what a file remembers itself by; times are texts, as Debezium's `ZonedTimestamp`; `ts_ms` is when the transaction was
//! committed, so that a change is the same line whenever it is written.

use serde_json::{Map, Value, json};
use sheaf_model::{ChangePosition, Timestamp};

use crate::change::{Catalogue, Change, ChangedRow, EventRow, Origin, Progress};
use crate::column::ColumnValue;

/// What Debezium puts for a long value that was not sent because it did not change.
const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// The table of events.
const EVENTS: &str = "entity_events";

/// One line, without its end. `progress` is what is held with this change.
pub fn line(change: &Change, origin: Origin, progress: &Progress) -> String {
    let (table, is_new, after) = match &change.row {
        ChangedRow::Event(event) => (EVENTS, true, event_columns(event)),
        ChangedRow::Catalogue(row) => {
            let columns = row.columns.iter().zip(&row.values);
            let columns = columns.map(|(name, value)| (name.clone(), column(value)));
            (row.catalogue.table(), row.is_new, columns.collect())
        }
    };
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

fn event_columns(event: &EventRow) -> Map<String, Value> {
    let op = u8::try_from(event.op.letter()).map(|letter| char::from(letter).to_string());
    let columns = [
        ("tenant_id", json!(event.tenant.0)),
        ("entity_id", json!(event.entity.0)),
        ("observed_at", time(event.observed_at)),
        ("seq", json!(event.seq)),
        ("op", json!(op.unwrap_or_default())),
        ("batch_id", json!(event.batch.0.to_string())),
        ("ingested_at", time(event.ingested_at)),
        // `jsonb` is a text in JSON, as numbers of any size are kept by no JSON number of every reader.
        ("attrs", json!(&*event.attrs)),
    ];
    columns
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn column(value: &ColumnValue) -> Value {
    match value {
        ColumnValue::Null => Value::Null,
        ColumnValue::Unchanged => json!(UNAVAILABLE),
        ColumnValue::Bool(value) => json!(value),
        ColumnValue::Int(value) => json!(value),
        ColumnValue::Float(value) => json!(value),
        ColumnValue::Text(text) | ColumnValue::Json(text) => json!(text),
        ColumnValue::Time(value) => time(*value),
        ColumnValue::Uuid(value) => json!(value.to_string()),
        ColumnValue::Other { bytes, .. } => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!(hex)
        }
    }
}

fn time(value: Timestamp) -> Value {
    json!(value.to_string())
}
