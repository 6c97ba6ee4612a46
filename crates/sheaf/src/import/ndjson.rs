//! NDJSON: either whole events, sent as they are, or plain objects that `--type` and `--id` make events of.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::Roles;
use super::row::{EventText, Position, Row, Rows};
use super::window::{RECORD_BYTES_MAX, Window};

pub(crate) struct Ndjson {
    window: Window,
    /// Absent where every line is a whole event.
    roles: Option<Roles>,
}

impl Ndjson {
    pub(crate) fn open(path: &Path, roles: Option<Roles>, position: Position) -> Result<Ndjson> {
        let window = Window::open(path, position).context("opening the file")?;
        Ok(Ndjson { window, roles })
    }

    fn row(&self, line: u64, bytes: &[u8]) -> Row {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Row::refused(line, "malformed_json", "the line is not UTF-8".to_owned());
        };
        let event = match &self.roles {
            None => Ok(text.to_owned()),
            Some(roles) => event_of(roles, text),
        };
        match event {
            Ok(text) => Row {
                line,
                event: Some(text),
                refusals: Vec::new(),
            },
            Err((code, reason)) => Row::refused(line, code, reason),
        }
    }

    /// Moves the next line's end into the window and gives back the line's length without it; absent where the line
    /// is too long.
    fn line_length(&mut self) -> io::Result<Option<usize>> {
        let mut searched = 0;
        loop {
            let pending = self.window.pending();
            if let Some(end) = pending[searched..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(searched + end));
            }
            searched = pending.len();
            if searched > RECORD_BYTES_MAX {
                return Ok(None);
            }
            if !self.window.fill()? {
                return Ok(Some(searched));
            }
        }
    }
}

impl Rows for Ndjson {
    fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            let line = self.window.position().line;
            let Some(length) = self.line_length().context("reading the file")? else {
                self.window.skip_line().context("reading the file")?;
                let reason = format!("the line is longer than {RECORD_BYTES_MAX} bytes");
                return Ok(Some(Row::refused(line, "value_too_large", reason)));
            };
            let pending = self.window.pending();
            if pending.is_empty() {
                return Ok(None);
            }
            let text = pending[..length].trim_ascii();
            let row = (!text.is_empty()).then(|| self.row(line, text));
            self.window.consume(pending.len().min(length + 1));
            if row.is_some() {
                return Ok(row);
            }
        }
    }

    fn position(&self) -> Position {
        self.window.position()
    }

    fn progress(&self) -> (u64, u64) {
        self.window.progress()
    }
}

/// Makes an event of a plain object. Values keep their digits: they are never read, only moved.
fn event_of(roles: &Roles, text: &str) -> Result<String, (&'static str, String)> {
    let members = sheaf_model::object_members(text)
        .map_err(|fault| ("malformed_json", format!("the line is {fault}")))?;
    let (mut id, mut time) = (None, None);
    let mut attributes = Vec::new();
    for (name, raw) in members {
        let raw = raw.get();
        let is_null = raw == "null";
        let text = sheaf_model::string_text(raw).ok();
        let stands_for_null = |text| roles.null.iter().any(|null| *null == text);
        if roles.skip.iter().any(|skip| *skip == *name) || text.clone().is_some_and(stands_for_null)
        {
            continue;
        }
        let plain = text.map_or_else(|| raw.to_owned(), |text| text.into_owned());
        if *name == *roles.id {
            id = (!is_null).then_some(plain);
        } else if roles.time.as_deref() == Some(&*name) {
            time = (!is_null).then_some(plain);
        } else {
            attributes.push((name, raw));
        }
    }
    let observed_at = roles.observed_at(time.as_deref())?;
    let mut event = EventText::new(&roles.kind, id.as_deref(), observed_at);
    for (name, raw) in attributes {
        event.push(&name, raw);
    }
    Ok(event.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> Roles {
        Roles {
            kind: "plane".to_owned(),
            id: "tail".to_owned(),
            time: Some("at".to_owned()),
            observed_at: None,
            null: vec!["NA".to_owned()],
            skip: vec!["note".to_owned()],
        }
    }

    #[test]
    fn a_plain_object_becomes_an_event_with_its_digits() {
        let line = r#"{"tail":7,"at":"2013-01-01T00:00:00Z","seats":12.50,"big":9007199254740993,"off":null,"speed":"NA","note":1}"#;
        let event = event_of(&roles(), line).expect("an event");
        assert_eq!(
            event,
            r#"{"type":"plane","id":"7","observed_at":"2013-01-01T00:00:00Z","attributes":{"seats":12.50,"big":9007199254740993,"off":null}}"#
        );
    }

    #[test]
    fn what_is_no_object_or_has_no_time_is_refused() {
        for (line, code) in [
            ("[1]", "malformed_json"),
            ("{\"tail\":1", "malformed_json"),
            (r#"{"tail":"N1"}"#, "time_out_of_range"),
            (r#"{"tail":"N1","at":"NA"}"#, "time_out_of_range"),
        ] {
            let refused = event_of(&roles(), line).expect_err(line);
            assert_eq!(refused.0, code, "{line}");
        }
    }
}
