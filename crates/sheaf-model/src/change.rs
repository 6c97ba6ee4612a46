//! Positions in the stream of changes.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;

/// Where a change is in the stream: the timeline, the log position of its transaction's commit, and its place among the
/// changes of that transaction, from 1. Never a log position alone: all rows of a page that COPY wrote share one.
///
/// The changes of a transaction are the rows that the publication shows of it, in the order of writing, so that each change
/// has the same position however often the server sends it. A snapshot is as a transaction just before everything that its
/// slot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangePosition {
    /// The timeline of the server that sent it.
    pub timeline: u32,
    /// Where its transaction was committed.
    pub commit_lsn: Lsn,
    /// Its place in the transaction, from 1; 0 is before the first.
    pub ordinal: u64,
}

impl ChangePosition {
    /// The place before the first change of a transaction.
    pub fn before(timeline: u32, commit_lsn: Lsn) -> ChangePosition {
        ChangePosition {
            timeline,
            commit_lsn,
            ordinal: 0,
        }
    }
}

/// `1:0/2ACCA18:17`.
impl fmt::Display for ChangePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChangePosition {
            timeline,
            commit_lsn,
            ordinal,
        } = self;
        write!(f, "{timeline}:{commit_lsn}:{ordinal}")
    }
}

/// A text that is no position of a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a position of a change such as 1:0/2ACCA18:17")]
pub struct ChangePositionFault;

impl FromStr for ChangePosition {
    type Err = ChangePositionFault;

    fn from_str(text: &str) -> Result<ChangePosition, ChangePositionFault> {
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or(ChangePositionFault);
        let (timeline, commit_lsn, ordinal) = (part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(ChangePositionFault);
        }
        Ok(ChangePosition {
            timeline: timeline.parse().map_err(|_| ChangePositionFault)?,
            commit_lsn: commit_lsn.parse().map_err(|_| ChangePositionFault)?,
            ordinal: ordinal.parse().map_err(|_| ChangePositionFault)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_later_ones_are_greater() {
        let in_order = [
            "1:0/0:0",
            "1:0/2ACCA18:1",
            "1:0/2ACCA18:2",
            "1:0/2ACCA18:10",
            "1:0/2ACCA20:1",
            "1:1/0:1",
            "2:0/2ACCA18:1",
        ];
        let read: Vec<ChangePosition> = in_order
            .iter()
            .map(|text| text.parse().expect(text))
            .collect();
        for (text, position) in in_order.iter().zip(&read) {
            assert_eq!(position.to_string(), *text);
        }
        assert!(read.is_sorted(), "{read:?}");
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "1",
            "1:0/0",
            "1:0/0:1:1",
            "1:0:1",
            "x:0/0:1",
            "1:0/0:-1",
        ] {
            assert_eq!(
                text.parse::<ChangePosition>(),
                Err(ChangePositionFault),
                "{text}"
            );
        }
    }
}
