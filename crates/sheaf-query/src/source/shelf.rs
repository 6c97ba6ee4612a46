//! What a read may take of the archive beside its source, and how fresh both are together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sheaf_model::{Position, Timestamp};

use super::asked::together;
use crate::archive::{Archive, ArchiveError, Archived};
use crate::consistency::{DataSource, Freshness};
use crate::error::ReadError;

/// A state of the archive that all of a history is read from.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub(crate) state: Arc<dyn Archived>,
    pub(crate) freshness: Freshness,
}

/// What is read of the archive.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    archive: Option<Arc<dyn Archive>>,
    whole: Option<Whole>,
    older: Mutex<Option<Older>>,
    has_documents: AtomicBool,
}

/// A state that holds everything before a boundary.
#[derive(Debug)]
struct Older {
    boundary: Timestamp,
    state: Arc<dyn Archived>,
}

impl Shelf {
    pub(crate) fn new(archive: Option<Arc<dyn Archive>>, whole: Option<Whole>) -> Shelf {
        Shelf {
            archive,
            whole,
            ..Shelf::default()
        }
    }

    /// What all of a history is to be read from; absent where the source has it, with the archive for what is older.
    pub(crate) fn whole(&self) -> Option<&Arc<dyn Archived>> {
        self.whole.as_ref().map(|whole| &whole.state)
    }

    /// Where that is.
    pub(crate) fn position(&self) -> Option<Position> {
        let whole = self.whole.as_ref()?;
        Some(whole.freshness.position)
    }

    /// A state of the archive that holds all events before a boundary: the one that all is read from, or one that was looked at after
    /// the boundary was.
    pub(crate) async fn older(&self, boundary: Timestamp) -> Result<Arc<dyn Archived>, ReadError> {
        if let Some(state) = self.whole() {
            return Ok(Arc::clone(state));
        }
        if let Some(state) = self.known(boundary) {
            return Ok(state);
        }
        let archive = self.archive.as_ref().ok_or_else(ArchiveError::none)?;
        let state = archive.look(None, Duration::ZERO).await?;
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        *older = Some(Older {
            boundary,
            state: Arc::clone(&state),
        });
        Ok(state)
    }

    fn known(&self, boundary: Timestamp) -> Option<Arc<dyn Archived>> {
        let older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let older = older.as_ref().filter(|older| boundary <= older.boundary);
        older.map(|older| Arc::clone(&older.state))
    }

    /// The source was asked which documents there are, and not only what an entity is called.
    pub(super) fn saw_documents(&self) {
        self.has_documents.store(true, Ordering::Relaxed);
    }

    /// How fresh it is together with what the source has proven.
    ///
    /// What is before the boundary changes no more but by late events, which the source has: it is as fresh as these.
    pub(super) fn together(self, proven: Freshness) -> Freshness {
        let is_joined = match &self.whole {
            Some(whole) if self.has_documents.load(Ordering::Relaxed) => {
                let source = with_lake(proven.source.clone());
                let both = together(proven, &whole.freshness);
                return Freshness { source, ..both };
            }
            Some(whole) => return whole.freshness.clone(),
            None => {
                let older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
                older.is_some()
            }
        };
        match is_joined {
            true => Freshness {
                source: with_lake(proven.source.clone()),
                ..proven
            },
            false => proven,
        }
    }
}

fn with_lake(source: DataSource) -> DataSource {
    DataSource::WithLake(Arc::new(source))
}
