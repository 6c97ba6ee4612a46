//! `sheaf tenant`.

use anyhow::{Context, Result};
use serde_json::json;
use sheaf_model::{Name, Timestamp};
use sheaf_store::tenants::{self, TenantPolicy};

use crate::cli::TenantCommand;
use crate::commands::{key, settings};
use crate::exit::{Stop, say};

pub(super) async fn run(command: TenantCommand) -> Result<()> {
    let TenantCommand::Create { name, target } = command;
    let name = Name::parse(&name).with_context(|| Stop::Usage(format!("{name:?} is no name")))?;
    let pools = settings::access(&target)?.pools();
    let now = Timestamp::now();
    let created = tenants::create_tenant(&pools.app, &name, &TenantPolicy::default(), now).await?;
    let Some(tenant) = created else {
        return Err(Stop::Exists(format!("there is a tenant {:?} already", name.as_str())).into());
    };
    let key = key::create(&pools.app, tenant, &key::EVERYTHING).await?;
    let answer = json!({"name": name.as_str(), "created_at": now.to_string(), "key": key});
    Ok(say(&answer.to_string())?)
}
