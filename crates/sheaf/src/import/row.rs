//! What every file format comes down to: rows that are events to be sent, and refusals to be listed.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Where the next row begins, so that a later run can go on there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Bytes of a text file, rows of a Parquet file.
    pub(crate) offset: u64,
    /// The line or row that begins here, from 1.
    pub(crate) line: u64,
}

/// One row of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its line in a text file or its number in a Parquet file, from 1.
    pub(crate) line: u64,
    /// The event to send, one line of NDJSON; absent where there is nothing to send.
    pub(crate) event: Option<String>,
    /// What was refused here, before it was sent.
    pub(crate) refusals: Vec<Refused>,
}

impl Row {
    /// A row that cannot be sent.
    pub(crate) fn refused(line: u64, code: &str, reason: String) -> Row {
        let refusal = Refused {
            line,
            field: None,
            code: code.to_owned(),
            reason,
        };
        Row {
            line,
            event: None,
            refusals: vec![refusal],
        }
    }
}

/// One entry of the list of refused rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refused {
    /// As in [`Row`].
    pub(crate) line: u64,
    /// The attribute or member; absent where the whole row was refused.
    pub(crate) field: Option<String>,
    /// The stable code of the reason.
    pub(crate) code: String,
    /// The reason, for people.
    pub(crate) reason: String,
}

/// A file being read from front to back, in bounded memory.
pub(crate) trait Rows {
    /// The next row; absent at the end. A bad row is a row with a refusal, an error is the end of the import.
    fn next_row(&mut self) -> Result<Option<Row>>;

    /// Where the next row begins.
    fn position(&self) -> Position;

    /// How far the file is read and how long it is, for a progress bar.
    fn progress(&self) -> (u64, u64);
}

/// Builds one event as a line of NDJSON.
pub(crate) struct EventText {
    text: String,
    attributes: usize,
}

impl EventText {
    /// Begins an event. An id that is missing is left out, for the server to refuse.
    pub(crate) fn new(kind: &str, id: Option<&str>, observed_at: Option<&str>) -> EventText {
        let mut text = format!("{{\"type\":{}", quoted(kind));
        for (member, value) in [("id", id), ("observed_at", observed_at)] {
            if let Some(value) = value {
                text.push_str(&format!(",\"{member}\":{}", quoted(value)));
            }
        }
        text.push_str(",\"attributes\":{");
        EventText {
            text,
            attributes: 0,
        }
    }

    /// Adds an attribute whose value is a JSON token.
    pub(crate) fn push(&mut self, name: &str, token: &str) {
        if self.attributes > 0 {
            self.text.push(',');
        }
        self.attributes += 1;
        self.text.push_str(&quoted(name));
        self.text.push(':');
        self.text.push_str(token);
    }

    /// The event.
    pub(crate) fn finish(mut self) -> String {
        self.text.push_str("}}");
        self.text
    }
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a text is one JSON number and nothing else, in JSON's own grammar: `007`, `+1` and `1.` are not.
pub(crate) fn is_json_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.ends_with(|last: char| last.is_ascii_digit())
        && is_json(text)
}

/// Whether a text is one JSON value.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_json() {
        for text in [
            "0",
            "-0.0",
            "12.50",
            "1e5",
            "1E-400",
            "9007199254740993",
            "1e999",
        ] {
            assert!(is_json_number(text), "{text}");
        }
        for text in [
            "", "-", "007", "+1", "1.", ".5", " 1", "1 ", "1_000", "NaN", "inf", "0x1", "1,2",
            "\"1\"",
        ] {
            assert!(!is_json_number(text), "{text}");
        }
    }

    #[test]
    fn events_are_json_whatever_the_names_hold() {
        let mut event = EventText::new("a\"b", Some("1\n2"), None);
        event.push("c\u{0}", "12.50");
        event.push("d", "true");
        let text = event.finish();
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(
            text,
            "{\"type\":\"a\\\"b\",\"id\":\"1\\n2\",\"attributes\":{\"c\\u0000\":12.50,\"d\":true}}"
        );
    }
}
