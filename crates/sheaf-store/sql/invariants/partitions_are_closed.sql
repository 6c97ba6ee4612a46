-- Purpose: partitions and the staging table have no policy, since COPY into a table with one is refused. So nobody may do
--   anything with one but sheaf_writer, and that only INSERT, or nothing while it is archived.
-- Parameters: none. Index: the catalogue's own. Locks: none.
WITH partition AS (
    SELECT c.oid, c.relname, c.relowner, c.relacl, c.relrowsecurity
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p')
        AND (c.relispartition OR c.relname = 'entity_values_ingest')
),
granted AS (
    SELECT p.relname, p.relowner, g.grantee, g.privilege_type, g.is_grantable
    FROM partition p CROSS JOIN LATERAL aclexplode(p.relacl) g
    UNION ALL
    SELECT p.relname, p.relowner, g.grantee, g.privilege_type || ' of column ' || a.attname, g.is_grantable
    FROM partition p
    JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid
    CROSS JOIN LATERAL aclexplode(a.attacl) g
)
SELECT format('partition %s grants %s to %s', relname, privilege_type, coalesce(r.rolname, 'PUBLIC'))
FROM granted LEFT JOIN pg_catalog.pg_roles r ON r.oid = grantee
WHERE grantee <> relowner
    AND (r.rolname IS DISTINCT FROM 'sheaf_writer' OR privilege_type <> 'INSERT' OR is_grantable)
UNION ALL
SELECT format('partition %s does not let sheaf_writer insert', relname)
FROM partition WHERE NOT has_table_privilege('sheaf_writer', oid, 'INSERT')
    AND relname NOT IN (SELECT a.partition_name FROM sheaf.partition_archives a)
UNION ALL
SELECT format('partition %s has row-level security, so that COPY into it is refused', relname) FROM partition WHERE relrowsecurity
LIMIT 100
