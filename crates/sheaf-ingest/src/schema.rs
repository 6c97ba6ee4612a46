//! JSON Schemas of attributes: checked when declared, compiled once, applied to each value.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Compiled schemas, by attribute; one whose text has changed is compiled anew.
#[derive(Default)]
pub(crate) struct Schemas {
    compiled: Mutex<HashMap<AttributeId, (String, Arc<jsonschema::Validator>)>>,
}

/// More attributes with a schema than this, and compiled ones are forgotten: it bounds memory, not meaning.
const COMPILED_MAX: usize = 10_000;

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
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((text, validator)) = compiled.get(&id)
            && text == schema
        {
            return Ok(Arc::clone(validator));
        }
        let validator = Arc::new(compile(schema)?);
        if compiled.len() >= COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(id, (schema.to_owned(), Arc::clone(&validator)));
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
}
