//! The lake as a sink of the change stream.
//!
//! What it is given waits until there is enough for a file or the oldest has waited long enough; then it is committed. What
//! waits when the process ends is sent again: the position says what is missing. Beside that, one thing at a time, corrections are
//! brought to the facts that they replace, and small files are joined: files that the next commit puts in place.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sheaf_cdc::change::{Batch, Origin, Progress};
use sheaf_cdc::letter::{Letter, Refusal};
use sheaf_cdc::sink::{Held, Sink, SinkError, SinkFuture};
use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::Pool;
use sheaf_store::archive::fetch_boundaries;
use sheaf_store::lake::{LakeName, count_corrections, find_corrections};
use tokio::time::Instant;

use crate::corrections::{At, Resolved, resolve};
use crate::error::LakeError;
use crate::instruments::RETENTION_FACTS_TOTAL;
use crate::lake::{Addition, Given, Lake, OpenLake, Retention};
use crate::names::Names;
use crate::observer::CommitObserver;
use crate::pending::Pending;
use crate::rest::LakeCatalog;
use crate::rewrite::Prepared;
use crate::rows::RowFault;
use crate::upkeep::{Upkeep, Waiting, WorkLimits};
use crate::warehouse::Location;

mod intake;
mod letters;
mod work;

use intake::refusal_of;

/// How the lake is written.
#[derive(Clone)]
pub struct LakeOptions {
    /// The name of the sink.
    pub sink: String,
    /// What the lake is called in SQL catalogues.
    pub name: LakeName,
    /// Where its files are.
    pub location: Location,
    /// Who says what its tables are.
    pub catalog: LakeCatalog,
    /// What may wait, in memory. About twenty bytes of it become one in a file: less makes more and smaller files.
    pub pending_bytes_max: usize,
    /// How long something may wait.
    pub pending_age_max: Duration,
    /// How long a correction may wait until the files that it changes are written anew: each time all those of its day that may
    /// have what it replaces. Where few wait they may for a twelfth of it. Nothing beyond one that waits is said to be in the lake.
    pub corrections_age_max: Duration,
    /// How many corrections may wait, but for those of a batch and of a snapshot: nothing more is taken of the stream then until some are
    /// applied. From a tenth of it on they are applied early.
    pub corrections_max: u64,
    /// How often it looks for what is asked to be put right.
    pub repairs_every: Duration,
    /// How often it looks for facts that are older than they are kept. What is older is hidden from readers at once, and goes by whole
    /// days.
    pub retain_every: Duration,
    /// After how many commits it looks for small files to join.
    pub join_commits: u32,
    /// How often it looks for files that no table needs.
    pub sweep_every: Duration,
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
    /// The name of the sink, where nothing else is said.
    pub const SINK: &str = "lake";

    /// A lake in a folder.
    pub fn in_folder(folder: PathBuf) -> LakeOptions {
        LakeOptions::at(Location::Folder(folder))
    }

    /// A lake at this place.
    pub fn at(location: Location) -> LakeOptions {
        LakeOptions {
            sink: LakeOptions::SINK.to_owned(),
            name: LakeName {
                catalog: "sheaf".to_owned(),
                namespace: "lake".to_owned(),
            },
            location,
            catalog: LakeCatalog::Postgres,
            // A million facts: seconds of a fast stream. What a commit needs beside it is about twice as much.
            pending_bytes_max: 64 << 20,
            // Questions to the lake are answered as of so long ago.
            pending_age_max: Duration::from_secs(5),
            // Five minutes is what readers are promised.
            corrections_age_max: Duration::from_secs(60),
            // A step applies ten thousand: a tenth of it is several, beyond which those that have just come would wait for too
            // long.
            corrections_max: 500_000,
            // Whoever asks waits for it; it is a look at an empty table.
            repairs_every: Duration::from_secs(5),
            // A day is over once a day, and policies change rarely.
            retain_every: Duration::from_secs(3600),
            join_commits: 8,
            // As old as a file has to be that nobody needs.
            sweep_every: Duration::from_secs(3600),
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
    upkeep: Upkeep,
    /// Whether the snapshot has come to its end: all that a correction may replace is there.
    is_following: bool,
    /// History before this is kept when the lake begins anew, and so is left out of its snapshot.
    archived_before: Option<Timestamp>,
    /// Changes of the last batch that have no place in it.
    refused: Vec<Refusal>,
    /// Rows of catalogues of which a commit found that they do not fit what is there.
    misfits: HashMap<ChangePosition, RowFault>,
    /// Absent until it was asked what it holds, and after an error.
    open: Option<Filling>,
}

/// The lake as of the last commit, and what is not in it yet.
#[derive(Debug)]
struct Filling {
    lake: OpenLake,
    held: Progress,
    given: Progress,
    /// The first change that was given since the last commit.
    first: Option<ChangePosition>,
    pending: Pending,
    oldest: Option<Instant>,
    waiting: Option<Waiting>,
}

impl Filling {
    fn new(lake: OpenLake, held: Progress, waiting: Option<Waiting>) -> Filling {
        Filling {
            lake,
            held,
            given: held,
            first: None,
            pending: Pending::default(),
            oldest: None,
            waiting,
        }
    }
}

impl LakeSink {
    /// A sink over the lake that these options describe. Nothing is read or written yet.
    ///
    /// # Errors
    /// The place cannot hold one.
    pub fn new(cdc: &Pool, options: LakeOptions) -> Result<LakeSink, LakeError> {
        Ok(LakeSink {
            lake: Lake::new(cdc, &options)?,
            sink: options.sink,
            pending_bytes_max: options.pending_bytes_max,
            pending_age_max: options.pending_age_max,
            names: Names::new(cdc.clone()),
            upkeep: Upkeep::new(WorkLimits {
                corrections_age_max: options.corrections_age_max,
                corrections_max: options.corrections_max,
                repairs_every: options.repairs_every,
                retain_every: options.retain_every,
                join_commits: options.join_commits,
                sweep_every: options.sweep_every,
            }),
            is_following: false,
            archived_before: None,
            refused: Vec::new(),
            misfits: HashMap::new(),
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
        self.is_following = false;
        self.upkeep.abandon();
        self.archived_before = fetch_boundaries(&self.lake.cdc).await?.archived_before;
        let lake = self.lake.open().await?;
        let Some(held) = lake.progress() else {
            // Nobody said yet which snapshot comes; `begin` does.
            return Ok(Held::Nothing);
        };
        let (count, oldest_at) = count_corrections(&self.lake.cdc, &self.lake.name).await?;
        let waiting = oldest_at.map(|at| waiting_since(count, at));
        self.open = Some(Filling::new(lake, held, waiting));
        Ok(Held::Until(held))
    }

    async fn begin_anew(&mut self, base: ChangePosition) -> Result<(), LakeError> {
        self.is_following = false;
        self.misfits.clear();
        self.upkeep.abandon();
        let lake = match self.open.take() {
            Some(filling) => filling.lake,
            None => self.lake.open().await?,
        };
        let begun = Progress::begun(base);
        self.archived_before = fetch_boundaries(&self.lake.cdc).await?.archived_before;
        let addition = Addition::Begin(self.archived_before);
        let lake = self.lake.commit(&lake, addition, begun, &mut self.names);
        self.open = Some(Filling::new(lake.await?, begun, None));
        Ok(())
    }

    async fn take(&mut self, batch: &Batch) -> Result<Progress, LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        self.refused.clear();
        for change in &batch.changes {
            if filling.given.holds(batch.origin, change.position) {
                continue;
            }
            // What is archived it has kept.
            if batch.origin == Origin::Stream || !self.is_archived(change) {
                let put = self.put(&mut filling.pending, change).await;
                if let Some(refusal) = refusal_of(put)? {
                    self.refused.push(refusal);
                }
            }
            filling.given.advance(batch.origin, change.position);
            filling.first.get_or_insert(change.position);
            // Within a batch too: it may be a large one. What was refused is nowhere before this returns.
            if filling.pending.bytes() >= self.pending_bytes_max && self.refused.is_empty() {
                filling = self.commit(filling).await?;
            }
        }
        if filling.given != filling.held {
            filling.oldest.get_or_insert_with(Instant::now);
        }
        if self.refused.is_empty() {
            return self.go_on(filling).await;
        }
        let held = filling.held;
        self.open = Some(filling);
        Ok(held)
    }

    /// Commits what has waited long enough, and sees to what is due beside.
    async fn go_on(&mut self, mut filling: Filling) -> Result<Progress, LakeError> {
        let is_due = filling
            .oldest
            .is_some_and(|oldest| oldest.elapsed() >= self.pending_age_max);
        // Which of those that are pending have to wait only a commit tells.
        let may_wait = self.is_following && !filling.pending.later.is_empty();
        if is_due || (may_wait && self.is_full(&filling)) {
            filling = self.commit(filling).await?;
        }
        self.begin_work(&mut filling).await;
        let held = filling.held;
        self.open = Some(filling);
        Ok(held)
    }

    /// Whether as many corrections wait as may, those counted of which it is not known yet.
    fn is_full(&self, filling: &Filling) -> bool {
        let waiting = filling.waiting.map_or(0, |waiting| waiting.count);
        let later = u64::try_from(filling.pending.later.len()).unwrap_or(u64::MAX);
        waiting.saturating_add(later) >= self.upkeep.limits.corrections_max
    }

    /// Nothing comes. What was made beside need not wait for more.
    async fn rest(&mut self) -> Result<Progress, LakeError> {
        let mut filling = self.open.take().ok_or(LakeError::NotAsked)?;
        if let Some(prepared) = self.upkeep.take().await {
            filling = self.commit_with(filling, prepared).await?;
        }
        self.go_on(filling).await
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
        let prepared = self.upkeep.take().await.unwrap_or_default();
        self.commit_with(filling, prepared).await
    }

    async fn commit_with(
        &mut self,
        filling: Filling,
        prepared: Prepared,
    ) -> Result<Filling, LakeError> {
        let Filling {
            lake,
            given,
            first,
            pending,
            waiting,
            ..
        } = filling;
        let resolved = self.resolve(&pending, waiting).await?;
        let applied = prepared.applied.iter().chain(&prepared.repaired);
        let instants = applied.map(|key| key.observed_at);
        let instants = instants.chain(pending.events.iter().map(|event| event.observed_at));
        let oldest = instants.min();
        let taken_out = prepared.removed.iter();
        let taken_out = taken_out.map(|one| one.all.facts.unsigned_abs()).sum();
        let noted = resolved.waiting.len() + prepared.noted.len();
        let waiting = count(waiting, noted, prepared.applied.len());
        let renames = pending.entities.iter().any(|row| !row.is_new);
        let addition = Addition::Changes(Box::new(Given {
            first,
            pending,
            resolved,
            prepared,
        }));
        let lake = self.lake.commit(&lake, addition, given, &mut self.names);
        let lake = match lake.await {
            Ok(lake) => lake,
            Err(error) => {
                if let LakeError::Row { position, source } = &error {
                    // When it comes again it is refused, so that the others are committed.
                    self.misfits.insert(*position, source.clone());
                }
                return Err(error);
            }
        };
        self.upkeep.count_commit();
        if let Some(oldest) = oldest {
            self.upkeep.came(oldest.as_micros());
        }
        metrics::counter!(RETENTION_FACTS_TOTAL).increment(taken_out);
        if waiting.is_none() {
            self.upkeep.end_round();
        }
        if renames {
            // It may have taken away what is being joined.
            self.upkeep.abandon_joining();
        }
        Ok(Filling::new(lake, given, waiting))
    }

    /// Decides which of the pending events have to wait.
    async fn resolve(
        &self,
        pending: &Pending,
        waiting: Option<Waiting>,
    ) -> Result<Resolved, LakeError> {
        let mut found = HashSet::new();
        if waiting.is_some() && !pending.later.is_empty() {
            let later = pending.later.iter().map(|(at, _)| pending.event(*at));
            let mut asked: Vec<_> = later
                .map(|event| (event.tenant, event.entity, event.observed_at))
                .collect();
            asked.sort_unstable();
            asked.dedup();
            for (tenant, entity, observed_at) in
                find_corrections(&self.lake.cdc, &self.lake.name, &asked).await?
            {
                found.insert(At {
                    tenant: tenant.0,
                    entity: entity.0,
                    observed_at: observed_at.as_micros(),
                });
            }
        }
        Ok(resolve(pending, |at| found.contains(at)))
    }
}

/// Corrections that wait since a moment by the clock.
fn waiting_since(count: u64, at: Timestamp) -> Waiting {
    let age = Timestamp::now().since(at);
    let now = Instant::now();
    Waiting {
        count,
        since: now.checked_sub(age).unwrap_or(now),
    }
}

/// Corrections that wait after a commit.
fn count(before: Option<Waiting>, more: usize, fewer: usize) -> Option<Waiting> {
    let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
    let waited = before.map_or(0, |waiting| waiting.count);
    let count = (waited + number(more)).saturating_sub(number(fewer));
    let since = before.map_or_else(Instant::now, |waiting| waiting.since);
    (count > 0).then_some(Waiting { count, since })
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

    fn has_room(&self) -> bool {
        let filling = self.open.as_ref();
        filling.is_none_or(|filling| !self.is_full(filling))
    }

    fn take_refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused)
    }

    fn replay<'a>(&'a mut self, letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        let fault = self.fault("taking letters into the lake");
        Box::pin(async move { self.take_letters(letters).await.map_err(fault) })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let fault = self.fault("committing the lake");
        Box::pin(async move { self.settle().await.map_err(fault) })
    }

    fn idle(&mut self) -> SinkFuture<'_, Progress> {
        let fault = self.fault("committing the lake");
        Box::pin(async move { self.rest().await.map_err(fault) })
    }

    fn follow(&mut self) {
        self.is_following = true;
    }
}
