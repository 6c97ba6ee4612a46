//! Who is told where a commit is: tests stop it there.

use std::fmt;
use std::sync::Arc;

/// A step of a commit that was just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitStep {
    /// A data file is on disk.
    DataFile,
    /// The manifests of a table are on disk.
    Manifests,
    /// The list of a table's manifests is on disk.
    ManifestList,
    /// The description of a table is on disk.
    Description,
    /// The names of all these files are on disk: the commit is about to be sent.
    Settled,
    /// A REST catalogue has changed one of the tables.
    Table,
    /// PostgreSQL has committed, and nobody here knows yet.
    Committed,
}

/// Is told of each step.
pub trait CommitObserver: Send + Sync {
    /// A step was done.
    fn passed(&self, step: CommitStep);
}

/// The observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Observed(pub(crate) Option<Arc<dyn CommitObserver>>);

impl Observed {
    pub(crate) fn passed(&self, step: CommitStep) {
        if let Some(observer) = &self.0 {
            observer.passed(step);
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observed")
    }
}
