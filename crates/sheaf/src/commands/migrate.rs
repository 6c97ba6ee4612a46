//! `sheaf migrate`: the schema of an existing database.

use anyhow::Result;
use serde_json::json;
use sheaf_store::migrate;

use crate::cli::MigrateCommand;
use crate::commands::settings;
use crate::connect::{Access, config_as};
use crate::exit::say;

pub(super) async fn run(command: MigrateCommand) -> Result<()> {
    match command {
        MigrateCommand::Status { config } => {
            let access = Access::from_settings(&settings::load(&config)?.0)?;
            let status = migrate::status(&access.upkeep().await?).await?;
            let newest = migrate::newest_version();
            let answer =
                json!({"version": status.version, "newest": newest, "pending": status.pending});
            say(&answer.to_string())?;
        }
        MigrateCommand::Up {
            config,
            role,
            password_file,
        } => {
            let (settings, _) = settings::load(&config)?;
            let access = Access::from_settings(&settings)?;
            let mut client = match role {
                Some(role) => {
                    let config = config_as(&settings.database, &role, password_file.as_deref())?;
                    access.tls.connect(&config).await?
                }
                None => access.upkeep().await?,
            };
            let applied = migrate::up(&mut client).await?;
            let answer = json!({"version": migrate::newest_version(), "applied": applied});
            say(&answer.to_string())?;
        }
    }
    Ok(())
}
