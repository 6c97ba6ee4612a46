//! Proof that a synchronous standby has what was committed here: what an acknowledgement as replicated waits for.
//!
//! Writers commit with local durability only, so that a standby that is away stops nobody who did not ask for it.
//! Who did ask passes a fence afterwards: a transaction that writes a record of its own and commits with
//! `synchronous_commit = on`. Standbys confirm the log in order, so one that has confirmed the fence has confirmed all
//! that was committed before it. Whoever waits at the same time shares one fence; what arrives meanwhile is the next.
//!
//! It never promises more than it knows. PostgreSQL ends the wait of a commit early when an administrator cancels it,
//! ends its session, or empties `synchronous_standby_names`, and calls all of these a success: [`proof`] tells them apart.
//!
//! A fence that no standby confirms stays where it is: a client that goes away does not end the wait of its backend, so
//! further ones would only pile up. Its waiters give up at their deadlines, and there is one connection, whatever happens.

mod line;
mod proof;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use line::Line;
use proof::covers;
use sheaf_model::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::error::PgError;
use crate::pool::Pool;
use crate::transaction::{Access, Statement, first_row, run};

/// Waiters that have not been taken up by a fence. More than this arrive only while a fence hangs.
const WAITERS_MAX: usize = 4096;
/// How long an answer to whether there are synchronous standbys is believed.
const AVAILABLE_FOR: Duration = Duration::from_secs(1);
/// Whether commits wait for anybody: PostgreSQL itself ignores the names where no standby may connect.
const STANDBY_NAMES: &str = "CASE WHEN current_setting('max_wal_senders')::int > 0
         THEN current_setting('synchronous_standby_names') ELSE '' END";

/// Why it is not known that a synchronous standby has what was committed. On the primary it is durable all the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FenceError {
    /// The primary has no synchronous standbys.
    #[error("no synchronous standby is configured")]
    NoStandby,
    /// No standby confirmed in time.
    #[error("no synchronous standby confirmed in time")]
    TimedOut,
    /// The wait was ended from outside before a standby confirmed.
    #[error("the wait for a synchronous standby was cancelled: {warning}")]
    Cancelled {
        /// What PostgreSQL said.
        warning: String,
    },
    /// The server is not the one that committed, or not any more: what it has is not known.
    #[error("the primary has changed since the commit")]
    OtherHistory,
    /// Too many wait already, for a standby that is away.
    #[error("too many wait for a synchronous standby")]
    Full,
    /// The fence has stopped.
    #[error("the fence has stopped")]
    Stopped,
    /// PostgreSQL failed.
    #[error("waiting for a synchronous standby")]
    Postgres(#[source] Arc<PgError>),
}

impl From<PgError> for FenceError {
    fn from(error: PgError) -> FenceError {
        FenceError::Postgres(Arc::new(error))
    }
}

type Outcome = Result<Position, FenceError>;

/// The fence of one server. Clones share it.
#[derive(Debug, Clone)]
pub struct Fence {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    waiting: mpsc::Sender<oneshot::Sender<Outcome>>,
    looks: Pool,
    /// The last look at whether there are synchronous standbys.
    looked: Mutex<Option<(Instant, bool)>>,
    /// Tells the task by its end that nobody is left.
    _alive: watch::Sender<()>,
}

impl Fence {
    /// The fence, and the task that passes it, which whoever owns the fence spawns and joins. The task has a connection
    /// of its own, made like those of `writer`; it connects when first asked, and ends when the last clone of the fence
    /// is dropped. `looks` lends a connection for a moment to see whether there are synchronous standbys.
    pub fn new(writer: &Pool, looks: Pool) -> (Fence, impl Future<Output = ()> + Send + 'static) {
        let (waiting, waiters) = mpsc::channel(WAITERS_MAX);
        let (alive, gone) = watch::channel(());
        let task = pass_fences(Line::new(writer), waiters, gone);
        let inner = Inner {
            waiting,
            looks,
            looked: Mutex::default(),
            _alive: alive,
        };
        let fence = Fence {
            inner: Arc::new(inner),
        };
        (fence, task)
    }

    /// Whether the primary has synchronous standbys: asked before anything is written. It looks at most once a second.
    pub async fn has_standby(&self) -> Result<bool, PgError> {
        let looked = *self.looked();
        if let Some((_, has_standby)) = looked.filter(|(at, _)| at.elapsed() < AVAILABLE_FOR) {
            return Ok(has_standby);
        }
        let has_standby = look(&self.inner.looks).await?;
        *self.looked() = Some((Instant::now(), has_standby));
        Ok(has_standby)
    }

    /// Returns once a synchronous standby has everything that was committed up to `committed`, which was read after
    /// the commit. The position it gives back is at or past that one.
    ///
    /// # Errors
    /// Whatever it is, nothing is known of any standby. The same again waits again.
    pub async fn wait(
        &self,
        committed: Position,
        deadline: Instant,
    ) -> Result<Position, FenceError> {
        let passed = self.pass(deadline).await?;
        if covers(passed, committed) {
            Ok(passed)
        } else {
            Err(FenceError::OtherHistory)
        }
    }

    /// As [`Fence::wait`] for whatever was committed before on the primary of now, which after a failover may be less
    /// than was committed on the one of before.
    pub async fn pass(&self, deadline: Instant) -> Result<Position, FenceError> {
        let (answer, outcome) = oneshot::channel();
        self.inner
            .waiting
            .try_send(answer)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => FenceError::Full,
                mpsc::error::TrySendError::Closed(_) => FenceError::Stopped,
            })?;
        timeout_at(deadline, outcome)
            .await
            .map_err(|_| FenceError::TimedOut)?
            .map_err(|_| FenceError::Stopped)?
    }

    fn looked(&self) -> std::sync::MutexGuard<'_, Option<(Instant, bool)>> {
        self.inner
            .looked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(pool: &Pool) -> Result<bool, PgError> {
    const STEP: &str = "looking for synchronous standbys";
    let client = pool.get().await?;
    let sql = format!("SELECT {STANDBY_NAMES} <> ''");
    let statement = Statement::new(STEP, &sql, vec![]);
    let rows = run(&client, Access::Read, None, &[statement]).await?;
    let row = first_row(&rows[0], STEP)?;
    Ok(row.get(0))
}

/// One fence after the other, each for all who wait when it starts.
async fn pass_fences(
    mut line: Line,
    mut waiters: mpsc::Receiver<oneshot::Sender<Outcome>>,
    mut gone: watch::Receiver<()>,
) {
    while let Some(first) = waiters.recv().await {
        let mut round = vec![first];
        while let Ok(waiter) = waiters.try_recv() {
            round.push(waiter);
        }
        round.retain(|waiter| !waiter.is_closed());
        if round.is_empty() {
            continue;
        }
        let outcome = tokio::select! {
            outcome = line.pass() => outcome,
            // Nothing is ever sent: this is the end of the last handle.
            _ = gone.changed() => return line.cancel().await,
        };
        for waiter in round {
            // Whoever gave up meanwhile has answered already.
            let _ = waiter.send(outcome.clone());
        }
    }
}
