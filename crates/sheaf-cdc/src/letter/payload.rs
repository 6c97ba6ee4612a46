//! What a letter keeps of a row: the row as JSON, each column with its kind.
//!
//! What could not be read is there as its bytes, and is read anew when the letter is offered again: by then it may be another release
//! that reads.

use serde_json::{Map, Value, json};
use sheaf_model::{TenantId, Timestamp};
use uuid::Uuid;

use super::LetterReason;
use crate::change::{Change, ChangedRow, EVENTS};
use crate::column::{ColumnFault, ColumnValue, hex, read_binary};
use crate::pgoutput;
use crate::table::{RowFault, Table};

/// Up to so many bytes of a row a letter has all of it. An event that the interface takes by default is a sixteenth of that.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Of a larger row, so many bytes of each value.
const BEGINNING_BYTES: usize = 1 << 10;

/// A row as a letter keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The JSON.
    pub text: String,
    /// Whether all of the row is in it.
    pub is_whole: bool,
}

/// Why a letter cannot be made a change again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadFault {
    /// It was kept as it came, which is no row.
    #[error("what came was no row")]
    NoRow,
    /// It is not what this module writes.
    #[error("the payload is not a letter's: {0}")]
    Form(&'static str),
    /// The row still cannot be read.
    #[error(transparent)]
    Row(#[from] RowFault),
}

impl PayloadFault {
    /// The code.
    pub(crate) fn reason(&self) -> LetterReason {
        match self {
            PayloadFault::NoRow => LetterReason::Malformed,
            PayloadFault::Form(_) => LetterReason::Unreadable,
            PayloadFault::Row(fault) => LetterReason::of_row(fault),
        }
    }
}

/// Whose row a change is.
pub(crate) fn tenant_of(change: &Change) -> Option<TenantId> {
    match &change.row {
        ChangedRow::Event(event) => Some(event.tenant),
        ChangedRow::Catalogue(row) => row.number("tenant_id").map(TenantId),
    }
}

/// A change as a letter keeps it.
pub(crate) fn payload_of(change: &Change) -> Payload {
    match &change.row {
        ChangedRow::Event(event) => write(EVENTS, true, event.columns()),
        ChangedRow::Catalogue(row) => {
            let columns = row.columns.iter().cloned().zip(row.values.iter().cloned());
            write(row.catalogue.table(), row.is_new, columns.collect())
        }
    }
}

/// A row that cannot be read as a letter keeps it, and whose it is.
pub(crate) fn payload_of_row(
    table: &Table,
    values: &[pgoutput::Value<'_>],
    is_new: bool,
) -> (Payload, Option<TenantId>) {
    let bytes: usize = values.iter().map(pgoutput::Value::len).sum();
    if bytes > PAYLOAD_BYTES_MAX {
        // Its values are not copied, which would be as much again.
        let columns = table.columns().zip(values);
        let columns: Map<String, Value> = columns
            .map(|((name, type_oid), value)| (name.to_owned(), write_beginning(type_oid, value)))
            .collect();
        let tenant = columns
            .get("tenant_id")
            .and_then(|value| value["int"].as_i64());
        return (
            as_payload(table.name(), is_new, columns, false),
            tenant.map(TenantId),
        );
    }
    let columns: Vec<(String, ColumnValue)> = table.read_what_can_be(values);
    let tenant = columns.iter().find_map(|(name, value)| match value {
        ColumnValue::Int(number) if name == "tenant_id" => Some(TenantId(*number)),
        _ => None,
    });
    (write(table.name(), is_new, columns), tenant)
}

/// A message that is no row as a letter keeps it.
pub(crate) fn payload_of_message(message: &[u8]) -> Payload {
    let is_whole = message.len() <= PAYLOAD_BYTES_MAX;
    let kept = if is_whole {
        message.len()
    } else {
        BEGINNING_BYTES
    };
    Payload {
        text: json!({"message": hex(&message[..kept])}).to_string(),
        is_whole,
    }
}

fn write(table: &str, is_new: bool, columns: Vec<(String, ColumnValue)>) -> Payload {
    let bytes: usize = columns.iter().map(|(_, value)| value.heap_bytes()).sum();
    let is_whole = bytes <= PAYLOAD_BYTES_MAX;
    let columns = columns
        .into_iter()
        .map(|(name, value)| (name, write_value(&value, is_whole)));
    as_payload(table, is_new, columns.collect(), is_whole)
}

fn as_payload(table: &str, is_new: bool, columns: Map<String, Value>, is_whole: bool) -> Payload {
    Payload {
        text: json!({"table": table, "is_new": is_new, "columns": columns}).to_string(),
        is_whole,
    }
}

/// A value of a row that is too long to be kept, or its beginning.
fn write_beginning(type_oid: u32, value: &pgoutput::Value<'_>) -> Value {
    match value {
        pgoutput::Value::Null => Value::Null,
        pgoutput::Value::Unchanged => json!("unchanged"),
        pgoutput::Value::Text(bytes) | pgoutput::Value::Binary(bytes)
            if bytes.len() > BEGINNING_BYTES =>
        {
            let beginning = String::from_utf8_lossy(&bytes[..BEGINNING_BYTES]);
            json!({"begins": beginning, "bytes_in_all": bytes.len()})
        }
        pgoutput::Value::Text(bytes) | pgoutput::Value::Binary(bytes) => {
            match read_binary(type_oid, bytes) {
                Ok(value) => write_value(&value, false),
                Err(_) => json!({"bytes": hex(bytes), "type": type_oid}),
            }
        }
    }
}

/// `{"int":5}`, `{"bytes":"00ff","type":600}`; null and `"unchanged"` are themselves.
fn write_value(value: &ColumnValue, is_whole: bool) -> Value {
    let shortened = |text: &str| match text.char_indices().nth(BEGINNING_BYTES / 4) {
        Some((end, _)) if !is_whole => json!({"begins": text[..end], "bytes_in_all": text.len()}),
        Some(_) | None => Value::Null,
    };
    let text_as = |kind: &str, text: &str| match shortened(text) {
        Value::Null => json!({ kind: text }),
        beginning => beginning,
    };
    match value {
        ColumnValue::Null => Value::Null,
        ColumnValue::Unchanged => json!("unchanged"),
        ColumnValue::Bool(value) => json!({ "bool": value }),
        ColumnValue::Int(value) => json!({ "int": value }),
        // As text, which has every number and what is none.
        ColumnValue::Float(value) => json!({"float": value.to_string()}),
        ColumnValue::Text(text) => text_as("text", text),
        ColumnValue::Json(text) => text_as("json", text),
        ColumnValue::Time(value) => json!({"time": value.to_string()}),
        ColumnValue::Uuid(value) => json!({"uuid": value.to_string()}),
        ColumnValue::Other { type_oid, bytes } => {
            if is_whole || bytes.len() <= BEGINNING_BYTES {
                json!({"bytes": hex(bytes), "type": type_oid})
            } else {
                json!({"begins": hex(&bytes[..BEGINNING_BYTES]), "bytes_in_all": bytes.len()})
            }
        }
    }
}

/// Reads the row of a letter, as this release reads rows.
pub(crate) fn read_payload(text: &str, bytes_max: usize) -> Result<ChangedRow, PayloadFault> {
    let form = PayloadFault::Form;
    let payload: Value = serde_json::from_str(text).map_err(|_| form("no JSON"))?;
    if payload.get("message").is_some() {
        return Err(PayloadFault::NoRow);
    }
    let (Some(table), Some(is_new), Some(columns)) = (
        payload["table"].as_str(),
        payload["is_new"].as_bool(),
        payload["columns"].as_object(),
    ) else {
        return Err(form("no row"));
    };
    let mut names = Vec::with_capacity(columns.len());
    let mut values = Vec::with_capacity(columns.len());
    for (name, value) in columns {
        let value = read_value(value).ok_or(form("a value of no kind"))?;
        let read = match value {
            ColumnValue::Other { type_oid, bytes } => {
                read_binary(type_oid, &bytes).map_err(|source| in_column(table, name, source))?
            }
            read => read,
        };
        // Its values are read already; the numbers of their types say nothing any more.
        names.push((name.clone(), 0));
        values.push(read);
    }
    let bytes: usize = values.iter().map(ColumnValue::heap_bytes).sum();
    if bytes > bytes_max {
        return Err(PayloadFault::Row(RowFault::Long {
            table: table.to_owned(),
            bytes,
            bytes_max,
        }));
    }
    let table = Table::new(table.to_owned(), names)?;
    let row = table.read_columns(values, is_new)?;
    row.ok_or(PayloadFault::Form("of a table that is for no sink"))
}

fn in_column(table: &str, column: &str, source: ColumnFault) -> PayloadFault {
    PayloadFault::Row(RowFault::Column {
        table: table.to_owned(),
        column: column.to_owned(),
        source,
    })
}

fn read_value(value: &Value) -> Option<ColumnValue> {
    let members = match value {
        Value::Null => return Some(ColumnValue::Null),
        Value::String(text) if text == "unchanged" => return Some(ColumnValue::Unchanged),
        Value::Object(members) => members,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return None,
    };
    if let (Some(bytes), Some(type_oid)) = (members.get("bytes"), members.get("type")) {
        return Some(ColumnValue::Other {
            type_oid: u32::try_from(type_oid.as_u64()?).ok()?,
            bytes: unhex(bytes.as_str()?)?,
        });
    }
    let (kind, value) = members.iter().next().filter(|_| members.len() == 1)?;
    Some(match kind.as_str() {
        "bool" => ColumnValue::Bool(value.as_bool()?),
        "int" => ColumnValue::Int(value.as_i64()?),
        "float" => ColumnValue::Float(value.as_str()?.parse().ok()?),
        "text" => ColumnValue::Text(value.as_str()?.to_owned()),
        "json" => ColumnValue::Json(value.as_str()?.to_owned()),
        "time" => ColumnValue::Time(Timestamp::parse(value.as_str()?).ok()?.0),
        "uuid" => ColumnValue::Uuid(Uuid::parse_str(value.as_str()?).ok()?),
        _ => return None,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    };
    pairs.map(byte).collect()
}
