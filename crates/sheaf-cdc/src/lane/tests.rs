//! What a lane asks of its sink, and when.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use sheaf_pg::Tls;
use sheaf_store::changes::claim_slot;
use sheaf_testkit::TestDatabase;

use super::*;
use crate::conformance::change;
use crate::slot::prepare_slot;
use crate::status::Buffered;

/// Counts how often it was asked for something while it was idle.
struct Counting(Arc<[AtomicU64; 2]>, Option<Progress>);

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
        self.0[0].fetch_add(1, Ordering::SeqCst);
        let mut progress = self.1.expect("it was begun");
        progress.advance(batch.origin, batch.last().expect("a change"));
        self.1 = Some(progress);
        Box::pin(async move { Ok(progress) })
    }

    fn flush(&mut self) -> SinkFuture<'_, Progress> {
        let progress = self.1.expect("it was begun");
        Box::pin(async move { Ok(progress) })
    }

    fn idle(&mut self) -> SinkFuture<'_, Progress> {
        self.0[1].fetch_add(1, Ordering::SeqCst);
        self.flush()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_idle_only_where_nothing_has_come_though_positions_are_due() -> Result<()> {
    const PARTS: u64 = 40;
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
    for number in 1..=PARTS {
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
    drop(to_lane);
    let counted = Arc::<[AtomicU64; 2]>::default();
    let (report, told) = watch::channel(LaneReport::NONE);
    let lane = Lane {
        sink: Box::new(Counting(Arc::clone(&counted), None)),
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
    lane.run().await.outcome?;
    let asked = counted.each_ref().map(|count| count.load(Ordering::SeqCst));
    assert_eq!(asked, [PARTS, 0]);
    let last = told.borrow().position.context("a position")?;
    assert_eq!(told.borrow().done, Some(last));
    // And each time it was stored.
    let stored: String = admin
        .query_one("SELECT commit_lsn::text FROM sheaf.change_sinks", &[])
        .await?
        .get(0);
    assert_eq!(stored, last.commit_lsn.to_string());
    Ok(())
}
