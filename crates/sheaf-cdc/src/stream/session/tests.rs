//! What a session holds in memory, whatever a server sends.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_model::Timestamp;
use sheaf_pg::{ReplicationError, Tls};
use sheaf_store::changes::claim_slot;
use sheaf_testkit::TestDatabase;

use super::*;
use crate::change::Progress;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_million_events_takes_a_few_batches_of_memory() -> Result<()> {
    const ROWS: u64 = 1_000_000;
    let database = TestDatabase::create().await?;
    let name = database.name();
    database
        .superuser()
        .await?
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 4, &Tls::none());
    let options = StreamOptions {
        tick_every: Duration::from_millis(50),
        ..StreamOptions::new(format!("flood_{name}"))
    };
    let prepared = prepare_slot(&cdc, &options.slot, Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &options.slot).await?.context("a slot")?;
    let counted = Arc::<AtomicU64>::default();
    let sink = Counting(
        Arc::clone(&counted),
        Progress::begun(ChangePosition::before(1, Lsn(0))),
    );
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(sink)];
    let names = ["counting".to_owned()].into_iter();
    let (status, mut seen) = watch::channel(StreamStatus::new(&options.slot, names));
    let session = Session::new(
        Flood::new(ROWS),
        cdc,
        options.clone(),
        reader,
        &prepared,
        sinks,
        status,
    );
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move { session.run(&mut stopped).await });
    let is_confirmed = |status: &StreamStatus| status.promised == Some(Lsn(COMMIT + 8));
    let whole = async { seen.wait_for(is_confirmed).await.is_ok() };
    let whole = tokio::time::timeout(Duration::from_secs(300), whole).await;
    assert_eq!(whole, Ok(true), "{counted:?}");
    stop.send_replace(true);
    let (_, outcome) = task.await?;
    assert_eq!(outcome?, SessionEnd::Stopped);
    assert_eq!(counted.load(Ordering::SeqCst), ROWS);
    let status = seen.borrow().clone();
    assert_eq!((status.changes, status.buffered_changes), (ROWS, 0));
    // The one being filled, the one being given, those that wait, and the one being applied.
    let bound = (options.queue_batches + 3) * options.batch_changes_max;
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
