//! The lake: what it holds, and the commit that adds to it.
//!
//! A commit is files that nobody knows, and then one statement in PostgreSQL that makes them what the tables are, from exactly
//! what they were, together with the position of the change stream that they reach. Before it there are only files in vain;
//! after it the position says so. Of two writers the later one finds another position and commits nothing.

use std::collections::HashMap;
use std::time::Duration;

use iceberg::spec::{Datum, PrimitiveLiteral, Transform};
use iceberg::transform::create_transform_function;
use sheaf_cdc::change::Progress;
use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::archive::fetch_boundaries;
use sheaf_store::lake::{
    CorrectionsChange, LakeName, LakePosition, LakeStanding, SwappedTable, begin_lake, commit_lake,
    read_lake, read_owner,
};
use sheaf_store::lineage::fetch_current_lineage;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::archived::keep_archived;
use crate::background::in_background;
use crate::catalogue::change_rows;
use crate::corrections::Resolved;
use crate::error::LakeError;
use crate::facts::NamedFacts;
use crate::files::{Files, Stop};
use crate::keyframes::NamedKeyframes;
use crate::names::Names;
use crate::observer::{CommitStep, Observed};
use crate::pending::Pending;
use crate::rest::{Catalog, Mark};
use crate::rewrite::Prepared;
use crate::schema::{LakeTable, TENANT_BUCKETS};
use crate::sink::LakeOptions;
use crate::table::{Advance, CommitContext, TableChange, TableState, Written};
use crate::warehouse::Warehouse;

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
    pub(crate) catalog: Catalog,
    pub(crate) retention: Retention,
    pub(crate) observed: Observed,
}

/// The lake as of one commit.
#[derive(Debug, Clone)]
pub(crate) struct OpenLake {
    pub(crate) position: LakePosition,
    /// In the order of [`LakeTable::ALL`].
    pub(crate) tables: Vec<TableState>,
    /// Those whose description is not there any more, as when the database was restored to a moment longer ago than states are kept:
    /// nothing of them can be gone on with.
    pub(crate) lost: Vec<LakeTable>,
}

/// What a commit adds.
#[derive(Debug)]
pub(crate) enum Addition {
    /// Nothing: what was there before goes, but for the history before an instant, which is nowhere else.
    Begin(Option<Timestamp>),
    /// What was given since the last, and what was made beside.
    Changes(Box<Given>),
}

/// What was given since the last commit, and what was made beside.
#[derive(Debug)]
pub(crate) struct Given {
    /// The first change of it; absent where there is none.
    pub(crate) first: Option<ChangePosition>,
    pub(crate) pending: Pending,
    pub(crate) resolved: Resolved,
    pub(crate) prepared: Prepared,
}

const READING: &str = "reading how far the lake is";

/// What a commit does to each table that it changes.
type Changes = HashMap<LakeTable, TableChange>;

impl OpenLake {
    pub(crate) fn table(&self, wanted: LakeTable) -> Result<&TableState, LakeError> {
        let mut tables = self.tables.iter();
        let found = tables.find(|state| state.table == wanted);
        found.ok_or(LakeError::NotAsked)
    }

    /// What it holds; absent where nothing ever began, or it can only begin anew.
    pub(crate) fn progress(&self) -> Option<Progress> {
        if !self.lost.is_empty() {
            return None;
        }
        self.position.base.map(|base| Progress {
            base,
            snapshot: self.position.snapshot,
            stream: self.position.stream,
        })
    }
}

impl Lake {
    pub(crate) fn new(cdc: &Pool, options: &LakeOptions) -> Result<Lake, LakeError> {
        Ok(Lake {
            cdc: cdc.clone(),
            name: options.name.clone(),
            warehouse: Warehouse::open(&options.location)?,
            catalog: Catalog::new(&options.catalog)?,
            retention: options.retention,
            observed: Observed(options.observer.clone()),
        })
    }

    /// The lake as it was last committed. Tables that are missing are made.
    pub(crate) async fn open(&self) -> Result<OpenLake, LakeError> {
        let now = Timestamp::now();
        let mut owner = read_owner(&self.cdc, &self.name).await?;
        if owner.is_none() {
            let own = Uuid::new_v4().to_string();
            begin_lake(&self.cdc, &self.name, self.warehouse.root(), &own, now).await?;
            // Somebody else may have been faster.
            owner = read_owner(&self.cdc, &self.name).await?;
        }
        let standing = read_lake(&self.cdc, &self.name).await?;
        let gone = || PgError::unreadable(READING, "no position");
        let (owner, standing) = (owner.ok_or_else(gone)?, standing.ok_or_else(gone)?);
        // What is archived is in these alone.
        let has_facts = LakeTable::ALL
            .into_iter()
            .filter(|table| table.has_facts())
            .all(|table| standing.location(table.name()).is_some());
        if !has_facts && let Some(before) = fetch_boundaries(&self.cdc).await?.archived_before {
            return Err(LakeError::Archived { before });
        }
        if standing.tables.is_empty() {
            self.warehouse.claim(&owner).await?;
        }
        let open = match &self.catalog {
            Catalog::Postgres => self.load_named(&standing).await?,
            Catalog::Rest(rest) => {
                let here = self.require_place(&owner).await?;
                return rest.open(self, &standing, here).await;
            }
        };
        self.require_place(&owner).await?;
        if open.tables.iter().all(|state| state.location.is_some()) {
            return Ok(open);
        }
        self.make_tables(open).await
    }

    /// Whether the files are this lake's, and no later timeline has begun one. Gives back the timeline here.
    async fn require_place(&self, owner: &str) -> Result<u32, LakeError> {
        self.warehouse.require_owner(owner).await?;
        let here = fetch_current_lineage(&self.cdc).await?;
        let here = here.ok_or_else(|| PgError::unreadable(READING, "no lineage"))?;
        self.warehouse.require_timeline(here.timeline).await?;
        Ok(here.timeline)
    }

    /// The tables as PostgreSQL names them.
    async fn load_named(&self, standing: &LakeStanding) -> Result<OpenLake, LakeError> {
        let (mut tables, mut lost) = (Vec::new(), Vec::new());
        for table in LakeTable::ALL {
            let new = TableState::new(table, &self.warehouse)?;
            let Some(location) = standing.location(table.name()) else {
                tables.push(new);
                continue;
            };
            let loaded = TableState::load_own(table, &self.warehouse, location).await;
            tables.push(match loaded {
                Err(LakeError::Missing { location: missing }) => {
                    let table = table.name();
                    tracing::warn!(
                        table,
                        missing,
                        "a table of the lake has lost its description"
                    );
                    lost.push(new.table);
                    TableState {
                        location: Some(location.to_owned()),
                        ..new
                    }
                }
                Ok(state) if Mark::of(&state)?.is_some() => return Err(LakeError::OtherCatalog),
                loaded => loaded?,
            });
        }
        Ok(OpenLake {
            position: standing.position,
            tables,
            lost,
        })
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
        let corrections = CorrectionsChange::default();
        let swapped = self.swap(&open, tables, open.position, &corrections, &written);
        let made = swapped.await?;
        Ok(OpenLake {
            lost: open.lost,
            ..made
        })
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
        let mut corrections = CorrectionsChange::default();
        let mut changes = match addition {
            Addition::Begin(archived_before) => {
                self.warehouse
                    .begin_timeline(progress.base.timeline)
                    .await?;
                corrections.clears = true;
                corrections.archived_before = archived_before;
                self.clear(open, archived_before).await?
            }
            Addition::Changes(given) => {
                let Given {
                    first,
                    pending,
                    resolved,
                    prepared,
                } = *given;
                let waiting = resolved.waiting.iter();
                corrections.added = waiting.filter_map(|at| pending.correction(*at)).collect();
                corrections.added.extend_from_slice(&prepared.noted);
                corrections.held_until = first;
                corrections.applied.clone_from(&prepared.applied);
                corrections.repaired.clone_from(&prepared.repaired);
                corrections.removed.clone_from(&prepared.removed);
                let mut changes = self.change(open, pending, resolved, names).await?;
                put_in_place(&mut changes, prepared);
                changes
            }
        };
        let mut context = self.context(&progress);
        let rest = self.catalog.next(open)?;
        if let Some((_, mark)) = &rest {
            context.marked(mark);
        }
        let mut advances = Vec::new();
        for state in &open.tables {
            let change = changes.remove(&state.table).unwrap_or_default();
            let is_first = rest.is_some() && state.table == LakeTable::Facts;
            if change.is_empty() && !is_first {
                continue;
            }
            written.add(&change);
            let (warehouse, observed) = (&self.warehouse, &self.observed);
            let advanced = state.advance(warehouse, change, &context, observed, &mut written);
            advances.push(advanced.await?);
        }
        let position = LakePosition {
            number: open.position.number,
            base: Some(progress.base),
            snapshot: progress.snapshot,
            stream: progress.stream,
        };
        let open = match rest {
            Some((rest, mark)) => {
                let (asked, told) = ((mark, advances), (position, corrections));
                rest.commit(self, open, asked, told, written).await?
            }
            None => {
                let tables = self.describe(open, advances, &mut written).await?;
                let open = self.swap(open, tables, position, &corrections, &written);
                open.await?
            }
        };
        names.forget_many();
        Ok(open)
    }

    /// Writes the descriptions of what the tables came to.
    async fn describe(
        &self,
        open: &OpenLake,
        advances: Vec<Advance>,
        written: &mut Written,
    ) -> Result<Vec<TableState>, LakeError> {
        let mut tables = open.tables.clone();
        for advance in advances {
            let table = advance.table;
            if let Some(state) = tables.iter_mut().find(|state| state.table == table) {
                let (warehouse, observed) = (&self.warehouse, &self.observed);
                let described = state.write_next(warehouse, advance, observed, written);
                *state = described.await?;
            }
        }
        Ok(tables)
    }

    /// Writes what was given since the last commit.
    async fn change(
        &self,
        open: &OpenLake,
        mut pending: Pending,
        resolved: Resolved,
        names: &mut Names,
    ) -> Result<Changes, LakeError> {
        let mut changes = Changes::new();
        for state in &open.tables {
            let rows = pending.take_rows(state.table);
            if rows.is_empty() {
                continue;
            }
            let (table, state) = (state.table, state.clone());
            let files = self.files(Stop::default());
            let changed = in_background(move || change_rows(&files, &state, &rows));
            changes.insert(table, changed.await?);
        }
        let keyframes = std::mem::take(&mut pending.keyframes);
        if !keyframes.is_empty() {
            let entities = names.entities(&keyframes.entities()).await?;
            let named = NamedKeyframes::new(keyframes, entities, names);
            let files = self.files(Stop::default());
            let state = open.table(LakeTable::Keyframes)?.clone();
            let added = in_background(move || files.write_keyframes(&state, &named));
            let change = TableChange {
                added: added.await?,
                ..TableChange::default()
            };
            changes.insert(LakeTable::Keyframes, change);
        }
        if pending.events.is_empty() {
            return Ok(changes);
        }
        let facts = self.name(pending, names).await?;
        let files = self.files(Stop::default());
        let tables = open.tables.clone();
        let added = in_background(move || {
            let waits = |place| {
                let fact = facts.pending.fact(place);
                resolved.waiting.contains(&fact.event)
            };
            let is_hidden = |place: u32| resolved.hidden.contains(&place);
            let mut added = Vec::new();
            for state in tables.iter().filter(|state| state.table.has_facts()) {
                let is_replaced = state.table == LakeTable::FactsCorrected;
                if is_replaced && resolved.hidden.is_empty() {
                    continue;
                }
                let is_wanted = |place| is_hidden(place) == is_replaced && !waits(place);
                added.push((state.table, files.write_facts(state, &facts, is_wanted)?));
            }
            Ok(added)
        });
        for (table, added) in added.await? {
            let change = TableChange {
                added,
                ..TableChange::default()
            };
            changes.insert(table, change);
        }
        Ok(changes)
    }

    /// Nothing of what was there before stays, but for what is archived.
    async fn clear(
        &self,
        open: &OpenLake,
        archived_before: Option<Timestamp>,
    ) -> Result<Changes, LakeError> {
        let Some(before) = archived_before else {
            let change = |state: &TableState| TableChange {
                clears: state.metadata.current_snapshot().is_some()
                    || open.lost.contains(&state.table),
                ..TableChange::default()
            };
            let states = open.tables.iter();
            return Ok(states.map(|state| (state.table, change(state))).collect());
        };
        if !open.lost.is_empty() {
            return Err(LakeError::Archived { before });
        }
        let (tables, files) = (open.tables.clone(), self.files(Stop::default()));
        let cleared = in_background(move || {
            let tables = tables.iter();
            let changes = tables.map(|state| {
                let change = keep_archived(&files, state, before)?;
                Ok((state.table, change))
            });
            changes.collect::<Result<Changes, LakeError>>()
        });
        cleared.await
    }

    /// Finds what the numbers in pending events mean.
    pub(crate) async fn name(
        &self,
        pending: Pending,
        names: &mut Names,
    ) -> Result<NamedFacts, LakeError> {
        let wanted = pending.events.iter();
        let wanted: Vec<_> = wanted.map(|event| (event.tenant, event.entity)).collect();
        let entities = names.entities(&wanted).await?;
        let unnamed = entities.iter().filter(|name| name.is_none()).count();
        if unnamed > 0 {
            tracing::warn!(unnamed, "events of entities that have no name were kept");
        }
        Ok(NamedFacts::new(pending, entities, names))
    }

    /// The files, for work on a thread that may be kept busy.
    pub(crate) fn files(&self, stop: Stop) -> Files {
        Files {
            warehouse: self.warehouse.clone(),
            observed: self.observed.clone(),
            runtime: Handle::current(),
            stop,
        }
    }

    pub(crate) fn context(&self, progress: &Progress) -> CommitContext {
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
        corrections: &CorrectionsChange,
        written: &Written,
    ) -> Result<OpenLake, LakeError> {
        self.warehouse.settle(written.0.clone()).await?;
        self.observed.passed(CommitStep::Settled);
        let from = |table: LakeTable| open.table(table).ok()?.location.clone();
        self.name_tables(from, tables, position, corrections).await
    }

    /// The transaction that makes these the tables, from exactly those that were named before, with the position.
    pub(crate) async fn name_tables(
        &self,
        from: impl Fn(LakeTable) -> Option<String>,
        tables: Vec<TableState>,
        position: LakePosition,
        corrections: &CorrectionsChange,
    ) -> Result<OpenLake, LakeError> {
        let states = tables.iter();
        let swapped = states.filter(|state| state.location != from(state.table));
        let swapped: Vec<SwappedTable> = swapped
            .filter_map(|state| {
                Some(SwappedTable {
                    name: state.table.name().to_owned(),
                    from: from(state.table),
                    to: state.location.clone()?,
                })
            })
            .collect();
        let now = Timestamp::now();
        let (cdc, name) = (&self.cdc, &self.name);
        let number = commit_lake(cdc, name, &position, &swapped, corrections, now).await?;
        self.observed.passed(CommitStep::Committed);
        Ok(OpenLake {
            position: LakePosition { number, ..position },
            tables,
            lost: Vec::new(),
        })
    }
}

/// Adds what was made beside the stream. Where the commit takes files away by itself, they may be those that were joined.
fn put_in_place(changes: &mut Changes, prepared: Prepared) {
    for (table, change) in prepared.changes {
        let own = changes.entry(table).or_default();
        if own.removed.is_empty() {
            own.added.extend(change.added);
            own.removed = change.removed;
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
