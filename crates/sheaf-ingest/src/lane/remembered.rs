//! The documents that a lane wrote last, so that it need not read them before the next merge.
//!
//! A remembered document is right as long as nobody else has written its bucket since, which the lane sees in the database
//! under the bucket's lock. Where that is wrong after all, the update finds another version, and the group runs again.

use std::collections::HashMap;

use sheaf_model::{Document, EntityId, Timestamp};
use sheaf_store::documents::StoredDocument;

/// What a cell costs beside its value: its number, its time, its place in the tree.
const CELL_BYTES: usize = 72;
/// What a document costs beside its cells.
const DOCUMENT_BYTES: usize = 160;

pub(super) struct RememberedDocuments {
    held: HashMap<EntityId, Held>,
    bytes: usize,
    bytes_max: usize,
    /// Counts, for each bucket, how often somebody else was seen to write it.
    turns: Vec<u32>,
}

struct Held {
    stored: StoredDocument,
    bytes: usize,
    bucket: usize,
    turn: u32,
}

impl RememberedDocuments {
    pub(super) fn new(bucket_count: i32, bytes_max: usize) -> RememberedDocuments {
        let buckets = usize::try_from(bucket_count).unwrap_or(0);
        RememberedDocuments {
            held: HashMap::new(),
            bytes: 0,
            bytes_max,
            turns: vec![0; buckets],
        }
    }

    /// Whether the document can be taken for events from `oldest` on. What is newer than its newest changes it, and the
    /// update then finds out if it is not the one that is there; what is not may change nothing, and nobody would.
    pub(super) fn holds_for(&self, entity: EntityId, oldest: Timestamp) -> bool {
        self.held.get(&entity).is_some_and(|held| {
            self.turns[held.bucket] == held.turn && held.stored.document.newest < Some(oldest)
        })
    }

    /// Takes a document out: it comes back when what it became is committed.
    pub(super) fn take(&mut self, entity: EntityId) -> Option<StoredDocument> {
        let held = self.held.remove(&entity)?;
        self.bytes -= held.bytes;
        (self.turns[held.bucket] == held.turn).then_some(held.stored)
    }

    /// Remembers a document as it was just committed.
    pub(super) fn put(&mut self, bucket: i32, stored: StoredDocument) {
        let Some(bucket) = usize::try_from(bucket)
            .ok()
            .filter(|bucket| *bucket < self.turns.len())
        else {
            return;
        };
        let bytes = bytes_of(&stored.document);
        if self.bytes + bytes > self.bytes_max {
            self.shrink();
        }
        let held = Held {
            bytes,
            bucket,
            turn: self.turns[bucket],
            stored,
        };
        self.bytes += bytes;
        if let Some(before) = self.held.insert(held.stored.entity, held) {
            self.bytes -= before.bytes;
        }
    }

    /// Somebody else has written a bucket: nothing that is remembered of it can be taken.
    pub(super) fn forget_bucket(&mut self, bucket: i32) {
        if let Some(turn) = usize::try_from(bucket)
            .ok()
            .and_then(|bucket| self.turns.get_mut(bucket))
        {
            *turn = turn.wrapping_add(1);
        }
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    /// Lets a quarter go, whichever: entities that report again soon come back at once.
    fn shrink(&mut self) {
        let (target, turns) = (self.bytes_max / 4 * 3, &self.turns);
        let bytes = &mut self.bytes;
        self.held.retain(|_, held| {
            let stays = *bytes <= target && turns[held.bucket] == held.turn;
            if !stays {
                *bytes -= held.bytes;
            }
            stays
        });
    }
}

fn bytes_of(document: &Document) -> usize {
    let cells = document.cells.values();
    DOCUMENT_BYTES
        + cells
            .map(|(cell, _)| CELL_BYTES + cell.stored_bytes())
            .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(entity: i64) -> StoredDocument {
        StoredDocument {
            entity: EntityId(entity),
            document: Document::default(),
            updated_at: Timestamp::MIN,
        }
    }

    #[test]
    fn a_document_is_taken_once_and_not_after_somebody_else_wrote_its_bucket() {
        let mut documents = RememberedDocuments::new(4, 10_000);
        documents.put(1, stored(7));
        documents.put(2, stored(8));
        let now = Timestamp::MIN;
        assert!(documents.holds_for(EntityId(7), now));
        assert_eq!(documents.take(EntityId(7)), Some(stored(7)));
        assert_eq!(documents.take(EntityId(7)), None);
        documents.forget_bucket(2);
        assert!(!documents.holds_for(EntityId(8), now));
        assert_eq!(documents.take(EntityId(8)), None);
        documents.put(2, stored(8));
        assert!(documents.holds_for(EntityId(8), now));
    }

    #[test]
    fn a_document_is_not_taken_for_what_is_not_newer() {
        let mut documents = RememberedDocuments::new(4, 10_000);
        let time = |micros| Timestamp::from_micros(micros).expect("a small time");
        let mut known = stored(7);
        known.document.newest = Some(time(5));
        documents.put(1, known);
        assert!(!documents.holds_for(EntityId(7), time(4)));
        assert!(!documents.holds_for(EntityId(7), time(5)));
        assert!(documents.holds_for(EntityId(7), time(6)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_counted_back_to_nothing() {
        let mut documents = RememberedDocuments::new(4, 10 * DOCUMENT_BYTES);
        for entity in 0..1_000 {
            documents.put(3, stored(entity));
            assert!(documents.bytes <= documents.bytes_max);
            assert_eq!(documents.bytes, documents.held.len() * DOCUMENT_BYTES);
        }
        assert!(!documents.held.is_empty());
        for entity in 0..1_000 {
            documents.take(EntityId(entity));
        }
        assert_eq!(documents.bytes, 0);
    }
}
