//! Tenants and their policies.

use sheaf_model::{Name, TenantId, Timestamp};
use sheaf_pg::{JsonbRead, JsonbWrite, PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::lineage::{read_current, write_current};

/// What a tenant has decided about its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Whether an attribute that the catalogue lacks is created; else its values are refused.
    pub creates_unknown_attributes: bool,
    /// Facts observed before this are refused.
    pub observed_at_min: Timestamp,
    /// Facts observed further ahead of the clock are refused, in microseconds.
    pub observed_at_ahead_max_micros: i64,
    /// How long history is kept, in microseconds; absent is for ever.
    pub retention_micros: Option<i64>,
    /// By measurement, the tags that make the entity's id: `{"cpu":{"id_tags":["host"]}}`, checked by the caller.
    pub line_protocol: String,
}

impl Default for TenantPolicy {
    /// What the interface promises a tenant that says nothing.
    fn default() -> TenantPolicy {
        TenantPolicy {
            creates_unknown_attributes: true,
            observed_at_min: Timestamp::parse_date("1990-01-01").expect("a day"),
            observed_at_ahead_max_micros: 86_400_000_000,
            retention_micros: None,
            line_protocol: "{}".to_owned(),
        }
    }
}

impl TenantPolicy {
    fn unknown_attributes(&self) -> &'static str {
        if self.creates_unknown_attributes {
            "create"
        } else {
            "refuse"
        }
    }
}

/// A tenant as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its number.
    pub tenant: TenantId,
    /// Its name in the interface.
    pub name: String,
    /// Its policies.
    pub policy: TenantPolicy,
    /// Moves with every change of its catalogue or policies.
    pub catalogue_version: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Tenant {
    /// The tenant of a row that has all its columns.
    pub(crate) fn from_row(row: &Row) -> Tenant {
        Tenant {
            tenant: TenantId(row.get("tenant_id")),
            name: row.get("name"),
            policy: TenantPolicy {
                creates_unknown_attributes: row.get::<_, &str>("unknown_attributes") == "create",
                observed_at_min: row.get::<_, PgTime>("observed_at_min").0,
                observed_at_ahead_max_micros: row.get("observed_at_ahead_max_micros"),
                retention_micros: row.get("retention_micros"),
                line_protocol: row.get::<_, JsonbRead<'_>>("line_protocol").0.to_owned(),
            },
            catalogue_version: row.get("catalogue_version"),
            created_at: row.get::<_, PgTime>("created_at").0,
        }
    }
}

/// Creates a tenant. Absent where the name is taken.
pub async fn create_tenant(
    app: &Pool,
    name: &Name,
    policy: &TenantPolicy,
    created_at: Timestamp,
) -> Result<Option<TenantId>, PgError> {
    let rows = write_current(
        app,
        None,
        Statement::new(
            "creating a tenant",
            include_str!("../sql/tenants/create_tenant.sql"),
            vec![
                (&name.as_str(), Type::TEXT),
                (&policy.unknown_attributes(), Type::TEXT),
                (&PgTime(policy.observed_at_min), Type::TIMESTAMPTZ),
                (&policy.observed_at_ahead_max_micros, Type::INT8),
                (&policy.retention_micros, Type::INT8),
                (&JsonbWrite(policy.line_protocol.as_str()), Type::JSONB),
                (&PgTime(created_at), Type::TIMESTAMPTZ),
            ],
        ),
    )
    .await?;
    Ok(rows
        .first()
        .and_then(|row| row.get::<_, Option<i64>>(0))
        .map(TenantId))
}

/// Changes a tenant's policies, as they follow from its catalogue at version `seen`. False where the catalogue has moved
/// on since or the tenant is gone, and nothing was changed: whoever read it reads it again.
pub async fn update_tenant(
    app: &Pool,
    tenant: TenantId,
    policy: &TenantPolicy,
    seen: i64,
) -> Result<bool, PgError> {
    let rows = write_current(
        app,
        None,
        Statement::new(
            "changing a tenant",
            include_str!("../sql/tenants/update_tenant.sql"),
            vec![
                (&tenant.0, Type::INT8),
                (&policy.unknown_attributes(), Type::TEXT),
                (&PgTime(policy.observed_at_min), Type::TIMESTAMPTZ),
                (&policy.observed_at_ahead_max_micros, Type::INT8),
                (&policy.retention_micros, Type::INT8),
                (&JsonbWrite(policy.line_protocol.as_str()), Type::JSONB),
                (&seen, Type::INT8),
            ],
        ),
    )
    .await?;
    Ok(rows
        .first()
        .and_then(|row| row.get::<_, Option<i64>>(0))
        .is_some())
}

/// The tenant with this name. For administrators: it asks across tenants.
pub async fn fetch_tenant(app: &Pool, name: &str) -> Result<Option<Tenant>, PgError> {
    let sql = include_str!("../sql/tenants/find_tenant.sql");
    let statement = Statement::new("finding a tenant", sql, vec![(&name, Type::TEXT)]);
    Ok(read_current(app, statement)
        .await?
        .first()
        .map(Tenant::from_row))
}

/// A page of tenants after this name, in order of name. For administrators.
pub async fn list_tenants(
    app: &Pool,
    name_after: &str,
    tenants_max: i32,
) -> Result<Vec<Tenant>, PgError> {
    let sql = include_str!("../sql/tenants/list_tenants.sql");
    let params: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        vec![(&name_after, Type::TEXT), (&tenants_max, Type::INT4)];
    let listing = Statement::new("listing tenants", sql, params);
    let rows = read_current(app, listing).await?;
    Ok(rows.iter().map(Tenant::from_row).collect())
}
