//! Positions in the write history of a PostgreSQL cluster.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log. Comparable only within one timeline of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no log position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log position such as 0/2ACCA18")]
pub struct LsnFault;

impl FromStr for Lsn {
    type Err = LsnFault;

    fn from_str(text: &str) -> Result<Lsn, LsnFault> {
        let (high, low) = text.split_once('/').ok_or(LsnFault)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| LsnFault)?;
        let low = u32::from_str_radix(low, 16).map_err(|_| LsnFault)?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// What a token proves: a cluster, its timeline, and a log position on it. An LSN alone compares as
/// satisfied after a failover that lost it, so the three travel together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline, one more at each promotion.
    pub timeline: u32,
    /// The position, read after the commit it stands for.
    pub lsn: Lsn,
}

impl Position {
    /// The lineage that it is a position of.
    pub fn lineage(&self) -> Lineage {
        Lineage {
            system_id: self.system_id,
            timeline: self.timeline,
        }
    }
}

/// Which of its possible histories a database continues. A failover or a restore that lost commits begins another one, and
/// what was learned from the lost ones may be said of something else there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline, one more at each promotion.
    pub timeline: u32,
}

impl Lineage {
    /// A position of it.
    pub fn at(self, lsn: Lsn) -> Position {
        Position {
            system_id: self.system_id,
            timeline: self.timeline,
            lsn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_position_reads_back() {
        for text in ["0/0", "0/2ACCA18", "FFFFFFFF/FFFFFFFF", "16/B374D848"] {
            assert_eq!(text.parse::<Lsn>().expect(text).to_string(), text);
        }
        assert_eq!("0-2ACCA18".parse::<Lsn>(), Err(LsnFault));
    }
}
