//! Bringing a database to the schema that this program was built for, and telling how far it is.
//!
//! Each migration runs in one transaction with its row in the version table, so that a migrator killed at any
//! statement leaves the database at a whole version. An advisory lock admits one migrator at a time.

use tokio_postgres::Client;

use sheaf_pg::PgError;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Why the schema could not be brought or read.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// PostgreSQL failed outside a migration.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// A migration failed; the database is at the version before it.
    #[error("running the migrations")]
    Migration(#[source] Box<refinery::Error>),
    /// The database is ahead of this program.
    #[error(
        "the database has schema version {database}, this program knows versions up to {program}"
    )]
    Newer {
        /// The version in the database.
        database: i32,
        /// The last version that this program has.
        program: i32,
    },
}

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The version in the database; absent where no migration has run.
    pub version: Option<i32>,
    /// What this program would still run, in order.
    pub pending: Vec<String>,
}

const VERSION_TABLE: &str = "sheaf.schema_version";
const CREATE_ROLES: &str = include_str!("../sql/migrate/create_roles.sql");
const CREATE_SCHEMA: &str = include_str!("../sql/migrate/create_schema.sql");
const DESCRIBE_VERSIONS: &str = include_str!("../sql/migrate/describe_versions.sql");
const LOCK: &str = "SELECT pg_advisory_lock(24239, -2)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(24239, -2)";

/// Runs what is missing, on a direct connection of its own (an advisory lock of a session does not survive a pooler).
/// Gives back the names of the migrations that ran.
pub async fn up(client: &mut Client) -> Result<Vec<String>, MigrateError> {
    up_to(client, None).await
}

/// The same up to a version, for tests of upgrades.
pub async fn up_to(client: &mut Client, version: Option<i32>) -> Result<Vec<String>, MigrateError> {
    execute(client, "waiting for other migrators", LOCK).await?;
    let outcome = up_locked(client, version).await;
    let reset = execute(client, "letting other migrators in", "RESET ROLE").await;
    let unlocked = execute(client, "letting other migrators in", UNLOCK).await;
    // What went wrong first is the cause of what followed.
    let applied = outcome?;
    reset.and(unlocked)?;
    Ok(applied)
}

async fn up_locked(client: &mut Client, version: Option<i32>) -> Result<Vec<String>, MigrateError> {
    refuse_newer(applied(client).await?)?;
    execute(client, "creating the roles", CREATE_ROLES).await?;
    execute(client, "becoming the owner", "SET ROLE sheaf_owner").await?;
    execute(client, "creating the schema", CREATE_SCHEMA).await?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(VERSION_TABLE);
    if let Some(version) = version {
        runner = runner.set_target(refinery::Target::Version(version));
    }
    let report = runner
        .run_async(client)
        .await
        .map_err(|source| MigrateError::Migration(Box::new(source)))?;
    execute(client, "describing the version table", DESCRIBE_VERSIONS).await?;
    Ok(report
        .applied_migrations()
        .iter()
        .map(ToString::to_string)
        .collect())
}

/// Where the database is, without changing it.
pub async fn status(client: &Client) -> Result<SchemaStatus, MigrateError> {
    let version = applied(client).await?;
    refuse_newer(version)?;
    let pending = embedded::migrations::runner()
        .get_migrations()
        .iter()
        .filter(|migration| version.is_none_or(|version| migration.version() > version))
        .map(ToString::to_string)
        .collect();
    Ok(SchemaStatus { version, pending })
}

/// The last version that this program has.
pub fn newest_version() -> i32 {
    let migrations = embedded::migrations::runner();
    migrations
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max()
        .unwrap_or(0)
}

fn refuse_newer(version: Option<i32>) -> Result<(), MigrateError> {
    match version {
        Some(database) if database > newest_version() => Err(MigrateError::Newer {
            database,
            program: newest_version(),
        }),
        Some(_) | None => Ok(()),
    }
}

async fn applied(client: &Client) -> Result<Option<i32>, MigrateError> {
    let step = PgError::statement("reading the schema version");
    let there = client
        .query_typed(
            "SELECT to_regclass('sheaf.schema_version') IS NOT NULL",
            &[],
        )
        .await
        .map_err(&step)?;
    if !there.first().is_some_and(|row| row.get::<_, bool>(0)) {
        return Ok(None);
    }
    let rows = client
        .query_typed("SELECT max(version)::int4 FROM sheaf.schema_version", &[])
        .await
        .map_err(&step)?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

async fn execute(client: &Client, step: &'static str, sql: &str) -> Result<(), PgError> {
    client
        .batch_execute(sql)
        .await
        .map_err(PgError::statement(step))
}
