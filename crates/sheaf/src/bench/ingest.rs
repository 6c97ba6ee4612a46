//! Writing: events of ten values over HTTP with everything that sheaf does for them, against raw binary COPY of the same
//! events into the same table on one connection.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use hyper::Method;
use hyper::body::Bytes;
use sheaf_model::{AttributeId, Attrs, BatchId, Cell, EntityId, Op, StoredRow, Timestamp, Value};
use sheaf_store::events::EventCopy;
use sheaf_store::partitions::ensure_partition;

use super::report::{Better, Line, Report, Rounds, spread};
use super::world::World;
use super::{CLIENTS, ROUNDS, Scale};

/// Values of an event.
const WIDTH: usize = 10;
/// Events of a request.
const BATCH: usize = 5_000;
/// What the first version has to reach.
const BAR: f64 = 0.25;
/// 2013-01-01T00:00:00Z in seconds: old enough for a partition of a year, which holds every round.
const EPOCH_SECONDS: i64 = 1_356_998_400;

/// How the events are sent.
#[derive(Clone, Copy)]
enum Form {
    Ndjson,
    LineProtocol,
}

impl Form {
    fn case(self) -> &'static str {
        match self {
            Form::Ndjson => "ndjson",
            Form::LineProtocol => "line_protocol",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Form::Ndjson => "/v1/ingest",
            Form::LineProtocol => "/api/v2/write?precision=s",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Ndjson => "application/x-ndjson",
            Form::LineProtocol => "text/plain",
        }
    }
}

/// The events of one round: every device at a few instants.
#[derive(Clone, Copy)]
struct Load {
    devices: usize,
    instants: usize,
}

impl Load {
    fn of(scale: Scale) -> Load {
        match scale {
            Scale::Small => Load {
                devices: 10_000,
                instants: 4,
            },
            Scale::Full => Load {
                devices: 20_000,
                instants: 15,
            },
        }
    }

    fn events(self) -> usize {
        self.devices * self.instants
    }

    /// Each event as (device, seconds), in the order in which they are sent.
    fn each(self, round: usize) -> impl Iterator<Item = (usize, i64)> {
        (0..self.instants).flat_map(move |instant| {
            let second = EPOCH_SECONDS
                + i64::try_from(round * self.instants + instant).expect("few instants");
            (0..self.devices).map(move |device| (device, second))
        })
    }
}

/// A value with two decimals, as sensors report them.
fn value(device: usize, second: i64, place: usize) -> f64 {
    let mixed = (device * 7919
        + usize::try_from(second).expect("after 1970") * 104_729
        + place * 1_299_709)
        % 10_000;
    f64::from(u32::try_from(mixed).expect("below ten thousand")) / 100.0
}

pub(super) async fn run(
    world: &World,
    scale: Scale,
    wanted: &impl Fn(&str) -> bool,
    report: &mut Report,
) -> Result<()> {
    for form in [Form::Ndjson, Form::LineProtocol] {
        if wanted(form.case()) {
            against_copy(world, form, Load::of(scale), report).await?;
        }
    }
    Ok(())
}

async fn against_copy(world: &World, form: Form, load: Load, report: &mut Report) -> Result<()> {
    let mut rounds = Rounds::default();
    // Names and attributes are made before anything is measured, as they are in operation.
    send(world, form, bodies(form, load, 0)).await?;
    let attributes = numbers(world).await?;
    for round in 1..=ROUNDS {
        let values = f64::from(u32::try_from(load.events() * WIDTH).context("few values")?);
        let baseline = async {
            let copy = encoded(world, load, round, form, &attributes);
            let seconds = copy_events(world, copy).await?;
            anyhow::Ok(values / seconds)
        };
        let bodies = bodies(form, load, round);
        let case = async {
            let seconds = send(world, form, bodies).await?;
            anyhow::Ok(values / seconds)
        };
        // They take turns in going first, so that neither always meets the other's checkpoint.
        let (case, baseline) = if round % 2 == 0 {
            let case = case.await?;
            (case, baseline.await?)
        } else {
            let baseline = baseline.await?;
            (case.await?, baseline)
        };
        rounds.case.push(case);
        rounds.baseline.push(baseline);
    }
    let (value, value_min, value_max) = spread(&rounds.case);
    report.add(&Line {
        suite: "ingest",
        case: form.case(),
        measure: "durable_values",
        value,
        value_min,
        value_max,
        unit: "values/s",
        better: Better::Higher,
        against: Some(rounds.against("raw_copy", Better::Higher, Some(BAR))),
    })
}

fn bodies(form: Form, load: Load, round: usize) -> Vec<Bytes> {
    let events: Vec<(usize, i64)> = load.each(round).collect();
    events
        .chunks(BATCH)
        .map(|batch| Bytes::from(body(form, batch)))
        .collect()
}

fn body(form: Form, batch: &[(usize, i64)]) -> String {
    let mut out = String::new();
    for (device, second) in batch {
        match form {
            Form::Ndjson => {
                let time = Timestamp::from_micros(second * 1_000_000).expect("in 2013");
                write!(
                    out,
                    r#"{{"type":"device","id":"d{device}","observed_at":"{time}","attributes":{{"#
                )
            }
            Form::LineProtocol => write!(out, "device_line,id=d{device} "),
        }
        .expect("writing to a string does not fail");
        for place in 0..WIDTH {
            let comma = if place == 0 { "" } else { "," };
            let value = value(*device, *second, place);
            match form {
                Form::Ndjson => write!(out, r#"{comma}"m{place}":{value}"#),
                Form::LineProtocol => write!(out, "{comma}m{place}={value}"),
            }
            .expect("writing to a string does not fail");
        }
        match form {
            Form::Ndjson => out.push_str("}}\n"),
            Form::LineProtocol => {
                writeln!(out, " {second}").expect("writing to a string does not fail")
            }
        }
    }
    out
}

/// Sends bodies over several connections and gives back the seconds until the last was acknowledged.
async fn send(world: &World, form: Form, bodies: Vec<Bytes>) -> Result<f64> {
    let queue = Arc::new(Mutex::new(bodies.into_iter().rev().collect::<Vec<_>>()));
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(world.connect().await?);
    }
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for mut connection in connections {
        let queue = Arc::clone(&queue);
        clients.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(body) = next else {
                    return anyhow::Ok(());
                };
                connection
                    .call(Method::POST, form.path(), form.content_type(), body)
                    .await?;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// The numbers of the attributes, in order of place.
async fn numbers(world: &World) -> Result<Vec<AttributeId>> {
    let catalogue = world.catalogue().await?;
    (0..WIDTH)
        .map(|place| {
            let name = format!("m{place}");
            Ok(catalogue
                .by_name(&name)
                .with_context(|| format!("attribute {name} was not created"))?
                .id)
        })
        .collect()
}

/// The same events in COPY's form, of entities that nobody else writes.
fn encoded(
    world: &World,
    load: Load,
    round: usize,
    form: Form,
    attributes: &[AttributeId],
) -> EventCopy {
    let mut copy = EventCopy::default();
    let batch = BatchId::new();
    let now = Timestamp::now();
    // Numbers far above any that the sequence has given; one range a form, or rows of the two cases would collide.
    let first = (1_i64 << 40) << u8::from(matches!(form, Form::LineProtocol));
    let mut events: Vec<(usize, i64)> = load.each(round).collect();
    events.sort_unstable();
    for (device, second) in events {
        let cells = attributes.iter().enumerate().map(|(place, id)| {
            let value = Value::float(value(device, second, place)).expect("a finite number");
            (*id, Cell::Value(value))
        });
        let row = StoredRow {
            observed_at: Timestamp::from_micros(second * 1_000_000).expect("in 2013"),
            seq: 0,
            op: Op::Patch,
            attrs: Attrs::from_distinct(cells.collect()),
        };
        let entity = EntityId(first + i64::try_from(device).expect("few devices"));
        copy.push(world.scope.tenant(), entity, &row, batch, now);
    }
    copy
}

/// Copies encoded events in one transaction and gives back its seconds.
async fn copy_events(world: &World, copy: EventCopy) -> Result<f64> {
    let at = Timestamp::from_micros(EPOCH_SECONDS * 1_000_000)?;
    let partition = ensure_partition(&world.pools.writer, at).await?;
    let client = world.pools.writer.get().await?;
    let begun = Instant::now();
    client.batch_execute("BEGIN").await?;
    copy.send(&client, &partition.name).await?;
    client.batch_execute("COMMIT").await?;
    Ok(begun.elapsed().as_secs_f64())
}
