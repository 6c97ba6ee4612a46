-- Purpose: everything that a migration can make in schema sheaf, one sorted line each, so that two databases can be
--   compared. Left out are partitions, which come with the data, and what only the storage knows.
-- Parameters: none. Locks: none.
WITH relation AS (
    SELECT c.* FROM pg_catalog.pg_class c
    WHERE c.relnamespace = to_regnamespace('sheaf')
        AND c.oid NOT IN (SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass('sheaf.entity_events')) WHERE level > 0
            UNION ALL SELECT i.indexrelid FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class p ON p.oid = i.indrelid WHERE p.relispartition)
),
line (kind, object, definition) AS (
    SELECT 'schema', n.nspname::text, format('owner %s, grants %s', n.nspowner::regrole,
        (SELECT string_agg(g::text, ' ' ORDER BY g::text) FROM unnest(n.nspacl) g))
    FROM pg_catalog.pg_namespace n WHERE n.oid = to_regnamespace('sheaf')
    UNION ALL
    SELECT 'relation', r.relname, format('kind %s, owner %s, persistence %s, rls %s, forced %s, replica %s, by %s, options %s',
        r.relkind, r.relowner::regrole, r.relpersistence, r.relrowsecurity, r.relforcerowsecurity, r.relreplident,
        pg_get_partkeydef(r.oid), r.reloptions)
    FROM relation r
    UNION ALL
    SELECT 'column', r.relname || '.' || a.attname, format('place %s, type %s, not null %s, default %s, identity %s, generated %s, collation %s, storage %s, compression %s',
        row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression)
    FROM relation r
    JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL
    SELECT 'constraint', r.relname || '.' || k.conname, format('%s, validated %s', pg_get_constraintdef(k.oid), k.convalidated)
    FROM relation r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
    UNION ALL
    SELECT 'index', r.relname, format('%s, valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid)
    FROM relation r JOIN pg_catalog.pg_index i ON i.indexrelid = r.oid
    UNION ALL
    SELECT 'view', r.relname, pg_get_viewdef(r.oid) FROM relation r WHERE r.relkind IN ('v', 'm')
    UNION ALL
    SELECT 'sequence', r.relname, format('type %s from %s by %s between %s and %s, cycles %s, cache %s, of %s', s.seqtypid::regtype,
        s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle, s.seqcache,
        (SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass))
    FROM relation r JOIN pg_catalog.pg_sequence s ON s.seqrelid = r.oid
    UNION ALL
    SELECT 'policy', p.tablename || '.' || p.policyname, format('%s for %s to %s using %s check %s', p.permissive, p.cmd, p.roles, p.qual, p.with_check)
    FROM pg_catalog.pg_policies p WHERE p.schemaname = 'sheaf'
    UNION ALL
    SELECT 'trigger', r.relname || '.' || t.tgname, pg_get_triggerdef(t.oid)
    FROM relation r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, format('owner %s: %s', p.proowner::regrole,
        CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END)
    FROM pg_catalog.pg_proc p WHERE p.pronamespace = to_regnamespace('sheaf')
    UNION ALL
    SELECT 'grant', r.relname, format('%s by %s to %s, grantable %s', g.privilege_type, g.grantor::regrole, g.grantee::regrole, g.is_grantable)
    FROM relation r CROSS JOIN LATERAL aclexplode(coalesce(r.relacl,
        acldefault(CASE r.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, r.relowner))) g
    WHERE r.relkind <> 'i' AND r.relkind <> 'I'
    UNION ALL
    SELECT 'grant', r.relname || '.' || a.attname, format('%s by %s to %s, grantable %s', g.privilege_type, g.grantor::regrole, g.grantee::regrole, g.is_grantable)
    FROM relation r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid CROSS JOIN LATERAL aclexplode(a.attacl) g
    UNION ALL
    SELECT 'grant', p.oid::regprocedure::text, format('%s by %s to %s, grantable %s', g.privilege_type, g.grantor::regrole, g.grantee::regrole, g.is_grantable)
    FROM pg_catalog.pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
    WHERE p.pronamespace = to_regnamespace('sheaf')
    UNION ALL
    SELECT 'default grant', d.defaclobjtype::text, format('%s for %s', d.defaclacl, d.defaclrole::regrole)
    FROM pg_catalog.pg_default_acl d
    UNION ALL
    SELECT 'type', t.typname::text, format('kind %s, owner %s, base %s', t.typtype, t.typowner::regrole, t.typbasetype::regtype)
    FROM pg_catalog.pg_type t WHERE t.typnamespace = to_regnamespace('sheaf') AND t.typtype IN ('d', 'e', 'r')
    UNION ALL
    SELECT 'comment', o.type || ' ' || o.identity, d.description
    FROM pg_catalog.pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o
    WHERE o.schema = 'sheaf' OR o.identity LIKE 'sheaf.%' OR o.identity LIKE '% on sheaf.%'
)
SELECT concat_ws(' ', kind, object || ':', definition) AS described
FROM line
WHERE NOT (kind = 'comment' AND object ~ '^(table|index) sheaf\.entity_events_\d')
ORDER BY 1
