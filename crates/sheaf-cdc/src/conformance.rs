//! What every sink has to do, as one suite that each of them runs in its tests.
//!
//! It is handed a way to open a sink again and again over the same place, and a way to read what is there, and tells which claim
//! does not hold.

use std::future::Future;
use std::pin::Pin;

use sheaf_model::{BatchId, ChangePosition, EntityId, Lsn, Op, TenantId, Timestamp};
use uuid::Uuid;

use crate::change::{Batch, Change, ChangedRow, EventRow, Origin, Progress};
use crate::sink::{Held, Sink, SinkError};

/// A place that a sink writes to.
pub trait Place {
    /// The sink over it, as after a start.
    fn open(&self) -> Box<dyn Sink>;

    /// What whoever reads the place finds: the position of each change, in the order in which they are found.
    fn found(&self) -> Pin<Box<dyn Future<Output = Vec<ChangePosition>> + '_>>;

    /// Whether changes are found in the order in which they came. Else only each once.
    fn keeps_order(&self) -> bool;
}

/// A claim that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum Nonconformance {
    /// The sink failed.
    #[error("the sink failed while {during}")]
    Failed {
        /// What was being tried.
        during: &'static str,
        /// Why.
        #[source]
        source: SinkError,
    },
    /// It did something else than it has to.
    #[error("{claim}: {found}")]
    Other {
        /// What has to hold.
        claim: &'static str,
        /// What was found.
        found: String,
    },
}

/// A change at a place in a transaction. Its row tells the position as well.
pub fn change(timeline: u32, commit_lsn: u64, ordinal: u64) -> Change {
    let number = i64::try_from(commit_lsn * 1000 + ordinal).unwrap_or(i64::MAX);
    Change {
        position: ChangePosition {
            timeline,
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        },
        xid: 7,
        committed_at: Timestamp::MIN,
        row: ChangedRow::Event(EventRow {
            tenant: TenantId(1),
            entity: EntityId(number),
            observed_at: Timestamp::MIN,
            seq: 0,
            op: Op::Patch,
            batch: BatchId(Uuid::nil()),
            ingested_at: Timestamp::MIN,
            attrs: format!("{{\"1\":{number}}}").into(),
        }),
    }
}

/// A position on the first timeline.
pub fn position(commit_lsn: u64, ordinal: u64) -> ChangePosition {
    ChangePosition {
        timeline: 1,
        commit_lsn: Lsn(commit_lsn),
        ordinal,
    }
}

/// A whole transaction of the stream: these rows, at the places from 1 on.
pub fn transaction(commit_lsn: u64, rows: Vec<ChangedRow>) -> Batch {
    let changes = (1..).zip(rows).map(|(ordinal, row)| Change {
        position: position(commit_lsn, ordinal),
        xid: 7,
        committed_at: Timestamp::MIN,
        row,
    });
    Batch {
        origin: Origin::Stream,
        changes: changes.collect(),
        is_end: true,
    }
}

/// A batch of one transaction, or of a part of it.
fn batch(
    origin: Origin,
    commit_lsn: u64,
    ordinals: std::ops::RangeInclusive<u64>,
    is_end: bool,
) -> Batch {
    Batch {
        origin,
        changes: ordinals
            .map(|ordinal| change(1, commit_lsn, ordinal))
            .collect(),
        is_end,
    }
}

/// The batches of a short life: a snapshot, where the sink needs one, beside a stream, whose second transaction comes in two parts.
fn life(sink: &dyn Sink, base: u64) -> Vec<Batch> {
    let life = [
        batch(Origin::Snapshot, base, 1..=3, false),
        batch(Origin::Stream, base + 100, 1..=2, true),
        batch(Origin::Snapshot, base, 4..=5, true),
        batch(Origin::Stream, base + 200, 1..=2, false),
        batch(Origin::Stream, base + 200, 3..=3, true),
        batch(Origin::Stream, base + 300, 1..=1, true),
    ];
    let is_for_it = |batch: &Batch| batch.origin == Origin::Stream || sink.needs_snapshot();
    life.into_iter().filter(is_for_it).collect()
}

/// Runs the suite.
///
/// # Errors
/// The first claim that does not hold.
pub async fn check(place: &dyn Place) -> Result<(), Nonconformance> {
    let mut base = 1000;
    takes_each_change_once_in_order(place, base).await?;
    base += 1000;
    recognises_what_it_is_sent_again(place, base).await?;
    base += 1000;
    goes_on_after_any_stop(place, base).await?;
    base += 1000;
    begins_anew_without_what_was_before(place, base).await
}

async fn takes_each_change_once_in_order(
    place: &dyn Place,
    base: u64,
) -> Result<(), Nonconformance> {
    const CLAIM: &str = "a sink holds each change that it was given once, in order";
    let mut sink = place.open();
    begin(&mut *sink, base).await?;
    require_found(place, CLAIM, &[]).await?;
    let mut progress = None;
    for batch in life(&*sink, base) {
        progress = Some(apply(&mut *sink, &batch).await?);
    }
    let flushed = flush(&mut *sink).await?;
    let whole = whole(&*sink, base);
    require(CLAIM, flushed == whole, || {
        format!("{flushed:?} after {progress:?}")
    })?;
    require_found(place, CLAIM, &life(&*sink, base)).await
}

async fn recognises_what_it_is_sent_again(
    place: &dyn Place,
    base: u64,
) -> Result<(), Nonconformance> {
    const CLAIM: &str = "a change that is sent again changes nothing";
    let mut sink = place.open();
    begin(&mut *sink, base).await?;
    for batch in life(&*sink, base) {
        apply(&mut *sink, &batch).await?;
        apply(&mut *sink, &batch).await?;
    }
    // Old ones with new ones in one batch.
    let mut mixed = batch(Origin::Stream, base + 300, 1..=3, true);
    mixed.changes.insert(0, change(1, base + 100, 2));
    apply(&mut *sink, &mixed).await?;
    for batch in life(&*sink, base) {
        apply(&mut *sink, &batch).await?;
    }
    flush(&mut *sink).await?;
    let more = batch(Origin::Stream, base + 300, 2..=3, true);
    let wanted = [life(&*sink, base), vec![more]].concat();
    require_found(place, CLAIM, &wanted).await
}

/// Stopped after each batch, with what was made durable stored or not, and everything sent again from the beginning.
async fn goes_on_after_any_stop(place: &dyn Place, base: u64) -> Result<(), Nonconformance> {
    const CLAIM: &str = "after a stop a sink holds at least what it said, says what it holds, and goes on from there";
    for (round, is_flushed) in [(0, false), (1, true)] {
        for stop_after in 0..=life(&*place.open(), base).len() {
            let base = base + round * 400_000 + 10_000 * u64::try_from(stop_after).unwrap_or(0);
            let mut sink = place.open();
            begin(&mut *sink, base).await?;
            let mut said = Progress::begun(position(base, 0));
            for batch in &life(&*sink, base)[..stop_after] {
                said = apply(&mut *sink, batch).await?;
            }
            if is_flushed {
                said = flush(&mut *sink).await?;
            }
            drop(sink);
            let mut sink = place.open();
            let held = ask(&mut *sink).await?;
            let is_enough = match held {
                Held::Until(held) => {
                    held.base == said.base
                        && held.snapshot >= said.snapshot
                        && held.stream >= said.stream
                }
                Held::Nothing => said == Progress::begun(said.base),
                Held::Untracked => true,
            };
            require(CLAIM, is_enough, || {
                format!("it said {said:?} and holds {held:?}, stopped after {stop_after} batches")
            })?;
            // As whoever feeds it does: a sink that holds nothing is told again what begins.
            if held == Held::Nothing {
                begin(&mut *sink, base).await?;
            }
            // One that does not keep track is told what was stored of it.
            if held == Held::Untracked {
                sink.resume(said);
            }
            for batch in life(&*sink, base) {
                apply(&mut *sink, &batch).await?;
            }
            let flushed = flush(&mut *sink).await?;
            require(CLAIM, flushed == whole(&*sink, base), || {
                format!("{flushed:?}")
            })?;
            require_found(place, CLAIM, &life(&*sink, base)).await?;
        }
    }
    Ok(())
}

async fn begins_anew_without_what_was_before(
    place: &dyn Place,
    base: u64,
) -> Result<(), Nonconformance> {
    const CLAIM: &str = "what a sink held before it begins anew is no part of what it holds after";
    let base = base + 1_000_000;
    let mut sink = place.open();
    begin(&mut *sink, base).await?;
    for batch in life(&*sink, base) {
        apply(&mut *sink, &batch).await?;
    }
    flush(&mut *sink).await?;
    let later = base + 1000;
    begin(&mut *sink, later).await?;
    drop(sink);
    let mut sink = place.open();
    let held = ask(&mut *sink).await?;
    let is_right = match held {
        Held::Nothing | Held::Untracked => true,
        Held::Until(held) => held == Progress::begun(position(later, 0)),
    };
    require(CLAIM, is_right, || format!("{held:?}"))?;
    begin(&mut *sink, later).await?;
    for batch in life(&*sink, later) {
        apply(&mut *sink, &batch).await?;
    }
    flush(&mut *sink).await?;
    require_found(place, CLAIM, &life(&*sink, later)).await
}

/// What a sink holds at the end of a life.
fn whole(sink: &dyn Sink, base: u64) -> Progress {
    Progress {
        base: position(base, 0),
        snapshot: if sink.needs_snapshot() { 5 } else { 0 },
        stream: Some(position(base + 300, 1)),
    }
}

async fn begin(sink: &mut dyn Sink, base: u64) -> Result<(), Nonconformance> {
    ask(sink).await?;
    let begun = sink.begin(position(base, 0)).await;
    begun.map_err(failed("beginning"))
}

async fn ask(sink: &mut dyn Sink) -> Result<Held, Nonconformance> {
    sink.held().await.map_err(failed("saying what it holds"))
}

async fn apply(sink: &mut dyn Sink, batch: &Batch) -> Result<Progress, Nonconformance> {
    sink.apply(batch).await.map_err(failed("taking a batch"))
}

async fn flush(sink: &mut dyn Sink) -> Result<Progress, Nonconformance> {
    sink.flush().await.map_err(failed("making durable"))
}

fn failed(during: &'static str) -> impl Fn(SinkError) -> Nonconformance {
    move |source| Nonconformance::Failed { during, source }
}

fn require(
    claim: &'static str,
    holds: bool,
    found: impl Fn() -> String,
) -> Result<(), Nonconformance> {
    if holds {
        return Ok(());
    }
    Err(Nonconformance::Other {
        claim,
        found: found(),
    })
}

/// The place holds the changes of these batches, each once.
async fn require_found(
    place: &dyn Place,
    claim: &'static str,
    batches: &[Batch],
) -> Result<(), Nonconformance> {
    let changes = batches.iter().flat_map(|batch| &batch.changes);
    let mut wanted: Vec<ChangePosition> = changes.map(|change| change.position).collect();
    let mut found = place.found().await;
    if !place.keeps_order() {
        wanted.sort_unstable();
        found.sort_unstable();
    }
    require(claim, found == wanted, || {
        format!("found {found:?}, not {wanted:?}")
    })
}
