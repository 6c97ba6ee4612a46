//! Every way to the newest schema ends at the same schema, whatever happens on the way.

mod world;

use anyhow::{Context, Result, ensure};
use sheaf_store::invariants::{check, check_documents};
use sheaf_store::migrate::{self, MigrateError, newest_version, up, up_to};
use sheaf_testkit::{Injected, TestDatabase, wait_until};
use tokio_postgres::Client;

use world::World;

/// Everything that migrations have made in a database.
async fn catalogue(client: &Client) -> Result<Vec<String>> {
    let rows = client
        .query(include_str!("describe_catalogue.sql"), &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn untouched_catalogue() -> Result<Vec<String>> {
    let catalogue = catalogue(&TestDatabase::create().await?.superuser().await?).await?;
    ensure!(catalogue.len() > 300, "only {} lines", catalogue.len());
    Ok(catalogue)
}

/// Two catalogues are the same; else shows where they part.
fn assert_same(found: &[String], expected: &[String], whose: &str) {
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        let lacking = these.iter().filter(|line| !those.contains(line));
        lacking.cloned().collect()
    };
    let (more, less) = (without(found, expected), without(expected, found));
    assert!(
        more.is_empty() && less.is_empty(),
        "{whose}: more {more:#?}, less {less:#?}"
    );
}

#[tokio::test]
async fn the_comparison_of_catalogues_sees_each_kind_of_difference() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    let before = catalogue(&client).await?;
    for change in [
        "ALTER TABLE sheaf.entities ADD COLUMN further text",
        "ALTER TABLE sheaf.entities ALTER COLUMN created_at SET DEFAULT now()",
        "ALTER TABLE sheaf.entities DROP CONSTRAINT entities_entity_type",
        "ALTER TABLE sheaf.entity_jsonb RESET (fillfactor)",
        "ALTER TABLE sheaf.entities NO FORCE ROW LEVEL SECURITY",
        "CREATE INDEX further ON sheaf.entities (created_at)",
        "ALTER POLICY owner_all ON sheaf.entities TO sheaf_upkeep",
        "GRANT DELETE ON sheaf.entities TO sheaf_app",
        "GRANT UPDATE (name) ON sheaf.tenants TO sheaf_app",
        "GRANT EXECUTE ON FUNCTION sheaf.current_tenant() TO PUBLIC",
        "ALTER FUNCTION sheaf.current_tenant() VOLATILE",
        "ALTER FUNCTION sheaf.current_tenant() OWNER TO sheaf_app",
        "COMMENT ON COLUMN sheaf.entities.created_at IS 'Another.'",
        "COMMENT ON FUNCTION sheaf.current_tenant() IS NULL",
        "ALTER SEQUENCE sheaf.entity_number INCREMENT 2",
        "ALTER VIEW sheaf.entity_values_ts RESET (security_invoker)",
        "CREATE DOMAIN sheaf.further AS text",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA sheaf GRANT SELECT ON TABLES TO sheaf_app",
        "GRANT CREATE ON SCHEMA sheaf TO sheaf_app",
    ] {
        client.batch_execute(&format!("BEGIN; {change}")).await?;
        assert_ne!(catalogue(&client).await?, before, "{change}");
        client.batch_execute("ROLLBACK").await?;
    }
    assert_eq!(catalogue(&client).await?, before);
    Ok(())
}

#[tokio::test]
async fn two_migrators_at_once_both_succeed_and_one_of_them_migrates() -> Result<()> {
    let database = TestDatabase::create_empty().await?;
    let (mut one, mut other) = (database.superuser().await?, database.superuser().await?);
    let (one, other) = tokio::try_join!(up(&mut one), up(&mut other))?;
    let mut applied = [one.len(), other.len()];
    applied.sort_unstable();
    assert_eq!(applied, [0, usize::try_from(newest_version())?]);
    let client = database.superuser().await?;
    assert_same(
        &catalogue(&client).await?,
        &untouched_catalogue().await?,
        "two migrators",
    );
    Ok(())
}

/// Kills the connection that issues the k-th DDL statement after it was armed. The count is a sequence's, which no
/// rollback takes back.
const EXECUTIONER: &str = "
    CREATE SCHEMA executioner;
    CREATE SEQUENCE executioner.statements;
    CREATE TABLE executioner.orders (at_statement bigint NOT NULL);
    INSERT INTO executioner.orders VALUES (0);
    CREATE FUNCTION executioner.strike() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF nextval('executioner.statements') = (SELECT at_statement FROM executioner.orders) THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        END IF;
    END
    $$;
    CREATE EVENT TRIGGER strike ON ddl_command_start EXECUTE FUNCTION executioner.strike();";

#[tokio::test]
async fn a_migration_killed_at_any_statement_leaves_a_whole_version_and_can_be_run_again()
-> Result<()> {
    let killed = Injected::new("migrator killed at a statement");
    let expected = untouched_catalogue().await?;
    let database = TestDatabase::create_empty().await?;
    let executioner = database.superuser().await?;
    executioner.batch_execute(EXECUTIONER).await?;
    let reference = TestDatabase::create_empty().await?;
    for version in 1..=newest_version() {
        let before = whole_state(&executioner).await?;
        up_to(&mut reference.superuser().await?, Some(version)).await?;
        let after = whole_state(&reference.superuser().await?).await?;
        let mut at_statement = 0;
        loop {
            at_statement += 1;
            let arm = format!(
                "UPDATE executioner.orders SET at_statement = {at_statement};
                 SELECT setval('executioner.statements', 1, false)"
            );
            executioner.batch_execute(&arm).await?;
            let mut migrator = database.superuser().await?;
            let Err(error) = up_to(&mut migrator, Some(version)).await else {
                break;
            };
            require_killed(&migrator, &error).await;
            killed.count();
            let (reached, lines) = whole_state(&executioner).await?;
            let whole = if reached == after.0 { &after } else { &before };
            assert_eq!(reached, whole.0);
            let whose = format!("killed at statement {at_statement} of version {version}");
            assert_same(&lines, &whole.1, &whose);
        }
        assert!(at_statement > 5, "{at_statement} statements are too few");
        assert_eq!(whole_state(&executioner).await?.0, Some(version));
    }
    killed.require();
    assert_same(
        &catalogue(&executioner).await?,
        &expected,
        "a migration killed at every statement",
    );
    Ok(())
}

/// The version, and everything in the schema but the table of versions, which is there from the first run on.
async fn whole_state(client: &Client) -> Result<(Option<i32>, Vec<String>)> {
    let version = migrate::status(client).await?.version;
    let mut lines = catalogue(client).await?;
    lines.retain(|line| !line.contains("schema_version") && !line.starts_with("schema sheaf:"));
    Ok((version, lines))
}

/// The connection has ended, and so that is what went wrong.
async fn require_killed(migrator: &Client, error: &MigrateError) {
    let within = std::time::Duration::from_secs(10);
    let claim = format!("the migrator's connection ends after: {error:?}");
    wait_until(&claim, within, async || migrator.is_closed()).await;
}

#[tokio::test]
async fn a_database_of_each_version_with_rows_in_it_becomes_what_a_new_one_is() -> Result<()> {
    let expected = untouched_catalogue().await?;
    for version in 1..=newest_version() {
        let name = format!("v{version:04}.sql");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/fixtures");
        let fixture = std::fs::read_to_string(format!("{path}/{name}"))
            .with_context(|| format!("read {name}; examples/write_fixture.rs makes it"))?;
        let database = TestDatabase::create_empty().await?;
        database
            .superuser()
            .await?
            .batch_execute(&fixture)
            .await
            .with_context(|| format!("load {name}"))?;
        let mut client = database.superuser().await?;
        assert_eq!(migrate::status(&client).await?.version, Some(version));
        let applied = up(&mut client).await.with_context(|| {
            format!("migrate {name}; before a release, examples/write_fixture.rs makes it anew")
        })?;
        assert_eq!(applied.len(), usize::try_from(newest_version() - version)?);
        assert_same(&catalogue(&client).await?, &expected, &name);
        let upkeep = database.client("sheaf_upkeep").await?;
        assert_eq!(check(&upkeep).await?, Vec::new(), "{name}");
        let documents = check_documents(&upkeep, i64::MAX).await?;
        assert_eq!((documents.documents, documents.rows), (2, 4), "{name}");
        assert_eq!(documents.violations, Vec::new(), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_migrator_needs_to_create_roles_and_to_own_the_database_and_no_more() -> Result<()> {
    let database = TestDatabase::create_empty().await?;
    let (admin, name) = (database.superuser().await?, database.name().to_owned());
    let role = format!("migrator_of_{name}");
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN CREATEROLE; ALTER DATABASE {name} OWNER TO {role}"
        ))
        .await?;
    let mut migrator = database.client(&role).await?;
    up(&mut migrator).await?;
    assert_eq!(up(&mut migrator).await?, Vec::<String>::new());
    assert_same(
        &catalogue(&admin).await?,
        &untouched_catalogue().await?,
        "a migrator that is no superuser",
    );
    drop(migrator);
    admin
        .batch_execute(&format!(
            "ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        ))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_database_ahead_of_the_program_is_left_alone() -> Result<()> {
    let world = World::create().await?;
    let mut client = world.database.superuser().await?;
    let ahead = newest_version() + 1;
    client
        .batch_execute(&format!(
            "INSERT INTO sheaf.schema_version (version, name, applied_on, checksum)
             VALUES ({ahead}, 'later', '2099-01-01T00:00:00Z', '1')"
        ))
        .await?;
    let before = catalogue(&client).await?;
    let refused = up(&mut client).await;
    assert!(
        matches!(refused, Err(MigrateError::Newer { database, .. }) if database == ahead),
        "{refused:?}"
    );
    assert_eq!(catalogue(&client).await?, before);
    Ok(())
}
