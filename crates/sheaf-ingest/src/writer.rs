//! The way in for everything that writes: decode, type, name, commit, answer.

mod answer;
mod division;
mod earlier;
mod edit;
mod replay;
mod staged;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use sha2::{Digest, Sha256};
use sheaf_model::{AttributeId, BatchId, Limits, Position, TenantId};
use sheaf_pg::{Fence, PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    AttributeBounds, Catalogue, Catalogues, NewAttribute, mark_series_tags,
};
use sheaf_store::ledger::{LedgerEntry, Outcome, open_request};
use sheaf_store::rejections::NewRejection;
use sheaf_store::settings::{Settings, read_position};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::decode::{self, BodyFault, Decoded, IdRules};
use crate::instruments::TIMES_CUT_TOTAL;
use crate::lane::{EventSource, Lanes, PartKind, PartOutcome, Request, StoredPart};
use crate::names::EntityNames;
use crate::plan::GroupEvent;
use crate::promise;
use crate::request::{
    Ack, BodyFormat, EditAnswer, EditRequest, IngestAnswer, IngestRequest, OnError, WriteError,
};
use crate::schema::Schemas;
use crate::staging::Staging;
use crate::typing::{HOT_ATTRIBUTES_MAX, Rules, Typed, TypedEvent, type_body};
use answer::answer;
use division::Division;
use earlier::{Known, Ticket};
pub use replay::{REPLAYED_MAX, ReplayAnswer, ReplayRequest};
use staged::StagedWay;

/// Bytes of bodies that are being stored at the same time. A body's events take several times its bytes; a few of the
/// largest at once are as fast as many, because they wait for the same lanes.
const BODY_BYTES_IN_WORK_MAX: usize = 128 * 1024 * 1024;
/// How long a body waits for others to be stored before its sender is told to come back.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many refusals an answer lists; the others are found by their batch.
const LISTED_MAX: usize = 100;
/// Bodies larger than this wait for their turn, and are decoded off the threads that serve connections.
const DECODED_INLINE_BYTES_MAX: usize = 64 * 1024;
/// How often a body is typed anew because other servers keep changing its catalogue.
const TYPING_RUNS_MAX: usize = 8;

/// How often a request asks for its missing parts while other servers write them, too.
const ROUNDS_MAX: usize = 8;

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
        let (lanes, mut tasks) = Lanes::start(lane_count, &writer, &settings, &catalogues);
        let (fence, fencing) = Fence::new(&writer, app.clone());
        tasks.push(tokio::spawn(fencing));
        let names = EntityNames::new(app.clone());
        let inner = Inner {
            app,
            writer,
            settings,
            catalogues,
            schemas: Schemas::default(),
            names,
            limits,
            lanes,
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
        let inner = &self.inner;
        if request.ack == Ack::Staged && self.staging.is_none() {
            return Err(WriteError::NoStaging);
        }
        promise::require(&inner.fence, request.ack).await?;
        let answer = self.store(scope, &request).await?;
        if let Some(position) = answer.position {
            promise::keep(&inner.fence, request.ack, position).await?;
        }
        Ok(answer)
    }

    async fn store(
        &self,
        scope: &TenantScope,
        request: &IngestRequest,
    ) -> Result<IngestAnswer, WriteError> {
        let inner = &self.inner;
        let _turn = inner.turn(request.body.len()).await?;
        let batch = BatchId::new();
        let staging = self.staging.as_ref();
        let Some(key) = &request.idempotency_key else {
            let ticket = Ticket::new(batch.to_string(), Vec::new(), batch);
            return inner.ingest_once(staging, scope, request, ticket).await;
        };
        let ticket = Ticket::new(format!("k:{key}"), hash_of(request), batch);
        let _running = inner.enter(scope, &ticket.key)?;
        let ticket = match inner.fetch(scope, &ticket).await? {
            Some(earlier) => match inner.replay_or_resume(scope, earlier, ticket).await? {
                Known::Answered(answer) => return Ok(*answer),
                Known::Unfinished(ticket) => ticket,
            },
            None => ticket,
        };
        // What is left of a request is read as of when it first came: its times are as far ahead as they were.
        let mut request = request.clone();
        if let Some(opened) = &ticket.opened {
            request.received_at = opened.received_at;
        }
        inner.ingest_once(staging, scope, &request, ticket).await
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

    async fn ingest_once(
        &self,
        staging: Option<&Staging>,
        scope: &TenantScope,
        request: &IngestRequest,
        mut ticket: Ticket,
    ) -> Result<IngestAnswer, WriteError> {
        let (mut typed, count, catalogue) = self.type_request(scope, request).await?;
        let events = i32::try_from(count).unwrap_or(i32::MAX);
        let outcome = if request.on_error == OnError::Reject && !typed.refusals.is_empty() {
            Outcome::BatchRefused
        } else if typed.events.is_empty() && typed.refused_events > 0 {
            Outcome::AllRefused
        } else {
            Outcome::Stored
        };
        let typed_events = match outcome {
            Outcome::Stored => std::mem::take(&mut typed.events),
            Outcome::AllRefused | Outcome::BatchRefused => {
                // Of events that had single bad values nothing is stored either.
                for refusal in &mut typed.refusals {
                    refusal.rest = None;
                }
                Vec::new()
            }
        };
        let (group_events, sources) = self
            .name_events(scope, typed_events, request.received_at)
            .await?;
        // What is not staged is durable.
        let ack = match request.ack {
            Ack::Durable | Ack::Staged => Ack::Durable,
            Ack::Replicated => Ack::Replicated,
        };
        let mut entry = LedgerEntry {
            tenant: scope.tenant(),
            request_key: ticket.key.clone(),
            batch: ticket.batch,
            request_hash: ticket.hash.clone(),
            outcome,
            ack: ack.as_str(),
            events,
            refused: match outcome {
                Outcome::Stored => i32::try_from(typed.refused_events).unwrap_or(i32::MAX),
                Outcome::AllRefused | Outcome::BatchRefused => events,
            },
            received_at: request.received_at,
            durable_at: request.received_at,
            buckets: Vec::new(),
        };
        let staged = (&entry, group_events.as_slice(), typed.refusals.as_slice());
        match self.stage(staging, scope, request, &ticket, staged).await? {
            StagedWay::Answered(answer) => return Ok(*answer),
            StagedWay::Earlier(earlier) => {
                match self.replay_or_resume(scope, earlier, ticket).await? {
                    Known::Answered(answer) => return Ok(*answer),
                    Known::Unfinished(unfinished) => ticket = unfinished,
                }
                entry.batch = ticket.batch;
            }
            StagedWay::Durable => {}
        }
        let kind = match request.on_error {
            OnError::Reject => PartKind::AllOrNothing,
            OnError::Partial => PartKind::Bulk,
        };
        let mut division = Division::new(self, kind, group_events, typed.refusals);
        entry.buckets = division.buckets();
        ticket.check(&entry)?;
        // Parts in several transactions need the request to be there before any of them, so that no other request
        // takes its key in between.
        let opens_alone = division.parts() == 0 || (ticket.has_key() && division.parts() > 1);
        let mut opened = Vec::new();
        if ticket.missing.is_none() && opens_alone {
            opened = std::mem::take(&mut division.of_none);
            if !open_request(&self.writer, scope, &entry, &opened).await? {
                // Another server was first with this key: what it has not written is written here.
                let earlier = self.require(scope, &ticket).await?;
                match self.replay_or_resume(scope, earlier, ticket).await? {
                    Known::Answered(answer) => return Ok(*answer),
                    Known::Unfinished(unfinished) => ticket = unfinished,
                }
                ticket.check(&entry)?;
                entry.batch = ticket.batch;
            }
        }
        let mut job = Arc::new(Request {
            scope: scope.clone(),
            catalogue,
            entry,
            sources,
            reading: typed.reading,
            now: request.received_at,
        });
        for _ in 0..ROUNDS_MAX {
            let opens = ticket.missing.is_none() && !opens_alone;
            let parts = division.parts_of(self, &job, ticket.missing.as_ref(), opens);
            let committed = join_all(parts.into_iter().map(|part| self.lanes.commit(part))).await;
            let mut stored = Vec::new();
            let mut was_there = ticket.missing.is_some();
            for outcome in committed {
                match outcome? {
                    PartOutcome::Stored(part, position) => stored.push((*part, Some(position))),
                    PartOutcome::AlreadyThere(Some(part)) => stored.push((part, None)),
                    PartOutcome::AlreadyThere(None) => was_there = true,
                    PartOutcome::RefusedByPlan(refused) => {
                        return self.refuse_batch(&job, request, refused).await;
                    }
                }
            }
            if !was_there {
                let position = self.position_of(scope, &stored).await?;
                let parts = stored.into_iter().map(|(part, _)| part).collect();
                let (entry, position) = (&job.entry, Some(position));
                return Ok(answer(entry, opened, parts, position, &request.format));
            }
            let earlier = self.require(scope, &ticket).await?;
            match self.replay_or_resume(scope, earlier, ticket).await? {
                Known::Answered(answer) => return Ok(*answer),
                Known::Unfinished(unfinished) => ticket = unfinished,
            }
            ticket.check(&job.entry)?;
            // Another server may have opened it, under its own number.
            Arc::make_mut(&mut job).entry.batch = ticket.batch;
        }
        Err(WriteError::Overloaded)
    }

    /// Keeps that the plan refused a request that wants all or nothing.
    async fn refuse_batch(
        &self,
        job: &Request,
        request: &IngestRequest,
        refused: Vec<NewRejection>,
    ) -> Result<IngestAnswer, WriteError> {
        let entry = LedgerEntry {
            outcome: Outcome::BatchRefused,
            refused: job.entry.events,
            buckets: Vec::new(),
            ..job.entry.clone()
        };
        if !open_request(&self.writer, &job.scope, &entry, &refused).await? {
            // Another server was first with this key, and saw it before what it conflicts with was stored.
            return Err(WriteError::InProgress);
        }
        let position = self.position_of(&job.scope, &[]).await?;
        Ok(answer(
            &entry,
            refused,
            Vec::new(),
            Some(position),
            &request.format,
        ))
    }

    /// A position of the write history that has all of these parts.
    async fn position_of(
        &self,
        scope: &TenantScope,
        parts: &[(StoredPart, Option<Position>)],
    ) -> Result<Position, WriteError> {
        let known: Option<Vec<Position>> = parts.iter().map(|(_, position)| *position).collect();
        let newest = known
            .unwrap_or_default()
            .into_iter()
            .max_by_key(|position| (position.timeline, position.lsn));
        match newest {
            Some(newest) => Ok(newest),
            None => self.read_position(scope).await,
        }
    }

    async fn read_position(&self, scope: &TenantScope) -> Result<Position, WriteError> {
        let rows = scope
            .run_one(&self.app, sheaf_pg::Access::Write, read_position())
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| PgError::unreadable("reading the position of a request", "no row"))?;
        Ok(self.settings.position(row)?.0)
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
            if (typed.missing.is_empty() && typed.unmarked.is_empty()) || refused_whole {
                metrics::counter!(TIMES_CUT_TOTAL).increment(typed.times_cut);
                return Ok((typed, count, catalogue));
            }
            catalogue = self.amend(scope, &typed, request.received_at).await?;
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
        let created = self
            .catalogues
            .create_attributes(scope, missing, bounds, now);
        Ok(created.await?)
    }

    /// Makes the catalogue fit for events: creates the attributes that they need, and marks those that lines have as tags
    /// beside an id.
    async fn amend(
        &self,
        scope: &TenantScope,
        typed: &Typed,
        now: sheaf_model::Timestamp,
    ) -> Result<Arc<Catalogue>, WriteError> {
        if !typed.missing.is_empty() {
            return self.create(scope, &typed.missing, now).await;
        }
        let unmarked: Vec<AttributeId> = typed.unmarked.iter().copied().collect();
        mark_series_tags(&self.app, scope, &unmarked).await?;
        Ok(self.catalogues.refresh(scope).await?)
    }

    /// Gives events the numbers of their entities.
    async fn name_events(
        &self,
        scope: &TenantScope,
        typed: Vec<TypedEvent>,
        now: sheaf_model::Timestamp,
    ) -> Result<(Vec<GroupEvent>, Vec<EventSource>), WriteError> {
        let names: Vec<(&str, &str)> = typed
            .iter()
            .map(|event| (event.entity_type.as_str(), event.external_id.as_str()))
            .collect();
        let entities = self.names.require(scope, &names, now).await?;
        let (mut events, mut sources) = (
            Vec::with_capacity(entities.len()),
            Vec::with_capacity(entities.len()),
        );
        for (typed, entity) in typed.into_iter().zip(entities) {
            events.push(GroupEvent {
                index: typed.index,
                tenant: scope.tenant(),
                entity,
                event: typed.event,
            });
            sources.push(EventSource {
                index: typed.index,
                raw: typed.raw,
                entity_type: typed.entity_type,
            });
        }
        Ok((events, sources))
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
