//! What a reconciliation came to.

use std::collections::BTreeSet;

use sheaf_model::Timestamp;

use super::counting::CountingWork;
use super::lake_files::FilesWork;
use crate::digest::{FactKey, TenantHour};

/// How a fact differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DifferenceKind {
    /// PostgreSQL has it and the lake does not.
    Missing,
    /// The lake has it and PostgreSQL does not, or the lake has it once more.
    Extra,
    /// Both have it, and not as the same. Which side is right nobody can tell.
    Changed,
    /// It counts in the lake, and a later event hides it.
    Shown,
    /// It is hidden in the lake, and nothing hides it.
    Hidden,
}

impl DifferenceKind {
    /// All, in the order in which they are counted.
    pub const ALL: [DifferenceKind; 5] = [
        DifferenceKind::Missing,
        DifferenceKind::Extra,
        DifferenceKind::Changed,
        DifferenceKind::Shown,
        DifferenceKind::Hidden,
    ];

    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            DifferenceKind::Missing => "missing",
            DifferenceKind::Extra => "extra",
            DifferenceKind::Changed => "changed",
            DifferenceKind::Shown => "shown",
            DifferenceKind::Hidden => "hidden",
        }
    }

    fn place(self) -> usize {
        match self {
            DifferenceKind::Missing => 0,
            DifferenceKind::Extra => 1,
            DifferenceKind::Changed => 2,
            DifferenceKind::Shown => 3,
            DifferenceKind::Hidden => 4,
        }
    }
}

/// A fact that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The fact.
    pub key: FactKey,
    /// How.
    pub kind: DifferenceKind,
}

/// How many facts differ, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DifferenceCounts([u64; 5]);

impl DifferenceCounts {
    /// One more.
    pub fn add(&mut self, kind: DifferenceKind) {
        self.0[kind.place()] += 1;
    }

    /// How many of a kind.
    pub fn of(&self, kind: DifferenceKind) -> u64 {
        self.0[kind.place()]
    }

    /// How many of all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Why both sides could not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCompared {
    /// Nothing was ever in the lake.
    NoLake,
    /// The lake has not come as far in the time that there was.
    Behind,
    /// A transaction that was going on has not ended in the time that there was.
    Running,
    /// A partition was taken out of the history, or put back, meanwhile.
    Detached,
    /// Somebody else compares them.
    Busy,
}

impl NotCompared {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            NotCompared::NoLake => "the lake has nothing yet, or its snapshot goes on",
            NotCompared::Behind => "the lake has not come as far as the database in time",
            NotCompared::Running => "a transaction that writes has not ended in time",
            NotCompared::Detached => "a partition was detached or attached meanwhile",
            NotCompared::Busy => {
                "somebody else compares both sides, or was killed in it less than a minute ago"
            }
        }
    }
}

/// What both sides were found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Equal.
    Clean,
    /// Different.
    Different,
    /// Nobody knows.
    NotCompared(NotCompared),
}

impl Outcome {
    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Clean => "clean",
            Outcome::Different => "different",
            Outcome::NotCompared(_) => "not_compared",
        }
    }
}

/// What was read and compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Partitions that were read whole.
    pub partitions_whole: u64,
    /// Partitions of which what came since was read.
    pub partitions_new: u64,
    /// Events that were read of PostgreSQL to count them.
    pub events: u64,
    /// Events that neither side can read: they are dead letters.
    pub unreadable: u64,
    /// Files of the lake that were read to count them.
    pub files: u64,
    /// Files of the lake that are gone.
    pub files_gone: u64,
    /// Facts in the files that were read.
    pub facts: u64,
    /// Files that were read again, and were not what they had been.
    pub decayed: u64,
    /// Hours of tenants that are compared, all of them.
    pub hours: u64,
    /// Hours of tenants that were looked at fact by fact.
    pub hours_drilled: u64,
}

impl Work {
    pub(super) fn add_counting(&mut self, counting: CountingWork) {
        self.partitions_whole += counting.partitions_whole;
        self.partitions_new += counting.partitions_new;
        self.events += counting.events;
        self.unreadable += counting.unreadable;
    }

    pub(super) fn add_files(&mut self, files: &FilesWork) {
        self.files += files.files;
        self.files_gone += files.files_gone;
        self.facts += files.facts;
        self.decayed += files.decayed;
    }
}

/// What was put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Events that were asked to be put right.
    pub asked: u64,
    /// Facts that still differed afterwards, those among them that were too many to be asked for at once.
    pub left: u64,
}

/// What a reconciliation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What both sides were found to be, before anything was put right.
    pub outcome: Outcome,
    /// Events that were received before this were compared.
    pub cutoff: Timestamp,
    /// How many facts differ.
    pub counts: DifferenceCounts,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Files of the lake that are damaged: what is in them is told as missing, and nothing is put right before they are.
    pub damaged: BTreeSet<String>,
    /// Hours of tenants of archived or detached periods that are not what they were when PostgreSQL still had them.
    pub archived: Vec<TenantHour>,
    /// Hours of tenants in which more differs than could be looked at this time.
    pub hours_left: u64,
    /// Periods that PostgreSQL had given away before anybody had counted them: nobody can compare them.
    pub periods_unknown: u64,
    /// Facts that the lake lacks because their events wait as dead letters.
    pub letters: u64,
    /// What was put right, where that was asked.
    pub repaired: Option<Repaired>,
    /// What was read.
    pub work: Work,
}
