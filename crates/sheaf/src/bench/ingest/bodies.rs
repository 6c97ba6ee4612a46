//! Events as clients send them, and as PostgreSQL's own COPY takes them.

use std::io::Write as _;

use anyhow::{Context, Result};
use hyper::body::Bytes;
use sheaf_model::{AttributeId, Attrs, BatchId, Cell, EntityId, Op, StoredRow, Timestamp, Value};
use sheaf_store::events::{EventCopy, EventRows};
use sheaf_store::partitions::{Partition, ensure_partition};

use super::generators::{Event, TAGS, Workload, id, tag_value};
use super::load::Request;
use crate::bench::world::{Tenant, World};

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Form {
    Ndjson,
    LineProtocol,
}

impl Form {
    pub(super) fn path(self) -> &'static str {
        match self {
            Form::Ndjson => "/v1/ingest",
            Form::LineProtocol => "/api/v2/write?precision=us",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Ndjson => "application/x-ndjson",
            Form::LineProtocol => "text/plain",
        }
    }
}

/// A request with the events of a range.
pub(in crate::bench) fn request(workload: &Workload, form: Form, from: u64, to: u64) -> Request {
    let mut out = Vec::new();
    let mut event = Event::default();
    let mut values = 0;
    for index in from..to {
        workload.fill(index, &mut event);
        values += event.fields.len();
        match form {
            Form::Ndjson => put_json(workload, &event, &mut out),
            Form::LineProtocol => put_line(workload, &event, &mut out),
        }
    }
    Request {
        path: form.path().into(),
        kind: form.content_type(),
        body: Bytes::from(out),
        values: values as u64,
    }
}

/// Requests of `batch` events each.
pub(in crate::bench) fn requests(
    workload: &Workload,
    form: Form,
    range: std::ops::Range<u64>,
    batch: u64,
) -> Vec<Request> {
    range
        .clone()
        .step_by(usize::try_from(batch).expect("a batch fits in memory"))
        .map(|from| request(workload, form, from, range.end.min(from + batch)))
        .collect()
}

fn put_json(workload: &Workload, event: &Event, out: &mut Vec<u8>) {
    let time = Timestamp::from_micros(event.micros).expect("in 2013");
    let (kind, id) = (workload.kind, id(workload, event.entity));
    put(
        out,
        format_args!(r#"{{"type":"{kind}","id":"{id}","observed_at":"{time}","attributes":{{"#),
    );
    for (at, (place, value)) in event.fields.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        put(out, format_args!(r#"{comma}"m{place}":"#));
        put_number(workload, *value, out);
    }
    out.extend_from_slice(b"}}\n");
}

fn put_line(workload: &Workload, event: &Event, out: &mut Vec<u8>) {
    put(out, format_args!("{}", workload.kind));
    if workload.tags == 0 {
        put(out, format_args!(",id={}", id(workload, event.entity)));
    }
    for (place, name) in TAGS[..workload.tags].iter().enumerate() {
        put(
            out,
            format_args!(",{name}={}", tag_value(place, event.entity)),
        );
    }
    for (at, (place, value)) in event.fields.iter().enumerate() {
        let before = if at == 0 { ' ' } else { ',' };
        put(out, format_args!("{before}m{place}="));
        put_number(workload, *value, out);
        if workload.whole {
            out.push(b'i');
        }
    }
    put(out, format_args!(" {}\n", event.micros));
}

fn put_number(workload: &Workload, value: i64, out: &mut Vec<u8>) {
    if workload.whole {
        put(out, format_args!("{value}"));
    } else {
        put(out, format_args!("{}.{:02}", value / 100, value % 100));
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to memory does not fail");
}

/// Events in COPY's form, partition by partition.
pub(super) struct Encoded {
    parts: Vec<(Partition, EventCopy)>,
}

impl Encoded {
    /// The events of a range, of entities that nobody else writes.
    pub(super) async fn new(
        world: &World,
        tenant: &Tenant,
        workload: &Workload,
        range: std::ops::Range<u64>,
    ) -> Result<Encoded> {
        let catalogue = world.catalogue(tenant).await?;
        let attribute = |place: u64| -> Result<AttributeId> {
            let name = format!("m{place}");
            let found = catalogue.by_name(&name);
            Ok(found
                .with_context(|| format!("attribute {name} was not created"))?
                .id)
        };
        let batch = BatchId::new();
        let now = Timestamp::now();
        let mut events: Vec<Event> = range
            .map(|index| {
                let mut event = Event::default();
                workload.fill(index, &mut event);
                event
            })
            .collect();
        events.sort_unstable_by_key(|event| (event.entity, event.micros));
        let mut parts: Vec<(Partition, EventCopy)> = Vec::new();
        for event in events {
            let observed_at = Timestamp::from_micros(event.micros)?;
            let part = match parts
                .iter()
                .position(|(partition, _)| partition.holds(observed_at))
            {
                Some(part) => part,
                None => {
                    let partition = ensure_partition(&world.pools.writer, observed_at).await?;
                    parts.push((partition, EventCopy::default()));
                    parts.len() - 1
                }
            };
            let mut cells = Vec::with_capacity(event.fields.len());
            for (place, value) in event.fields {
                let value = if workload.whole {
                    Value::Int(value)
                } else {
                    Value::float(value as f64 / 100.0).context("a finite number")?
                };
                cells.push((attribute(place)?, Cell::Value(value)));
            }
            let row = StoredRow {
                observed_at,
                seq: 0,
                op: Op::Patch,
                attrs: Attrs::from_distinct(cells),
            };
            let entity = EntityId(FOREIGN + i64::try_from(event.entity)?);
            parts[part]
                .1
                .push(tenant.scope.tenant(), entity, &row, batch, now);
        }
        Ok(Encoded { parts })
    }

    /// Copies them in one transaction on one connection.
    pub(super) async fn copy(self, world: &World) -> Result<()> {
        let client = world.pools.writer.get().await?;
        client.batch_execute("BEGIN").await?;
        for (partition, copy) in self.parts {
            copy.send(&client, &partition.name).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(())
    }
}

/// Numbers far above any that the sequence has given.
const FOREIGN: i64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(workload: &Workload, form: Form) -> String {
        String::from_utf8(request(workload, form, 0, 2).body.to_vec()).expect("must work")
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let workload = Workload::devices("device", 3);
        for form in [Form::Ndjson, Form::LineProtocol] {
            assert_eq!(text(&workload, form), text(&workload, form));
            let other = Workload {
                seed: 9,
                ..workload.clone()
            };
            assert_ne!(text(&workload, form), text(&other, form));
        }
    }

    #[test]
    fn a_line_of_json_is_an_event_of_the_interface() {
        let workload = Workload::devices("device", 1);
        let text = text(&workload, Form::Ndjson);
        let second: serde_json::Value =
            serde_json::from_str(text.lines().nth(1).expect("must work")).expect("must work");
        assert_eq!(second["type"], "device");
        assert_eq!(second["id"], "d0");
        assert_eq!(second["observed_at"], "2013-01-01T00:00:01Z");
        assert_eq!(
            second["attributes"].as_object().expect("must work").len(),
            10
        );
    }

    #[test]
    fn agents_send_ten_tags_and_ten_whole_numbers() {
        let text = text(&Workload::agents(100), Form::LineProtocol);
        let line = text.lines().next().expect("must work");
        let parts: Vec<&str> = line.split(' ').collect();
        assert_eq!((parts.len(), parts[0].matches(',').count()), (3, 10));
        let fields: Vec<&str> = parts[1].split(',').collect();
        assert_eq!(fields.len(), 10);
        assert!(fields.iter().all(|field| field.ends_with('i')), "{line}");
        assert_eq!(parts[2], "1356998400000000");
    }

    #[test]
    fn requests_cover_their_range_once() {
        let requests = requests(&Workload::devices("device", 4), Form::Ndjson, 3..10, 3);
        let values: Vec<u64> = requests.iter().map(|request| request.values).collect();
        assert_eq!(values, [30, 30, 10]);
    }
}
