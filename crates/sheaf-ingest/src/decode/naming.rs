//! The names of attributes and the ids of entities as they arrive: checked, and brought into one spelling.

use std::borrow::Cow;

use sheaf_model::{Name, Refusal, RefusalCode, is_reserved};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::quote_line;

/// Bytes of an entity's id.
const ID_BYTES_MAX: usize = 512;

/// Checks an attribute's name and brings it into normal form C.
pub(super) fn attribute_name<'a>(
    name: Cow<'a, str>,
) -> Result<Cow<'a, str>, (Cow<'a, str>, Refusal)> {
    let is_plain =
        matches!(name.len(), 1..=255) && name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let name = if is_plain {
        name
    } else {
        match Name::parse(&name) {
            Ok(normal) => Cow::Owned(normal.into_string()),
            Err(fault) => {
                let refusal = Refusal::new(RefusalCode::InvalidName, fault.to_string());
                return Err((name, refusal));
            }
        }
    };
    if is_reserved(&name) {
        let reason = format!("{name} means the entity itself and cannot name an attribute");
        return Err((name, Refusal::new(RefusalCode::ReservedName, reason)));
    }
    Ok(name)
}

/// Checks the name of an entity's type and brings it into normal form C.
pub(super) fn entity_type(name: &str) -> Result<Name, Refusal> {
    Name::parse(name)
        .map_err(|fault| Refusal::new(RefusalCode::InvalidName, format!("type: {fault}")))
}

/// Checks an entity's id and brings it into normal form C. Emptiness is the caller's to judge.
pub fn external_id(text: Cow<'_, str>) -> Result<String, Refusal> {
    let too_large = || {
        let reason = format!("an id is 1 to {ID_BYTES_MAX} bytes, got more");
        Refusal::new(RefusalCode::ValueTooLarge, reason)
    };
    // No text shrinks to less than a third in normal form C.
    if text.len() > 3 * ID_BYTES_MAX {
        return Err(too_large());
    }
    let id = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.into_owned(),
        IsNormalized::No | IsNormalized::Maybe => text.nfc().collect(),
    };
    if id.len() > ID_BYTES_MAX {
        return Err(too_large());
    }
    if id.chars().any(char::is_control) {
        let reason = format!(
            "an id holds no control characters: '{}'",
            quote_line(id.as_bytes())
        );
        return Err(Refusal::new(RefusalCode::InvalidText, reason));
    }
    Ok(id)
}
