//! The names of what is in Redis: numbers alone, so that no text of a client is in them, and one key a command, so that none
//! is refused for having keys of several slots.

use sha2::{Digest, Sha256};
use sheaf_model::{EntityId, Lineage, TenantId};

/// The keys of one database.
pub(crate) struct Keys {
    system_id: u64,
}

impl Keys {
    pub(crate) fn new(system_id: u64) -> Keys {
        Keys { system_id }
    }

    /// An entity's value. The epoch and the timeline make it another key after Redis was emptied or exchanged, or the
    /// database has begun another history: what is sent under the one before is not found any more.
    pub(crate) fn entity(
        &self,
        epoch: u64,
        lineage: Lineage,
        tenant: TenantId,
        entity: EntityId,
    ) -> String {
        format!(
            "sheaf:{epoch:016x}{timeline:08x}:entity:{tenant}:{entity}",
            timeline = lineage.timeline,
            tenant = tenant.0,
            entity = entity.0,
        )
    }

    /// What is drawn anew whenever it is not there: after Redis was emptied, it is another one.
    pub(crate) fn generation(&self) -> String {
        format!("sheaf:{:016x}:generation", self.system_id)
    }

    /// Where servers announce what they write.
    pub(crate) fn channel(&self) -> String {
        format!("sheaf:{:016x}:written", self.system_id)
    }

    /// Where a server tells itself something, to see that what it sends is what it hears.
    pub(crate) fn own_channel(&self, sender: u64) -> String {
        format!("sheaf:{:016x}:own:{sender:016x}", self.system_id)
    }

    /// The epoch of a Redis: which database, which process of Redis, and which time since it was emptied.
    pub(crate) fn epoch(&self, run_id: &str, generation: &[u8]) -> u64 {
        let mut hasher = Sha256::new();
        hasher.update(self.system_id.to_be_bytes());
        for text in [run_id.as_bytes(), generation] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let (first, _) = digest.split_first_chunk().expect("invariant: 32 bytes");
        u64::from_be_bytes(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_makes_another_key() {
        let keys = Keys::new(7);
        let lineage = |timeline| Lineage {
            system_id: 7,
            timeline,
        };
        let key = |epoch, timeline, tenant, entity| {
            keys.entity(epoch, lineage(timeline), TenantId(tenant), EntityId(entity))
        };
        let first = key(1, 2, 3, 45);
        assert_eq!(first, "sheaf:000000000000000100000002:entity:3:45");
        for other in [key(2, 2, 3, 45), key(1, 3, 3, 45), key(1, 2, 34, 5)] {
            assert_ne!(other, first);
        }
        assert_ne!(keys.epoch("a", b"bc"), keys.epoch("ab", b"c"));
        assert_ne!(keys.epoch("a", b"b"), Keys::new(8).epoch("a", b"b"));
    }
}
