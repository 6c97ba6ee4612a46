//! Identifiers. Each is a type of its own, so that an entity is never passed where a tenant is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A tenant's number. Always sent to PostgreSQL as a bigint: an int4 would drop out of index conditions.
    TenantId
);
number_id!(
    /// An entity's number, unique in the database and kept after a delete.
    EntityId
);
number_id!(
    /// An attribute's number, unique in the whole database, so that no key of a document means two types.
    AttributeId
);

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier that starts with {prefix:?}")]
pub struct IdFault {
    prefix: &'static str,
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A 128-bit number in Crockford's base 32: 26 characters that sort as the number does.
pub fn crockford(number: u128) -> String {
    (0..26)
        .rev()
        .map(|place| {
            let digit = (number >> (5 * place)) & 31;
            char::from(ALPHABET[usize::try_from(digit).expect("five bits fit a usize")])
        })
        .collect()
}

fn crockford_number(text: &str) -> Option<u128> {
    if text.len() != 26 || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |number, byte| {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        Some((number << 5) | u128::try_from(digit).ok()?)
    })
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one: the time in milliseconds, then random bits, so that later ones sort later.
            #[allow(clippy::new_without_default, reason = "a default id would look like a constant")]
            pub fn new() -> $name {
                $name(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), crockford(self.0.as_u128()))
            }
        }

        impl FromStr for $name {
            type Err = IdFault;

            fn from_str(text: &str) -> Result<$name, IdFault> {
                text.strip_prefix($prefix)
                    .and_then(crockford_number)
                    .map(|number| $name(Uuid::from_u128(number)))
                    .ok_or(IdFault { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    };
}

uuid_id!(
    /// One ingest request, whatever its size: `b_` and 26 characters.
    BatchId,
    "b_"
);
uuid_id!(
    /// One refused value or event, kept for inspection: `r_` and 26 characters.
    RejectionId,
    "r_"
);
uuid_id!(
    /// One change that a sink could not take, kept until somebody decides: `d_` and 26 characters.
    LetterId,
    "d_"
);

/// The public half of an API key, by which it is looked up and revoked: `k_` and 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id with these 64 bits.
    pub fn from_bits(bits: u64) -> KeyId {
        KeyId(format!("k_{bits:016x}"))
    }

    /// The id as it is shown and stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = IdFault;

    fn from_str(text: &str) -> Result<KeyId, IdFault> {
        let digits = text.strip_prefix("k_").ok_or(IdFault { prefix: "k_" })?;
        let is_id = digits.len() == 16
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_id {
            Ok(KeyId(text.to_owned()))
        } else {
            Err(IdFault { prefix: "k_" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_id_reads_back_and_sorts_by_time() {
        let first = BatchId(Uuid::from_u128(1));
        let last = BatchId(Uuid::from_u128(u128::MAX));
        for id in [first, last, BatchId::new()] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!(first.to_string() < last.to_string());
    }

    #[test]
    fn a_text_of_another_kind_is_not_an_id() {
        for text in [
            "",
            "b_",
            "r_01",
            "b_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "b_0000000000000000000000000u",
        ] {
            assert!(
                text.parse::<BatchId>().is_err(),
                "{text} was taken for a batch id"
            );
        }
        assert!("k_00000000000000FF".parse::<KeyId>().is_err());
        assert_eq!(KeyId::from_bits(255).as_str(), "k_00000000000000ff");
    }
}
