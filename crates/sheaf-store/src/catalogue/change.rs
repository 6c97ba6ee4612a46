//! Changes of a catalogue: attributes created, declared, described and marked.

use sheaf_model::{AttributeId, AttributeType, Lineage, Timestamp};
use sheaf_pg::{Access, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::Type;

use super::{Attribute, Description, Pin, Temperature, ValueIndex};
use crate::lineage::{lineage_of, read_lineage};
use crate::scope::TenantScope;

/// An attribute that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttribute {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: AttributeType,
    /// Where its values are to lie.
    pub temperature: Temperature,
}

/// How many attributes a tenant has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttributeBounds {
    /// In the indexed part or on their way there; what would exceed this is made cold.
    pub hot_max: usize,
    /// In all; what would exceed this is not made.
    pub attributes_max: usize,
}

/// What creating attributes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedAttributes {
    /// The lineage that has them.
    pub lineage: Option<Lineage>,
    /// The catalogue's version from then on: the one before it, and these attributes.
    pub version: i64,
    /// Those that were not there before.
    pub attributes: Vec<Attribute>,
}

/// Creates attributes that are not there yet, inferred from values; those that are there stay as they are. Absent
/// where none was created, and the catalogue is as it was.
pub async fn create_attributes(
    app: &Pool,
    scope: &TenantScope,
    attributes: &[NewAttribute],
    bounds: AttributeBounds,
    created_at: Timestamp,
) -> Result<Option<CreatedAttributes>, PgError> {
    let tenant = scope.tenant().0;
    let names: Vec<&str> = attributes.iter().map(|a| a.name.as_str()).collect();
    let kinds: Vec<&str> = attributes.iter().map(|a| a.kind.as_str()).collect();
    let temperatures: Vec<&str> = attributes.iter().map(|a| a.temperature.as_str()).collect();
    let created_at = PgTime(created_at);
    let [hot_max, attributes_max] = [bounds.hot_max, bounds.attributes_max]
        .map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let create = Statement::new(
        "creating attributes",
        include_str!("../../sql/attributes/create_attributes.sql"),
        vec![
            (&tenant, Type::INT8),
            (&names, Type::TEXT_ARRAY),
            (&kinds, Type::TEXT_ARRAY),
            (&temperatures, Type::TEXT_ARRAY),
            (&"inferred", Type::TEXT),
            (&created_at, Type::TIMESTAMPTZ),
            (&hot_max, Type::INT8),
            (&attributes_max, Type::INT8),
        ],
    );
    // The tenant's row is locked first, so that two creators of one tenant take turns and each counts what is there.
    let rows = scope
        .run(
            app,
            Access::Write,
            &[lock_tenant(&tenant), create, read_lineage()],
        )
        .await?;
    let (Some(first), Some(read)) = (rows[1].first(), rows[2].first()) else {
        return Ok(None);
    };
    Ok(Some(CreatedAttributes {
        lineage: lineage_of(read)?,
        version: first.get("catalogue_version"),
        attributes: rows[1]
            .iter()
            .map(Attribute::from_row)
            .collect::<Result<_, _>>()?,
    }))
}

/// Marks attributes that lines carry as tags beside their entity's id. Before such a line is stored, so that whoever
/// compares another with it knows them.
pub async fn mark_series_tags(
    app: &Pool,
    scope: &TenantScope,
    names: &[&str],
) -> Result<(), PgError> {
    let tenant = scope.tenant().0;
    let mark = Statement::new(
        "marking the tags of series",
        include_str!("../../sql/attributes/mark_series_tags.sql"),
        vec![(&tenant, Type::INT8), (&names, Type::TEXT_ARRAY)],
    );
    scope
        .run(app, Access::Write, &[lock_tenant(&tenant), mark])
        .await
        .map(drop)
}

/// Declares one attribute. False where the name is there already.
pub async fn declare_attribute(
    app: &Pool,
    scope: &TenantScope,
    attribute: &NewAttribute,
    description: &Description,
    created_at: Timestamp,
) -> Result<bool, PgError> {
    let tenant = scope.tenant().0;
    let (kind, temperature) = (attribute.kind.as_str(), attribute.temperature.as_str());
    let value_index = ValueIndex::of_new(attribute.kind, description.pin).as_str();
    let (schema, pin) = (
        description.schema.clone().map(JsonbWrite),
        description.pin.map(Pin::as_str),
    );
    let created_at = PgTime(created_at);
    let declare = Statement::new(
        "declaring an attribute",
        include_str!("../../sql/attributes/declare_attribute.sql"),
        vec![
            (&tenant, Type::INT8),
            (&attribute.name, Type::TEXT),
            (&kind, Type::TEXT),
            (&description.unit, Type::TEXT),
            (&description.description, Type::TEXT),
            (&schema, Type::JSONB),
            (&description.pii, Type::BOOL),
            (&pin, Type::TEXT),
            (&temperature, Type::TEXT),
            (&created_at, Type::TIMESTAMPTZ),
            (&value_index, Type::TEXT),
            (&description.retention_micros, Type::INT8),
        ],
    );
    let rows = scope
        .run(app, Access::Write, &[advance_version(&tenant), declare])
        .await?;
    Ok(!rows[1].is_empty())
}

/// Describes an attribute anew, as it follows from the catalogue at version `seen`. False where the catalogue has moved
/// on since, and nothing was changed: whoever read it reads it again.
pub async fn describe_attribute(
    app: &Pool,
    scope: &TenantScope,
    id: AttributeId,
    description: &Description,
    temperature: Temperature,
    value_index: ValueIndex,
    seen: i64,
) -> Result<bool, PgError> {
    let tenant = scope.tenant().0;
    let (schema, pin) = (
        description.schema.clone().map(JsonbWrite),
        description.pin.map(Pin::as_str),
    );
    let (temperature, value_index) = (temperature.as_str(), value_index.as_str());
    let describe = Statement::new(
        "describing an attribute",
        include_str!("../../sql/attributes/describe_attribute.sql"),
        vec![
            (&tenant, Type::INT8),
            (&id.0, Type::INT8),
            (&description.unit, Type::TEXT),
            (&description.description, Type::TEXT),
            (&schema, Type::JSONB),
            (&description.pii, Type::BOOL),
            (&pin, Type::TEXT),
            (&temperature, Type::TEXT),
            (&seen, Type::INT8),
            (&value_index, Type::TEXT),
            (&description.retention_micros, Type::INT8),
        ],
    );
    let rows = scope.run_one(app, Access::Write, describe).await?;
    Ok(!rows.is_empty())
}

fn advance_version(tenant: &i64) -> Statement<'_> {
    Statement::new(
        "advancing a catalogue's version",
        include_str!("../../sql/tenants/advance_catalogue_version.sql"),
        vec![(tenant, Type::INT8)],
    )
}

fn lock_tenant(tenant: &i64) -> Statement<'_> {
    Statement::new(
        "locking a tenant's catalogue",
        include_str!("../../sql/tenants/lock_tenant.sql"),
        vec![(tenant, Type::INT8)],
    )
}
