//! The staged mode: requests that are answered before they are durable, and the workers that make them so.
//!
//! The age of what waits is bounded: when the flushes are behind, requests are refused or take the durable way. A loss is
//! looked for at the start and ever after; every batch that it took is told to be lost.

mod known;
mod memory;
mod policy;
mod worker;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::{BatchId, TenantId, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::TenantScope;
use sheaf_store::ledger::LedgerEntry;
use sheaf_store::rejections::NewRejection;
use sheaf_store::settings::Settings;
use sheaf_store::staging::{
    StageOutcome, StagedCopy, StagedState, StagedStatus, detect_loss, fetch_staged_status,
    mark_lost, stage,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::instruments::{
    STAGING_LOSSES_TOTAL, STAGING_REFUSED_TOTAL, STAGING_TURNED_DURABLE_TOTAL,
};
use crate::partitions::partitions_with;
use crate::plan::GroupEvent;
use crate::request::WriteError;
use known::KnownPartitions;
use memory::StagedMemory;
use policy::BacklogView;

pub use policy::{StagingDecision, StagingPolicy, admit};

/// How a server stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingOptions {
    /// How many workers flush side by side. One keeps up with one or two that stage; buckets are what they share.
    pub flushers: usize,
    /// How long batches gather before a flush.
    pub flush_every: Duration,
    /// How many events a flush moves, whole batches beyond. Larger ones are longer transactions that hold more locks.
    pub flush_events_max: i32,
    /// How long the oldest batch may wait before no more are staged.
    pub age_max: Duration,
    /// What becomes of them then.
    pub policy: StagingPolicy,
}

impl Default for StagingOptions {
    fn default() -> StagingOptions {
        StagingOptions {
            flushers: 2,
            flush_every: Duration::from_millis(100),
            flush_events_max: 10_000,
            age_max: Duration::from_secs(1),
            policy: StagingPolicy::Refuse,
        }
    }
}

/// The staged mode of one server. Clones share it.
#[derive(Clone)]
pub struct Staging {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Pool,
    settings: Arc<Settings>,
    options: StagingOptions,
    partitions: Mutex<KnownPartitions>,
    backlog: Mutex<BacklogView>,
    /// How many batches were put aside when somebody last looked.
    put_aside: Mutex<i64>,
    memory: Mutex<StagedMemory>,
    /// The last epoch that this server has seen; 0 before the first.
    epoch: Mutex<i64>,
    /// Something was staged: for those who flush, and for the one that watches.
    staged: Notify,
    watched: Notify,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Staging")
    }
}

/// How a request that asked to be staged ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StagedAnswer {
    /// It is staged, with so many values.
    Staged { values: i64 },
    /// Its key was taken before: a retry.
    AlreadyThere,
    /// The flushes are behind, or one would refuse it an event that can still be answered, and it takes the durable way.
    TurnDurable,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Staging {
    /// Starts the workers. They end, after a last flush, when told to stop; whoever stops the server joins them.
    pub fn start(
        writer: Pool,
        settings: Arc<Settings>,
        options: StagingOptions,
        stop: &watch::Receiver<bool>,
    ) -> (Staging, Vec<JoinHandle<()>>) {
        let staging = Staging {
            inner: Arc::new(Inner {
                writer,
                settings,
                options,
                partitions: Mutex::default(),
                backlog: Mutex::new(BacklogView::empty(Instant::now())),
                put_aside: Mutex::default(),
                memory: Mutex::default(),
                epoch: Mutex::default(),
                staged: Notify::new(),
                watched: Notify::new(),
            }),
        };
        let mut tasks = vec![tokio::spawn(worker::watch(staging.clone(), stop.clone()))];
        for _ in 0..options.flushers.max(1) {
            tasks.push(tokio::spawn(worker::flush(staging.clone(), stop.clone())));
        }
        (staging, tasks)
    }

    /// Stages a typed request. `entry.ack` is staged, and `entry.buckets` are those of its events.
    pub(crate) async fn stage(
        &self,
        scope: &TenantScope,
        entry: &LedgerEntry,
        events: &[GroupEvent],
        rejections: &[NewRejection],
    ) -> Result<StagedAnswer, WriteError> {
        let inner = &self.inner;
        let oldest = locked(&inner.backlog).oldest(Instant::now());
        match admit(oldest, inner.options.age_max, inner.options.policy) {
            StagingDecision::Accept => {}
            StagingDecision::Refuse => {
                metrics::counter!(STAGING_REFUSED_TOTAL).increment(1);
                return Err(WriteError::Overloaded);
            }
            StagingDecision::TurnDurable => {
                metrics::counter!(STAGING_TURNED_DURABLE_TOTAL).increment(1);
                return Ok(StagedAnswer::TurnDurable);
            }
        }
        let times = events.iter().filter_map(|event| event.event.observed_at);
        if !inner.ensure_partitions(times.collect()).await? {
            return Ok(StagedAnswer::TurnDurable);
        }
        for _ in 0..2 {
            let copy = inner.encode(scope.tenant(), entry, events);
            let values = copy.values();
            match stage(&inner.writer, scope, entry, rejections, copy).await? {
                StageOutcome::Staged(batch) => {
                    locked(&inner.memory).remember(batch);
                    locked(&inner.backlog).stage(Instant::now());
                    inner.staged.notify_one();
                    inner.watched.notify_one();
                    return Ok(StagedAnswer::Staged { values });
                }
                StageOutcome::AlreadyThere => return Ok(StagedAnswer::AlreadyThere),
                StageOutcome::OtherLineage => return Err(WriteError::OtherLineage),
                StageOutcome::LossUnnoticed => inner.notice_loss().await?,
            }
        }
        Err(WriteError::Overloaded)
    }

    /// What is true of a batch; absent if none with this id was staged. One that this server has staged and the database
    /// does not know any more is on its way to be lost, until the loss is written down.
    pub async fn status(
        &self,
        app: &Pool,
        scope: &TenantScope,
        batch: BatchId,
    ) -> Result<Option<StagedStatus>, PgError> {
        let status = fetch_staged_status(app, scope, batch).await?;
        let is_ours = locked(&self.inner.memory).holds(scope.tenant(), batch);
        Ok(match status {
            Some(status) if is_ours && status.state == StagedState::Unknown => Some(StagedStatus {
                state: StagedState::Lost,
                ..status
            }),
            status => status,
        })
    }
}

impl Inner {
    fn encode(&self, tenant: TenantId, entry: &LedgerEntry, events: &[GroupEvent]) -> StagedCopy {
        let mut copy = StagedCopy::new(tenant, entry.batch, entry.received_at);
        for event in events {
            let bucket = self.settings.bucket(tenant, event.entity);
            let index = i32::try_from(event.index).unwrap_or(i32::MAX);
            copy.push(index, event.entity, bucket, &event.event);
        }
        copy
    }

    /// Makes the partitions that these instants lack, so that no flush has to; not where one is closed to writes.
    async fn ensure_partitions(&self, times: BTreeSet<Timestamp>) -> Result<bool, PgError> {
        if !locked(&self.partitions).hold(&times, Instant::now()) {
            let read_at = Instant::now();
            let partitions = partitions_with(&self.writer, &times).await?;
            let has_closed = times.iter().any(|time| partitions.refuse(*time));
            *locked(&self.partitions) =
                KnownPartitions::read(partitions.open, partitions.closed_before, read_at);
            return Ok(!has_closed);
        }
        Ok(true)
    }

    /// Looks for a loss; after one, what it took without a trace is written down.
    async fn notice_loss(&self) -> Result<(), PgError> {
        let found = detect_loss(&self.writer).await?;
        let before = *locked(&self.epoch);
        if found.epoch <= before {
            return Ok(());
        }
        let taken = locked(&self.memory).of_epochs_before(found.epoch);
        mark_lost(&self.writer, &taken).await?;
        locked(&self.memory).forget_epochs_before(found.epoch);
        *locked(&self.epoch) = found.epoch;
        let losses = u64::try_from(found.epoch - 1).unwrap_or_default();
        metrics::counter!(STAGING_LOSSES_TOTAL).absolute(losses);
        if before > 0 || found.batches_lost > 0 {
            tracing::error!(
                epoch = found.epoch,
                batches = found.batches_lost,
                "postgresql has recovered, and everything that was staged is lost"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
