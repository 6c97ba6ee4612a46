//! A role can do what it was given and nothing else: asked of the database itself, of everything that it has.

mod world;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use sheaf_pg::{RoleFault, check_role};
use sheaf_store::TenantScope;
use sheaf_testkit::{Injected, TestDatabase};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use world::{World, begin_as, names, two_tenants};

/// Who may do what, beside the owner: each line is a decision. `UPDATE(..)` is of columns, `EXECUTE` of functions.
const GRANTED: &[(&str, &str, &[&str])] = &[
    (
        "sheaf_app",
        "SELECT",
        &[
            "entity_events_late",
            "entity_keyframes",
            "history_boundaries",
            "api_keys",
            "attributes",
            "change_sinks",
            "change_slots",
            "entities",
            "entity_events",
            "entity_index_decimal",
            "entity_index_float",
            "entity_index_int",
            "entity_index_text",
            "entity_index_time",
            "entity_jsonb",
            "entity_values_ts",
            "event_partitions",
            "iceberg_tables",
            "ingest_parts",
            "ingest_requests",
            "lake_positions",
            "rejections",
            "replication_heartbeat",
            "settings",
            "staged_batches",
            "staging_canary",
            "staging_epochs",
            "tenants",
        ],
    ),
    (
        "sheaf_app",
        "INSERT",
        &["api_keys", "attributes", "entities"],
    ),
    ("sheaf_app", "UPDATE(revoked_at)", &["api_keys"]),
    ("sheaf_app", "UPDATE(unit)", &["attributes"]),
    ("sheaf_app", "UPDATE(description)", &["attributes"]),
    ("sheaf_app", "UPDATE(schema)", &["attributes"]),
    ("sheaf_app", "UPDATE(pii)", &["attributes"]),
    ("sheaf_app", "UPDATE(pin)", &["attributes"]),
    ("sheaf_app", "UPDATE(temperature)", &["attributes"]),
    ("sheaf_app", "UPDATE(value_index)", &["attributes"]),
    ("sheaf_app", "UPDATE(series_tag)", &["attributes"]),
    ("sheaf_app", "UPDATE(retention_micros)", &["attributes"]),
    ("sheaf_app", "UPDATE(catalogue_version)", &["tenants"]),
    ("sheaf_app", "UPDATE(status)", &["rejections"]),
    ("sheaf_app", "UPDATE(external_id)", &["rejections"]),
    ("sheaf_app", "UPDATE(observed_at)", &["rejections"]),
    (
        "sheaf_app",
        "USAGE",
        &["attribute_number", "entity_number", "schema sheaf"],
    ),
    (
        "sheaf_app",
        "EXECUTE",
        &[
            "ask_for_dead_letters",
            "create_tenant",
            "current_tenant",
            "discard_dead_letters",
            "find_api_key",
            "find_dead_letter",
            "find_entities_by_attributes",
            "find_tenant",
            "lake_held_until",
            "list_attached_partitions",
            "list_dead_letter_actions",
            "list_dead_letters",
            "list_event_partitions",
            "list_tenants",
            "look_at_dead_letters",
            "read_entity",
            "staging_epoch",
            "update_tenant",
        ],
    ),
    (
        "sheaf_search",
        "SELECT",
        &[
            "entities",
            "entity_index_decimal",
            "entity_index_float",
            "entity_index_int",
            "entity_index_text",
            "entity_index_time",
            "entity_jsonb",
            "replication_heartbeat",
        ],
    ),
    ("sheaf_search", "USAGE", &["schema sheaf"]),
    (
        "sheaf_search",
        "EXECUTE",
        &["catalogue_version", "current_tenant"],
    ),
    (
        "sheaf_cdc",
        "SELECT",
        &[
            "entity_events_late",
            "entity_keyframes",
            "history_boundaries",
            "partition_archives",
            "attributes",
            "change_sinks",
            "change_slots",
            "dead_letter_actions",
            "dead_letters",
            "detached_partitions",
            "entities",
            "entity_events",
            "iceberg_namespace_properties",
            "iceberg_tables",
            "lake_corrections",
            "lake_positions",
            "lake_removals",
            "lake_repairs",
            "lake_retentions",
            "reconcile_runs",
            "reconciled_files",
            "reconciled_hours",
            "reconciled_ranges",
            "tenants",
        ],
    ),
    (
        "sheaf_cdc",
        "INSERT",
        &[
            "change_sinks",
            "change_slots",
            "dead_letter_actions",
            "dead_letters",
            "iceberg_namespace_properties",
            "iceberg_tables",
            "lake_corrections",
            "lake_positions",
            "lake_removals",
            "lake_repairs",
            "lake_retentions",
            "reconciled_files",
            "reconciled_hours",
            "reconciled_ranges",
        ],
    ),
    (
        "sheaf_cdc",
        "UPDATE",
        &[
            "change_sinks",
            "change_slots",
            "dead_letters",
            "iceberg_tables",
            "lake_positions",
            "lake_removals",
            "lake_repairs",
            "lake_retentions",
            "reconcile_runs",
            "reconciled_files",
            "reconciled_hours",
            "reconciled_ranges",
        ],
    ),
    (
        "sheaf_cdc",
        "DELETE",
        &[
            "change_sinks",
            "lake_corrections",
            "lake_repairs",
            "reconciled_files",
        ],
    ),
    ("sheaf_cdc", "USAGE", &["schema sheaf"]),
    (
        "sheaf_cdc",
        "EXECUTE",
        &[
            "require_archived_before",
            "commit_lake",
            "ensure_change_publication",
            "is_in_snapshot",
            "list_attached_partitions",
            "lock_every_bucket",
        ],
    ),
    ("sheaf_upkeep", "USAGE", &["schema sheaf"]),
    (
        "sheaf_writer",
        "SELECT",
        &[
            "entity_events_late",
            "history_boundaries",
            "attributes",
            "bucket_writers",
            "entity_events",
            "entity_jsonb",
            "event_partitions",
            "ingest_parts",
            "ingest_requests",
            "rejections",
            "settings",
            "staged_batches",
            "staging_canary",
            "staging_epochs",
            "tenants",
        ],
    ),
    (
        "sheaf_writer",
        "INSERT",
        &[
            "entity_events_late",
            "entity_jsonb",
            "entity_values_ingest",
            "ingest_parts",
            "ingest_requests",
            "rejections",
            "staged_batches",
            "a partition",
        ],
    ),
    ("sheaf_writer", "UPDATE", &["entity_jsonb"]),
    ("sheaf_writer", "UPDATE(written_by)", &["bucket_writers"]),
    ("sheaf_writer", "USAGE", &["schema sheaf"]),
    (
        "sheaf_writer",
        "EXECUTE",
        &[
            "confirm_staging",
            "current_tenant",
            "detect_staging_loss",
            "ensure_event_partition",
            "list_attached_partitions",
            "list_event_partitions",
            "put_index",
            "put_index_decimal",
            "put_index_float",
            "put_index_int",
            "put_index_text",
            "put_index_time",
            "stage_flush",
            "staging_epoch",
        ],
    ),
];

/// The grants as the database has them, in the same words.
const GRANTS: &str = "
    WITH granted AS (
        SELECT CASE WHEN c.relispartition THEN 'a partition' ELSE c.relname::text END AS object, c.relowner AS owner,
            g.grantee, g.privilege_type AS privilege
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) g WHERE c.relnamespace = 'sheaf'::regnamespace
        UNION ALL
        SELECT c.relname, c.relowner, g.grantee, format('%s(%s)', g.privilege_type, a.attname)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN LATERAL aclexplode(a.attacl) g
        WHERE c.relnamespace = 'sheaf'::regnamespace
        UNION ALL
        SELECT p.proname, p.proowner, g.grantee, g.privilege_type
        FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
        WHERE p.pronamespace = 'sheaf'::regnamespace
        UNION ALL
        SELECT 'schema sheaf', n.nspowner, g.grantee, g.privilege_type
        FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) g WHERE n.nspname = 'sheaf'
    )
    SELECT DISTINCT concat_ws(' ', coalesce(r.rolname, 'PUBLIC'), privilege, object)
    FROM granted LEFT JOIN pg_roles r ON r.oid = grantee WHERE grantee <> owner";

fn granted() -> BTreeSet<String> {
    let lines = GRANTED.iter().flat_map(|(role, privilege, objects)| {
        objects
            .iter()
            .map(move |object| format!("{role} {privilege} {object}"))
    });
    lines.collect()
}

#[tokio::test]
async fn roles_have_the_grants_that_were_decided_and_no_others() -> Result<()> {
    let (world, ..) = two_tenants().await?;
    let client = world.database.superuser().await?;
    let found: BTreeSet<String> = names(&client, GRANTS).await?.into_iter().collect();
    let decided = granted();
    let (more, less) = (found.difference(&decided), decided.difference(&found));
    let (more, less): (Vec<_>, Vec<_>) = (more.collect(), less.collect());
    assert!(
        more.is_empty() && less.is_empty(),
        "more {more:?}, less {less:?}"
    );
    let memberships =
        "SELECT member::regrole::text || ' in ' || roleid::regrole::text FROM pg_auth_members
        WHERE member::regrole::text LIKE 'sheaf%'";
    assert_eq!(
        names(&client, memberships).await?,
        ["sheaf_upkeep in sheaf_owner"]
    );
    let attributes = "SELECT rolname::text FROM pg_roles
        WHERE rolname IN ('sheaf_owner', 'sheaf_upkeep', 'sheaf_app', 'sheaf_search', 'sheaf_writer', 'sheaf_cdc')
            AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication <> (rolname = 'sheaf_cdc')
                OR rolcanlogin = (rolname = 'sheaf_owner'))";
    assert_eq!(names(&client, attributes).await?, Vec::<String>::new());
    Ok(())
}

/// Every relation of the schema with its kind, a column of it, and the name that grants know it by.
const RELATIONS: &str = "
    SELECT c.relname::text, c.relkind::text, (SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum = 1),
        CASE WHEN c.relispartition THEN 'a partition' ELSE c.relname::text END
    FROM pg_class c WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')";

#[tokio::test]
async fn what_is_not_granted_is_denied_on_every_table_partition_view_and_sequence() -> Result<()> {
    let (world, ours, ..) = two_tenants().await?;
    let admin = world.database.superuser().await?;
    let decided = granted();
    let (mut denied, mut partitions) = (0, 0);
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer", "sheaf_cdc"] {
        let client = world.database.client(role).await?;
        for row in admin.query(RELATIONS, &[]).await? {
            let (name, kind): (String, String) = (row.get(0), row.get(1));
            let (column, object): (String, String) = (row.get(2), row.get(3));
            partitions += usize::from(object == "a partition");
            for (privilege, statement) in attempts(&name, &kind, &column) {
                // UPDATE of any column is one of the grant's; LOCK is let through by UPDATE, DELETE and TRUNCATE.
                let is_granted = match privilege {
                    "LOCK" => ["UPDATE", "DELETE", "TRUNCATE"]
                        .iter()
                        .any(|privilege| decided.contains(&format!("{role} {privilege} {object}"))),
                    _ => decided.contains(&format!("{role} {privilege} {object}")),
                };
                begin_as(&client, &ours).await?;
                let outcome = client.execute(&statement, &[]).await;
                client.batch_execute("ROLLBACK").await?;
                let is_denied = outcome.as_ref().is_err_and(is_permission_denied);
                assert_eq!(is_denied, !is_granted, "{role}: {statement}: {outcome:?}");
                denied += usize::from(is_denied);
            }
        }
    }
    assert!(
        denied > 200 && partitions > 4,
        "{denied} denied, {partitions} partitions"
    );
    Ok(())
}

/// What could be tried on a relation, each with the privilege that it needs. Views here cannot be written at all.
fn attempts(name: &str, kind: &str, column: &str) -> Vec<(&'static str, String)> {
    let select = ("SELECT", format!("SELECT count(*) FROM sheaf.{name}"));
    match kind {
        "v" => vec![select],
        "S" => vec![
            select,
            ("SETVAL", format!("SELECT setval('sheaf.{name}', 1)")),
            ("USAGE", format!("SELECT nextval('sheaf.{name}')")),
        ],
        _ => vec![
            select,
            ("INSERT", format!("INSERT INTO sheaf.{name} DEFAULT VALUES")),
            (
                "UPDATE",
                format!("UPDATE sheaf.{name} SET {column} = DEFAULT"),
            ),
            ("DELETE", format!("DELETE FROM sheaf.{name}")),
            ("TRUNCATE", format!("TRUNCATE sheaf.{name} CASCADE")),
            (
                "LOCK",
                format!("LOCK sheaf.{name} IN ACCESS EXCLUSIVE MODE"),
            ),
            ("CREATE", format!("CREATE INDEX ON sheaf.{name} ({column})")),
        ],
    }
}

/// Refused for want of a right, and not by a policy, a constraint or a missing value.
fn is_permission_denied(error: &Error) -> bool {
    error.as_db_error().is_some_and(|answer| {
        let said = answer.message();
        *answer.code() == SqlState::INSUFFICIENT_PRIVILEGE
            && (said.starts_with("permission denied") || said.starts_with("must be owner"))
    })
}

#[tokio::test]
async fn functions_that_are_not_granted_cannot_be_called() -> Result<()> {
    let (world, ..) = two_tenants().await?;
    let admin = world.database.superuser().await?;
    // As in a database that was migrated itself: without it a function that is granted has not all that it needs.
    let name = world.database.name();
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO sheaf_owner"))
        .await?;
    let calls = "SELECT p.proname::text, format('SELECT sheaf.%I(%s)', p.proname,
            (SELECT string_agg(format('NULL::%s', t::regtype), ', ') FROM unnest(p.proargtypes) t))
        FROM pg_proc p WHERE p.pronamespace = 'sheaf'::regnamespace";
    let decided = granted();
    let mut denied = 0;
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer", "sheaf_cdc"] {
        let client = world.database.client(role).await?;
        for row in admin.query(calls, &[]).await? {
            let (name, call): (String, String) = (row.get(0), row.get(1));
            client.batch_execute("BEGIN").await?;
            let outcome = client.query(&call, &[]).await;
            client.batch_execute("ROLLBACK").await?;
            let is_granted = decided.contains(&format!("{role} EXECUTE {name}"));
            let is_denied = outcome.as_ref().is_err_and(is_permission_denied);
            assert_eq!(is_denied, !is_granted, "{role}: {call}: {outcome:?}");
            denied += usize::from(is_denied);
        }
    }
    assert!(denied > 10, "{denied}");
    Ok(())
}

#[tokio::test]
async fn no_role_can_become_another_or_make_anything_of_its_own() -> Result<()> {
    let (world, ours, ..) = two_tenants().await?;
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer", "sheaf_cdc"] {
        let client = world.database.client(role).await?;
        for statement in [
            "SET ROLE sheaf_owner",
            "SET ROLE sheaf_upkeep",
            "SET SESSION AUTHORIZATION sheaf_owner",
            "SET session_replication_role = replica",
            "CREATE TABLE sheaf.own ()",
            "CREATE FUNCTION sheaf.own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TABLE public.own ()",
            "CREATE SCHEMA own",
            "CREATE ROLE own",
            "ALTER TABLE sheaf.entities DISABLE ROW LEVEL SECURITY",
            "DROP POLICY tenant_only ON sheaf.entities",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
        ] {
            begin_as(&client, &ours).await?;
            let outcome = client.batch_execute(statement).await;
            client.batch_execute("ROLLBACK").await?;
            let error = outcome.expect_err(statement);
            assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{role}: {statement}: {error:?}"
            );
        }
    }
    let app = world.database.client("sheaf_app").await?;
    app.batch_execute("SET row_security = off").await?;
    let error = app
        .query("SELECT FROM sheaf.entities", &[])
        .await
        .expect_err("no way round");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    Ok(())
}

/// A trap in the temporary schema: types and tables named like those that the owner's functions use. Whoever looks one of
/// the types up there calls the trap, which says whom it runs as.
const TRAP: &str = r#"
    CREATE FUNCTION pg_temp.trap(value anyelement) RETURNS boolean LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'the trap runs as %', current_user; END $$;
    CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.trap(VALUE));
    CREATE DOMAIN pg_temp.timestamptz AS pg_catalog.timestamptz CHECK (pg_temp.trap(VALUE));
    CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (pg_temp.trap(VALUE));
    CREATE TEMP TABLE tenants AS SELECT 1 AS tenant_id, pg_catalog.name 'shadow' AS name;
    CREATE TEMP TABLE api_keys (key_id pg_catalog.text);
    CREATE TEMP TABLE pg_class AS SELECT * FROM pg_catalog.pg_class LIMIT 0;
    CREATE TEMP TABLE pg_inherits AS SELECT * FROM pg_catalog.pg_inherits LIMIT 0;"#;

/// What the server calls as each role, with an answer that does not depend on when.
const CALLS: &[(&str, &str)] = &[
    (
        "sheaf_app",
        "SELECT count(*) FROM sheaf.find_api_key((SELECT min(key_id) FROM sheaf.api_keys))",
    ),
    (
        "sheaf_app",
        "SELECT count(*) FROM sheaf.find_tenant('acme')",
    ),
    (
        "sheaf_app",
        "SELECT count(*) FROM sheaf.list_tenants('', 10)",
    ),
    (
        "sheaf_app",
        "SELECT count(sheaf.update_tenant(1, 'create', '1990-01-01Z', 1, NULL, '{}', -1))",
    ),
    (
        "sheaf_app",
        "SELECT count(sheaf.create_tenant('acme', 'create', '1990-01-01Z', 1, NULL, '{}', '2024-01-01Z'))",
    ),
    (
        "sheaf_app",
        "SELECT count(*) FROM sheaf.list_attached_partitions()",
    ),
    (
        "sheaf_writer",
        "SELECT count(*) FROM sheaf.ensure_event_partition('1995-05-05Z')",
    ),
    (
        "sheaf_writer",
        "SELECT count(*) FROM sheaf.list_event_partitions()",
    ),
    ("sheaf_writer", "SELECT count(*) FROM sheaf.stage_flush()"),
    (
        "sheaf_cdc",
        "SELECT count(*) FROM sheaf.lock_every_bucket()",
    ),
    (
        "sheaf_cdc",
        "SELECT count(*) FROM sheaf.ensure_change_publication()",
    ),
];

/// In a transaction that is rolled back, in a session of its own: plans are kept for one.
async fn call(
    world: &World,
    scope: &TenantScope,
    role: &str,
    before: &str,
    call: &str,
) -> Result<i64, Error> {
    let client = world.database.client(role).await.expect("it connects");
    begin_as(&client, scope).await.expect("it begins");
    client.batch_execute(before).await?;
    Ok(client.query_one(call, &[]).await?.get(0))
}

#[tokio::test]
async fn no_temporary_object_of_a_caller_stands_in_for_what_the_owners_functions_name() -> Result<()>
{
    let (world, ours, ..) = two_tenants().await?;
    let admin = world.database.superuser().await?;
    let name = world.database.name();
    let trapped = Injected::new("trap in the temporary schema");
    admin
        .batch_execute(&format!(
            "GRANT TEMPORARY ON DATABASE {name} TO PUBLIC; GRANT CREATE ON DATABASE {name} TO sheaf_owner"
        ))
        .await?;
    for (role, statement) in CALLS {
        let plain = call(&world, &ours, role, "", statement)
            .await
            .with_context(|| format!("{role}: {statement}"))?;
        let answer = call(&world, &ours, role, TRAP, statement)
            .await
            .with_context(|| format!("{role}: {statement}, with the trap"))?;
        assert_eq!(answer, plain, "{role}: {statement}");
        trapped.count();
    }
    // With the path that was set before, the trap runs as the owner.
    admin
        .batch_execute(
            "ALTER FUNCTION sheaf.list_attached_partitions() SET search_path = '';
             ALTER FUNCTION sheaf.ensure_event_partition(timestamptz) SET search_path = ''",
        )
        .await?;
    let (role, statement) = CALLS
        .iter()
        .find(|(_, statement)| statement.contains("ensure_event_partition"))
        .context("it is listed")?;
    let error = call(&world, &ours, role, TRAP, statement)
        .await
        .expect_err("the trap is met");
    let said = error
        .as_db_error()
        .map(|answer| answer.message().to_owned());
    assert_eq!(said.as_deref(), Some("the trap runs as sheaf_owner"));
    trapped.require();
    Ok(())
}

#[tokio::test]
async fn a_migrated_database_lets_no_role_of_ours_make_temporary_objects() -> Result<()> {
    // Rights on a database are its own, and no copy of a template has them.
    let database = TestDatabase::create_empty().await?;
    let mut admin = database.superuser().await?;
    let temporary = |role: &str| {
        format!("SELECT has_database_privilege('{role}', current_database(), 'TEMPORARY')")
    };
    sheaf_store::migrate::up_to(&mut admin, Some(6)).await?;
    assert!(
        admin
            .query_one(&temporary("sheaf_app"), &[])
            .await?
            .get::<_, bool>(0)
    );
    sheaf_store::migrate::up(&mut admin).await?;
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer", "sheaf_cdc"] {
        assert!(
            !admin
                .query_one(&temporary(role), &[])
                .await?
                .get::<_, bool>(0),
            "{role}"
        );
        let client = database.client(role).await?;
        let error = client
            .batch_execute("CREATE TEMP TABLE own ()")
            .await
            .expect_err(role);
        assert_eq!(
            error.code(),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{role}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_role_that_policies_do_not_bind_or_that_sees_the_past_may_not_serve() -> Result<()> {
    let world = World::create().await?;
    let admin = world.database.superuser().await?;
    let name = world.database.name();
    let (bypass, member) = (format!("bypass_of_{name}"), format!("member_of_{name}"));
    admin
        .batch_execute(&format!(
            "CREATE ROLE {bypass} LOGIN BYPASSRLS;
             CREATE ROLE {member} LOGIN NOINHERIT IN ROLE sheaf_upkeep"
        ))
        .await?;
    let fault = async |role: &str, expected: &str| {
        let client = world.database.client(role).await?;
        anyhow::Ok(check_role(&client, expected, "sheaf_owner").await)
    };
    for (role, said) in [
        (sheaf_pg::cluster::SUPERUSER, "a superuser"),
        (bypass.as_str(), "BYPASSRLS"),
        ("sheaf_upkeep", "a member of the tables' owner"),
        (member.as_str(), "a member of the tables' owner"),
    ] {
        // Also where it is the very role that the configuration names.
        for expected in [role, "sheaf_app"] {
            let outcome = fault(role, expected).await?;
            let is_unbound =
                matches!(&outcome, Err(RoleFault::Unbound { what, .. }) if *what == said);
            assert!(is_unbound, "{role}: {outcome:?}");
        }
    }
    let outcome = fault("sheaf_search", "sheaf_app").await?;
    assert!(
        matches!(outcome, Err(RoleFault::OtherRole { .. })),
        "{outcome:?}"
    );
    // Our roles have a level of their own, whatever the database's is.
    let plain = format!("plain_of_{name}");
    admin
        .batch_execute(&format!(
            "CREATE ROLE {plain} LOGIN; ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
        ))
        .await?;
    for role in ["sheaf_app", "sheaf_search", "sheaf_writer"] {
        assert!(fault(role, role).await?.is_ok(), "{role}");
    }
    let outcome = fault(&plain, &plain).await?;
    assert!(
        matches!(&outcome, Err(RoleFault::Isolation { level, .. }) if level == "repeatable read"),
        "{outcome:?}"
    );
    admin
        .batch_execute(&format!(
            "DROP ROLE {bypass}; DROP ROLE {member}; DROP ROLE {plain}"
        ))
        .await?;
    Ok(())
}
