//! Changes that a sink cannot take: kept beside the stream with all there is of them, so that what follows goes on, and offered
//! again when somebody asks for it. Pure.

mod payload;
#[cfg(test)]
mod tests;

use sheaf_model::{ChangePosition, LetterId, TenantId, Timestamp};

use crate::change::{Change, Origin};
use crate::table::RowFault;

pub use payload::{PAYLOAD_BYTES_MAX, Payload};
pub(crate) use payload::{payload_of, payload_of_message, payload_of_row, read_payload, tenant_of};

/// Why a change could not be taken, as a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LetterReason {
    /// What PostgreSQL sent is no row as its protocol has it.
    Malformed,
    /// A column holds what it should not.
    Unreadable,
    /// The row is longer than the stream takes.
    TooLarge,
    /// It names an attribute that there is not.
    UnknownAttribute,
    /// A value is not of its attribute's type.
    InvalidValue,
    /// A row of a catalogue that the sink has no place for.
    InvalidRow,
    /// The sink takes nothing but in its order.
    OutOfOrder,
    /// Whom the sink sends it to will not have it.
    Refused,
}

impl LetterReason {
    /// All of them.
    pub const ALL: [LetterReason; 8] = [
        LetterReason::Malformed,
        LetterReason::Unreadable,
        LetterReason::TooLarge,
        LetterReason::UnknownAttribute,
        LetterReason::InvalidValue,
        LetterReason::InvalidRow,
        LetterReason::OutOfOrder,
        LetterReason::Refused,
    ];

    /// Why a row cannot be read.
    pub(crate) fn of_row(fault: &RowFault) -> LetterReason {
        match fault {
            RowFault::Long { .. } => LetterReason::TooLarge,
            RowFault::MissingColumn { .. }
            | RowFault::Column { .. }
            | RowFault::Value { .. }
            | RowFault::Length { .. } => LetterReason::Unreadable,
        }
    }

    /// The code, which is stable.
    pub fn as_str(self) -> &'static str {
        match self {
            LetterReason::Malformed => "malformed",
            LetterReason::Unreadable => "unreadable",
            LetterReason::TooLarge => "too_large",
            LetterReason::UnknownAttribute => "unknown_attribute",
            LetterReason::InvalidValue => "invalid_value",
            LetterReason::InvalidRow => "invalid_row",
            LetterReason::OutOfOrder => "out_of_order",
            LetterReason::Refused => "refused",
        }
    }
}

/// Letters by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterCounts([u64; LetterReason::ALL.len()]);

impl LetterCounts {
    /// None of any.
    pub const NONE: LetterCounts = LetterCounts([0; LetterReason::ALL.len()]);

    /// One more.
    pub fn add(&mut self, reason: LetterReason) {
        for (count, known) in self.0.iter_mut().zip(LetterReason::ALL) {
            *count += u64::from(known == reason);
        }
    }

    /// These with those.
    pub fn plus(mut self, others: LetterCounts) -> LetterCounts {
        for (count, more) in self.0.iter_mut().zip(others.0) {
            *count += more;
        }
        self
    }

    /// Each reason with its number.
    pub fn each(&self) -> impl Iterator<Item = (LetterReason, u64)> {
        LetterReason::ALL.into_iter().zip(self.0)
    }
}

/// A change that a sink cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub position: ChangePosition,
    /// Why.
    pub reason: LetterReason,
    /// The same for people.
    pub detail: String,
}

/// A letter that is offered to its sink again.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Its number.
    pub id: LetterId,
    /// Where it came from.
    pub origin: Origin,
    /// The change, with the position that it had.
    pub change: Change,
}

/// A row that cannot be read, for no sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub position: ChangePosition,
    /// The number of its transaction; 0 in a snapshot.
    pub xid: u32,
    /// When that was committed.
    pub committed_at: Timestamp,
    /// Whose row it is, where that can be read.
    pub tenant: Option<TenantId>,
    /// What is wrong with it.
    pub reason: LetterReason,
    /// The same for people.
    pub detail: String,
    /// What there is of it.
    pub payload: Payload,
}
