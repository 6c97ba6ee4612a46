//! A database, a folder, and a lake in it that is read the way others read it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use futures::TryStreamExt;
use iceberg::TableIdent;
use iceberg::io::{FileIOBuilder, LocalFsStorageFactory};
use iceberg::scan::TableScan;
use iceberg::table::StaticTable;
use sheaf_cdc::change::{Batch, Catalogue, CatalogueRow, ChangedRow, EventRow, Progress};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::{CommitObserver, LakeOptions, LakeSink};
use sheaf_model::{BatchId, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::lake::{LakeStanding, read_lake};
use sheaf_testkit::{ScratchDir, TestDatabase};
use uuid::Uuid;

pub(crate) use sheaf_cdc::conformance::{position, transaction};

const HOUR: Duration = Duration::from_secs(3600);

/// A row as a reader finds it: column to text, without those that are null.
pub(crate) type Row = BTreeMap<String, String>;

pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) dir: ScratchDir,
}

impl World {
    /// With tenant 1, which has attributes of every type, numbered from 1.
    pub(crate) async fn create() -> Result<World> {
        let world = World {
            database: TestDatabase::create().await?,
            dir: ScratchDir::new("lake")?,
        };
        let kinds = ["int", "float", "decimal", "text", "bool", "time", "json"];
        let mut sql = "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (1, 'acme', now());"
            .to_owned();
        for (place, kind) in (1..).zip(kinds) {
            sql.push_str(&format!(
                "INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
                 VALUES (1, {place}, 'an {kind}', '{kind}', 'declared', 'cold', now());"
            ));
        }
        world
            .database
            .superuser()
            .await?
            .batch_execute(&sql)
            .await?;
        Ok(world)
    }

    pub(crate) fn cdc(&self) -> Pool {
        Pool::new(&self.database.config("sheaf_cdc"), 4, &Tls::none())
    }

    pub(crate) fn folder(&self, catalog: &str) -> PathBuf {
        self.dir.path().join(catalog)
    }

    /// A lake of this name, in a folder of its own.
    pub(crate) fn options(&self, catalog: &str) -> LakeOptions {
        options(catalog, self.folder(catalog))
    }

    pub(crate) fn sink(&self, catalog: &str) -> Result<LakeSink> {
        Ok(LakeSink::new(&self.cdc(), self.options(catalog))?)
    }

    pub(crate) fn observed(
        &self,
        catalog: &str,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<LakeSink> {
        let options = LakeOptions {
            observer: Some(observer),
            ..self.options(catalog)
        };
        Ok(LakeSink::new(&self.cdc(), options)?)
    }

    pub(crate) async fn standing(&self, catalog: &str) -> Result<LakeStanding> {
        let name = self.options(catalog).name;
        let standing = read_lake(&self.cdc(), &name).await?;
        standing.context("the lake has begun")
    }

    /// Where the newest description of a table is.
    pub(crate) async fn location(&self, catalog: &str, table: &str) -> Result<String> {
        let standing = self.standing(catalog).await?;
        let found = standing.location(table);
        Ok(found.context("the table is there")?.to_owned())
    }

    /// The rows of a table, in the order of its files.
    pub(crate) async fn rows(&self, catalog: &str, table: &str) -> Result<Vec<Row>> {
        read(&self.location(catalog, table).await?, table).await
    }

    /// What tells the facts apart, in order.
    pub(crate) async fn facts(&self, catalog: &str) -> Result<Vec<String>> {
        self.facts_in(catalog, "facts").await
    }

    /// The facts that corrections have replaced.
    pub(crate) async fn replaced(&self, catalog: &str) -> Result<Vec<String>> {
        self.facts_in(catalog, "facts_corrected").await
    }

    /// How many corrections wait.
    pub(crate) async fn waiting(&self, catalog: &str) -> Result<usize> {
        let client = self.database.superuser().await?;
        let sql = "SELECT count(*) FROM sheaf.lake_corrections WHERE catalog_name = $1";
        let count: i64 = client.query_one(sql, &[&catalog]).await?.get(0);
        Ok(usize::try_from(count)?)
    }

    /// In no state of the facts that is kept has an attribute of an entity two values at one instant.
    pub(crate) async fn require_one_value(&self, catalog: &str) -> Result<()> {
        let location = self.location(catalog, "facts").await?;
        let table = open(&location, "facts").await?;
        for snapshot in table.metadata().snapshots() {
            let scan = table.scan().snapshot_id(snapshot.snapshot_id()).build()?;
            let mut seen = BTreeSet::new();
            for row in rows_of(scan).await? {
                if !row.contains_key("attribute_id") {
                    continue;
                }
                let key = ["tenant_id", "entity_id", "attribute_id", "observed_at"];
                let fact = key.map(|name| row[name].clone());
                ensure!(seen.insert(fact), "{catalog}: another value of {row:?}");
            }
        }
        Ok(())
    }

    /// How many files a table has.
    pub(crate) async fn files(&self, catalog: &str, table: &str) -> Result<usize> {
        files_of(&self.location(catalog, table).await?, table).await
    }

    async fn facts_in(&self, catalog: &str, table: &str) -> Result<Vec<String>> {
        let rows = self.rows(catalog, table).await?;
        let mut facts: Vec<String> = rows.iter().map(fact_text).collect();
        facts.sort();
        Ok(facts)
    }
}

pub(crate) fn options(catalog: &str, folder: PathBuf) -> LakeOptions {
    let mut options = LakeOptions {
        // Commits, and whatever else is done, only where a test asks for it.
        pending_age_max: HOUR,
        corrections_age_max: HOUR,
        join_commits: u32::MAX,
        sweep_every: HOUR,
        ..LakeOptions::in_folder(folder)
    };
    options.name.catalog = catalog.to_owned();
    options
}

pub(crate) fn fact_text(row: &Row) -> String {
    let of = |name: &str| row.get(name).map_or("-", String::as_str);
    let names = [
        "tenant_id",
        "entity_id",
        "attribute_id",
        "observed_at",
        "seq",
        "op",
        "removed",
    ];
    let mut text = names.map(of).join(" ");
    for (name, value) in row {
        if name.starts_with("value_") {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}

async fn open(location: &str, table: &str) -> Result<StaticTable> {
    let io = FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build();
    let ident = TableIdent::from_strs(["lake", table])?;
    Ok(StaticTable::from_metadata_file(location, ident, io).await?)
}

async fn files_of(location: &str, table: &str) -> Result<usize> {
    let scan = open(location, table).await?.scan().build()?;
    let files: Vec<_> = scan.plan_files().await?.try_collect().await?;
    Ok(files.len())
}

/// Reads a table with the reader of the Iceberg crate, which shares nothing with how we write.
pub(crate) async fn read(location: &str, table: &str) -> Result<Vec<Row>> {
    rows_of(open(location, table).await?.scan().build()?).await
}

async fn rows_of(scan: TableScan) -> Result<Vec<Row>> {
    let batches = scan.to_arrow().await?;
    let batches: Vec<_> = batches.try_collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for place in 0..batch.num_rows() {
            let mut row = Row::new();
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if !column.is_null(place) {
                    row.insert(field.name().clone(), text_of(column, place)?);
                }
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

fn text_of(column: &ArrayRef, place: usize) -> Result<String> {
    Ok(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(place).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(place).to_string(),
        DataType::Float64 => column
            .as_primitive::<Float64Type>()
            .value(place)
            .to_string(),
        DataType::Boolean => column.as_boolean().value(place).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(place).to_owned(),
        DataType::Timestamp(..) => column
            .as_primitive::<TimestampMicrosecondType>()
            .value(place)
            .to_string(),
        DataType::Decimal128(..) => column
            .as_primitive::<Decimal128Type>()
            .value(place)
            .to_string(),
        DataType::FixedSizeBinary(16) => {
            Uuid::from_slice(column.as_fixed_size_binary().value(place))?.to_string()
        }
        other => bail!("a column of {other}"),
    })
}

/// An event of tenant 1.
pub(crate) fn event(entity: i64, observed_at: &str, seq: i16, op: Op, attrs: &str) -> ChangedRow {
    let observed_at = Timestamp::parse(observed_at).expect("a time").0;
    ChangedRow::Event(EventRow {
        tenant: TenantId(1),
        entity: EntityId(entity),
        observed_at,
        seq,
        op,
        batch: BatchId(Uuid::from_u128(9)),
        ingested_at: Timestamp::parse("2024-05-01T00:00:00Z").expect("a time").0,
        attrs: attrs.into(),
    })
}

/// A row of a catalogue.
pub(crate) fn catalogue_row(
    catalogue: Catalogue,
    is_new: bool,
    columns: &[(&str, ColumnValue)],
) -> ChangedRow {
    ChangedRow::Catalogue(CatalogueRow {
        catalogue,
        is_new,
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        values: columns.iter().map(|(_, value)| value.clone()).collect(),
    })
}

/// The row of an entity that is new.
pub(crate) fn entity(number: i64) -> ChangedRow {
    let text = |text: String| ColumnValue::Text(text);
    catalogue_row(
        Catalogue::Entities,
        true,
        &[
            ("tenant_id", ColumnValue::Int(1)),
            ("entity_id", ColumnValue::Int(number)),
            ("entity_type", text("thing".to_owned())),
            ("external_id", text(format!("id {number}"))),
            ("created_at", ColumnValue::Time(Timestamp::MIN)),
        ],
    )
}

/// The row of an attribute, which may have been there.
pub(crate) fn attribute(number: i64, is_new: bool, unit: &str, schema: ColumnValue) -> ChangedRow {
    let text = |text: &str| ColumnValue::Text(text.to_owned());
    catalogue_row(
        Catalogue::Attributes,
        is_new,
        &[
            ("tenant_id", ColumnValue::Int(1)),
            ("attribute_id", ColumnValue::Int(number)),
            ("name", text(&format!("number {number}"))),
            ("type", text("int")),
            ("unit", text(unit)),
            ("schema", schema),
        ],
    )
}

/// Feeds a sink, each transaction a commit and what follows from it another, as whoever feeds one does.
pub(crate) async fn feed(
    sink: &mut LakeSink,
    batches: impl IntoIterator<Item = Batch>,
) -> Result<Progress> {
    if sink.held().await? == Held::Nothing {
        sink.begin(position(10, 0)).await?;
    }
    sink.follow();
    for batch in batches {
        sink.apply(&batch).await?;
        sink.flush().await?;
        sink.tidy().await?;
    }
    Ok(sink.flush().await?)
}
