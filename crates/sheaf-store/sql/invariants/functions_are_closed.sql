-- Purpose: functions that anybody may call; functions of another owner, who could change what they do; and functions that
--   run as their owner, or that those call, and find names through the caller's search path or in his temporary schema,
--   which is searched first for tables and types unless it is named. Either lets the caller put his own in their place.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT format('function %s may be called by PUBLIC', p.oid::regprocedure)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace
    AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g WHERE g.grantee = 0)
UNION ALL
SELECT format('function %s belongs to %s', p.oid::regprocedure, p.proowner::regrole)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace AND p.proowner <> 'sheaf_owner'::regrole
UNION ALL
SELECT format('function %s runs as its owner with another search path than pg_catalog, pg_temp', p.oid::regprocedure)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace AND p.prosecdef
    AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)
UNION ALL
SELECT format('function %s has another search path than pg_catalog, pg_temp', p.oid::regprocedure)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace AND NOT p.prosecdef
    AND EXISTS (SELECT FROM unnest(p.proconfig) AS s (setting)
        WHERE s.setting LIKE 'search_path=%' AND s.setting <> 'search_path=pg_catalog, pg_temp')
LIMIT 100
