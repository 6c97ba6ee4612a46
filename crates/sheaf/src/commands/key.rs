//! `sheaf key`, and what other commands need of keys.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sheaf_config::Roles;
use sheaf_model::{KeyId, TenantId, Timestamp};
use sheaf_pg::Pool;
use sheaf_store::TenantScope;
use sheaf_store::keys::{self, ApiKey, KeyOwner, KeyScope};
use sheaf_store::tenants;

use crate::cli::KeyCommand;
use crate::commands::settings;
use crate::exit::{Stop, say};

/// What a tenant's first key may do.
pub(super) const EVERYTHING: [KeyScope; 2] = [KeyScope::Read, KeyScope::Write];

pub(super) async fn run(command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Create {
            tenant,
            admin: _,
            scope,
            target,
        } => {
            let scopes = scope
                .iter()
                .map(|text| scope_of(text))
                .collect::<Result<Vec<_>>>()?;
            let pools = settings::access(&target)?.pools();
            let answer = match tenant {
                None => {
                    let key = ApiKey::generate();
                    keys::insert_admin_key(&pools.upkeep, &key, Timestamp::now()).await?;
                    json!({"id": key.id().as_str(), "key": key.reveal()})
                }
                Some(name) => {
                    let tenant = tenants::fetch_tenant(&pools.app, &name)
                        .await?
                        .ok_or_else(|| Stop::NotFound(format!("there is no tenant {name:?}")))?;
                    create(&pools.app, tenant.tenant, &scopes).await?
                }
            };
            Ok(say(&answer.to_string())?)
        }
        KeyCommand::Revoke { key_id, target } => {
            let id: KeyId = key_id
                .parse()
                .with_context(|| Stop::Usage(format!("{key_id:?} is no id of a key")))?;
            revoke(&settings::access(&target)?.pools(), &id).await
        }
    }
}

/// Creates a key of a tenant, in the form that is shown.
pub(super) async fn create(app: &Pool, tenant: TenantId, scopes: &[KeyScope]) -> Result<Value> {
    let key = ApiKey::generate();
    store(app, tenant, scopes, &key).await?;
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    Ok(json!({"id": key.id().as_str(), "key": key.reveal(), "scopes": names}))
}

/// Stores a key of a tenant.
pub(super) async fn store(
    app: &Pool,
    tenant: TenantId,
    scopes: &[KeyScope],
    key: &ApiKey,
) -> Result<()> {
    let scope = TenantScope::system(tenant, "a key is created from the command line");
    keys::insert_key(app, &scope, key, scopes, Timestamp::now(), None).await?;
    Ok(())
}

async fn revoke(pools: &Roles<Pool>, id: &KeyId) -> Result<()> {
    let not_found = || Stop::NotFound(format!("there is no key {id}"));
    let stored = keys::fetch_key(&pools.app, id).await?;
    let at = Timestamp::now();
    let is_revoked = match stored.ok_or_else(not_found)?.owner {
        KeyOwner::Admin => keys::revoke_admin_key(&pools.upkeep, id, at).await?,
        KeyOwner::Tenant { tenant, .. } => {
            let scope = TenantScope::system(tenant, "a key is revoked from the command line");
            keys::revoke_key(&pools.app, &scope, id, at).await?
        }
    };
    if is_revoked {
        Ok(say(
            &json!({"id": id.as_str(), "revoked": true}).to_string()
        )?)
    } else {
        Err(not_found().into())
    }
}

fn scope_of(text: &str) -> Result<KeyScope> {
    KeyScope::parse(text)
        .ok_or_else(|| Stop::Usage(format!("{text:?} is no scope; they are read and write")).into())
}
