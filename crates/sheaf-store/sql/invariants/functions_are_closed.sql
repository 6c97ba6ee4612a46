-- Purpose: functions that anybody may call; and functions that run as their owner and find names through the caller's
--   search path, which lets the caller put his own in their place.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT format('function %s may be called by PUBLIC', p.oid::regprocedure)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace
    AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g WHERE g.grantee = 0)
UNION ALL
SELECT format('function %s runs as its owner with the caller''s search path', p.oid::regprocedure)
FROM pg_catalog.pg_proc p
WHERE p.pronamespace = 'sheaf'::regnamespace AND p.prosecdef
    AND NOT coalesce(p.proconfig @> ARRAY['search_path=""'], false)
LIMIT 100
