//! The names of attributes and the ids of entities as they arrive: checked, and brought into one spelling.

use std::borrow::Cow;

use sheaf_model::{ExternalIdFault, Name, Refusal, RefusalCode, is_reserved};

use super::quote_line;

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

/// Checks an entity's id and brings it into normal form C.
pub fn external_id(text: Cow<'_, str>) -> Result<String, Refusal> {
    let normal = match sheaf_model::external_id(&text) {
        // A text that is normal already is kept and not copied.
        Ok(Cow::Borrowed(_)) => None,
        Ok(Cow::Owned(normal)) => Some(normal),
        Err(fault) => return Err(id_refusal(fault, &text)),
    };
    Ok(normal.unwrap_or_else(|| text.into_owned()))
}

fn id_refusal(fault: ExternalIdFault, text: &str) -> Refusal {
    let (code, reason) = match fault {
        ExternalIdFault::Empty => (RefusalCode::MissingId, "id is empty".to_owned()),
        ExternalIdFault::TooLong => (RefusalCode::ValueTooLarge, fault.to_string()),
        ExternalIdFault::Control => {
            let quoted = quote_line(text.as_bytes());
            (RefusalCode::InvalidText, format!("{fault}: '{quoted}'"))
        }
    };
    Refusal::new(code, reason)
}
