-- Purpose: tables that could show or tell one tenant anything of another. Every table of the schema holds tenants' rows,
--   but for those that are named here; a unique key that does not begin with the tenant answers for all tenants.
--   tenants_name_key does: only administrators create tenants.
-- Parameters: none. Index: the catalogue's own. Locks: none.
WITH
-- Partitions and the staging table are not asked: they are closed instead.
every_table AS (
    SELECT c.oid, c.relname::text AS name, c.relrowsecurity AND c.relforcerowsecurity AS is_forced,
        c.relname IN ('settings', 'admin_keys', 'schema_version', 'partition_intervals', 'detached_partitions', 'bucket_writers',
            'staging_epochs', 'staging_canary', 'replication_heartbeat', 'change_slots', 'change_sinks',
            'iceberg_tables', 'iceberg_namespace_properties', 'lake_positions', 'dead_letters', 'dead_letter_actions',
            'history_boundaries', 'partition_archives', 'reconciled_ranges', 'reconciled_files', 'reconcile_runs') AS is_shared,
        EXISTS (SELECT FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.atttypid = 'bigint'::regtype AND a.attnotnull) AS has_tenant
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
        AND c.relname <> 'entity_values_ingest'
),
tenant_table AS (
    SELECT oid, name, is_forced FROM every_table WHERE NOT is_shared
),
-- Policies for everybody bind sheaf_app as well.
app_policy AS (
    SELECT p.tablename::text AS name, p.policyname,
        p.permissive = 'PERMISSIVE' AND p.cmd = 'ALL'
            AND p.qual = '(tenant_id = ( SELECT sheaf.current_tenant() AS current_tenant))' AND p.with_check = p.qual AS is_tenant_only
    FROM pg_catalog.pg_policies p
    WHERE p.schemaname = 'sheaf' AND p.roles && ARRAY['sheaf_app', 'public']::name[]
)
SELECT format('table %s has no column tenant_id bigint not null and is not known to be shared', name)
FROM every_table WHERE NOT has_tenant AND NOT is_shared
UNION ALL
SELECT format('table %s is listed as shared and has a tenant_id', name) FROM every_table WHERE has_tenant AND is_shared
UNION ALL
SELECT format('table %s does not force row-level security', name) FROM tenant_table WHERE NOT is_forced
UNION ALL
SELECT format('table %s has no policy that shows sheaf_app its tenant', t.name)
FROM tenant_table t WHERE NOT EXISTS (SELECT FROM app_policy p WHERE p.name = t.name AND p.is_tenant_only)
UNION ALL
SELECT format('policy %s of table %s is another than the tenant''s', policyname, name) FROM app_policy WHERE NOT is_tenant_only
UNION ALL
SELECT format('unique index %s of table %s does not begin with tenant_id', i.indexrelid::regclass, t.name)
FROM tenant_table t
JOIN pg_catalog.pg_index i ON i.indrelid = t.oid AND i.indisunique
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
WHERE a.attname IS DISTINCT FROM 'tenant_id' AND c.relname <> 'tenants_name_key'
LIMIT 100
