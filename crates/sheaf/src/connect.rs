//! From settings, or from a private PostgreSQL, to connections of each role.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sheaf_config::{Database, DatabaseUrl, HostPort, Password, Roles, Settings};
use sheaf_pg::{Pool, Tls, check_role};
use sheaf_store::migrate;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config};

use crate::private_file;

/// The roles of the schema.
pub(crate) const APP: &str = "sheaf_app";
pub(crate) const SEARCH: &str = "sheaf_search";
pub(crate) const WRITER: &str = "sheaf_writer";
pub(crate) const UPKEEP: &str = "sheaf_upkeep";
pub(crate) const CDC: &str = "sheaf_cdc";
pub(crate) const OWNER: &str = "sheaf_owner";

/// Upkeep acts rarely and one thing at a time; the second connection is for a look while it does. An archive has two: one keeps a
/// restore away while the other detaches.
const UPKEEP_CONNECTIONS: usize = 4;

/// How to reach a database as each role.
pub(crate) struct Access {
    pub(crate) configs: Roles<Config>,
    /// Of the role that follows changes.
    pub(crate) cdc: Config,
    pub(crate) tls: Tls,
    pub(crate) connections: Roles<usize>,
}

impl Access {
    /// To the database of the settings. Reads the files that the settings name.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Access> {
        Access::to(&settings.database)
    }

    /// To this database.
    pub(crate) fn to(database: &Database) -> Result<Access> {
        let tls = match &database.ca_file {
            Some(path) => Tls::with_ca_file(path)?,
            None => Tls::none(),
        };
        let passwords = &database.passwords;
        let config = |role, password| config_of(database, role, password);
        Ok(Access {
            configs: Roles {
                app: config(APP, &passwords.app)?,
                search: config(SEARCH, &passwords.search)?,
                writer: config(WRITER, &passwords.writer)?,
                upkeep: config(UPKEEP, &passwords.upkeep)?,
            },
            cdc: config(CDC, &database.cdc_password)?,
            tls,
            connections: connections(database),
        })
    }

    /// To a private PostgreSQL over its socket, with the connections of the default settings.
    pub(crate) fn private(config: impl Fn(&str) -> Config, settings: &Settings) -> Access {
        Access {
            configs: Roles {
                app: config(APP),
                search: config(SEARCH),
                writer: config(WRITER),
                upkeep: config(UPKEEP),
            },
            cdc: config(CDC),
            tls: Tls::none(),
            connections: connections(&settings.database),
        }
    }

    /// The pools. They connect when first asked.
    pub(crate) fn pools(&self) -> Roles<Pool> {
        let (configs, connections) = (&self.configs, &self.connections);
        // What one of them finds of a promotion holds for all.
        let newest = Arc::default();
        let pool = |config, max| Pool::of_cluster(config, max, &self.tls, &newest);
        Roles {
            app: pool(&configs.app, connections.app),
            search: pool(&configs.search, connections.search),
            writer: pool(&configs.writer, connections.writer),
            upkeep: pool(&configs.upkeep, connections.upkeep),
        }
    }

    /// One connection as upkeep, for migrations.
    pub(crate) async fn upkeep(&self) -> Result<Client> {
        Ok(self.tls.connect(&self.configs.upkeep).await?)
    }

    /// Makes sure that the database has our schema and that the roles are who they should be. A server that was
    /// given the wrong role must not start: row-level security would not bind it.
    pub(crate) async fn require_sound(&self) -> Result<()> {
        for (role, config) in [
            (APP, &self.configs.app),
            (SEARCH, &self.configs.search),
            (WRITER, &self.configs.writer),
        ] {
            let client = self.tls.connect(config).await?;
            check_role(&client, role, OWNER).await?;
        }
        let status = migrate::status(&self.upkeep().await?).await?;
        if !status.pending.is_empty() {
            bail!(
                "the database lacks the migrations {}; run sheaf migrate up",
                status.pending.join(", ")
            );
        }
        Ok(())
    }
}

/// A connection to the database of the settings as another role, which the schema does not know: for the first
/// migration, which creates the roles.
pub(crate) fn config_as(
    database: &Database,
    role: &str,
    password_file: Option<&Path>,
) -> Result<Config> {
    let password = password_file.map(|path| Password::File(path.to_owned()));
    config_of(database, role, &password)
}

fn config_of(database: &Database, role: &str, password: &Option<Password>) -> Result<Config> {
    let DatabaseUrl { hosts, name } = &database.url;
    let mut config = Config::new();
    for HostPort { host, port } in hosts {
        config.host(host).port(*port);
    }
    if hosts.len() > 1 {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config.dbname(name).user(role);
    config.ssl_mode(match database.ca_file {
        Some(_) => SslMode::Require,
        None => SslMode::Disable,
    });
    if let Some(password) = password {
        let text = private_file::reveal(password)
            .with_context(|| format!("reading the password of {role}"))?;
        config.password(text);
    }
    Ok(config)
}

fn connections(database: &Database) -> Roles<usize> {
    Roles {
        app: database.app_connections,
        search: database.search_connections,
        writer: database.writer_connections,
        upkeep: UPKEEP_CONNECTIONS,
    }
}
