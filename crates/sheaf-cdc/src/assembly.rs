//! From messages to changes: which transaction a row is of, and which place it has in it.
//!
//! Pure. It holds what the tables are like and the transaction that is open, never its rows.

use std::collections::HashMap;

use sheaf_model::{ChangePosition, Lsn, TenantId, Timestamp};
use sheaf_pg::chain;

use crate::change::Change;
use crate::letter::{LetterReason, Payload, Unreadable, payload_of_message, payload_of_row};
use crate::pgoutput::{Malformed, Message, Tuple};
use crate::table::{Row, RowFault, Table};

/// 2000-01-01T00:00:00Z in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What a message comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing for sinks.
    Nothing,
    /// A row was deleted or tables were emptied, which sinks are not told: what was sent stays there.
    Ignored,
    /// A change.
    Change(Change),
    /// A row that sinks should have been given and that cannot be read.
    Unreadable(Unreadable),
    /// The primary's clock at a moment when everything before had been committed.
    Beat(Timestamp),
    /// A transaction has ended.
    Committed {
        /// Where the log goes on after it.
        end_lsn: Lsn,
        /// When it was committed.
        committed_at: Timestamp,
    },
}

/// Messages that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyFault {
    /// A row outside of any transaction, or an end without a beginning.
    #[error("{0} outside of a transaction")]
    Outside(&'static str),
    /// A transaction within another.
    #[error("a transaction begins within that of {0}")]
    Within(ChangePosition),
    /// A transaction ends elsewhere than it said.
    #[error("the transaction of {begun} ends as one of {ended}")]
    OtherEnd {
        /// Where it said.
        begun: ChangePosition,
        /// Where it ends.
        ended: Lsn,
    },
    /// Transactions come in the order of their commits.
    #[error("a transaction of {next} follows one of {last}")]
    Backwards {
        /// The one before.
        last: Lsn,
        /// This one.
        next: Lsn,
    },
    /// A row of a table that was never described.
    #[error("a row of table number {oid} at {at}, which was not described")]
    UnknownTable {
        /// The table's number.
        oid: u32,
        /// Where the row is.
        at: ChangePosition,
    },
    /// A time that cannot be.
    #[error("a commit at no time that can be told: {0} microseconds")]
    Time(i64),
    /// A table that lacks what is needed.
    #[error("a table as it was described")]
    Table(#[source] RowFault),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    position: ChangePosition,
    xid: u32,
    committed_at: Timestamp,
}

/// The state of a stream between two messages.
#[derive(Debug)]
pub struct Assembly {
    timeline: u32,
    row_bytes_max: usize,
    tables: HashMap<u32, Table>,
    open: Option<Open>,
    last_commit: Lsn,
}

impl Assembly {
    /// Before the first message of a server on this timeline. Rows with more bytes than this are not read.
    pub fn new(timeline: u32, row_bytes_max: usize) -> Assembly {
        Assembly {
            timeline,
            row_bytes_max,
            tables: HashMap::new(),
            open: None,
            last_commit: Lsn(0),
        }
    }

    /// Whether a transaction has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next message.
    pub fn take(&mut self, message: &Message<'_>) -> Result<Step, AssemblyFault> {
        match message {
            Message::Begin {
                commit_lsn,
                committed_at,
                xid,
            } => self.begin(*commit_lsn, *committed_at, *xid),
            Message::Commit {
                commit_lsn,
                end_lsn,
                ..
            } => self.commit(*commit_lsn, *end_lsn),
            Message::Relation(relation) => {
                let table = Table::from_relation(relation).map_err(AssemblyFault::Table)?;
                self.tables.insert(relation.oid, table);
                Ok(Step::Nothing)
            }
            Message::Insert { relation, row } => self.row(*relation, row, true),
            Message::Update { relation, row, .. } => self.row(*relation, row, false),
            Message::Delete { .. } | Message::Truncate { .. } => {
                self.next_position("a deleted row")?;
                Ok(Step::Ignored)
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {
                Ok(Step::Nothing)
            }
        }
    }

    fn begin(&mut self, commit_lsn: Lsn, wire: i64, xid: u32) -> Result<Step, AssemblyFault> {
        if let Some(open) = &self.open {
            return Err(AssemblyFault::Within(open.position));
        }
        if commit_lsn <= self.last_commit {
            return Err(AssemblyFault::Backwards {
                last: self.last_commit,
                next: commit_lsn,
            });
        }
        let committed_at = wire
            .checked_add(EPOCH_MICROS)
            .and_then(|micros| Timestamp::from_micros(micros).ok());
        self.open = Some(Open {
            position: ChangePosition::before(self.timeline, commit_lsn),
            xid,
            committed_at: committed_at.ok_or(AssemblyFault::Time(wire))?,
        });
        Ok(Step::Nothing)
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<Step, AssemblyFault> {
        let Some(open) = self.open.take() else {
            return Err(AssemblyFault::Outside("an end"));
        };
        if open.position.commit_lsn != commit_lsn || end_lsn <= commit_lsn {
            return Err(AssemblyFault::OtherEnd {
                begun: open.position,
                ended: commit_lsn,
            });
        }
        self.last_commit = commit_lsn;
        Ok(Step::Committed {
            end_lsn,
            committed_at: open.committed_at,
        })
    }

    /// Each row that is shown takes a place, also one that is nothing to sinks, so that places never depend on what we know.
    fn next_position(&mut self, what: &'static str) -> Result<&Open, AssemblyFault> {
        let open = self.open.as_mut().ok_or(AssemblyFault::Outside(what))?;
        open.position.ordinal += 1;
        Ok(open)
    }

    /// Takes a message that is none. One that is a row takes its place; any other leaves unknown what follows, and the fault is
    /// given back.
    pub fn take_malformed(&mut self, bytes: &[u8], fault: Malformed) -> Result<Step, Malformed> {
        let is_ignored = match bytes.first() {
            Some(b'I' | b'U') => false,
            Some(b'D' | b'T') => true,
            Some(_) | None => return Err(fault),
        };
        let Ok(open) = self.next_position("a row") else {
            return Err(fault);
        };
        if is_ignored {
            return Ok(Step::Ignored);
        }
        let payload = payload_of_message(bytes);
        let detail = fault.to_string();
        Ok(open.unreadable(LetterReason::Malformed, detail, payload, None))
    }

    fn row(&mut self, oid: u32, row: &Tuple<'_>, is_new: bool) -> Result<Step, AssemblyFault> {
        let open = *self.next_position("a row")?;
        let at = open.position;
        let table = self
            .tables
            .get(&oid)
            .ok_or(AssemblyFault::UnknownTable { oid, at })?;
        let read = table.read(row, is_new, self.row_bytes_max);
        Ok(match read {
            Ok(Row::Change(row)) => Step::Change(Change {
                position: at,
                xid: open.xid,
                committed_at: open.committed_at,
                row,
            }),
            Ok(Row::Beat(Some(time))) => Step::Beat(time),
            Ok(Row::Beat(None) | Row::Other) => Step::Nothing,
            Err(fault) if table.is_for_sinks() => {
                let (payload, tenant) = payload_of_row(table, &row.values, is_new);
                open.unreadable(LetterReason::of_row(&fault), chain(&fault), payload, tenant)
            }
            // A heartbeat: what it says is unknown, and nobody lacks it.
            Err(_) => Step::Nothing,
        })
    }
}

impl Open {
    fn unreadable(
        &self,
        reason: LetterReason,
        detail: String,
        payload: Payload,
        tenant: Option<TenantId>,
    ) -> Step {
        Step::Unreadable(Unreadable {
            position: self.position,
            xid: self.xid,
            committed_at: self.committed_at,
            tenant,
            reason,
            detail,
            payload,
        })
    }
}

#[cfg(test)]
mod tests;
