//! Whose data a statement may touch. Every function on tenant data takes a [`TenantScope`].

use sheaf_model::TenantId;
use sheaf_pg::{Access, PgError, Pool, Setting, Statement};
use tokio_postgres::Row;

/// The right to act for one tenant. Made by authentication, or by the system for a reason that it states.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantScope {
    tenant: TenantId,
}

impl TenantScope {
    /// The scope of a request whose key was checked and names this tenant.
    pub fn authenticated(tenant: TenantId) -> TenantScope {
        TenantScope { tenant }
    }

    /// The scope of work that no request asked for.
    pub fn system(tenant: TenantId, reason: &'static str) -> TenantScope {
        tracing::debug!(%tenant, reason, "the system acts for a tenant");
        TenantScope { tenant }
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Runs statements in one transaction in which row-level security shows this tenant and no other.
    pub async fn run(
        &self,
        pool: &Pool,
        access: Access,
        statements: &[Statement<'_>],
    ) -> Result<Vec<Vec<Row>>, PgError> {
        let client = pool.get().await?;
        sheaf_pg::run(&client, access, Some(&self.setting()), statements).await
    }

    /// The setting under which a transaction sees this tenant and no other.
    pub fn setting(&self) -> Setting<'static> {
        Setting {
            name: "sheaf.tenant_id",
            value: self.tenant.to_string(),
        }
    }

    /// Runs one statement alone in such a transaction.
    pub async fn run_one(
        &self,
        pool: &Pool,
        access: Access,
        statement: Statement<'_>,
    ) -> Result<Vec<Row>, PgError> {
        let mut rows = self.run(pool, access, &[statement]).await?;
        Ok(rows.pop().unwrap_or_default())
    }
}
