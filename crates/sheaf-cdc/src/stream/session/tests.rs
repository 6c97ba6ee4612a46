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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_stands_still_holds_up_no_other_and_asks_again_for_what_it_missed() -> Result<()>
{
    const ROWS: u64 = 100_000;
    let database = TestDatabase::create().await?;
    let name = database.name();
    let admin = database.superuser().await?;
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 6, &Tls::none());
    let options = StreamOptions {
        tick_every: Duration::from_millis(50),
        store_every: Duration::from_millis(50),
        retry_after: Duration::from_millis(50),
        room_max: Duration::from_millis(200),
        sink_max: Duration::from_secs(600),
        ..StreamOptions::new(format!("gated_{name}"))
    };
    let prepared = prepare_slot(&cdc, &options.slot, Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &options.slot).await?.context("a slot")?;
    let begun = || Progress::begun(ChangePosition::before(1, Lsn(0)));
    let (quick, slow) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (open, gate) = watch::channel(false);
    let sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(Gated(Counting(Arc::clone(&slow), begun()), gate)),
        Box::new(Counting(Arc::clone(&quick), begun())),
    ];
    let names = ["gated", "counting"].map(str::to_owned).into_iter();
    let (status, mut seen) = watch::channel(StreamStatus::new(&options.slot, names));
    let feed = Flood::new(ROWS);
    let batches = u64::try_from(options.queue_batches + 1)?;
    let batch_rows = u64::try_from(options.batch_changes_max)?;
    let session = Session::new(feed, cdc, options, reader, &prepared, sinks, status);
    let (_stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move { session.run(&mut stopped).await });
    let has_all = |status: &StreamStatus| {
        status.sinks[1]
            .position
            .is_some_and(|at| at.ordinal == ROWS)
    };
    let told = async { seen.wait_for(has_all).await.is_ok() };
    let told = tokio::time::timeout(Duration::from_secs(120), told).await;
    assert_eq!(told, Ok(true), "the other is held up: {:?}", seen.borrow());
    // What it lacks is held for it.
    assert_eq!(slow.load(Ordering::SeqCst), 0);
    assert_eq!(seen.borrow().promised, Some(prepared.promised));
    open.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(120), task).await;
    let (_, outcome) = ended.context("it asks for what it missed")??;
    assert_eq!(outcome?, SessionEnd::Again);
    // What it had room for, and no more: nothing comes behind a gap.
    assert_eq!(slow.load(Ordering::SeqCst), batches * batch_rows);
    assert_eq!(seen.borrow().promised, Some(prepared.promised));
    Ok(())
}

#[test]
fn a_sink_is_tried_again_only_where_the_others_get_more_of_the_time_than_that_costs() {
    for (lasted, caught_up_in, wanted) in [
        (0, Some(0), true),
        (10, Some(10), false),
        (29, Some(10), false),
        (30, Some(10), true),
        // They have not caught up yet.
        (1_000, None, false),
    ] {
        let of = Duration::from_secs;
        let found = is_worth_it(of(lasted), caught_up_in.map(of));
        assert_eq!(found, wanted, "{lasted} {caught_up_in:?}");
    }
}

#[test]
fn the_lane_that_holds_back_the_most_is_found_and_none_where_nobody_holds_anything() {
    let at = |ordinal| {
        Some(ChangePosition {
            ordinal,
            ..ChangePosition::before(1, Lsn(9))
        })
    };
    let table: [(&[Option<Option<ChangePosition>>], _, _); 6] = [
        (&[Some(at(9)), Some(at(9))], at(9), None),
        (&[Some(at(9)), Some(at(8))], at(9), Some(1)),
        (&[Some(at(7)), Some(at(8))], at(9), Some(0)),
        (&[Some(at(7)), Some(None)], at(9), Some(1)),
        // Given up already.
        (&[Some(at(9)), None], at(9), None),
        (&[Some(None)], None, None),
    ];
    for (place, (lanes, last, wanted)) in table.into_iter().enumerate() {
        let found = furthest_behind(lanes.iter().copied(), last);
        assert_eq!(found, wanted, "line {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_cut_short_is_a_letter_and_the_others_are_given_on() -> Result<()> {
    let database = TestDatabase::create().await?;
    let name = database.name();
    let admin = database.superuser().await?;
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 4, &Tls::none());
    let options = StreamOptions {
        tick_every: Duration::from_millis(50),
        store_every: Duration::from_millis(50),
        ..StreamOptions::new(format!("cut_{name}"))
    };
    let prepared = prepare_slot(&cdc, &options.slot, Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &options.slot).await?.context("a slot")?;
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
    let progress = Progress::begun(ChangePosition::before(1, Lsn(0)));
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Counting(Arc::clone(&counted), progress))];
    let names = ["counting".to_owned()].into_iter();
    let (status, mut seen) = watch::channel(StreamStatus::new(&options.slot, names));
    let feed = Shown(messages);
    let session = Session::new(feed, cdc, options, reader, &prepared, sinks, status);
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move { session.run(&mut stopped).await });
    let is_told = |status: &StreamStatus| status.sinks[0].holes == Some(1);
    let told = async { seen.wait_for(is_told).await.is_ok() };
    let told = tokio::time::timeout(Duration::from_secs(120), told).await;
    assert_eq!(told, Ok(true));
    stop.send_replace(true);
    let (_, outcome) = task.await?;
    assert_eq!(outcome?, SessionEnd::Stopped);
    assert_eq!(counted.load(Ordering::SeqCst), 2);
    let sql = "SELECT reason || ' ' || ordinal || ' ' || payload FROM sheaf.dead_letters";
    let kept: String = admin.query_one(sql, &[]).await?.get(0);
    assert!(kept.starts_with(r#"malformed 3 {"message":"49"#), "{kept}");
    Ok(())
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
