//! This server's memory of values: bounded in bytes, found by a digest of the entity's name.
//!
//! A value stays after it is too old to answer: it still says which number the entity has, by which Redis is asked.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sheaf_model::{Position, TenantId};

use crate::value::{Held, Value};

/// What a value takes beside its body: itself, two counts, its key, links and its place in the table.
const VALUE_BYTES: usize = 320;
/// What a body of ordinary size takes, for the size of the table.
const BODY_BYTES: usize = 400;

/// 128 bits of a tenant and a name, under two keys that are drawn when the process starts, so that nobody can look for two
/// names with the same digest. The parts are told apart by their lengths, and no text of a client is in it.
pub(crate) type Key = (u64, u64);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Held>> for Bytes {
    fn weight(&self, _: &Key, held: &Arc<Held>) -> u64 {
        let body = held.value.body.as_ref().map_or(0, bytes::Bytes::len);
        (VALUE_BYTES + body) as u64
    }
}

/// The memory.
pub(crate) struct Local {
    digests: [RandomState; 2],
    values: Cache<Key, Arc<Held>, Bytes>,
}

impl Local {
    pub(crate) fn new(bytes_max: usize) -> Local {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(bytes_max / (VALUE_BYTES + BODY_BYTES))
            .weight_capacity(bytes_max as u64)
            .build()
            .expect("invariant: both capacities are set");
        Local {
            digests: [RandomState::new(), RandomState::new()],
            values: Cache::with_options(
                options,
                Bytes,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
        }
    }

    pub(crate) fn key(&self, tenant: TenantId, entity_type: &str, external_id: &str) -> Key {
        let name = (tenant, entity_type, external_id);
        let [one, other] = &self.digests;
        (one.hash_one(name), other.hash_one(name))
    }

    pub(crate) fn get(&self, key: Key) -> Option<Arc<Held>> {
        self.values.get(&key)
    }

    /// The earliest position at which a source is known to have said what the value says: of what is remembered, if it says
    /// the same. A later read found nothing that the earlier one had not shown.
    pub(crate) fn shown_since(&self, key: Key, value: &Value) -> Position {
        let position = value.position;
        match self.values.peek(&key) {
            Some(known)
                if known.value.position.lineage() == position.lineage()
                    && known.value.position.lsn < position.lsn
                    && known.value.version == value.version
                    && known.value.body == value.body =>
            {
                known.value.position
            }
            Some(_) | None => position,
        }
    }

    /// Keeps a value, unless what is there is newer. Only whoever leads the flight of a key keeps values of it, so that
    /// nothing comes between the look and the change.
    pub(crate) fn keep(&self, key: Key, held: &Arc<Held>) {
        let is_older = self.values.peek(&key).is_some_and(|known| {
            known.value.position.lineage() == held.value.position.lineage()
                && known.value.age_order() > held.value.age_order()
        });
        if !is_older {
            self.values.insert(key, Arc::clone(held));
        }
    }

    pub(crate) fn clear(&self) {
        self.values.clear();
    }

    /// Bytes that the values take.
    pub(crate) fn bytes(&self) -> u64 {
        self.values.weight()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use sheaf_model::{EntityId, Lsn, Timestamp};

    use super::*;

    fn held(version: i64, covers: u64, timeline: u32, body_bytes: usize) -> Arc<Held> {
        Arc::new(Held {
            value: Value {
                tenant: TenantId(1),
                entity: Some(EntityId(1)),
                version,
                body: Some(vec![b'x'; body_bytes].into()),
                position: Position {
                    system_id: 7,
                    timeline,
                    lsn: Lsn(covers),
                },
                covers: Some(Lsn(covers)),
                data_timestamp: Timestamp::MIN,
            },
            began: Instant::now(),
            lag: Duration::ZERO,
            turn: 0,
            is_exact: true,
        })
    }

    #[test]
    fn a_newer_value_is_never_replaced_by_an_older_one_of_its_history() {
        let local = Local::new(1 << 20);
        let key = local.key(TenantId(1), "plane", "a");
        for (version, covers, timeline, expected) in [
            (3, 100, 1, (3, 100)),
            (2, 200, 1, (3, 100)),
            (3, 90, 1, (3, 100)),
            (3, 110, 1, (3, 110)),
            (4, 50, 1, (4, 50)),
            (1, 10, 2, (1, 10)),
        ] {
            local.keep(key, &held(version, covers, timeline, 1));
            let kept = local.get(key).expect("one is there").value.age_order();
            assert_eq!(kept, (expected.0, Some(Lsn(expected.1))));
        }
    }

    #[test]
    fn the_same_answer_stands_for_the_position_at_which_it_was_first_seen() {
        let local = Local::new(1 << 20);
        let key = local.key(TenantId(1), "plane", "a");
        let since = |version, lsn, timeline, body_bytes| {
            let value = held(version, lsn, timeline, body_bytes).value.clone();
            local.shown_since(key, &value).lsn.0
        };
        assert_eq!(since(3, 100, 1, 1), 100, "nothing is known of it");
        local.keep(key, &held(3, 100, 1, 1));
        for (version, lsn, timeline, body_bytes, expected) in [
            (3, 110, 1, 1, 100),
            (3, 90, 1, 1, 90),
            (4, 110, 1, 1, 110),
            (2, 110, 1, 1, 110),
            (3, 110, 1, 2, 110),
            (3, 110, 2, 1, 110),
        ] {
            let found = since(version, lsn, timeline, body_bytes);
            assert_eq!(found, expected, "{version} {lsn} {timeline} {body_bytes}");
        }
    }

    #[test]
    fn what_is_remembered_stays_within_its_bytes() {
        let local = Local::new(100_000);
        for number in 0..1_000 {
            let key = local.key(TenantId(1), "plane", &number.to_string());
            local.keep(key, &held(1, 1, 1, 500));
            assert!(local.bytes() <= 100_000);
        }
        assert!(local.bytes() > 0);
        local.clear();
        assert_eq!(local.bytes(), 0);
    }

    proptest! {
        #[test]
        fn names_that_run_together_alike_have_different_keys(
            tenant in 0_i64..3, entity_type in "[a:é\u{0}]{0,3}", id in "[a:é\u{0}]{0,3}",
            other_tenant in 0_i64..3, other_type in "[a:é\u{0}]{0,3}", other_id in "[a:é\u{0}]{0,3}",
        ) {
            let local = Local::new(1 << 10);
            let one = local.key(TenantId(tenant), &entity_type, &id);
            let other = local.key(TenantId(other_tenant), &other_type, &other_id);
            let is_same = (tenant, &entity_type, &id) == (other_tenant, &other_type, &other_id);
            prop_assert_eq!(one == other, is_same);
        }
    }
}
