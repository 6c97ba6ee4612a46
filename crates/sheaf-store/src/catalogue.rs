//! A tenant's catalogue: its policies and every attribute, as one snapshot that servers remember.
//!
//! The snapshot carries the version under which it was read, and the lineage that had it. Whoever places or filters values
//! compares both with the database's in the same transaction, so that a remembered catalogue can be old but never wrong.

mod attribute;
mod change;
mod flight;
mod remembered;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sheaf_model::{AttributeId, Lineage, TenantId, Timestamp};
use sheaf_pg::{PgError, PgTime, Statement, first_row};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::lineage::lineage_of;
use crate::tenants::Tenant;
use attribute::TEXT_BYTES;
pub use attribute::{Attribute, Description, Pin, Temperature, ValueIndex};
pub use change::{
    AttributeBounds, CreatedAttributes, NewAttribute, create_attributes, declare_attribute,
    describe_attribute, mark_series_tags,
};
pub use remembered::Catalogues;

/// A tenant's policies and attributes at one version. Versions that follow each other share the attributes that have not
/// changed, so that one more version in use costs two tables of pointers.
#[derive(Debug)]
pub struct Catalogue {
    /// The tenant with its policies; its `catalogue_version` is the version of this snapshot.
    pub tenant: Tenant,
    lineage: Option<Lineage>,
    by_name: HashSet<ByName>,
    by_id: HashSet<ById>,
    series_tags: HashSet<AttributeId>,
    hot_count: usize,
    is_moving: bool,
    has_value_index: bool,
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
    fn new(
        tenant: Tenant,
        lineage: Option<Lineage>,
        attributes: Vec<Attribute>,
        earlier: Option<&Catalogue>,
    ) -> Catalogue {
        let mut catalogue = Catalogue {
            bytes: size_of::<Catalogue>()
                + tenant.name.len()
                + tenant.policy.line_protocol.len()
                + 2 * TEXT_BYTES,
            tenant,
            lineage,
            by_name: HashSet::with_capacity(attributes.len()),
            by_id: HashSet::with_capacity(attributes.len()),
            series_tags: HashSet::new(),
            hot_count: 0,
            is_moving: false,
            has_value_index: false,
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
        self.has_value_index |= attribute.value_index.is_kept();
        self.bytes += attribute.bytes() + 2 * PLACE_BYTES;
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

    /// The lineage that it was read from; none where that was a standby.
    pub fn lineage(&self) -> Option<Lineage> {
        self.lineage
    }

    /// Whether it is this version. Versions compare within one lineage only.
    pub fn is_version(&self, lineage: Option<Lineage>, version: i64) -> bool {
        self.lineage == lineage && self.version() == version
    }

    /// Whether it is the version in the rows of [`read_version`].
    pub fn is_current(&self, rows: &[Row]) -> Result<bool, PgError> {
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        Ok(self.is_version(lineage_of(row)?, row.get("catalogue_version")))
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

    /// Whether writers keep a value index of any attribute.
    pub fn has_value_index(&self) -> bool {
        self.has_value_index
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

/// A pointer or number and its mark, in a table that is half empty at worst.
const PLACE_BYTES: usize = 2 * (size_of::<usize>() + 1);

/// The statement that reads a catalogue's version, in the transaction of whoever remembers one; see
/// [`Catalogue::is_current`].
pub fn read_version(tenant: &TenantId) -> Statement<'_> {
    let sql = include_str!("../sql/tenants/read_catalogue_version.sql");
    Statement::new(
        "reading a catalogue's version",
        sql,
        vec![(&tenant.0, Type::INT8)],
    )
}

/// The same as `sheaf_search`, whose transaction says of which lineage it is.
pub fn search_version(tenant: &TenantId) -> Statement<'_> {
    Statement::new(
        SEARCH_VERSION,
        include_str!("../sql/tenants/search_catalogue_version.sql"),
        vec![(&tenant.0, Type::INT8)],
    )
}

const SEARCH_VERSION: &str = "reading a catalogue's version in a search";

/// The version in the rows of [`search_version`]; none where there is no such tenant.
pub fn version_of(rows: &[Row]) -> Result<Option<i64>, PgError> {
    let row = first_row(rows, SEARCH_VERSION)?;
    Ok(row.get("catalogue_version"))
}

/// What a transaction writes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOn {
    /// Its lineage; absent on a standby.
    pub lineage: Option<Lineage>,
    /// The versions of the catalogues of the tenants that are there.
    pub versions: HashMap<TenantId, i64>,
    /// The instant before which history is closed to writes; absent where nothing is.
    pub closed_before: Option<Timestamp>,
}

/// The versions of some tenants' catalogues, and the lineage that they are of, in the transaction of whoever remembers them.
pub async fn read_versions(client: &Client, tenants: &Vec<i64>) -> Result<WrittenOn, PgError> {
    const STEP: &str = "reading the versions of catalogues";
    let sql = include_str!("../sql/tenants/read_catalogue_versions.sql");
    let rows = client
        .query_typed(sql, &[(tenants, Type::INT8_ARRAY)])
        .await
        .map_err(PgError::statement(STEP))?;
    let first = first_row(&rows, STEP)?;
    let closed_before = first.get::<_, Option<PgTime>>("closed_before");
    let lineage = lineage_of(first)?;
    let version = |row: &Row| {
        let tenant: Option<i64> = row.get("tenant_id");
        Some((TenantId(tenant?), row.get("catalogue_version")))
    };
    Ok(WrittenOn {
        lineage,
        versions: rows.iter().filter_map(version).collect(),
        closed_before: closed_before.map(|time| time.0),
    })
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

/// The same of a standby, whose rows do not say on which lineage it is.
pub fn catalogue_on(lineage: Lineage, rows: &[Vec<Row>]) -> Result<Catalogue, PgError> {
    let catalogue = catalogue_after(None, rows)?;
    Ok(Catalogue {
        lineage: Some(lineage),
        ..catalogue
    })
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
        .map(Attribute::from_row)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Catalogue::new(
        Tenant::from_row(tenant),
        lineage_of(tenant)?,
        attributes,
        earlier,
    ))
}
