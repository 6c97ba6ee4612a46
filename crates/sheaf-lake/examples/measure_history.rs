//! How long the history of one attribute of one entity over a year of daily files takes to read: `cargo run -p sheaf-lake --example
//! measure_history`.
//!
//! First of a reader that knows nothing, then of one that knows the ends of the files, then again.

#![expect(clippy::print_stdout, reason = "whoever runs it wants to know")]

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use sheaf_cdc::change::{Batch, Catalogue, CatalogueRow, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::conformance::{position, transaction};
use sheaf_cdc::sink::Sink;
use sheaf_lake::analytics::{LakeReader, ReaderOptions};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{AttributeId, AttributeType, BatchId, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::history::EventsAsked;
use sheaf_store::settings::Settings;
use sheaf_testkit::{ScratchDir, TestDatabase};
use uuid::Uuid;

const DAYS: i64 = 400;
const ENTITIES: i64 = 100;
const ATTRIBUTES: i64 = 5;
const EVENTS_A_DAY: i64 = 24;
const DAY_MICROS: i64 = 86_400_000_000;

#[tokio::main]
async fn main() -> Result<()> {
    let database = TestDatabase::create().await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 4, &Tls::none());
    let dir = ScratchDir::new("measure")?;
    let mut options = LakeOptions::in_folder(dir.path().to_owned());
    options.pending_bytes_max = 1 << 30;
    let mut sink = LakeSink::new(&cdc, options.clone())?;
    sink.held().await?;
    sink.begin(position(1, 0)).await?;
    sink.apply(&names()).await?;
    sink.flush().await?;
    let written = Instant::now();
    for day in 0..DAYS {
        sink.apply(&events(day)?).await?;
        sink.flush().await?;
    }
    let facts = DAYS * ENTITIES * ATTRIBUTES * EVENTS_A_DAY;
    println!(
        "{facts} facts in {DAYS} days: written in {:.1?}",
        written.elapsed()
    );
    let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    let options = ReaderOptions::of(&options, "sheaf".to_owned());
    let reader = LakeReader::new(&app, settings, options)?;
    let scope = TenantScope::system(TenantId(1), "an example measures");
    for (what, entity, attribute) in [
        ("first of all", 50, 1),
        ("another attribute", 50, 2),
        ("another entity", 51, 2),
        ("the same again", 51, 2),
        ("and again", 51, 2),
    ] {
        let begun = Instant::now();
        let snapshot = reader.look(None).await?;
        let asked = EventsAsked {
            entities: vec![EntityId(entity)],
            attributes: Some(vec![(AttributeId(attribute), AttributeType::Float)]),
            from: Timestamp::MIN,
            to: Timestamp::MAX,
            newest_first: false,
            enough: usize::MAX,
            with_requests: false,
        };
        let read = reader.events(&scope, &snapshot, asked).await?;
        println!(
            "{what}: {} events in {:.1?}",
            read.events.len(),
            begun.elapsed()
        );
    }
    Ok(())
}

fn row(catalogue: Catalogue, columns: &[(&str, ColumnValue)]) -> ChangedRow {
    ChangedRow::Catalogue(CatalogueRow {
        catalogue,
        is_new: true,
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        values: columns.iter().map(|(_, value)| value.clone()).collect(),
    })
}

fn names() -> Batch {
    let text = |text: String| ColumnValue::Text(text);
    let int = ColumnValue::Int;
    let mut rows = vec![row(
        Catalogue::Tenants,
        &[("tenant_id", int(1)), ("name", text("acme".to_owned()))],
    )];
    for number in 1..=ATTRIBUTES {
        rows.push(row(
            Catalogue::Attributes,
            &[
                ("tenant_id", int(1)),
                ("attribute_id", int(number)),
                ("name", text(format!("attribute {number}"))),
                ("type", text("float".to_owned())),
            ],
        ));
    }
    for number in 1..=ENTITIES {
        rows.push(row(
            Catalogue::Entities,
            &[
                ("tenant_id", int(1)),
                ("entity_id", int(number)),
                ("entity_type", text("device".to_owned())),
                ("external_id", text(format!("device-{number}"))),
                ("created_at", ColumnValue::Time(Timestamp::MIN)),
            ],
        ));
    }
    transaction(2, rows)
}

fn events(day: i64) -> Result<Batch> {
    let first = Timestamp::parse("2023-01-01T00:00:00Z")?.0;
    let mut rows = Vec::new();
    for step in 0..EVENTS_A_DAY {
        for entity in 1..=ENTITIES {
            let number = day * 31 + step * 7 + entity;
            let values = (1..=ATTRIBUTES).map(|id| {
                let cents = (number * id) % 10_000;
                format!("\"{id}\":{}.{:02}", cents / 100, cents % 100)
            });
            let values: Vec<String> = values.collect();
            rows.push(ChangedRow::Event(EventRow {
                tenant: TenantId(1),
                entity: EntityId(entity),
                observed_at: first.saturating_add_micros(
                    day * DAY_MICROS + step * DAY_MICROS / EVENTS_A_DAY + entity,
                ),
                seq: 0,
                op: Op::Patch,
                batch: BatchId(Uuid::from_u128(u128::from(number.unsigned_abs()))),
                ingested_at: first.saturating_add_micros(day * DAY_MICROS + step),
                attrs: format!("{{{}}}", values.join(",")).into(),
            }));
        }
    }
    let lsn = u64::try_from(10 + day).context("a day")?;
    Ok(transaction(lsn, rows))
}
