//! What a session holds in memory, whatever a server sends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_model::Timestamp;
use sheaf_pg::{ReplicationError, Tls};
use sheaf_store::changes::claim_slot;
use sheaf_testkit::TestDatabase;
use tokio::task::JoinHandle;

use super::*;
use crate::change::{Batch, Origin, Progress};
use crate::sink::{Held, SinkFuture};
use crate::slot::prepare_slot;

/// One transaction of as many rows as wanted, as fast as it is taken.
struct Flood {
    rows: u64,
    sent: u64,
    relation: Bytes,
    row: Bytes,
    confirmed: Lsn,
}

const COMMIT: u64 = u64::MAX >> 8;

impl Flood {
    fn new(rows: u64) -> Flood {
        let mut relation = vec![b'R', 0, 0, 0, 9];
        relation.extend(b"sheaf\0entity_events\0d");
        let columns: [(&[u8], u32, Vec<u8>); 8] = [
            (b"tenant_id", 20, vec![0; 8]),
            (b"entity_id", 20, vec![0; 8]),
            (b"observed_at", 1184, vec![0; 8]),
            (b"seq", 21, vec![0; 2]),
            (b"op", 18, vec![b'p']),
            (b"batch_id", 2950, vec![0; 16]),
            (b"ingested_at", 1184, vec![0; 8]),
            (b"attrs", 3802, b"\x01{\"1\": 1}".to_vec()),
        ];
        let mut row = vec![b'I', 0, 0, 0, 9, b'N', 0, 8];
        relation.extend([0, 8]);
        for (name, type_oid, value) in columns {
            relation.push(0);
            relation.extend(name);
            relation.push(0);
            relation.extend(type_oid.to_be_bytes());
            relation.extend([0xff; 4]);
            row.push(b'b');
            row.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
            row.extend(value);
        }
        Flood {
            rows,
            sent: 0,
            relation: relation.into(),
            row: row.into(),
            confirmed: Lsn(0),
        }
    }

    fn next(&mut self) -> Option<Received> {
        let place = self.sent;
        self.sent += 1;
        let message = match place {
            0 => {
                let mut begin = vec![b'B'];
                begin.extend(COMMIT.to_be_bytes());
                begin.extend([0; 12]);
                begin.into()
            }
            1 => self.relation.clone(),
            place if place < self.rows + 2 => self.row.clone(),
            place if place == self.rows + 2 => {
                let mut commit = vec![b'C', 0];
                commit.extend(COMMIT.to_be_bytes());
                commit.extend((COMMIT + 8).to_be_bytes());
                commit.extend([0; 8]);
                commit.into()
            }
            _ => {
                self.sent = place;
                return None;
            }
        };
        Some(Received::Message(message))
    }
}

impl Feed for Flood {
    async fn receive(&mut self) -> Result<Received, ReplicationError> {
        match self.next() {
            Some(received) => Ok(received),
            None => std::future::pending().await,
        }
    }

    fn receive_now(&mut self) -> Result<Option<Received>, ReplicationError> {
        Ok(self.next())
    }

    async fn confirm(&mut self, position: Lsn) -> Result<(), ReplicationError> {
        assert!(position >= self.confirmed, "confirmations only advance");
        self.confirmed = position;
        Ok(())
    }

    async fn end(self) -> Result<(), ReplicationError> {
        Ok(())
    }
}

/// Counts what it is given, and takes its time.
struct Counting(Arc<AtomicU64>, Progress);

impl Counting {
    fn new(count: &Arc<AtomicU64>) -> Counting {
        let begun = Progress::begun(ChangePosition::before(1, Lsn(0)));
        Counting(Arc::clone(count), begun)
    }
}

impl Sink for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async { Ok(Held::Nothing) })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.1 = Progress::begun(base);
        Box::pin(async { Ok(()) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(async {
            if batch.origin == Origin::Stream {
                for change in &batch.changes {
                    let before = self.0.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(change.position.ordinal, before + 1, "each once, in order");
                }
            }
            // Everybody else may go on meanwhile.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let last = batch.last().expect("a batch is never empty");
            self.1.advance(batch.origin, last);
            Ok(self.1)
        })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let progress = self.1;
        Box::pin(async move { Ok(progress) })
    }
}

/// What is shown, message by message, and then nothing more.
struct Shown(VecDeque<Bytes>);

impl Feed for Shown {
    async fn receive(&mut self) -> Result<Received, ReplicationError> {
        match self.0.pop_front() {
            Some(message) => Ok(Received::Message(message)),
            None => std::future::pending().await,
        }
    }

    fn receive_now(&mut self) -> Result<Option<Received>, ReplicationError> {
        Ok(self.0.pop_front().map(Received::Message))
    }

    async fn confirm(&mut self, _: Lsn) -> Result<(), ReplicationError> {
        Ok(())
    }

    async fn end(self) -> Result<(), ReplicationError> {
        Ok(())
    }
}

/// Counts as the other does, once its gate is open.
struct Gated(Counting, watch::Receiver<bool>);

impl Sink for Gated {
    fn name(&self) -> &str {
        "gated"
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        self.0.held()
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.0.begin(base)
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        Box::pin(async {
            if batch.origin == Origin::Stream {
                let _ = self.1.wait_for(|is_open| *is_open).await;
            }
            self.0.apply(batch).await
        })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        self.0.flush()
    }
}

/// What a session gives back.
type Ended = (Vec<Box<dyn Sink>>, Result<SessionEnd, StreamError>);

/// A session that runs.
struct Running {
    database: TestDatabase,
    /// What could be confirmed before it.
    promised: Lsn,
    task: JoinHandle<Ended>,
    stop: watch::Sender<bool>,
    status: watch::Receiver<StreamStatus>,
}

/// Quick. The slot is named once there is a database.
fn options() -> StreamOptions {
    StreamOptions {
        tick_every: Duration::from_millis(50),
        ..StreamOptions::new(String::new())
    }
}

/// Follows a feed with a new database's slot.
async fn run<F: Feed + 'static>(
    feed: F,
    options: StreamOptions,
    sinks: Vec<Box<dyn Sink>>,
) -> Result<Running> {
    let database = TestDatabase::create().await?;
    let name = database.name();
    let admin = database.superuser().await?;
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 6, &Tls::none());
    let options = StreamOptions {
        slot: format!("slot_{name}"),
        ..options
    };
    let prepared = prepare_slot(&cdc, &options.slot, Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &options.slot).await?.context("a slot")?;
    let names = sinks.iter().map(|sink| sink.name().to_owned());
    let (status, seen) = watch::channel(StreamStatus::new(&options.slot, names));
    let session = Session::new(feed, cdc, options, reader, &prepared, sinks, status);
    let (stop, mut stopped) = watch::channel(false);
    Ok(Running {
        database,
        promised: prepared.promised,
        task: tokio::spawn(async move { session.run(&mut stopped).await }),
        stop,
        status: seen,
    })
}

impl Running {
    async fn comes_to(&mut self, within: u64, holds: impl Fn(&StreamStatus) -> bool) -> bool {
        let told = self.status.wait_for(|status| holds(status));
        let told = timeout(Duration::from_secs(within), told).await;
        matches!(told, Ok(Ok(_)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_stands_still_holds_up_no_other_and_asks_again_for_what_it_missed() -> Result<()>
{
    const ROWS: u64 = 100_000;
    let options = StreamOptions {
        store_every: Duration::from_millis(50),
        retry_after: Duration::from_millis(50),
        room_max: Duration::from_millis(200),
        sink_max: Duration::from_secs(600),
        ..options()
    };
    let (quick, slow) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (open, gate) = watch::channel(false);
    let sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(Gated(Counting::new(&slow), gate)),
        Box::new(Counting::new(&quick)),
    ];
    let batches = u64::try_from(options.queue_batches + 1)?;
    let batch_rows = u64::try_from(options.batch_changes_max)?;
    let mut running = run(Flood::new(ROWS), options, sinks).await?;
    let has_all = |status: &StreamStatus| {
        status.sinks[1]
            .position
            .is_some_and(|at| at.ordinal == ROWS)
    };
    let told = running.comes_to(120, has_all).await;
    let (seen, promised) = (running.status.clone(), running.promised);
    assert!(told, "the other is held up: {:?}", seen.borrow());
    // What it lacks is held for it.
    assert_eq!(slow.load(Ordering::SeqCst), 0);
    assert_eq!(seen.borrow().promised, Some(promised));
    open.send_replace(true);
    let ended = timeout(Duration::from_secs(120), running.task).await;
    let (_, outcome) = ended.context("it asks for what it missed")??;
    assert_eq!(outcome?, SessionEnd::Again);
    // What it had room for, and no more: nothing comes behind a gap.
    assert_eq!(slow.load(Ordering::SeqCst), batches * batch_rows);
    assert_eq!(seen.borrow().promised, Some(promised));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_cut_short_is_a_letter_and_the_others_are_given_on() -> Result<()> {
    let mut flood = Flood::new(2);
    let messages = std::iter::from_fn(|| match flood.next() {
        Some(Received::Message(message)) => Some(message),
        _ => None,
    });
    let mut messages: VecDeque<Bytes> = messages.collect();
    // After both rows, before the end: what it counts is in order then.
    let cut = messages[2].slice(..messages[2].len() - 3);
    messages.insert(4, cut);
    let counted = Arc::<AtomicU64>::default();
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Counting::new(&counted))];
    let options = StreamOptions {
        store_every: Duration::from_millis(50),
        ..options()
    };
    let mut running = run(Shown(messages), options, sinks).await?;
    let is_told = |status: &StreamStatus| status.sinks[0].holes == Some(1);
    assert!(running.comes_to(120, is_told).await);
    running.stop.send_replace(true);
    let (_, outcome) = running.task.await?;
    assert_eq!(outcome?, SessionEnd::Stopped);
    assert_eq!(counted.load(Ordering::SeqCst), 2);
    let sql = "SELECT reason || ' ' || ordinal || ' ' || payload FROM sheaf.dead_letters";
    let admin = running.database.superuser().await?;
    let kept: String = admin.query_one(sql, &[]).await?.get(0);
    assert!(kept.starts_with(r#"malformed 3 {"message":"49"#), "{kept}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_million_events_takes_a_few_batches_of_memory() -> Result<()> {
    const ROWS: u64 = 1_000_000;
    let options = options();
    // The one being filled, the one being given, those that wait, and the one being applied.
    let bound = (options.queue_batches + 3) * options.batch_changes_max;
    let counted = Arc::<AtomicU64>::default();
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Counting::new(&counted))];
    let mut running = run(Flood::new(ROWS), options, sinks).await?;
    let is_confirmed = |status: &StreamStatus| status.promised == Some(Lsn(COMMIT + 8));
    assert!(running.comes_to(300, is_confirmed).await, "{counted:?}");
    running.stop.send_replace(true);
    let (_, outcome) = running.task.await?;
    assert_eq!(outcome?, SessionEnd::Stopped);
    assert_eq!(counted.load(Ordering::SeqCst), ROWS);
    let status = running.status.borrow().clone();
    assert_eq!((status.changes, status.buffered_changes), (ROWS, 0));
    #[expect(clippy::print_stdout, reason = "the test harness shows it")]
    {
        println!(
            "at most {} of {ROWS} changes in memory",
            status.buffered_changes_max
        );
    }
    assert!(
        (1..=bound).contains(&status.buffered_changes_max),
        "{} of at most {bound}",
        status.buffered_changes_max
    );
    Ok(())
}
