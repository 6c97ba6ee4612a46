//! What goes through Redis, and what comes back: sealed, so that only this database's servers can have written it.
//!
//! Whatever else is found under a key, cut short, of another format, another tenant, another entity or another history, is
//! no value. Bytes from outside never make this panic.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sheaf_model::{EntityId, Lineage, Lsn, Position, TenantId, Timestamp, WrittenEntity};
use subtle::ConstantTimeEq;

use crate::value::Value;

/// Bytes of the code: HMAC-SHA256, cut to 128 bits.
const CODE_BYTES: usize = 16;
/// A value begins with its version and with what it covers, as decimals of a fixed width: by these bytes, compared as
/// text, Redis itself keeps the newer one.
pub(crate) const ORDER_BYTES: usize = 40;
/// The form of what follows, and of the answers in it. It changes when either does, so that servers of two releases do not
/// read each other's.
const FORMAT: u8 = 1;
/// A larger answer is not shared: it would hold up those behind it.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Entities of one announcement. More are several.
pub(crate) const ANNOUNCED_MAX: usize = 4_096;

/// The keys of what is sealed.
pub(crate) struct Seals {
    value: [u8; 32],
    announcement: [u8; 32],
}

/// What a server tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Who tells, so that it need not hear it.
    pub(crate) sender: u64,
    pub(crate) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// These entities were written, and the position has them.
    Written(Position, Vec<WrittenEntity>),
    /// Names of this tenant got a number.
    Named(TenantId),
    /// Something was written, or announced in vain, that nobody can name.
    Anything,
}

impl Seals {
    pub(crate) fn new(signing_key: &[u8; 32]) -> Seals {
        let derived = |domain: &[u8]| {
            let mut mac = mac(signing_key);
            mac.update(domain);
            mac.finalize().into_bytes().into()
        };
        Seals {
            value: derived(b"sheaf cache value 1"),
            announcement: derived(b"sheaf cache announcement 1"),
        }
    }

    /// A value for Redis. None for one that is not shared: of no entity, of unknown coverage, or too large.
    pub(crate) fn value(&self, value: &Value) -> Option<Vec<u8>> {
        let (entity, covers) = (value.entity?, value.covers?);
        let body = value.body.as_deref();
        if body.is_some_and(|body| body.len() > BODY_BYTES_MAX) || value.version < 0 {
            return None;
        }
        let mut sealed = format!("{:020}{:020}", value.version, covers.0).into_bytes();
        sealed.push(FORMAT);
        sealed.extend_from_slice(&value.tenant.0.to_be_bytes());
        sealed.extend_from_slice(&entity.0.to_be_bytes());
        put_position(&mut sealed, value.position);
        sealed.extend_from_slice(&value.data_timestamp.as_micros().to_be_bytes());
        sealed.push(u8::from(body.is_some()));
        sealed.extend_from_slice(body.unwrap_or_default());
        Some(close(&self.value, sealed))
    }

    /// The value in what was found in Redis for an entity.
    pub(crate) fn open_value(
        &self,
        found: &[u8],
        tenant: TenantId,
        entity: EntityId,
        lineage: Lineage,
    ) -> Option<Value> {
        let mut rest = Cursor(open(&self.value, found)?);
        let version = rest.decimal()?;
        let covers = rest.decimal()?;
        if rest.take::<1>()? != [FORMAT] {
            return None;
        }
        let value = Value {
            tenant: TenantId(rest.number()?),
            entity: Some(EntityId(rest.number()?)),
            version: i64::try_from(version).ok()?,
            position: rest.position()?,
            covers: Some(Lsn(covers)),
            data_timestamp: Timestamp::from_micros(rest.number()?).ok()?,
            body: match rest.take::<1>()? {
                [0] if rest.0.is_empty() => None,
                [1] => Some(Bytes::copy_from_slice(rest.0)),
                _ => return None,
            },
        };
        let is_wanted = (value.tenant, value.entity) == (tenant, Some(entity))
            && value.position.lineage() == lineage;
        is_wanted.then_some(value)
    }

    pub(crate) fn announcement(&self, announcement: &Announcement) -> Vec<u8> {
        let mut sealed = vec![FORMAT];
        sealed.extend_from_slice(&announcement.sender.to_be_bytes());
        match &announcement.content {
            Content::Anything => sealed.push(0),
            Content::Named(tenant) => {
                sealed.push(1);
                sealed.extend_from_slice(&tenant.0.to_be_bytes());
            }
            Content::Written(position, written) => {
                sealed.push(2);
                put_position(&mut sealed, *position);
                for each in written {
                    sealed.extend_from_slice(&each.tenant.0.to_be_bytes());
                    sealed.extend_from_slice(&each.entity.0.to_be_bytes());
                }
            }
        }
        close(&self.announcement, sealed)
    }

    /// The announcement in a message. One that cannot be read may say anything.
    pub(crate) fn open_announcement(&self, message: &[u8]) -> Option<Announcement> {
        let mut rest = Cursor(open(&self.announcement, message)?);
        if rest.take::<1>()? != [FORMAT] {
            return None;
        }
        let sender = u64::from_be_bytes(rest.take()?);
        let content = match rest.take::<1>()? {
            [0] => Content::Anything,
            [1] => Content::Named(TenantId(rest.number()?)),
            [2] => {
                let position = rest.position()?;
                let mut written = Vec::new();
                while !rest.0.is_empty() {
                    written.push(WrittenEntity {
                        tenant: TenantId(rest.number()?),
                        entity: EntityId(rest.number()?),
                        // That is told by itself.
                        is_first: false,
                    });
                }
                Content::Written(position, written)
            }
            _ => return None,
        };
        rest.0
            .is_empty()
            .then_some(Announcement { sender, content })
    }
}

fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("invariant: a code takes a key of any length")
}

fn code(key: &[u8; 32], content: &[u8]) -> [u8; CODE_BYTES] {
    let mut mac = mac(key);
    mac.update(content);
    let whole: [u8; 32] = mac.finalize().into_bytes().into();
    let mut code = [0; CODE_BYTES];
    code.copy_from_slice(&whole[..CODE_BYTES]);
    code
}

fn close(key: &[u8; 32], mut content: Vec<u8>) -> Vec<u8> {
    let code = code(key, &content);
    content.extend_from_slice(&code);
    content
}

fn open<'a>(key: &[u8; 32], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (content, given) = sealed.split_last_chunk::<CODE_BYTES>()?;
    bool::from(code(key, content).ct_eq(given)).then_some(content)
}

fn put_position(to: &mut Vec<u8>, position: Position) {
    to.extend_from_slice(&position.system_id.to_be_bytes());
    to.extend_from_slice(&position.timeline.to_be_bytes());
    to.extend_from_slice(&position.lsn.0.to_be_bytes());
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn decimal(&mut self) -> Option<u64> {
        let digits = self.take::<{ ORDER_BYTES / 2 }>()?;
        std::str::from_utf8(&digits).ok()?.parse().ok()
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position {
            system_id: u64::from_be_bytes(self.take()?),
            timeline: u32::from_be_bytes(self.take()?),
            lsn: Lsn(u64::from_be_bytes(self.take()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn value(version: i64, covers: u64, body: Option<&str>) -> Value {
        Value {
            tenant: TenantId(1),
            entity: Some(EntityId(2)),
            version,
            body: body.map(|body| Bytes::copy_from_slice(body.as_bytes())),
            position: Position {
                system_id: 7,
                timeline: 3,
                lsn: Lsn(covers),
            },
            covers: Some(Lsn(covers)),
            data_timestamp: Timestamp::from_micros(1_000).expect("a small time"),
        }
    }

    fn opened(sealed: &[u8]) -> Option<Value> {
        let lineage = value(0, 0, None).position.lineage();
        Seals::new(&KEY).open_value(sealed, TenantId(1), EntityId(2), lineage)
    }

    proptest! {
        #[test]
        fn a_value_reads_back_and_one_with_a_bit_changed_or_a_byte_missing_is_none(
            version in 0..i64::MAX, covers in any::<u64>(), body in proptest::option::of(".{0,40}"),
            place in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let value = value(version, covers, body.as_deref());
            let mut sealed = Seals::new(&KEY).value(&value).expect("it is shared");
            prop_assert_eq!(opened(&sealed), Some(value));
            prop_assert_eq!(opened(&sealed[..place.index(sealed.len())]), None);
            let place = place.index(sealed.len());
            sealed[place] ^= 1 << bit;
            prop_assert_eq!(opened(&sealed), None);
        }

        #[test]
        fn values_sort_as_text_by_version_and_then_by_what_they_cover(
            one in (0..i64::MAX, any::<u64>()), other in (0..i64::MAX, any::<u64>()),
        ) {
            let seals = Seals::new(&KEY);
            let text = |(version, covers)| {
                let sealed = seals.value(&value(version, covers, None)).expect("it is shared");
                sealed[..ORDER_BYTES].to_vec()
            };
            prop_assert_eq!(text(one).cmp(&text(other)), one.cmp(&other));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(opened(&bytes), None);
            prop_assert_eq!(Seals::new(&KEY).open_announcement(&bytes), None);
        }

        #[test]
        fn an_announcement_reads_back_for_its_key_alone(
            sender in any::<u64>(), lsn in any::<u64>(),
            written in proptest::option::of(proptest::collection::vec((any::<i64>(), any::<i64>()), 0..20)),
            named in proptest::option::of(any::<i64>()),
        ) {
            let content = match (written, named) {
                (None, None) => Content::Anything,
                (None, Some(tenant)) => Content::Named(TenantId(tenant)),
                (Some(written), _) => Content::Written(
                    value(0, lsn, None).position,
                    written.into_iter().map(|(tenant, entity)| WrittenEntity {
                        tenant: TenantId(tenant),
                        entity: EntityId(entity),
                        is_first: false,
                    }).collect(),
                ),
            };
            let announcement = Announcement { sender, content };
            let sealed = Seals::new(&KEY).announcement(&announcement);
            prop_assert_eq!(Seals::new(&KEY).open_announcement(&sealed), Some(announcement));
            prop_assert_eq!(Seals::new(&[8; 32]).open_announcement(&sealed), None);
        }
    }

    #[test]
    fn a_value_of_another_entity_tenant_history_or_database_is_none() {
        let seals = Seals::new(&KEY);
        let lineage = value(0, 0, None).position.lineage();
        let sealed = seals
            .value(&value(3, 100, Some("{}")))
            .expect("it is shared");
        let (tenant, entity) = (TenantId(1), EntityId(2));
        let other = Lineage {
            timeline: 4,
            ..lineage
        };
        for (seals, tenant, entity, lineage) in [
            (&seals, TenantId(9), entity, lineage),
            (&seals, tenant, EntityId(9), lineage),
            (&seals, tenant, entity, other),
            (&Seals::new(&[8; 32]), tenant, entity, lineage),
        ] {
            assert_eq!(seals.open_value(&sealed, tenant, entity, lineage), None);
        }
        assert!(seals.open_value(&sealed, tenant, entity, lineage).is_some());
    }

    #[test]
    fn what_is_unknown_or_too_large_is_not_shared() {
        let seals = Seals::new(&KEY);
        let known = value(3, 100, Some("{}"));
        assert!(seals.value(&known).is_some());
        for unshared in [
            Value {
                entity: None,
                ..known.clone()
            },
            Value {
                covers: None,
                ..known.clone()
            },
            Value {
                body: Some(vec![b'x'; BODY_BYTES_MAX + 1].into()),
                ..known.clone()
            },
        ] {
            assert_eq!(seals.value(&unshared), None);
        }
    }
}
