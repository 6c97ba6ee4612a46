//! The way in for everything that writes: decode, type, name, commit, answer.

mod answer;
mod edit;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sheaf_model::{BatchId, Limits, TenantId};
use sheaf_pg::{PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    AttributeBounds, Catalogue, Catalogues, NewAttribute, create_attributes,
};
use sheaf_store::ledger::{LedgerEntry, LedgerRecord, Outcome, fetch_request};
use sheaf_store::rejections::fetch_batch_rejections;
use sheaf_store::settings::{Settings, read_position};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::decode::{self, BodyFault, Decoded, IdRules, quote_line};
use crate::lane::{self, EventSource, Job, LaneHandle, LaneOutcome};
use crate::names::EntityNames;
use crate::plan::GroupEvent;
use crate::request::{
    BodyFormat, EditAnswer, EditRequest, IngestAnswer, IngestRequest, OnError, WriteError,
};
use crate::schema::Schemas;
use crate::typing::{HOT_ATTRIBUTES_MAX, Rules, Typed, type_body};
use answer::answer;

/// Bytes of bodies that are being stored at the same time. A body's events take several times its bytes; a few of the
/// largest at once are as fast as many, because one lane writes them.
const BODY_BYTES_IN_WORK_MAX: usize = 128 * 1024 * 1024;
/// How long a body waits for others to be stored before its sender is told to come back.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many refusals an answer lists; the others are found by their batch.
const LISTED_MAX: usize = 100;
/// Bodies larger than this are decoded off the threads that serve connections.
const DECODED_INLINE_BYTES_MAX: usize = 64 * 1024;
/// How often a body is typed anew because other servers keep changing its catalogue.
const TYPING_RUNS_MAX: usize = 8;

/// The write path of one server. Clones share it.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    app: Pool,
    settings: Arc<Settings>,
    catalogues: Arc<Catalogues>,
    schemas: Schemas,
    names: EntityNames,
    limits: Limits,
    lane: LaneHandle,
    running: Mutex<HashSet<(TenantId, String)>>,
    body_bytes: Semaphore,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Starts the lane. The task ends when the last clone is dropped; whoever stops the server joins it.
    pub fn start(
        app: Pool,
        writer: Pool,
        settings: Arc<Settings>,
        catalogues: Arc<Catalogues>,
        limits: Limits,
    ) -> (Writer, tokio::task::JoinHandle<()>) {
        let (lane, task) = lane::start(writer, Arc::clone(&settings), Arc::clone(&catalogues));
        let names = EntityNames::new(app.clone());
        let inner = Inner {
            app,
            settings,
            catalogues,
            schemas: Schemas::default(),
            names,
            limits,
            lane,
            running: Mutex::default(),
            body_bytes: Semaphore::new(BODY_BYTES_IN_WORK_MAX),
        };
        (
            Writer {
                inner: Arc::new(inner),
            },
            task,
        )
    }

    /// Stores the events of a body.
    pub async fn ingest(
        &self,
        scope: &TenantScope,
        request: IngestRequest,
    ) -> Result<IngestAnswer, WriteError> {
        let inner = &self.inner;
        let _turn = inner.turn(request.body.len()).await?;
        let batch = BatchId::new();
        let Some(key) = &request.idempotency_key else {
            return inner
                .ingest_once(scope, &request, batch, batch.to_string(), Vec::new())
                .await;
        };
        let request_key = format!("k:{key}");
        let request_hash = hash_of(&request);
        let _running = inner.enter(scope, &request_key)?;
        if let Some(record) = fetch_request(&inner.app, scope, &request_key).await? {
            return inner.replay(scope, &record, &request_hash).await;
        }
        inner
            .ingest_once(scope, &request, batch, request_key, request_hash)
            .await
    }

    /// Changes one entity.
    pub async fn edit(
        &self,
        scope: &TenantScope,
        request: EditRequest,
    ) -> Result<EditAnswer, WriteError> {
        self.inner.edit(scope, request).await
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
    async fn turn(&self, bytes: usize) -> Result<SemaphorePermit<'_>, WriteError> {
        let permits =
            u32::try_from(bytes.min(BODY_BYTES_IN_WORK_MAX)).expect("the bound fits 32 bits");
        let permit =
            tokio::time::timeout(TURN_WAIT_MAX, self.body_bytes.acquire_many(permits)).await;
        permit
            .map_err(|_| WriteError::Overloaded)?
            .map_err(|_| WriteError::Stopped)
    }

    async fn ingest_once(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
        batch: BatchId,
        request_key: String,
        request_hash: Vec<u8>,
    ) -> Result<IngestAnswer, WriteError> {
        let (typed, count, catalogue) = self.type_request(scope, request).await?;
        let events = i32::try_from(count).unwrap_or(i32::MAX);
        let outcome = if request.on_error == OnError::Reject && !typed.refusals.is_empty() {
            Outcome::BatchRefused
        } else if typed.events.is_empty() && typed.refused_events > 0 {
            Outcome::AllRefused
        } else {
            Outcome::Stored
        };
        let stored = outcome == Outcome::Stored;
        let mut entry = LedgerEntry {
            tenant: scope.tenant(),
            request_key,
            batch,
            request_hash: request_hash.clone(),
            outcome,
            ack: request.ack.as_str(),
            events,
            refused: if stored {
                i32::try_from(typed.refused_events).unwrap_or(i32::MAX)
            } else {
                events
            },
            received_at: request.received_at,
            durable_at: request.received_at,
        };
        let mut job = self
            .job(scope, request, catalogue, entry.clone(), typed, stored)
            .await?;
        loop {
            let came_with_refusals = !job.rejections.is_empty();
            match self.lane.commit(job).await? {
                LaneOutcome::Committed(committed) => {
                    return Ok(answer(&entry, *committed, &request.format));
                }
                LaneOutcome::AlreadyThere => {
                    let record = fetch_request(&self.app, scope, &entry.request_key).await?;
                    let record = record.ok_or_else(|| {
                        PgError::unreadable("finding a claimed request", "no row")
                    })?;
                    return self.replay(scope, &record, &request_hash).await;
                }
                LaneOutcome::RefusedByPlan(refused) => {
                    debug_assert!(
                        !came_with_refusals,
                        "a request that wants all or nothing came with refusals"
                    );
                    entry.outcome = Outcome::BatchRefused;
                    entry.refused = events;
                    let catalogue = self.catalogues.current(scope).await?;
                    job = Job {
                        scope: scope.clone(),
                        catalogue,
                        entry: entry.clone(),
                        events: Vec::new(),
                        rejections: refused,
                        sources: Vec::new(),
                        precondition: None,
                        must_exist: false,
                        all_or_nothing: false,
                        now: request.received_at,
                    };
                }
            }
        }
    }

    /// Decodes and types a body, creating the attributes that it needs, unless it is refused as a whole.
    async fn type_request(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
    ) -> Result<(Typed, u32, Arc<Catalogue>), WriteError> {
        let mut catalogue = self.catalogues.current(scope).await?;
        for _ in 0..TYPING_RUNS_MAX {
            let (typed, count) = self.type_once(request, &catalogue)?;
            let refused_whole = request.on_error == OnError::Reject && !typed.refusals.is_empty();
            if typed.missing.is_empty() || refused_whole {
                metrics::counter!("sheaf_ingest_times_cut_total").increment(typed.times_cut);
                return Ok((typed, count, catalogue));
            }
            catalogue = self
                .create(scope, &typed.missing, request.received_at)
                .await?;
        }
        Err(WriteError::Overloaded)
    }

    fn type_once(
        &self,
        request: &IngestRequest,
        catalogue: &Catalogue,
    ) -> Result<(Typed, u32), WriteError> {
        let work = || {
            let decoded = decode_body(request, catalogue, &self.limits)?;
            let count = decoded.count;
            let rules = self.rules(catalogue, request.received_at);
            Ok((type_body(decoded, &request.body, &rules), count))
        };
        if request.body.len() > DECODED_INLINE_BYTES_MAX
            && tokio::runtime::Handle::current().runtime_flavor()
                == tokio::runtime::RuntimeFlavor::MultiThread
        {
            tokio::task::block_in_place(work)
        } else {
            work()
        }
    }

    fn rules<'a>(&'a self, catalogue: &'a Catalogue, now: sheaf_model::Timestamp) -> Rules<'a> {
        Rules {
            catalogue,
            schemas: &self.schemas,
            limits: &self.limits,
            now,
        }
    }

    async fn create(
        &self,
        scope: &TenantScope,
        missing: &[NewAttribute],
        now: sheaf_model::Timestamp,
    ) -> Result<Arc<Catalogue>, WriteError> {
        let bounds = AttributeBounds {
            hot_max: HOT_ATTRIBUTES_MAX,
            attributes_max: self.limits.tenant_attributes_max,
        };
        create_attributes(&self.app, scope, missing, bounds, now).await?;
        Ok(self.catalogues.refresh(scope).await?)
    }

    async fn job(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
        catalogue: Arc<Catalogue>,
        entry: LedgerEntry,
        typed: Typed,
        stored: bool,
    ) -> Result<Job, WriteError> {
        let typed_events = if stored { typed.events } else { Vec::new() };
        let names: Vec<(&str, &str)> = typed_events
            .iter()
            .map(|event| (event.entity_type.as_str(), event.external_id.as_str()))
            .collect();
        let entities = self
            .names
            .require(scope, &names, request.received_at)
            .await?;
        let (mut events, mut sources) = (
            Vec::with_capacity(entities.len()),
            Vec::with_capacity(entities.len()),
        );
        for (typed, entity) in typed_events.into_iter().zip(entities) {
            events.push(GroupEvent {
                index: typed.index,
                entity,
                event: typed.event,
            });
            sources.push(EventSource {
                index: typed.index,
                raw: typed.raw,
                entity_type: typed.entity_type,
            });
        }
        Ok(Job {
            scope: scope.clone(),
            catalogue,
            entry,
            events,
            rejections: typed.refusals,
            sources,
            precondition: None,
            must_exist: false,
            all_or_nothing: request.on_error == OnError::Reject && stored,
            now: request.received_at,
        })
    }

    /// The first answer once more, from the ledger; only the position is read anew.
    async fn replay(
        &self,
        scope: &TenantScope,
        record: &LedgerRecord,
        request_hash: &[u8],
    ) -> Result<IngestAnswer, WriteError> {
        if record.request_hash != request_hash {
            return Err(WriteError::KeyReused);
        }
        let listed_max = i64::try_from(LISTED_MAX).expect("a small number");
        let kept = fetch_batch_rejections(&self.app, scope, record.batch, listed_max).await?;
        let rows = scope
            .run_one(&self.app, sheaf_pg::Access::Write, read_position())
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| PgError::unreadable("reading the position of a replay", "no row"))?;
        let (position, _) = self.settings.position(row)?;
        Ok(IngestAnswer {
            batch: record.batch,
            ack: record.ack.clone(),
            outcome: record.outcome,
            events: record.events,
            counts: record.counts,
            rejected: kept.first,
            first_bad_line: kept.first_raw.map(|raw| quote_line(&raw)),
            bad_events: kept.bad_events,
            position,
            replayed: true,
        })
    }
}

fn decode_body<'a>(
    request: &'a IngestRequest,
    catalogue: &Catalogue,
    limits: &Limits,
) -> Result<Decoded<'a>, BodyFault> {
    match &request.format {
        BodyFormat::JsonArray => decode::json_array(&request.body, limits),
        BodyFormat::Ndjson => decode::ndjson(&request.body, limits),
        BodyFormat::LineProtocol { precision, id_tags } => {
            let rules = IdRules {
                all: id_tags.clone(),
                by_measurement: tenant_rules(&catalogue.tenant.policy.line_protocol),
            };
            decode::line_protocol(&request.body, *precision, &rules, limits)
        }
    }
}

/// The tenant's rules `{"cpu":{"id_tags":["host"]}}`; checked when they were stored.
fn tenant_rules(stored: &str) -> HashMap<String, Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Rule {
        id_tags: Vec<String>,
    }
    let rules: HashMap<String, Rule> = serde_json::from_str(stored).unwrap_or_else(|error| {
        tracing::error!(%error, "a tenant's line protocol rules cannot be read; whole tag sets are ids");
        HashMap::new()
    });
    rules
        .into_iter()
        .map(|(measurement, rule)| (measurement, rule.id_tags))
        .collect()
}

/// What a retry must repeat: how the body is read, and the body.
fn hash_of(request: &IngestRequest) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{:?}|{:?}|{:?}|",
        request.format, request.ack, request.on_error
    ));
    hash.update(&request.body);
    hash.finalize().to_vec()
}
