//! The lake: what it holds, and the commit that adds to it.
//!
//! A commit is files that nobody knows, and then one statement in PostgreSQL that makes them what the tables are, from exactly
//! what they were, together with the position of the change stream that they reach. Before it there are only files in vain;
//! after it the position says so. Of two writers the later one finds another position and commits nothing.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use iceberg::spec::{DataFile, Datum, Literal, PrimitiveLiteral, Struct, Transform};
use iceberg::transform::create_transform_function;
use sheaf_cdc::change::Progress;
use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::lake::{LakeName, LakePosition, SwappedTable, begin_lake, commit_lake, read_lake};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::background::in_background;
use crate::data_file::{decode, encode};
use crate::error::LakeError;
use crate::facts::{NamedFacts, Part, divide};
use crate::names::Names;
use crate::observer::{CommitStep, Observed};
use crate::pending::Pending;
use crate::rows::{StoredRow, merge, read_rows, write_rows};
use crate::schema::{LakeTable, TENANT_BUCKETS};
use crate::table::{CommitContext, TableChange, TableState, Written};
use crate::warehouse::Warehouse;

/// Rows that are made into columns at once.
const BATCH_ROWS: usize = 1 << 15;
/// Rows of a data file. A commit rarely has so many of one day and tenant.
const FILE_ROWS_MAX: usize = 1 << 22;

/// How the lake keeps what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long the states of tables before the newest can be read at least. A question that takes longer may lose its files.
    pub snapshots_age: Duration,
    /// How many of them are kept however old they are.
    pub snapshots_min: usize,
    /// How many of them are kept however young they are: a table's description names each, and is written with each commit.
    pub snapshots_max: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            snapshots_age: Duration::from_secs(3600),
            snapshots_min: 10,
            snapshots_max: 300,
        }
    }
}

/// Everything that is needed to write to the lake.
#[derive(Debug, Clone)]
pub(crate) struct Lake {
    pub(crate) cdc: Pool,
    pub(crate) name: LakeName,
    pub(crate) warehouse: Warehouse,
    pub(crate) retention: Retention,
    pub(crate) observed: Observed,
}

/// The lake as of one commit.
#[derive(Debug, Clone)]
pub(crate) struct OpenLake {
    pub(crate) position: LakePosition,
    /// In the order of [`LakeTable::ALL`].
    pub(crate) tables: Vec<TableState>,
}

impl OpenLake {
    /// What it holds; absent where nothing ever began.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.position.base.map(|base| Progress {
            base,
            snapshot: self.position.snapshot,
            stream: self.position.stream,
        })
    }
}

/// What a commit adds.
#[derive(Debug)]
pub(crate) enum Addition {
    /// Nothing: what was there before goes.
    Begin,
    /// What was given since the last.
    Changes(Pending),
}

impl Lake {
    /// The lake as it was last committed. Tables that are missing are made.
    pub(crate) async fn open(&self) -> Result<OpenLake, LakeError> {
        let now = Timestamp::now();
        let mut standing = read_lake(&self.cdc, &self.name).await?;
        if standing.is_none() {
            begin_lake(&self.cdc, &self.name, self.warehouse.root(), now).await?;
            standing = read_lake(&self.cdc, &self.name).await?;
        }
        let gone = || PgError::unreadable("reading how far the lake is", "no position");
        let standing = standing.ok_or_else(gone)?;
        let mut tables = Vec::new();
        for table in LakeTable::ALL {
            let known = standing
                .tables
                .iter()
                .find(|(name, _)| name == table.name());
            tables.push(match known {
                Some((_, location)) => TableState::load(table, &self.warehouse, location).await?,
                None => TableState::new(table, &self.warehouse)?,
            });
        }
        let open = OpenLake {
            position: standing.position,
            tables,
        };
        if open.tables.iter().all(|state| state.location.is_some()) {
            return Ok(open);
        }
        self.make_tables(open).await
    }

    async fn make_tables(&self, open: OpenLake) -> Result<OpenLake, LakeError> {
        let mut written = Written::default();
        let mut tables = Vec::new();
        for state in &open.tables {
            tables.push(match state.location {
                Some(_) => state.clone(),
                None => {
                    state
                        .write_first(&self.warehouse, &self.observed, &mut written)
                        .await?
                }
            });
        }
        self.swap(&open, tables, open.position, &written).await
    }

    /// Commits, from exactly this state. Where it fails, what the lake holds has to be read again.
    pub(crate) async fn commit(
        &self,
        open: &OpenLake,
        addition: Addition,
        progress: Progress,
        names: &mut Names,
    ) -> Result<OpenLake, LakeError> {
        let mut written = Written::default();
        let mut changes: HashMap<LakeTable, TableChange> = HashMap::new();
        match addition {
            Addition::Begin => {
                for state in &open.tables {
                    let clears = state.metadata.current_snapshot().is_some();
                    let change = TableChange {
                        clears,
                        ..TableChange::default()
                    };
                    changes.insert(state.table, change);
                }
            }
            Addition::Changes(pending) => {
                for state in &open.tables {
                    if state.table != LakeTable::Facts {
                        let rows = pending.rows(state.table);
                        let change = self.change_rows(state, rows, &mut written).await?;
                        changes.insert(state.table, change);
                    }
                }
                let wanted = pending.events.iter();
                let wanted: Vec<_> = wanted.map(|event| (event.tenant, event.entity)).collect();
                let entities = names.entities(&wanted).await?;
                let unnamed = entities.iter().filter(|name| name.is_none()).count();
                if unnamed > 0 {
                    tracing::warn!(unnamed, "events of entities that have no name were kept");
                }
                let facts = NamedFacts::new(pending, entities, names);
                if let Some(state) = open.tables.iter().find(|s| s.table == LakeTable::Facts) {
                    let added = self.write_facts(state, facts, &mut written).await?;
                    let change = TableChange {
                        added,
                        ..TableChange::default()
                    };
                    changes.insert(LakeTable::Facts, change);
                }
            }
        }
        let context = self.context(&progress);
        let mut tables = Vec::new();
        for state in &open.tables {
            let change = changes.remove(&state.table).unwrap_or_default();
            if change.is_empty() {
                tables.push(state.clone());
                continue;
            }
            let advanced = state.advance(
                &self.warehouse,
                change,
                &context,
                &self.observed,
                &mut written,
            );
            tables.push(advanced.await?);
        }
        let position = LakePosition {
            number: open.position.number,
            base: Some(progress.base),
            snapshot: progress.snapshot,
            stream: progress.stream,
        };
        let open = self.swap(open, tables, position, &written).await?;
        names.forget_many();
        Ok(open)
    }

    fn context(&self, progress: &Progress) -> CommitContext {
        let age = self.retention.snapshots_age.as_millis();
        let mut properties = HashMap::from([
            ("sheaf.base".to_owned(), progress.base.to_string()),
            ("sheaf.snapshot".to_owned(), progress.snapshot.to_string()),
        ]);
        if let Some(stream) = progress.stream {
            properties.insert("sheaf.position".to_owned(), stream.to_string());
        }
        CommitContext {
            now_ms: Timestamp::now().as_micros() / 1000,
            snapshots_age_ms: i64::try_from(age).unwrap_or(i64::MAX / 2),
            snapshots_kept: self.retention.snapshots_min..=self.retention.snapshots_max,
            properties,
        }
    }

    /// The one statement that makes written files what the tables are.
    async fn swap(
        &self,
        open: &OpenLake,
        tables: Vec<TableState>,
        position: LakePosition,
        written: &Written,
    ) -> Result<OpenLake, LakeError> {
        self.warehouse.settle(written.0.clone()).await?;
        self.observed.passed(CommitStep::Settled);
        let swapped = open.tables.iter().zip(&tables);
        let swapped = swapped.filter(|(before, after)| before.location != after.location);
        let swapped: Vec<SwappedTable> = swapped
            .filter_map(|(before, after)| {
                Some(SwappedTable {
                    name: after.table.name().to_owned(),
                    from: before.location.clone(),
                    to: after.location.clone()?,
                })
            })
            .collect();
        let now = Timestamp::now();
        let number = commit_lake(&self.cdc, &self.name, &position, &swapped, now).await?;
        self.observed.passed(CommitStep::Committed);
        Ok(OpenLake {
            position: LakePosition { number, ..position },
            tables,
        })
    }

    /// Writes the rows of a catalogue: new names of entities beside those that are there; of all else the files that may
    /// have a row of the same key are replaced.
    async fn change_rows(
        &self,
        state: &TableState,
        rows: &[StoredRow],
        written: &mut Written,
    ) -> Result<TableChange, LakeError> {
        let mut change = TableChange::default();
        if rows.is_empty() {
            return Ok(change);
        }
        let table = state.table;
        let appends = table == LakeTable::Entities && rows.iter().all(|row| row.is_new);
        let mut before = Vec::new();
        if !appends {
            for file in state.files(&self.warehouse).await? {
                if may_hold(table, &file, rows) {
                    before.extend(self.read_file(table, &file).await?);
                    change.removed.insert(file.file_path().to_owned());
                }
            }
        }
        let merged = merge(table, before.into_iter(), rows)
            .map_err(|(position, source)| LakeError::Row { position, source })?;
        let mut divided: HashMap<Option<i32>, Vec<&StoredRow>> = HashMap::new();
        let buckets = TenantBuckets::new(table)?;
        for row in merged.values() {
            let bucket = match table {
                LakeTable::Entities => Some(buckets.of(row.key.0)?),
                LakeTable::Tenants | LakeTable::Attributes | LakeTable::Facts => None,
            };
            divided.entry(bucket).or_default().push(row);
        }
        let schema = table.arrow_schema()?;
        for (bucket, rows) in divided {
            let batches = rows.chunks(BATCH_ROWS);
            let batches = batches.map(|rows| write_rows(table, &schema, rows));
            let encoded = encode(table, &schema, batches);
            let name = match bucket {
                Some(bucket) => format!("b{bucket:02}-{}", Uuid::new_v4()),
                None => Uuid::new_v4().to_string(),
            };
            let location = state.data_location(&name);
            let encoded = encoded.map_err(LakeError::file("encoding file", &location))?;
            let partition = bucket.map(|bucket| Some(Literal::int(bucket)));
            let file = encoded.describe(
                table,
                location.clone(),
                Struct::from_iter(partition),
                state.metadata.default_partition_spec_id(),
                order_of(state),
            )?;
            self.warehouse
                .write(&location, Bytes::from(encoded.bytes))
                .await?;
            written.0.push(location);
            self.observed.passed(CommitStep::DataFile);
            change.added.push(file);
        }
        Ok(change)
    }

    async fn read_file(
        &self,
        table: LakeTable,
        file: &DataFile,
    ) -> Result<Vec<StoredRow>, LakeError> {
        let location = file.file_path();
        let bytes = self.warehouse.read(location).await?;
        let batches = decode(bytes).map_err(LakeError::file("decoding file", location))?;
        let mut rows = Vec::new();
        for batch in &batches {
            let read = read_rows(table, batch).ok_or("a column is missing");
            rows.extend(read.map_err(LakeError::file("decoding file", location))?);
        }
        Ok(rows)
    }

    /// Writes the facts, a file for each day and bucket of tenants. On a thread that may be kept busy.
    async fn write_facts(
        &self,
        state: &TableState,
        facts: NamedFacts,
        written: &mut Written,
    ) -> Result<Vec<DataFile>, LakeError> {
        if facts.pending.facts.is_empty() {
            return Ok(Vec::new());
        }
        let (lake, state) = (self.clone(), state.clone());
        let runtime = Handle::current();
        let files = in_background(move || lake.encode_facts(&state, &facts, &runtime)).await?;
        written
            .0
            .extend(files.iter().map(|file| file.file_path().to_owned()));
        Ok(files)
    }

    fn encode_facts(
        &self,
        state: &TableState,
        facts: &NamedFacts,
        runtime: &Handle,
    ) -> Result<Vec<DataFile>, LakeError> {
        let table = LakeTable::Facts;
        let schema = table.arrow_schema()?;
        let buckets = TenantBuckets::new(table)?;
        let divided = divide(&facts.pending, |tenant| buckets.of(tenant))?;
        let mut files = Vec::new();
        for (part, places) in divided {
            for places in places.chunks(FILE_ROWS_MAX) {
                let location = state.data_location(&file_name(part));
                let batches = places.chunks(BATCH_ROWS);
                let batches = batches.map(|places| facts.columns(&schema, places));
                let encoded = encode(table, &schema, batches)
                    .map_err(LakeError::file("encoding file", &location))?;
                let partition = [part.day, part.bucket].map(|n| Some(Literal::int(n)));
                files.push(encoded.describe(
                    table,
                    location.clone(),
                    Struct::from_iter(partition),
                    state.metadata.default_partition_spec_id(),
                    order_of(state),
                )?);
                let bytes = Bytes::from(encoded.bytes);
                runtime.block_on(self.warehouse.write(&location, bytes))?;
                self.observed.passed(CommitStep::DataFile);
            }
        }
        Ok(files)
    }
}

/// For people who look into the folder: the day, the bucket of tenants, and what nobody else has.
fn file_name(part: Part) -> String {
    let day = i64::from(part.day) * 86_400_000_000;
    let day = Timestamp::from_micros(day).map(|time| time.to_string());
    let day = day.unwrap_or_else(|_| part.day.to_string());
    let day = day.get(..10).unwrap_or("day");
    format!("{day}-b{:02}-{}", part.bucket, Uuid::new_v4())
}

fn order_of(state: &TableState) -> i32 {
    i32::try_from(state.metadata.default_sort_order_id()).unwrap_or_default()
}

/// Whether a file may hold a row of one of these keys, by its bounds.
fn may_hold(table: LakeTable, file: &DataFile, rows: &[StoredRow]) -> bool {
    let Some(number) = table.order().last().and_then(|name| table.number(name)) else {
        return true;
    };
    let long = |bound: Option<&Datum>| match bound.map(Datum::literal) {
        Some(PrimitiveLiteral::Long(number)) => Some(*number),
        _ => None,
    };
    let lower = long(file.lower_bounds().get(&number)).unwrap_or(i64::MIN);
    let upper = long(file.upper_bounds().get(&number)).unwrap_or(i64::MAX);
    match table {
        // Few rows: one file of them is easier to read than many.
        LakeTable::Tenants | LakeTable::Attributes => true,
        LakeTable::Entities | LakeTable::Facts => {
            let mut numbers = rows.iter().map(|row| row.key.1);
            numbers.any(|number| (lower..=upper).contains(&number))
        }
    }
}

/// Which bucket a tenant is in, as readers work it out too.
pub(crate) struct TenantBuckets(iceberg::transform::BoxedTransformFunction, &'static str);

impl TenantBuckets {
    pub(crate) fn new(table: LakeTable) -> Result<TenantBuckets, LakeError> {
        let transform = create_transform_function(&Transform::Bucket(TENANT_BUCKETS));
        let transform = transform.map_err(LakeError::table("dividing the rows", table.name()))?;
        Ok(TenantBuckets(transform, table.name()))
    }

    pub(crate) fn of(&self, tenant: i64) -> Result<i32, LakeError> {
        let bucket = self.0.transform_literal(&Datum::long(tenant));
        let bucket = bucket.map_err(LakeError::table("dividing the rows", self.1))?;
        match bucket.as_ref().map(Datum::literal) {
            Some(PrimitiveLiteral::Int(bucket)) => Ok(*bucket),
            _ => Ok(0),
        }
    }
}
