//! Whether the lake has every fact that PostgreSQL has, once and no other: compared by digests of hours, and looked into where
//! they differ.
//!
//! Facts are immutable, and those of an event are in the lake once it has come as far: in its tables, or waiting to be. So both
//! sides are counted one after the other, each as of its own moment, up to a cutoff by when an event was received; what is equal by that
//! is equal. What is not is looked at again, instant by instant, and only what differs then too is told. What is put right is
//! asked of the sink, the lake's one writer.

mod archives;
mod counting;
mod drilling;
mod explosion;
mod lake_files;
mod looking;
mod report;
mod run;
mod second_look;
mod suspects;

use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::Pool;
use sheaf_store::lake::{LakeFeed, LakeName};
use sheaf_store::reconcile::{claim_run, release_run, store_run};
use tokio::time::sleep;
use uuid::Uuid;

use crate::error::LakeError;
use crate::sink::LakeOptions;
use crate::warehouse::{Location, Warehouse};

pub(crate) use counting::VISIBLE_WITHIN;
pub(crate) use explosion::event_row;
pub use report::{
    Difference, DifferenceCounts, DifferenceKind, NotCompared, Outcome, Repaired, Report, Work,
};

/// For how long whoever looks may not have said that they still do.
const LEASE: Duration = Duration::from_secs(60);

/// What is compared.
#[derive(Debug, Clone)]
pub struct ReconcileOptions {
    /// What the lake is called.
    pub name: LakeName,
    /// Where its files are.
    pub location: Location,
    /// How it is fed.
    pub feed: LakeFeed,
    /// Events that were received so short a time ago are left out: their transactions may still be going on.
    pub settled_after: Duration,
    /// How long the lake is waited for to come as far as PostgreSQL, where something differs, and to put right what is asked.
    pub wait_max: Duration,
}

impl ReconcileOptions {
    /// Those of a lake that is fed by a slot.
    pub fn of(lake: &LakeOptions, slot: String) -> ReconcileOptions {
        ReconcileOptions {
            name: lake.name.clone(),
            location: lake.location.clone(),
            feed: LakeFeed {
                slot,
                sink: lake.sink.clone(),
            },
            // A request is written within its deadline, mostly at once. What takes longer costs a second look.
            settled_after: Duration::from_secs(10),
            // A commit of the lake every few seconds, and a correction within one minute.
            wait_max: Duration::from_secs(120),
        }
    }
}

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileRequest {
    /// Everything is read anew, and not only what changed.
    pub reads_whole: bool,
    /// Files that were read the longest ago are read again: so many. A file may decay without being changed.
    pub files_again: i64,
    /// The same of one partition that was not read whole for this long.
    pub partition_again_after: Option<Duration>,
    /// Differences of this tenant alone.
    pub tenant: Option<i64>,
    /// Differences of hours from this instant on.
    pub from: Option<Timestamp>,
    /// Differences of hours before this instant.
    pub until: Option<Timestamp>,
    /// What differs is put right, as PostgreSQL has it: so many events at most, or those of one instant more.
    pub repairs_max: usize,
    /// How many differences are told one by one.
    pub differences_max: usize,
}

impl ReconcileRequest {
    /// As many as are put right in one reconciliation.
    pub const REPAIRS_MAX: usize = 100_000;

    /// Whether what it comes to says something of all tenants and of all times.
    fn is_of_everything(&self) -> bool {
        self.tenant.is_none() && self.from.is_none() && self.until.is_none()
    }
}

/// Compares both sides.
#[derive(Debug)]
pub struct Reconciler {
    cdc: Pool,
    options: ReconcileOptions,
    warehouse: Warehouse,
}

impl Reconciler {
    /// Over the lake that these options describe, as `sheaf_cdc`. Nothing is read yet.
    ///
    /// # Errors
    /// The place cannot hold one.
    pub fn new(cdc: &Pool, options: ReconcileOptions) -> Result<Reconciler, LakeError> {
        Ok(Reconciler {
            cdc: cdc.clone(),
            warehouse: Warehouse::open(&options.location)?,
            options,
        })
    }

    /// Looks at both sides. Whoever drops this while it goes on keeps others from looking for a minute.
    ///
    /// # Errors
    /// A side cannot be read. What was counted until then stays counted.
    pub async fn run(&self, request: &ReconcileRequest) -> Result<Report, LakeError> {
        let runner = Uuid::new_v4();
        if !self.claim(runner).await? {
            let reason = NotCompared::Busy;
            return Ok(Report::not_compared(reason, Timestamp::now()));
        }
        let outcome = tokio::select! {
            outcome = self.compare(request) => outcome,
            lost = self.stay(runner) => Err(lost),
        };
        release_run(&self.cdc, runner).await?;
        let report = outcome?;
        if !request.is_of_everything() {
            return Ok(report);
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let hours = report.hours_left + report.archived.len() as u64;
        let counts = DifferenceKind::ALL.map(|kind| number(report.counts.of(kind)));
        let name = report.outcome.as_str();
        let now = Timestamp::now();
        store_run(&self.cdc, now, name, report.cutoff, number(hours), counts).await?;
        Ok(report)
    }

    async fn claim(&self, runner: Uuid) -> Result<bool, LakeError> {
        let seconds = i64::try_from(LEASE.as_secs()).unwrap_or(i64::MAX);
        Ok(claim_run(&self.cdc, runner, seconds).await?)
    }

    /// Says again and again who looks. Ends only when somebody else does.
    async fn stay(&self, runner: Uuid) -> LakeError {
        loop {
            sleep(LEASE / 4).await;
            match self.claim(runner).await {
                Ok(true) => {}
                Ok(false) => return LakeError::Ending,
                Err(error) => return error,
            }
        }
    }
}
