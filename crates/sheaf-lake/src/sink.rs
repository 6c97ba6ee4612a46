//! The lake as a sink of the change stream.
//!
//! What it is given waits until there is enough for a file or the oldest has waited long enough; then it is committed. What
//! waits when the process ends is sent again: the position says what is missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sheaf_cdc::change::{Batch, Catalogue, CatalogueRow, Change, ChangedRow, Progress};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::sink::{Held, Sink, SinkError, SinkFuture};
use sheaf_model::{AttributeId, AttributeType, ChangePosition, EntityId, TenantId};
use sheaf_pg::Pool;
use sheaf_store::lake::LakeName;
use tokio::time::Instant;

use crate::error::LakeError;
use crate::fact::{EventFault, attributes_of};
use crate::lake::{Addition, Lake, OpenLake, Retention};
use crate::names::Names;
use crate::observer::{CommitObserver, Observed};
use crate::pending::Pending;
use crate::rows::StoredRow;
use crate::schema::LakeTable;
use crate::warehouse::{Location, Warehouse};

/// How the lake is written.
#[derive(Clone)]
pub struct LakeOptions {
    /// The name of the sink.
    pub sink: String,
    /// What the lake is called in SQL catalogues.
    pub name: LakeName,
    /// Where its files are.
    pub location: Location,
    /// What may wait, in memory. About twenty bytes of it become one in a file: less makes more and smaller files.
    pub pending_bytes_max: usize,
    /// How long something may wait.
    pub pending_age_max: Duration,
    /// How the states before the newest are kept.
    pub retention: Retention,
    /// Who is told of each step of a commit.
    pub observer: Option<Arc<dyn CommitObserver>>,
}

impl std::fmt::Debug for LakeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LakeOptions({} at {:?})", self.sink, self.location)
    }
}

impl LakeOptions {
    /// A lake in a folder.
    pub fn in_folder(folder: PathBuf) -> LakeOptions {
        LakeOptions {
            sink: "lake".to_owned(),
            name: LakeName {
                catalog: "sheaf".to_owned(),
                namespace: "lake".to_owned(),
            },
            location: Location::Folder(folder),
            // A million facts: seconds of a fast stream. What a commit needs beside it is about twice as much.
            pending_bytes_max: 64 << 20,
            // Questions to the lake are answered as of so long ago.
            pending_age_max: Duration::from_secs(5),
            retention: Retention::default(),
            observer: None,
        }
    }
}

/// The sink.
#[derive(Debug)]
pub struct LakeSink {
    lake: Lake,
    sink: String,
    pending_bytes_max: usize,
    pending_age_max: Duration,
    names: Names,
    /// Absent until it was asked what it holds, and after an error.
    open: Option<Filling>,
}

/// The lake as of the last commit, and what is not in it yet.
#[derive(Debug)]
struct Filling {
    lake: OpenLake,
    held: Progress,
    given: Progress,
    pending: Pending,
    oldest: Option<Instant>,
}

impl LakeSink {
    /// A sink over the lake that these options describe. Nothing is read or written yet.
    ///
    /// # Errors
    /// The place cannot hold one.
    pub fn new(cdc: &Pool, options: LakeOptions) -> Result<LakeSink, LakeError> {
        Ok(LakeSink {
            lake: Lake {
                cdc: cdc.clone(),
                name: options.name,
                warehouse: Warehouse::open(&options.location)?,
                retention: options.retention,
                observed: Observed(options.observer),
            },
            sink: options.sink,
            pending_bytes_max: options.pending_bytes_max,
            pending_age_max: options.pending_age_max,
            names: Names::new(cdc.clone()),
            open: None,
        })
    }

    fn fault(&self, step: &'static str) -> impl Fn(LakeError) -> SinkError + use<> {
        let sink = self.sink.clone();
        move |source| SinkError {
            sink: sink.clone(),
            step,
            source: Box::new(source),
        }
    }

    async fn look(&mut self) -> Result<Held, LakeError> {
        self.open = None;
        let lake = self.lake.open().await?;
        let Some(held) = lake.progress() else {
            // Nobody said yet which snapshot comes; `begin` does.
            return Ok(Held::Nothing);
        };
        self.open = Some(Filling {
            lake,
            held,
            given: held,
            pending: Pending::default(),
            oldest: None,
        });
        Ok(Held::Until(held))
    }

    async fn begin_anew(&mut self, base: ChangePosition) -> Result<(), LakeError> {
        let lake = match self.open.take() {
            Some(filling) => filling.lake,
            None => self.lake.open().await?,
        };
        let begun = Progress::begun(base);
        let addition = Addition::Begin;
        let lake = self.lake.commit(&lake, addition, begun, &mut self.names);
        self.open = Some(Filling {
            lake: lake.await?,
            held: begun,
            given: begun,
            pending: Pending::default(),
            oldest: None,
        });
        Ok(())
    }

    async fn take(&mut self, batch: &Batch) -> Result<Progress, LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        for change in &batch.changes {
            if filling.given.holds(batch.origin, change.position) {
                continue;
            }
            self.put(&mut filling.pending, change).await?;
            filling.given.advance(batch.origin, change.position);
            // Within a batch too: it may be a large one.
            if filling.pending.bytes() >= self.pending_bytes_max {
                filling = self.commit(filling).await?;
            }
        }
        if !filling.pending.is_empty() {
            let oldest = *filling.oldest.get_or_insert_with(Instant::now);
            if oldest.elapsed() >= self.pending_age_max {
                filling = self.commit(filling).await?;
            }
        }
        let held = filling.held;
        self.open = Some(filling);
        Ok(held)
    }

    async fn settle(&mut self) -> Result<Progress, LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        if filling.given != filling.held {
            filling = self.commit(filling).await?;
        }
        let held = filling.held;
        self.open = Some(filling);
        Ok(held)
    }

    async fn commit(&mut self, filling: Filling) -> Result<Filling, LakeError> {
        let Filling {
            lake,
            given,
            pending,
            ..
        } = filling;
        let addition = Addition::Changes(pending);
        let lake = self.lake.commit(&lake, addition, given, &mut self.names);
        Ok(Filling {
            lake: lake.await?,
            held: given,
            given,
            pending: Pending::default(),
            oldest: None,
        })
    }

    async fn put(&mut self, pending: &mut Pending, change: &Change) -> Result<(), LakeError> {
        let position = change.position;
        match &change.row {
            ChangedRow::Event(event) => {
                let event_fault = |source| LakeError::Event { position, source };
                match pending.push_event(event, &self.names) {
                    // It was named before this process began.
                    Err(EventFault::UnknownAttribute(_)) => {
                        let ids = attributes_of(&event.attrs).map_err(event_fault)?;
                        self.names.find_attributes(event.tenant, &ids).await?;
                        let again = pending.push_event(event, &self.names);
                        again.map_err(event_fault)
                    }
                    pushed => pushed.map_err(event_fault),
                }
            }
            ChangedRow::Catalogue(row) => {
                self.learn(row);
                let table = match row.catalogue {
                    Catalogue::Tenants => LakeTable::Tenants,
                    Catalogue::Attributes => LakeTable::Attributes,
                    Catalogue::Entities => LakeTable::Entities,
                };
                let stored = StoredRow::read(table, row, position);
                let stored = stored.map_err(|source| LakeError::Row { position, source })?;
                pending.push_row(row.catalogue, stored);
                Ok(())
            }
        }
    }

    /// Remembers what the numbers of a catalogue's row mean. What cannot be read is asked for when it is needed.
    fn learn(&mut self, row: &CatalogueRow) {
        let number = |name| match row.get(name) {
            Some(ColumnValue::Int(number)) => Some(*number),
            _ => None,
        };
        let text = |name| match row.get(name) {
            Some(ColumnValue::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        match row.catalogue {
            Catalogue::Tenants => {}
            Catalogue::Attributes => {
                let kind = text("type").and_then(AttributeType::parse);
                if let (Some(id), Some(name), Some(kind)) =
                    (number("attribute_id"), text("name"), kind)
                {
                    self.names.learn_attribute(AttributeId(id), name, kind);
                }
            }
            Catalogue::Entities => {
                if let (Some(tenant), Some(entity), Some(entity_type), Some(external_id)) = (
                    number("tenant_id"),
                    number("entity_id"),
                    text("entity_type"),
                    text("external_id"),
                ) {
                    let (tenant, entity) = (TenantId(tenant), EntityId(entity));
                    self.names
                        .learn_entity(tenant, entity, entity_type, external_id);
                }
            }
        }
    }
}

impl Sink for LakeSink {
    fn name(&self) -> &str {
        &self.sink
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        let fault = self.fault("reading what the lake holds");
        Box::pin(async move { self.look().await.map_err(fault) })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        let fault = self.fault("emptying the lake");
        Box::pin(async move { self.begin_anew(base).await.map_err(fault) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        let fault = self.fault("writing to the lake");
        Box::pin(async move { self.take(batch).await.map_err(fault) })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let fault = self.fault("committing the lake");
        Box::pin(async move { self.settle().await.map_err(fault) })
    }
}
