//! A source that was chosen for one read: it runs the read's transactions, and keeps what they have proven.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sheaf_model::{Lineage, Lsn, Position};
use sheaf_pg::{
    Access, Disposition, PgError, Pool, Reading, Setting, Statement, run, run_after, run_alone,
    wait_replayed,
};
use sheaf_store::TenantScope;
use sheaf_store::snapshot::{
    Replayed, Snapshot, Standing, covered_by, read_replayed, read_snapshot, read_standing,
    replayed_of, snapshot_of, standing_of,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_postgres::Row;

use super::breaker::Event;
use super::proof::{Demand, PROMOTED, judge};
use super::registry::{Replica, SourcePools, Sources};
use super::shelf::Shelf;
use super::view::LOST_AFTER;
use crate::consistency::{DataSource, Freshness, Lag, ReadOptions};
use crate::error::ReadError;

/// How long an answer of a replica is waited for: longer than its statements may take, and short enough that another
/// source has as long within the deadline of a request. What is cut off hangs, at a lock of a replay that was paused.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(12);
/// How long a read waits for a connection to a replica before another source is asked.
const REPLICA_WAIT_MAX: Duration = Duration::from_secs(1);
/// How much later than it was told a replica may say that a wait has ended in vain, before it is not listened to.
const TOLD_WITHIN: Duration = Duration::from_millis(100);
/// How long a read waits for its turn among those that the primary answers in place of replicas.
const IN_PLACE_WAIT_MAX: Duration = Duration::from_secs(1);

/// A source, asked on behalf of one read.
#[derive(Debug)]
pub(crate) struct Source {
    sources: Arc<Sources>,
    asked: Asked,
    options: ReadOptions,
    proven: Mutex<Option<Freshness>>,
    covers: Mutex<Option<Lsn>>,
    archive: Shelf,
}

#[derive(Debug)]
enum Asked {
    /// The turn is held until the read ends.
    Primary {
        _turn: Option<OwnedSemaphorePermit>,
    },
    Replica(Seat),
}

/// A place at a replica; whoever leaves it without an outcome says so.
#[derive(Debug)]
struct Seat {
    replica: Arc<Replica>,
    is_settled: AtomicBool,
}

impl Seat {
    fn answered(&self, took: Duration) {
        self.is_settled.store(true, Ordering::Relaxed);
        self.replica.answered(took);
    }

    fn unfit(&self, why: &'static str) -> ReadError {
        ReadError::Unfit {
            replica: Arc::clone(&self.replica.name),
            why,
        }
    }

    fn failed(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
        let jitter = rand::random();
        self.replica.step(Event::Failed { jitter });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.is_settled.load(Ordering::Relaxed) {
            self.replica.step(Event::Left);
        }
    }
}

/// A role that reads.
#[derive(Debug, Clone, Copy)]
enum Role {
    App,
    Search,
}

impl Role {
    fn of(self, pools: &SourcePools) -> &Pool {
        match self {
            Role::App => &pools.app,
            Role::Search => &pools.search,
        }
    }
}

impl Source {
    /// The primary; within a bound where it answers in place of replicas.
    pub(crate) async fn primary(
        sources: &Arc<Sources>,
        in_place: bool,
        options: &ReadOptions,
    ) -> Result<Source, ReadError> {
        let turn = if in_place {
            let turn = Arc::clone(&sources.in_place).acquire_owned();
            let turn = timeout(IN_PLACE_WAIT_MAX, turn).await;
            let turn = turn.map_err(|_| ReadError::PrimaryCrowded)?;
            Some(turn.expect("invariant: the semaphore is never closed"))
        } else {
            None
        };
        Ok(Source::new(
            sources,
            Asked::Primary { _turn: turn },
            options,
        ))
    }

    /// The replica, unless its breaker has let another read through meanwhile.
    pub(crate) fn replica(
        sources: &Arc<Sources>,
        replica: &Arc<Replica>,
        options: &ReadOptions,
    ) -> Option<Source> {
        if !replica.admit(Instant::now()) {
            return None;
        }
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        let seat = Seat {
            replica: Arc::clone(replica),
            is_settled: AtomicBool::new(false),
        };
        Some(Source::new(sources, Asked::Replica(seat), options))
    }

    fn new(sources: &Arc<Sources>, asked: Asked, options: &ReadOptions) -> Source {
        Source {
            sources: Arc::clone(sources),
            asked,
            options: *options,
            proven: Mutex::new(None),
            covers: Mutex::new(None),
            archive: Shelf::default(),
        }
    }

    /// The same, with what the archive has beside it.
    pub(crate) fn beside(self, archive: Shelf) -> Source {
        Source { archive, ..self }
    }

    /// What the archive has beside it.
    pub(crate) fn archive(&self) -> &Shelf {
        &self.archive
    }

    /// How far the source had come before its last transaction, where that was asked: all that was acknowledged with a token
    /// below this was seen. At the position itself a commit may be in the log and not yet be seen by anybody.
    pub(crate) fn covers(&self) -> Option<Lsn> {
        *self.covers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica that it is, if it is one.
    pub(crate) fn as_replica(&self) -> Option<&Arc<Replica>> {
        match &self.asked {
            Asked::Primary { .. } => None,
            Asked::Replica(seat) => Some(&seat.replica),
        }
    }

    /// The lineage that the transactions so far were of; absent before the first.
    pub(crate) fn lineage(&self) -> Option<Lineage> {
        self.seen().map(|seen| seen.lineage())
    }

    /// What a cursor keeps of what was read so far. Where the archive has answered, a later position is one that it would have to be
    /// waited for.
    pub(crate) fn kept_in_cursor(&self) -> Option<Position> {
        let seen = self.archive.position().or_else(|| self.seen());
        self.sources.kept_in_cursor(seen?)
    }

    /// A position that covers everything that was read so far; absent before the first transaction.
    fn seen(&self) -> Option<Position> {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.as_ref().map(|proven| proven.position)
    }

    /// What the transactions so far have proven, and what was read of the archive; absent before the first.
    pub(crate) fn into_freshness(self) -> Option<Freshness> {
        let proven = self.proven.into_inner();
        let proven = proven.unwrap_or_else(PoisonError::into_inner)?;
        Some(self.archive.together(proven))
    }

    /// Runs statements in one transaction under row-level security, from one snapshot and in one round trip.
    pub(crate) async fn run(
        &self,
        scope: &TenantScope,
        statements: Vec<Statement<'_>>,
    ) -> Result<Vec<Vec<Row>>, ReadError> {
        self.transact(Role::App, Some(scope.setting()), statements)
            .await
    }

    /// The same without a tenant: row-level security shows nothing then, and a function what it is for.
    pub(crate) async fn look_up(
        &self,
        statements: Vec<Statement<'_>>,
    ) -> Result<Vec<Vec<Row>>, ReadError> {
        self.transact(Role::App, None, statements).await
    }

    /// The same as `sheaf_search`, whose statements name their tenant in every relation.
    pub(crate) async fn search(
        &self,
        statements: Vec<Statement<'_>>,
    ) -> Result<Vec<Vec<Row>>, ReadError> {
        self.archive.saw_documents();
        self.transact(Role::Search, None, statements).await
    }

    /// Runs one statement as `sheaf_app` that is a transaction and brings its tenant with it, and gives back its row. It says
    /// itself how far the server had come.
    pub(crate) async fn run_alone(&self, statement: &Statement<'_>) -> Result<Row, ReadError> {
        let (row, proven) = match &self.asked {
            Asked::Primary { .. } => {
                let read = async {
                    let client = Reading::begin(&self.sources.primary.app).await?;
                    alone(client, statement).await
                };
                let row = self.sources.settled(read.await)?;
                let snapshot = snapshot_of(std::slice::from_ref(&row), &self.sources.settings)?;
                let proven = self.sources.of_primary(&snapshot, &self.options)?;
                (row, proven)
            }
            Asked::Replica(seat) => {
                let read = async {
                    let client = begin_on_replica(&seat.replica.pools.app).await?;
                    alone(client, statement).await
                };
                let row = answer_of(seat, read).await?;
                // A primary does not say how it stands as a standby.
                if !row.get::<_, bool>("in_recovery") {
                    return Err(seat.unfit(PROMOTED));
                }
                let standing = standing_of(std::slice::from_ref(&row))?;
                let before = Replayed {
                    lsn: covered_by(&row)?,
                    started_at: standing.started_at,
                };
                let proven =
                    self.sources
                        .proven_by_replica(seat, &before, &standing, &self.options)?;
                (row, proven)
            }
        };
        self.keep(proven, covered_by(&row)?)?;
        Ok(row)
    }

    async fn transact(
        &self,
        role: Role,
        setting: Option<Setting<'static>>,
        mut statements: Vec<Statement<'_>>,
    ) -> Result<Vec<Vec<Row>>, ReadError> {
        let (rows, proven, covers) = match &self.asked {
            Asked::Primary { .. } => {
                statements.push(read_snapshot());
                let pool = role.of(&self.sources.primary);
                let read = on_primary(pool, setting.as_ref(), &statements).await;
                let mut rows = self.sources.settled(read)?;
                let last = rows.pop().unwrap_or_default();
                let snapshot = snapshot_of(&last, &self.sources.settings)?;
                let proven = self.sources.of_primary(&snapshot, &self.options)?;
                (rows, proven, None)
            }
            Asked::Replica(seat) => {
                statements.push(read_standing());
                let pool = role.of(&seat.replica.pools);
                let read = on_replica(pool, setting.as_ref(), &statements);
                let (before, mut rows) = answer_of(seat, read).await?;
                let standing = standing_of(&rows.pop().unwrap_or_default())?;
                let before = replayed_of(&before)?;
                let proven =
                    self.sources
                        .proven_by_replica(seat, &before, &standing, &self.options)?;
                (rows, proven, before.lsn)
            }
        };
        self.keep(proven, covers)?;
        Ok(rows)
    }

    /// Keeps what a transaction has proven, beside what those before have.
    fn keep(&self, proven: Freshness, covers: Option<Lsn>) -> Result<(), ReadError> {
        *self.covers.lock().unwrap_or_else(PoisonError::into_inner) = covers;
        let mut kept = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(match kept.take() {
            None => proven,
            Some(earlier) => both(earlier, proven)?,
        });
        Ok(())
    }
}

/// One statement that is a transaction.
async fn alone(client: Reading, statement: &Statement<'_>) -> Result<Row, PgError> {
    let outcome = run_alone(&client, statement).await;
    client.rest();
    let row = outcome?.pop();
    row.ok_or_else(|| PgError::unreadable(statement.step, "no row"))
}

/// The rows of the statements.
async fn on_primary(
    pool: &Pool,
    setting: Option<&Setting<'_>>,
    statements: &[Statement<'_>],
) -> Result<Vec<Vec<Row>>, PgError> {
    let client = Reading::begin(pool).await?;
    let outcome = run(&client, Access::Read, setting, statements).await;
    client.rest();
    outcome
}

impl Sources {
    /// The freshness of what was read from this snapshot of the primary, if that satisfies the request and no promotion has
    /// left it behind.
    pub fn of_primary(
        &self,
        snapshot: &Snapshot,
        options: &ReadOptions,
    ) -> Result<Freshness, ReadError> {
        self.newest().require(snapshot.position.lineage())?;
        Freshness::of_primary(snapshot, options)
    }

    /// What the primary answered, counted by its breaker.
    fn settled<T>(&self, read: Result<T, PgError>) -> Result<T, PgError> {
        self.step_primary(match &read {
            Err(error) if error.disposition() == Disposition::Unavailable => {
                let jitter = rand::random();
                Event::Failed { jitter }
            }
            Ok(_) | Err(_) => Event::Answered,
        });
        read
    }

    /// What a transaction on a replica has proven.
    fn proven_by_replica(
        &self,
        seat: &Seat,
        before: &Replayed,
        standing: &Standing,
        options: &ReadOptions,
    ) -> Result<Freshness, ReadError> {
        let source = DataSource::Replica(Arc::clone(&seat.replica.name));
        let demand = Demand {
            system_id: self.settings.system_id,
            timeline: self.newest().get(),
            token: options.token,
            lag_max: options.lag_max(),
        };
        let proof = judge(&demand, before, standing, self.heart(), Instant::now());
        let proof = proof.map_err(|why| seat.unfit(why))?;
        Ok(Freshness {
            source,
            lag: proof.lag,
            data_timestamp: proof.complete_until,
            level: options.level,
            cache_hit: false,
            position: proof.position,
        })
    }
}

/// What a replica answers, counted by its breaker. One that stops answering is not waited for.
async fn answer_of<T>(
    seat: &Seat,
    read: impl Future<Output = Result<T, PgError>>,
) -> Result<T, ReadError> {
    let begun = Instant::now();
    match unless_lost(seat, read).await {
        Some(Ok(answer)) => {
            seat.answered(begun.elapsed());
            Ok(answer)
        }
        Some(Err(error)) => {
            if counts_as_failure(&error) {
                seat.failed();
            }
            Err(error.into())
        }
        None => {
            seat.failed();
            Err(seat.unfit("it does not answer"))
        }
    }
}

impl Replica {
    /// Whether the replica has told by this time, waiting itself, that it has replayed up to the position; nothing where
    /// it is told so to as many already as it may be.
    pub(crate) async fn reaches(&self, lsn: Lsn, until: Instant) -> Option<Result<bool, PgError>> {
        let _turn = self.waits.try_acquire().ok()?;
        let told = async {
            let client = begin_on_replica(&self.pools.app).await?;
            let left = until.saturating_duration_since(Instant::now());
            let waited = wait_replayed(&client, lsn, left).await;
            client.rest();
            waited
        };
        Some(tokio::select! {
            told = told => told,
            () = self.lost() => Ok(false),
            () = sleep_until((until + TOLD_WITHIN).into()) => Ok(false),
        })
    }

    /// Returns once the replica has not answered the watch for too long, or is taken out.
    pub(super) async fn lost(&self) {
        loop {
            let seen = self.seen();
            let is_removed = self.is_removed.load(Ordering::Relaxed);
            let Some(seen) = seen.filter(|seen| !is_removed && !seen.is_lost(Instant::now()))
            else {
                return;
            };
            sleep_until((seen.asked_at + LOST_AFTER + Duration::from_millis(1)).into()).await;
        }
    }
}

/// The outcome, or nothing where the replica was lost before there was one.
async fn unless_lost<T>(seat: &Seat, read: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        outcome = read => Some(outcome),
        () = seat.replica.lost() => None,
        () = sleep(ANSWER_WAIT_MAX) => None,
    }
}

/// The rows of the statements, and before them how far the replica had come.
async fn on_replica(
    pool: &Pool,
    setting: Option<&Setting<'_>>,
    statements: &[Statement<'_>],
) -> Result<(Vec<Row>, Vec<Vec<Row>>), PgError> {
    let client = begin_on_replica(pool).await?;
    let outcome = run_after(&client, &read_replayed(), setting, statements).await;
    client.rest();
    outcome
}

/// A connection to a replica. A read that nobody waits for any more is cancelled, and its connection closed: what is sent on
/// it would wait behind.
async fn begin_on_replica(pool: &Pool) -> Result<Reading, PgError> {
    let waited = timeout(REPLICA_WAIT_MAX, Reading::begin(pool)).await;
    waited.map_err(|_| PgError::Connect {
        role: pool.role().to_owned(),
        source: "no connection in time".into(),
    })?
}

/// A statement that ran into its time limit, and one that was cancelled because the replay had to go on, say nothing
/// against a replica.
fn counts_as_failure(error: &PgError) -> bool {
    match error.disposition() {
        // It was never sent.
        _ if error.is_unsent() => false,
        Disposition::TimedOut | Disposition::Retry => false,
        Disposition::Unavailable
        | Disposition::StorageFull
        | Disposition::Conflict
        | Disposition::Stop => true,
    }
}

/// What two transactions of one read have proven together: as old as the older one, and covered by the newer one.
fn both(one: Freshness, other: Freshness) -> Result<Freshness, ReadError> {
    if one.position.lineage() != other.position.lineage() {
        return Err(ReadError::CatalogueChanged);
    }
    Ok(together(one, &other))
}

/// As old as the older one, and covered by the newer one. Both are of one lineage.
pub(super) fn together(one: Freshness, other: &Freshness) -> Freshness {
    let lag = match (one.lag, other.lag) {
        (Lag::Measured(one), Lag::Measured(other)) => Lag::Measured(one.max(other)),
        (Lag::Unknown, _) | (_, Lag::Unknown) => Lag::Unknown,
    };
    let Lsn(lsn) = one.position.lsn.max(other.position.lsn);
    let mut together = one;
    together.lag = lag;
    together.data_timestamp = together.data_timestamp.min(other.data_timestamp);
    together.position.lsn = Lsn(lsn);
    together
}
