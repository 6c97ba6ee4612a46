//! What the stream shows of itself: plain values, for whoever makes metrics of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sheaf_model::{ChangePosition, Lsn, Timestamp};
use sheaf_store::changes::SnapshotStep;

use crate::letter::LetterCounts;
use crate::retention::{Pressure, Retention};

/// The stream as it was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// The slot.
    pub slot: String,
    /// Whether it is followed at this moment.
    pub is_following: bool,
    /// How far it may have been confirmed; absent before it was followed.
    pub promised: Option<Lsn>,
    /// The log that it holds back: `sheaf_wal_retained_bytes`.
    pub retention: Retention,
    /// What follows from that.
    pub pressure: Pressure,
    /// How often it was made, the first time included, since the start.
    pub slots_made: u64,
    /// Transactions that were received since the start.
    pub transactions: u64,
    /// Changes for sinks that were received since the start, those included that were received again.
    pub changes: u64,
    /// The last of them; absent before the first, and anew with the slot.
    pub received: Option<ChangePosition>,
    /// Deletes and truncates that came although they are not published, and were told to nobody.
    pub ignored: u64,
    /// Changes that are in memory, each once for all sinks.
    pub buffered_changes: usize,
    /// The most that were in memory at once since the start.
    pub buffered_changes_max: usize,
    /// Its sinks.
    pub sinks: Vec<SinkStatus>,
}

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkState {
    /// It is not fed: the slot is not followed.
    Idle,
    /// It reads what was there before.
    Snapshot(SnapshotStep),
    /// It takes changes as they come.
    Streaming,
    /// It failed and is tried again; the slot holds its changes.
    Failed,
    /// It failed for so long that the slot does not hold its changes any more. It begins anew.
    GivenUp,
}

/// One sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: SinkState,
    /// The last change of the stream that it durably holds.
    pub position: Option<ChangePosition>,
    /// The primary's clock when everything that it holds had been committed: now less this is `sheaf_cdc_lag_seconds`. Absent
    /// where that is unknown, which is not zero.
    pub applied_at: Option<Timestamp>,
    /// Changes that it was given since the start.
    pub changes: u64,
    /// How often it failed since the start.
    pub failures: u64,
    /// How often since it last was well.
    pub failures_in_row: u32,
    /// Changes that were put aside since the start because it could not take them: `sheaf_dead_letters_total`.
    pub letters: LetterCounts,
    /// The holes in what it holds: changes at or before its position that it lacks, because they wait to be replayed or
    /// discarded. Absent before they were counted, which is not zero.
    pub holes: Option<u64>,
}

impl StreamStatus {
    /// Before anything happened.
    pub(crate) fn new(slot: &str, sinks: impl Iterator<Item = String>) -> StreamStatus {
        StreamStatus {
            slot: slot.to_owned(),
            is_following: false,
            promised: None,
            retention: Retention::default(),
            pressure: Pressure::Unknown,
            slots_made: 0,
            transactions: 0,
            changes: 0,
            received: None,
            ignored: 0,
            buffered_changes: 0,
            buffered_changes_max: 0,
            sinks: sinks
                .map(|name| SinkStatus {
                    name,
                    state: SinkState::Idle,
                    position: None,
                    applied_at: None,
                    changes: 0,
                    failures: 0,
                    failures_in_row: 0,
                    letters: LetterCounts::NONE,
                    holes: None,
                })
                .collect(),
        }
    }
}

/// Counts the changes that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Buffered {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl Buffered {
    pub(crate) fn add(&self, changes: usize) {
        let now = self.now.fetch_add(changes, Ordering::Relaxed) + changes;
        self.max.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }
}

/// A value that stands for some changes in memory as long as it is there.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    pub(crate) value: T,
    changes: usize,
    buffered: Arc<Buffered>,
}

impl<T> Counted<T> {
    /// The changes were counted when they came.
    pub(crate) fn new(value: T, changes: usize, buffered: &Arc<Buffered>) -> Counted<T> {
        Counted {
            value,
            changes,
            buffered: Arc::clone(buffered),
        }
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        self.buffered.now.fetch_sub(self.changes, Ordering::Relaxed);
    }
}
