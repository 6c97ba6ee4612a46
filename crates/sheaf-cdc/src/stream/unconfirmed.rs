//! What was received and not confirmed yet, and up to where no sink needs anything any more. Pure.

use std::collections::VecDeque;

use sheaf_model::{ChangePosition, Lsn, Timestamp};

/// A transaction that some sink may not hold yet.
#[derive(Debug)]
struct Waiting {
    end_lsn: Lsn,
    /// The last change up to its end, whichever transaction that was of.
    last_change: Option<ChangePosition>,
    /// The primary's clock when everything up to its end had been committed.
    clock: Timestamp,
}

/// Transactions in their order, without their changes: one for each that has some, at most.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    waiting: VecDeque<Waiting>,
    last_change: Option<ChangePosition>,
    /// Up to here the server has read its log and sent what there is.
    read_to: Lsn,
    free_to: Lsn,
    free_change: Option<ChangePosition>,
    free_clock: Option<Timestamp>,
}

impl Unconfirmed {
    /// Nothing has been received since this position.
    pub(super) fn new(confirmed: Lsn) -> Unconfirmed {
        Unconfirmed {
            waiting: VecDeque::new(),
            last_change: None,
            read_to: Lsn(0),
            free_to: confirmed,
            free_change: None,
            free_clock: None,
        }
    }

    /// A change came.
    pub(super) fn came(&mut self, position: ChangePosition) {
        self.last_change = Some(position);
    }

    /// The last change that came.
    pub(super) fn last_change(&self) -> Option<ChangePosition> {
        self.last_change
    }

    /// Its transaction ended. One without changes waits with the one before.
    pub(super) fn ended(&mut self, end_lsn: Lsn, committed_at: Timestamp) {
        match self.waiting.back_mut() {
            Some(last) if last.last_change == self.last_change => {
                last.end_lsn = end_lsn;
                last.clock = last.clock.max(committed_at);
            }
            Some(_) | None => self.waiting.push_back(Waiting {
                end_lsn,
                last_change: self.last_change,
                clock: committed_at,
            }),
        }
    }

    /// The primary's clock at a moment when everything that came before had been committed, and all of that has come.
    pub(super) fn beat(&mut self, clock: Timestamp) {
        match self.waiting.back_mut() {
            Some(last) => last.clock = last.clock.max(clock),
            None => self.free_clock = self.free_clock.max(Some(clock)),
        }
    }

    /// The server says how far it has read. Within a transaction that is no end of anything.
    pub(super) fn read_to(&mut self, position: Lsn) {
        self.read_to = self.read_to.max(position);
    }

    /// Lets go of what every sink holds, each up to where it says. With nothing left and nothing under way, what the server has
    /// read goes too.
    pub(super) fn free(&mut self, held: &[Option<ChangePosition>], is_under_way: bool) {
        let is_held = |waiting: &Waiting| held.iter().all(|held| waiting.last_change <= *held);
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| is_held(waiting)) {
            self.free_to = self.free_to.max(waiting.end_lsn);
            self.free_change = waiting.last_change;
            self.free_clock = self.free_clock.max(Some(waiting.clock));
        }
        if self.waiting.is_empty() && !is_under_way {
            self.free_to = self.free_to.max(self.read_to);
        }
    }

    /// Up to here no sink needs anything.
    pub(super) fn free_to(&self) -> Lsn {
        self.free_to
    }

    /// The last change up to there.
    pub(super) fn free_change(&self) -> Option<ChangePosition> {
        self.free_change
    }

    /// The primary's clock when everything up to a position had been committed. Absent where it is not known.
    pub(super) fn clock_of(&self, held: Option<ChangePosition>) -> Option<Timestamp> {
        let held = self
            .waiting
            .iter()
            .take_while(|waiting| waiting.last_change <= held);
        held.map(|waiting| Some(waiting.clock))
            .fold(self.free_clock, Option::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit_lsn: u64, ordinal: u64) -> ChangePosition {
        ChangePosition {
            timeline: 1,
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        }
    }

    fn clock(second: i64) -> Timestamp {
        Timestamp::MIN.saturating_add_micros(second * 1_000_000)
    }

    /// Two transactions of two changes each, an empty one and a heartbeat between them, and an empty one at the end.
    fn received() -> Unconfirmed {
        let mut unconfirmed = Unconfirmed::new(Lsn(50));
        unconfirmed.came(at(100, 1));
        unconfirmed.came(at(100, 2));
        unconfirmed.ended(Lsn(108), clock(1));
        unconfirmed.ended(Lsn(150), clock(2));
        unconfirmed.beat(clock(3));
        unconfirmed.came(at(200, 1));
        unconfirmed.came(at(200, 2));
        unconfirmed.ended(Lsn(208), clock(4));
        unconfirmed.ended(Lsn(250), clock(5));
        unconfirmed.read_to(Lsn(300));
        unconfirmed
    }

    #[test]
    fn only_what_every_sink_holds_is_let_go() {
        let (none, middle, first) = (None, Some(at(100, 1)), Some(at(100, 2)));
        let (second, beyond) = (Some(at(200, 2)), Some(at(900, 1)));
        for (held, is_under_way, wanted) in [
            (vec![none], false, 50),
            (vec![middle], false, 50),
            (vec![first], false, 150),
            (vec![first, second], false, 150),
            (vec![second, none], false, 50),
            (vec![second], false, 300),
            (vec![second, beyond], false, 300),
            // The server has read further, but something of that is still to be given on.
            (vec![second], true, 250),
            // Nobody is there who could need anything.
            (vec![], false, 300),
        ] {
            let mut unconfirmed = received();
            unconfirmed.free(&held, is_under_way);
            assert_eq!(unconfirmed.free_to(), Lsn(wanted), "{held:?}");
            // What was let go once is never needed again.
            unconfirmed.free(&[none], true);
            assert_eq!(
                unconfirmed.free_to(),
                Lsn(wanted),
                "{held:?} and then nothing"
            );
        }
    }

    #[test]
    fn transactions_without_changes_move_on_what_sinks_that_have_not_begun_do_not_hold_up() {
        let mut unconfirmed = Unconfirmed::new(Lsn(50));
        unconfirmed.ended(Lsn(60), clock(1));
        unconfirmed.free(&[None], false);
        assert_eq!(
            (unconfirmed.free_to(), unconfirmed.free_change()),
            (Lsn(60), None)
        );
    }

    #[test]
    fn a_sink_is_as_old_as_the_first_thing_that_it_lacks() {
        let unconfirmed = received();
        for (held, wanted) in [
            (None, None),
            (Some(at(100, 1)), None),
            (Some(at(100, 2)), Some(clock(3))),
            (Some(at(200, 1)), Some(clock(3))),
            (Some(at(200, 2)), Some(clock(5))),
        ] {
            assert_eq!(unconfirmed.clock_of(held), wanted, "{held:?}");
        }
        let mut idle = Unconfirmed::new(Lsn(50));
        idle.beat(clock(7));
        assert_eq!(idle.clock_of(None), Some(clock(7)));
    }

    #[test]
    fn one_transaction_is_kept_for_any_number_without_changes() {
        let mut unconfirmed = received();
        for end in 300..10_000 {
            unconfirmed.ended(Lsn(end), clock(6));
        }
        assert_eq!(unconfirmed.waiting.len(), 2);
    }
}
