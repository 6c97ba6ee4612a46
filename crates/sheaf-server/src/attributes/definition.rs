//! An attribute as it is sent, declared and described.

use serde::Serialize;
use serde_json::value::RawValue;
use sheaf_model::{AttributeType, Duration, JsonText, Name, Timestamp, is_reserved};
use sheaf_store::catalogue::{Attribute, Description, Pin};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::members::{Change, Members};
use crate::openapi::named_with;
use crate::problem::Problem;

/// An attribute.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttributeBody {
    /// Its name, unique in the tenant.
    pub(super) name: String,
    /// What its values are: int, float, decimal, text, bool, time or json. Decided once.
    #[serde(rename = "type")]
    kind: &'static str,
    /// `declared` by a user, or `inferred` from its first value.
    origin: &'static str,
    /// The unit of its values.
    unit: Option<String>,
    /// What it means.
    description: Option<String>,
    /// A JSON Schema that its values satisfy.
    #[schema(value_type = Option<Object>)]
    schema: Option<Box<RawValue>>,
    /// Whether its values are personal data.
    pii: bool,
    /// `hot` or `cold` where a user decided it.
    pin: Option<&'static str>,
    /// How long its history is kept; null is as long as the tenant's.
    retention: Option<String>,
    /// `cold`, `warming`, `hot` or `cooling`: how fast filters on it are, never what they find.
    temperature: &'static str,
    /// When it was declared or first seen.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl AttributeBody {
    pub(super) fn of(attribute: &Attribute) -> AttributeBody {
        let description = &attribute.description;
        AttributeBody {
            name: attribute.name.clone(),
            kind: attribute.kind.as_str(),
            origin: if attribute.declared {
                "declared"
            } else {
                "inferred"
            },
            unit: description.unit.clone(),
            description: description.description.clone(),
            schema: description
                .schema
                .clone()
                .and_then(|schema| RawValue::from_string(schema).ok()),
            pii: description.pii,
            pin: description.pin.map(Pin::as_str),
            retention: description.retention_micros.map(span_text),
            temperature: attribute.temperature.as_str(),
            created_at: attribute.created_at,
        }
    }
}

/// What is said of an attribute; null takes it back.
#[derive(Debug, Clone, ToSchema)]
pub(crate) struct DescriptionBody {
    /// The unit of its values.
    #[schema(value_type = Option<String>)]
    unit: Change<String>,
    /// What it means.
    #[schema(value_type = Option<String>)]
    description: Change<String>,
    /// A JSON Schema for its values.
    #[schema(value_type = Option<Object>)]
    schema: Change<String>,
    /// Whether its values are personal data.
    #[schema(value_type = Option<bool>)]
    pii: Change<bool>,
    /// `hot` or `cold`.
    #[schema(value_type = Option<String>)]
    pin: Change<Pin>,
    /// A duration such as `30d`, or null for as long as the tenant's.
    #[schema(value_type = Option<String>)]
    retention: Change<Duration>,
}

/// An attribute that is to be.
#[derive(Debug)]
pub(crate) struct NewAttributeBody {
    pub(super) name: Name,
    pub(super) kind: AttributeType,
    pub(super) description: DescriptionBody,
}

impl PartialSchema for NewAttributeBody {
    fn schema() -> RefOr<Schema> {
        let kinds = AttributeType::ALL.map(AttributeType::as_str);
        let kind = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(kinds));
        named_with::<DescriptionBody>(ObjectBuilder::new().property("type", kind).required("type"))
    }
}

impl ToSchema for NewAttributeBody {}

const TYPES: &str = "int, float, decimal, text, bool, time or json";
/// Bytes of a unit and of a description: for people, and repeated in every list.
const UNIT_BYTES_MAX: usize = 255;
const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
const SCHEMA_DEPTH_MAX: usize = 32;

impl DescriptionBody {
    pub(super) fn take(members: &mut Members<'_>) -> Result<DescriptionBody, Problem> {
        let text = |bytes_max: usize| {
            move |text: &str| {
                (text.len() <= bytes_max && !text.contains('\0')).then(|| text.to_owned())
            }
        };
        Ok(DescriptionBody {
            unit: members.take_as("unit", "a text of at most 255 bytes", text(UNIT_BYTES_MAX))?,
            description: members.take_as(
                "description",
                "a text of at most 4 KiB",
                text(DESCRIPTION_BYTES_MAX),
            )?,
            schema: match members.take_raw("schema") {
                None => Change::Keep,
                Some("null") => Change::Clear,
                Some(raw) => Change::Set(schema(raw)?),
            },
            pii: members.take_change("pii")?,
            pin: members.take_as("pin", "hot, cold or null", Pin::parse)?,
            retention: members.take_duration("retention")?,
        })
    }

    pub(super) fn apply(self, before: &Description) -> Description {
        Description {
            unit: self.unit.apply(before.unit.clone()),
            description: self.description.apply(before.description.clone()),
            schema: self.schema.apply(before.schema.clone()),
            pii: self.pii.apply(Some(before.pii)).unwrap_or_default(),
            pin: self.pin.apply(before.pin),
            retention_micros: retention_after(self.retention, before.retention_micros),
        }
    }
}

/// How long history is kept, in microseconds; null is the default.
pub(crate) fn retention_after(change: Change<Duration>, before: Option<i64>) -> Option<i64> {
    match change {
        Change::Keep => before,
        Change::Clear => None,
        Change::Set(span) => Some(span.as_micros()),
    }
}

/// A number of microseconds as durations are written.
pub(crate) fn span_text(micros: i64) -> String {
    Duration::from_micros(micros).map_or_else(|_| format!("{micros}us"), |span| span.to_string())
}

fn schema(raw: &str) -> Result<String, Problem> {
    let invalid = |detail: String| Problem::invalid("schema", detail);
    let text =
        JsonText::parse(raw, SCHEMA_DEPTH_MAX).map_err(|fault| invalid(fault.to_string()))?;
    sheaf_ingest::schema::check(text.as_str()).map_err(|fault| invalid(fault.to_string()))?;
    Ok(text.as_str().to_owned())
}

impl NewAttributeBody {
    pub(super) fn read(body: &[u8]) -> Result<NewAttributeBody, Problem> {
        let mut members = Members::read(body)?;
        let name: String = members.require("name")?;
        let name =
            Name::parse(&name).map_err(|fault| Problem::invalid("name", fault.to_string()))?;
        if is_reserved(name.as_str()) {
            return Err(Problem::invalid(
                "name",
                format!("{name} means the entity itself and cannot name an attribute"),
            ));
        }
        let kind = match members.take_as("type", TYPES, AttributeType::parse)? {
            Change::Set(kind) => kind,
            Change::Keep | Change::Clear => return Err(Problem::invalid("type", "is required")),
        };
        let description = DescriptionBody::take(&mut members)?;
        members.finish()?;
        Ok(NewAttributeBody {
            name,
            kind,
            description,
        })
    }
}
