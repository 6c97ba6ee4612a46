-- Purpose: tables, views, sequences, columns and functions that lack a comment. Left out are what another object
--   describes: the columns of a partition, and the sequence of an identity column.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT format('%s has no comment', pg_catalog.pg_describe_object('pg_class'::regclass, c.oid, 0))
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND obj_description(c.oid, 'pg_class') IS NULL
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i' AND c.relkind = 'S')
UNION ALL
SELECT format('%s has no comment', pg_catalog.pg_describe_object('pg_class'::regclass, c.oid, a.attnum))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'sheaf'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
UNION ALL
SELECT format('%s has no comment', pg_catalog.pg_describe_object('pg_proc'::regclass, p.oid, 0))
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
LIMIT 100
