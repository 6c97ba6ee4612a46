//! The batches that this server has staged and whose registrations may not be on disk yet. After a recovery of PostgreSQL
//! they are looked up, and those that it took back without a trace are written down as lost.

use std::collections::VecDeque;

use sheaf_model::{BatchId, TenantId, Timestamp};
use sheaf_store::staging::StagedBatch;

/// More are staged only if the disk is far behind; the oldest are then forgotten, which are the likeliest to be on disk.
const REMEMBERED_MAX: usize = 100_000;
/// A confirmation covers what had committed when somebody looked. The first that is seen after a commit may stem from a
/// look before it, and so may the second, of which another server may have been told first; the third does not.
const CONFIRMATIONS: u64 = 3;

/// Batches in the order in which they were staged.
#[derive(Debug, Default)]
pub(super) struct StagedMemory {
    batches: VecDeque<(u64, StagedBatch)>,
    confirmations: u64,
    /// How many there had been when batches were last seen to wait; 0 at the start, when nobody knows of flushes before.
    waited_at: u64,
    confirmed_at: Option<Timestamp>,
}

impl StagedMemory {
    pub(super) fn remember(&mut self, batch: StagedBatch) {
        if self.batches.len() == REMEMBERED_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back((self.confirmations, batch));
    }

    /// Takes note that batches wait, of whichever server: their flush is to be confirmed.
    pub(super) fn see_waiting(&mut self) {
        self.waited_at = self.confirmations;
    }

    /// Whether everything that was staged and flushed, as far as this server has seen, is known to be on disk.
    pub(super) fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.confirmations - self.waited_at >= CONFIRMATIONS
    }

    pub(super) fn holds(&self, tenant: TenantId, batch: BatchId) -> bool {
        self.batches
            .iter()
            .any(|(_, staged)| staged.tenant == tenant && staged.batch == batch)
    }

    /// Takes note of how far commits are on disk, and forgets what is.
    pub(super) fn confirm(&mut self, confirmed_at: Timestamp) {
        if self
            .confirmed_at
            .is_some_and(|before| confirmed_at <= before)
        {
            return;
        }
        self.confirmed_at = Some(confirmed_at);
        self.confirmations += 1;
        while let Some((since, _)) = self.batches.front()
            && self.confirmations - since >= CONFIRMATIONS
        {
            self.batches.pop_front();
        }
    }

    /// The batches of epochs before this one, which has begun with a loss.
    pub(super) fn of_epochs_before(&self, epoch: i64) -> Vec<StagedBatch> {
        let before = self.batches.iter().map(|(_, batch)| batch);
        before
            .filter(|batch| batch.epoch < epoch)
            .cloned()
            .collect()
    }

    /// Forgets them, once they are written down.
    pub(super) fn forget_epochs_before(&mut self, epoch: i64) {
        self.batches.retain(|(_, batch)| batch.epoch >= epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i64) -> StagedBatch {
        StagedBatch {
            tenant: TenantId(1),
            batch: BatchId::new(),
            epoch,
            events: 1,
            refused: 0,
            staged_events: 1,
            values: 1,
            received_at: Timestamp::MIN,
        }
    }

    fn time(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).expect("a small time")
    }

    #[test]
    fn a_batch_is_forgotten_once_a_look_after_its_commit_is_confirmed() {
        let mut memory = StagedMemory::default();
        let staged = batch(1);
        memory.remember(staged.clone());
        memory.confirm(time(1));
        memory.confirm(time(1));
        memory.confirm(time(2));
        assert!(memory.holds(staged.tenant, staged.batch));
        memory.remember(batch(1));
        memory.confirm(time(3));
        assert!(!memory.holds(staged.tenant, staged.batch));
        assert_eq!(memory.of_epochs_before(2).len(), 1);
    }

    #[test]
    fn there_is_something_to_confirm_at_the_start_and_after_batches_have_waited() {
        let mut memory = StagedMemory::default();
        for micros in 1..=3 {
            assert!(!memory.is_settled());
            memory.confirm(time(micros));
        }
        assert!(memory.is_settled());
        memory.see_waiting();
        memory.confirm(time(3));
        memory.confirm(time(4));
        memory.confirm(time(5));
        assert!(!memory.is_settled(), "the flush may be younger than both");
        memory.confirm(time(6));
        assert!(memory.is_settled());
    }

    #[test]
    fn after_a_loss_the_batches_before_it_are_written_down_and_forgotten() {
        let mut memory = StagedMemory::default();
        memory.remember(batch(1));
        memory.remember(batch(2));
        assert_eq!(memory.of_epochs_before(2).len(), 1);
        memory.forget_epochs_before(2);
        assert_eq!(memory.of_epochs_before(2).len(), 0);
        assert_eq!(memory.of_epochs_before(3).len(), 1);
    }
}
