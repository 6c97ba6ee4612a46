//! JSON Schemas of attributes: checked when declared, compiled once, applied to each value.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sheaf_model::{AttributeId, Refusal, RefusalCode, Value};
use sheaf_store::catalogue::Attribute;

/// A text that is no JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON schema: {0}")]
pub struct SchemaFault(String);

/// Makes sure that a text is a JSON Schema that can be applied here. Nothing is fetched: references stay within it.
pub fn check(schema: &str) -> Result<(), SchemaFault> {
    compile(schema).map(drop)
}

fn compile(schema: &str) -> Result<jsonschema::Validator, SchemaFault> {
    let schema: serde_json::Value =
        serde_json::from_str(schema).map_err(|fault| SchemaFault(fault.to_string()))?;
    jsonschema::validator_for(&schema).map_err(|fault| SchemaFault(fault.to_string()))
}

/// What compiled schemas may take: 14,000 small ones, or three of the largest that one attribute can have. More saves
/// compiling again for tenants with more of them; what is forgotten is compiled for its next value.
const COMPILED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a compiled schema takes besides, and for each byte of its text. A process grew by 1,265 bytes each for 20,000
/// schemas of 48 bytes, and by 40 for each byte of one with 4,000 properties.
const COMPILED_BYTES: usize = 512;
const COMPILED_BYTES_PER_TEXT_BYTE: usize = 40;

/// Compiled schemas, by attribute; one whose text has changed is compiled anew.
pub(crate) struct Schemas {
    compiled: Cache<AttributeId, Compiled, Weight>,
}

#[derive(Clone)]
struct Compiled {
    text: Arc<str>,
    validator: Arc<jsonschema::Validator>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<AttributeId, Compiled> for Weight {
    fn weight(&self, _: &AttributeId, compiled: &Compiled) -> u64 {
        (COMPILED_BYTES + compiled.text.len() * COMPILED_BYTES_PER_TEXT_BYTE) as u64
    }
}

impl Default for Schemas {
    fn default() -> Schemas {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(COMPILED_BYTES_MAX / COMPILED_BYTES)
            .weight_capacity(COMPILED_BYTES_MAX as u64)
            // The bound holds for each shard by itself, and a large schema is to have all of it.
            .shards(1)
            .build()
            .expect("invariant: both capacities are set");
        let (hash, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Schemas {
            compiled: Cache::with_options(options, Weight, hash, lifecycle),
        }
    }
}

impl Schemas {
    /// Whether a value satisfies its attribute's schema.
    pub(crate) fn admit(&self, attribute: &Attribute, value: &Value) -> Result<(), Refusal> {
        let Some(schema) = &attribute.description.schema else {
            return Ok(());
        };
        let refusal = |reason: String| {
            Refusal::new(
                RefusalCode::SchemaViolation,
                format!("attribute {}: {reason}", attribute.name),
            )
        };
        let validator = self
            .validator(attribute.id, schema)
            .map_err(|fault| refusal(fault.to_string()))?;
        let mut stored = String::new();
        value.write_stored(&mut stored);
        let instance: serde_json::Value =
            serde_json::from_str(&stored).map_err(|fault| refusal(fault.to_string()))?;
        // The violation's own words would quote the value; the path of the rule is enough to find it.
        validator.validate(&instance).map_err(|violation| {
            refusal(format!(
                "the value does not satisfy the schema at {}",
                violation.schema_path()
            ))
        })
    }

    fn validator(
        &self,
        id: AttributeId,
        schema: &str,
    ) -> Result<Arc<jsonschema::Validator>, SchemaFault> {
        if let Some(known) = self.compiled.get(&id)
            && *known.text == *schema
        {
            return Ok(known.validator);
        }
        let validator = Arc::new(compile(schema)?);
        let compiled = Compiled {
            text: schema.into(),
            validator: Arc::clone(&validator),
        };
        self.compiled.insert(id, compiled);
        Ok(validator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_schema_is_told_when_it_is_declared() {
        assert!(check(r#"{"minimum":-60}"#).is_ok());
        for text in [
            "",
            "{\"type\":\"no such type\"}",
            "{\"minimum\":\"x\"}",
            "3",
        ] {
            assert!(check(text).is_err(), "{text} was taken for a schema");
        }
    }

    #[test]
    fn compiled_schemas_keep_to_their_bytes_and_a_changed_text_is_compiled_anew() {
        let schemas = Schemas::default();
        let padding = "x".repeat(100_000);
        for n in 0..200 {
            let text = format!(r#"{{"minimum":{n},"description":"{padding}"}}"#);
            let validator = schemas
                .validator(AttributeId(n % 150), &text)
                .expect("a schema");
            assert!(validator.is_valid(&n.into()) && !validator.is_valid(&(n - 1).into()));
            assert!(schemas.compiled.weight() <= COMPILED_BYTES_MAX as u64);
        }
        assert!(schemas.compiled.len() > 5, "it remembers");
    }
}
