//! How many bytes a fact takes in the lake, column by column: `cargo run -p sheaf-lake --example measure_facts`.
//!
//! Ten values of two decimals an event, random and so as hard to write small as such values can be, in requests of a thousand
//! events. Entities report in rounds at whole seconds, or anyhow: in any order, each at a millisecond of its own.

#![expect(clippy::print_stdout, reason = "whoever runs it wants to know")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use sheaf_cdc::change::{Batch, Catalogue, CatalogueRow, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::conformance::{position, transaction};
use sheaf_cdc::sink::Sink;
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{BatchId, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_testkit::{ScratchDir, TestDatabase};
use uuid::Uuid;

const ATTRIBUTES: i64 = 10;
const REQUEST_EVENTS: i64 = 1_000;
const FACTS: i64 = 1_000_000;
const STEP_MICROS: i64 = 60_000_000;

/// How entities report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reports {
    InRounds,
    Anyhow,
}

#[tokio::main]
async fn main() -> Result<()> {
    let database = TestDatabase::create().await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 4, &Tls::none());
    let shapes = [
        (100_000, 10_000, Reports::InRounds),
        (20_000, 10_000, Reports::InRounds),
        (1_000, 10_000, Reports::InRounds),
        (20_000, 10_000, Reports::Anyhow),
        (20_000, 100_000, Reports::Anyhow),
        (1_000, 1_000_000, Reports::Anyhow),
    ];
    for (shape, (entities, cents, reports)) in (0..).zip(shapes) {
        let dir = ScratchDir::new("measure")?;
        let mut options = LakeOptions::in_folder(dir.path().to_owned());
        options.name.catalog = format!("shape{shape}");
        options.pending_bytes_max = 1 << 30;
        let mut sink = LakeSink::new(&cdc, options)?;
        sink.held().await?;
        sink.begin(position(1, 0)).await?;
        sink.apply(&names(entities)).await?;
        sink.flush().await?;
        let given = Instant::now();
        for batch in requests(entities, cents, reports)? {
            sink.apply(&batch).await?;
        }
        let given = given.elapsed();
        let committed = Instant::now();
        sink.flush().await?;
        let committed = committed.elapsed();
        let (rows, columns) = columns(&dir.path().join("facts/data"))?;
        let bytes: i64 = columns.values().sum();
        println!(
            "{entities} entities, values below {}, {reports:?}, {rows} facts: {:.2} bytes a fact; given {given:.1?}, committed {committed:.1?}",
            cents / 100,
            per(bytes, rows)
        );
        for (column, bytes) in columns.into_iter().filter(|(_, bytes)| *bytes > rows / 100) {
            println!("  {column:<16} {:.3}", per(bytes, rows));
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn per(bytes: i64, rows: i64) -> f64 {
    bytes as f64 / rows as f64
}

/// The bytes of each column over all files, and the rows.
fn columns(folder: &Path) -> Result<(i64, BTreeMap<String, i64>)> {
    let mut columns = BTreeMap::new();
    let mut rows = 0;
    for entry in std::fs::read_dir(folder)? {
        let reader = SerializedFileReader::new(std::fs::File::open(entry?.path())?)?;
        let metadata = reader.metadata();
        rows += metadata.file_metadata().num_rows();
        for group in metadata.row_groups() {
            for chunk in group.columns() {
                *columns.entry(chunk.column_path().string()).or_default() +=
                    chunk.compressed_size();
            }
        }
    }
    Ok((rows, columns))
}

fn row(catalogue: Catalogue, columns: Vec<(&str, ColumnValue)>) -> ChangedRow {
    ChangedRow::Catalogue(CatalogueRow {
        catalogue,
        is_new: true,
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        values: columns.into_iter().map(|(_, value)| value).collect(),
    })
}

fn names(entities: i64) -> Batch {
    let text = |text: String| ColumnValue::Text(text);
    let attributes = (1..=ATTRIBUTES).map(|number| {
        row(
            Catalogue::Attributes,
            vec![
                ("tenant_id", ColumnValue::Int(1)),
                ("attribute_id", ColumnValue::Int(number)),
                ("name", text(format!("measure_{number}"))),
                ("type", text("float".to_owned())),
            ],
        )
    });
    let entities = (1..=entities).map(|number| {
        row(
            Catalogue::Entities,
            vec![
                ("tenant_id", ColumnValue::Int(1)),
                ("entity_id", ColumnValue::Int(number)),
                ("entity_type", text("device".to_owned())),
                (
                    "external_id",
                    text(format!("device-{:07}", number * 7919 % 9_999_991)),
                ),
            ],
        )
    });
    transaction(2, attributes.chain(entities).collect())
}

/// What a thousand requests bring, a round of all entities in each step.
fn requests(entities: i64, cents_below: i64, reports: Reports) -> Result<Vec<Batch>> {
    let begin = Timestamp::parse("2024-05-01T00:00:00Z")?.0.as_micros();
    let mut random = 88_172_645_463_325_252u64;
    let mut next = move |below: i64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        i64::try_from(random >> 1).unwrap_or_default() % below
    };
    let mut batches = Vec::new();
    for request in 0..FACTS / ATTRIBUTES / REQUEST_EVENTS {
        let batch_id = BatchId(Uuid::new_v4());
        let mut rows = Vec::new();
        for event in 0..REQUEST_EVENTS {
            let number = request * REQUEST_EVENTS + event;
            let round = begin + number / entities * STEP_MICROS;
            let (entity, observed_at) = match reports {
                Reports::InRounds => (number % entities, round),
                Reports::Anyhow => (next(entities), round + next(60_000) * 1_000),
            };
            let mut attrs = "{".to_owned();
            for attribute in 1..=ATTRIBUTES {
                let cents = next(cents_below);
                let comma = if attribute > 1 { ", " } else { "" };
                attrs.push_str(&format!(
                    "{comma}\"{attribute}\": {}.{:02}",
                    cents / 100,
                    cents % 100
                ));
            }
            attrs.push('}');
            rows.push(ChangedRow::Event(EventRow {
                tenant: TenantId(1),
                entity: EntityId(entity + 1),
                observed_at: Timestamp::from_micros(observed_at)?,
                seq: 0,
                op: Op::Patch,
                batch: batch_id,
                ingested_at: Timestamp::from_micros(begin + request * 40_000)?,
                attrs: attrs.into(),
            }));
        }
        let lsn = u64::try_from(request).context("a small number")? + 10;
        batches.push(transaction(lsn, rows));
    }
    Ok(batches)
}
