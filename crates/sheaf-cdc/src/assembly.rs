//! From messages to changes: which transaction a row is of, and which place it has in it.
//!
//! Pure. It holds what the tables are like and the transaction that is open, never its rows.

use std::collections::HashMap;

use sheaf_model::{ChangePosition, Lsn, Timestamp};

use crate::change::Change;
use crate::pgoutput::{Message, Tuple};
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

/// Messages that do not fit together, or a row that is none of ours.
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
    /// A row that cannot be read.
    #[error("the row at {at}")]
    Row {
        /// Where it is.
        at: ChangePosition,
        /// What is wrong with it.
        #[source]
        source: RowFault,
    },
}

#[derive(Debug)]
struct Open {
    position: ChangePosition,
    xid: u32,
    committed_at: Timestamp,
}

/// The state of a stream between two messages.
#[derive(Debug)]
pub struct Assembly {
    timeline: u32,
    tables: HashMap<u32, Table>,
    open: Option<Open>,
    last_commit: Lsn,
}

impl Assembly {
    /// Before the first message of a server on this timeline.
    pub fn new(timeline: u32) -> Assembly {
        Assembly {
            timeline,
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

    fn row(&mut self, oid: u32, row: &Tuple<'_>, is_new: bool) -> Result<Step, AssemblyFault> {
        let Open {
            position: at,
            xid,
            committed_at,
        } = *self.next_position("a row")?;
        let table = self
            .tables
            .get(&oid)
            .ok_or(AssemblyFault::UnknownTable { oid, at })?;
        let read = table.read(row, is_new);
        Ok(
            match read.map_err(|source| AssemblyFault::Row { at, source })? {
                Row::Change(row) => Step::Change(Change {
                    position: at,
                    xid,
                    committed_at,
                    row,
                }),
                Row::Beat(Some(time)) => Step::Beat(time),
                Row::Beat(None) | Row::Other => Step::Nothing,
            },
        )
    }
}

#[cfg(test)]
mod tests;
