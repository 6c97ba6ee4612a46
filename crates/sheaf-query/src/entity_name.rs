//! The name of an entity as requests have it, brought into the spelling under which it is stored.

use sheaf_model::Name;

/// An entity's type and id in normal form C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityName {
    pub(crate) entity_type: String,
    pub(crate) external_id: String,
}

impl EntityName {
    /// The stored spelling. A name that no entity can have becomes the empty one, which none has: a reader asks for it
    /// all the same, because an answer that finds nothing is as fresh as any other.
    pub(crate) fn canonical(entity_type: &str, external_id: &str) -> EntityName {
        let id = sheaf_model::external_id(external_id).ok();
        let (entity_type, external_id) = match Name::parse(entity_type).ok().zip(id) {
            Some((entity_type, id)) => (entity_type.into_string(), id.into_owned()),
            None => (String::new(), String::new()),
        };
        EntityName {
            entity_type,
            external_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_spelling_and_impossible_ones_are_not() {
        let composed = EntityName::canonical("caf\u{e9}", "K");
        assert_eq!(composed.external_id, "K");
        assert_eq!(EntityName::canonical("cafe\u{301}", "\u{212a}"), composed);
        let longest = "x".repeat(512);
        assert_eq!(
            EntityName::canonical("plane", &longest).external_id,
            longest
        );
        for (entity_type, external_id) in [
            ("plane", ""),
            ("", "a"),
            ("plane", "a\0"),
            ("plane", &"x".repeat(513)),
        ] {
            let name = EntityName::canonical(entity_type, external_id);
            assert_eq!(
                (name.entity_type, name.external_id),
                (String::new(), String::new())
            );
        }
    }
}
