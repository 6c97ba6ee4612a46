//! A tenant's catalogue: its policies and every attribute, as one snapshot that servers remember.
//!
//! The snapshot carries the version under which it was read. Whoever places or filters values compares that version
//! with the database's in the same transaction, so that a remembered catalogue can be old but never wrong.

mod flight;
mod remembered;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sheaf_model::{AttributeId, AttributeType, TenantId, Timestamp};
use sheaf_pg::{Access, JsonbRead, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::scope::TenantScope;
use crate::tenants::Tenant;
pub use remembered::Catalogues;

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
    /// Whether a line of line protocol has carried it as a tag beside the tags that make its entity's id.
    pub series_tag: bool,
    /// When it was declared or first seen.
    pub created_at: Timestamp,
}

/// A tenant's policies and attributes at one version. Versions that follow each other share the attributes that have not
/// changed, so that one more version in use costs two tables of pointers.
#[derive(Debug)]
pub struct Catalogue {
    /// The tenant with its policies; its `catalogue_version` is the version of this snapshot.
    pub tenant: Tenant,
    by_name: HashSet<ByName>,
    by_id: HashSet<ById>,
    series_tags: HashSet<AttributeId>,
    hot_count: usize,
    is_moving: bool,
    bytes: usize,
}

/// An attribute that is found by its name.
#[derive(Debug, Clone)]
struct ByName(Arc<Attribute>);

/// An attribute that is found by its number.
#[derive(Debug, Clone)]
struct ById(Arc<Attribute>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.as_str().hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl Borrow<AttributeId> for ById {
    fn borrow(&self) -> &AttributeId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &ById) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Catalogue {
    /// Attributes that an earlier version has just the same are shared with it.
    fn new(tenant: Tenant, attributes: Vec<Attribute>, earlier: Option<&Catalogue>) -> Catalogue {
        let mut catalogue = Catalogue {
            bytes: size_of::<Catalogue>()
                + tenant.name.len()
                + tenant.policy.line_protocol.len()
                + 2 * TEXT_BYTES,
            tenant,
            by_name: HashSet::with_capacity(attributes.len()),
            by_id: HashSet::with_capacity(attributes.len()),
            series_tags: HashSet::new(),
            hot_count: 0,
            is_moving: false,
        };
        for attribute in attributes {
            let known = earlier.and_then(|earlier| earlier.by_id(attribute.id));
            catalogue.insert(match known {
                Some(known) if **known == attribute => Arc::clone(known),
                _ => Arc::new(attribute),
            });
        }
        catalogue
    }

    /// The next version, which has these attributes as well.
    fn with(&self, created: CreatedAttributes) -> Catalogue {
        let mut next = Catalogue {
            tenant: Tenant {
                catalogue_version: created.version,
                ..self.tenant.clone()
            },
            by_name: self.by_name.clone(),
            by_id: self.by_id.clone(),
            series_tags: self.series_tags.clone(),
            ..*self
        };
        for attribute in created.attributes {
            next.insert(Arc::new(attribute));
        }
        next
    }

    /// An attribute's name and number are its own.
    fn insert(&mut self, attribute: Arc<Attribute>) {
        if !self.by_id.insert(ById(Arc::clone(&attribute))) {
            return;
        }
        if attribute.series_tag {
            self.series_tags.insert(attribute.id);
            self.bytes += PLACE_BYTES;
        }
        self.hot_count += usize::from(attribute.temperature.writes_hot());
        self.is_moving |= attribute.temperature.is_moving();
        self.bytes += bytes_of(&attribute) + 2 * PLACE_BYTES;
        self.by_name.insert(ByName(attribute));
    }

    /// What this snapshot takes, with attributes that it may share with others.
    fn bytes(&self) -> usize {
        self.bytes
    }

    /// The version of this snapshot.
    pub fn version(&self) -> i64 {
        self.tenant.catalogue_version
    }

    /// The attribute with this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Attribute>> {
        self.by_name.get(name).map(|found| &found.0)
    }

    /// The attribute with this number.
    pub fn by_id(&self, id: AttributeId) -> Option<&Arc<Attribute>> {
        self.by_id.get(&id).map(|found| &found.0)
    }

    /// Every attribute, in no order.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = &Arc<Attribute>> {
        self.by_id.iter().map(|found| &found.0)
    }

    /// Whether values of any attribute are on their way between the parts of documents.
    pub fn is_moving(&self) -> bool {
        self.is_moving
    }

    /// Attributes that lines carry as tags beside their entity's id, so that stored values of them tell series apart.
    pub fn series_tags(&self) -> &HashSet<AttributeId> {
        &self.series_tags
    }

    /// How many attributes are in the indexed part or on their way there.
    pub fn hot_count(&self) -> usize {
        self.hot_count
    }
}

/// What the allocator adds to a text, by its header and by rounding.
const TEXT_BYTES: usize = 24;
/// A pointer or number and its mark, in a table that is half empty at worst.
const PLACE_BYTES: usize = 2 * (size_of::<usize>() + 1);

/// What an attribute takes, behind its pointer.
fn bytes_of(attribute: &Attribute) -> usize {
    /// Two counts, and what the allocator adds.
    const SHARED_BYTES: usize = 32;
    let described = &attribute.description;
    let texts = [&described.unit, &described.description, &described.schema];
    let text = |text: &String| text.len() + TEXT_BYTES;
    let texts = texts.into_iter().flatten().map(text).sum::<usize>();
    size_of::<Attribute>() + SHARED_BYTES + text(&attribute.name) + texts
}

/// The statement that reads a catalogue's version, in the transaction of whoever remembers one; its row holds one bigint.
pub fn read_version(tenant: &TenantId) -> Statement<'_> {
    let sql = include_str!("../sql/tenants/read_catalogue_version.sql");
    Statement::new(
        "reading a catalogue's version",
        sql,
        vec![(&tenant.0, Type::INT8)],
    )
}

/// The versions of some tenants' catalogues, in the transaction of whoever remembers them.
pub async fn read_versions(
    client: &Client,
    tenants: &Vec<i64>,
) -> Result<HashMap<TenantId, i64>, PgError> {
    let sql = include_str!("../sql/tenants/read_catalogue_versions.sql");
    let rows = client
        .query_typed(sql, &[(tenants, Type::INT8_ARRAY)])
        .await
        .map_err(PgError::statement("reading the versions of catalogues"))?;
    let version = |row: &Row| (TenantId(row.get("tenant_id")), row.get("catalogue_version"));
    Ok(rows.iter().map(version).collect())
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
    catalogue_after(None, rows)
}

/// The same, sharing what has not changed with an earlier version.
fn catalogue_after(earlier: Option<&Catalogue>, rows: &[Vec<Row>]) -> Result<Catalogue, PgError> {
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
    Ok(Catalogue::new(
        Tenant::from_row(tenant),
        attributes,
        earlier,
    ))
}

/// By place: to look for twelve names in each of 10,000 rows takes as long as to read them.
fn attribute_of(row: &Row) -> Result<Attribute, PgError> {
    const STEP: &str = "reading an attribute";
    let [
        id,
        name,
        kind,
        origin,
        unit,
        description,
        schema,
        pii,
        pin,
        temperature,
        series_tag,
        created_at,
    ] = std::array::from_fn(|place| place);
    let kind: &str = row.get(kind);
    let temperature: &str = row.get(temperature);
    Ok(Attribute {
        id: AttributeId(row.get(id)),
        name: row.get(name),
        kind: AttributeType::parse(kind).ok_or_else(|| PgError::unreadable(STEP, kind))?,
        declared: row.get::<_, &str>(origin) == "declared",
        description: Description {
            unit: row.get(unit),
            description: row.get(description),
            schema: row
                .get::<_, Option<JsonbRead<'_>>>(schema)
                .map(|schema| schema.0.to_owned()),
            pii: row.get(pii),
            pin: row.get::<_, Option<&str>>(pin).and_then(Pin::parse),
        },
        temperature: Temperature::parse(temperature)
            .ok_or_else(|| PgError::unreadable(STEP, temperature))?,
        series_tag: row.get(series_tag),
        created_at: row.get::<_, PgTime>(created_at).0,
    })
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

/// What creating attributes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedAttributes {
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
    let rows = scope
        .run(app, Access::Write, &[lock_tenant(&tenant), create])
        .await?;
    let Some(first) = rows[1].first() else {
        return Ok(None);
    };
    Ok(Some(CreatedAttributes {
        version: first.get("catalogue_version"),
        attributes: rows[1].iter().map(attribute_of).collect::<Result<_, _>>()?,
    }))
}

/// Marks attributes that lines carry as tags beside their entity's id. Before such a line is stored, so that whoever
/// compares another with it knows them.
pub async fn mark_series_tags(
    app: &Pool,
    scope: &TenantScope,
    attributes: &[AttributeId],
) -> Result<(), PgError> {
    let tenant = scope.tenant().0;
    let ids: Vec<i64> = attributes.iter().map(|id| id.0).collect();
    let mark = Statement::new(
        "marking the tags of series",
        include_str!("../sql/attributes/mark_series_tags.sql"),
        vec![(&tenant, Type::INT8), (&ids, Type::INT8_ARRAY)],
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

fn lock_tenant(tenant: &i64) -> Statement<'_> {
    Statement::new(
        "locking a tenant's catalogue",
        include_str!("../sql/tenants/lock_tenant.sql"),
        vec![(tenant, Type::INT8)],
    )
}
