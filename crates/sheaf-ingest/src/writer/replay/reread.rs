//! Refused events read again, each as it was to be read, to one decoded body. Pure.

use std::collections::HashSet;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use sheaf_model::{Limits, Timestamp, Value};
use sheaf_store::rejections::{Reading, RefusedEvent, Rest, storable};

use super::super::preparation::tenant_rules;
use crate::decode::{
    self, Decoded, IdRules, Precision, RawCell, RawEvent, RawRefusal, RawTags, RawValue,
};

/// The events one after the other, as the body that they are read from.
pub(super) fn joined(events: &[RefusedEvent]) -> Bytes {
    let bytes = events.iter().map(|event| event.raw.len()).sum();
    let mut body = BytesMut::with_capacity(bytes);
    for event in events {
        body.extend_from_slice(&event.raw);
    }
    body.freeze()
}

/// Reads every event again; its index is its place among them. All that are left have a time. `line_protocol` is what
/// the tenant's policy says of ids.
pub(super) fn reread<'a>(
    body: &'a [u8],
    events: &[RefusedEvent],
    line_protocol: &str,
    limits: &Limits,
) -> Decoded<'a> {
    let mut rules = IdRules {
        all: None,
        by_measurement: tenant_rules(line_protocol),
    };
    let mut decoded = Decoded::default();
    let mut rest = body;
    for (place, event) in events.iter().enumerate() {
        let (raw, after) = rest.split_at(event.raw.len());
        rest = after;
        let mut one =
            read_one(raw, event, &mut rules, limits).unwrap_or_else(|| still_refused(raw, event));
        if let Some(rest) = &event.rest {
            narrow(&mut one, event, rest);
            if one.events.is_empty() && one.refusals.is_empty() {
                one = still_refused(raw, event);
            }
        }
        let index = u32::try_from(place).unwrap_or(u32::MAX);
        decoded.count += 1;
        decoded
            .events
            .extend(one.events.into_iter().map(|mut read| {
                read.index = index;
                read.observed_at = read.observed_at.or(Some(time_of(event)));
                read
            }));
        let refusals = one.refusals.into_iter();
        decoded
            .refusals
            .extend(refusals.map(|refusal| RawRefusal { index, ..refusal }));
    }
    decoded
}

/// The time of an event that did not say when it was observed: its request's, and a microsecond later than the event
/// before it there.
fn time_of(event: &RefusedEvent) -> Timestamp {
    event
        .received_at
        .saturating_add_micros(event.event_index.max(0).into())
}

/// One event, unless nobody knows how to read it. What was refused before its format was kept is read if it is plainly
/// JSON; the unit of a line's time cannot be guessed.
fn read_one<'a>(
    raw: &'a [u8],
    event: &RefusedEvent,
    rules: &mut IdRules,
    limits: &Limits,
) -> Option<Decoded<'a>> {
    let decoded = match &event.reading {
        Some(Reading::Json) => decode::json_event(raw, limits),
        Some(Reading::LineProtocol { precision, id_tags }) => {
            let precision = Precision::parse(precision)?;
            rules.all = id_tags.as_deref().map(<[String]>::to_vec);
            decode::line_protocol(raw, precision, rules, limits).ok()?
        }
        None if raw.starts_with(b"{") => decode::json_event(raw, limits),
        None => return None,
    };
    (decoded.count == 1).then_some(decoded)
}

/// An event that stays refused, for the reason that it was refused for.
fn still_refused<'a>(raw: &'a [u8], event: &RefusedEvent) -> Decoded<'a> {
    let field = event.open.first().and_then(|(_, field)| field.clone());
    Decoded {
        count: 1,
        refusals: vec![RawRefusal {
            index: 0,
            raw,
            entity_type: event.entity_type.clone(),
            field,
            refusal: event.refusal.clone(),
        }],
        ..Decoded::default()
    }
}

/// Leaves of an event what is open of it, for the entity and instant that have the rest. What was stored may have been
/// corrected since, and must not come back.
fn narrow(decoded: &mut Decoded<'_>, event: &RefusedEvent, rest: &Rest) {
    let open: HashSet<&str> = event
        .open
        .iter()
        .filter_map(|(_, field)| field.as_deref())
        .collect();
    decoded.refusals.retain(|refusal| {
        let field = refusal.field.as_deref().map(storable);
        field.is_none_or(|field| open.contains(field.as_ref()))
    });
    for read in &mut decoded.events {
        read.external_id.clone_from(&rest.external_id);
        read.observed_at = rest.observed_at.or(read.observed_at);
        tags_to_cells(read);
        read.cells.retain(|cell| open.contains(cell.name.as_ref()));
    }
    decoded.events.retain(|read| !read.cells.is_empty());
}

/// Tags as the attributes that they are: what names the series is stored with the rest.
fn tags_to_cells(event: &mut RawEvent<'_>) {
    let (id, others) = match Rc::unwrap_or_clone(std::mem::take(&mut event.tags)) {
        RawTags::None => return,
        RawTags::Series(tags) => (tags, Vec::new()),
        RawTags::Beside { id, others } => (id, others),
    };
    let cells = id.into_iter().chain(others).map(|tag| RawCell {
        name: tag.name,
        value: RawValue::Typed(Value::Text(tag.value.into_owned())),
    });
    event.cells.extend(cells);
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sheaf_model::{BatchId, Refusal, RefusalCode, RejectionId};

    use super::*;

    const ARRIVED: &str = "2024-03-01T12:00:00Z";

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a time").0
    }

    /// The eighth event of its request, with one open refusal a field.
    fn refused(raw: &str, reading: Option<Reading>, fields: &[Option<&str>]) -> RefusedEvent {
        RefusedEvent {
            raw: raw.as_bytes().to_vec(),
            batch: BatchId::new(),
            event_index: 7,
            entity_type: None,
            reading,
            received_at: time(ARRIVED),
            rest: None,
            open: fields
                .iter()
                .map(|field| (RejectionId::new(), field.map(str::to_owned)))
                .collect(),
            refusal: Refusal::new(RefusalCode::TypeMismatch, "as it was"),
        }
    }

    fn lines(precision: &'static str, id_tags: Option<&[&str]>) -> Option<Reading> {
        Some(Reading::LineProtocol {
            precision: Cow::Borrowed(precision),
            id_tags: id_tags.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        })
    }

    fn rest(external_id: &str, observed_at: Option<&str>) -> Option<Rest> {
        Some(Rest {
            external_id: external_id.to_owned(),
            observed_at: observed_at.map(time),
        })
    }

    /// Each event as index, id, time and names; each refusal as index, field and code.
    fn read(events: &[RefusedEvent], line_protocol: &str) -> (Vec<String>, Vec<String>) {
        let body = joined(events);
        let decoded = reread(&body, events, line_protocol, &Limits::DEFAULT);
        assert_eq!(usize::try_from(decoded.count), Ok(events.len()));
        let event = |event: &RawEvent<'_>| {
            let names: Vec<&str> = event.cells.iter().map(|cell| cell.name.as_ref()).collect();
            let at = event.observed_at.expect("every event has a time");
            format!(
                "{} {} {at} {}",
                event.index,
                event.external_id,
                names.join(",")
            )
        };
        let refusal = |refusal: &RawRefusal<'_>| {
            let field = refusal.field.as_deref().unwrap_or("-");
            format!(
                "{} {field} {}",
                refusal.index,
                refusal.refusal.code.as_str()
            )
        };
        (
            decoded.events.iter().map(event).collect(),
            decoded.refusals.iter().map(refusal).collect(),
        )
    }

    #[test]
    fn each_event_is_read_as_it_came_and_has_its_own_time_or_one_that_follows_from_its_refusal() {
        let json = r#"{"type":"t","id":"a","attributes":{"n":1}}"#;
        let timed = "{\n\"type\":\"t\",\"id\":\"b\",\"observed_at\":\"2013-01-01T00:00:00Z\"}";
        let events = [
            refused(json, Some(Reading::Json), &[None]),
            refused(timed, Some(Reading::Json), &[None]),
            refused("cpu,host=a,cpu=0 n=1 1357020000", lines("s", None), &[None]),
            refused(
                "cpu,host=a,cpu=0 n=1 1357020000000",
                lines("ms", Some(&["cpu"])),
                &[None],
            ),
            refused("disk,host=a n=\"x\ny\"", lines("ns", None), &[None]),
            refused("nonsense", Some(Reading::Json), &[None]),
        ];
        let (stored, refused) = read(&events, r#"{"disk":{"id_tags":["host"]}}"#);
        assert_eq!(
            stored,
            [
                "0 a 2024-03-01T12:00:00.000007Z n",
                "1 b 2013-01-01T00:00:00Z ",
                "2 cpu=0,host=a 2013-01-01T06:00:00Z n",
                "3 0 2013-01-01T06:00:00Z n",
                "4 a 2024-03-01T12:00:00.000007Z n",
            ]
        );
        assert_eq!(refused, ["5 - malformed_json"]);
    }

    #[test]
    fn of_an_event_that_is_stored_in_part_only_what_is_open_is_left_where_the_rest_is() {
        let json = r#"{"type":"t","id":"a","observed_at":"2013-01-01T00:00:00Z","attributes":{"n":1,"m":2,"observed_at":3}}"#;
        let mut events = [
            refused(json, Some(Reading::Json), &[Some("m")]),
            refused(json, Some(Reading::Json), &[Some("observed_at"), Some("n")]),
            refused(
                "cpu,host=a,rack=r n=1",
                lines("ns", Some(&["host"])),
                &[Some("rack")],
            ),
            refused(json, Some(Reading::Json), &[Some("gone")]),
        ];
        let at = Some("2020-01-01T00:00:00Z");
        for (event, rest) in events.iter_mut().zip([
            rest("a", at),
            rest("a", at),
            rest("once", at),
            rest("a", None),
        ]) {
            event.rest = rest;
        }
        let (stored, refused) = read(&events, "{}");
        assert_eq!(
            stored,
            [
                "0 a 2020-01-01T00:00:00Z m",
                "1 a 2020-01-01T00:00:00Z n",
                "2 once 2020-01-01T00:00:00Z rack",
            ]
        );
        assert_eq!(
            refused,
            ["1 observed_at reserved_name", "3 gone type_mismatch"]
        );
    }

    #[test]
    fn what_was_refused_before_its_format_was_kept_is_read_only_if_it_is_json() {
        let json = r#"{"type":"t","id":"a","attributes":{"n":1}}"#;
        let events = [
            refused(json, None, &[Some("n")]),
            refused("cpu n=1", None, &[None]),
            refused("cpu n=1", lines("fortnights", None), &[None]),
        ];
        let (stored, refused) = read(&events, "{}");
        assert_eq!(stored, ["0 a 2024-03-01T12:00:00.000007Z n"]);
        assert_eq!(refused, ["1 - type_mismatch", "2 - type_mismatch"]);
    }
}
