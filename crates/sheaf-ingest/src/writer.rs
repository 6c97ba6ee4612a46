//! The way in for everything that writes: decode, type, name, commit, answer.

mod answer;
mod division;
mod earlier;
mod edit;
mod ingestion;
mod preparation;
mod replay;
mod staged;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sheaf_model::{Limits, Lineage, Position, TenantId};
use sheaf_pg::{Fence, Pool, first_row};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::Catalogues;
use sheaf_store::settings::{Settings, read_position};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::lane::Lanes;
use crate::names::EntityNames;
use crate::observer::{CommitObserver, Observed};
use crate::promise;
use crate::request::{Ack, EditAnswer, EditRequest, IngestAnswer, IngestRequest, WriteError};
use crate::schema::Schemas;
use crate::staging::Staging;
use answer::Written;
use preparation::DECODED_INLINE_BYTES_MAX;
pub use replay::{REPLAYED_MAX, ReplayAnswer, ReplayRequest};

/// Bytes of bodies that are being stored at the same time. A body's events take several times its bytes; a few of the
/// largest at once are as fast as many, because they wait for the same lanes.
const BODY_BYTES_IN_WORK_MAX: usize = 128 * 1024 * 1024;
/// How long a body waits for others to be stored before its sender is told to come back.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many refusals an answer lists; the others are found by their batch.
const LISTED_MAX: usize = 100;
/// How often a request is read because the database has begun another lineage meanwhile. A failover is one; where an old
/// primary is still reached as well, its client is to come back.
const LINEAGES_MAX: u32 = 4;

/// The write path of one server. Clones share it.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
    staging: Option<Staging>,
}

struct Inner {
    app: Pool,
    writer: Pool,
    settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
    schemas: Schemas,
    names: EntityNames,
    limits: Limits,
    lanes: Lanes,
    observed: Observed,
    fence: Fence,
    running: Mutex<HashSet<(TenantId, String)>>,
    body_bytes: Semaphore,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Starts a lane for each connection of the writer but one. Their tasks end when the last clone is dropped; whoever stops the server joins them.
    pub fn start(
        app: Pool,
        writer: Pool,
        settings: Arc<Settings>,
        catalogues: Arc<Catalogues>,
        limits: Limits,
    ) -> (Writer, Vec<JoinHandle<()>>) {
        // One connection stays for what is no lane's: opening requests, making partitions.
        let lane_count = writer.connections_max().saturating_sub(1).max(1);
        let observed = Observed::default();
        let (lanes, mut tasks) =
            Lanes::start(lane_count, &writer, &settings, &catalogues, &observed);
        let (fence, fencing) = Fence::new(&writer, app.clone());
        tasks.push(tokio::spawn(fencing));
        let names = EntityNames::new(app.clone(), Arc::clone(&observed));
        let inner = Inner {
            app,
            writer,
            settings,
            catalogues,
            schemas: Schemas::default(),
            names,
            limits,
            lanes,
            observed,
            fence,
            running: Mutex::default(),
            body_bytes: Semaphore::new(BODY_BYTES_IN_WORK_MAX),
        };
        (
            Writer {
                inner: Arc::new(inner),
                staging: None,
            },
            tasks,
        )
    }

    /// From now on, tells this one what its lanes commit. Only the first is told.
    pub fn tell(&self, observer: Arc<dyn CommitObserver>) {
        if self.inner.observed.set(observer).is_err() {
            tracing::error!("a second observer of commits is not told of any");
        }
    }

    /// The same writer, which stages what is to be staged; without this it refuses that.
    pub fn staging_through(self, staging: Staging) -> Writer {
        Writer {
            staging: Some(staging),
            ..self
        }
    }

    /// Stores the events of a body.
    pub async fn ingest(
        &self,
        scope: &TenantScope,
        request: IngestRequest,
    ) -> Result<IngestAnswer, WriteError> {
        self.ingest_counting(scope, request, &mut 0).await
    }

    /// The same, for whoever charges for what is stored: `written` is as in the answer, also where there is none, because
    /// a call that fails may have stored parts.
    pub async fn ingest_counting(
        &self,
        scope: &TenantScope,
        request: IngestRequest,
        written: &mut i64,
    ) -> Result<IngestAnswer, WriteError> {
        let inner = &self.inner;
        if request.ack == Ack::Staged && self.staging.is_none() {
            return Err(WriteError::NoStaging);
        }
        promise::require(&inner.fence, request.ack).await?;
        let mut counted = Written::default();
        let staging = self.staging.as_ref();
        let stored = inner.store(staging, scope, &request, &mut counted).await;
        *written = counted.values();
        let answer = stored?;
        if let Some(position) = answer.position {
            promise::keep(&inner.fence, request.ack, position).await?;
        }
        Ok(answer)
    }

    /// Changes one entity.
    pub async fn edit(
        &self,
        scope: &TenantScope,
        request: EditRequest,
    ) -> Result<EditAnswer, WriteError> {
        let ack = request.ack;
        promise::require(&self.inner.fence, ack).await?;
        let answer = self.inner.edit(scope, request).await?;
        promise::keep(&self.inner.fence, ack, answer.position).await?;
        Ok(answer)
    }
}

/// A request that is running, until dropped.
struct Running<'a> {
    of: &'a Mutex<HashSet<(TenantId, String)>>,
    key: (TenantId, String),
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.of
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

impl Inner {
    fn enter(&self, scope: &TenantScope, request_key: &str) -> Result<Running<'_>, WriteError> {
        let key = (scope.tenant(), request_key.to_owned());
        let entered = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone());
        if entered {
            Ok(Running {
                of: &self.running,
                key,
            })
        } else {
            Err(WriteError::InProgress)
        }
    }

    /// Waits until a body of this size may be worked on.
    ///
    /// A small one does not wait for the large ones of others.
    async fn turn(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, WriteError> {
        if bytes <= DECODED_INLINE_BYTES_MAX {
            return Ok(None);
        }
        let permits =
            u32::try_from(bytes.min(BODY_BYTES_IN_WORK_MAX)).expect("the bound fits 32 bits");
        let permit =
            tokio::time::timeout(TURN_WAIT_MAX, self.body_bytes.acquire_many(permits)).await;
        permit
            .map_err(|_| WriteError::Overloaded)?
            .map(Some)
            .map_err(|_| WriteError::Stopped)
    }

    /// Whether a request that ended like this is to be read anew: numbers that it was read with were learned on another
    /// lineage of the database than the one that is written now. The catalogue of that one is then the remembered one.
    async fn begins_anew<T>(
        &self,
        scope: &TenantScope,
        ended: &Result<T, WriteError>,
        runs: &mut u32,
    ) -> Result<bool, WriteError> {
        *runs += 1;
        if !matches!(ended, Err(WriteError::OtherLineage)) || *runs >= LINEAGES_MAX {
            return Ok(false);
        }
        tracing::info!("a request is read anew, for the history that the database continues now");
        self.catalogues.refresh(scope).await?;
        Ok(true)
    }

    /// A position of the lineage where a request was written or, where nothing of it was to be, its catalogue was read.
    async fn read_position_of(
        &self,
        scope: &TenantScope,
        lineage: Option<Lineage>,
    ) -> Result<Position, WriteError> {
        let position = self.read_position(scope).await?;
        match lineage {
            Some(lineage) if lineage != position.lineage() => Err(WriteError::OtherLineage),
            // A catalogue that was read from a standby has given nothing a number.
            Some(_) | None => Ok(position),
        }
    }

    async fn read_position(&self, scope: &TenantScope) -> Result<Position, WriteError> {
        let rows = scope
            .run_one(&self.app, sheaf_pg::Access::Write, read_position())
            .await?;
        let row = first_row(&rows, "reading the position of a request")?;
        Ok(self.settings.position(row)?.0)
    }
}
