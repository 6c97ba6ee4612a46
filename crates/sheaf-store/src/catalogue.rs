//! A tenant's catalogue: its policies and every attribute, as one snapshot that servers remember.
//!
//! The snapshot carries the version under which it was read. Whoever places or filters values compares that version
//! with the database's in the same transaction, so that a remembered catalogue can be old but never wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use sheaf_model::{AttributeId, AttributeType, TenantId, Timestamp};
use sheaf_pg::{Access, JsonbRead, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::scope::TenantScope;
use crate::tenants::Tenant;

/// Which part of the document holds an attribute's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temperature {
    /// The part without an index.
    Cold,
    /// On the way to the indexed part: written there, found in either.
    Warming,
    /// The indexed part.
    Hot,
    /// On the way out of the indexed part: written to the other, found in either.
    Cooling,
}

impl Temperature {
    const ALL: [Temperature; 4] = [
        Temperature::Cold,
        Temperature::Warming,
        Temperature::Hot,
        Temperature::Cooling,
    ];

    /// The temperature's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Temperature::Cold => "cold",
            Temperature::Warming => "warming",
            Temperature::Hot => "hot",
            Temperature::Cooling => "cooling",
        }
    }

    fn parse(text: &str) -> Option<Temperature> {
        Temperature::ALL
            .into_iter()
            .find(|temperature| temperature.as_str() == text)
    }

    /// Whether new values go to the indexed part.
    pub fn writes_hot(self) -> bool {
        matches!(self, Temperature::Hot | Temperature::Warming)
    }

    /// Whether values may still lie in the other part.
    pub fn is_moving(self) -> bool {
        matches!(self, Temperature::Warming | Temperature::Cooling)
    }
}

/// A temperature that a user decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// In the indexed part.
    Hot,
    /// In the other.
    Cold,
}

impl Pin {
    /// The pin's name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Pin::Hot => "hot",
            Pin::Cold => "cold",
        }
    }

    /// The pin with this name.
    pub fn parse(text: &str) -> Option<Pin> {
        [Pin::Hot, Pin::Cold]
            .into_iter()
            .find(|pin| pin.as_str() == text)
    }
}

/// What a user says of an attribute beside its name and type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The unit of its values.
    pub unit: Option<String>,
    /// What it means.
    pub description: Option<String>,
    /// A JSON Schema for its values, as text.
    pub schema: Option<String>,
    /// Whether its values are personal data.
    pub pii: bool,
    /// A temperature decided by the user.
    pub pin: Option<Pin>,
}

/// One attribute of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its number, unique in the database.
    pub id: AttributeId,
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: AttributeType,
    /// Whether a user declared it; else it was inferred from its first value.
    pub declared: bool,
    /// What a user says of it.
    pub description: Description,
    /// Which part of the document holds its values.
    pub temperature: Temperature,
    /// When it was declared or first seen.
    pub created_at: Timestamp,
}

/// A tenant's policies and attributes at one version.
#[derive(Debug)]
pub struct Catalogue {
    /// The tenant with its policies; its `catalogue_version` is the version of this snapshot.
    pub tenant: Tenant,
    by_name: HashMap<String, Arc<Attribute>>,
    by_id: HashMap<AttributeId, Arc<Attribute>>,
}

impl Catalogue {
    fn new(tenant: Tenant, attributes: Vec<Attribute>) -> Catalogue {
        let shared: Vec<Arc<Attribute>> = attributes.into_iter().map(Arc::new).collect();
        Catalogue {
            tenant,
            by_name: shared
                .iter()
                .map(|a| (a.name.clone(), Arc::clone(a)))
                .collect(),
            by_id: shared.into_iter().map(|a| (a.id, a)).collect(),
        }
    }

    /// The version of this snapshot.
    pub fn version(&self) -> i64 {
        self.tenant.catalogue_version
    }

    /// The attribute with this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Attribute>> {
        self.by_name.get(name)
    }

    /// The attribute with this number.
    pub fn by_id(&self, id: AttributeId) -> Option<&Arc<Attribute>> {
        self.by_id.get(&id)
    }

    /// Every attribute, in no order.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = &Arc<Attribute>> {
        self.by_id.values()
    }

    /// Whether values of any attribute are on their way between the parts of documents.
    pub fn is_moving(&self) -> bool {
        self.by_id
            .values()
            .any(|attribute| attribute.temperature.is_moving())
    }

    /// How many attributes are in the indexed part or on their way there.
    pub fn hot_count(&self) -> usize {
        self.by_id
            .values()
            .filter(|attribute| attribute.temperature.writes_hot())
            .count()
    }
}

/// The statement that reads a catalogue's version, in the transaction of whoever remembers one.
pub fn read_version(tenant: &TenantId) -> Statement<'_> {
    let sql = include_str!("../sql/tenants/read_catalogue_version.sql");
    Statement::new(
        "reading a catalogue's version",
        sql,
        vec![(&tenant.0, Type::INT8)],
    )
}

/// Statements that read a whole catalogue, in the transaction of whoever needs it.
pub fn read_catalogue(tenant: &TenantId) -> [Statement<'_>; 2] {
    [
        Statement::new(
            "reading a tenant's policies",
            include_str!("../sql/tenants/read_tenant.sql"),
            vec![(&tenant.0, Type::INT8)],
        ),
        Statement::new(
            "reading a tenant's catalogue",
            include_str!("../sql/attributes/list_attributes.sql"),
            vec![(&tenant.0, Type::INT8)],
        ),
    ]
}

/// The catalogue in the rows of [`read_catalogue`].
pub fn catalogue_of(rows: &[Vec<Row>]) -> Result<Catalogue, PgError> {
    const STEP: &str = "reading a tenant's catalogue";
    let [tenants, attributes] = rows else {
        return Err(PgError::unreadable(STEP, "two results"));
    };
    let tenant = tenants
        .first()
        .ok_or_else(|| PgError::unreadable(STEP, "the tenant"))?;
    let attributes = attributes
        .iter()
        .map(attribute_of)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Catalogue::new(Tenant::from_row(tenant), attributes))
}

fn attribute_of(row: &Row) -> Result<Attribute, PgError> {
    const STEP: &str = "reading an attribute";
    let kind: &str = row.get("type");
    let temperature: &str = row.get("temperature");
    Ok(Attribute {
        id: AttributeId(row.get("attribute_id")),
        name: row.get("name"),
        kind: AttributeType::parse(kind).ok_or_else(|| PgError::unreadable(STEP, kind))?,
        declared: row.get::<_, &str>("origin") == "declared",
        description: Description {
            unit: row.get("unit"),
            description: row.get("description"),
            schema: row
                .get::<_, Option<JsonbRead<'_>>>("schema")
                .map(|schema| schema.0.to_owned()),
            pii: row.get("pii"),
            pin: row.get::<_, Option<&str>>("pin").and_then(Pin::parse),
        },
        temperature: Temperature::parse(temperature)
            .ok_or_else(|| PgError::unreadable(STEP, temperature))?,
        created_at: row.get::<_, PgTime>("created_at").0,
    })
}

/// Remembered catalogues, of at most a thousand tenants.
#[derive(Debug)]
pub struct Catalogues {
    app: Pool,
    remembered: Cache<TenantId, Remembered>,
}

#[derive(Debug, Clone)]
struct Remembered {
    catalogue: Arc<Catalogue>,
    checked_at: Instant,
}

const TENANTS_MAX: usize = 1_000;
/// How long a remembered catalogue is used before its version is asked for again. Longer lets another server's change
/// of a policy go unseen; shorter asks more often. Nothing is placed or found wrongly meanwhile: versions are compared.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Catalogues {
    /// Remembers nothing yet.
    pub fn new(app: Pool) -> Catalogues {
        Catalogues {
            app,
            remembered: Cache::new(TENANTS_MAX),
        }
    }

    /// The catalogue, as it was at most a second ago.
    pub async fn current(&self, scope: &TenantScope) -> Result<Arc<Catalogue>, PgError> {
        let Some(remembered) = self.remembered.get(&scope.tenant()) else {
            return self.refresh(scope).await;
        };
        if remembered.checked_at.elapsed() < CHECK_EVERY {
            return Ok(remembered.catalogue);
        }
        let tenant = scope.tenant();
        let rows = scope
            .run_one(&self.app, Access::Read, read_version(&tenant))
            .await?;
        let version: Option<i64> = rows.first().map(|row| row.get(0));
        if version != Some(remembered.catalogue.version()) {
            return self.refresh(scope).await;
        }
        self.remember(Arc::clone(&remembered.catalogue));
        Ok(remembered.catalogue)
    }

    /// The catalogue as it is now.
    pub async fn refresh(&self, scope: &TenantScope) -> Result<Arc<Catalogue>, PgError> {
        let tenant = scope.tenant();
        let rows = scope
            .run(&self.app, Access::Read, &read_catalogue(&tenant))
            .await?;
        let catalogue = Arc::new(catalogue_of(&rows)?);
        self.remember(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    /// Remembers a catalogue that was read elsewhere, unless a newer one is remembered already.
    pub fn remember(&self, catalogue: Arc<Catalogue>) {
        let tenant = catalogue.tenant.tenant;
        let newer = self
            .remembered
            .get(&tenant)
            .is_some_and(|known| known.catalogue.version() > catalogue.version());
        if !newer {
            self.remembered.insert(
                tenant,
                Remembered {
                    catalogue,
                    checked_at: Instant::now(),
                },
            );
        }
    }
}

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

/// Creates attributes that are not there yet, inferred from values; those that are there stay as they are.
pub async fn create_attributes(
    app: &Pool,
    scope: &TenantScope,
    attributes: &[NewAttribute],
    bounds: AttributeBounds,
    created_at: Timestamp,
) -> Result<(), PgError> {
    let tenant = scope.tenant().0;
    let names: Vec<&str> = attributes.iter().map(|a| a.name.as_str()).collect();
    let kinds: Vec<&str> = attributes.iter().map(|a| a.kind.as_str()).collect();
    let temperatures: Vec<&str> = attributes.iter().map(|a| a.temperature.as_str()).collect();
    let created_at = PgTime(created_at);
    let [hot_max, attributes_max] = [bounds.hot_max, bounds.attributes_max]
        .map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let create = Statement::new(
        "creating attributes",
        include_str!("../sql/attributes/create_attributes.sql"),
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
    scope
        .run(app, Access::Write, &[advance_version(&tenant), create])
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
    let (schema, pin) = (
        description.schema.clone().map(JsonbWrite),
        description.pin.map(Pin::as_str),
    );
    let created_at = PgTime(created_at);
    let declare = Statement::new(
        "declaring an attribute",
        include_str!("../sql/attributes/declare_attribute.sql"),
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
    seen: i64,
) -> Result<bool, PgError> {
    let tenant = scope.tenant().0;
    let (schema, pin) = (
        description.schema.clone().map(JsonbWrite),
        description.pin.map(Pin::as_str),
    );
    let temperature = temperature.as_str();
    let describe = Statement::new(
        "describing an attribute",
        include_str!("../sql/attributes/describe_attribute.sql"),
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
        ],
    );
    let rows = scope.run_one(app, Access::Write, describe).await?;
    Ok(!rows.is_empty())
}

fn advance_version(tenant: &i64) -> Statement<'_> {
    Statement::new(
        "advancing a catalogue's version",
        include_str!("../sql/tenants/advance_catalogue_version.sql"),
        vec![(tenant, Type::INT8)],
    )
}
