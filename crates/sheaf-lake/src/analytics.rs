//! Questions over the lake: one SELECT of one tenant at a time, computed by DataFusion over that tenant's rows.
//!
//! What keeps tenants apart is not in the question and not in its checks: a session is made for each question, and the tables in
//! it can give rows of its tenant only (`scan.rs`). What keeps questions from harming others is bounds on text, plan, memory, rows
//! and time, and that they are computed on threads of their own, behind all others.

mod asking;
mod budget;
mod cells;
mod columns;
mod constants;
mod counted;
mod describing;
mod entity;
mod error;
mod exact_sum;
mod excerpts;
mod files;
mod functions;
mod headings;
mod implied;
mod inlining;
mod keyframe;
mod params;
mod parquet_reader;
mod pruning;
mod runs;
mod scan;
mod session;
mod shown;
mod slices;
mod standing;
mod statement;
mod stop;
mod tame;
mod tenant_table;
mod threads;
mod uniform;
mod utc_trunc;
mod views;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::execution::memory_pool::MemoryReservation;
use sheaf_export::{Cell, Column};
use sheaf_model::{Position, Timestamp};
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::lake::{LakeFeed, LakeName, LakeStanding, look_at_lake};
use sheaf_store::settings::Settings;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use describing::Description;
pub use error::{Bound, QueryError};
pub use params::Param;
pub use scan::Scanned;
pub use shown::ShownFrom;
pub use standing::Cover;
pub use views::ShownTable;

use crate::error::LakeError;
use crate::instruments::SQL_MEMORY_BYTES;
use crate::sink::LakeOptions;
use crate::warehouse::{Location, Warehouse};
use asking::Asking;
use budget::Budgets;
use counted::Waiting;
use excerpts::ExcerptBook;
pub(crate) use excerpts::cell;
use files::FileBook;
use parquet_reader::FileEnds;
use scan::Tally;
pub(crate) use standing::covered;
use standing::{Moments, cover, lag, position_of};
use stop::Stop;
use threads::Threads;
use views::KnownTypes;

/// Between two looks at how far the database and the lake are. Of an answer it is said that it is older than it is by at most so
/// much.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks while a token is waited for.
const WAIT_EVERY: Duration = Duration::from_millis(200);
/// Batches that were computed and nobody has taken yet.
const BATCHES_AHEAD: usize = 2;

/// What questions may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryBounds {
    /// Memory of one question. Less refuses joins and groups of many members sooner.
    pub query_bytes_max: usize,
    /// Memory of a tenant's questions together.
    pub tenant_bytes_max: usize,
    /// Memory of all questions.
    pub all_bytes_max: usize,
    /// Rows of the groups of rows that a question may decode, of all tables together.
    pub rows_max: u64,
    /// How long a question may be computed. Time that a client takes to take rows does not count.
    pub time_max: Duration,
    /// How long waiting for a token and computing may take together.
    pub request_max: Duration,
    /// How long a batch of rows may wait for a client.
    pub client_max: Duration,
    /// How long all batches of an answer may wait for a client together.
    pub clients_max: Duration,
}

impl Default for QueryBounds {
    fn default() -> QueryBounds {
        QueryBounds {
            query_bytes_max: 256 << 20,
            tenant_bytes_max: 512 << 20,
            all_bytes_max: 1 << 30,
            rows_max: 2_000_000_000,
            // Less than any request may take, so that whoever asked is told why.
            time_max: Duration::from_secs(25),
            request_max: Duration::from_secs(28),
            client_max: Duration::from_secs(30),
            clients_max: Duration::from_secs(300),
        }
    }
}

impl QueryBounds {
    /// How long a question may be computed after so long a wait for a token.
    fn time_after(&self, waited: Duration) -> Duration {
        self.time_max.min(self.request_max.saturating_sub(waited))
    }
}

/// How the lake is read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// What the lake is called in SQL catalogues.
    pub name: LakeName,
    /// Where its files are.
    pub location: Location,
    /// How it is fed.
    pub feed: LakeFeed,
    /// What questions may take.
    pub bounds: QueryBounds,
    /// How many threads compute; as many as there are processors where it is not said.
    pub threads: Option<usize>,
}

impl ReaderOptions {
    /// How the lake is read that is written so, fed from this slot.
    pub fn of(written: &LakeOptions, slot: String) -> ReaderOptions {
        ReaderOptions {
            name: written.name.clone(),
            location: written.location.clone(),
            feed: LakeFeed {
                slot,
                sink: written.sink.clone(),
            },
            bounds: QueryBounds::default(),
            threads: None,
        }
    }
}

/// Answers questions over the lake. Clones share everything.
#[derive(Debug, Clone)]
pub struct LakeReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    app: Pool,
    settings: Arc<Settings>,
    options: ReaderOptions,
    warehouse: Warehouse,
    book: Arc<FileBook>,
    ends: Arc<FileEnds>,
    excerpts: ExcerptBook,
    types: KnownTypes,
    budgets: Budgets,
    moments: Mutex<Moments>,
    threads: Threads,
}

/// The lake as of one commit, and how old that is.
#[derive(Debug, Clone)]
pub struct LakeSnapshot {
    standing: Option<LakeStanding>,
    /// How long was waited for it.
    waited: Duration,
    /// Where it is: a token of this position is covered.
    pub position: Position,
    /// Everything that was committed before this instant of the database's clock is there; absent where nobody can say.
    pub complete_until: Option<Timestamp>,
    /// How far it is behind the database's clock; absent where nobody can say.
    pub lag: Option<Duration>,
    /// Whether it covers the token that was asked for.
    pub cover: Cover,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// One SELECT.
    pub query: String,
    /// The values for `$1` and so on.
    pub params: Vec<Param>,
    /// From when on history is shown to it.
    pub shown: ShownFrom,
}

/// An answer that is being computed. Dropped, it stops.
#[derive(Debug)]
pub struct Answer {
    /// Its columns.
    pub columns: Vec<Column>,
    rows: mpsc::Receiver<Result<Option<Piece>, QueryError>>,
    is_at_end: bool,
    /// Memory of the rows that were taken last.
    taken: Option<MemoryReservation>,
    tally: Arc<Tally>,
    _task: Task,
}

/// Some rows of an answer, and the memory that they take.
#[derive(Debug)]
struct Piece {
    rows: Vec<Vec<Cell>>,
    memory: MemoryReservation,
}

/// A task that ends with whoever holds it.
#[derive(Debug)]
struct Task {
    running: JoinHandle<()>,
    stop: Arc<Stop>,
}

impl Drop for Task {
    fn drop(&mut self) {
        // What is computed just now is not ended by the other.
        self.stop.stop();
        self.running.abort();
    }
}

impl Answer {
    /// The next rows; none at the end.
    ///
    /// # Errors
    /// What stopped the computation. Nothing follows.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<Cell>>>, QueryError> {
        self.taken = None;
        if self.is_at_end {
            return Ok(None);
        }
        match self.rows.recv().await {
            Some(Ok(Some(piece))) => {
                self.taken = Some(piece.memory);
                Ok(Some(piece.rows))
            }
            Some(Ok(None)) => {
                self.is_at_end = true;
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            // It ended without its end: rows were not taken in time.
            None => Err(QueryError::limit(Bound::Time)),
        }
    }

    /// What was read so far.
    pub fn scanned(&self) -> Scanned {
        self.tally.scanned()
    }
}

impl LakeReader {
    /// A reader of the lake that these options describe, as `sheaf_app`.
    ///
    /// # Errors
    /// The place cannot hold one, or there are no threads to be had.
    pub fn new(
        app: &Pool,
        settings: Arc<Settings>,
        options: ReaderOptions,
    ) -> Result<LakeReader, LakeError> {
        let warehouse = Warehouse::open(&options.location)?;
        let bounds = options.bounds;
        let budgets = Budgets::new(
            bounds.query_bytes_max,
            bounds.tenant_bytes_max,
            bounds.all_bytes_max,
        );
        let threads = Threads::start(options.threads)?;
        Ok(LakeReader {
            shared: Arc::new(Shared {
                app: app.clone(),
                settings,
                book: Arc::new(FileBook::new(warehouse.clone())),
                ends: Arc::new(FileEnds::new()),
                excerpts: ExcerptBook::new(),
                types: KnownTypes::new(),
                warehouse,
                budgets,
                moments: Mutex::default(),
                threads,
                options,
            }),
        })
    }

    /// Looks again and again, so that it is known how old the lake is. Never ends.
    pub async fn watch(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_seen = true;
        loop {
            looks.tick().await;
            let look = self.look(None).await;
            metrics::gauge!(SQL_MEMORY_BYTES).set(self.taken_bytes() as f64);
            if let (Err(error), true) = (&look, was_seen) {
                let cause = sheaf_pg::chain(error);
                tracing::warn!(cause, "it cannot be seen how far the lake is");
            }
            was_seen = look.is_ok();
        }
    }

    /// The lake as it is now, and whether that covers a token.
    pub async fn look(&self, token: Option<Position>) -> Result<LakeSnapshot, QueryError> {
        let shared = &self.shared;
        let (name, feed) = (&shared.options.name, &shared.options.feed);
        let look = look_at_lake(&shared.app, name, feed, &shared.settings).await?;
        // What a primary that was left behind says of the lake is of a history that has ended.
        let newest = shared.app.newest_timeline();
        newest.require(look.now.position.lineage())?;
        let position = look.standing.as_ref().map(|standing| standing.position);
        let covered =
            position.and_then(|position| covered(&position, look.followed, look.held_until));
        let complete_until = {
            let mut moments = shared
                .moments
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            moments.saw(look.now);
            covered.and_then(|covered| moments.complete_until(covered))
        };
        let now = look.now.position;
        Ok(LakeSnapshot {
            standing: look.standing,
            waited: Duration::ZERO,
            position: position_of(covered, now),
            complete_until,
            lag: lag(complete_until, look.now.complete_until),
            cover: token.map_or(Cover::Covered, |token| cover(token, now, covered)),
        })
    }

    /// The same, once it covers the token, or as it is after so long.
    pub async fn wait(
        &self,
        token: Option<Position>,
        at_most: Duration,
    ) -> Result<LakeSnapshot, QueryError> {
        let _waiting = Waiting::begin();
        let since = Instant::now();
        let until = since + at_most;
        loop {
            let snapshot = LakeSnapshot {
                waited: since.elapsed(),
                ..self.look(token).await?
            };
            if snapshot.cover != Cover::Behind || Instant::now() + WAIT_EVERY > until {
                return Ok(snapshot);
            }
            tokio::time::sleep(WAIT_EVERY).await;
        }
    }

    /// Memory that all questions have taken now.
    pub fn taken_bytes(&self) -> usize {
        self.shared.budgets.taken()
    }

    /// Answers a question of a tenant from a state of the lake.
    ///
    /// # Errors
    /// The question cannot be answered; what goes wrong later, [`Answer::next`] says.
    pub async fn ask(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
        question: Question,
    ) -> Result<Answer, QueryError> {
        let asking = Asking {
            shown: question.shown.clone(),
            ..self.asking(scope, snapshot)?
        };
        let (tally, stop) = (Arc::clone(&asking.tally), Arc::clone(&asking.stop));
        let (sender, rows) = mpsc::channel(BATCHES_AHEAD);
        let (told, columns) = tokio::sync::oneshot::channel();
        let running = self.shared.threads.spawn(async move {
            asking.run(question, told, sender).await;
        });
        let task = Task { running, stop };
        let columns = columns.await.map_err(|_| ended())?;
        Ok(Answer {
            columns: columns?,
            rows,
            is_at_end: false,
            taken: None,
            tally,
            _task: task,
        })
    }

    /// The tables that a tenant's questions can name, each with the columns that `*` gives.
    ///
    /// # Errors
    /// The lake could not be read, or it takes more than a question may have.
    pub async fn tables(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
    ) -> Result<Vec<ShownTable>, QueryError> {
        let asking = self.asking(scope, snapshot)?;
        let stop = Arc::clone(&asking.stop);
        let (told, tables) = tokio::sync::oneshot::channel();
        let running = self.shared.threads.spawn(async move {
            let _ = told.send(asking.shown().await);
        });
        let _task = Task { running, stop };
        tables.await.map_err(|_| ended())?
    }

    /// Where the files are that may hold facts of a tenant, for engines that read them by themselves.
    ///
    /// # Errors
    /// The lake could not be read.
    pub async fn data_files(
        &self,
        scope: &TenantScope,
        snapshot: &LakeSnapshot,
    ) -> Result<Vec<String>, QueryError> {
        self.asking(scope, snapshot)?.data_files().await
    }

    fn asking(&self, scope: &TenantScope, snapshot: &LakeSnapshot) -> Result<Asking, QueryError> {
        let standing = snapshot.standing.as_ref().ok_or(QueryError::Empty)?;
        Ok(Asking {
            shared: Arc::clone(&self.shared),
            tenant: scope.tenant(),
            tables: standing.tables.clone(),
            tally: Arc::new(Tally::default()),
            time_max: self.shared.options.bounds.time_after(snapshot.waited),
            stop: Arc::new(Stop::new()),
            shown: ShownFrom::default(),
        })
    }
}

fn ended() -> QueryError {
    QueryError::Internal {
        step: "answering a query",
        source: "its computation ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_token_and_computing_fit_into_one_request() {
        let bounds = QueryBounds::default();
        for (waited, left) in [(0, 25), (3, 25), (10, 18), (15, 13), (40, 0)] {
            let after = bounds.time_after(Duration::from_secs(waited));
            assert_eq!(after, Duration::from_secs(left), "after {waited}");
        }
    }
}
