//! What must always hold is found to hold, and each way of breaking it is found.

mod world;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use sheaf_store::invariants::{
    ALL, DOCUMENTS_ARE_THE_FOLD, Invariant, Violation, check, check_documents,
};
use tokio_postgres::Client;

use world::{World, event, ingest};

fn texts(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn nothing_is_found_in_a_database_that_servers_wrote() -> Result<()> {
    let world = World::create().await?;
    for name in ["acme", "zenith"] {
        world.furnished_tenant(name).await?;
    }
    let upkeep = world.database.client("sheaf_upkeep").await?;
    assert_eq!(texts(&check(&upkeep).await?), Vec::<String>::new());
    let documents = check_documents(&upkeep, i64::MAX).await?;
    assert_eq!(texts(&documents.violations), Vec::<String>::new());
    let stored = world
        .count("SELECT count(*) FROM sheaf.entity_jsonb")
        .await?;
    assert!(stored >= 10, "{stored} documents");
    assert_eq!(i64::try_from(documents.documents)?, stored);
    let rows = world
        .count(
            "SELECT (SELECT count(*) FROM sheaf.entity_events e WHERE NOT EXISTS (
                    SELECT FROM sheaf.entity_keyframes k WHERE k.entity_id = e.entity_id AND k.at > e.observed_at))
                + (SELECT count(*) FROM sheaf.entity_events_late)",
        )
        .await?;
    assert_eq!(
        i64::try_from(documents.rows)?,
        rows,
        "after the keyframes, and late ones"
    );
    let some = check_documents(&upkeep, 2).await?;
    assert_eq!((some.documents, some.violations.len()), (4, 0));
    Ok(())
}

#[test]
fn every_file_is_an_invariant_and_every_invariant_has_its_own_name() -> Result<()> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/invariants");
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        files.extend(name.strip_suffix(".sql").map(str::to_owned));
    }
    let names: BTreeSet<String> = ALL.iter().map(|known| known.name.to_owned()).collect();
    assert_eq!(names, files);
    assert_eq!(names.len(), ALL.len());
    Ok(())
}

/// Each way of breaking an invariant, and what its counterexample must say. Done by a superuser in a transaction that
/// is rolled back.
const BREAKS: &[(&str, &str, &str)] = &[
    (
        "reader_sees_every_tenant",
        "SET LOCAL ROLE sheaf_app",
        "role sheaf_app is not the owner",
    ),
    (
        "tenant_tables_are_guarded",
        "CREATE TABLE sheaf.notes (tenant_id bigint NOT NULL)",
        "table notes does not force row-level security",
    ),
    (
        "tenant_tables_are_guarded",
        "CREATE TABLE sheaf.notes (note text)",
        "table notes has no column tenant_id",
    ),
    (
        "tenant_tables_are_guarded",
        "ALTER TABLE sheaf.admin_keys ADD COLUMN tenant_id bigint NOT NULL DEFAULT 1",
        "table admin_keys is listed as shared",
    ),
    (
        "tenant_tables_are_guarded",
        "ALTER TABLE sheaf.entities NO FORCE ROW LEVEL SECURITY",
        "table entities does not force",
    ),
    (
        "tenant_tables_are_guarded",
        "DROP POLICY tenant_only ON sheaf.entity_events",
        "table entity_events has no policy",
    ),
    (
        "tenant_tables_are_guarded",
        "CREATE POLICY more ON sheaf.rejections FOR SELECT USING (true)",
        "policy more of table rejections",
    ),
    (
        "tenant_tables_are_guarded",
        "ALTER POLICY tenant_only ON sheaf.attributes WITH CHECK (true)",
        "policy tenant_only of table attributes",
    ),
    (
        "tenant_tables_are_guarded",
        "CREATE UNIQUE INDEX one_name ON sheaf.entities (external_id, tenant_id)",
        "unique index sheaf.one_name of table entities",
    ),
    (
        "tenant_tables_are_guarded",
        "CREATE UNIQUE INDEX one_hash ON sheaf.entities ((entity_id || 'x'))",
        "unique index sheaf.one_hash of table entities",
    ),
    (
        "partitions_are_closed",
        "GRANT SELECT ON ALL TABLES IN SCHEMA sheaf TO sheaf_app",
        "grants SELECT to sheaf_app",
    ),
    (
        "partitions_are_closed",
        "GRANT UPDATE (attrs) ON sheaf.entity_events_20240101_20250101 TO PUBLIC",
        "grants UPDATE of column attrs to PUBLIC",
    ),
    (
        "partitions_are_closed",
        "REVOKE INSERT ON sheaf.entity_events_20240101_20250101 FROM sheaf_writer",
        "does not let sheaf_writer insert",
    ),
    (
        "partitions_are_closed",
        "ALTER TABLE sheaf.entity_events_20240101_20250101 ENABLE ROW LEVEL SECURITY",
        "has row-level security",
    ),
    (
        "everything_is_described",
        "COMMENT ON TABLE sheaf.entities IS NULL",
        "table sheaf.entities has no comment",
    ),
    (
        "everything_is_described",
        "COMMENT ON COLUMN sheaf.entity_values_ts.removed IS NULL",
        "column removed of view sheaf.entity_values_ts has no comment",
    ),
    (
        "everything_is_described",
        "COMMENT ON FUNCTION sheaf.current_tenant() IS NULL",
        "function sheaf.current_tenant() has no comment",
    ),
    (
        "everything_is_described",
        "CREATE SEQUENCE sheaf.further",
        "sequence sheaf.further has no comment",
    ),
    (
        "views_run_as_their_reader",
        "ALTER VIEW sheaf.entity_values_ts RESET (security_invoker)",
        "view entity_values_ts",
    ),
    (
        "views_run_as_their_reader",
        "CREATE MATERIALIZED VIEW sheaf.copied AS SELECT * FROM sheaf.entities",
        "view copied",
    ),
    (
        "functions_are_closed",
        "CREATE FUNCTION sheaf.further() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function sheaf.further() may be called by PUBLIC",
    ),
    (
        "functions_are_closed",
        "ALTER FUNCTION sheaf.find_tenant(text) RESET search_path",
        "function sheaf.find_tenant(text) runs as its owner",
    ),
    (
        "functions_are_closed",
        // The temporary schema comes first where it is not named.
        "ALTER FUNCTION sheaf.find_tenant(text) SET search_path = pg_catalog",
        "function sheaf.find_tenant(text) runs as its owner",
    ),
    (
        "functions_are_closed",
        "ALTER FUNCTION sheaf.list_attached_partitions() SET search_path = ''",
        "function sheaf.list_attached_partitions() has another search path",
    ),
    (
        "functions_are_closed",
        "ALTER FUNCTION sheaf.current_tenant() OWNER TO sheaf_app",
        "function sheaf.current_tenant() belongs to sheaf_app",
    ),
    (
        "events_have_entities",
        "UPDATE sheaf.entity_events SET entity_id = -5 WHERE entity_id = (SELECT min(entity_id) FROM sheaf.entity_events)",
        "event of entity -5",
    ),
    (
        "events_have_entities",
        "UPDATE sheaf.entity_events SET tenant_id = tenant_id + 1 WHERE entity_id = (SELECT min(entity_id) FROM sheaf.entity_events)",
        "tenant 2: event of entity 1",
    ),
    (
        "documents_have_entities",
        "SET LOCAL session_replication_role = replica; DELETE FROM sheaf.entities WHERE external_id = 'one'",
        "which has no name",
    ),
    (
        "events_hold_typed_values",
        "UPDATE sheaf.entity_events SET attrs = attrs || '{\"999999\":1}' WHERE op = 'c'",
        "has number for attribute 999999 (not of this tenant)",
    ),
    (
        "events_hold_typed_values",
        "UPDATE sheaf.entity_events e SET attrs = jsonb_build_object(a.attribute_id::text, true) FROM sheaf.attributes a
         WHERE a.tenant_id <> e.tenant_id AND a.type = 'bool'",
        "has boolean for attribute",
    ),
    (
        "documents_hold_typed_values",
        "UPDATE sheaf.entity_jsonb d SET hot_attrs = hot_attrs || '{\"x\":1}'",
        "has number for attribute x (not of this tenant)",
    ),
    (
        "documents_keep_values_in_place",
        "UPDATE sheaf.entity_jsonb SET hot_attrs = '{}', cold_attrs = hot_attrs || cold_attrs",
        "which is hot, in the cold part",
    ),
    (
        "documents_keep_values_in_place",
        "UPDATE sheaf.entity_jsonb SET cold_attrs = '{}', hot_attrs = hot_attrs || cold_attrs",
        "which is cold, in the hot part",
    ),
    (
        "documents_list_their_attributes",
        "UPDATE sheaf.entity_jsonb SET present = present[2:] WHERE cardinality(present) > 1",
        "lists attributes",
    ),
    (
        "documents_list_their_attributes",
        "UPDATE sheaf.entity_jsonb SET cold_attrs = cold_attrs || hot_attrs WHERE hot_attrs <> '{}'",
        "lists attributes",
    ),
    (
        "value_indexes_hold_documents_values",
        "UPDATE sheaf.entity_index_int SET value = value + 1",
        "holds 4 for entity 3, its document 3",
    ),
    (
        "value_indexes_hold_documents_values",
        "DELETE FROM sheaf.entity_index_text",
        "holds nothing for entity",
    ),
    (
        "value_indexes_hold_documents_values",
        "UPDATE sheaf.entity_index_decimal SET entity_id = entity_id + 1000",
        "its document nothing",
    ),
    (
        "value_indexes_hold_documents_values",
        "UPDATE sheaf.attributes SET value_index = 'none' WHERE type = 'float'",
        "for entity",
    ),
    (
        "value_indexes_hold_documents_values",
        "UPDATE sheaf.entity_index_time SET value = value + interval '1 microsecond'",
        "2024-02-29T12:00:00.000001Z",
    ),
    (
        "requests_add_up",
        "UPDATE sheaf.ingest_parts SET accepted = accepted + 1",
        "is stored with",
    ),
    (
        "requests_add_up",
        "UPDATE sheaf.ingest_requests SET refused = 0 WHERE outcome = 'all_refused'",
        "is all_refused with 1 events, 0 refused",
    ),
    (
        "requests_add_up",
        "UPDATE sheaf.ingest_requests SET outcome = 'batch_refused' WHERE outcome IN ('stored', 'stored_in_parts') AND refused = 0",
        "in 1 parts",
    ),
    (
        "requests_add_up",
        // A part that is missing leaves room for its events, and not for more.
        "UPDATE sheaf.ingest_requests r SET buckets = buckets || 9999 WHERE buckets IS NOT NULL AND outcome IN ('stored', 'stored_in_parts')",
        "1 buckets missing",
    ),
    (
        "parts_divide_buckets",
        "INSERT INTO sheaf.ingest_parts SELECT tenant_id, request_key, -bucket - 1, value_count, accepted, duplicates, merged,
             corrected, refused, (-bucket - 1) || buckets FROM sheaf.ingest_parts",
        "in 2 parts",
    ),
    (
        "parts_divide_buckets",
        "UPDATE sheaf.ingest_parts SET buckets = buckets || 9999",
        "9999}, and events in",
    ),
    (
        "parts_divide_buckets",
        "UPDATE sheaf.ingest_parts SET bucket = bucket + 1",
        "has a part",
    ),
    (
        "parts_have_requests",
        "UPDATE sheaf.ingest_parts SET request_key = 'k:' || request_key",
        "and is not in the ledger",
    ),
    (
        "events_are_in_the_ledger",
        "DELETE FROM sheaf.ingest_requests; UPDATE sheaf.ingest_parts SET merged = merged + 1",
        "by the parts of none",
    ),
    (
        "staged_batches_are_whole",
        "DELETE FROM sheaf.entity_values_ingest",
        "has 0 staged events, and was registered with 1",
    ),
    (
        "staged_batches_are_whole",
        "DELETE FROM sheaf.staged_batches",
        "has 1 staged events, and was registered with none",
    ),
    (
        "events_are_in_the_ledger",
        "DELETE FROM sheaf.entity_events WHERE op = 'c'",
        "rows, and",
    ),
    (
        "events_are_in_the_ledger",
        "UPDATE sheaf.entity_events SET batch_id = gen_random_uuid() WHERE op = 'c'",
        "rows are of no request",
    ),
];

#[tokio::test]
async fn each_way_of_breaking_an_invariant_is_found_by_it() -> Result<()> {
    let world = World::create().await?;
    for name in ["acme", "zenith"] {
        world.furnished_tenant(name).await?;
    }
    let client = world.database.superuser().await?;
    let mut broken = BTreeSet::new();
    for (name, break_it, said) in BREAKS {
        let invariant = ALL
            .iter()
            .find(|known| known.name == *name)
            .context("a known name")?;
        let found = break_and_check(&client, invariant, break_it)
            .await
            .with_context(|| format!("{name}: {break_it}"))?;
        assert!(
            found.iter().any(|text| text.contains(said)),
            "{name} finds {found:?} after {break_it}"
        );
        broken.insert(*name);
    }
    let names: BTreeSet<&str> = ALL.iter().map(|known| known.name).collect();
    assert_eq!(broken, names, "every invariant is broken at least once");
    Ok(())
}

async fn break_and_check(
    client: &Client,
    invariant: &Invariant,
    break_it: &str,
) -> Result<Vec<String>> {
    client.batch_execute("BEGIN").await?;
    client.batch_execute(break_it).await?;
    let found = invariant.check(client).await?;
    client.batch_execute("ROLLBACK").await?;
    Ok(texts(&found))
}

/// A join of values and attributes by anything else took minutes for a tenant of ten thousand attributes.
#[tokio::test]
async fn values_meet_their_attributes_in_a_hash_join_whatever_the_statistics_say() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let client = world.database.superuser().await?;
    let line = [event("one", "2024-05-05T00:00:00Z", r#"{"a":1}"#)];
    // Statistics of nothing, of one attribute, and of ten thousand.
    let attributes =
        "INSERT INTO sheaf.attributes (tenant_id, name, type, origin, temperature, created_at)
        SELECT tenant_id, 'further' || n, 'float', 'inferred', 'cold', now()
        FROM sheaf.tenants, generate_series(1, 10000) n";
    for (grows, tells) in [
        ("", ""),
        (
            "",
            "ANALYZE sheaf.attributes, sheaf.entity_events, sheaf.entity_jsonb",
        ),
        (attributes, ""),
        ("", "ANALYZE sheaf.attributes"),
    ] {
        ingest(&writer, &scope, &line).await?;
        client.batch_execute(grows).await?;
        client.batch_execute(tells).await?;
        for name in [
            "events_hold_typed_values",
            "documents_hold_typed_values",
            "documents_keep_values_in_place",
        ] {
            let invariant = ALL.iter().find(|known| known.name == name);
            let sql = invariant.context("a known name")?.sql;
            let plan = world::names(&client, &format!("EXPLAIN {sql}")).await?;
            assert!(
                plan.iter()
                    .any(|line| line.contains("Hash") && line.contains("Join")),
                "{name} after {grows} {tells}: {plan:#?}"
            );
        }
    }
    Ok(())
}

/// What a crash, an error or a loss may leave behind for good is no counterexample.
#[tokio::test]
async fn what_is_unfinished_or_lost_is_not_taken_for_broken() -> Result<()> {
    let world = World::create().await?;
    for name in ["acme", "zenith"] {
        world.furnished_tenant(name).await?;
    }
    let client = world.database.superuser().await?;
    for (what, happens) in [
        (
            "requests whose parts were never written",
            "CREATE TEMP TABLE gone ON COMMIT DROP AS SELECT tenant_id, batch_id FROM sheaf.ingest_requests WHERE buckets <> '{}';
             DELETE FROM sheaf.ingest_parts p USING sheaf.ingest_requests r, gone g
                 WHERE r.tenant_id = g.tenant_id AND r.batch_id = g.batch_id
                     AND p.tenant_id = r.tenant_id AND p.request_key = r.request_key;
             DELETE FROM sheaf.entity_events e USING gone g WHERE g.tenant_id = e.tenant_id AND g.batch_id = e.batch_id",
        ),
        (
            "parts without a key whose request was never opened",
            "DELETE FROM sheaf.ingest_requests WHERE buckets <> '{}'",
        ),
        (
            "requests that the ledger has forgotten",
            "UPDATE sheaf.entity_events SET ingested_at = ingested_at - interval '2 hours';
             DELETE FROM sheaf.ingest_parts; DELETE FROM sheaf.ingest_requests",
        ),
        (
            "staged events that a recovery has taken",
            "TRUNCATE sheaf.entity_values_ingest, sheaf.staging_canary",
        ),
        (
            "a loss that was found",
            "TRUNCATE sheaf.entity_values_ingest, sheaf.staging_canary; SELECT sheaf.detect_staging_loss()",
        ),
    ] {
        client
            .batch_execute(&format!("BEGIN; {happens}"))
            .await
            .context(what)?;
        assert_eq!(texts(&check(&client).await?), Vec::<String>::new(), "{what}");
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_document_that_is_not_the_fold_of_its_events_is_found() -> Result<()> {
    for (break_it, said) in [
        (
            "UPDATE sheaf.entity_jsonb SET newest = newest + interval '1 microsecond'",
            "has newest",
        ),
        (
            "UPDATE sheaf.entity_jsonb SET floor_at = newest WHERE floor_at IS NULL",
            "has floor",
        ),
        (
            "UPDATE sheaf.entity_jsonb SET deleted = NOT deleted",
            "has deleted",
        ),
        (
            "UPDATE sheaf.entity_jsonb SET times = '{}'",
            "has a value of",
        ),
        (
            "UPDATE sheaf.entity_jsonb d SET hot_attrs = hot_attrs || jsonb_build_object(a.attribute_id::text, 12345)
             FROM sheaf.attributes a WHERE a.tenant_id = d.tenant_id AND a.name = 'a_int' AND NOT d.deleted",
            "for attribute",
        ),
        (
            "UPDATE sheaf.entity_jsonb d SET hot_attrs = '{\"77777\":1}'",
            "holds attribute 77777, which its tenant lacks",
        ),
        (
            "UPDATE sheaf.entity_events d SET attrs = '{\"77777\":1}'",
            "holds attribute 77777, which its tenant lacks",
        ),
        (
            "UPDATE sheaf.entity_jsonb d SET hot_attrs = '{\"seven\":1}'",
            "unreadable seven",
        ),
        ("DELETE FROM sheaf.entity_jsonb", "has events and no document"),
        (
            "DELETE FROM sheaf.entity_events; DELETE FROM sheaf.entity_events_late; DELETE FROM sheaf.entity_keyframes",
            "has a document and no events",
        ),
        (
            "UPDATE sheaf.entity_keyframes SET newest = '2030-01-01Z'",
            "by its events",
        ),
        (
            "DELETE FROM sheaf.entity_events WHERE op = 'c'",
            "by its events",
        ),
    ] {
        let world = World::create().await?;
        world.furnished_tenant("acme").await?;
        let client = world.database.superuser().await?;
        client.batch_execute(break_it).await?;
        let upkeep = world.database.client("sheaf_upkeep").await?;
        let found = check_documents(&upkeep, i64::MAX).await?.violations;
        assert!(
            found
                .iter()
                .any(|violation| violation.invariant == DOCUMENTS_ARE_THE_FOLD
                    && violation.counterexample.contains(said)),
            "after {break_it}: {:?}",
            texts(&found)
        );
    }
    Ok(())
}

#[tokio::test]
async fn documents_are_compared_page_by_page_and_none_is_passed_over() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    let writer = world.writer().await?;
    let lines: Vec<String> = (1..=450)
        .map(|n| event(&format!("e{n:03}"), "2024-02-01T00:00:00Z", r#"{"a":1}"#))
        .collect();
    ingest(&writer, &scope, &lines).await?;
    let upkeep = world.database.client("sheaf_upkeep").await?;
    let whole = check_documents(&upkeep, i64::MAX).await?;
    assert_eq!(
        (whole.documents, whole.rows, whole.violations.len()),
        (450, 450, 0)
    );
    // The last of a page, the first of the next, and the very last: by number, which is the order of names here.
    let client = world.database.superuser().await?;
    let deleted = client
        .execute(
            "DELETE FROM sheaf.entity_jsonb d USING sheaf.entities n WHERE n.entity_id = d.entity_id
                AND n.external_id IN ('e001', 'e200', 'e201', 'e202', 'e450')",
            &[],
        )
        .await?;
    let broken = check_documents(&upkeep, i64::MAX).await?;
    assert_eq!((broken.documents, deleted), (445, 5));
    assert_eq!(
        broken.violations.len(),
        5,
        "{:?}",
        texts(&broken.violations)
    );
    Ok(())
}
