//! The stream: a slot that is followed, its changes brought to every sink, and confirmed once every sink holds them.

mod session;
mod unconfirmed;

use std::time::Duration;

use sheaf_model::Timestamp;
use sheaf_pg::{Disposition, PgError, Pool, ReplicationConnection, ReplicationError, Tls, chain};
use sheaf_store::changes::{claim_slot, forget_other_sinks, look_at_slot};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;

use crate::assembly::AssemblyFault;
use crate::feed::PLUGIN_OPTIONS;
use crate::letter::PAYLOAD_BYTES_MAX;
use crate::pgoutput::Malformed;
use crate::retention::{Pressure, RETAINED_BYTES_MAX, Retention};
use crate::sink::Sink;
use crate::slot::{PreparedSlot, SlotError, prepare_slot};
use crate::status::{SinkState, StreamStatus};
use session::{Session, SessionEnd};

/// The longest pause before a slot is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How a stream works.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The slot's name, of lower-case letters, digits and underscores: one for each database of a cluster.
    pub slot: String,
    /// How often confirmations are sent and statuses told. Each asks the server for a sign of life.
    pub tick_every: Duration,
    /// How often it is stored how far a sink is. What was not stored is sent again after a crash.
    pub store_every: Duration,
    /// How often the slot of an idle database is moved on. Each time writes a row.
    pub idle_confirm_every: Duration,
    /// How often it is measured how much log the slot holds, and looked at the publication.
    pub measure_every: Duration,
    /// Rows of a snapshot that are read at once: each such statement sorts nothing and holds nothing open for long.
    pub snapshot_rows: i64,
    /// Changes in a batch at most.
    pub batch_changes_max: usize,
    /// Bytes in a batch at most, but for a single change that is larger.
    pub batch_bytes_max: usize,
    /// Bytes in a row at most: of a longer one it is kept that it was there.
    pub row_bytes_max: usize,
    /// Batches that wait for each sink at most.
    pub queue_batches: usize,
    /// How long a sink may have no room for a batch while others have, before it is parked.
    pub room_max: Duration,
    /// How long a sink may take for one thing before it has failed.
    pub sink_max: Duration,
    /// The pause before a failed sink or a lost connection is tried again; twice as long after each further failure.
    pub retry_after: Duration,
    /// From how much log on sinks are given up, whatever the server's limit.
    pub retained_bytes_max: i64,
}

impl StreamOptions {
    /// A second is what confirmations may be late; batches are what a page of a file takes well; four of them hide the pauses of
    /// a sink, and all of it stays below 30 MB a sink.
    pub fn new(slot: impl Into<String>) -> StreamOptions {
        StreamOptions {
            slot: slot.into(),
            tick_every: Duration::from_secs(1),
            store_every: Duration::from_secs(1),
            idle_confirm_every: Duration::from_secs(10),
            measure_every: Duration::from_secs(5),
            snapshot_rows: 2_000,
            batch_changes_max: 2_000,
            batch_bytes_max: 4 << 20,
            row_bytes_max: PAYLOAD_BYTES_MAX,
            queue_batches: 4,
            room_max: Duration::from_secs(5),
            sink_max: Duration::from_secs(60),
            retry_after: Duration::from_secs(1),
            retained_bytes_max: RETAINED_BYTES_MAX,
        }
    }
}

/// Why a stream has ended, or pauses.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is no slot to follow.
    #[error("preparing the slot of changes")]
    Slot(#[from] SlotError),
    /// The slot cannot be followed.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// PostgreSQL failed otherwise.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The replication connection led to another server than the others.
    #[error("the replication connection leads to another server than the others")]
    OtherServer,
    /// A promotion has left behind the server whose slot is followed.
    #[error("a promotion has left behind the server whose slot is followed")]
    LeftBehind,
    /// The server has been silent although it was asked.
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
    /// The slot is somebody else's to read now, or was forgotten because its publication had to be mended.
    #[error("the slot is not this reader's any more")]
    Fenced,
    /// A message that is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Messages that do not fit together, or a table that is none of ours.
    #[error(transparent)]
    Assembly(#[from] AssemblyFault),
    /// A sink's task has panicked.
    #[error("the task of a sink has ended without it")]
    SinkLost,
}

impl StreamError {
    /// Whether the same attempt may succeed later although nobody changes anything.
    fn passes_by_itself(&self) -> bool {
        match self {
            StreamError::Slot(SlotError::Postgres(error)) | StreamError::Postgres(error) => {
                error.passes_by_itself()
                    || matches!(
                        error.disposition(),
                        Disposition::Retry | Disposition::TimedOut | Disposition::StorageFull
                    )
            }
            // Whoever follows it may end, a failover may go on.
            StreamError::Slot(SlotError::Busy { .. } | SlotError::Standby) => true,
            StreamError::Slot(SlotError::Foreign { .. }) => false,
            StreamError::Replication(error) => match error.sqlstate() {
                // The slot is in use, gone, or lost meanwhile; shutdowns; want of connections.
                Some(code) => {
                    matches!(code, "55006" | "42704" | "55000" | "25006")
                        || ["57P", "53", "08", "58"]
                            .iter()
                            .any(|class| code.starts_with(class))
                }
                None => true,
            },
            StreamError::OtherServer
            | StreamError::LeftBehind
            | StreamError::Silent(_)
            | StreamError::Fenced => true,
            StreamError::Malformed(_) | StreamError::Assembly(_) | StreamError::SinkLost => false,
        }
    }
}

/// A stream with its sinks.
pub struct ChangeStream {
    cdc: Pool,
    config: Config,
    tls: Tls,
    options: StreamOptions,
    sinks: Vec<Box<dyn Sink>>,
    status: watch::Sender<StreamStatus>,
}

impl ChangeStream {
    /// A stream as `sheaf_cdc`, over a pool of at least two connections more than there are sinks, and a replication connection
    /// that is made of `config`. Gives back where it says how it is.
    pub fn new(
        cdc: Pool,
        config: Config,
        tls: Tls,
        options: StreamOptions,
        sinks: Vec<Box<dyn Sink>>,
    ) -> (ChangeStream, watch::Receiver<StreamStatus>) {
        let names = sinks.iter().map(|sink| sink.name().to_owned());
        let (status, seen) = watch::channel(StreamStatus::new(&options.slot, names));
        let stream = ChangeStream {
            cdc,
            config,
            tls,
            options,
            sinks,
            status,
        };
        (stream, seen)
    }

    /// Follows the slot until told to stop, through everything that passes by itself.
    ///
    /// # Errors
    /// What does not: a message that cannot be understood, a right that is missing, a name that is taken.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), StreamError> {
        let mut failures = 0u32;
        loop {
            let outcome = self.follow(&mut stop).await;
            self.status.send_modify(|status| {
                status.is_following = false;
                for sink in &mut status.sinks {
                    if sink.state != SinkState::GivenUp {
                        sink.state = SinkState::Idle;
                    }
                }
            });
            match outcome {
                Ok(SessionEnd::Stopped) => return Ok(()),
                Ok(SessionEnd::Again) => failures = 0,
                Err(error) if error.passes_by_itself() => {
                    // Said once: who wants to know whether it still is so looks at the status.
                    if failures == 0 {
                        tracing::warn!(cause = chain(&error), "the change stream pauses");
                    }
                    failures = failures.saturating_add(1);
                    // Nobody confirms anything meanwhile, and the log grows.
                    let measured = measure(&self.cdc, &self.options, &self.status).await;
                    if let Err(error) = measured {
                        let cause = chain(&error);
                        tracing::debug!(cause, "the log that a slot holds cannot be measured");
                    }
                    let pause = self.options.retry_after * 2u32.pow(failures.min(10) - 1);
                    tokio::select! {
                        () = sleep(pause.min(RETRY_MAX)) => {}
                        () = told_to_stop(&mut stop) => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn follow(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<SessionEnd, StreamError> {
        let slot = self.options.slot.clone();
        let prepared: PreparedSlot = tokio::select! {
            // Making a slot waits for whoever is in the middle of something.
            prepared = prepare_slot(&self.cdc, &slot, Timestamp::now()) => prepared?,
            () = told_to_stop(stop) => return Ok(SessionEnd::Stopped),
        };
        self.status.send_modify(|status| {
            status.slots_made += u64::from(prepared.made.is_some());
            status.promised = Some(prepared.promised);
            if prepared.made.is_some() {
                status.received = None;
            }
        });
        let newest = self.cdc.newest_timeline();
        let connecting = ReplicationConnection::connect(&self.config, &self.tls, newest);
        let mut connection = connecting.await?;
        if connection.lineage() != prepared.lineage {
            return Err(StreamError::OtherServer);
        }
        connection.follow(&slot, &PLUGIN_OPTIONS).await?;
        // Only now: who fails to follow the slot must not take it from whoever does.
        let reader = claim_slot(&self.cdc, &slot)
            .await?
            .ok_or(StreamError::Fenced)?;
        let names: Vec<&str> = self.sinks.iter().map(|sink| sink.name()).collect();
        for sink in forget_other_sinks(&self.cdc, &reader, &names).await? {
            tracing::warn!(
                sink,
                "a sink is not fed any more: fed again, it begins with a snapshot"
            );
        }
        let sinks = std::mem::take(&mut self.sinks);
        let session = Session::new(
            connection,
            self.cdc.clone(),
            self.options.clone(),
            reader,
            &prepared,
            sinks,
            self.status.clone(),
        );
        let (sinks, outcome) = session.run(stop).await;
        self.sinks = sinks;
        self.leave_sinks().await;
        outcome
    }

    /// Lets whoever follows the slot next have what the sinks have open.
    async fn leave_sinks(&mut self) {
        for sink in &mut self.sinks {
            match timeout(self.options.sink_max, sink.leave()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let (sink, cause) = (&error.sink, chain(&error));
                    tracing::warn!(sink, cause, "a sink was not left");
                }
                Err(_) => tracing::warn!(sink = sink.name(), "a sink was not left in time"),
            }
        }
    }
}

/// Measures how much log the slot holds, tells it, and says what follows.
async fn measure(
    cdc: &Pool,
    options: &StreamOptions,
    status: &watch::Sender<StreamStatus>,
) -> Result<Pressure, PgError> {
    let look = look_at_slot(cdc, &options.slot).await?;
    let slot = look.slot.as_ref();
    let retention = Retention {
        retained_bytes: slot.and_then(|slot| slot.retained_bytes),
        keep_bytes_max: look.keep_bytes_max,
        safe_bytes: slot.and_then(|slot| slot.safe_bytes),
    };
    let pressure = retention.pressure(options.retained_bytes_max);
    let before = status.borrow().pressure;
    if pressure > before && pressure >= Pressure::Alarm {
        let (slot, retained_bytes) = (&options.slot, retention.retained_bytes);
        tracing::warn!(
            slot,
            retained_bytes,
            ?pressure,
            "the slot of the change stream holds back much log"
        );
    }
    status.send_modify(|status| {
        status.retention = retention;
        status.pressure = pressure;
    });
    Ok(pressure)
}

/// Returns once it is told to stop, or nobody is left to tell it.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
}
