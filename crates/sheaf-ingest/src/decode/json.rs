//! Events and edits in JSON. Values are cut, not read: their type is their attribute's to say.
//!
//! Cutting is `serde_json`'s raw values, which keep every digit and hold no stack for the depth of what they skip.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue as RawJson;
use sheaf_model::{
    JsonFault, Limits, Name, Refusal, RefusalCode, Timestamp, TimestampFault, object_members,
    string_text,
};

use super::draft::Draft;
use super::naming::{entity_type, external_id};
use super::{
    BadValue, BodyFault, Decoded, EventFault, RawCell, RawEvent, RawTags, RawValue, quote_line,
    too_large, too_many_attributes,
};

/// What `PATCH` and `PUT` say of the entity that their path names.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit<'a> {
    /// When it was observed, if it said so.
    pub observed_at: Option<Timestamp>,
    /// Whether digits below a microsecond were cut from `observed_at`.
    pub time_cut: bool,
    /// What it says, each name once.
    pub cells: Vec<RawCell<'a>>,
    /// What is wrong with single values, by attribute; without one, with all of them together.
    pub refusals: Vec<(Option<String>, Refusal)>,
}

/// Reads a JSON array of events. An element that is no event is refused alone; an array that does not parse, as a whole.
pub fn json_array<'a>(body: &'a [u8], limits: &Limits) -> Result<Decoded<'a>, BodyFault> {
    // Said first, because the parser's own words for it would quote the body at length.
    if body.trim_ascii_start().first() != Some(&b'[') {
        let sentence = "the body is not a JSON array of events";
        return Err(BodyFault::MalformedJson(sentence.to_owned()));
    }
    let mut reader = Reader::new(limits);
    let mut parser = serde_json::Deserializer::from_slice(body);
    let parsed = Elements(&mut reader)
        .deserialize(&mut parser)
        .and_then(|()| parser.end());
    reader.decoded.check_bound()?;
    match parsed {
        Ok(()) => Ok(reader.decoded),
        Err(error) => Err(not_json(&error)),
    }
}

/// Reads one event a line. A line that does not parse is refused alone; lines of white space are skipped and not counted.
pub fn ndjson<'a>(body: &'a [u8], limits: &Limits) -> Result<Decoded<'a>, BodyFault> {
    let mut reader = Reader::new(limits);
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        reader.read_bytes(line);
        reader.decoded.check_bound()?;
    }
    Ok(reader.decoded)
}

/// Reads one event, as an element of an array or a line was kept when it was refused.
pub fn json_event<'a>(event: &'a [u8], limits: &Limits) -> Decoded<'a> {
    let mut reader = Reader::new(limits);
    reader.read_bytes(event);
    reader.decoded
}

/// Reads the body of an edit of one entity: `{"attributes":{..},"observed_at":".."}`, both optional.
pub fn edit<'a>(body: &'a [u8], limits: &Limits) -> Result<Edit<'a>, BodyFault> {
    let malformed = |sentence: &str| BodyFault::MalformedJson(sentence.to_owned());
    let text = std::str::from_utf8(body)
        .map_err(|_| malformed("the body is not valid UTF-8"))?
        .trim_matches(JSON_SPACE);
    if !text.starts_with('{') {
        return Err(malformed("the body is not a JSON object"));
    }
    if let Some(fault) = too_large(body, limits) {
        return Ok(Edit {
            observed_at: None,
            time_cut: false,
            cells: Vec::new(),
            refusals: vec![(None, fault.refusal)],
        });
    }
    let members = Members::read(text).map_err(|fault| match fault {
        MembersFault::Json(fault) => malformed(&format!("the body: {fault}")),
        MembersFault::Unknown(name) => BodyFault::UnknownField(name),
        MembersFault::Repeated(name) => malformed(&format!("the field {name:?} stands twice")),
    })?;
    for (name, member) in [("type", members.entity_type), ("id", members.external_id)] {
        if member.is_some() {
            return Err(BodyFault::UnknownField(name.to_owned()));
        }
    }
    let (observed_at, time_cut) =
        observed_at(members.observed_at).map_err(BodyFault::ObservedAt)?;
    let (cells, refusals) = match attributes(members.attributes, &mut Draft::default(), limits) {
        Ok((cells, bad)) => {
            let refusals = bad.into_iter().map(|(name, refusal)| (Some(name), refusal));
            (cells, refusals.collect())
        }
        Err(refusal) if refusal.code == RefusalCode::MalformedJson => {
            return Err(BodyFault::MalformedJson(refusal.reason));
        }
        Err(refusal) => (Vec::new(), vec![(None, refusal)]),
    };
    Ok(Edit {
        observed_at,
        time_cut,
        cells,
        refusals,
    })
}

/// What JSON calls white space.
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Reads event after event into one result.
struct Reader<'a, 'l> {
    limits: &'l Limits,
    decoded: Decoded<'a>,
    draft: Draft<'a>,
    no_tags: Rc<RawTags<'a>>,
}

impl<'a, 'l> Reader<'a, 'l> {
    fn new(limits: &'l Limits) -> Reader<'a, 'l> {
        Reader {
            limits,
            decoded: Decoded::default(),
            draft: Draft::default(),
            no_tags: Rc::default(),
        }
    }

    fn read_bytes(&mut self, event: &'a [u8]) {
        match std::str::from_utf8(event) {
            Ok(text) => self.read(text),
            Err(_) => self.refuse(event, malformed(None, "the line is not valid UTF-8")),
        }
    }

    fn read(&mut self, text: &'a str) {
        match self.event(text) {
            Ok((event, bad)) => self.decoded.settle(event, bad),
            Err(fault) => self.refuse(text.as_bytes(), fault),
        }
    }

    fn refuse(&mut self, raw: &'a [u8], fault: EventFault) {
        let index = self.decoded.count;
        self.decoded.refuse(index, raw, fault);
    }

    fn event(&mut self, text: &'a str) -> Result<(RawEvent<'a>, Vec<BadValue>), EventFault> {
        if let Some(fault) = too_large(text.as_bytes(), self.limits) {
            return Err(fault);
        }
        if !text.starts_with('{') {
            return Err(malformed(None, "an event is a JSON object"));
        }
        let members = Members::read(text).map_err(|fault| match fault {
            MembersFault::Json(fault) => EventFault::new(None, json_refusal(&fault)),
            MembersFault::Unknown(name) => malformed(
                Some(&name),
                "an event has type, id, observed_at and attributes, and no other member",
            ),
            MembersFault::Repeated(name) => EventFault::new(
                Some(name),
                Refusal::new(
                    RefusalCode::DuplicateKey,
                    "the member stands twice in one event",
                ),
            ),
        })?;
        let entity_type = read_type(members.entity_type)?;
        self.event_of_type(text, &entity_type, &members)
            .map_err(|fault| fault.of_type(&entity_type))
    }

    fn event_of_type(
        &mut self,
        text: &'a str,
        entity_type: &Name,
        members: &Members<'a>,
    ) -> Result<(RawEvent<'a>, Vec<BadValue>), EventFault> {
        let external_id = read_id(members.external_id)?;
        let (observed_at, time_cut) = observed_at(members.observed_at)
            .map_err(|refusal| EventFault::new(Some("observed_at"), refusal))?;
        let (cells, bad) = attributes(members.attributes, &mut self.draft, self.limits)
            .map_err(|refusal| EventFault::new(Some("attributes"), refusal))?;
        let event = RawEvent {
            index: self.decoded.count,
            raw: text.as_bytes(),
            entity_type: entity_type.clone(),
            external_id,
            observed_at,
            time_cut,
            cells,
            tags: Rc::clone(&self.no_tags),
        };
        Ok((event, bad))
    }
}

/// Reads the elements of an array as they are cut, so that no list of them is held.
struct Elements<'r, 'a, 'l>(&'r mut Reader<'a, 'l>);

impl<'a> DeserializeSeed<'a> for Elements<'_, 'a, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Elements<'_, 'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&'a RawJson>()? {
            self.0.read(element.get());
            if self.0.decoded.check_bound().is_err() {
                // The caller asks the same again and says it in our words.
                return Err(serde::de::Error::custom("too many events"));
            }
        }
        Ok(())
    }
}

/// The members of an event or edit, values untouched.
#[derive(Default)]
struct Members<'a> {
    entity_type: Option<&'a RawJson>,
    external_id: Option<&'a RawJson>,
    observed_at: Option<&'a RawJson>,
    attributes: Option<&'a RawJson>,
}

enum MembersFault {
    Json(JsonFault),
    Unknown(String),
    Repeated(&'static str),
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Result<Members<'a>, MembersFault> {
        let mut members = Members::default();
        for (name, value) in object_members(text).map_err(MembersFault::Json)? {
            let (name, place) = match name.as_ref() {
                "type" => ("type", &mut members.entity_type),
                "id" => ("id", &mut members.external_id),
                "observed_at" => ("observed_at", &mut members.observed_at),
                "attributes" => ("attributes", &mut members.attributes),
                other => return Err(MembersFault::Unknown(quote_line(other.as_bytes()))),
            };
            if place.replace(value).is_some() {
                return Err(MembersFault::Repeated(name));
            }
        }
        Ok(members)
    }
}

fn read_type(member: Option<&RawJson>) -> Result<Name, EventFault> {
    // There is no member to point to.
    let missing =
        |reason: &str| EventFault::new(None, Refusal::new(RefusalCode::MissingType, reason));
    let text = required_string(member, "type").map_err(|fault| match fault {
        StringFault::Absent(reason) => missing(&reason),
        StringFault::Json(fault) => EventFault::new(Some("type"), json_refusal(&fault)),
    })?;
    if text.is_empty() {
        return Err(missing("type is empty"));
    }
    entity_type(&text).map_err(|refusal| EventFault::new(Some("type"), refusal))
}

fn read_id(member: Option<&RawJson>) -> Result<String, EventFault> {
    let refused = |refusal: Refusal| {
        let is_missing = refusal.code == RefusalCode::MissingId;
        EventFault::new((!is_missing).then_some("id"), refusal)
    };
    let text = required_string(member, "id").map_err(|fault| match fault {
        StringFault::Absent(reason) => refused(Refusal::new(RefusalCode::MissingId, reason)),
        StringFault::Json(fault) => refused(json_refusal(&fault)),
    })?;
    external_id(text).map_err(refused)
}

enum StringFault {
    Absent(String),
    Json(JsonFault),
}

fn required_string<'a>(
    member: Option<&'a RawJson>,
    name: &str,
) -> Result<Cow<'a, str>, StringFault> {
    match member.map(RawJson::get) {
        None => Err(StringFault::Absent(format!("the event has no {name}"))),
        Some(raw) if raw.starts_with('"') => string_text(raw).map_err(StringFault::Json),
        Some(raw) => {
            let reason = format!("{name} is a string, got {}", kind_of(raw));
            Err(StringFault::Absent(reason))
        }
    }
}

fn observed_at(member: Option<&RawJson>) -> Result<(Option<Timestamp>, bool), Refusal> {
    let refusal = |code, reason: &str| Refusal::new(code, format!("observed_at: {reason}"));
    let raw = match member.map(RawJson::get) {
        None | Some("null") => return Ok((None, false)),
        Some(raw) if raw.starts_with('"') => raw,
        Some(raw) => {
            let reason = format!("a time is a string, got {}", kind_of(raw));
            return Err(refusal(RefusalCode::MalformedJson, &reason));
        }
    };
    let text = string_text(raw).map_err(|fault| json_refusal(&fault))?;
    match Timestamp::parse(&text) {
        Ok((time, cut)) => Ok((Some(time), cut)),
        Err(fault @ TimestampFault::Malformed) => {
            Err(refusal(RefusalCode::MalformedJson, &fault.to_string()))
        }
        Err(fault @ TimestampFault::OutOfRange) => {
            Err(refusal(RefusalCode::TimeOutOfRange, &fault.to_string()))
        }
    }
}

/// The attributes of an event; absent ones are none. The error refuses all of them.
fn attributes<'a>(
    member: Option<&'a RawJson>,
    draft: &mut Draft<'a>,
    limits: &Limits,
) -> Result<(Vec<RawCell<'a>>, Vec<BadValue>), Refusal> {
    let Some(raw) = member.map(RawJson::get) else {
        return Ok((Vec::new(), Vec::new()));
    };
    if !raw.starts_with('{') {
        let reason = format!("attributes is an object, got {}", kind_of(raw));
        return Err(Refusal::new(RefusalCode::MalformedJson, reason));
    }
    let members = object_members(raw).map_err(|fault| json_refusal(&fault))?;
    if members.len() > limits.event_attributes_max {
        return Err(too_many_attributes(limits));
    }
    draft.begin(members.len());
    for (name, value) in members {
        draft.add(name, Ok(RawValue::Json(value.get())));
    }
    Ok(draft.finish(&RawTags::None))
}

/// What a JSON token is, in the words of a sentence.
fn kind_of(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a bool",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) | None => "null",
    }
}

fn malformed(field: Option<&str>, reason: &str) -> EventFault {
    EventFault::new(field, Refusal::new(RefusalCode::MalformedJson, reason))
}

fn json_refusal(fault: &JsonFault) -> Refusal {
    let code = match fault {
        JsonFault::InvalidText => RefusalCode::InvalidText,
        JsonFault::DuplicateKey(_) => RefusalCode::DuplicateKey,
        JsonFault::Malformed | JsonFault::TooDeep(_) | JsonFault::NumberTooLong => {
            RefusalCode::MalformedJson
        }
    };
    Refusal::new(code, fault.to_string())
}

fn not_json(error: &serde_json::Error) -> BodyFault {
    let (line, column) = (error.line(), error.column());
    BodyFault::MalformedJson(format!(
        "the body is not valid JSON at line {line}, column {column}"
    ))
}

#[cfg(test)]
mod tests;
