//! What a lane asks of its sink, and when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use sheaf_pg::Tls;
use sheaf_store::changes::claim_slot;
use sheaf_testkit::{TestDatabase, wait_until};

use super::*;
use crate::conformance::change;
use crate::letter::{Letter, LetterReason, Refusal};
use crate::sink::Held;
use crate::slot::prepare_slot;
use crate::status::Buffered;

const WITHIN: Duration = Duration::from_secs(60);

/// Counts how often it was asked for something, and while it was idle.
#[derive(Clone, Default)]
struct Counts {
    given: Arc<AtomicU64>,
    idle: Arc<AtomicU64>,
    is_full: Arc<AtomicBool>,
    /// Whether it refuses what it is given.
    refuses: Arc<AtomicBool>,
    /// How often letters were offered, and whether they wait there.
    offered: Arc<AtomicU64>,
    stands: Arc<AtomicBool>,
}

struct Counting(Counts, Option<Progress>, Vec<Refusal>);

impl Sink for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn needs_snapshot(&self) -> bool {
        false
    }

    fn held(&mut self) -> SinkFuture<'_, Held> {
        Box::pin(async { Ok(Held::Nothing) })
    }

    fn begin(&mut self, base: ChangePosition) -> SinkFuture<'_, ()> {
        self.1 = Some(Progress::begun(base));
        Box::pin(async { Ok(()) })
    }

    fn apply<'a>(&'a mut self, batch: &'a Batch) -> SinkFuture<'a, Progress> {
        self.0.given.fetch_add(1, Ordering::SeqCst);
        let mut progress = self.1.expect("it was begun");
        progress.advance(batch.origin, batch.last().expect("a change"));
        self.1 = Some(progress);
        if self.0.refuses.load(Ordering::SeqCst) {
            let refused = batch.changes.iter().map(|change| Refusal {
                position: change.position,
                reason: LetterReason::InvalidValue,
                detail: "it refuses".to_owned(),
            });
            self.2.extend(refused);
        }
        Box::pin(async move { Ok(progress) })
    }

    fn take_refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.2)
    }

    fn replay<'a>(&'a mut self, _letters: &'a [Letter]) -> SinkFuture<'a, Vec<Refusal>> {
        Box::pin(async {
            self.0.offered.fetch_add(1, Ordering::SeqCst);
            while self.0.stands.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            Ok(Vec::new())
        })
    }

    fn letters_max(&self) -> usize {
        2
    }

    fn has_room(&self) -> bool {
        !self.0.is_full.load(Ordering::SeqCst)
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let progress = self.1.expect("it was begun");
        Box::pin(async move { Ok(progress) })
    }

    fn idle(&mut self) -> SinkFuture<'_, Progress> {
        self.0.idle.fetch_add(1, Ordering::SeqCst);
        self.flush()
    }
}

/// A lane in a database of its own, with so many parts that wait for it, each of one change.
struct Fed {
    database: TestDatabase,
    lane: Lane,
    to_lane: mpsc::Sender<Arc<Counted<Part>>>,
    told: watch::Receiver<LaneReport>,
    counts: Counts,
}

async fn fed(parts: u64) -> Result<Fed> {
    let database = TestDatabase::create().await?;
    let name = database.name();
    let admin = database.superuser().await?;
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let cdc = Pool::new(&database.config("sheaf_cdc"), 4, &Tls::none());
    let slot = format!("lane_{name}");
    let prepared = prepare_slot(&cdc, &slot, Timestamp::now()).await?;
    let reader = claim_slot(&cdc, &slot).await?.context("a slot")?;
    let (to_lane, batches) = mpsc::channel(64);
    let buffered = Arc::<Buffered>::default();
    let timeline = prepared.lineage.timeline;
    for number in 1..=parts {
        // Long after what the slot begins with.
        let commit = (1 << 40) + number;
        let part = Part {
            batch: Batch {
                origin: Origin::Stream,
                changes: vec![change(timeline, commit, 1)],
                is_end: true,
            },
            unreadable: Vec::new(),
        };
        buffered.add(1);
        let counted = Arc::new(Counted::new(part, 1, &buffered));
        to_lane.send(counted).await?;
    }
    let counts = Counts::default();
    let (report, told) = watch::channel(LaneReport::NONE);
    let lane = Lane {
        sink: Box::new(Counting(counts.clone(), None, Vec::new())),
        cdc,
        reader,
        timeline,
        batches,
        report,
        options: LaneOptions {
            snapshot_rows: 10,
            // Always due.
            store_every: Duration::ZERO,
            sink_max: Duration::from_secs(60),
            row_bytes_max: 1_000,
        },
    };
    Ok(Fed {
        database,
        lane,
        to_lane,
        told,
        counts,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_idle_only_where_nothing_has_come_though_positions_are_due() -> Result<()> {
    const PARTS: u64 = 40;
    let fed = fed(PARTS).await?;
    drop(fed.to_lane);
    fed.lane.run().await.outcome?;
    let given = fed.counts.given.load(Ordering::SeqCst);
    let idle = fed.counts.idle.load(Ordering::SeqCst);
    assert_eq!((given, idle), (PARTS, 0));
    let last = fed.told.borrow().position.context("a position")?;
    assert_eq!(fed.told.borrow().done, Some(last));
    // And each time it was stored.
    let admin = fed.database.superuser().await?;
    let stored: String = admin
        .query_one("SELECT commit_lsn::text FROM sheaf.change_sinks", &[])
        .await?
        .get(0);
    assert_eq!(stored, last.commit_lsn.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_without_room_is_given_time_and_no_changes_until_it_has_some() -> Result<()> {
    let fed = fed(3).await?;
    let Counts {
        given,
        idle,
        is_full,
        ..
    } = fed.counts;
    is_full.store(true, Ordering::SeqCst);
    let running = tokio::spawn(fed.lane.run());
    wait_until("it has time", WITHIN, async || {
        idle.load(Ordering::SeqCst) >= 3
    })
    .await;
    assert_eq!(given.load(Ordering::SeqCst), 0);
    assert_eq!(fed.told.borrow().done, None);
    is_full.store(false, Ordering::SeqCst);
    wait_until("it is given what has come", WITHIN, async || {
        given.load(Ordering::SeqCst) == 3
    })
    .await;
    drop(fed.to_lane);
    running.await?.outcome?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_whose_sink_has_no_room_ends_without_what_waits_for_it() -> Result<()> {
    let fed = fed(3).await?;
    fed.counts.is_full.store(true, Ordering::SeqCst);
    drop(fed.to_lane);
    fed.lane.run().await.outcome?;
    assert_eq!(fed.counts.given.load(Ordering::SeqCst), 0);
    assert_eq!(fed.told.borrow().done, None);
    Ok(())
}

/// Letters by what has become of them.
async fn letters(admin: &tokio_postgres::Client) -> Result<String> {
    let sql =
        "SELECT coalesce(string_agg(format('%s %s', status, count), ', ' ORDER BY status), '')
        FROM (SELECT status, count(*) FROM sheaf.dead_letters GROUP BY status) s";
    Ok(admin.query_one(sql, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_to_end_offers_no_more_letters() -> Result<()> {
    let fed = fed(6).await?;
    let admin = fed.database.superuser().await?;
    fed.counts.refuses.store(true, Ordering::SeqCst);
    fed.counts.stands.store(true, Ordering::SeqCst);
    let running = tokio::spawn(fed.lane.run());
    wait_until("all are letters", WITHIN, async || {
        letters(&admin).await.is_ok_and(|found| found == "open 6")
    })
    .await;
    admin
        .batch_execute("UPDATE sheaf.dead_letters SET status = 'replay_asked'")
        .await?;
    let offered = || fed.counts.offered.load(Ordering::SeqCst);
    wait_until("the first are offered", WITHIN, async || offered() == 1).await;
    drop(fed.to_lane);
    fed.counts.stands.store(false, Ordering::SeqCst);
    running.await?.outcome?;
    assert_eq!(offered(), 1);
    assert_eq!(letters(&admin).await?, "replay_asked 4, replayed 2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_lane_is_no_time_to_look_for_letters() -> Result<()> {
    let mut fed = fed(3).await?;
    // Nothing is due while it goes on.
    fed.lane.options.store_every = Duration::from_secs(3600);
    let admin = fed.database.superuser().await?;
    fed.counts.refuses.store(true, Ordering::SeqCst);
    let running = tokio::spawn(fed.lane.run());
    wait_until("all are letters", WITHIN, async || {
        letters(&admin).await.is_ok_and(|found| found == "open 3")
    })
    .await;
    admin
        .batch_execute("UPDATE sheaf.dead_letters SET status = 'replay_asked'")
        .await?;
    drop(fed.to_lane);
    running.await?.outcome?;
    assert_eq!(fed.counts.offered.load(Ordering::SeqCst), 0);
    assert_eq!(letters(&admin).await?, "replay_asked 3");
    Ok(())
}
