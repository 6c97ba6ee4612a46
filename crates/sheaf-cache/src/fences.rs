//! Fences: how far a value must have seen for no announced write to be missing from it.
//!
//! A write that was committed is announced with its position. Its entity's fence is then there: a value that was read
//! before is behind it and answers nothing any more, however late it arrives. That is what tombstones are for; but a
//! position orders the writes of all entities, so that a table of fixed size holds them all. Entities that share a cell
//! share its fence, which costs a read and no truth, and nothing can evict a fence.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sheaf_model::{EntityId, Lsn, TenantId};

/// Half a million cells are 8 MB. At 10,000 written entities a second, a value of three seconds' age has lost its cell to
/// a neighbour once in 18; fewer cells forget more, more take the memory of values.
/// Tests make thousands of caches.
const ENTITY_CELLS: usize = if cfg!(test) { 1 << 10 } else { 1 << 19 };
/// For each tenant, when one of its names was last told to have a number.
const NAME_CELLS: usize = 1 << 12;
/// Beyond every position: nothing that is only known by its position has seen enough.
const UNREACHED: u64 = u64::MAX;

/// Where the fence of something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    /// The number of the announcement. What the primary was asked for later has it.
    pub(crate) turn: u64,
    /// The position of the write. What covers more has it.
    pub(crate) lsn: Lsn,
}

#[derive(Default)]
struct Cell {
    turn: AtomicU64,
    lsn: AtomicU64,
}

/// The fences of everything.
pub(crate) struct Fences {
    hasher: RandomState,
    entities: Box<[Cell]>,
    names: Box<[AtomicU64]>,
    turn: AtomicU64,
    floor: Cell,
    /// When everything was raised last.
    raised_at: Mutex<Option<Instant>>,
}

impl Fences {
    pub(crate) fn new() -> Fences {
        Fences {
            hasher: RandomState::new(),
            entities: (0..ENTITY_CELLS).map(|_| Cell::default()).collect(),
            names: (0..NAME_CELLS).map(|_| AtomicU64::new(0)).collect(),
            turn: AtomicU64::new(0),
            floor: Cell::default(),
            raised_at: Mutex::default(),
        }
    }

    /// How many announcements there were. Taken before a source is asked.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// The number of an announcement that is made now.
    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Where the fence of an entity stands, or of all names of the tenant that have none.
    pub(crate) fn of(&self, tenant: TenantId, entity: Option<EntityId>) -> Fence {
        let (turn, lsn) = match entity {
            Some(entity) => {
                let cell = self.cell(tenant, entity);
                let lsn = cell.lsn.load(Ordering::Acquire);
                (cell.turn.load(Ordering::Acquire), lsn)
            }
            None => (self.name_cell(tenant).load(Ordering::Acquire), UNREACHED),
        };
        Fence {
            turn: turn.max(self.floor.turn.load(Ordering::Acquire)),
            lsn: Lsn(lsn.max(self.floor.lsn.load(Ordering::Acquire))),
        }
    }

    /// An entity was written, and this position has it.
    pub(crate) fn advance(&self, tenant: TenantId, entity: EntityId, lsn: Lsn) {
        let turn = self.next_turn();
        let cell = self.cell(tenant, entity);
        cell.turn.fetch_max(turn, Ordering::AcqRel);
        cell.lsn.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// Names of the tenant have a number now that may have had none. What was found to have none before is behind; what is
    /// found afterwards has it, and an entity's own fence.
    pub(crate) fn name(&self, tenant: TenantId) {
        let turn = self.next_turn();
        self.name_cell(tenant).fetch_max(turn, Ordering::AcqRel);
    }

    /// Something was written that nobody named: every value that was read before is behind.
    pub(crate) fn raise(&self) {
        let mut raised_at = self.locked();
        self.floor.lsn.store(UNREACHED, Ordering::Release);
        let turn = self.next_turn();
        self.floor.turn.fetch_max(turn, Ordering::AcqRel);
        *raised_at = Some(Instant::now());
    }

    /// Whether everything was raised, and no position of the primary is known since.
    pub(crate) fn is_raised(&self) -> bool {
        self.floor.lsn.load(Ordering::Acquire) == UNREACHED
    }

    /// The primary had come this far at some time after it was asked. If that was after all was raised, then what covers
    /// more has everything that was written by then.
    pub(crate) fn settle(&self, asked_at: Instant, lsn: Lsn) {
        if !self.is_raised() {
            return;
        }
        let raised_at = self.locked();
        if raised_at.is_some_and(|raised_at| raised_at <= asked_at) {
            self.floor.lsn.store(lsn.0, Ordering::Release);
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.raised_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, tenant: TenantId, entity: EntityId) -> &Cell {
        &self.entities[self.place((tenant, entity), ENTITY_CELLS)]
    }

    fn name_cell(&self, tenant: TenantId) -> &AtomicU64 {
        &self.names[self.place(tenant, NAME_CELLS)]
    }

    fn place(&self, key: impl std::hash::Hash, cells: usize) -> usize {
        let mask = cells as u64 - 1;
        usize::try_from(self.hasher.hash_one(key) & mask).expect("invariant: less than the cells")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TENANT: TenantId = TenantId(1);

    #[test]
    fn a_fence_stands_at_the_last_write_of_its_entity_and_never_goes_back() {
        let fences = Fences::new();
        let before = fences.turn();
        fences.advance(TENANT, EntityId(7), Lsn(50));
        fences.advance(TENANT, EntityId(7), Lsn(40));
        let fence = fences.of(TENANT, Some(EntityId(7)));
        assert_eq!(fence.lsn, Lsn(50));
        assert!(fence.turn > before && fence.turn == fences.turn());
        assert_eq!(fences.of(TENANT, None).turn, 0);
        fences.name(TENANT);
        let names = fences.of(TENANT, None);
        assert_eq!((names.turn, names.lsn), (fences.turn(), Lsn(UNREACHED)));
    }

    #[test]
    fn after_an_unnamed_write_a_position_counts_once_the_primary_was_asked() {
        let fences = Fences::new();
        let (early, early_turn) = (Instant::now() - Duration::from_millis(1), fences.turn());
        fences.raise();
        let raised = fences.of(TENANT, Some(EntityId(7)));
        assert!(raised.turn > early_turn && fences.is_raised());
        assert_eq!(raised.lsn, Lsn(UNREACHED));
        fences.settle(early, Lsn(90));
        assert_eq!(fences.of(TENANT, Some(EntityId(7))).lsn, Lsn(UNREACHED));
        fences.settle(Instant::now(), Lsn(95));
        fences.settle(Instant::now(), Lsn(99));
        assert!(!fences.is_raised());
        assert_eq!(fences.of(TENANT, Some(EntityId(7))).lsn, Lsn(95));
    }
}
