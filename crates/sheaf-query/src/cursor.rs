//! Cursors: where a page ended, bound to its tenant and query, that only our servers can have made.
//!
//! A cursor holds the keyset of the last item and not a count of items, so that items that come or go meanwhile
//! neither repeat nor hide others. It holds the position of what was read as well, where replicas are asked: a page that is
//! older than the one before it would hide and repeat items that nobody has touched meanwhile.

use sha2::{Digest, Sha256};
use sheaf_model::{Position, TenantId, Timestamp};

use crate::error::ReadError;
use crate::seal::{Kind, open, seal};

/// How long a cursor is good for.
const AGE_MICROS_MAX: i64 = 3_600_000_000;
/// Bytes of a payload. A longer cursor would not fit a request line of 8 KiB with the rest of its query.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024;
const ABSENT: u32 = u32::MAX;
/// What the value behind a keyset begins with that is a position. No value of an entity holds this character.
const SEEN: char = '\0';

/// Which query a cursor belongs to: a digest of everything that decides its items and their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryDigest([u8; 16]);

/// Collects what decides a query's items and their order.
#[derive(Debug, Clone)]
pub struct QueryDescription(Sha256);

impl QueryDescription {
    /// Of a route, to begin with.
    pub fn new(route: &str) -> QueryDescription {
        let mut description = QueryDescription(Sha256::new());
        description.add(route);
        description
    }

    /// Adds a part. Its length goes with it, so that two parts never read as one.
    pub fn add(&mut self, part: &str) {
        self.0.update(part.len().to_be_bytes());
        self.0.update(part);
    }

    /// Adds parts, and how many they are.
    pub fn add_list<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a str>) {
        self.0.update(parts.len().to_be_bytes());
        for part in parts {
            self.add(part);
        }
    }

    /// Adds something that may be absent, which is not the same as empty.
    pub fn add_option(&mut self, part: Option<&str>) {
        self.add_list(part.into_iter());
    }

    /// The digest of everything that was added, in its order.
    pub fn digest(self) -> QueryDigest {
        let whole: [u8; 32] = self.0.finalize().into();
        let mut digest = [0; 16];
        digest.copy_from_slice(&whole[..16]);
        QueryDigest(digest)
    }
}

/// The keyset of a page's last item: a value for each key of the order, absent where the item has none.
pub type Keyset = Vec<Option<String>>;

/// What cursors are bound to, and what authenticates them.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Whose.
    pub tenant: TenantId,
    /// Of which query.
    pub query: QueryDigest,
    /// The time, by which they expire.
    pub now: Timestamp,
    /// The database's secret.
    pub signing_key: &'a [u8; 32],
}

impl Binding<'_> {
    /// The cursor after an item of what was read at a position. Absent where the keyset is too long for one.
    pub fn encode_seen(&self, mut keyset: Keyset, seen: Option<Position>) -> Option<String> {
        if let Some(Position {
            system_id,
            timeline,
            lsn,
        }) = seen
        {
            keyset.push(Some(format!("{SEEN}{system_id} {timeline} {lsn}")));
        }
        self.encode(&keyset)
    }

    /// The cursor after an item. Absent where the keyset is too long for one.
    pub fn encode(&self, keyset: &[Option<String>]) -> Option<String> {
        let mut payload = Vec::with_capacity(64);
        payload.extend_from_slice(&self.tenant.0.to_be_bytes());
        payload.extend_from_slice(&self.query.0);
        payload.extend_from_slice(&self.now.as_micros().to_be_bytes());
        for value in keyset {
            match value {
                None => payload.extend_from_slice(&ABSENT.to_be_bytes()),
                Some(text) => {
                    let length = u32::try_from(text.len()).ok()?;
                    payload.extend_from_slice(&length.to_be_bytes());
                    payload.extend_from_slice(text.as_bytes());
                }
            }
            if payload.len() > PAYLOAD_BYTES_MAX {
                return None;
            }
        }
        Some(seal(Kind::Cursor, self.signing_key, &payload))
    }

    /// The keyset of so many values in a cursor. Every fault is the same error, so that nothing is to be learnt by
    /// trying.
    pub fn decode(&self, text: &str, keys: usize) -> Result<Keyset, ReadError> {
        let payload = open(Kind::Cursor, self.signing_key, text).ok_or(ReadError::InvalidCursor)?;
        let (tenant, query, issued_micros, mut keyset) =
            read(&payload).ok_or(ReadError::InvalidCursor)?;
        if keyset.last().is_some_and(is_position) {
            keyset.pop();
        }
        let age_micros = self.now.as_micros().saturating_sub(issued_micros);
        let is_good = tenant == self.tenant
            && query == self.query
            && age_micros <= AGE_MICROS_MAX
            && keyset.len() == keys;
        if is_good {
            Ok(keyset)
        } else {
            Err(ReadError::InvalidCursor)
        }
    }
}

/// The position of what the page before was read at, in a cursor of this tenant that has one.
pub fn seen_in(text: &str, tenant: TenantId, signing_key: &[u8; 32]) -> Option<Position> {
    let payload = open(Kind::Cursor, signing_key, text)?;
    let (of, _, _, mut keyset) = read(&payload)?;
    let last = keyset.pop().flatten().filter(|_| of == tenant)?;
    let mut parts = last.strip_prefix(SEEN)?.splitn(3, ' ');
    Some(Position {
        system_id: parts.next()?.parse().ok()?,
        timeline: parts.next()?.parse().ok()?,
        lsn: parts.next()?.parse().ok()?,
    })
}

fn is_position(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|text| text.starts_with(SEEN))
}

fn read(payload: &[u8]) -> Option<(TenantId, QueryDigest, i64, Keyset)> {
    let (tenant, rest) = payload.split_first_chunk()?;
    let (query, rest) = rest.split_first_chunk()?;
    let (issued, mut rest) = rest.split_first_chunk()?;
    let mut keyset = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length);
        if length == ABSENT {
            keyset.push(None);
            rest = after;
            continue;
        }
        let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        keyset.push(Some(std::str::from_utf8(text).ok()?.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        return None;
    }
    let tenant = TenantId(i64::from_be_bytes(*tenant));
    let issued = i64::from_be_bytes(*issued);
    Some((tenant, QueryDigest(*query), issued, keyset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn binding(tenant: i64, route: &str, now_micros: i64) -> Binding<'static> {
        Binding {
            tenant: TenantId(tenant),
            query: QueryDescription::new(route).digest(),
            now: Timestamp::from_micros(now_micros).expect("within the range"),
            signing_key: &KEY,
        }
    }

    fn keysets() -> impl Strategy<Value = Keyset> {
        prop::collection::vec(prop::option::of("[^\0]{0,20}"), 0..5)
    }

    #[test]
    fn a_cursor_keeps_the_position_of_what_was_read_apart_from_its_keyset() {
        let binding = binding(1, "list", 0);
        let keyset = vec![Some("7 1 0/5".to_owned()), None];
        let position = Position {
            system_id: 7_123_456_789_012_345_678,
            timeline: 3,
            lsn: sheaf_model::Lsn(0x16_B374_D848),
        };
        for seen in [None, Some(position)] {
            let cursor = binding.encode_seen(keyset.clone(), seen).expect("short");
            assert_eq!(binding.decode(&cursor, 2).ok(), Some(keyset.clone()));
            assert_eq!(seen_in(&cursor, TenantId(1), &KEY), seen);
            assert_eq!(seen_in(&cursor, TenantId(2), &KEY), None);
            assert_eq!(seen_in(&cursor, TenantId(1), &[8; 32]), None);
        }
        assert_eq!(seen_in("c1.nonsense", TenantId(1), &KEY), None);
    }

    #[test]
    fn parts_of_a_description_never_run_together() {
        let digests = [["ab", "c"], ["a", "bc"], ["abc", ""]].map(|parts| {
            let mut description = QueryDescription::new("list");
            description.add_list(parts.into_iter());
            description.digest()
        });
        assert_ne!(digests[0], digests[1]);
        assert_ne!(digests[0], digests[2]);
        let mut absent = QueryDescription::new("list");
        absent.add_option(None);
        let mut empty = QueryDescription::new("list");
        empty.add_option(Some(""));
        assert_ne!(absent.digest(), empty.digest());
    }

    #[test]
    fn a_keyset_too_long_for_a_request_line_has_no_cursor() {
        let keyset = [Some("x".repeat(PAYLOAD_BYTES_MAX))];
        assert_eq!(binding(1, "list", 0).encode(&keyset), None);
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back_for_its_tenant_and_query_within_the_hour(keyset in keysets()) {
            let cursor = binding(1, "list", 0).encode(&keyset).expect("a short keyset");
            let keys = keyset.len();
            let held = binding(1, "list", AGE_MICROS_MAX).decode(&cursor, keys);
            prop_assert_eq!(held.ok(), Some(keyset));
            for (binding, keys) in [
                (binding(1, "list", AGE_MICROS_MAX + 1), keys),
                (binding(1, "list", 0), keys + 1),
                (binding(1, "history", 0), keys),
                (binding(2, "list", 0), keys),
            ] {
                prop_assert!(matches!(binding.decode(&cursor, keys), Err(ReadError::InvalidCursor)));
            }
        }

        #[test]
        fn a_cursor_with_one_bit_changed_is_none(
            keyset in keysets(), place in any::<prop::sample::Index>(), bit in 0..7u32
        ) {
            let binding = binding(1, "list", 0);
            let mut bytes = binding.encode(&keyset).expect("a short keyset").into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let changed = String::from_utf8(bytes).expect("seven bits are ASCII");
            let opened = binding.decode(&changed, keyset.len());
            prop_assert!(matches!(opened, Err(ReadError::InvalidCursor)));
        }

        #[test]
        fn no_payload_makes_the_decoder_panic(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let sealed = seal(Kind::Cursor, &KEY, &payload);
            let opened = binding(1, "list", 0).decode(&sealed, 1);
            prop_assert!(matches!(opened, Err(ReadError::InvalidCursor)));
        }
    }
}
