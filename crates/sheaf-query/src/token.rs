//! Consistency tokens: a position in the write history, bound to its tenant, that only our servers can have made.

use sheaf_model::{Lsn, Position, TenantId};

use crate::seal::{Kind, open, seal};

/// Why a text is not a token of this tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// No token that this database's servers made.
    #[error("the consistency token is not one of ours")]
    Invalid,
    /// A token of another tenant.
    #[error("the consistency token belongs to another tenant")]
    Foreign,
}

impl TokenFault {
    /// The code that clients get.
    pub fn code(self) -> &'static str {
        match self {
            TokenFault::Invalid => "invalid_token",
            TokenFault::Foreign => "foreign_token",
        }
    }
}

/// The token of a position, for this tenant.
pub fn encode(position: Position, tenant: TenantId, signing_key: &[u8; 32]) -> String {
    let mut payload = Vec::with_capacity(28);
    payload.extend_from_slice(&position.system_id.to_be_bytes());
    payload.extend_from_slice(&position.timeline.to_be_bytes());
    payload.extend_from_slice(&position.lsn.0.to_be_bytes());
    payload.extend_from_slice(&tenant.0.to_be_bytes());
    seal(Kind::Token, signing_key, &payload)
}

/// The position in a token of this tenant.
pub fn decode(
    text: &str,
    tenant: TenantId,
    signing_key: &[u8; 32],
) -> Result<Position, TokenFault> {
    let payload = open(Kind::Token, signing_key, text).ok_or(TokenFault::Invalid)?;
    let (position, held_by) = read(&payload).ok_or(TokenFault::Invalid)?;
    if held_by != tenant {
        return Err(TokenFault::Foreign);
    }
    Ok(position)
}

fn read(payload: &[u8]) -> Option<(Position, TenantId)> {
    let (system_id, rest) = payload.split_first_chunk()?;
    let (timeline, rest) = rest.split_first_chunk()?;
    let (lsn, rest) = rest.split_first_chunk()?;
    let (tenant, []) = rest.split_first_chunk()? else {
        return None;
    };
    let position = Position {
        system_id: u64::from_be_bytes(*system_id),
        timeline: u32::from_be_bytes(*timeline),
        lsn: Lsn(u64::from_be_bytes(*lsn)),
    };
    Some((position, TenantId(i64::from_be_bytes(*tenant))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(system_id, timeline, lsn)| Position {
            system_id,
            timeline,
            lsn: Lsn(lsn),
        })
    }

    proptest! {
        #[test]
        fn a_token_reads_back_for_its_tenant_alone(
            position in positions(), tenant in any::<i64>(), other in any::<i64>()
        ) {
            prop_assume!(tenant != other);
            let token = encode(position, TenantId(tenant), &KEY);
            prop_assert_eq!(decode(&token, TenantId(tenant), &KEY), Ok(position));
            prop_assert_eq!(decode(&token, TenantId(other), &KEY), Err(TokenFault::Foreign));
            prop_assert_eq!(decode(&token, TenantId(tenant), &[8; 32]), Err(TokenFault::Invalid));
        }

        #[test]
        fn a_token_with_one_bit_changed_is_none(
            position in positions(), tenant in any::<i64>(), place in any::<prop::sample::Index>(), bit in 0..7u32
        ) {
            let mut bytes = encode(position, TenantId(tenant), &KEY).into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let changed = String::from_utf8(bytes).expect("seven bits are ASCII");
            prop_assert_eq!(decode(&changed, TenantId(tenant), &KEY), Err(TokenFault::Invalid));
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in "(t1\\.)?[A-Za-z0-9_-]{0,300}") {
            prop_assert_eq!(decode(&text, TenantId(1), &KEY), Err(TokenFault::Invalid));
        }
    }
}
