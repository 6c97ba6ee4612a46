//! Texts that only this database's servers can have made: a payload and its authentication code, as base64url.
//!
//! The payload is readable by whoever decodes it; nothing secret goes into one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Bytes of the code: HMAC-SHA256, cut to the 128 bits that RFC 2104 asks for at least.
const CODE_BYTES: usize = 16;

/// What is sealed, so that a text of one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Token,
    Cursor,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Kind::Token => "t1.",
            Kind::Cursor => "c1.",
        }
    }

    /// Separates the keys of the kinds: each is the code of this text under the database's signing key.
    fn domain(self) -> &'static [u8] {
        match self {
            Kind::Token => b"sheaf consistency token 1",
            Kind::Cursor => b"sheaf cursor 1",
        }
    }

    /// The longest text that is looked at.
    fn text_bytes_max(self) -> usize {
        match self {
            Kind::Token => 256,
            Kind::Cursor => 8 * 1024,
        }
    }
}

pub(crate) fn seal(kind: Kind, signing_key: &[u8; 32], payload: &[u8]) -> String {
    let code = code(kind, signing_key, payload);
    let mut sealed = payload.to_vec();
    sealed.extend_from_slice(&code);
    format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(sealed))
}

/// The payload, if the text is one that [`seal`] made of it with this key.
pub(crate) fn open(kind: Kind, signing_key: &[u8; 32], text: &str) -> Option<Vec<u8>> {
    if text.len() > kind.text_bytes_max() {
        return None;
    }
    // Bits that the encoding does not need have to be zero, so that no second text opens to the same payload.
    let mut payload = URL_SAFE_NO_PAD
        .decode(text.strip_prefix(kind.prefix())?)
        .ok()?;
    let claimed = payload.split_off(payload.len().checked_sub(CODE_BYTES)?);
    let is_ours: bool = code(kind, signing_key, &payload).ct_eq(&claimed[..]).into();
    is_ours.then_some(payload)
}

fn code(kind: Kind, signing_key: &[u8; 32], payload: &[u8]) -> [u8; CODE_BYTES] {
    let key = hmac(signing_key, kind.domain());
    let whole = hmac(&key, payload);
    let mut code = [0; CODE_BYTES];
    code.copy_from_slice(&whole[..CODE_BYTES]);
    code
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(message);
    mac.finalize().into_bytes().into()
}
