//! Bytes of a request to events whose names and values are not yet looked up.
//!
//! JSON arrays, NDJSON, the bodies of edits and line protocol all end as [`RawEvent`]s and [`RawRefusal`]s. What is bad
//! is refused in the smallest piece that leaves the rest certain: a value, else an event; the body only when its
//! events cannot be told apart. Nothing here reads a clock, a catalogue or a database, and nothing recurses on input.

use std::borrow::Cow;
use std::rc::Rc;

use sheaf_model::{Limits, Name, Refusal, RefusalCode, Timestamp, Value};
use sheaf_store::rejections::Reading;

mod draft;
mod json;
mod line_protocol;
mod naming;

pub use json::{Edit, edit, json_array, json_event, ndjson};
pub use line_protocol::{IdRules, Precision, line_protocol};
pub use naming::external_id;

/// One event as it was sent: names and values not yet looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct RawEvent<'a> {
    /// Its place in the body from 0; the physical line, for line protocol.
    pub index: u32,
    /// The bytes it was read from.
    pub raw: &'a [u8],
    /// The type of its entity.
    pub entity_type: Name,
    /// The id of its entity: 1 to 512 bytes in normal form C without control characters.
    pub external_id: String,
    /// When it was observed, if it said so.
    pub observed_at: Option<Timestamp>,
    /// Whether digits below a microsecond were cut from `observed_at`.
    pub time_cut: bool,
    /// What it says, each name once. Empty only if the event as sent named no attribute.
    pub cells: Vec<RawCell<'a>>,
    /// The tags of a line of line protocol, shared by the lines of one series. None of them has the name of a cell.
    pub tags: Rc<RawTags<'a>>,
}

/// What an event says of one attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct RawCell<'a> {
    /// The attribute's name: valid, not reserved, in normal form C.
    pub name: Cow<'a, str>,
    /// The value.
    pub value: RawValue<'a>,
}

/// A value before its attribute's type is known.
#[derive(Debug, Clone, PartialEq)]
pub enum RawValue<'a> {
    /// A JSON token; `null` removes the attribute.
    Json(&'a str),
    /// A value whose type its format says.
    Typed(Value),
}

/// A tag: text by definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTag<'a> {
    /// The attribute's name: valid, not reserved, in normal form C.
    pub name: Cow<'a, str>,
    /// The value, without NUL and within the bound of a value.
    pub value: Cow<'a, str>,
}

/// The tags of a line, by what they are to its entity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RawTags<'a> {
    /// Not from line protocol, or a line without tags.
    #[default]
    None,
    /// The whole tag set is the entity's id.
    Series(Vec<RawTag<'a>>),
    /// A rule names the tags that are the id. All are recorded with every event; lines of one entity and instant whose
    /// `others` differ are in conflict.
    Beside {
        /// The tags that make the id.
        id: Vec<RawTag<'a>>,
        /// The tags that do not.
        others: Vec<RawTag<'a>>,
    },
}

/// A value, an event or a line that is not stored, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRefusal<'a> {
    /// The place of its event, as in [`RawEvent::index`].
    pub index: u32,
    /// The bytes of its whole event.
    pub raw: &'a [u8],
    /// The type of its entity, where the event got so far.
    pub entity_type: Option<String>,
    /// The attribute, tag or member at fault, cut to 255 bytes; absent when it is the event as a whole.
    pub field: Option<String>,
    /// The code and the sentence.
    pub refusal: Refusal,
}

/// Everything that one body holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded<'a> {
    /// The events of which anything is left to store, in their order.
    pub events: Vec<RawEvent<'a>>,
    /// What is refused, in the order of their events. An event that is also in `events` lost single values only.
    pub refusals: Vec<RawRefusal<'a>>,
    /// How many events the body holds, good and bad; comments and empty lines are none.
    pub count: u32,
    /// How its events were read, for a refusal to be read again.
    pub reading: Reading,
}

/// Why a body is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Not JSON of the wanted shape.
    #[error("{0}")]
    MalformedJson(String),
    /// A member that an edit does not have.
    #[error("unknown field {0:?}")]
    UnknownField(String),
    /// The `observed_at` of an edit is no time that can be held.
    #[error("{}", .0.reason)]
    ObservedAt(Refusal),
    /// More events and refusals than one request may hold in memory.
    #[error("a body holds at most {OUTCOMES_MAX} events and refused values")]
    TooManyEvents,
}

/// Events and refusals of one body together. A refused line of two bytes costs a hundred of ours, so that the bound on a
/// body's bytes alone would let 64 MiB become gigabytes; a million is beyond what clients batch.
pub const OUTCOMES_MAX: usize = 1_000_000;

/// Bytes of input that a sentence quotes at most.
const QUOTED_BYTES_MAX: usize = 64;
/// Bytes of a name that a refusal's `field` keeps: a valid name whole.
const FIELD_BYTES_MAX: usize = 255;

/// A line or name as messages quote it: at most 64 bytes, control characters escaped, what is no UTF-8 replaced.
pub fn quote_line(raw: &[u8]) -> String {
    let mut quoted = String::new();
    // Each byte becomes at least one. The three bytes more keep a letter that ends past the bound from looking invalid.
    let head = &raw[..raw.len().min(QUOTED_BYTES_MAX + 3)];
    for letter in String::from_utf8_lossy(head).chars() {
        let before = quoted.len();
        if letter.is_control() {
            quoted.extend(letter.escape_default());
        } else {
            quoted.push(letter);
        }
        if quoted.len() > QUOTED_BYTES_MAX {
            quoted.truncate(before);
            break;
        }
    }
    quoted
}

/// A refusal of an event as a whole, on its way up to where the event's place is known.
#[derive(Debug)]
struct EventFault {
    entity_type: Option<String>,
    field: Option<String>,
    refusal: Refusal,
}

impl EventFault {
    fn new(field: Option<&str>, refusal: Refusal) -> EventFault {
        EventFault {
            entity_type: None,
            field: field.map(|name| cut(name, FIELD_BYTES_MAX).to_owned()),
            refusal,
        }
    }

    fn of_type(mut self, entity_type: &Name) -> EventFault {
        self.entity_type = Some(entity_type.as_str().to_owned());
        self
    }
}

/// A value that is refused alone: the name of its attribute, and why.
type BadValue = (String, Refusal);

impl<'a> Decoded<'a> {
    /// Takes an event and what was refused of it. An event all of whose values are refused is refused with them: to
    /// store it empty would say that the entity was seen with nothing to tell.
    fn settle(&mut self, event: RawEvent<'a>, bad: Vec<BadValue>) {
        self.count += 1;
        let nothing_left = event.cells.is_empty() && !bad.is_empty();
        for (field, refusal) in bad {
            self.refusals.push(RawRefusal {
                index: event.index,
                raw: event.raw,
                entity_type: Some(event.entity_type.as_str().to_owned()),
                field: Some(field),
                refusal,
            });
        }
        if !nothing_left {
            self.events.push(event);
        }
    }

    fn refuse(&mut self, index: u32, raw: &'a [u8], fault: EventFault) {
        self.count += 1;
        self.refusals.push(RawRefusal {
            index,
            raw,
            entity_type: fault.entity_type,
            field: fault.field,
            refusal: fault.refusal,
        });
    }

    fn check_bound(&self) -> Result<(), BodyFault> {
        if self.events.len() + self.refusals.len() > OUTCOMES_MAX {
            return Err(BodyFault::TooManyEvents);
        }
        Ok(())
    }
}

/// The longest start of a text that has at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn too_large(raw: &[u8], limits: &Limits) -> Option<EventFault> {
    (raw.len() > limits.event_bytes_max).then(|| {
        let reason = format!("an event has at most {} bytes", limits.event_bytes_max);
        EventFault::new(None, Refusal::new(RefusalCode::ValueTooLarge, reason))
    })
}

fn too_many_attributes(limits: &Limits) -> Refusal {
    let reason = format!(
        "an event has at most {} attributes",
        limits.event_attributes_max
    );
    Refusal::new(RefusalCode::TooManyAttributes, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_line_is_short_printable_and_whole_letters() {
        assert_eq!(quote_line(b"cpu usage="), "cpu usage=");
        assert_eq!(quote_line(b"a\nb\x1b[31m\0"), "a\\nb\\u{1b}[31m\\u{0}");
        assert_eq!(quote_line(b"\xff"), "\u{fffd}");
        for (raw, bytes) in [
            ("x".repeat(100), 64),
            ("\u{e9}".repeat(100), 64),
            ("\u{20ac}".repeat(100), 63),
            (format!("{}\u{1d11e}", "x".repeat(61)), 61),
        ] {
            assert_eq!(quote_line(raw.as_bytes()).len(), bytes);
        }
        assert_eq!(quote_line(&[0xff; 100]).len(), 63);
        assert_eq!(quote_line(&[0; 100]).len(), 60);
    }
}
