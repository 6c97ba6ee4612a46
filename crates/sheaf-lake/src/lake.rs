//! The lake: what it holds, and the tables that it is.

mod commit;

use std::time::Duration;

use sheaf_cdc::change::Progress;
use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::archive::fetch_boundaries;
use sheaf_store::lake::{
    CorrectionsChange, LakeName, LakePosition, LakeStanding, begin_lake, read_lake, read_owner,
};
use sheaf_store::lineage::fetch_current_lineage;
use tokio::runtime::Handle;
use uuid::Uuid;

pub(crate) use self::commit::{Addition, Given};
use crate::error::LakeError;
use crate::facts::NamedFacts;
use crate::files::{Files, Stop};
use crate::names::Names;
use crate::observer::Observed;
use crate::pending::Pending;
use crate::rest::{Catalog, Mark};
use crate::schema::LakeTable;
use crate::sink::LakeOptions;
use crate::table::{TableState, Written};
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

const READING: &str = "reading how far the lake is";

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
}
